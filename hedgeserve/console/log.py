"""Where log lines go and how they look, set up once when ``hedgeserve serve`` starts."""

import logging
import os
from typing import Any, TextIO

import structlog


def configure_logging(out: TextIO, *, as_json: bool, level: str) -> None:
    """Write our log lines, and those of the libraries from warnings up, to ``out`` as text or as JSON.

    Colours only where ``out`` is a terminal and ``NO_COLOR`` is not set.
    """
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
        render = [structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0)]
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
