"""The index entry of a stream: where it starts, stands and ends in the output; nobody scans for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipelines.streams import STREAM, read_stream
from schemas import topics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipelines.streams import Stream
    from schemas.envelope import Event
    from schemas.wire import WireCodec
    from state.scope import Scope

ENTRY: Final = b"i"
MARK_EVERY: Final = 1_000
MARKS_MAX: Final = 1_024
"""Marks an entry holds; when there are more, every other one goes: 1,024 marks are some 10 KB."""

Change = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """Makes the callbacks that enter output offsets when they are known, in the unit that wrote them.

    The store holds the entry as it was last emitted, so what the topic says and what is known are one.
    """

    codec: WireCodec

    def opened(
        self, scope: Scope, stream: Stream, event: Event, fields: Mapping[str, Any]
    ) -> Callable[[int], None]:
        """Return what enters the offset of ``open``; ``fields`` is its payload."""
        change: Change = {
            "kind": event.kind, "opened_us": event.time, "last_seq": event.seq, "updated_us": event.time,
            "title": fields.get("title", ""), "labels": fields.get("labels", {}),
        }  # fmt: skip
        began_us = stream.started_at_us

        def enter(offset: int) -> None:
            if _lives(scope, event, began_us):
                self._write(scope, event, {**_blank(scope, event), **change, "open_offset": offset})

        return enter

    def marked(self, scope: Scope, stream: Stream, event: Event) -> Callable[[int], None]:
        """Return what enters a mark on the way, each ``MARK_EVERY`` events; the event is counted already."""
        began_us, total_bytes = stream.started_at_us, stream.total_bytes
        mark = {"seq": event.seq, "bytes": total_bytes - len(event.payload)}

        def enter(offset: int) -> None:
            if not _lives(scope, event, began_us):
                return
            entry = self._read(scope, event)
            marks = entry["marks"]
            # Thinned marks stand at multiples of the first one's seq.
            if not marks or event.seq % marks[0]["seq"] == 0:
                change = {
                    "marks": thinned([*marks, mark | {"offset": offset}]), "last_seq": event.seq,
                    "bytes": total_bytes, "updated_us": event.time,
                }  # fmt: skip
                self._write(scope, event, {**entry, **change})

        return enter

    def ended(self, scope: Scope, stream: Stream, event: Event) -> Callable[[int], None]:
        """Return what enters the end."""
        change: Change = {
            "end_seq": event.seq, "last_seq": event.seq, "bytes": stream.total_bytes,
            "end_reason": stream.end_reason, "ended_us": event.time, "updated_us": event.time,
        }  # fmt: skip
        began_us = stream.started_at_us

        def enter(offset: int) -> None:
            if _lives(scope, event, began_us):
                self._write(scope, event, {**self._read(scope, event), **change, "end_offset": offset})

        return enter

    def drop(self, scope: Scope, key: bytes) -> None:
        """Take a stream out of the index: its history is over."""
        scope.state.delete(ENTRY + key)
        scope.emit(topics.INDEX, key, None, partition=scope.partition)

    def _read(self, scope: Scope, event: Event) -> dict[str, Any]:
        stored = scope.state.get(ENTRY + event.key)
        if stored is not None:
            return self.codec.decode(stored, topics.INDEX.subject)
        return _blank(scope, event)

    def _write(self, scope: Scope, event: Event, entry: Change) -> None:
        value = self.codec.encode(topics.INDEX.subject, entry)
        scope.state.put(ENTRY + event.key, value)
        scope.emit(topics.INDEX, event.key, value, partition=scope.partition)


def _lives(scope: Scope, event: Event, began_us: int) -> bool:
    """Tell whether the stream is still the one that the event was of.

    A unit that catches up on a quiet topic may cover days: the stream may have been dropped in it after
    this event, and its id taken anew. An entry written then would never be taken out again.
    """
    stored = scope.state.get(STREAM + event.key)
    return stored is not None and read_stream(event.key, stored).started_at_us == began_us


def _blank(scope: Scope, event: Event) -> Change:
    """Return the entry of a stream that begins; what an earlier one of the same id left does not count."""
    return {
        "tenant": event.tenant, "stream_id": event.stream_id, "partition": scope.partition,
        "topic_version": topics.topic_version(topics.OUTPUT.name), "marks": [],
    }  # fmt: skip


def thinned(marks: list[dict[str, int]]) -> list[dict[str, int]]:
    """Return the marks, every other one of them when there are too many."""
    return marks if len(marks) <= MARKS_MAX else marks[1::2]
