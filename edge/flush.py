"""When followers are written to: at once while there is little to do, in larger writes while there is much.

1. The hub has put frames into a stream's ring. 2. Each group of its followers is written to now if it was
last written to longer ago than the stream's tick, else when the tick is over; of large groups one in a turn
of the loop, that first which has waited longest. So nobody waits for longer than a tick, however many there
are: were all written to together, the last would wait for the others besides. 3. The tick is four times the
processor time that it takes to write to all once, so that one stream takes a fourth of a core, but 5 ms at
least, and 100 ms at most while the stream takes no more than half of a core by that; when the loop's thread
takes more than half of a core for all it does, the shortest tick grows.

What a flush costs is the kernel's work for each write, nine tenths of it for a thousand clients: the fewer
writes, the more events can be delivered. It is processor time that counts: the time that passes, on a machine
that is busy otherwise, would make ticks long for nothing.
"""

from __future__ import annotations

import time
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from edge.channel import Channel
    from edge.encode import FrameJson
    from edge.frame import Frame
    from edge.group import Group
    from edge.metrics import EdgeMetrics

log = structlog.get_logger(__name__)
TICK_S_MIN: Final = 0.005
TICK_S_MAX: Final = 0.1
_COST_TICKS: Final = 4.0
_COST_TICKS_MIN: Final = 2.0
"""At the least, however many they are who are written to."""
_MANY: Final = 64
"""Members from which on it is worth to look at the clock for what a flush of their group costs."""
_EARLY_S: Final = 0.001
"""A timer may come earlier by so much: the loop's clock counts in milliseconds."""
_LOOK_S: Final = 0.25
_BUSY, _IDLE = 0.5, 0.25


class Flusher:
    """Writes what came to whoever has all before it."""

    def __init__(self, metrics: EdgeMetrics, frame_json: FrameJson, write_bytes_max: int) -> None:
        self._metrics = metrics
        self._json = frame_json
        self._write_bytes_max = write_bytes_max
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_s = TICK_S_MIN
        self._busy_s = 0.0
        """Processor time of the loop's thread, as of the last look."""
        self._looked_s = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Flush by this loop's clock; without it all is flushed at once."""
        self._loop = loop
        self._busy_s, self._looked_s = time.thread_time(), loop.time()

    def touch(self, channel: Channel) -> None:
        """Frames came into a stream: have its followers written to, now or soon."""
        if self._loop is None:
            self.flush(channel)
        elif not channel.flush_due:
            self._flush_due(channel)

    def flush(self, channel: Channel) -> None:
        """Write all that the ring holds beyond where each group stands, and wake whoever waits."""
        now_s = self._loop.time() if self._loop is not None else 0.0
        for group in channel.all_groups():
            if group.unwritten:
                self._flush_group(group, now_s)
        channel.woken_s = now_s
        channel.wake()
        self._look(now_s)

    def tick_of(self, channel: Channel) -> float:
        """The shortest time between two writes to a follower of a stream, by what writing to all costs."""
        cost_s = channel.cost_s
        tick_s = min(max(self._tick_s, cost_s * _COST_TICKS), TICK_S_MAX)
        return max(tick_s, cost_s * _COST_TICKS_MIN)

    def _flush_due(self, channel: Channel) -> None:
        """Write to those whose tick is over, and come back for the others."""
        assert self._loop is not None
        channel.flush_due = False
        groups = [group for group in channel.all_groups() if group.unwritten]
        if not (groups or channel.waiting):
            return
        now_s, tick_s = self._loop.time(), self.tick_of(channel)
        again_s = inf
        if len(groups) > 1:
            groups.sort(key=attrgetter("flushed_s"))
        for group in groups:
            if now_s - group.flushed_s < tick_s - _EARLY_S:
                again_s = group.flushed_s + tick_s
                break
            self._flush_group(group, now_s)
            if group.cost_s and group is not groups[-1]:  # a large one: let the loop see to others
                again_s = now_s
                break
        if channel.waiting:
            if now_s - channel.woken_s >= tick_s - _EARLY_S:
                channel.woken_s = now_s
                channel.wake()
            else:
                again_s = min(again_s, channel.woken_s + tick_s)
        if again_s < inf:
            channel.flush_due = True
            self._loop.call_at(again_s, self._flush_due, channel)
        self._look(now_s)

    def _flush_group(self, group: Group, now_s: float) -> None:
        """Write to a group, and note when that was and what it cost."""
        group.flushed_s = now_s
        if len(group.members) < _MANY:
            group.cost_s = 0.0
            self._write_to(group)
        else:
            began_s = time.thread_time()
            self._write_to(group)
            group.cost_s = time.thread_time() - began_s

    def _write_to(self, group: Group) -> None:
        """Write span after span; a member that takes no more leaves the group while it is written to."""
        ring = group.channel.ring
        while group.unwritten:
            frames = ring.span(group.position, self._write_bytes_max)
            if not frames:  # the ring starts behind a hole, or lost what was not written yet
                _see_to_themselves(group)
                return
            data = group.encoded(frames)
            gaps = self._json.gaps_in(frames)
            members = len(group.members)
            group.position, group.next_offset = frames[-1].seq + 1, frames[-1].offset + 1
            group.written_bytes += len(data)
            group.gaps += gaps
            _write_to_each(group, data)
            self._metrics.flushed(group.channel.kind, frames, len(data), members, gaps=gaps)
            if _ends(frames):
                _see_to_themselves(group)
                return

    def _look(self, now_s: float) -> None:
        """Have the shortest tick grow while the loop's thread is busy, and shrink again while it is idle."""
        passed_s = now_s - self._looked_s
        if passed_s < _LOOK_S:
            return
        busy_s = time.thread_time()
        share = (busy_s - self._busy_s) / passed_s
        if share > _BUSY:
            self._tick_s = min(self._tick_s * 1.5, TICK_S_MAX)
        elif share < _IDLE:
            self._tick_s = max(self._tick_s / 1.5, TICK_S_MIN)
        self._busy_s, self._looked_s = busy_s, now_s


def _write_to_each(group: Group, data: bytes) -> None:
    """Write to all members; one that breaks keeps the others from nothing: the position is theirs already."""
    left, broke = iter(list(group.members.items())), True
    while broke:
        broke = False
        try:
            for member, write in left:  # noqa: B007  # to know who broke
                write(data)
        except Exception as error:
            broke = True
            log.exception("write_broke", stream=group.channel.key.decode(), cause=str(error))
            member.broke()


def _see_to_themselves(group: Group) -> None:
    for member in list(group.members):
        member.is_passed()


def _ends(frames: Sequence[Frame]) -> bool:
    return frames[-1].type == "end"
