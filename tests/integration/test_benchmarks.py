"""The machinery of the benchmark on real parts, as small as it goes: what checks must be able to fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import latency, pipeline, restore
from benchmarks.asked import Asked
from benchmarks.bench import Bench
from benchmarks.contenders import KEYED
from benchmarks.keys import make_key_load
from benchmarks.race import Race
from benchmarks.readback import read_back
from benchmarks.results import judged_by_budget

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions

KEYS = 500


@dataclass(frozen=True)
class TidyBench(Bench):
    """A bench whose topics are this test's, to be taken away with them."""

    prefix: str = ""

    def kafka(self) -> KafkaOptions:
        made = super().kafka()
        return replace(made, topic_prefix=self.prefix + made.topic_prefix)


@pytest.fixture
def twice(stack, stack_settings, kafka_options, tmp_path):
    """A bench that does each work twice."""
    settings = stack_settings.model_copy(update={"data_dir": tmp_path})
    return TidyBench(stack, settings, Asked(runs=2, peers=frozenset()), prefix=kafka_options.topic_prefix)


def test_ingest_and_latency_are_measured_as_often_as_was_asked_for(twice, monkeypatch):
    limit, *ours = pipeline.run(twice, streams=4, lines=50)
    assert limit.records_per_s > 0
    assert [(line.verified, line.note) for line in ours] == [(True, ""), (True, "")]
    assert all("median of 2 runs" in line.work for line in (limit, *ours))
    assert all(min(line.cpu_s_per_million, line.peak_rss_mb) > 0 for line in ours)

    monkeypatch.setattr(latency, "WARM_S", 1)
    monkeypatch.setattr(latency, "SECONDS", 1)
    told = latency.run(twice)
    assert told.verified
    assert "median of 2 runs" in told.work
    assert 0 < told.p50_ms <= told.p99_ms
    assert len(list((twice.settings.data_dir / "latency").iterdir())) == 2


def test_a_race_is_verified_a_worker_killed_twice_counts_right_and_a_wrong_count_is_told(
    stack, stack_settings, registry, tmp_path
):
    load = make_key_load(stack.kafka, registry, keys=KEYS, state_bytes=32)
    race = Race(KEYED[0], load, stack, 0, tmp_path)
    result = race.run(stack_settings, "state")
    assert (result.verified, result.note) == (True, "")
    assert result.events == KEYS + KEYS // 5
    assert result.records_per_s > 0
    judged = judged_by_budget(result, 128, race.said)
    assert judged.within_budget, "it says itself what its stores hold"
    assert 0 < judged.state_peak_mb < 128

    lines = restore.run([race], Bench(stack, stack_settings, Asked(runs=2)))
    assert [(line.work.rpartition(" from ")[2], line.verified, line.note) for line in lines] == [
        ("its disk", True, ""),
        ("the changelog", True, ""),
    ]
    for line in lines:
        assert min(line.seconds, line.records_per_s, line.cpu_s_per_million, line.peak_rss_mb) > 0

    load.counts[load.order[0]] += 1
    _, difference = read_back(race.output, load.check(), quiet_s=2)
    assert difference == f"1 of {KEYS} keys wrong, 0 of them missing"
