"""One clock for all connections: heartbeats, the end of a life, stalls. A timer each would be dear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

log = structlog.get_logger(__name__)
PERIOD_S: Final = 0.1
"""How exact the clock is: what is due is done up to so much later."""
_AGAIN_S: Final = 1.0


class Slotted(Protocol):
    """What is in one slot at most."""

    due_slot: int
    """Kept by ``Slots``; -1 = in none."""


S = TypeVar("S", bound=Slotted)


class Slots(Generic[S]):
    """Holds each in the slot in which it is due: to put in, move and take out costs a set's price.

    A hashed wheel after Varghese and Lauck (SOSP 1987), with a dictionary in place of a ring of slots: a
    life of four hours needs no slots in between.
    """

    def __init__(self) -> None:
        self._slots: dict[int, set[S]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def put(self, one: S, slot: int) -> None:
        """Have one in a slot, and no longer in another."""
        self.take_out(one)
        one.due_slot = slot
        self._slots.setdefault(slot, set()).add(one)

    def take_out(self, one: S) -> None:
        """Have one in no slot."""
        slot, one.due_slot = one.due_slot, -1
        if (there := self._slots.get(slot)) is not None:
            there.discard(one)
            if not there:
                del self._slots[slot]

    def pop(self, slot: int) -> set[S]:
        """Empty a slot; each of it says that it is there until it is put elsewhere."""
        return self._slots.pop(slot, set())

    def due(self, slot: int) -> Iterator[S]:
        """Take out what is due in a slot or before it, the earliest first, one at a time."""
        for number in sorted(one for one in self._slots if one <= slot):
            while there := self._slots.get(number):
                one = there.pop()  # at once; to iterate looks from the set's beginning each time
                one.due_slot = -1
                if not there:
                    del self._slots[number]
                yield one

    def clear(self) -> None:
        """Forget all."""
        self._slots.clear()


class Timed(Slotted, Protocol):
    """Who wants to be looked at later."""

    def on_time(self, now_s: float) -> float:
        """Do what is due; give when to be looked at again, in seconds of the loop's clock."""
        ...


class TimingWheel:
    """Looks at each in the period in which it is due."""

    def __init__(self, period_s: float = PERIOD_S) -> None:
        self._period_s = period_s
        self._slots = Slots[Timed]()
        self._next_slot = 0
        self._handle: asyncio.TimerHandle | None = None
        self._clock: Callable[[], float] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to turn."""
        self._clock = loop.time
        self._next_slot = int(loop.time() / self._period_s)
        self._handle = loop.call_later(self._period_s, self._turn, loop)

    def stop(self) -> None:
        """Turn no more."""
        if self._handle is not None:
            self._handle.cancel()
        self._slots.clear()

    def put(self, timed: Timed, due_s: float) -> None:
        """Have one looked at when it is due, and no longer when it was to be before."""
        self._slots.put(timed, max(int(due_s / self._period_s) + 1, self._next_slot))

    def take_out(self, timed: Timed) -> None:
        """Look at one no more."""
        self._slots.take_out(timed)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        self._handle = loop.call_later(self._period_s, self._turn, loop)
        past = int(now_s / self._period_s)
        while self._next_slot <= past:
            slot, self._next_slot = self._next_slot, self._next_slot + 1
            for timed in self._slots.pop(slot):
                if timed.due_slot == slot:  # one before it may have taken it out
                    timed.due_slot = -1
                    self.put(timed, _looked_at(timed, now_s))


def _looked_at(timed: Timed, now_s: float) -> float:
    """Look at one, and give when it is due again; if it breaks, the others of its slot are looked at yet."""
    try:
        return timed.on_time(now_s)
    except Exception as error:
        log.exception("look_broke", cause=str(error))
        return now_s + _AGAIN_S
