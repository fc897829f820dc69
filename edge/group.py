"""Connections that stand at the same place of a stream: one write's bytes are made once for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge.channel import Channel
    from edge.frame import Frame


MEMBERS_MAX: Final = 1_024
"""Who is beyond stands in another group: one is written to in a turn of the loop, about 7 ms at the most, and
the groups of a stream one after the other, each with all that has come by then."""


class Encoder(Protocol):
    """How one transport writes events."""

    @property
    def name(self) -> str:
        """Tells it from the others: who shares it shares bytes."""
        ...

    @property
    def stateful(self) -> bool:
        """Whether what it gives depends on what it gave: it encodes each frame once, as that is written."""
        ...

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """Give one write of these frames."""
        ...


class Member(Protocol):
    """Who stands in a group: written to by ``write`` alone, while it takes what it is given."""

    def stand_aside(self) -> None:
        """The group's stream is over for good: leave it, and see to yourself when something comes."""
        ...

    def is_passed(self) -> None:
        """The group was written ``end``, or the ring has gone on without it: see to yourself."""
        ...

    def broke(self) -> None:
        """It could not be written to: it is to come back, for what it was not given it would never see."""
        ...


class Group:
    """Followers of one stream over one transport who all have what is before ``position``."""

    __slots__ = (
        "_bytes",
        "_encoder",
        "_span",
        "channel",
        "cost_s",
        "flushed_s",
        "gaps",
        "members",
        "next_offset",
        "position",
        "written_bytes",
    )

    def __init__(self, channel: Channel, encoder: Encoder) -> None:
        self.channel = channel
        self.members: dict[Member, Callable[[bytes], None]] = {}
        """Each with its transport's own ``write``: the loop over them is the edge's hottest."""
        self.position = 0
        """Seq that comes next for all of them; means nothing while there are none."""
        self.next_offset = -1
        self.flushed_s = 0.0
        """When they were written to last, by the loop's clock."""
        self.cost_s = 0.0
        """Processor time that this took; 0 if they are few."""
        self.written_bytes = 0
        """To each who was there all the time; so a member's share is a difference."""
        self.gaps = 0
        """Told to each, likewise: events that could not be read."""
        self._encoder = encoder
        self._span = (-1, -1)
        self._bytes = b""

    def encoded(self, frames: Sequence[Frame]) -> bytes:
        """Give the bytes of a span of the ring; asked again for the same one, the same object."""
        span = (frames[0].offset, frames[-1].offset)
        if span != self._span:
            self._bytes, self._span = self._encoder.encode(frames), span
        return self._bytes

    @property
    def unwritten(self) -> bool:
        """Whether the stream has come further than what they were written."""
        return bool(self.members) and self.position < self.channel.ring.next_seq

    @property
    def has_room(self) -> bool:
        """Whether one more may stand here."""
        return len(self.members) < MEMBERS_MAX

    def forget_bytes(self) -> None:
        """Hold no write any more: what it was made of has left the ring."""
        self._bytes, self._span = b"", (-1, -1)

    def can_take(self, expect: int) -> bool:
        """Whether one that expects this seq stands where the others do."""
        return not self.members or expect == self.position

    def add(self, member: Member, write: Callable[[bytes], None], expect: int, next_offset: int) -> None:
        """Take one in that stands where the others do."""
        if not self.members:
            self.position, self.next_offset = expect, next_offset
        self.members[member] = write
