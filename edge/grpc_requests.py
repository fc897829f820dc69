"""How much is held of what clients begin to say over gRPC.

gRPC puts a message together before it hands it over, and once it was asked for one its client may send all
of it: a thousand calls of one connection, each a byte short of a mebibyte, would hold a gigabyte. What it was
not asked for stays within the call's first window, 64 KiB. So each method asks by itself (over the wire a
single request is a stream of one), once it is known who calls and there is a place to read it at.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakValueDictionary

import grpc
from google.protobuf.message import DecodeError, Message

from edge.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edge.grpc_call import Call

M = TypeVar("M", bound=Message)
_CONNECTIONS_MIN: Final = 4
"""So many connections it takes to have all places: one client's unfinished requests shut out nobody else."""
_CUT_OFF_S: Final = 0.1
"""gRPC itself ends a call whose message is too large: no message comes, and a moment later the call's end."""


class Requests:
    """Places at which requests are read, each for so long and no longer."""

    def __init__(self, places: int, read_ms_max: int) -> None:
        """``places``: messages that are read at a time, 1 MiB each at most."""
        self._places = asyncio.Semaphore(places)
        self._share = max(places // _CONNECTIONS_MIN, 1)
        self._of_connections: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """By the client's address; gone with the last of its calls that reads or waits."""
        self._read_ms_max = read_ms_max

    async def one(self, call: Call) -> bytes:
        """Read the one request of a call. Raises RequestError: as ``next``, and 400 if there is none."""
        message = await self.next(call)
        if message is None:
            await asyncio.sleep(_CUT_OFF_S)
            raise RequestError(
                400, "No request", "the call brought no message", remedy="Send one message with the call."
            )
        return message

    async def next(self, call: Call) -> bytes | None:
        """Read the next message of a call; None if there is none any more.

        Raises:
            RequestError: 503, there was no place for it; 408, it did not come in its time.
        """
        async with self._place(call.peer()):
            try:
                async with asyncio.timeout(self._read_ms_max / 1_000):
                    message = await call.read()
            except TimeoutError:
                raise RequestError(
                    408,
                    "Request too slow",
                    f"the request did not come within {self._read_ms_max} ms; nothing was done",
                    remedy="Call again.",
                ) from None
        return None if message is grpc.aio.EOF else bytes(message)

    @asynccontextmanager
    async def _place(self, connection: str) -> AsyncIterator[None]:
        own = self._of_connections.setdefault(connection, asyncio.Semaphore(self._share))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._read_ms_max / 1_000):
                    await held.enter_async_context(own)
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise overloaded("too many requests are being read already") from None
            yield


def parsed(kind: type[M], data: bytes) -> M:
    """Give bytes as a message of a kind. Raises RequestError: 400."""
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise RequestError(
            400, "Not a message", f"the request is no {name}", remedy="Use the .proto of this edge."
        ) from None


def overloaded(detail: str) -> RequestError:
    """Make the error for a call that there is no room for now."""
    return RequestError(
        503,
        "Overloaded",
        f"{detail}; nothing was done",
        remedy="Call again, when the pushback says.",
        extra={"code": "overloaded"},
        headers={"retry-after": "1"},
    )
