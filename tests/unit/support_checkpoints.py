"""Units of work that end at any step, and processes that are killed, for plain models to be held against.

A process that is killed leaves what its kernel has: its folder is copied as it stands, and the next one opens
the copy. Kafka is the one in memory, which ends what a dead producer left open as a broker does.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from connectors.kafka.birth import is_birth
from connectors.kafka.chunk import SourcePartition
from connectors.kafka.errors import TransactionAborted
from connectors.kafka.memory import MemoryKafka
from connectors.kafka.options import KafkaOptions
from connectors.kafka.positions import PositionReader
from connectors.kafka.transaction import KafkaTransaction
from pipelines.partitions import Partitions, Source
from schemas.topics import TopicSpec
from state.budget import StateOptions
from state.checkpoint import UnitOfWork
from state.store import StagedView
from state.watermark import BEGINNING_US
from tests.unit.test_state_store import record_ends

MS = 1_000
NUMBERS = (0, 1)
MEMORY = Path("/dev/shm")


def topic(name: str, cleanup: Any = "delete") -> TopicSpec:
    return TopicSpec(name, "key", "", len(NUMBERS), -1, cleanup, name)


INPUT, SAID = topic("property.input.v1"), topic("property.said.v1")
CHANGELOG = topic("property.changelog.v1", "compact")

PARTS = st.sampled_from(NUMBERS)
KEYS = st.sampled_from([b"", b"a", b"b\x00", b"\xff"])
TIMES = st.integers(0, 60 * MS)
FAILS = st.sampled_from([False, False, False, True])
FATES = st.sampled_from(
    [
        *(("killed", at) for at in (
            "begin_transaction", "produce", "flush", "send_offsets_to_transaction", "commit_transaction",
            "after commit_transaction", "write", "write", "after write",
        )),
        *(("refused", at) for at in ("send_offsets_to_transaction", "commit_transaction")),
        *(("unanswered", at) for at in ("commit_transaction", "after commit_transaction")),
    ]
)  # fmt: skip
DAMAGES = st.sampled_from([None, None, "log", "manifest", "lost"])


def copy_if_there(file: str, to: str) -> None:
    """Copy a file that RocksDB may remove meanwhile: after a flush, in the background, its log."""
    with suppress(FileNotFoundError):
        shutil.copy2(file, to)


class Killed(BaseException):
    """The process has ended: nothing that it would do now is done."""


@dataclass
class Fate:
    """What becomes of the commit at hand."""

    what: str = ""
    at: str = ""
    spared: int = 0
    """So many times it passes by there."""
    dead: bool = False

    def meet(self, at: str) -> None:
        if self.dead:
            raise Killed
        if at != self.at:
            return
        if self.spared:
            self.spared -= 1
            return
        self.at = ""
        if self.what == "killed":
            self.dead = True
            raise Killed
        refused = self.what == "refused"
        raise KafkaException(
            KafkaError(KafkaError._STATE, self.what, fatal=False, retriable=False, txn_requires_abort=refused)
        )


class Mortal:
    """A producer or a backend that meets its fate before or after a call."""

    def __init__(self, fate: Fate, given: Any) -> None:
        self._fate, self._given = fate, given

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._given, name)
        if not callable(found):
            return found

        def call(*args: Any, **how: Any) -> Any:
            self._fate.meet(name)
            result = found(*args, **how)
            self._fate.meet(f"after {name}")
            return result

        return call

    def __len__(self) -> int:
        return len(self._given)


@dataclass
class Model:
    """What one partition should hold, whatever its agent keeps."""

    said: list[bytes] = field(default_factory=list)
    """Values of what was emitted to ``SAID``."""
    now_us: int = BEGINNING_US
    position: int = 0

    def commit(self) -> None:
        """The open unit of work has committed."""


class Worker:
    """One process with both partitions: all that is under an agent but the poll thread."""

    def __init__(self, log: MemoryKafka, folder: Path) -> None:
        self.fate, self.folder = Fate(), folder
        clients = log.clients()
        mortal = replace(clients, producer=lambda config: Mortal(self.fate, clients.producer(config)))
        kafka = KafkaOptions("memory:0", clients=mortal)
        self.reader = PositionReader(kafka, "group")
        transaction = KafkaTransaction(
            kafka,
            transactional_id="slot-0",
            group_metadata=lambda: "group",
            committed_unit=self._committed_unit,
            timeout_ms=10_000,
            leaving=threading.Event(),
        )
        self.unit = UnitOfWork(transaction, lambda spec: self.reader.topic_id(spec.name))
        parts: Any = {
            "ticker": SimpleNamespace(forget=lambda _: None, watch=lambda *_: None),
            "letters": None,
            "late": None,
        }
        self.partitions = Partitions(
            kafka=kafka,
            sources={INPUT.name: Source(INPUT, lambda *_: None, "agent", CHANGELOG)},
            reader=self.reader,
            unit=self.unit,
            state_dir=folder,
            state=StateOptions(block_cache_mb=8, write_buffer_mb=1),
            **parts,
        )
        transaction.open()
        self.starts = {}
        for number in NUMBERS:
            where = SourcePartition(INPUT.name, number)
            self.starts[number] = self.partitions.open(where, threading.Event())
            self.partitions.ready(where)
            scope = self.unit.scope("agent", number)
            scope.backend = Mortal(self.fate, scope.backend)
        self.unit.drop()

    def _committed_unit(self, source: Any) -> int | None:
        committed = self.reader.committed(source.topic, source.partition)
        return None if committed is None else committed.unit

    def flush(self) -> None:
        self.partitions._stores["agent"]._db.flush()

    def close(self) -> None:
        self.partitions.close_stores()
        self.reader.close()


class Checkpoints(RuleBasedStateMachine):
    """Steps of an agent on two partitions, each taken back or not, and units of them that end in any way.

    A machine adds the agent's steps as rules, what its partitions should hold as ``MODEL``, and ``compare``.
    """

    MODEL: type[Model]
    OUTPUTS: tuple[TopicSpec, ...] = ()
    """Topics that are written to, besides ``SAID``."""

    def __init__(self) -> None:
        super().__init__()
        self.log = MemoryKafka(lambda: 0)
        self.log.create([INPUT, SAID, CHANGELOG, *self.OUTPUTS])
        self.disk = TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.staged = {number: self.MODEL() for number in NUMBERS}
        self.committed = deepcopy(self.staged)
        self.worker = Worker(self.log, Path(self.disk.name) / "0")
        self.lives = 0
        self.handled = False

    def teardown(self) -> None:
        try:
            self.commit(None, None)
            self.reopen("lost")
        finally:
            self.worker.close()
            self.disk.cleanup()

    def step(self, number, act, *, fails=False):
        """Have the agent handle one record by ``act(scope, model)``, and take it back where it ``fails``."""
        self.handled = True
        scope, model = self.worker.unit.scope("agent", number), self.staged[number]
        before = deepcopy(model)
        scope.savepoint()
        act(scope, model)
        if fails:
            scope.undo()
            model = self.staged[number] = before
        else:
            scope.keep()
        model.position += 1
        self.log.append((INPUT.name, number), b"k", b"v", 0, None, None)
        self.worker.unit.advance(SourcePartition(INPUT.name, number), model.position, 1)

    # -- how a unit ends; not one after the other with nothing in between ---------------------------------

    def has_unit(self):
        return not self.worker.unit.empty

    def has_handled(self):
        """Something since it was started, whether it is committed or at hand."""
        return self.handled

    @precondition(has_unit)
    @rule(flushed=st.booleans())
    def commit_well(self, flushed):
        """RocksDB may flush right after it, in the background: then a table has what its log had."""
        self.commit(None, None)
        if flushed:
            self.worker.flush()

    @precondition(has_unit)
    @rule(fate=FATES, spared=st.integers(0, 3), damage=DAMAGES)
    def commit(self, fate, damage, spared=0):
        worker = self.worker
        if worker.unit.empty:
            return
        worker.fate.what, worker.fate.at = fate or ("", "")
        worker.fate.spared = spared
        wrote = any(worker.unit.scope("agent", number).view.staged for number in NUMBERS)
        commits = fate is None or fate[1] in ("after commit_transaction", "write", "after write")
        try:
            worker.unit.commit()
        except Killed:
            assert worker.fate.dead
            self.end(commits=commits)
            self.start(self.left_behind(damage))
        except TransactionAborted:
            assert fate is not None
            assert fate[0] != "killed"
            assert not commits
            self.end(commits=False)
        else:
            met = worker.fate.at == ""
            assert fate is None or commits or not met
            assert met or not wrote or spared, f"{fate} was not met"
            worker.fate.at = ""
            self.end(commits=True)
        self.check()

    @precondition(has_unit)
    @rule()
    def abort(self):
        self.worker.unit.drop()
        self.end(commits=False)

    @precondition(has_handled)
    @rule(damage=DAMAGES)
    def kill(self, damage):
        self.end(commits=False)
        self.start(self.left_behind(damage))
        self.check()

    @precondition(has_handled)
    @rule(damage=DAMAGES)
    def reopen(self, damage):
        """End in order, with a unit at hand that is given up."""
        self.abort()
        self.worker.close()
        self.start(self.damaged(self.worker.folder, damage))
        self.check()

    def end(self, *, commits):
        if commits:
            for model in self.staged.values():
                model.commit()
            self.committed = deepcopy(self.staged)
        else:
            self.staged = deepcopy(self.committed)

    def left_behind(self, damage):
        """What a kill leaves: copied before the database is closed, which would write out what it holds."""
        self.lives += 1
        copy = Path(self.disk.name) / str(self.lives)
        shutil.copytree(self.worker.folder, copy, copy_function=copy_if_there)
        self.worker.close()
        shutil.rmtree(self.worker.folder)
        return self.damaged(copy, damage)

    @staticmethod
    def damaged(folder, damage):
        data = folder / "agent" / "data"
        if damage == "lost":
            shutil.rmtree(folder)
        elif damage == "log":
            latest = max(data.glob("*.log"))
            os.truncate(latest, latest.stat().st_size * 9 // 10)
        elif damage == "manifest":  # at the border of two records, where RocksDB takes it for an older one
            (manifest,) = data.glob("MANIFEST-*")
            os.truncate(manifest, record_ends(manifest.read_bytes())[-2])
        return folder

    def start(self, folder):
        self.worker, self.handled = Worker(self.log, folder), False
        assert self.worker.starts == {number: model.position for number, model in self.committed.items()}

    # -- what must hold ---------------------------------------------------------------------------------

    def compare(self, number, view, model):
        """Hold what stands in a partition's state, and in ``OUTPUTS``, against its model."""
        raise NotImplementedError

    def committed_records(self, spec, number):
        return self.log.fetch((spec.name, number), 0, 1 << 30, committed=True)[0]

    def check(self):
        for number, model in self.committed.items():
            backend = self.worker.unit.scope("agent", number).backend
            held = dict(backend.scan(b"", b"\xff" * 8, 1 << 30))
            records = self.committed_records(CHANGELOG, number)
            folded = {record.key(): record.value() for record in records if not is_birth(record.key())}
            assert held == {key: value for key, value in folded.items() if value is not None}
            assert [record.value() for record in self.committed_records(SAID, number)] == model.said
            self.compare(number, StagedView(backend), model)
        self.worker.unit.drop()  # a scope that is asked for begins a unit
