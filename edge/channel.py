"""One stream as this edge sees it: its ring, who follows it, and what they were last written."""

from __future__ import annotations

import asyncio
from sys import maxsize
from typing import TYPE_CHECKING

from edge.group import MEMBERS_MAX, Group
from edge.ring import Ring

if TYPE_CHECKING:
    from edge.delivery import Delivery
    from edge.frame import Frame
    from edge.group import Encoder
    from edge.subscriber import Subscriber


class Channel:
    """A stream that somebody follows, or that had events not long ago."""

    __slots__ = (
        "due_slot",
        "end_offset",
        "end_seq",
        "flush_due",
        "groups",
        "key",
        "kind",
        "kind_due",
        "laggards",
        "look_bytes",
        "look_seq",
        "open_offset",
        "ring",
        "stream_id",
        "subscribers",
        "tenant",
        "waiting",
        "woken_s",
    )

    def __init__(self, tenant: str, stream_id: str, key: bytes) -> None:
        self.tenant = tenant
        self.stream_id = stream_id
        self.key = key
        self.kind = ""
        """Empty until an event or an index entry tells it."""
        self.kind_due = False
        """Who follows it was not told yet that it is known, or another."""
        self.ring = Ring()
        self.due_slot = -1
        """Where the hub keeps it until its oldest frame is too old; see ``Slotted``."""
        self.subscribers: set[Subscriber] = set()
        self.waiting: set[Subscriber] = set()
        """Who has everything and waits for the next; woken together, once a batch."""
        self.open_offset = -1
        """Where its first event stands, if that came by here."""
        self.end_seq = -1
        self.end_offset = -1
        self.groups: dict[str, list[Group]] = {}
        """Who has everything and takes more at once, by how they are written to."""
        self.laggards: set[Delivery] = set()
        """Who had all and fell behind: takes nothing now, or is on the way back."""
        self.look_seq = self.look_bytes = maxsize
        """How far the stream may come before one of them is behind its bound: seq, and bytes that came."""
        self.flush_due = False
        """Who is not written yet will be, when a tick is over."""
        self.woken_s = 0.0
        """When all who waited were told last, by the loop's clock."""

    def append(self, frame: Frame) -> bool:
        """Take a frame of the output topic; give whether it was new."""
        next_seq = self.ring.next_seq
        if not self.ring.append(frame):
            return False
        if frame.seq == 0 or frame.seq < next_seq:  # no stream goes back, and its first may be unreadable
            self._begin(frame)
        if frame.event is not None and frame.event.kind != self.kind:
            self.kind, self.kind_due = frame.event.kind, True
        # A name may be opened again once its history is over: then the old end is no longer the end.
        ended = frame.type == "end"
        self.end_seq, self.end_offset = (frame.seq, frame.offset) if ended else (-1, -1)
        return True

    def forget(self) -> None:
        """Its history is over: whoever has a place in it is to be told, and the name is free."""
        self._stand_aside(everybody=bool(self.kind))
        for subscriber in self.subscribers:
            if self.kind or subscriber.expect or subscriber.stop_offset >= 0:
                subscriber.outlive("history")
        self.ring.restart()
        self.kind = ""
        self.open_offset = self.end_seq = self.end_offset = -1
        self.look_no_more()

    def past_known(self, last_seq: int) -> None:
        """The index tells of events that had come and gone before it knew them: who misses them is to look.

        Nobody could be given them before: who came for a stream that was not known waits for its first event.
        """
        for group in self.all_groups():
            if group.position <= last_seq:
                for member in list(group.members):
                    member.stand_aside()
        for subscriber in self.subscribers:
            if subscriber.expect <= last_seq:
                subscriber.settled = False
        self.wake()

    def tell_kind(self) -> None:
        """Tell all who follow it that its kind is known, or another: they came before it was."""
        self.kind_due = False
        self._tell_kind([one.delivery for one in self.subscribers if one.delivery is not None])

    def _tell_kind(self, deliveries: list[Delivery]) -> None:
        now, later = deliveries[:MEMBERS_MAX], deliveries[MEMBERS_MAX:]
        for delivery in now:
            delivery.kind_known()
        if later:  # as a large group is written to: let the loop see to others
            asyncio.get_running_loop().call_soon(self._tell_kind, later)

    def _begin(self, first: Frame) -> None:
        """A stream begins: who has a place in an earlier one of this name is to be told before it goes on.

        One who was here before the first event, and one whose cursor is ahead of this edge, have none.
        """
        kind = first.event.kind if first.event is not None else self.kind
        other_kind = bool(self.kind) and kind != self.kind
        self._stand_aside(everybody=other_kind)
        for subscriber in self.subscribers:
            stopped = 0 <= subscriber.stop_offset <= first.offset
            inside = subscriber.expect > 0 or subscriber.reading
            if other_kind or stopped or (inside and subscriber.next_offset < first.offset):
                subscriber.outlive("reopened")
        self.open_offset = first.offset
        self.look_no_more()

    def _stand_aside(self, *, everybody: bool) -> None:
        """Have members of groups take their own places; without ``everybody`` those that have events."""
        for group in self.all_groups():
            if everybody or group.position > 0:
                for member in list(group.members):
                    member.stand_aside()

    @property
    def look_due(self) -> bool:
        """Whether one of the laggards may be behind its bound."""
        return bool(self.laggards) and (
            self.ring.next_seq > self.look_seq or self.ring.came_bytes > self.look_bytes
        )

    def look_when(self, seq: int, came_bytes: int) -> None:
        """Have the laggards looked at when the stream has come so far, if not before."""
        self.look_seq, self.look_bytes = min(self.look_seq, seq), min(self.look_bytes, came_bytes)

    def look_no_more(self) -> None:
        """Have nobody looked at, until somebody falls behind."""
        self.look_seq = self.look_bytes = maxsize

    def wake(self) -> None:
        """Tell all who wait that something came."""
        waiting, self.waiting = self.waiting, set()
        for subscriber in waiting:
            subscriber.wake()

    @property
    def abreast(self) -> int:
        """How many take all that comes at once."""
        return sum([len(group.members) for group in self.all_groups()])

    @property
    def cost_s(self) -> float:
        """Processor time that it takes to write to all of them once."""
        return sum([group.cost_s for group in self.all_groups() if group.members])

    def is_unwritten(self, seq: int) -> bool:
        """Whether somebody who takes all at once has not been written an event yet."""
        return any(group.members and group.position <= seq for group in self.all_groups())

    def all_groups(self) -> list[Group]:
        """Give all groups, of every way to be written to."""
        return [group for groups in self.groups.values() for group in groups]

    def group(self, encoder: Encoder, expect: int) -> Group:
        """Give the group for one that is written to so and expects this seq; a new one if all are full.

        Rather one that can be caught up with than one that has to catch up.
        """
        groups = self.groups.setdefault(encoder.name, [])
        with_room = [group for group in groups if group.has_room]
        for group in with_room:
            if group.position >= expect or not group.members:
                return group
        if with_room:
            return with_room[0]
        groups.append(Group(self, encoder))
        return groups[-1]
