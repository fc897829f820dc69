"""Archives records, windows, attempts, tasks and connections in PostgreSQL, each once, whoever dies.

PostgreSQL's own position wins (``connectors/postgres/sink.py``): on assignment the partition is claimed
and read from there; a batch commits in PostgreSQL first, then in Kafka.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from connectors.postgres.claim import Batch as Rows
from connectors.postgres.claim import Refusal
from connectors.postgres.errors import FenceLost, SinkError, SinkRefused, SinkUnfit, WentBack
from connectors.postgres.options import PostgresOptions
from connectors.postgres.sink import CONNECTIONS_MAX, CONTENTS_MAX, ArchiveSink
from connectors.threads import DaemonExecutor
from pipelines.errors import OptionsRefused, PartitionReleased, WorkerStopped
from pipelines.gauges import SinkGauges
from schemas.topics import (
    CONNECTIONS,
    LLM_ATTEMPTS,
    LLM_CONTENTS,
    LLM_TASKS,
    LLM_WINDOWS,
    RECORDS,
    USAGE_WINDOWS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connectors.kafka.stream import Batch, Stream
    from connectors.postgres.claim import Claim
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.record import Record
    from schemas.topics import TopicSpec


log = structlog.get_logger(__name__)

_REFUSED = SinkRefused.__name__
# A rebalance settles whose a partition is within seconds, max.poll.interval.ms at worst; later nobody will.
_FENCED_S_MAX = 120.0
_RETENTION_S = 60.0
_FORGOTTEN_AT_ONCE_MAX = 20
"""Statements of one round: 10,000 attempts and 100,000 connections a minute, far above what is made; batches
go between two."""


@dataclass(slots=True)
class _Held:
    """A partition that this worker was assigned."""

    claim: Claim
    """The last that PostgreSQL has given or moved: it never holds less than this."""
    live: bool = True
    """False = it must be renewed before it is used."""
    fenced: FenceLost | None = None
    fenced_at: float = 0.0
    unsettled: int = 0
    """Offset below which all must be committed in Kafka before noted refusals are deleted; 0 = none."""


class Archive:
    """One PostgreSQL session for all partitions of this worker, on a thread of its own.

    The event loop and the poll thread go on while the database is slow: a transient error makes the
    coordinator hold that partition and try again.
    """

    def __init__(self, options: PostgresOptions) -> None:
        self._sink = ArchiveSink(options)
        self._thread = DaemonExecutor(1, "archive")
        self._held: dict[tuple[str, int], _Held] = {}
        self.counts = self._sink.counts

    def assigned(self, topic: str, topic_id: str, partition: int, start: int) -> int:
        """Claim a partition and return where to begin; blocks.

        That is where PostgreSQL stands, or where Kafka stands if that is before: only after a crash
        between the two commits. What lies between is stored already, but its dead letters may be missing.

        Raises:
            SinkError: the database cannot be used; the worker's start says so.
        """
        try:
            claim = self._thread.submit(self._sink.claim, topic, topic_id, partition, start).result()
        except SinkError as error:
            self.counts.failed(error)
            raise
        self._held[topic, partition] = _Held(claim)
        return min(start, claim.next)

    def revoked(self, topic: str, partition: int) -> None:
        """Forget the claim; whoever owns the partition next makes a newer one."""
        self._held.pop((topic, partition), None)

    async def handle(self, batch: Batch, table: str) -> None:
        """Store a batch; rows that PostgreSQL refuses become dead letters, the others are stored.

        Raises:
            SinkError: a transient one: nothing is lost, the batch comes again.
            PartitionReleased: another worker has the partition; the batch waits until the group agrees.
            WorkerStopped: the group does not agree, the database does not fit, or it went back.
        """
        # Nothing was counted in this unit of work: whatever came before this batch, Kafka has committed.
        settled = 0 if batch.scope.counts else batch.items[0][0].offset
        loop = asyncio.get_running_loop()
        try:
            letters = await loop.run_in_executor(self._thread, self._store, batch, table, settled)
        except (SinkUnfit, WentBack) as error:
            raise WorkerStopped(str(error), remedy=error.remedy) from error
        for record, cause, detail in letters:
            batch.scope.dead_letter(record, cause, detail)
            batch.scope.count("dead_letter")
        batch.scope.count("archived", len(batch.items) - len(letters))

    async def forget(self, *, contents_ms: int, connections_ms: int) -> None:
        """Delete inputs and outputs, and connections, that are older; what cannot be done now is later."""
        await self._forget(self._sink.forget_contents, contents_ms, CONTENTS_MAX)
        await self._forget(self._sink.forget_connections, connections_ms, CONNECTIONS_MAX)

    async def _forget(self, forget: Callable[[int], int], older_than_ms: int, at_once_max: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_FORGOTTEN_AT_ONCE_MAX):
            try:
                forgotten = await loop.run_in_executor(self._thread, forget, older_than_ms)
            except SinkError as error:
                self.counts.failed(error)
                log.warning("what is too old is not deleted yet", cause=str(error))
                return
            if forgotten < at_once_max:
                return

    def _store(self, batch: Batch, table: str, settled: int) -> list[tuple[Record, str, str]]:
        held = self._held.get((batch.topic, batch.partition))
        if held is None:
            raise PartitionReleased(f"{batch.topic}[{batch.partition}] was revoked")
        if held.fenced is not None:
            raise _released(held.fenced, time.monotonic() - held.fenced_at)
        try:
            if not held.live:
                held.claim, held.live = self._sink.renew(held.claim), True
            return self._store_as(held, batch, table, settled)
        except FenceLost as error:
            # Never claimed again from here: if this worker slept, that would shut out the honest owner.
            self.counts.failed(error)
            held.fenced, held.fenced_at = error, time.monotonic()
            raise _released(error, 0.0) from error
        except SinkError as error:
            self.counts.failed(error)
            held.live = False  # a claim ends with its session
            raise

    def _store_as(self, held: _Held, batch: Batch, table: str, settled: int) -> list[tuple[Record, str, str]]:
        claim = held.claim
        letters = [
            (record, type(value).__name__, str(value))
            for record, value in batch.items
            if isinstance(value, Exception)
        ]
        letters += self._refused_before(claim, batch)
        rows = [
            (record, value)
            for record, value in batch.items
            if record.offset >= claim.next and value is not None and not isinstance(value, Exception)
        ]
        if batch.next_offset <= claim.next:
            return letters  # PostgreSQL has all of it: Kafka's commit failed after PostgreSQL's
        if not held.unsettled or settled < held.unsettled:
            settled = 0
        refused: list[Refusal] = []
        while True:
            try:
                held.claim = self._sink.write(claim, _rows(table, batch.next_offset, rows, refused, settled))
            except SinkRefused as error:
                self.counts.rows_refused += 1
                record = rows.pop(error.row)[0]
                refused.append(Refusal(record.offset, str(error)))
                letters.append((record, _REFUSED, str(error)))
            else:
                break
        if refused:
            held.unsettled = batch.next_offset
        elif settled:
            held.unsettled = 0
        return letters

    def _refused_before(self, claim: Claim, batch: Batch) -> list[tuple[Record, str, str]]:
        """Dead letters of records that PostgreSQL's position has passed, in a unit that Kafka dropped."""
        first = batch.items[0][0].offset
        if first >= claim.next:
            return []
        records = {record.offset: record for record, _value in batch.items}
        refused = self._sink.refused(claim, first, min(claim.next, batch.next_offset))
        return [(records[each.offset], _REFUSED, each.problem) for each in refused if each.offset in records]


def _released(error: FenceLost, for_s: float) -> PartitionReleased | WorkerStopped:
    """What a lost fence means: another has the partition, or two do and the group does not know."""
    if for_s <= _FENCED_S_MAX:
        return PartitionReleased(str(error), remedy=error.remedy)
    return WorkerStopped(
        f"{error}; for {for_s:.0f} s the group has not taken the partition away", remedy=error.remedy
    )


def _rows(
    table: str,
    next_offset: int,
    rows: Sequence[tuple[Record, Mapping[str, object]]],
    refused: Sequence[Refusal],
    settled: int,
) -> Rows:
    values: Any = {table: [value for _record, value in rows]}
    return Rows(next_offset, refused=refused, settled=settled, **values)


def register(app: RoleApp, tools: Tools, options: WorkerOptions) -> None:
    """Add the agents to the role's app, one a table, and what deletes what is too old."""
    if options.postgres_dsn is None:
        raise OptionsRefused(
            "role archive needs PostgreSQL", remedy="Set SLUICEGATE_POSTGRES__DSN, or run `sluicegate up`."
        )
    prefix = options.kafka.topic_prefix
    # One position a deployment: the prefix keeps two of them on one database apart.
    archive = Archive(PostgresOptions(options.postgres_dsn, sink=f"{prefix}archive"))
    app.show(SinkGauges(app.role, archive.counts))

    def agent(spec: TopicSpec, name: str, table: str) -> None:
        source = app.source(
            spec,
            agent=name,
            decode=tools.decoder(spec.subject),
            on_assigned=archive.assigned,
            on_revoked=lambda partition: archive.revoked(spec.named(prefix), partition),
            sink="PostgreSQL",
        )

        @app.agent(source, name=name)
        async def archiving(stream: Stream) -> None:
            async for batch in stream.batches():
                await archive.handle(batch, table)

    agent(RECORDS, "archive_streams", "streams")
    agent(USAGE_WINDOWS, "archive_usage", "usage_windows")
    agent(LLM_ATTEMPTS, "archive_attempts", "llm_attempts")
    agent(LLM_CONTENTS, "archive_contents", "llm_contents")
    agent(LLM_WINDOWS, "archive_llm_windows", "llm_windows")
    agent(LLM_TASKS, "archive_tasks", "llm_tasks")
    agent(CONNECTIONS, "archive_connections", "connections")

    @app.task
    async def retention() -> None:
        while not app.should_stop:
            await archive.forget(contents_ms=options.content_ms, connections_ms=options.connections_ms)
            await app.sleep(_RETENTION_S)
