"""The machinery of the benchmark on real parts, as small as it goes: what checks must be able to fail."""

from __future__ import annotations

from benchmarks import restore
from benchmarks.asked import Asked
from benchmarks.bench import Bench
from benchmarks.contenders import KEYED
from benchmarks.keys import make_key_load
from benchmarks.race import Race
from benchmarks.readback import read_back
from benchmarks.results import judged_by_budget

KEYS = 500


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

    lines = restore.measure(race, Bench(stack, stack_settings, Asked()))
    assert [(line.work.rpartition(" from ")[2], line.verified, line.note) for line in lines] == [
        ("its disk", True, ""),
        ("the changelog", True, ""),
    ]
    for line in lines:
        assert min(line.seconds, line.records_per_s, line.cpu_s_per_million, line.peak_rss_mb) > 0

    load.counts[load.order[0]] += 1
    _, difference = read_back(race.output, load.check(), quiet_s=2)
    assert difference == f"1 of {KEYS} keys wrong, 0 of them missing"
