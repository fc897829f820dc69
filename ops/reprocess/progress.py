"""How far a generation that is built has come, against the one that runs."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.kafka.committed import CommittedReader
from connectors.kafka.lag import committed_offsets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ops.reprocess.plan import Plan

At = tuple[str, int]
_LEVEL_S: Final = 3.0  # its workers ask each second how far the other is
_LEAST_LEFT: Final = 1_000  # up to so many offsets it is asked whether they are markers alone


@dataclass(frozen=True, slots=True)
class Look:
    """One look; offsets count markers of transactions too, so records are a little fewer."""

    done: int
    """Offsets handled since the first look."""
    left: int
    """Offsets between it and the one that runs."""
    per_s: float
    """Handled a second, since the first look."""

    @property
    def level(self) -> bool:
        """Whether it is as far as the one that runs, but for what it handles in a moment."""
        return self.left <= _LEVEL_S * self.per_s

    @property
    def eta_s(self) -> float | None:
        """Seconds until it is level at this rate; None = not known."""
        return self.left / self.per_s if self.per_s > 0 else None

    @property
    def share(self) -> float:
        """Done of all, 0 to 1."""
        return self.done / total if (total := self.done + self.left) else 1.0

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        eta = self.eta_s
        return {
            "done": self.done, "left": self.left, "per_s": round(self.per_s, 1),
            "share": round(self.share, 4),
            "eta_s": None if eta is None else round(eta, 1), "level": self.level,
        }  # fmt: skip


class Watch:
    """Looks at both groups; the first look is where the progress begins."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._clock = clock
        self._began: tuple[float, Mapping[At, int]] | None = None
        self._done = 0
        self._moved_at = clock()
        self.still_s = 0.0
        """For how long nothing moved while something was left."""

    def look(self) -> Look:
        """Look now; raises KafkaUnavailable, NotAuthorized."""
        mine, ends = positions(self._plan)
        look = self.summary(mine, ends)
        if look.level or look.left > _LEAST_LEFT or not self.still_s:
            return look
        return self.summary(mine | {at: end for at, end in ends.items() if self._passes(mine, at, end)}, ends)

    def _passes(self, mine: Mapping[At, int], at: At, end: int) -> bool:
        return at in mine and nothing_between(self._plan, *at, mine[at], end)

    def summary(self, mine: Mapping[At, int], ends: Mapping[At, int]) -> Look:
        """Put positions of both together."""
        now = self._clock()
        if self._began is None:
            self._began = (now, dict(mine))
        at_s, first = self._began
        done = sum(max(offset - first.get(at, offset), 0) for at, offset in mine.items())
        left = sum(max(end - mine[at], 0) for at, end in ends.items() if at in mine)
        if done > self._done or not left:
            self._done, self._moved_at = done, now
        self.still_s = now - self._moved_at
        return Look(done, left, done / elapsed if (elapsed := now - at_s) > 0 else 0.0)


def positions(plan: Plan) -> tuple[dict[At, int], dict[At, int]]:
    """Return where both generations stand on each input partition: the new one, the one that runs."""
    topics = {spec.named(plan.kafka.topic_prefix) for spec in plan.inputs}
    mine, live = (
        {at: offset for at, offset in committed_offsets(plan.kafka, group).items() if at[0] in topics}
        for group in (plan.group, plan.live_group)
    )
    return mine, live


def nothing_between(plan: Plan, topic: str, partition: int, start: int, end: int) -> bool:
    """Say whether no record is committed from ``start`` to before ``end``: markers take offsets, too."""
    if start >= end:
        return True
    with closing(CommittedReader(plan.kafka, topic)) as reader:
        return next(iter(reader.read({partition: start}, {partition: end})), None) is None
