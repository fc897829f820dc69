"""Windows of the ledger: settled attempts by tenant, kind, provider, model and prompt, each counted once.

An attempt stands on the ledger when it is begun and again when it is settled, and a worker that took over may
settle it once more. It counts as it was settled first, in the window in which it ended.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from connectors.llm.ledger import name_of
from pipelines.attempt_figures import AttemptFigures, Called
from pipelines.two_stage import MergeStage, PartialStage, Stages
from schemas import topics
from schemas.errors import WireError
from state.schema import kv
from state.ttl import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipelines.two_stage import PartialBatch, TwoStageOptions
    from schemas.record import Record
    from schemas.wire import WireCodec

ATTEMPTS: Final = Stages(
    Called, "pipelines.attempt_figures.Called", AttemptFigures, topics.LLM_PARTIALS, topics.LLM_WINDOWS
)
STARTED: Final = "started"
DUPLICATE: Final = "duplicate"
IGNORED: Final = "ignored"
SEEN_TTL_MS: Final = 6 * 3_600_000
"""A worker that takes over settles within seconds of its start: hours are a long outage. Two entries an
attempt, some 150 bytes, so ten attempts a second hold 30 MB."""
_DUE: Final = struct.Struct(">q")


class AttemptPartials(PartialStage[Called, AttemptFigures]):
    """First stage. Time moves by what is settled: on a quiet partition the last windows stay open."""

    def __init__(self, codec: WireCodec, options: TwoStageOptions | None = None) -> None:
        super().__init__(
            ATTEMPTS,
            codec,
            options,
            parts=(
                kv("a", key="tenant/stream_id/attempt", value="forgotten at >q", ttl_ms=SEEN_TTL_MS),
                kv("e", key="forgotten at >q, key in a", value="", ttl_ms=SEEN_TTL_MS),
            ),
        )
        self._expiries = ExpiryIndex(b"e")

    def take(
        self, batch: PartialBatch[Called, AttemptFigures], record: Record, item: Mapping[str, Any] | None
    ) -> None:
        """See ``PartialStage``."""
        if isinstance(item, WireError):
            batch.dead_letter(record, item)
        elif item is None or item["state"] == STARTED:
            batch.counts[IGNORED] += 1
        elif not self._is_new(batch, record, item):
            batch.counts[DUPLICATE] += 1
        else:
            ended_us = ended_us_of(item, record)
            if not batch.add(record, ended_us, Called.of_fields(item), lambda figures: figures.add(item)):
                batch.late(record, ended_us)
        self._forget(batch)

    def _is_new(
        self, batch: PartialBatch[Called, AttemptFigures], record: Record, attempt: Mapping[str, Any]
    ) -> bool:
        view, key = batch.scope.state, attempt_key(attempt)
        # Until ``SEEN_TTL_MS`` after an upgrade what was counted before may stand without its question.
        if any(view.get(b"a" + known) is not None for known in (key, key.rpartition(b"@")[0])):
            return False
        # By the broker's time, which goes on however an attempt is dated.
        due_us = record.timestamp_us + SEEN_TTL_MS * 1_000
        view.put(b"a" + key, _DUE.pack(due_us))
        self._expiries.put(view, due_us, key)
        return True

    def _forget(self, batch: PartialBatch[Called, AttemptFigures]) -> None:
        view = batch.scope.state
        for due_us, key in self._expiries.due(view, batch.clock.now_us, self._options.chores_max):
            self._expiries.remove(view, due_us, key)
            view.delete(b"a" + key)


class AttemptMerge(MergeStage[Called, AttemptFigures]):
    """Second stage."""

    def __init__(self, codec: WireCodec, options: TwoStageOptions | None = None) -> None:
        super().__init__(ATTEMPTS, codec, options)


def attempt_key(attempt: Mapping[str, Any]) -> bytes:
    """Return an attempt's key on the ledger."""
    return f"{attempt['tenant']}/{name_in_stream(attempt)}".encode()


def name_in_stream(attempt: Mapping[str, Any]) -> str:
    """Return ``stream_id/attempt@partition.offset``, with the place of the question that it is for."""
    name = name_of(attempt["attempt"], attempt["request_partition"], attempt["request_offset"])
    return f"{attempt['stream_id']}/{name}"


def ended_us_of(attempt: Mapping[str, Any], record: Record) -> int:
    """Return when a settled attempt was over; of one that does not say, when it was written down."""
    return int(attempt["ended_us"]) or record.timestamp_us
