"""How far the groups are behind, and whether that grows: two looks at the same offsets."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.lag import PartitionLag

Trend = Literal["growing", "shrinking", "even", "unknown"]

# Below this a change is noise: a unit of work commits some hundred records at once.
_EVEN_RECORDS = 50


@dataclass(frozen=True, slots=True)
class GroupLag:
    """One group at the second look; rates are per second, between the looks."""

    group: str
    records: int
    """All that is not consumed yet, up to the last stable offsets."""
    seconds: float
    """Age of the oldest record that is not consumed yet."""
    unstable_records: int
    """Offsets beyond the last stable ones: of open transactions, or not yet told to be closed."""
    trend: Trend
    arriving_per_s: float
    consumed_per_s: float
    partitions: tuple[PartitionLag, ...]
    """Worst first."""

    @property
    def known(self) -> bool:
        """Whether the group ever committed a position."""
        return bool(self.partitions)

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        worst = self.partitions[0] if self.partitions else None
        return {
            **{name: value for name, value in asdict(self).items() if name != "partitions"},
            "worst": worst._asdict() if worst is not None else None,
            "partitions": [partition._asdict() for partition in self.partitions],
        }


class LagWatch:
    """Compares each look with the one before; ``look`` gives a group's partitions, worst first."""

    def __init__(
        self,
        groups: Sequence[str],
        look: Callable[[str], Sequence[PartitionLag]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups = tuple(groups)
        self._look = look
        self._clock = clock
        self._before: dict[str, tuple[float, Sequence[PartitionLag]]] = {}

    def look(self) -> list[GroupLag]:
        """Look at every group now."""
        found = []
        for group in self._groups:
            partitions = self._look(group)
            now = self._clock()
            found.append(summarise(group, partitions, self._before.get(group), now))
            self._before[group] = (now, partitions)
        return found


def summarise(
    group: str,
    partitions: Sequence[PartitionLag],
    before: tuple[float, Sequence[PartitionLag]] | None,
    now_s: float,
) -> GroupLag:
    """Put one look and the one before it together."""
    records = sum(partition.records for partition in partitions)
    trend: Trend = "unknown"
    arriving = consumed = 0.0
    if before is not None and before[1] and partitions:
        at_s, earlier = before
        elapsed_s = max(now_s - at_s, 1e-3)
        old = {(partition.topic, partition.partition): partition for partition in earlier}
        pairs = [(old.get((part.topic, part.partition)), part) for part in partitions]
        both = [(then, part) for then, part in pairs if then is not None]
        arriving = sum(part.last_stable - then.last_stable for then, part in both) / elapsed_s
        consumed = (
            sum(part.committed - then.committed for then, part in both if then.committed >= 0) / elapsed_s
        )
        change = records - sum(partition.records for partition in earlier)
        trend = "even" if abs(change) <= _EVEN_RECORDS else "growing" if change > 0 else "shrinking"
    return GroupLag(
        group=group,
        records=records,
        seconds=max((partition.seconds for partition in partitions), default=0.0),
        unstable_records=sum(max(0, part.high_watermark - part.last_stable) for part in partitions),
        trend=trend,
        arriving_per_s=round(arriving, 1),
        consumed_per_s=round(consumed, 1),
        partitions=tuple(partitions),
    )
