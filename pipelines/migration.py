"""Applies a migration: an old store's entries, changed, into a new changelog; the old one stays as it is.

1. The record of the role says that the store is being migrated, and where to. From here on no worker opens a
   partition of it. 2. The group has no member: nobody is left who began before. 3. The new topic is made.
4. A partition after the other: its old state is restored beside, and read in the order of its keys; a batch
   of changed entries is one transaction with the key that it came to. 5. The record says that the new topic
   is the store's changelog, with the new version.

Killed before 5, it goes on behind the last batch, or is given up: nothing of the old state has changed. What
was written to a topic that is given up is never read.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.admin import ensure_topics, topic_ids
from connectors.kafka.birth import mark_birth
from connectors.kafka.errors import TransactionFenced
from connectors.kafka.members import groups_of
from connectors.kafka.positions import PositionReader
from connectors.kafka.restore import Restorer
from connectors.kafka.rewrite import Progress, Rewriter
from connectors.kafka.roster import store_of
from pipelines.deployment import new_row, worker_name
from pipelines.errors import DeployRefused
from pipelines.generations import target_of
from pipelines.restoration import Restoration
from state.rocksdb import RocksStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.roster import Roster, Row
    from schemas.topics import TopicSpec
    from state.rocksdb import RocksBackend
    from state.schema import Migration, StoreSchema

log = structlog.get_logger(__name__)

_BATCH_ENTRIES: Final = 1_000
_BATCH_BYTES: Final = 4 * 1_048_576  # of one transaction; the largest entry is 2 MiB
_EMPTY_WITHIN_S: Final = 60.0  # a member that was stopped stays one until its session times out: 6 s, 45 s
_ASK_S: Final = 1.0
_TELL_S: Final = 10.0
_TAKE_OVER_S: Final = 60.0  # without progress of the one who fenced us
_END: Final = b"\xff" * 64  # behind every key of a store


@dataclass(frozen=True, slots=True)
class StoreMigration:
    """One migration of one store, with all that it takes."""

    role: str
    group: str
    input_topic: TopicSpec
    migration: Migration
    schema: StoreSchema
    """Of the code that comes after."""
    kafka: KafkaOptions
    roster: Roster
    folder: Path
    """Of the slot: the old state is restored beneath it meanwhile."""

    def run(self) -> None:
        """Apply it, unless it was applied already; blocks for as long as it takes.

        Raises:
            DeployRefused: the store is of another version, or the role still runs.
            StateLost: the old changelog is not whole.
            KafkaUnavailable: no answer; run it again.
        """
        kept = self._begin()
        if kept is None:
            return
        log.warning(
            "migration begins",
            role=self.role,
            migration=self.migration.name,
            target=kept["target"],
            until="it is done, no other code may run; the same command goes on with it",
            undo=f"sluicegate worker --roles {self.role} --abandon-migration",
        )
        self._wait_until_nobody_runs()
        if self.migration.change is not None:
            self._copy(kept)
        self._end(kept["target"])
        log.warning(
            "migration done, the old state is left as it was",
            role=self.role,
            migration=self.migration.name,
            old=kept["topic"],
            new=kept["target"] or kept["topic"],
        )

    def _begin(self) -> Row | None:
        """Step 1; None = there is nothing to do any more."""

        def decide(row: Row | None) -> Row | None:
            kept = store_of(row, self.migration.changelog.name)
            if kept is None:
                raise DeployRefused(
                    f"migration {self.migration.name}: role {self.role} has no store behind "
                    f"{self.migration.changelog.name} yet",
                    remedy="Start it without --migrate: there is no state to change.",
                )
            if kept["version"] == self.migration.to_version or kept["migration"] == self.migration.name:
                return None
            if kept["migration"] or kept["version"] != self.migration.from_version:
                under_way = f" and is being migrated by {kept['migration']}" if kept["migration"] else ""
                raise DeployRefused(
                    f"migration {self.migration.name} is from version {self.migration.from_version}, the "
                    f"store behind {self.migration.changelog.name} has version {kept['version']}{under_way}",
                    remedy="Name the migration that begins there, or end the other first.",
                )
            return self._changed(row, {**kept, "migration": self.migration.name, "target": self._target()})

        kept = store_of(self.roster.change(self.role, decide), self.migration.changelog.name)
        return kept if kept is not None and kept["migration"] else None

    def _target(self) -> str:
        """A name that no attempt before had: what one left behind is no beginning for another."""
        if self.migration.change is None:
            return ""
        return target_of(self.migration.changelog, self.migration.to_version).name

    def _wait_until_nobody_runs(self) -> None:
        deadline = time.monotonic() + _EMPTY_WITHIN_S
        told = False
        while not (group := groups_of(self.kafka, [self.group])[self.group]).is_empty:
            names = ", ".join(member.name for member in group.members)
            if not told:
                told = True
                log.warning("migration waits until the role's workers are gone", members=names)
            if time.monotonic() > deadline:
                abandon(self.role, self.roster, "its workers still run")
                raise DeployRefused(
                    f"role {self.role} still runs ({names}): its state cannot be migrated under it",
                    remedy="Stop its workers, then start this one again.",
                )
            time.sleep(_ASK_S)

    def _copy(self, kept: Row) -> None:
        """Steps 3 and 4; who is fenced leaves it to the one who fenced, as long as that goes on."""
        target = replace(self.migration.changelog, name=kept["target"])
        if target.named(self.kafka.topic_prefix) not in topic_ids(
            self.kafka, [target.named(self.kafka.topic_prefix)]
        ):
            ensure_topics(self.kafka, [target])
        while True:
            rewriter = Rewriter(self.kafka, target.named(self.kafka.topic_prefix), f"{self.group}.migrate")
            with closing(rewriter):
                try:
                    rewriter.open()
                    self._copy_all(kept, target, rewriter)
                except TransactionFenced:
                    log.warning("another process applies the migration", migration=self.migration.name)
                else:
                    return
                if self._other_ends(rewriter):
                    return

    def _copy_all(self, kept: Row, target: TopicSpec, rewriter: Rewriter) -> None:
        scratch = self.folder / f"migration-{kept['target']}"
        source = replace(self.migration.changelog, name=kept["topic"])
        store = RocksStore(scratch)
        reader = PositionReader(self.kafka, self.group)
        try:
            for partition in range(target.partitions):
                backend = store.partition(partition)
                restoration = Restoration(
                    self.kafka,
                    reader,
                    Restorer(self.kafka),
                    source,
                    partition,
                    backend,
                    marked=kept["marked"],
                )
                self._copy_partition(restoration, target, partition, backend, rewriter, reader)
        finally:
            reader.close()
            store.close()
        shutil.rmtree(scratch, ignore_errors=True)  # the topic has it

    def _copy_partition(
        self,
        restoration: Restoration,
        target: TopicSpec,
        partition: int,
        backend: RocksBackend,
        rewriter: Rewriter,
        reader: PositionReader,
    ) -> None:
        progress = rewriter.progress(partition)
        if progress.whole:
            return
        handled = reader.committed(self.input_topic.named(self.kafka.topic_prefix), partition)
        restoration.run(None if handled is None else handled.offset, threading.Event())
        if not progress.entries and handled is not None:
            # It begins as every changelog does; a second mark, of an attempt before, does no harm.
            mark_birth(self.kafka, target.named(self.kafka.topic_prefix), partition)
        came, told = progress, time.monotonic()
        for came, pairs in self._batches(backend, progress):
            rewriter.write(partition, pairs, came)
            if time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                log.info("migration goes on", topic=target.name, partition=partition, entries=came.entries)
        rewriter.write(partition, [], Progress(came.entries, whole=True))
        log.info("partition migrated", topic=target.name, partition=partition, entries=came.entries)

    def _batches(
        self, backend: RocksBackend, came: Progress
    ) -> Iterator[tuple[Progress, list[tuple[bytes, bytes | None]]]]:
        """Give batches of changed entries from where it came to on, each with how far it comes by that."""
        change = self.migration.change
        assert change is not None
        pairs: list[tuple[bytes, bytes | None]] = []
        # Where there is no key, a version before kept the count alone: it begins with the first again.
        done = began = came.entries if came.start else 0
        size_bytes = 0
        key = b""
        for key, value in _entries(backend, came.start):
            done += 1
            for pair in change(key, value):
                pairs.append(pair)
                size_bytes += len(pair[0]) + len(pair[1])
            if done - began >= _BATCH_ENTRIES or size_bytes >= _BATCH_BYTES:
                yield Progress(done, whole=False, start=key + b"\x00"), pairs
                pairs, size_bytes, began = [], 0, done
        if done > began:
            yield Progress(done, whole=False, start=key + b"\x00"), pairs

    def _other_ends(self, rewriter: Rewriter) -> bool:
        """Wait for whoever fenced us; False = it does not go on."""
        partitions = range(self.migration.changelog.partitions)
        before, moved = None, time.monotonic()
        while time.monotonic() - moved < _TAKE_OVER_S:
            kept = store_of(self.roster.read().get(self.role), self.migration.changelog.name)
            if kept is None or kept["version"] == self.migration.to_version:
                return True
            now = [rewriter.progress(partition) for partition in partitions]
            if all(one.whole for one in now):
                return True
            if now != before:
                before, moved = now, time.monotonic()
            time.sleep(_ASK_S)
        return False

    def _end(self, target: str) -> None:
        """Step 5."""

        def decide(row: Row | None) -> Row | None:
            kept = store_of(row, self.migration.changelog.name)
            if kept is not None and kept["version"] == self.migration.to_version and not kept["migration"]:
                return None
            if kept is None or (kept["migration"], kept["target"]) != (self.migration.name, target):
                raise DeployRefused(
                    f"migration {self.migration.name} was given up by somebody else",
                    remedy="Start it again if it is wanted.",
                )
            topic = target or kept["topic"]
            version = self.migration.to_version
            parts = self.schema.text() if self.schema.version == version else "[]"  # one on the way there
            full = self.kafka.topic_prefix + topic
            return self._changed(
                row,
                {
                    **kept, "topic": topic, "topic_id": topic_ids(self.kafka, [full])[full],
                    "version": version, "parts": parts, "migration": "", "target": "",
                    "marked": bool(target) or kept["marked"],
                },
            )  # fmt: skip

        self.roster.change(self.role, decide)

    def _changed(self, row: Row | None, store: Row) -> Row:
        row = row if row is not None else new_row(self.role)
        stores = [store if one["changelog"] == store["changelog"] else one for one in row["stores"]]
        return {**row, "stores": stores, "by": worker_name(), "reason": f"migration {self.migration.name}"}


def abandon(role: str, roster: Roster, reason: str) -> list[str]:
    """Give up the migrations of a role that are under way; returns their names."""
    names: list[str] = []

    def decide(row: Row | None) -> Row | None:
        names[:] = [store["migration"] for store in row["stores"] if store["migration"]] if row else []
        if row is None or not names:
            return None
        stores = [{**store, "migration": "", "target": ""} for store in row["stores"]]
        return {**row, "stores": stores, "by": worker_name(), "reason": f"migration given up: {reason}"}

    roster.change(role, decide)
    return names


def _entries(backend: RocksBackend, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    while found := backend.scan(start, _END, _BATCH_ENTRIES):
        yield from found
        start = found[-1][0] + b"\x00"
