"""A producer that is too fast, where its transport has a credit to withhold: it waits for its answer.

Over HTTP, and for a single call, the answer is 429, and the client waits. A WebSocket, and a call that
publishes many, carry requests one behind the other, and later ones would pass one that is refused: so the
request waits at the edge, and its answer with it. What may be unanswered is the producer's credit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from edge.slowing import TICK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.errors import RequestError
    from edge.slowing import Slowing

HELD_BACK_S_MAX: Final = 60.0
"""Longest that one request waits: longer than any kind of ours holds its producer back."""
_TOO_FAST: Final = 429


async def wait_for_credit(
    refused: RequestError, slowing: Slowing, key: bytes, *, until_s: float, may_wait: Callable[[], bool]
) -> None:
    """Wait until a request that was refused for its pace may be tried again.

    Args:
        refused: why it was not done; its ``Retry-After`` is waited for at least.
        slowing: which streams' producers are held back.
        key: the request's stream.
        until_s: how long it may be held back, by the loop's clock.
        may_wait: whether it still may be; asked again and again.

    Raises:
        RequestError: ``refused``, if it is of another kind, or may be held back no longer.
    """
    if refused.status != _TOO_FAST:
        raise refused
    loop = asyncio.get_running_loop()
    free_s = loop.time() + int(refused.headers.get("retry-after", "0"))
    while may_wait() and max(free_s, loop.time()) <= until_s:
        if loop.time() >= free_s and slowing.of(key) is None:
            return
        await asyncio.sleep(TICK_S)  # so often it is decided anew who is slowed
    raise refused
