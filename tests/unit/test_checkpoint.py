"""The unit of work: its steps in their order, and nothing at all when one of them fails."""

from __future__ import annotations

import pytest

from schemas.record import Record
from schemas.topics import DEAD_LETTERS, INGEST_STREAMS_CHANGELOG, OUTPUT
from state.checkpoint import SourcePartition, UnitOfWork
from state.effects import Append, PartitionScope
from state.errors import EffectTooLarge, StoreUnwritable
from state.memory import MemoryBackend

SOURCE = SourcePartition("streams.input.v1", 2)


class Recording:
    """A transaction that keeps its calls, gives offsets from 100 on, and fails where it is told."""

    def __init__(self, fails=None, watch=None, error=None):
        self.calls, self.log, self.fails, self.watch = [], [], fails, watch
        self.error = error or ConnectionError(fails)
        self.waiting, self.next = [], 100
        self.handbacks = []  # as they were committed

    def _call(self, name, *detail):
        self.calls.append((name, *detail))
        if self.watch is not None:
            self.watch(name)
        if name == self.fails:
            raise self.error

    def begin(self):
        self._call("begin")

    def append(self, appends):
        for append in appends:
            self.log.append(append)
            self._call("append", append.topic.name, append.key)
            if append.on_offset:
                self.waiting.append((append.on_offset, self.next))
            self.next += 1

    def flush(self):
        self._call("flush")
        waiting, self.waiting = self.waiting, []
        for on_offset, offset in waiting:
            on_offset(offset)

    def send_offsets(self, positions, unit, notes, handbacks):
        self.notes = dict(notes)
        self.handbacks.append(dict(handbacks))
        self._call("offsets", dict(positions))

    def commit(self):
        self._call("commit")

    def abort(self):
        self._call("abort")

    def settle(self):
        self._call("settle")


class Letters:
    def letter(self, record, *, agent, cause, detail, attempts, raised_at=""):
        return Append(DEAD_LETTERS, record.key, f"{agent}:{cause}".encode(), record.partition)


def unit_over(transaction):
    unit = UnitOfWork(transaction, lambda spec: f"id-of-{spec.name}")
    backend = MemoryBackend()
    scope = PartitionScope("agent", 2, backend, INGEST_STREAMS_CHANGELOG, Letters())
    unit.add_scope("agent", scope)
    return unit, scope, backend


def test_outputs_changelog_and_offsets_commit_before_the_store_is_written():
    seen = []
    transaction = Recording(watch=lambda name: seen.append((name, backend.get(b"k"))))
    unit, scope, backend = unit_over(transaction)
    assert unit.scope("agent", 2) is scope
    scope.state.put(b"k", b"v")
    scope.emit(OUTPUT, b"key", b"value", partition=2)
    scope.count("output")
    unit.advance(SOURCE, 43, 1)

    result = unit.commit()

    assert [call[0] for call in transaction.calls] == [
        "begin",
        "append",
        "append",
        "flush",
        "offsets",
        "commit",
    ]
    assert transaction.calls[-2] == ("offsets", {SOURCE: 43})
    assert all(stored is None for _name, stored in seen), "the store was written before the commit"
    assert backend.get(b"k") == b"v"
    assert backend.position().offset == 102  # behind the changelog record at 101
    assert backend.position().topic_id == "id-of-ingest.streams.changelog.v1"
    assert (result.appended, result.changelog, result.counts["output"]) == (1, 1, 1)
    assert (result.inputs, result.positions) == ({SOURCE: 1}, {SOURCE: 43})
    assert (result.append_bytes, result.changelog_bytes) == (len(b"keyvalue"), len(b"kv"))
    assert result.handle_s > 0, "since the agent was given the scope"
    assert [(share.agent, share.partition, share.counts) for share in result.shares] == [
        ("agent", 2, {"output": 1})
    ]
    assert unit.empty


def test_what_waits_for_an_offset_commits_in_the_same_unit():
    transaction = Recording()
    unit, scope, backend = unit_over(transaction)

    def on_offset(offset):
        scope.state.put(b"open_offset", str(offset).encode())
        scope.emit(OUTPUT, b"index", str(offset).encode())

    scope.emit(OUTPUT, b"key", b"value", on_offset=on_offset)
    unit.advance(SOURCE, 1, 1)
    unit.commit()

    assert [append.key for append in transaction.log] == [b"key", b"index", b"open_offset"]
    assert backend.get(b"open_offset") == b"100"


def test_a_second_wave_of_offsets_is_refused_and_nothing_takes_place():
    transaction = Recording()
    unit, scope, backend = unit_over(transaction)
    endless = lambda _offset: scope.emit(OUTPUT, b"k", b"v", on_offset=endless)  # noqa: E731
    scope.emit(OUTPUT, b"k", b"v", on_offset=endless)
    unit.advance(SOURCE, 1, 1)
    with pytest.raises(RuntimeError, match="one wave"):
        unit.commit()
    assert transaction.calls[-1] == ("abort",)
    assert backend.position() is None


@pytest.mark.parametrize("step", ["append", "flush", "offsets", "commit"])
def test_a_failure_at_any_step_aborts_and_leaves_no_trace(step):
    transaction = Recording(fails=step)
    unit, scope, backend = unit_over(transaction)
    scope.state.put(b"k", b"v")
    scope.emit(OUTPUT, b"key", b"value")
    unit.advance(SOURCE, 43, 1)

    with pytest.raises(ConnectionError):
        unit.commit()

    assert transaction.calls[-1] == ("abort",)
    assert backend.get(b"k") is None
    assert scope.state.get(b"k") is None
    assert unit.empty
    assert scope.take_appends() == []


def keep_and_begin(scope):
    scope.keep()
    scope.savepoint()


@pytest.mark.parametrize("step", [keep_and_begin, PartitionScope.next_step])
def test_a_step_that_is_undone_takes_its_outputs_state_and_counts_with_it(step):
    transaction = Recording()
    unit, scope, backend = unit_over(transaction)
    scope.savepoint()
    scope.emit(OUTPUT, b"kept", b"")
    scope.state.put(b"kept", b"1")
    scope.count("output")
    step(scope)
    scope.emit(OUTPUT, b"undone", b"")
    scope.state.put(b"undone", b"1")
    scope.state.put(b"kept", b"2")
    scope.count("output")
    scope.undo()
    record = Record("streams.input.v1", 2, 42, 0, b"key", b"bytes")
    scope.dead_letter(record, "ValueError", "why")
    unit.advance(SOURCE, 43, 2)

    result = unit.commit()

    assert [append.key for append in transaction.log] == [b"kept", b"key", b"kept"]
    assert backend.get(b"kept") == b"1"
    assert backend.get(b"undone") is None
    assert result.counts == {"output": 1}


def test_an_effect_that_its_topic_would_refuse_is_the_agents_error_at_once():
    _unit, scope, _backend = unit_over(Recording())
    with pytest.raises(EffectTooLarge, match=r"streams\.output\.v1"):
        scope.emit(OUTPUT, b"key", bytes(OUTPUT.max_message_bytes))
    with pytest.raises(EffectTooLarge, match="state value"):
        scope.state.put(b"key", bytes(INGEST_STREAMS_CHANGELOG.max_message_bytes))
    assert scope.take_appends() == []
    assert scope.state.get(b"key") is None


def test_a_unit_of_offsets_alone_leaves_the_store_as_it_was():
    transaction = Recording()
    unit, _scope, backend = unit_over(transaction)
    unit.advance(SOURCE, 5, 0)
    unit.commit()
    assert ("offsets", {SOURCE: 5}) in transaction.calls
    assert backend.position() is None


def test_a_unit_whose_abort_fails_too_leaves_nothing_that_the_next_would_commit():
    transaction = Recording(fails="flush")
    unit, scope, backend = unit_over(transaction)
    transaction.abort = lambda: 1 / 0  # Kafka is away altogether
    scope.state.put(b"k", b"v")
    scope.emit(OUTPUT, b"key", b"value")
    unit.advance(SOURCE, 43, 1)
    with pytest.raises(ZeroDivisionError):
        unit.commit()
    assert unit.empty
    assert scope.state.get(b"k") is None
    assert backend.get(b"k") is None


def test_a_committed_unit_that_the_disk_refuses_is_never_committed_again():
    unit, scope, backend = unit_over(Recording())
    backend.write = lambda *_: 1 / 0
    scope.state.put(b"k", b"v")
    unit.advance(SOURCE, 43, 1)
    with pytest.raises(StoreUnwritable):
        unit.commit()
    assert unit.empty


@pytest.mark.parametrize(
    "change",
    [
        lambda unit, _scope: unit.drop(),
        lambda unit, _scope: unit.remove_scope("agent", 2),
        lambda unit, scope: unit.add_scope("agent", scope),
    ],
    ids=["drop", "remove_scope", "add_scope"],
)
def test_a_unit_that_commits_is_neither_dropped_nor_given_other_scopes(change):
    def change_at(name):
        if name == "flush":
            change(unit, scope)

    transaction = Recording(watch=change_at)
    unit, scope, _backend = unit_over(transaction)
    scope.emit(OUTPUT, b"key", b"value")
    unit.advance(SOURCE, 43, 1)
    with pytest.raises(RuntimeError, match="must end as it began"):
        unit.commit()
    assert transaction.calls[-1] == ("abort",), "outputs must not commit without their offsets"


def test_a_unit_is_full_by_what_it_appends_in_records_or_in_bytes():
    for bounds, appends in (({"records_max": 2}, 2), ({"bytes_max": 5_000}, 1)):
        unit = UnitOfWork(Recording(), lambda spec: spec.name, **bounds)
        scope = PartitionScope("agent", 2, MemoryBackend(), INGEST_STREAMS_CHANGELOG, Letters())
        unit.add_scope("agent", scope)
        scope.savepoint()
        for i in range(appends):
            assert not unit.full
            scope.emit(OUTPUT, b"%d" % i, bytes(5_000))
        assert unit.full
        scope.undo()
        assert not unit.full


def test_a_unit_that_only_keeps_state_is_full_too():
    bounds = {"records_max": 3, "bytes_max": 100}
    unit = UnitOfWork(Recording(), lambda spec: spec.name, **bounds)
    scope = PartitionScope("agent", 2, MemoryBackend(), INGEST_STREAMS_CHANGELOG, Letters())
    unit.add_scope("agent", scope)
    scope.state.put_many([b"a", b"b"], [b"1", b"2"])
    assert not unit.full
    scope.state.put(b"c", b"3")
    assert unit.full, "three records of the changelog"
    scope.drop()
    scope.state.put_many([b"a"], [bytes(98)])
    assert not unit.full
    scope.state.delete(b"b")
    assert unit.full, "a hundred bytes of it"


def test_of_updates_of_a_key_a_unit_appends_the_last_that_was_not_undone():
    transaction = Recording()
    unit, scope, _backend = unit_over(transaction)
    scope.savepoint()
    for value in (b"1", b"2"):
        scope.update(OUTPUT, b"a", value, partition=2)
    scope.update(OUTPUT, b"b", b"1", partition=2)
    scope.keep()
    scope.savepoint()
    scope.savepoint()
    scope.update(OUTPUT, b"a", b"undone", partition=2)
    scope.update(OUTPUT, b"c", b"undone", partition=2)
    scope.keep()
    scope.update(OUTPUT, b"b", None, partition=2)
    scope.undo()
    assert scope.effect_records == 2
    unit.advance(SOURCE, 43, 1)

    unit.commit()

    assert [(append.key, append.value) for append in transaction.log] == [(b"a", b"2"), (b"b", b"1")]
    assert scope.effect_records == 0
    with pytest.raises(EffectTooLarge, match=r"streams\.output\.v1"):
        scope.update(OUTPUT, b"key", bytes(OUTPUT.max_message_bytes))
