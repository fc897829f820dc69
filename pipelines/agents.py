"""An agent's function that ends, or fails with no event in hand: nobody would read its topic, in silence."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

import structlog

from connectors.kafka.isolation import place_of
from pipelines.errors import AgentEnded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = structlog.get_logger(__name__)

_AGAIN_S: Final = 1.0
_RETURNED: Final = (
    "Have it iterate over its stream for as long as the worker runs: a `return` or `break` ends it for all "
    "events that follow. To leave one out, `continue`."
)
_RAISED: Final = (
    "Mend what it does before its first event. What may pass there (a service that is away) is waited for "
    "if its error has `transient = True`."
)


def endless(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Return an agent's function that raises AgentEnded where it would return."""

    @wraps(fun)
    async def awaited(*args: Any) -> None:
        await fun(*args)
        raise AgentEnded(f"agent {fun.__name__} ended: its function returned", remedy=_RETURNED)

    @wraps(fun)
    async def iterated(*args: Any) -> AsyncIterator[Any]:
        async with aclosing(fun(*args)) as values:  # what is closed is closed down to its stream
            async for value in values:
                yield value
        raise AgentEnded(f"agent {fun.__name__} ended: its function returned", remedy=_RETURNED)

    if isasyncgenfunction(fun):
        return iterated
    return awaited if iscoroutinefunction(fun) else fun


async def failed_outside(name: str, error: BaseException, stop_for: Callable[..., object]) -> None:
    """Have the worker stop for an agent that raised with no event in hand; what may pass is waited for.

    Returns after a pause: Faust begins such an agent anew at once, in a worker that stops, too.
    """
    if getattr(error, "transient", False):
        log.warning("agent waits for what may pass, before its first event", agent=name, cause=str(error))
    elif getattr(error, "fatal", False):
        stop_for(error, {"agent": name, "raised_at": place_of(error)})
    else:
        where = f", at {place}" if (place := place_of(error)) else ""
        said = f"agent {name} failed with no event in hand{where}: {type(error).__name__}: {error}"
        ended = AgentEnded(said, remedy=_RAISED)
        ended.__cause__ = error
        stop_for(ended)
    await asyncio.sleep(_AGAIN_S)
