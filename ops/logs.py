"""How a process of ours logs: JSON for machines, lines for a terminal; no variable of a frame, no secret.

Tracebacks are plain: the ones that show variables would print the password of a connection that failed. And
what looks like a secret is masked in all of it, as an agent's own error may quote what it was given.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO, cast

import orjson
import structlog

from ops.stderr import StandardError
from schemas.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from structlog.typing import EventDict, Processor


def configure_logs() -> None:
    """Log to standard error from now on, as far as it can be written; once, by a process's own entry point.

    What libraries say by Python's ``logging``, as asyncio and uvicorn do, is said as ours is, from warnings
    on: a line of another form would be found by no runbook. What Faust tells of is told by us.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            _renderer(),
        ],
        # What is no news for an operator, as that an outage goes on, is said by each who asks again.
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", StandardError())),
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_OfLibraries()])


class _OfLibraries(logging.Handler):
    """Says as a line of ours what a library says by the standard library's way of logging."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging. A logger with a handler of its own sees to itself: Faust's have a silent one."""
        if not logging.getLogger(record.name).handlers:
            log = structlog.get_logger()
            log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _renderer() -> Processor:
    if sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer(serializer=_json)


def _without_secrets(_logger: object, _method: str, fields: EventDict) -> EventDict:
    return {name: _masked(value) for name, value in fields.items()}


def _masked(value: object) -> object:
    if isinstance(value, str):
        return redacted(value)
    if type(value) in (list, tuple):
        return [_masked(each) for each in cast("Iterable[object]", value)]
    if type(value) is dict:
        return {name: _masked(each) for name, each in value.items()}
    return value if value is None or isinstance(value, int | float) else redacted(str(value))


def _json(fields: object, **_: object) -> str:
    return orjson.dumps(fields).decode()
