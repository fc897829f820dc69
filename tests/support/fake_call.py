"""A gRPC call in memory, whose client reads when it is told to."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc
from grpc import StatusCode

from schemas.proto.sluicegate.v1.stream_pb2 import Event, WatchResponse


class FakeCall:
    """A call whose client reads when it is told to."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.code: StatusCode | None = None
        self.metadata: tuple[tuple[str, str | bytes], ...] = ()
        self.reads = asyncio.Event()
        self.reads.set()
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.asked = 0
        """Messages that were asked for."""
        self.address = "ipv4:127.0.0.1:1"

    async def read(self) -> Any:
        self.asked += 1
        return await self.requests.get()

    async def send_initial_metadata(self, metadata: Any) -> None:
        assert metadata == ()

    async def write(self, message: bytes) -> None:
        await self.reads.wait()
        self.messages.append(message)

    async def abort(self, code: StatusCode, details: str, trailing_metadata: Any) -> NoReturn:
        self.code = code
        raise grpc.aio.AbortError(details)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self.metadata

    def peer(self) -> str:
        return self.address

    @property
    def said(self) -> list[WatchResponse]:
        return [WatchResponse.FromString(message) for message in self.messages]

    @property
    def events(self) -> list[Event]:
        return [event for response in self.said for event in response.events]

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]
