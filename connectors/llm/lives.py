"""Which life of a stream's name a question is of: once its history is over, the name may be opened again.

What ended or stopped one life says nothing of the next. By CONTRACT.md section 4 a name is opened again only
when the time of its kind has passed since its end, so a question that is asked after it is of a later life.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from schemas.kinds import HOUR_MS

if TYPE_CHECKING:
    from connectors.llm.ledger import Attempt, EndReason, Known
    from schemas.kinds import KindTable

Key = TypeVar("Key")
Value = TypeVar("Value")
NAMES_MAX: Final = 100_000
"""Names of which it is known how they ended, and as many that were stopped: the latest."""
_EARLY_US_MAX: Final = 60_000_000
"""Two brokers' clocks, and that of the worker which ended it, may differ by as much; or by half of a short
time of a kind."""
_UNDECLARED_MS: Final = HOUR_MS
"""What ``ingest`` takes for a kind that is declared no more."""


class _Ended(NamedTuple):
    attempt: int
    """The highest number on the ledger."""
    last: int = 0
    """That at the end of the latest life which is over."""
    again_us: int = 0
    """A question asked by then is of a life that is over; 0 = none is."""


class _Stop(NamedTuple):
    reason: EndReason
    again_us: int


class Lives:
    """What is known of streams by name, each with the life that it belongs to; belongs to one loop."""

    def __init__(self, kinds: KindTable) -> None:
        self._kinds = kinds
        self._stops: OrderedDict[bytes, _Stop] = OrderedDict()
        self._names: OrderedDict[bytes, _Ended] = OrderedDict()

    def took(self, row: Attempt, at_us: int) -> None:
        """Take a row of the ledger, appended at a time."""
        known = self._names.get(row.operation, _Ended(0))
        attempt = max(known.attempt, row.attempt)
        ended = _Ended(attempt, known.last, known.again_us)
        if row.end_reason:
            ended = _Ended(attempt, attempt, self._again_us(row.kind, at_us))
        remember(self._names, row.operation, ended)

    def stop(self, key: bytes, kind: str, reason: EndReason, at_us: int) -> None:
        """Take that a stream was cancelled, or timed out."""
        remember(self._stops, key, _Stop(reason, self._again_us(kind, at_us)))

    def stopped(self, key: bytes, asked_us: int) -> EndReason:
        """Say as what a question is to end: cancelled or timed out of late; empty = it may go on."""
        found = self._stops.get(key)
        return found.reason if found is not None and asked_us < found.again_us else ""

    def has_ended(self, key: bytes, asked_us: int, known: Known | None = None) -> bool:
        """Say whether the life that a question is of is over, by what was read here or a dead owner left."""
        end = None if known is None else known.end
        again_us = 0 if end is None else self._again_us(end.kind, end.ended_us)
        return asked_us < max(again_us, self._names.get(key, _Ended(0)).again_us)

    def first_attempt(self, key: bytes) -> int:
        """Return the number of a life's first attempt: above those of the life before, as far as known."""
        return self._names.get(key, _Ended(0)).last + 1

    def _again_us(self, kind: str, at_us: int) -> int:
        declared = self._kinds.named(kind) if kind in self._kinds else None
        kept_ms = (
            max(declared.order.dedupe_ttl_ms, declared.replay.history_ms) if declared else _UNDECLARED_MS
        )
        kept_us = kept_ms * 1_000
        return at_us + kept_us - min(kept_us // 2, _EARLY_US_MAX)


def remember(held: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    """Note it as the latest, and forget the oldest beyond ``NAMES_MAX``."""
    held[key] = value
    held.move_to_end(key)
    if len(held) > NAMES_MAX:
        held.popitem(last=False)
