"""Where log lines go and how they look, set up once when ``hedgeserve serve`` starts."""

import logging
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO, cast

import structlog

from hedgeserve.redaction import redact

# The levels of RFC 5424, by the names that structlog gives them.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}


class Steady:
    """A stream that cannot fail: when its reader has gone away or its disk is full, what is written is dropped.

    A log line must never end a service, and least of all keep it from taking its VMs down.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            self._out.write(text)
        except (OSError, ValueError):
            self._silence()
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._out.flush()
        except (OSError, ValueError):
            self._silence()

    def isatty(self) -> bool:
        """Whether a terminal is behind it."""
        return self._out.isatty()

    def _silence(self) -> None:
        # What is still in the buffer would fail again at the interpreter's end: its file becomes the null device.
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._out.fileno())
            os.close(null)


def is_the_journal(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether what is written there goes to systemd's journal: ``$JOURNAL_STREAM`` names its device and inode."""
    told = environ.get("JOURNAL_STREAM", "")
    try:
        here = os.fstat(out.fileno())
    except (AttributeError, OSError, ValueError):  # no file behind it
        return False
    return told == f"{here.st_dev}:{here.st_ino}"


def configure_logging(out: TextIO, *, as_json: bool, level: str, environ: Mapping[str, str] | None = None) -> None:
    """Write our log lines, and those of the libraries from warnings up, to ``out`` as text or as JSON.

    Secrets are taken out of every line, tracebacks included. Colours only where ``out`` is a terminal and
    ``NO_COLOR`` is not set; with a priority before each line (RFC 5424) where it is systemd's journal.
    """
    in_journal = is_the_journal(out, os.environ if environ is None else environ)
    out = cast(TextIO, Steady(out))
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        render: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colours = out.isatty() and not os.environ.get("NO_COLOR")
        render = [
            structlog.dev.ConsoleRenderer(
                colors=colours, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    finish = _Finish(in_journal)
    structlog.configure(
        processors=[*shared, *render, finish],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render, finish],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    sys.excepthook = _tell_of_the_end


class _Finish:
    """The last step of each line: no secrets in it, and for the journal the priority before it."""

    def __init__(self, in_journal: bool) -> None:
        self._in_journal = in_journal

    def __call__(self, logger: object, method: str, rendered: object) -> str:
        line = redact(str(rendered))
        if not self._in_journal:
            return line
        # The journal takes each line of a traceback for an entry of its own.
        before = f"<{_PRIORITIES.get(method, 6)}>"
        return "\n".join(before + part for part in line.split("\n"))


def _tell_of_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python itself would say of an exception that nobody has caught, without secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
