"""Clients of each transport behind one small interface: the same scenarios are played over all of them.

A driver opens one stream and reads it as its transport's clients do; it hides how cursor, end and refusal are
said, and nothing else: what a client sees is what the server sent.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import grpc
import httpx2
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from edge.grpc_errors import PROBLEM_KEY
from schemas.proto.sluicegate.v1.stream_pb2 import Problem, WatchRequest
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.proto.sluicegate.v1.stream_pb2 import Event
    from tests.support.edge_process import EdgeProcess

TIMEOUT_S = 30.0
"""Longest that a client waits for the next event: generous, for the machine may be busy."""


@dataclass(frozen=True)
class Told:
    """One event as a client is shown it."""

    cursor: str
    """What it resumes after; never empty."""
    event: dict[str, Any]
    """Flat: ``type``, ``seq``, and the payload's fields under the names of its schema."""


class Reading(ABC):
    """One client on one stream; used by one thread."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.after_seq = -1
        """Of the event that it resumed after, if so."""
        self.outcome = ""
        """Why nothing more comes; empty while it is open. One of

        - ``ended``: the stream's end was told, and that there is nothing behind it
        - ``over``: the client had the end already: there is nothing more, ever
        - ``refused``: the cursor was refused; ``detail`` is the code
        - ``reconnect``: the edge sent the client away; ``detail`` is the reason
        - ``cut``: the connection broke
        """
        self.detail = ""
        self.retry_ms = 0
        """When a client that was sent away is to come back."""
        self.expiring = False
        """Whether it was told that its token ends."""

    @property
    def last_seq(self) -> int:
        """Seq of the last event that it was told, or that it resumed after; -1 if there is none."""
        return int(self.told[-1].event["seq"]) if self.told else self.after_seq

    def read(self, count: int) -> list[Told]:
        """Wait for so many more events; give fewer if nothing more comes. Fails after a long silence."""
        found: list[Told] = []
        while len(found) < count and not self.outcome:
            told = self._next()
            if told is not None:
                assert told.cursor, f"an event without a cursor: {told.event}"
                found.append(told)
                self.told.append(told)
        return found

    def read_out(self) -> list[Told]:
        """Wait until nothing more comes; give what came till then."""
        found = []
        while not self.outcome:
            found += self.read(1)
        return found

    @abstractmethod
    def _next(self) -> Told | None:
        """Wait for the next event; None if there is none, with ``outcome`` set. AssertionError on silence."""

    @abstractmethod
    def close(self) -> None:
        """Leave, as a client does that wants no more; again is nothing."""


class Driver(Protocol):
    """A transport."""

    name: str

    def open(self, stream_id: str, cursor: str = "", *, token: str = "", slow: bool = False) -> Reading:
        """Join a stream of the tenant ``default``; with a cursor behind the event that it came with.

        ``slow``: nothing is read ahead of who asks for it, but what kernel and library hold.
        """
        ...


class SseDriver:
    """Server-Sent Events, with the cursor in the header as a native client sends it."""

    name = "sse"

    def __init__(self, edge: EdgeProcess) -> None:
        self._url = edge.url

    def open(self, stream_id: str, cursor: str = "", *, token: str = "", slow: bool = False) -> Reading:
        """See Driver."""
        headers = bearer(token) | ({"last-event-id": cursor} if cursor else {})
        return _SseReading(f"{self._url}/v1/streams/{quote(stream_id)}/events", headers)


class _SseReading(Reading):
    def __init__(self, address: str, headers: dict[str, str]) -> None:
        super().__init__()
        self._client = httpx2.Client(trust_env=False, verify=False, timeout=TIMEOUT_S)
        request = self._client.build_request("GET", address, headers=headers)
        self._response = self._client.send(request, stream=True)
        self._blocks = self._split()
        if self._response.status_code == 204:
            self.outcome = "over"
        else:
            assert self._response.status_code == 200, self._response.read()

    def _split(self) -> Iterator[bytes]:
        left = b""
        for chunk in self._response.iter_raw():
            *blocks, left = (left + chunk).split(b"\n\n")
            yield from blocks

    def _next(self) -> Told | None:
        deadline = time.monotonic() + TIMEOUT_S
        try:
            for block in self._blocks:
                assert time.monotonic() < deadline, f"no event for {TIMEOUT_S} s"
                lines = [line.partition(b": ") for line in block.split(b"\n")]
                fields = {name.decode(): value.decode() for name, _, value in lines}
                if "data" in fields and (told := self._told(fields)):
                    return told
                if self.outcome:
                    return None
        except httpx2.ReadTimeout:
            raise AssertionError(f"no byte for {TIMEOUT_S} s") from None
        except httpx2.TransportError as error:
            self.outcome, self.detail = "cut", str(error)
            return None
        ended = bool(self.told) and self.told[-1].event["type"] == "end"
        self.outcome = self.outcome or ("ended" if ended else "cut")
        return None

    def _told(self, fields: dict[str, str]) -> Told | None:
        event = json.loads(fields["data"])
        if event["type"] == "refused":
            self.outcome, self.detail = "refused", event["code"]
        elif event["type"] == "reconnect":
            self.outcome, self.detail, self.retry_ms = "reconnect", event["reason"], event["retry_ms"]
        elif event["type"] == "expiring":
            self.expiring = event["expires_in_ms"] >= 0
        else:
            return Told(fields["id"], event)
        return None

    def close(self) -> None:
        """See Reading."""
        self._response.close()
        self._client.close()


class WebSocketDriver:
    """WebSocket, with one subscription on a connection of its own."""

    name = "websocket"

    def __init__(self, edge: EdgeProcess) -> None:
        self._url = edge.url.replace("http://", "ws://") + "/v1/ws"

    def open(self, stream_id: str, cursor: str = "", *, token: str = "", slow: bool = False) -> Reading:
        """See Driver."""
        return _WebSocketReading(self._url, {"stream": stream_id, "cursor": cursor}, token, slow=slow)


class _WebSocketReading(Reading):
    def __init__(self, address: str, asked: dict[str, str], token: str, *, slow: bool) -> None:
        super().__init__()
        self._socket: ClientConnection | None = None
        try:
            self._socket = connect(
                address,
                proxy=None,
                compression=None,
                open_timeout=TIMEOUT_S,
                additional_headers=bearer(token),
                # One that reads no further ahead than some bound does not see the server close.
                max_queue=1 if slow else None,
                max_size=None,
            ).__enter__()
        except InvalidStatus as error:
            if error.response.status_code != 503:
                raise
            self.outcome, self.retry_ms = "reconnect", 1_000 * int(error.response.headers["retry-after"])
            self.detail = json.loads(error.response.body)["detail"].rpartition(": ")[2]
            return
        assert self._message()["type"] == "connected"
        self._socket.send(json.dumps({"type": "subscribe", **asked}))
        answer = self._message()
        if answer["type"] == "refused":
            self.outcome, self.detail = "refused", answer["code"]
        elif answer["type"] == "ended":
            self.outcome = "over"
        else:
            assert answer["type"] == "subscribed", answer

    def _message(self) -> dict[str, Any]:
        assert self._socket is not None
        try:
            message: dict[str, Any] = json.loads(self._socket.recv(TIMEOUT_S))
        except TimeoutError:
            raise AssertionError(f"no message for {TIMEOUT_S} s") from None
        return message

    def _next(self) -> Told | None:
        try:
            message = self._message()
        except ConnectionClosed as error:
            self.outcome, self.detail = "cut", str(error)
            return None
        if message["type"] == "event":
            return Told(message["cursor"], message["event"])
        if message["type"] == "reconnect":
            self.outcome, self.detail = "reconnect", message["reason"]
            self.retry_ms = message["retry_ms"]
        elif message["type"] == "expiring":
            self.expiring = message["expires_in_ms"] >= 0
        else:
            assert message["type"] == "ended", message
            self.outcome = "ended"
        return None

    def close(self) -> None:
        """See Reading."""
        if self._socket is not None:
            self._socket.close()


class GrpcDriver:
    """gRPC, by the code that is generated of the .proto."""

    name = "grpc"

    def __init__(self, edge: EdgeProcess) -> None:
        self._address = edge.grpc_address

    def open(self, stream_id: str, cursor: str = "", *, token: str = "", slow: bool = False) -> Reading:
        """See Driver."""
        return _GrpcReading(self._address, WatchRequest(stream_id=stream_id, cursor=cursor), token, slow=slow)


class _GrpcReading(Reading):
    def __init__(self, address: str, asked: WatchRequest, token: str, *, slow: bool) -> None:
        super().__init__()
        # Of its own, or clients of an edge that was killed share its backoff.
        own = [("grpc.use_local_subchannel_pool", 1)]
        if slow:  # the library takes megabytes ahead of who reads, if it may
            own += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
        self._channel = grpc.insecure_channel(address, options=own)
        # A call has no time-out a message. It is long enough for a scenario, and ends a silence.
        self._call = StreamServiceStub(self._channel).Watch(
            asked, timeout=4 * TIMEOUT_S, metadata=list(bearer(token).items())
        )
        self._came: deque[Event] = deque()

    def _next(self) -> Told | None:
        try:
            while not self._came:
                response = next(self._call)
                self._came.extend(response.events)
                if response.HasField("refused"):
                    self.outcome, self.detail = "refused", response.refused.code
                if response.HasField("reconnect"):
                    self.outcome, self.detail = "reconnect", response.reconnect.reason
                    self.retry_ms = response.reconnect.retry_ms
                if response.HasField("expiring"):
                    self.expiring = True
        except StopIteration:
            self.outcome = "ended" if self.told else "over"
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise AssertionError("no event for a long time") from None
            if not self.outcome:
                self._ended_by(error)
        if not self._came:
            return None
        event = self._came.popleft()
        return Told(event.cursor, json.loads(event.json))

    def _ended_by(self, error: grpc.RpcError) -> None:
        """A call that is not taken ends with a problem that says so; one that breaks has none."""
        found = [value for key, value in error.trailing_metadata() or () if key == PROBLEM_KEY]
        if found and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            problem = Problem.FromString(found[0])
            self.outcome, self.detail, self.retry_ms = "reconnect", problem.code, problem.retry_ms
        else:
            self.outcome, self.detail = "cut", str(error)

    def close(self) -> None:
        """See Reading."""
        self._call.cancel()
        self._channel.close()


def bearer(token: str) -> dict[str, str]:
    """How a token is brought along; nothing if there is none."""
    return {"authorization": f"Bearer {token}"} if token else {}


DRIVERS: dict[str, type[SseDriver | WebSocketDriver | GrpcDriver]] = {
    driver.name: driver for driver in (SseDriver, WebSocketDriver, GrpcDriver)
}
"""By name; each is made with the edge that it is to connect to."""
