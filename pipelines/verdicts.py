"""The named verdicts on events that ingest does not accept, and where each goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from schemas import topics
from schemas.kinds import HOUR_MS, OrderPolicy

if TYPE_CHECKING:
    from schemas.envelope import Event
    from schemas.kinds import KindTable
    from schemas.record import Record
    from schemas.wire import WireCodec
    from state.scope import Scope

Verdict = Literal[
    "duplicate",
    "late",
    "out_of_order",
    "orphan",
    "second_open",
    "mixed_seq",
    "stale_epoch",
    "second_end",
    "wrong_kind",
]
"""duplicate: this event id was accepted before. late: after the stream's end. out_of_order: its seq was
passed. orphan: no ``open`` before it. second_open, second_end: there was one. mixed_seq: numbered by the
producer and by ingest in one stream. stale_epoch: of an output that was started over. wrong_kind: of
another kind than its stream."""

OUTPUT: Final = "output"
DEAD_LETTER: Final = "dead_letter"
TICK: Final = "tick"
HELD: Final = "reorder_held"
"""Inputs that entered the reorder buffer; those in it now are ``HELD`` less ``RELEASED``."""
RELEASED: Final = "reorder_released"
MADE: Final = "made"
"""Events that ingest itself added: gap and timed-out end."""
FUTURE_DATED: Final = "future_dated"
"""Inputs dated more than a minute after their append."""

_UNDECLARED: Final = OrderPolicy(
    reorder_events_max=256, reorder_ms_max=30_000, dedupe_ttl_ms=HOUR_MS, rejects="dead_letter"
)


def order_of(kinds: KindTable, kind: str) -> OrderPolicy:
    """Return a kind's order policy; a strict one for a kind that was declared when its stream began."""
    return kinds.named(kind).order if kind in kinds else _UNDECLARED


@dataclass(frozen=True, slots=True)
class Rejects:
    """Says a verdict: to the rejects topic, and with the bytes to the dead letters if the kind wants it."""

    kinds: KindTable
    codec: WireCodec

    def say(self, scope: Scope, record: Record, event: Event, verdict: Verdict, detail: str) -> None:
        """Have the verdict kept; the caller counts it."""
        reject = {
            "event_id": event.event_id, "tenant": event.tenant, "stream_id": event.stream_id,
            "seq": event.seq, "type": event.type, "verdict": verdict, "detail": detail,
            "topic": record.topic, "partition": record.partition, "offset": record.offset,
            "time_us": event.time,
        }  # fmt: skip
        value = self.codec.encode(topics.REJECTS.subject, reject)
        scope.emit(topics.REJECTS, event.key, value, partition=scope.partition)
        if verdict == "second_open":
            # A question to a language model may have been written with it, and is nobody's then.
            scope.emit(topics.LLM_CONTROL, event.key, record.value, partition=scope.partition)
        # Two producers that disagree about a stream's kind disagree about its policies: somebody must look.
        wanted = verdict == "wrong_kind" or order_of(self.kinds, event.kind).rejects == "dead_letter"
        if wanted and verdict != "duplicate":
            scope.dead_letter(record, verdict, detail)
