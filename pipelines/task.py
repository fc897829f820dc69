"""What is kept of a task, of each of its parts, and their binary forms."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pipelines.figures import pack_counts, unpack_counts
from schemas.envelope import LONG_MAX
from state.binary import CorruptValue, pack_texts, unpack_text

if TYPE_CHECKING:
    from collections.abc import Mapping

SUMS: Final = (
    "attempts", "failed_attempts", "running", "other_calls", "other_errors", "known_nanos", "estimated_nanos",
    "cost_unknown", "input_tokens", "output_tokens", "tokens_unknown",
)  # fmt: skip
BY_UPSTREAM: Final = ("calls", "known", "estimated", "unknown")
UPSTREAMS_MAX: Final = 32
"""Upstreams that a task tells apart; the rest is ``OTHER``."""
OTHER: Final = "other"
OPEN: Final = "open"
_STATES: Final = {"completed": "completed", "cancelled": "cancelled"}
_VERSION: Final = 1
_PART: Final = struct.Struct(f">BB{len(SUMS)}q")
_TIMES: Final = ("begun_us", "started_us", "ended_us", "last_us", "due_us")
_TASK: Final = struct.Struct(f">B{len(SUMS) + len(_TIMES) + 1}q")


@dataclass(frozen=True, slots=True)
class Share:
    """What a part has brought to its task: taken back when the part is revised."""

    rank: int
    upstream: str
    """As it was counted: ``OTHER`` if the task had too many; empty = it is no call."""
    sums: tuple[int, ...]
    """In the order of ``SUMS``."""

    def by_upstream(self) -> tuple[int, ...]:
        """Return calls, known, estimated and unknown cost."""
        sums = dict(zip(SUMS, self.sums, strict=True))
        calls = sums["attempts"] + sums["other_calls"]
        return calls, sums["known_nanos"], sums["estimated_nanos"], sums["cost_unknown"]

    def write(self) -> bytes:
        """Return the stored form."""
        return _PART.pack(_VERSION, self.rank, *self.sums) + pack_texts(self.upstream)

    @classmethod
    def read(cls, data: bytes) -> Share:
        """Return the share of a stored form, or raise CorruptValue."""
        if len(data) < _PART.size or data[0] != _VERSION:
            raise CorruptValue(f"part of a task of {len(data)} bytes, version {data[:1].hex()}")
        _, rank, *sums = _PART.unpack_from(data)
        return cls(rank, unpack_text(data, _PART.size)[0], tuple(sums))


@dataclass(slots=True)
class Task:
    """One life of a task; ``sluicegate.LlmTask`` says what its figures are."""

    begun_us: int
    started_us: int = 0
    ended_us: int = 0
    last_us: int = 0
    due_us: int = 0
    """Forgotten at this event time, unless something comes before."""
    revision: int = 0
    end_reason: str = ""
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    by_upstream: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in BY_UPSTREAM})

    @property
    def has_calls(self) -> bool:
        """Whether there is anything to say of it: most streams call nobody."""
        return bool(self.by_upstream["calls"])

    @property
    def state(self) -> str:
        """Where it stands, as its root stream ended; what is neither completed nor cancelled has failed."""
        return _STATES.get(self.end_reason, "failed") if self.end_reason else OPEN

    def share_of(self, part: Mapping[str, Any]) -> Share:
        """Return what a part brings, under the name that this task counts its upstream by."""
        upstream = part["upstream"]
        known = self.by_upstream["calls"]
        if upstream not in known and len(known) >= UPSTREAMS_MAX:
            upstream = OTHER
        return Share(part["rank"], upstream, tuple(part[name] for name in SUMS))

    def add(self, share: Share, sign: int = 1) -> None:
        """Take a share in, or with ``sign`` -1 back."""
        for name, value in zip(SUMS, share.sums, strict=True):
            self.sums[name] = _bounded(self.sums[name] + sign * value)
        if not share.upstream:
            return
        for name, value in zip(BY_UPSTREAM, share.by_upstream(), strict=True):
            counts = self.by_upstream[name]
            counts[share.upstream] = _bounded(counts.get(share.upstream, 0) + sign * value)

    def fields(self) -> dict[str, Any]:
        """Return the figures by the names that the topic's schema gives them."""
        by_upstream = {
            f"{name}_by_upstream": {upstream: value for upstream, value in counts.items() if value}
            for name, counts in self.by_upstream.items()
        }
        times = {name: getattr(self, name) for name in _TIMES if name != "due_us"}
        return {
            **self.sums, **by_upstream, **times, "state": self.state, "end_reason": self.end_reason,
            "revision": self.revision,
        }  # fmt: skip

    def write(self) -> bytes:
        """Return the stored form: version, sums, times, revision, reason of the end, maps by upstream."""
        times = [getattr(self, name) for name in _TIMES]
        head = _TASK.pack(_VERSION, *self.sums.values(), *times, self.revision)
        return b"".join((head, pack_texts(self.end_reason), *map(pack_counts, self.by_upstream.values())))

    @classmethod
    def read(cls, data: bytes) -> Task:
        """Return the task of a stored form, or raise CorruptValue."""
        if len(data) < _TASK.size or data[0] != _VERSION:
            raise CorruptValue(f"task of {len(data)} bytes, version {data[:1].hex()}")
        _, *numbers = _TASK.unpack_from(data)
        sums, times = numbers[: len(SUMS)], numbers[len(SUMS) : -1]
        task = cls(**dict(zip(_TIMES, times, strict=True)), revision=numbers[-1])
        task.sums = dict(zip(SUMS, sums, strict=True))
        task.end_reason, at = unpack_text(data, _TASK.size)
        for name in BY_UPSTREAM:
            task.by_upstream[name], at = unpack_counts(data, at)
        return task


def _bounded(value: int) -> int:
    return min(max(value, 0), LONG_MAX)
