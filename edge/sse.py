"""Server-Sent Events: frames as text, encoded once for all who are given them, and the connection."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import orjson

from edge.connection import Connection, ConnectionLimits, Leaving
from edge.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edge.core import EdgeCore
    from edge.encode import FrameJson
    from edge.errors import Forbidden
    from edge.frame import Frame
    from edge.join import Joined

HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back until its buffer is full
    (b"x-content-type-options", b"nosniff"),
)
HEARTBEAT: Final = b":\n\n"
# A native client repeats this as its Last-Event-ID, is answered 204, and that stops it for good.
REFUSED_ID: Final = "refused"


class SseEncoder:
    """Makes the bytes of frames; there is no ``event:`` line, for a native client's onmessage gets all."""

    def __init__(self, frame_json: FrameJson, *, chunked: bool = False) -> None:
        self._json = frame_json
        self.name = "sse-chunked" if chunked else "sse"
        self.stateful = False
        self._framed = chunk if chunked else bytes

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """See Encoder."""
        return self._framed(b"".join([frame.sse or self._encode(frame) for frame in frames]))

    def framed(self, text: bytes) -> bytes:
        """Give text that is no event as it goes over the wire."""
        return self._framed(text)

    @property
    def last(self) -> bytes:
        """What ends the answer."""
        return b"0\r\n\r\n" if self._framed is chunk else b""

    def _encode(self, frame: Frame) -> bytes:
        frame.sse = b"id: %b\ndata: %b\n\n" % (frame.cursor.encode("ascii"), self._json.json(frame))
        return frame.sse


class SseConnection(Connection):
    """One stream to one client, from the head of the answer to its end."""

    transport_name = "sse"
    __slots__ = ("_delivery", "_encoder", "_head")

    def __init__(
        self,
        core: EdgeCore,
        joined: Joined,
        limits: ConnectionLimits,
        *,
        head: Sequence[tuple[bytes, bytes]],
        chunked: bool,
    ) -> None:
        super().__init__(core, joined.subscriber.name, limits)
        self._encoder = core.sse_chunked if chunked else core.sse
        self._delivery = Delivery(core, joined, self._encoder, self)
        self._head = head
        self.tenant = joined.subscriber.channel.tenant
        self.authorise(joined.identity)

    @property
    def deliveries(self) -> Collection[Delivery]:
        """See Connection."""
        return (self._delivery,)

    def begin(self) -> None:
        """See Connection."""
        head = head_of(self._head, chunked=bool(self._encoder.last))
        self._head = ()
        self.write(head + self._encoder.framed(preamble(self.retry_ms)))
        self._delivery.start()

    def keep_to(self, limits: ConnectionLimits, since_s: float) -> None:
        """See Outlet. A client that is cut off comes back by the last hint that it was given."""
        other = limits.retry_ms != self.retry_ms
        super().keep_to(limits, since_s)
        if other and not self.paused:
            self.write(self._encoder.framed(preamble(limits.retry_ms)))

    def beat(self) -> None:
        """See Connection."""
        self.write(self._encoder.framed(HEARTBEAT))

    def say_goodbye(self, reason: Leaving) -> None:
        """See Connection."""
        self.write(self._encoder.framed(come_back(reason, jittered(self.retry_ms))) + self._encoder.last)

    def say_expiring(self, expires_in_ms: int) -> None:
        """See Connection."""
        self.write(self._encoder.framed(said({"type": "expiring", "expires_in_ms": expires_in_ms})))

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """See Outlet."""
        delivery.stop("refused")
        fields = {"type": "refused", "code": denied.code, "detail": str(denied), "remedy": denied.remedy}
        self.write(self._encoder.framed(said(fields, last_id=REFUSED_ID)) + self._encoder.last)
        self.finish("refused")

    def delivered_end(self, delivery: Delivery) -> None:
        """See Outlet."""
        delivery.stop()
        if self._encoder.last:
            self.write(self._encoder.last)
        self.finish("end")


def chunk(data: bytes) -> bytes:
    """Frame bytes as one chunk of HTTP/1.1 (RFC 9112, section 7.1): a cut connection is told from an end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def preamble(retry_ms: int) -> bytes:
    """What a connection starts with: the hint when to come back, and enough to flush the headers.

    Said again when another one holds.
    """
    return b"retry: %d\n\n" % jittered(retry_ms)


def come_back(reason: str, retry_ms: int) -> bytes:
    """Say that the edge closes now, and when the client is to come back."""
    said_so = said({"type": "reconnect", "reason": reason, "retry_ms": retry_ms})
    return b"retry: %d\n%b" % (retry_ms, said_so)


def said(fields: Mapping[str, object], *, last_id: str | None = None) -> bytes:
    """An event about the connection itself; without ``last_id`` the client keeps the cursor that it has."""
    id_line = b"" if last_id is None else b"id: %b\n" % last_id.encode("ascii")
    return b"%bdata: %b\n\n" % (id_line, orjson.dumps(dict(fields)))


def jittered(base_ms: int) -> int:
    """Spread a delay between one and two times its base, so that clients cut off together part ways."""
    return base_ms + int(random.random() * base_ms)  # noqa: S311  # nobody gains by guessing it


def head_of(headers: Sequence[tuple[bytes, bytes]], *, chunked: bool) -> bytes:
    """Make the head of an answer that is a stream; without chunks it ends with the connection."""
    lines = [b"HTTP/1.1 200 OK", *(b"%b: %b" % header for header in headers), b"connection: close"]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join([*lines, b"", b""])
