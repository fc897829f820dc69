"""Watches of a stream over calls in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge.core import EdgeCore
from edge.frame import declared
from edge.grpc_call import CallConnection, CallTransport, LinesConnection, WatchConnection
from edge.grpc_messages import LogEncoder, WatchEncoder
from edge.history import SharedHistory
from edge.join import Joined
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from tests.support.fake_call import FakeCall
from tests.support.fake_transport import LIMITS

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from edge.frame import Frame


class Desk:
    """A core over a log in memory, and watches of stream ``s``."""

    def __init__(self, **options: Any) -> None:
        self.core = EdgeCore(EdgeOptions(**options), PayloadCodec(LocalSchemas()), topic_version=1)
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        self.core.start()

    def watch(self, **limits: int) -> tuple[FakeCall, CallConnection, asyncio.Task[None]]:
        joined = self.core.joiner.join("default", "s", None, "test")
        assert isinstance(joined, Joined)
        encoder = WatchEncoder(self.core.json)
        connection = WatchConnection(self.core, joined, encoder, replace(LIMITS, **limits))
        return self._carried(connection)

    def lines(self) -> tuple[FakeCall, CallConnection, asyncio.Task[None]]:
        joined = self.core.joiner.join("default", "s", None, "test")
        assert isinstance(joined, Joined)
        return self._carried(LinesConnection(self.core, joined, LogEncoder(self.core.json), LIMITS))

    def _carried(self, connection: CallConnection) -> tuple[FakeCall, CallConnection, asyncio.Task[None]]:
        call = FakeCall()
        return call, connection, asyncio.create_task(CallTransport(call, connection).carry())

    def emit(self, *seqs: int, type_name: str = "log") -> None:
        self.core.hub.publish([self._made(seq, type_name) for seq in seqs])

    def _made(self, seq: int, type_name: str) -> tuple[bytes, Frame]:
        fields = {"seq": seq, "line": str(seq)} if type_name != "end" else {"seq": seq, "reason": "completed"}

        def make(offset: int) -> Frame:
            return declared(type_name, fields, cursor=f"c{seq}", seq=seq, offset=offset)

        return b"default/s", self.log.append(b"default/s", make)


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


async def until(done: Any) -> None:
    while not done():  # noqa: ASYNC110  # nobody tells what a connection writes
        await asyncio.sleep(0.005)
