"""How a process of ours logs: JSON for machines, lines for a terminal, and never a variable of a frame."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import orjson
import structlog

from ops.stderr import StandardError


def configure_logs() -> None:
    """Log to standard error from now on, as far as it can be written; once, by a process's own entry point.

    Tracebacks are plain: the ones that show variables would print the password of a connection that
    failed.
    """
    last: list[structlog.typing.Processor]
    if sys.stderr.isatty():
        last = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        # What is no news for an operator, as that an outage goes on, is said by each who asks again.
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", StandardError())),
    )
    # Else a line of asyncio's or uvicorn's would be none of these, and no runbook would find it.
    logging.basicConfig(level=logging.WARNING, handlers=[_OfLibraries()])


class _OfLibraries(logging.Handler):
    """Says as a line of ours what a library says by the standard library's way of logging."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        log = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _json(fields: object, **_: object) -> str:
    return orjson.dumps(fields, default=str).decode()
