"""What a task's cost is made of, taken from where it stands and brought to the partition of the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from connectors.llm.emitter import SOURCE as LEDGER_SOURCE
from pipelines.attempt_figures import REFUSED, cost_of
from pipelines.attempts import name_in_stream
from pipelines.task import OTHER
from pipelines.verdicts import DEAD_LETTER, TICK
from schemas import topics
from schemas.envelope import LONG_MAX
from schemas.errors import ContractError, WireError
from schemas.tasks import is_root, upstream_of
from schemas.usage import UNKNOWN, sorts_of_cost
from state.schema import StoreSchema, kv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connectors.kafka.stream import ColumnBatch
    from schemas.payloads import PayloadCodec
    from schemas.record import Record
    from schemas.wire import WireCodec
    from state.scope import Scope

RUNS: Final = 0
SETTLED: Final = 1
_TYPES: Final = pa.array(["open", "usage", "end"])
_FIELDS: Final = (
    "event_id", "tenant", "stream_id", "type", "time", "source", "task_id", "upstream_id", "payload",
    "payload_schema",
)  # fmt: skip
_ROOT: Final = b"r"
_OTHER: Final = b"o"
_MODEL: Final = "model"

Part = dict[str, Any]


def part_of_attempt(attempt: Mapping[str, Any]) -> Part:
    """Return an attempt as a part of its task; one that was refused after all takes back that it runs."""
    called = attempt["state"] != REFUSED
    runs = attempt["state"] == "started"
    known, estimated, unknown = (0, 0, 0) if runs else cost_of(attempt)
    tokens = [attempt["input_tokens"], attempt["output_tokens"]]
    return {
        "tenant": attempt["tenant"],
        "task_id": attempt["task_id"] or attempt["stream_id"],
        "part": f"attempt:{name_in_stream(attempt)}",
        "rank": RUNS if runs else SETTLED,
        "upstream": (attempt["upstream"] or _MODEL) if called else "",
        "attempts": int(called),
        "failed_attempts": int(called and not runs and attempt["state"] != "completed"),
        "running": int(runs),
        "known_nanos": known,
        "estimated_nanos": estimated,
        "cost_unknown": unknown,
        "input_tokens": max(tokens[0] or 0, 0),
        "output_tokens": max(tokens[1] or 0, 0),
        "tokens_unknown": int(called and not runs and None in tokens),
        "started_us": attempt["started_us"],
        "time_us": attempt["ended_us"] or attempt["started_us"],
    }


def part_of_usage(event: Mapping[str, Any], usage: Mapping[str, Any], task_id: str) -> Part:
    """Return a usage event of an upstream other than the ledger's as a part of its task."""
    known, estimated, unknown = sorts_of_cost(usage)
    return {
        "tenant": event["tenant"],
        "task_id": task_id,
        "part": f"usage:{event['stream_id']}/{event['event_id']}",
        "rank": SETTLED,
        "upstream": upstream_of(event["upstream_id"], usage["provider"]) or OTHER,
        "other_calls": usage["calls"],
        "other_errors": usage["errors"],
        "known_nanos": known,
        "estimated_nanos": estimated,
        "cost_unknown": unknown,
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "tokens_unknown": int(usage["provenance"] == UNKNOWN),
        "started_us": max(event["time"] - min(usage["latency_ms"], LONG_MAX // 1_000) * 1_000, 0),
        "time_us": event["time"],
    }


def part_of_end(event: Mapping[str, Any], end: Mapping[str, Any], task_id: str) -> Part:
    """Return the end of a task's root stream as a part of the task."""
    return {
        "tenant": event["tenant"], "task_id": task_id, "part": f"end:{event['stream_id']}",
        "rank": SETTLED, "end_reason": end["reason"], "started_us": event["time"], "time_us": event["time"],
    }  # fmt: skip


def emit_attempts(scope: Scope, codec: WireCodec, items: Iterable[tuple[Record, Any]]) -> None:
    """Have the attempts among records of the ledger appended as parts; what is none is another's to tell."""
    for _record, item in items:
        if isinstance(item, dict):
            emit_part(scope, codec, part_of_attempt(item))


def emit_part(scope: Scope, codec: WireCodec, part: Part) -> None:
    """Have a part appended where all of its task's are."""
    key = f"{part['tenant']}/{part['task_id']}".encode()
    scope.emit(topics.LLM_TASK_PARTS, key, codec.encode(topics.LLM_TASK_PARTS.subject, part))


class TaskEvents:
    """Finds in the output what tasks are made of: usage of other upstreams, and ends of root streams.

    Nearly all events are neither, so they are told apart by column. Kept is the task of each open stream that
    names one; ingest ends every stream, so what is kept is bounded by those that are open.
    """

    def __init__(self, codec: WireCodec, payloads: PayloadCodec) -> None:
        self._codec, self._payloads = codec, payloads
        self.store = StoreSchema(
            parts=(kv("s", key="tenant/stream_id", value="r = root of its task, o = other; task_id"),)
        )

    def handle(self, batch: ColumnBatch) -> None:
        """Handle events of one partition in offset order.

        Raises:
            RegistryUnavailable: a payload's schema cannot be fetched; nothing may be kept of the call.
        """
        scope, types = batch.scope, batch.columns["type"]
        rows = pc.indices_nonzero(pc.is_in(types, value_set=_TYPES))
        ticks = pc.sum(pc.equal(types, TICK)).as_py() or 0
        found = dict.fromkeys(("counted", "ignored", DEAD_LETTER), 0)
        events = batch.columns.select(_FIELDS).take(rows).to_pylist()
        for row, event in zip(rows.to_pylist(), events, strict=True):
            try:
                found["counted" if self._take(scope, event) else "ignored"] += 1
            except (ContractError, WireError) as error:
                scope.dead_letter(batch.records[row], type(error).__name__, str(error))
                found[DEAD_LETTER] += 1
        found |= {TICK: ticks, "ignored": found["ignored"] + len(types) - len(events) - ticks}
        for outcome, count in found.items():
            if count:
                scope.count(outcome, count)

    def _take(self, scope: Scope, event: Mapping[str, Any]) -> bool:
        """Take an event in; tells whether it is a part of a task."""
        if event["type"] == "usage" and event["source"] == LEDGER_SOURCE:
            return False  # the ledger has it
        key = b"s" + f"{event['tenant']}/{event['stream_id']}".encode()
        fields = self._payloads.decode_as(event["type"], event["payload_schema"], event["payload"])
        if event["type"] == "open":
            task_id = event["task_id"]
            root = is_root(event["stream_id"], task_id, fields["labels"])
            if task_id not in ("", event["stream_id"]):
                scope.state.put(key, (_ROOT if root else _OTHER) + task_id.encode())
            elif scope.state.get(key) is not None:  # of an id that is used again
                scope.state.delete(key)
            return False
        kept = scope.state.get(key)
        task_id = event["stream_id"] if kept is None else kept[1:].decode()
        if event["type"] == "usage":
            emit_part(scope, self._codec, part_of_usage(event, fields, event["task_id"] or task_id))
            return True
        if kept is not None:
            scope.state.delete(key)
            if kept[:1] != _ROOT:
                return False
        emit_part(scope, self._codec, part_of_end(event, fields, task_id))
        return True
