"""What a worker tells Prometheus: by it alone one can see that no record went missing uncounted."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines import fates, two_stage, verdicts
from pipelines.metrics import _NAMES_MAX, WorkerMetrics
from state.checkpoint import Share, SourcePartition, UnitResult

SOURCE = SourcePartition("streams.input.v1", 2)


def samples(metrics):
    found = defaultdict(dict)
    for family in text_string_to_metric_families(metrics.render(1).decode()):
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return found


def share(counts=(), letters=()):
    return Share("ingest", 2, Counter(dict(counts)), Counter(dict(letters)))


def test_each_input_is_shown_under_one_fate_and_they_sum_to_the_source_records():
    metrics = WorkerMetrics("ingest")
    metrics.agents = {SOURCE.topic: "ingest"}
    counts = {"output": 5, "duplicate": 1, "orphan": 2, "dead_letter": 1, "reorder_held": 3}
    counts |= {"reorder_released": 1, "made": 4, "future_dated": 2}
    metrics.committed(UnitResult(1, {SOURCE: 11}, {SOURCE: 11}, shares=[share(counts)]))
    found = samples(metrics)
    by_fate = Counter()
    for labels, value in found["sluicegate_inputs_total"].items():
        assert dict(labels)["partition"] == "2"
        by_fate[dict(labels)["fate"]] += value
    settled = sum(value for fate, value in by_fate.items() if fate not in ("released", "beside"))
    sources = found["sluicegate_source_records_total"]
    ((labels, records),) = sources.items()
    assert dict(labels) == {"role": "ingest", "agent": "ingest", "topic": SOURCE.topic, "partition": "2"}
    assert records == 11
    assert settled - by_fate["released"] == 11


def test_all_outcomes_of_ours_have_a_fate_of_their_own():
    ours = {*verdicts.Verdict.__args__, two_stage.LATE, two_stage.SUPERSEDED, two_stage.FORGOTTEN}
    ours |= {verdicts.DEAD_LETTER, verdicts.TICK, verdicts.HELD, verdicts.RELEASED}
    ours |= {verdicts.MADE, verdicts.FUTURE_DATED}
    assert ours <= fates.FATES.keys()
    assert fates.fate_of(verdicts.OUTPUT) == fates.fate_of(two_stage.COUNTED) == "output"
    assert fates.fate_of("a word of a user's agent") == "output"


def test_the_size_and_the_steps_of_a_unit_are_shown():
    metrics = WorkerMetrics("ingest")
    metrics.committed(
        UnitResult(
            1, {SOURCE: 300}, {SOURCE: 300}, appended=9, append_bytes=90, changelog=4, changelog_bytes=40,
            handle_s=0.3, append_s=0.004, commit_s=0.02, store_s=0.001,
        )
    )  # fmt: skip
    found = samples(metrics)
    role = (("role", "ingest"),)
    assert found["sluicegate_unit_append_bytes_total"][role] == 90
    assert found["sluicegate_changelog_bytes_total"][role] == 40
    assert found["sluicegate_unit_size_records_sum"][role] == 300
    seconds = {dict(labels)["step"]: value for labels, value in found["sluicegate_unit_seconds_sum"].items()}
    assert seconds == pytest.approx({"handle": 0.3, "append": 0.004, "commit": 0.02, "store": 0.001})


def test_outcomes_of_an_agents_own_are_named_up_to_a_bound_and_the_known_ones_always():
    metrics = WorkerMetrics("ingest")
    counts = {f"word {n}": 1 for n in range(_NAMES_MAX + 20)} | {"late": 3}
    metrics.committed(UnitResult(1, {SOURCE: 73}, {SOURCE: 73}, shares=[share(counts)]))
    found = samples(metrics)["sluicegate_inputs_total"]
    by_outcome = {dict(labels)["outcome"]: value for labels, value in found.items()}
    assert len(by_outcome) == _NAMES_MAX + 2
    assert (by_outcome["other"], by_outcome["late"]) == (20, 3)


def test_causes_of_dead_letters_are_named_up_to_a_bound():
    metrics = WorkerMetrics("ingest")
    letters = {f"cause {n}": 1 for n in range(_NAMES_MAX + 20)}
    metrics.committed(UnitResult(1, {SOURCE: 70}, {SOURCE: 70}, shares=[share((), letters)]))
    metrics.committed(UnitResult(2, {SOURCE: 1}, {SOURCE: 1}, shares=[share((), {"cause 0": 1})]))
    found = {
        dict(labels)["cause"]: value
        for labels, value in samples(metrics)["sluicegate_dead_letters_total"].items()
    }
    assert found["other"] == 20
    assert found["cause 0"] == 2
    assert len(found) == _NAMES_MAX + 1


def test_every_number_of_a_worker_says_of_which_role_it_is():
    metrics = WorkerMetrics("ingest")
    metrics.lag({("streams.input.v1", 2): (3, 0.5)})
    metrics.committed(UnitResult(1, {SOURCE: 1}, {SOURCE: 1}, shares=[share({"output": 1}, {"X": 1})]))
    assert [
        name for name, by in samples(metrics).items() if any(("role", "ingest") not in one for one in by)
    ] == []
