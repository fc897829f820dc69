"""A worker that keeps the ledger and the tally, as a process: ``python -m tests.faults.worker OPTIONS``.

The engine under it is the real one; ``plants`` names defects that are planted into it, to show that the
checker finds them, and the points at which it kills itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from connectors.kafka.columns import Columns, columns_of
from connectors.kafka.membership import ConsumerOptions
from connectors.kafka.options import KafkaOptions
from connectors.kafka.ports import CoordinatorOptions
from pipelines.engine import Engine, EngineOptions
from pipelines.metrics import WorkerMetrics
from pipelines.role import RoleApp
from pipelines.slots import Slot
from pipelines.tools import Tools
from schemas.catalog import LocalSchemas
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec
from tests.faults import plants
from tests.faults.ledger import (
    BALANCE,
    CHANGELOGS,
    GRACE_MS,
    INPUT,
    OUTPUT,
    OVERSIZED,
    POISON,
    TIME,
    TIME_KEY,
    VERDICTS,
    Entry,
    seen_key,
    state_key,
)
from tests.faults.tally import AGENT, READINGS, TALLIES, sum_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.record import Record
    from state.scope import Scope

ROLE = "ledger"
SLOW_S = 0.025
"""What a slow agent takes an event: with a chunk it is longer at work than members stay, or a stop waits."""


def book(scope: Scope, record: Record, unit: int) -> None:
    """Handle one record; its outcome says which unit of work it was made in, and for which input."""
    assert record.key is not None
    entry = None if record.value in (POISON, OVERSIZED) else Entry.decode(record.key, record.value or b"")
    balance = scope.state.get(state_key(record.key)) or bytes(BALANCE.size)
    count, total = BALANCE.unpack(balance)
    if entry is None:  # effects first: they must be undone
        scope.state.put(state_key(record.key), BALANCE.pack(count + 1, total))
        size = OUTPUT.max_message_bytes if record.value == OVERSIZED else 10
        scope.emit(OUTPUT, record.key, bytes(size), partition=record.partition)
        raise ValueError("poison")
    about = [entry.event_id, unit, record.offset]
    seen = seen_key(entry.event_id)
    time_ms = TIME.unpack(scope.state.get(TIME_KEY) or bytes(TIME.size))[0]
    if scope.state.get(seen) is not None:
        verdict = "duplicate"
    elif entry.time_ms < time_ms - GRACE_MS:
        verdict = "late"
    else:
        count, total = count + 1, total + entry.amount
        scope.state.put(state_key(record.key), BALANCE.pack(count, total))
        scope.state.put(seen, b"1")
        scope.state.put(TIME_KEY, TIME.pack(max(time_ms, entry.time_ms)))
        value = orjson.dumps([*about, count, total])
        scope.emit(OUTPUT, record.key, value, partition=record.partition)
        return
    scope.emit(VERDICTS, record.key, orjson.dumps([*about, verdict]), partition=record.partition)


def values_of(records: Any) -> list[bytes | None]:
    """Decode for agents of events: a value is itself."""
    return [record.value for record in records]


def plain(values: Any) -> Columns:
    """Decode for an agent of columns: one column, each record a row."""
    batch = pa.RecordBatch.from_pydict({"value": pa.array(values, pa.binary())})
    return Columns(batch, list(range(len(values))), [])


def build(
    *,
    bootstrap: str,
    prefix: str,
    state_dir: Path,
    mode: str,
    identity: str = "",
    assignment: Any = "range",
    transaction_timeout_ms: int = 10_000,
    session_timeout_ms: int = 6_000,
    cleanup: str = "compact",
    alone: bool = False,
    planted: dict[str, int] | None = None,
) -> RoleApp:
    """Build the app; ``mode`` is ``event``, ``slow`` (an event at a time), ``batch`` or ``columns``."""
    slot = Slot(state_dir, ROLE, identity)
    group = f"{prefix}{ROLE}"
    schemas = LocalSchemas()
    options = EngineOptions(
        kafka=KafkaOptions(bootstrap, prefix),
        group=group,
        transactional_id=f"{group}.{slot.identity}",
        transaction_timeout_ms=transaction_timeout_ms,
        state_dir=slot.folder,
        consumer=ConsumerOptions(
            group, f"{ROLE}-{slot.identity}", assignment, session_timeout_ms=session_timeout_ms
        ),
        coordinator=CoordinatorOptions(),
    )
    tools = Tools(WireCodec(schemas), PayloadCodec(schemas), BUILTIN_KINDS)
    app = RoleApp(ROLE, Engine(options, tools, WorkerMetrics(ROLE)), slot=slot, web_enabled=False)
    how = {"columns": columns_of(plain)} if mode == "columns" else {"decode": values_of}
    entries = app.source(INPUT, agent=ROLE, changelog=CHANGELOGS[cleanup], **how)

    def numbered(handle: Callable[[Scope, Record, int], None]) -> Callable[[Scope, Record], None]:
        # The number that the open unit of work will have: it is given when the unit commits.
        return lambda scope, record: handle(scope, record, app.engine.unit.number + 1)

    @app.agent(entries)
    async def ledger(stream: Any) -> None:
        await AGENTS[mode](stream, numbered(book))

    if not alone:
        readings = app.source(READINGS, agent=AGENT, changelog=TALLIES, **how)

        @app.agent(readings)
        async def tally(stream: Any) -> None:
            await AGENTS[mode](stream, numbered(sum_up))

    plants.install(app, planted or {})
    return app


async def each_event(stream: Any, each: Callable[[Scope, Record], None]) -> None:
    async for _value in stream:
        each(stream.scope, stream.record)


async def each_event_slowly(stream: Any, each: Callable[[Scope, Record], None]) -> None:
    async for _value in stream:
        await asyncio.sleep(SLOW_S)
        each(stream.scope, stream.record)


async def each_batch(stream: Any, each: Callable[[Scope, Record], None]) -> None:
    async for batch in stream.batches():
        for record, _value in batch.items:
            each(batch.scope, record)


async def each_columns(stream: Any, each: Callable[[Scope, Record], None]) -> None:
    async for batch in stream.record_batches():
        assert batch.columns.num_rows == len(batch.records)
        for record in batch.records:
            each(batch.scope, record)


AGENTS = {"event": each_event, "slow": each_event_slowly, "batch": each_batch, "columns": each_columns}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["state_dir"] = Path(given["state_dir"])
    built = build(**given)
    built.Worker(
        loglevel="warning", quiet=True, redirect_stdouts=False, override_logging=False
    ).execute_from_commandline()
