"""What ingest did not accept, held for a while so that a producer can read it back."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.published import time_text

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Verdict:
    """One event that was not accepted, and why."""

    event_id: str
    seq: int
    type: str
    verdict: str
    detail: str
    time_us: int
    read_s: float
    """When this edge read it: seconds of its monotonic clock."""

    def shown(self) -> dict[str, object]:
        """As a producer is shown it."""
        return {
            "event_id": self.event_id,
            "type": self.type,
            "seq": self.seq,
            "verdict": self.verdict,
            "detail": self.detail,
            "time": time_text(self.time_us),
        }


def verdict_of(fields: Mapping[str, Any], *, read_s: float) -> Verdict:
    """Make a verdict of a ``sluicegate.Reject`` record."""
    return Verdict(
        event_id=fields["event_id"],
        seq=fields["seq"],
        type=fields["type"],
        verdict=fields["verdict"],
        detail=fields["detail"],
        time_us=fields["time_us"],
        read_s=read_s,
    )


class RejectBook:
    """Verdicts by stream; bounded by stream, in all, and by age. What is older stands in the topic."""

    def __init__(self, *, per_stream_max: int, total_max: int, ttl_ms: int) -> None:
        self._per_stream_max = per_stream_max
        self._total_max = total_max
        self._ttl_s = ttl_ms / 1_000
        self._streams: OrderedDict[bytes, deque[Verdict]] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def add(self, key: bytes, verdict: Verdict) -> None:
        """Take a verdict; the oldest of the same stream, or the stream untouched longest, gives way."""
        held = self._streams.setdefault(key, deque())
        self._streams.move_to_end(key)
        held.append(verdict)
        self._total += 1
        if len(held) > self._per_stream_max:
            held.popleft()
            self._total -= 1
        while self._total > self._total_max:
            _, gone = self._streams.popitem(last=False)
            self._total -= len(gone)

    def of(self, key: bytes) -> list[Verdict]:
        """The verdicts of a stream, newest first."""
        return list(reversed(self._streams.get(key, ())))

    def sweep(self, now_s: float) -> None:
        """Let go of what is too old; to be called every second or so."""
        oldest_s = now_s - self._ttl_s
        for key in list(self._streams):
            held = self._streams[key]
            if held[-1].read_s >= oldest_s:
                return  # streams stand in the order of their latest verdict
            self._total -= len(held)
            del self._streams[key]
