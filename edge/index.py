"""Where each stream starts, stands and ends: the compacted index topic in memory, within a bound."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import chain
from math import ceil, inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edge.frame import Frame

SLICE: Final = 1_000
"""Entries that are looked through in a turn of the loop: up to 4 ms for a token that names patterns."""
_opened_us = attrgetter("opened_us")


@dataclass(slots=True)
class IndexEntry:
    """One stream's entry. ``last_seq`` and what ended it are kept fresh from the output topic itself."""

    tenant: str
    stream_id: str
    kind: str
    title: str
    labels: Mapping[str, str]
    partition: int
    topic_version: int
    opened_us: int
    open_offset: int
    mark_seqs: list[int]
    mark_offsets: list[int]
    last_seq: int
    updated_us: int
    end_offset: int = -1
    end_seq: int = -1
    ended_us: int = 0
    end_reason: str = ""
    tailed: bool = field(default=False)
    """The tail has seen the stream's latest event: ``last_seq`` is the truth, not a mark behind it."""
    sized_seqs: list[int] = field(default_factory=list)
    """Where it is known how many payload bytes came before: at marks, and behind what was written last."""
    sized_bytes: list[int] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether the stream had its ``end``."""
        return self.end_seq >= 0

    @property
    def size_bytes(self) -> int:
        """Estimate of what it holds in memory, measured by tracemalloc: a mark has four numbers."""
        labels = sum(len(name) + len(value) + 60 for name, value in self.labels.items())
        return 1_300 + len(self.title) + labels + 120 * len(self.mark_seqs)

    def start_for(self, seq: int) -> tuple[int, int]:
        """Give (seq, offset) of the nearest place to start reading that is not after ``seq``."""
        place = bisect_right(self.mark_seqs, seq) - 1
        if place < 0:
            return 0, max(self.open_offset, 0)  # not known: from what the topic still has
        return self.mark_seqs[place], self.mark_offsets[place]

    def bytes_before(self, seq: int) -> int:
        """Give how many payload bytes came before a seq; 0 where no size is known.

        Between two places that are known events count as equally large, behind the last one as large as the
        stream's average: it is right to within what is between two marks.
        """
        return int(_on_line(seq, self.sized_seqs, self.sized_bytes))

    def seq_at(self, total_bytes: int) -> int:
        """Give the first seq before which there are so many payload bytes, as ``bytes_before`` has them."""
        return ceil(_on_line(total_bytes, self.sized_bytes, self.sized_seqs)) if total_bytes > 0 else 0

    def around(self, total_bytes: int) -> tuple[int, int, int]:
        """Give the last place that so many payload bytes are known to come after: (seq, bytes before it).

        And the seq of the next place that is known, which has at least so many before it.
        """
        place = bisect_left(self.sized_bytes, total_bytes)
        known_seq = self.sized_seqs[place] if place < len(self.sized_seqs) else self.last_seq
        if place == 0:
            return 0, 0, known_seq
        return self.sized_seqs[place - 1], self.sized_bytes[place - 1], known_seq

    def saw(self, frame: Frame, partition: int) -> None:
        """Take note of a frame of the stream that the tail has read; not of an earlier one of its name."""
        if frame.offset < self.open_offset:
            return
        self.tailed = True
        if frame.seq > self.last_seq:
            self.last_seq, self.partition = frame.seq, partition
            if frame.type == "open" and self.open_offset < 0:
                self.open_offset = frame.offset
            if frame.event is not None:
                self.updated_us = frame.event.time


def entry_of(fields: Mapping[str, Any]) -> IndexEntry:
    """Make an entry of a ``sluicegate.StreamIndex`` record."""
    marks = [mark for mark in fields.get("marks") or [] if mark["offset"] >= 0]
    # What an older version wrote has no sizes.
    sized = [(mark["seq"], mark["bytes"]) for mark in marks if mark.get("bytes", -1) >= 0]
    if fields.get("bytes", -1) >= 0:
        sized.append((fields["last_seq"] + 1, fields["bytes"]))
    return IndexEntry(
        tenant=fields["tenant"],
        stream_id=fields["stream_id"],
        kind=fields["kind"],
        title=fields.get("title") or "",
        labels=fields.get("labels") or {},
        partition=fields["partition"],
        topic_version=fields["topic_version"],
        opened_us=fields["opened_us"],
        open_offset=fields["open_offset"],
        mark_seqs=[mark["seq"] for mark in marks],
        mark_offsets=[mark["offset"] for mark in marks],
        last_seq=fields["last_seq"],
        updated_us=fields["updated_us"],
        end_offset=fields["end_offset"],
        end_seq=fields["end_seq"],
        ended_us=fields["ended_us"],
        end_reason=fields["end_reason"] or "",
        sized_seqs=[seq for seq, _ in sized],
        sized_bytes=[size for _, size in sized],
    )


def _on_line(x: float, xs: Sequence[int], ys: Sequence[int]) -> float:
    """Give y at ``x`` on the line from (0, 0) through points that both grow; 0 if there are none.

    Behind the last point it goes on straight from (0, 0): as the average of all does.
    """
    place = bisect_left(xs, x)
    if place == len(xs):
        return x * ys[-1] / xs[-1] if xs and xs[-1] > 0 else 0.0
    x_before, y_before = (xs[place - 1], ys[place - 1]) if place else (0, 0)
    if xs[place] == x_before:  # the first point is at 0
        return float(ys[place])
    return y_before + (x - x_before) * (ys[place] - y_before) / (xs[place] - x_before)


class StreamIndex:
    """The latest entry of each stream; beyond the bounds those untouched longest are let go.

    ``complete`` turns false then: a stream that is not found here must be looked up in the topic.
    """

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._entries: OrderedDict[bytes, IndexEntry] = OrderedDict()
        self._bytes = 0
        self.complete = True
        self._listing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> IndexEntry | None:
        """The entry of a stream, if it is in memory."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: IndexEntry) -> None:
        """Take a newer entry; what the tail saw beyond it stays."""
        known = self._entries.get(key)
        if known is not None:
            self._bytes -= known.size_bytes
        if known is not None and known.open_offset == entry.open_offset:
            entry.tailed = known.tailed
            entry.last_seq = max(entry.last_seq, known.last_seq)
        self._bytes += entry.size_bytes
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._entries_max or (self._bytes > self._bytes_max and len(self) > 1):
            _, gone = self._entries.popitem(last=False)
            self._bytes -= gone.size_bytes
            self.complete = False

    def remove(self, key: bytes) -> IndexEntry | None:
        """Forget a stream whose history is over (its tombstone came); give what was known of it."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size_bytes
        return entry

    def saw(self, key: bytes, frame: Frame, partition: int) -> None:
        """Keep an entry as fresh as the output topic."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.saw(frame, partition)

    async def newest(self, limit: int, shown: Callable[[IndexEntry], bool]) -> list[IndexEntry]:
        """Of the streams that are to be shown, those opened last, newest first: of all that are known now.

        They are looked through a slice a turn of the loop, and by one who asks after the other: each holds a
        list of them all.
        """
        async with self._listing:
            entries = list(dict.values(self._entries))
            entries.reverse()  # what came last was mostly opened last: soon nobody is asked about the others
            found: list[IndexEntry] = []
            for start in range(0, len(entries), SLICE):
                beyond_us = found[-1].opened_us if len(found) == limit else -inf
                chosen = [one for one in entries[start : start + SLICE] if one.opened_us > beyond_us]
                found = nlargest(limit, chain(found, filter(shown, chosen)), key=_opened_us)
                await asyncio.sleep(0)
        return found

    @property
    def live(self) -> int:
        """How many streams have not ended."""
        return sum(not one.ended for one in self._entries.values())
