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
from structlog.stdlib import ProcessorFormatter

from ops.stderr import StandardError
from schemas.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from structlog.typing import EventDict, Processor


def configure_logs() -> None:
    """Log to standard error from now on, as far as it can be written; once, by a process's own entry point.

    Lines of libraries that log by Python's ``logging``, as Faust, are written as ours are, from warnings on.
    """
    stderr = cast("TextIO", StandardError())
    begun: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ended: list[Processor] = [structlog.processors.format_exc_info, _without_secrets, _renderer()]
    structlog.configure(
        processors=begun + ended,
        # What is no news for an operator, as that an outage goes on, is said by each who asks again.
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stderr),
    )
    others = logging.StreamHandler(stderr)
    others.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=begun, processors=[ProcessorFormatter.remove_processors_meta, *ended]
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[others])


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
