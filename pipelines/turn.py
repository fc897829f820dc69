"""A partition's state during one call of ingest: what was loaded once and is written back once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from pipelines.streams import STREAM
from state.dedupe import DedupeSet, read_note, write_note
from state.schema import StoreSchema, kv
from state.ttl import ExpiryIndex
from state.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipelines.streams import KnownStreams, Stream
    from state.scope import Scope
    from state.store import StateView

CLOCK_KEY: Final = b"c"
"""Key of the watermark; the layout of the store is in ``STORE``."""
ARRIVALS_KEY: Final = b"t"
SEEN: Final = DedupeSet(b"d")
DEADLINES: Final = ExpiryIndex(b"a")
HOLES: Final = ExpiryIndex(b"h")
STORE: Final = StoreSchema(
    parts=(
        kv("c", key="the watermark", value=">q"),
        kv("t", key="broker append time", value=">q"),
        kv("s", key="stream", value="pipelines/streams.py, form 2"),
        kv("d", key="stream 0x00 event id", value="seq >q"),  # forgotten with its stream, by its kind's TTL
        kv("a", key="deadline >q, stream", value=""),
        kv("h", key="hole's end >q, stream", value=""),
        kv("b", key="stream 0x00 seq >q", value=">qqqqq, topic, record"),
        kv("i", key="stream", value="sluicegate.StreamIndex"),
    )
)


class Alarms:
    """One index of due times during a call, and where it is kept in a stream.

    A due time that moved later is left where it stands: when it fires too early it is set anew. So an
    event that pushes its stream's idle deadline on costs the index nothing.
    """

    def __init__(
        self, view: StateView, index: ExpiryIndex, field: Literal["alarm_us", "hole_alarm_us"]
    ) -> None:
        self._view = view
        self._index = index
        self._field = field
        self._next_us = index.earliest_us(view)

    def watch(self, stream: Stream, due_us: int) -> None:
        """Have ``stream`` looked at when ``due_us`` is reached, at the latest."""
        at_us = getattr(stream, self._field)
        if at_us and at_us <= due_us:
            return
        self.drop(stream)
        self._index.put(self._view, due_us, stream.key)
        setattr(stream, self._field, due_us)
        self._next_us = due_us if self._next_us is None else min(self._next_us, due_us)

    def drop(self, stream: Stream) -> None:
        """Watch a stream no more."""
        at_us = getattr(stream, self._field)
        if at_us:
            self._index.remove(self._view, at_us, stream.key)
            setattr(stream, self._field, 0)

    def due(self, now_us: int, limit: int) -> list[tuple[int, bytes]]:
        """Return at most ``limit`` entries that ``now_us`` has reached."""
        return self._index.due(self._view, now_us, limit)

    def any_due(self, now_us: int) -> bool:
        """Tell whether ``now_us`` has reached an entry, perhaps one that was moved or taken out since."""
        return self._next_us is not None and self._next_us <= now_us

    def owns(self, stream: Stream, due_us: int) -> bool:
        """Tell whether an entry is the one that the stream knows of; else it is stale."""
        return bool(getattr(stream, self._field) == due_us)

    def clear(self, due_us: int, key: bytes) -> None:
        """Take out an entry that nobody owns."""
        self._index.remove(self._view, due_us, key)

    def look_again(self) -> None:
        """Find the next entry after some were handled."""
        self._next_us = self._index.earliest_us(self._view)


class Turn:
    """Streams and event ids that a call touches, decoded once; ``save`` writes back what was changed.

    Nothing of it outlives the call but ``known``, which is believed only where the store says the same: if
    the unit of work is undone, so is what the call knew.
    """

    def __init__(self, scope: Scope, disorder_us: int, known: KnownStreams) -> None:
        self.scope = scope
        self._known = known
        self.view: StateView = scope.state
        self.clock = Watermark(disorder_us)
        self.clock.load(self.view, CLOCK_KEY)
        self.arrivals = Watermark(0)
        """The partition's broker append time, moved by what is consumed in order as the watermark is."""
        self.arrivals.load(self.view, ARRIVALS_KEY)
        self.counts: Counter[str] = Counter()
        self.deadlines = Alarms(self.view, DEADLINES, "alarm_us")
        self.holes = Alarms(self.view, HOLES, "hole_alarm_us")
        self._streams: dict[bytes, Stream | None] = {}
        self._changed: set[bytes] = set()
        self._seen: dict[bytes, bytes | None] = {}

    def prefetch(self, keys: Iterable[bytes], members: Sequence[bytes]) -> None:
        """Read streams and event ids (``DedupeSet.key``) in two look-ups instead of two an event."""
        streams = list(dict.fromkeys(keys))
        stored = self.view.multi_get([STREAM + key for key in streams])
        for key, data in zip(streams, stored, strict=True):
            self._streams[key] = None if data is None else self._known.take(key, data)
        self._seen.update(zip(members, self.view.multi_get(members), strict=True))

    def stream(self, key: bytes) -> Stream | None:
        """Return a stream, None when it is not known."""
        if key not in self._streams:
            data = self.view.get(STREAM + key)
            self._streams[key] = None if data is None else self._known.take(key, data)
        return self._streams[key]

    def keep(self, stream: Stream, reorder_us: int) -> None:
        """Have a changed stream written back, and its deadline and first hole watched."""
        self._streams[stream.key] = stream
        self._changed.add(stream.key)
        if (deadline_us := stream.deadline_us()) is not None:
            self.deadlines.watch(stream, deadline_us)
        if (hole_us := stream.hole_us(reorder_us)) is not None:
            self.holes.watch(stream, hole_us)

    def drop(self, stream: Stream) -> None:
        """Forget a stream."""
        self.deadlines.drop(stream)
        self.holes.drop(stream)
        self.view.delete(STREAM + stream.key)
        self._streams[stream.key] = None
        self._changed.discard(stream.key)

    def note(self, stream: Stream, event_id: str) -> int | None:
        """Return the seq noted for an event id of the stream, None when it was not accepted."""
        key = SEEN.key(stream.key, event_id.encode())
        if key not in self._seen:
            self._seen[key] = self.view.get(key)
        value = self._seen[key]
        return None if value is None else read_note(value)

    def mark(self, stream: Stream, event_id: str, seq: int) -> None:
        """Note that an event id was accepted as ``seq``."""
        key = SEEN.key(stream.key, event_id.encode())
        value = self._seen[key] = write_note(seq)
        self.view.put(key, value)

    def unmark(self, stream: Stream, event_id: str) -> None:
        """Take the note back."""
        key = SEEN.key(stream.key, event_id.encode())
        self._seen[key] = None
        self.view.delete(key)

    def forget_members(self, stream: Stream, limit: int) -> int:
        """Delete at most ``limit`` event ids of a stream; return how many."""
        keys = SEEN.forget(self.view, stream.key, limit)
        self._seen.update(dict.fromkeys(keys))
        return len(keys)

    def save(self) -> None:
        """Write back; the call is over."""
        changed = [stream for key in self._changed if (stream := self._streams[key]) is not None]
        self.view.put_many([STREAM + stream.key for stream in changed], list(map(self._known.write, changed)))
        self.clock.save(self.view, CLOCK_KEY)
        self.arrivals.save(self.view, ARRIVALS_KEY)
        for outcome, count in self.counts.items():
            self.scope.count(outcome, count)
