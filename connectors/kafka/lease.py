"""A chunk in an agent's hands: what of it is done, and what is taken back when the agent fails."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.chunk import Chunk
    from schemas.record import Record


class Scope(Protocol):
    """What the coordinator needs of an agent's scope; see ``state.effects.PartitionScope``."""

    def savepoint(self) -> None:
        """Begin a step that can be undone alone."""

    def keep(self) -> None:
        """Keep the step."""

    def next_step(self) -> None:
        """Keep the one step that there is, and begin another."""

    def undo(self) -> None:
        """Take the step back."""

    def count(self, outcome: str, n: int = 1) -> None:
        """Count inputs by outcome."""

    def dead_letter(
        self, record: Record, cause: str, detail: str, attempts: int = 1, raised_at: str = ""
    ) -> None:
        """Keep a record that cannot be handled, or that was set aside (0 attempts)."""

    @property
    def effect_records(self) -> int:
        """How many records the unit would append for it."""


class Lease:
    """One chunk handed to one agent, as a whole (batch agent) or an event at a time (event agent)."""

    __slots__ = ("_at", "_items", "_marked", "_step", "chunk", "scope", "strict", "until_s", "void")

    def __init__(self, chunk: Chunk, scope: Scope, *, strict: bool = False) -> None:
        self.chunk = chunk
        self.scope = scope
        self.strict = strict
        """What does not decode fails its agent too, whose events must not be passed over."""
        self.void = False
        """Its unit of work is gone (rebalance, abort): what the agent still does counts for nothing."""
        self.until_s = inf
        """When the turn ends in which events are given, by ``time.monotonic``; inf = none has begun."""
        self._items: Sequence[tuple[Record, Any]] = getattr(chunk, "items", ())  # columns have none
        self._at = 0  # items before this are done and kept
        self._step = 1  # items that are in hand, where the step is of several
        self._marked = False

    def begin(self) -> None:
        """Set a savepoint before the next step."""
        self.scope.savepoint()
        self._marked = True

    def next_item(self) -> tuple[Record, Any] | None:
        """Keep the event before, and return the next one behind a savepoint; None at the end of the turn.

        In a turn that is over it gives one event: however late it began, it brings the partition on.
        """
        if not self._marked:
            if self._at >= len(self._items):
                return None
            self.begin()
            return self._items[self._at]
        self._at += 1
        if self._at < len(self._items) and monotonic() < self.until_s:
            self.scope.next_step()
            return self._items[self._at]
        self.scope.keep()
        self._marked = False
        return None

    def next_items(self, items_max: int) -> Sequence[tuple[Record, Any]]:
        """Keep those before, and return the next ones behind one savepoint; none at the end of the turn."""
        if self._marked:
            self.scope.keep()
            self._marked = False
            self._at += self._step
            if monotonic() >= self.until_s:
                return ()
        items = self._items[self._at : self._at + max(items_max, 1)]
        self._step = len(items)
        if items:
            self.begin()
        return items

    @property
    def in_hand(self) -> tuple[Record, Any] | None:
        """The item that ``next_item`` gave and that is not kept yet."""
        return self._items[self._at] if self._marked else None

    @property
    def left(self) -> bool:
        """Whether there are events that are not kept."""
        return self._at < len(self._items)

    def keep_batch(self) -> None:
        """Keep the step of a batch, which is the whole chunk; an event is kept when the next is asked for."""
        if self._marked:
            self.scope.keep()
            self._marked = False
            self._at = len(self.chunk)

    def give_up(self) -> tuple[Chunk | None, Chunk | None]:
        """Undo the step in hand, if one is; returns what of the chunk is done, and what is left of it."""
        if self._marked:
            self.scope.undo()
            self._marked = False
        if self._at == 0:
            return None, self.chunk
        if self._at >= len(self.chunk):
            return self.chunk, None
        return self.chunk.split(self._at)
