"""What Prometheus reads of an engine when it asks: as it stands then, and of its own partitions alone."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from connectors.kafka.chunk import Records, SourcePartition
from connectors.kafka.hot_keys import HotKeys
from connectors.kafka.restore import Progress
from connectors.postgres.claim import Counts
from connectors.postgres.errors import SinkUnavailable
from pipelines.gauges import EngineGauges, SinkGauges
from state.budget import StateOptions
from state.rocksdb import RocksMemory, RocksStore
from state.store import Position

MINE, GONE = SourcePartition("streams.input.v1", 0), SourcePartition("streams.input.v1", 1)


class Message:
    def __init__(self, key):
        self._key = key

    def key(self):
        return self._key


@pytest.fixture
def engine(tmp_path):
    memory = RocksMemory(StateOptions(block_cache_mb=16, write_buffer_mb=4))
    store = RocksStore(tmp_path / "ingest", memory)
    store.partition(0).write({b"k%d" % n: b"v" * 100 for n in range(50)}, Position("t", 1, 1))
    restorer = SimpleNamespace(progress={})
    partitions = SimpleNamespace(
        figures=lambda: {"ingest": store.figures()}, memory=memory, restorer=restorer
    )
    yield SimpleNamespace(
        hot_keys=HotKeys(), poller=SimpleNamespace(assignment={MINE}), partitions=partitions
    )
    store.close()


def read(engine):
    return {
        sample.name: (sample.labels, sample.value)
        for family in EngineGauges("ingest", engine).collect()
        for sample in family.samples
    }


def test_state_and_its_memory_are_told_beside_the_budget(engine):
    found = read(engine)
    ingest = {"role": "ingest", "agent": "ingest"}
    assert found["sluicegate_state_keys"] == (ingest, 51), "and the position"
    assert found["sluicegate_state_bytes"][1] >= 50 * 100
    assert found["sluicegate_state_memtable_bytes"][1] >= 50 * 100
    assert found["sluicegate_state_set_aside_bytes"] == (ingest, 0)
    assert found["sluicegate_block_cache_max_bytes"] == ({"role": "ingest"}, 16 << 20)
    assert found["sluicegate_write_buffer_max_bytes"][1] == 4 << 20
    assert 0 < found["sluicegate_write_buffer_bytes"][1] <= 4 << 20
    assert 0 < found["sluicegate_block_cache_bytes"][1] <= 16 << 20


def test_a_restore_is_told_while_it_goes_on_and_after(engine):
    progress = Progress(position=30, end=100, records=25, size_bytes=700, began=time.monotonic() - 2)
    engine.partitions.restorer.progress["ingest.streams.changelog.v1", 3] = progress
    at = {"role": "ingest", "topic": "ingest.streams.changelog.v1", "partition": "3"}
    found = read(engine)
    assert found["sluicegate_restore_remaining_records"] == (at, 70)
    assert found["sluicegate_restore_records_total"] == (at, 25)
    assert found["sluicegate_restore_bytes_total"] == (at, 700)
    assert found["sluicegate_restore_seconds_total"][1] >= 2
    progress.began, progress.ended_s = None, 3.5
    found = read(engine)
    assert found["sluicegate_restore_remaining_records"] == (at, 0)
    assert found["sluicegate_restore_seconds_total"] == (at, 3.5)


def test_long_hot_keys_that_begin_alike_are_told_apart(engine):
    for key in (b"k" * 200 + b"1", b"k" * 200 + b"2"):
        engine.hot_keys.see(MINE, Records(MINE, [Message(key)] * 500))
    families = EngineGauges("ingest", engine).collect()
    (hot,) = [family for family in families if family.name == "sluicegate_hot_key_share"]
    keys = [sample.labels["key"] for sample in hot.samples]
    assert len(set(keys)) == len(keys) == 2
    assert {len(key) for key in keys} == {64}


def test_hot_keys_are_told_as_text_and_of_partitions_that_are_here(engine):
    key = b"\xff" + b"k" * 100
    for source in (MINE, GONE):
        engine.hot_keys.see(source, Records(source, [Message(key)] * 500))
    labels, share = read(engine)["sluicegate_hot_key_share"]
    assert (labels["partition"], share) == ("0", 1.0)
    assert labels["key"].startswith("\\xffkkk")
    assert len(labels["key"]) == 64


def test_what_a_sink_has_done_is_told_and_an_error_from_nothing_on():
    counts = Counts(batches=4, seconds=0.5, rows_given=40, rows_stored=30, rows_refused=1)

    def told():
        return {
            (sample.name, sample.labels.get("error")): sample.value
            for family in SinkGauges("archive", counts).collect()
            for sample in family.samples
        }

    found = told()
    assert found["sluicegate_sink_batch_seconds_count", None] == 4
    assert found["sluicegate_sink_batch_seconds_sum", None] == 0.5
    rows = ("rows", "rows_stored", "rows_refused")
    assert [found[f"sluicegate_sink_{name}_total", None] for name in rows] == [40, 30, 1]
    assert found["sluicegate_sink_errors_total", "SinkUnavailable"] == 0, "a rate needs what was before"
    counts.failed(SinkUnavailable("db", "away"))
    assert told()["sluicegate_sink_errors_total", "SinkUnavailable"] == 1
