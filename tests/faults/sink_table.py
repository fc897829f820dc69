"""A run of our own archive under fault: what PostgreSQL has is the history, judged by the ledger's checker.

A row stands for the newest record of its stream, and PostgreSQL's position for the group's committed offset.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from schemas.topics import DEAD_LETTERS, RECORDS
from tests.faults.checker import check
from tests.faults.history import Commit, FaultEnd, History, Outcome
from tests.faults.ledger import Entry, Input
from tests.faults.reading import read_all
from tests.support.cutting import ends_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses
    from schemas.wire import WireCodec
    from tests.faults.judgement import Violation

_EVERY_S = 0.25
_POSITIONS = "SELECT partition, next FROM sluicegate.progress WHERE sink = %s AND topic = %s"
_ROWS = "SELECT tenant, stream_id, revision, last_seq FROM sluicegate.streams WHERE tenant = ANY(%s)"


class SinkTable(threading.Thread):
    """Looks at PostgreSQL's positions all through a run, and reads the table of streams at its end."""

    def __init__(self, stack: Addresses, kafka: KafkaOptions, codec: WireCodec) -> None:
        super().__init__(daemon=True)
        self.history = History()
        self._dsn, self._kafka, self._codec = stack.postgres_dsn, kafka, codec
        self._topic = RECORDS.named(kafka.topic_prefix)
        self._positions: dict[int, int] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Look until closed."""
        while not self._ended.wait(_EVERY_S):
            self.look()

    def look(self) -> dict[int, int]:
        """Return PostgreSQL's positions, and note those that moved; the last ones known where it is away."""
        with suppress(psycopg.Error), psycopg.connect(self._dsn, connect_timeout=5) as database, self._lock:
            sink = f"{self._kafka.topic_prefix}archive"
            for partition, offset in database.execute(_POSITIONS, [sink, self._topic]).fetchall():
                if self._positions.get(partition) != offset:
                    self._positions[partition] = offset
                    self.history.commits.append(Commit(partition, offset, None, time.time()))
        return self._positions

    def fault_ended(self, what: str) -> None:
        """Note that nothing keeps the archive from its recovery any more (I7)."""
        self.history.faults.append(FaultEnd(what, time.time()))

    def check(self) -> None:
        """Wait until all is archived; then every invariant holds of what is recorded."""
        found = self.violations()
        assert not found, "\n".join(map(str, found))

    def violations(self, deadline_s: float = 90.0) -> list[Violation]:
        """Wait until PostgreSQL's position is behind all records, record, and judge."""
        history, newest, sources = self.history, {}, {}
        for message in read_all(self._kafka, RECORDS):
            record = self._codec.decode(message.value() or b"", RECORDS.subject)
            which = (record["tenant"], record["stream_id"])
            where = (message.partition() or 0, message.offset() or 0)
            entry = Entry(_name(*which, record["revision"]), message.key() or b"", 0, 0, record["last_seq"])
            newest[which] = Input(*where, entry, message.timestamp()[1] / 1_000)
            sources[entry.event_id] = newest[which]
        behind = {each.partition: each.offset + 1 for each in sources.values()}
        deadline = time.monotonic() + deadline_s
        while any(self.look().get(partition, 0) < offset for partition, offset in behind.items()):
            assert time.monotonic() < deadline, f"PostgreSQL stands at {self._positions}, records at {behind}"
            time.sleep(0.2)
        history = replace(history, commits=list(history.commits))  # not those that come from now on
        history.ends = dict(enumerate(ends_of(self._kafka, RECORDS)))
        history.inputs = sorted(newest.values(), key=lambda given: given.offset)
        kept = {(given.partition, given.offset) for given in history.inputs}
        superseded = {(given.partition, given.offset) for given in sources.values()} - kept
        history.acknowledged = history.acknowledged - superseded
        history.outcomes = [*self._rows({tenant for tenant, _ in newest}, sources), *self._letters()]
        return check(history)

    def _rows(self, tenants: set[str], sources: dict[str, Input]) -> Iterator[Outcome]:
        with psycopg.connect(self._dsn) as database:
            for tenant, stream, revision, last_seq in database.execute(_ROWS, [list(tenants)]).fetchall():
                name = _name(tenant, stream, revision)
                given = sources.get(name, Input(0, -1, None))
                key = given.entry.key if given.entry else b""
                yield Outcome("output", given.partition, given.offset, 0, None, name, key, 1, last_seq)

    def _letters(self) -> Iterator[Outcome]:
        for message in read_all(self._kafka, DEAD_LETTERS):
            letter = self._codec.decode(message.value() or b"", DEAD_LETTERS.subject)
            if letter["topic"] == self._topic:
                yield Outcome("dead", letter["partition"], letter["offset"], message.offset() or 0)

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join(10)


def _name(tenant: str, stream: str, revision: int) -> str:
    return f"{tenant}/{stream}@{revision}"
