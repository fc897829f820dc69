"""One event as clients are given it: its place in the stream, and its JSON made once for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from schemas.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.envelope import Event

# A frame, its event, their strings and their places in list and set, measured with sys.getsizeof.
OVERHEAD_BYTES: Final = 1_100


class Frame:
    """An event of a stream with its cursor; ``seq`` counts every frame of the output from 0.

    A frame that the edge declares itself (a gap, say) has no event, and takes no ``seq`` of its own: it
    carries the seq that a client has reached with it.
    """

    __slots__ = (
        "came_before",
        "cursor",
        "event",
        "json",
        "offset",
        "proto",
        "read_ms",
        "seq",
        "size_bytes",
        "sse",
        "type",
        "unreadable",
    )

    def __init__(
        self,
        *,
        cursor: str,
        seq: int,
        offset: int,
        type_name: str,
        event: Event | None,
        size_bytes: int,
        read_ms: int,
        json: bytes | None = None,
    ) -> None:
        self.cursor = cursor
        self.seq = seq
        self.offset = offset
        self.type = type_name
        self.event = event
        self.size_bytes = size_bytes
        """Estimate of what it holds in memory, encodings included."""
        self.read_ms = read_ms
        """When the edge read it: milliseconds of the loop's monotonic clock."""
        self.json = json
        self.sse: bytes | None = None
        self.proto: bytes | None = None
        self.unreadable = False
        """Its payload cannot be read: clients are told of a gap in its place. Known once it was encoded."""
        self.came_before = 0
        """Bytes of payloads that came to its stream before it; set by the ring."""

    @property
    def tells_of_a_gap(self) -> bool:
        """Whether it says that something is missing; of what cannot be read, once it was encoded."""
        return self.unreadable or (self.event is None and self.type == "gap")

    def is_older(self, than_us: int) -> bool:
        """Whether its event is dated before a time; how a stream ended is never too old to be told."""
        return self.event is not None and self.event.time < than_us and self.type != "end"

    def __repr__(self) -> str:
        return f"Frame(seq={self.seq}, type={self.type!r}, offset={self.offset})"


def frame_of(event: Event, *, topic_version: int, partition: int, offset: int, read_ms: int) -> Frame:
    """Make the frame of an event that stands in the output topic."""
    cursor = Cursor(topic_version, partition, offset, event.seq, ended=event.type == "end")
    return Frame(
        cursor=cursor.encode(event.tenant, event.stream_id),
        seq=event.seq,
        offset=offset,
        type_name=event.type,
        event=event,
        # The payload is held as Avro, as JSON and as one transport writes it, seldom two; JSON is seldom
        # twice as long as Avro.
        size_bytes=OVERHEAD_BYTES + 5 * len(event.payload),
        read_ms=read_ms,
    )


def declared(type_name: str, fields: Mapping[str, object], *, cursor: str, seq: int, offset: int) -> Frame:
    """Make a frame that the edge says by itself; ``cursor`` may be empty (the client keeps its own)."""
    return Frame(
        cursor=cursor,
        seq=seq,
        offset=offset,
        type_name=type_name,
        event=None,
        size_bytes=OVERHEAD_BYTES,
        read_ms=0,
        json=orjson.dumps({"type": type_name, **fields}),
    )
