"""Where log lines go and how they look, set up once when ``hedgeserve serve`` starts."""

import logging
import os
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog


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


def configure_logging(out: TextIO, *, as_json: bool, level: str) -> None:
    """Write our log lines, and those of the libraries from warnings up, to ``out`` as text or as JSON.

    Colours only where ``out`` is a terminal and ``NO_COLOR`` is not set.
    """
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
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
