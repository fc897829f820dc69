"""An edge with gRPC, and clients of it by generated code, as a user of the .proto has them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import orjson
import pytest

from schemas.proto.sluicegate.v1.logs_pb2_grpc import LogStreamStub
from schemas.proto.sluicegate.v1.stream_pb2 import Event, Problem, WatchRequest, WatchResponse
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.edge_process import EdgeProcess
    from tests.support.stage import Stage

TIMEOUT_S = 60.0
"""Longest that a call may take: generous, for the machine may be busy."""


@pytest.fixture
def edge_with_grpc(stage: Stage) -> Iterator[Callable[..., GrpcEdge]]:
    """Make an edge, or take the one that has the same options already."""
    made: list[GrpcEdge] = []

    def make(**options: Any) -> GrpcEdge:
        made.append(GrpcEdge(stage.edge(**options)))
        return made[-1]

    yield make
    for edge in made:
        edge.channel.close()


class GrpcEdge:
    """An edge in a process of its own, and a channel to it."""

    def __init__(self, process: EdgeProcess) -> None:
        self.process = process
        self.channel = grpc.insecure_channel(self.address, options=[("grpc.enable_retries", 0)])
        self.streams = StreamServiceStub(self.channel)
        self.lines = LogStreamStub(self.channel)

    @property
    def address(self) -> str:
        """Host and port."""
        return self.process.grpc_address

    @property
    def open_watches(self) -> int:
        """As the edge counts them."""
        return int(self.process.metric('sluicegate_edge_connections{transport="grpc"}'))

    def watch(self, stream_id: str, cursor: str = "", *, tenant: str = "") -> Iterator[WatchResponse]:
        """Begin to watch; a call."""
        request = WatchRequest(tenant=tenant, stream_id=stream_id, cursor=cursor)
        found: Iterator[WatchResponse] = self.streams.Watch(request, timeout=TIMEOUT_S)
        return found

    def read(
        self, stream_id: str, cursor: str = "", *, until: Callable[[Watched], bool] | None = None
    ) -> Watched:
        """Watch until the call ends, or ``until`` holds after an event."""
        call = self.watch(stream_id, cursor)
        return read_call(call, until)


def follow(address: str, stream_id: str, seen: list[int], trouble: list[str]) -> None:
    """A client that comes back with its cursor until the stream has ended; notes each seq that it sees."""
    cursor = ""
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=own) as channel:
        while True:
            asked = WatchRequest(stream_id=stream_id, cursor=cursor)
            watched = read_call(StreamServiceStub(channel).Watch(asked, wait_for_ready=True))
            seen += watched.seqs
            cursor = watched.cursors[-1] if watched.events else cursor
            if watched.code is grpc.StatusCode.OK:
                return
            trouble.append(f"{watched.code}: {watched.details}")
            time.sleep(0.05)


@dataclass
class Watched:
    """What one call brought."""

    events: list[Event] = field(default_factory=list)
    notices: list[WatchResponse] = field(default_factory=list)
    """Responses that say something about the call."""
    beats: int = 0
    code: grpc.StatusCode | None = None
    """None: we left."""
    details: str = ""
    problem: Problem = field(default_factory=Problem)
    pushback_ms: int = -1

    @property
    def seqs(self) -> list[int]:
        """Seq of each event."""
        return [event.seq for event in self.events]

    @property
    def cursors(self) -> list[str]:
        """Cursor of each event."""
        return [event.cursor for event in self.events]

    @property
    def shown(self) -> list[dict[str, Any]]:
        """Each event as JSON."""
        return [orjson.loads(event.json) for event in self.events]


def read_call(call: Any, until: Callable[[Watched], bool] | None = None) -> Watched:
    """Read a call of ``Watch`` to its end, or until ``until`` holds, and then leave."""
    watched = Watched()
    try:
        for response in call:
            if response.WhichOneof("notice"):
                watched.notices.append(response)
            elif not response.events:
                watched.beats += 1
            watched.events += response.events
            if until is not None and until(watched):
                call.cancel()
                return watched
        watched.code = call.code()
    except grpc.RpcError as error:
        took_failure(watched, error)
    return watched


def took_failure(watched: Watched, error: Any) -> None:
    """Note how a call ended that did not end well."""
    watched.code, watched.details = error.code(), error.details()
    for key, value in error.trailing_metadata() or ():
        if key == "sluicegate-problem-bin":
            watched.problem = Problem.FromString(value)
        if key == "grpc-retry-pushback-ms":
            watched.pushback_ms = int(value)


def failure_of(call: Callable[[], object]) -> Watched:
    """Do what must fail, and give how."""
    watched = Watched()
    try:
        call()
    except grpc.RpcError as error:
        took_failure(watched, error)
        return watched
    raise AssertionError("the call went well")
