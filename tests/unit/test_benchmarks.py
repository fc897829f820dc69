"""What a figure rests on: the check that its outputs were right, and the choice of whom to run beside."""

from __future__ import annotations

import hashlib

import pytest

from benchmarks.contenders import CONTENDERS, PEERS, UnknownPeer, selected
from benchmarks.peers.jars import COMPILER, KAFKA_STREAMS, LOCK_FILE
from benchmarks.readings import Load
from benchmarks.results import KAFKA_STREAMS as PEER
from benchmarks.results import RAW, Result, failed, median, with_ratios
from benchmarks.windows import FIGURES
from connectors.kafka.options import KafkaOptions
from ops.stack.artefacts import locked


@pytest.fixture
def load() -> Load:
    expected = {b"w1": (2, 7, 0.3), b"w2": (1, 5, 0.1)}
    return Load(KafkaOptions("nowhere:1"), 3, 65, expected)


def outputs(**changes: tuple[int, int, float]) -> dict[bytes, bytes]:
    figures = {"w1": (2, 7, 0.1 + 0.2), "w2": (1, 5, 0.1)} | changes
    return {key.encode(): FIGURES.pack(*value) for key, value in figures.items()}


def test_right_outputs_have_no_difference_whatever_the_order_of_float_additions(load):
    assert load.difference(outputs()) == ""


@pytest.mark.parametrize("wrong", [(3, 7, 0.3), (2, 8, 0.3), (2, 7, 0.4)])
def test_a_wrong_count_or_sum_of_one_window_is_found(load, wrong):
    assert load.difference(outputs(w1=wrong)) == "1 of 2 windows wrong"


def test_a_missing_and_an_unknown_window_are_found(load):
    found = outputs(w3=(1, 1, 1.0))
    del found[b"w2"]
    assert load.difference(found) == "1 of 2 windows missing, 1 unknown"
    assert load.difference({}) == "2 of 2 windows missing, 0 unknown"


def test_every_peer_runs_unless_some_or_none_are_named():
    ours = [contender for contender in CONTENDERS if not contender.peer]
    assert selected("") == list(CONTENDERS)
    assert selected("none") == ours
    assert {contender.peer for contender in selected("quix, kafka-streams")} == {"", "quix", "kafka-streams"}
    with pytest.raises(UnknownPeer, match="flink"):
        selected("flink")
    assert set(PEERS) == {"kafka-streams", "quix", "faust"}


def result(name: str, rate: int | None, *, verified: bool = True, note: str = "") -> Result:
    return Result(name, "work", "exactly once", 100, rate, None, None, verified, note=note)


def test_ratios_are_to_the_limit_and_to_kafka_streams_and_absent_without_them():
    raw, ours, absent = with_ratios([result(RAW, 200), result("ours", 100), result(PEER, None)])
    assert (raw.ratio_to_raw, ours.ratio_to_raw, absent.ratio_to_raw) == (1.0, 0.5, None)
    assert ours.ratio_to_kafka_streams is None
    assert with_ratios([result("ours", 100), result(PEER, 40)])[0].ratio_to_kafka_streams == 2.5


def test_the_median_is_verified_only_if_every_run_was_and_keeps_what_was_said():
    runs = [result("ours", 3), result("ours", None, verified=False, note="crashed"), result("ours", 2)]
    told = median(runs)
    assert (told.records_per_s, told.verified, told.note) == (2, False, "crashed")


def test_only_a_wrong_result_of_ours_fails_the_run():
    assert not failed([result("sluicegate batch agent", 1), result(PEER, None, verified=False)])
    assert failed([result("sluicegate batch agent", None, verified=False)])


def test_the_lock_of_the_peers_is_whole():
    artefacts = locked(LOCK_FILE)
    assert {artefact.part for artefact in artefacts} == {KAFKA_STREAMS, COMPILER}
    assert all(len(artefact.sha256) == hashlib.sha256().digest_size * 2 for artefact in artefacts)
