"""Frames as Server-Sent Events: each is encoded once, and joined once for all who stand at the same place."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.channel import Channel
    from edge.encode import FrameJson
    from edge.frame import Frame

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

    def __init__(self, frame_json: FrameJson) -> None:
        self._json = frame_json

    def ring_bytes(self, channel: Channel, frames: Sequence[Frame]) -> bytes:
        """Encode frames that came from a channel's ring: one result for all who stand at the same place."""
        for frame in frames:
            if frame.sse is None:
                frame.sse = self._encode(frame)
        return channel.joined(frames)

    def bytes_of(self, frames: Sequence[Frame]) -> bytes:
        """Encode frames of the past."""
        for frame in frames:
            if frame.sse is None:
                frame.sse = self._encode(frame)
        return b"".join(frame.sse for frame in frames if frame.sse is not None)

    def _encode(self, frame: Frame) -> bytes:
        return b"id: %b\ndata: %b\n\n" % (frame.cursor.encode("ascii"), self._json.json(frame))


def preamble(retry_ms: int) -> bytes:
    """What a connection starts with: the hint when to come back, and enough to flush the headers."""
    return b"retry: %d\n\n" % jittered(retry_ms)


def said(fields: Mapping[str, object], *, last_id: str | None = None) -> bytes:
    """An event about the connection itself; without ``last_id`` the client keeps the cursor that it has."""
    id_line = b"" if last_id is None else b"id: %b\n" % last_id.encode("ascii")
    return b"%bdata: %b\n\n" % (id_line, orjson.dumps(dict(fields)))


def jittered(base_ms: int) -> int:
    """Spread a delay between one and two times its base, so that clients cut off together part ways."""
    return base_ms + int(random.random() * base_ms)  # noqa: S311  # nobody gains by guessing it
