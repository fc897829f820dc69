"""What a figure rests on: the check that its outputs were right, and the choice of whom to run beside."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from array import array
from dataclasses import fields
from functools import partial
from xml.etree import ElementTree as ET

import pytest

from benchmarks.asked import BY_DEFAULT, ON_DEMAND, Asked, Misspelt, asked
from benchmarks.chart import Panel, svg
from benchmarks.contenders import CONTENDERS, KEYED, among
from benchmarks.edge import finished, streams
from benchmarks.edge.asked import asked as asked_of_edge
from benchmarks.edge.generator import Snapshot
from benchmarks.edge.stalled import Growth, changes
from benchmarks.edge.steady import Held
from benchmarks.flat import flat, growth
from benchmarks.keys import FoldedState, KeyLoad
from benchmarks.peers.jars import COMPILER, KAFKA_STREAMS, LOCK_FILE
from benchmarks.readings import EVEN, Load, Shape
from benchmarks.results import KAFKA_STREAMS as PEER
from benchmarks.results import (
    RAW,
    Latency,
    Restored,
    Result,
    failed,
    judged_by_budget,
    median,
    typical,
    with_ratios,
)
from benchmarks.soak import GROWTH_MAX, Samples, Soaked
from benchmarks.steady import EachOnce
from benchmarks.windows import FIGURES
from benchmarks.works import WORKS
from connectors.kafka.birth import is_birth
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


@pytest.mark.parametrize("contenders", [CONTENDERS, KEYED])
def test_ours_always_run_and_of_the_peers_those_that_are_named(contenders):
    ours = [contender for contender in contenders if not contender.peer]
    assert ours
    assert among(contenders, ()) == ours
    named = among(contenders, asked({"PEERS": "quix, kafka-streams"}).peers)
    assert {contender.peer for contender in named} <= {"", "quix", "kafka-streams"}
    assert len(named) > len(ours)
    assert among(contenders, asked({}).peers) == list(contenders)


def test_without_settings_all_works_run_but_those_that_take_longest():
    assert asked({}) == Asked()
    assert {*BY_DEFAULT, *ON_DEMAND} == WORKS.keys()
    assert asked({}).works == BY_DEFAULT


def test_works_are_done_in_the_order_of_the_table_as_one_uses_what_another_made():
    assert asked({"WORKS": "restore,state"}).works == ("state", "restore")
    assert asked({"WORKS": "soak"}).works == ("soak",)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PEERS", "flink"), ("WORKS", "window"), ("EVENTS", "many"), ("RUNS", "0"), ("MINUTES", "-1")],
)
def test_a_setting_that_is_misspelt_is_refused_by_its_name(name, value):
    with pytest.raises(Misspelt, match=f"{name}={value}"):
        asked({name: value})


def test_readings_come_evenly_in_turn_and_when_skewed_half_of_them_under_one_key():
    assert {EVEN.key(number) for number in range(EVEN.keys)} == {f"s-{index:04d}" for index in range(2_000)}
    skewed = [Shape(hot=True).key(number) for number in range(10_000)]
    assert skewed.count("s-0000") == 5_000
    assert len(set(skewed)) == 1_001  # the other half, odd numbers, has 1,000 keys of its own


def test_scattered_keys_are_all_met_before_one_comes_again():
    shape = Shape(keys=1_000, stride=2_654_435_761)
    first = [shape.key(number) for number in range(1_000)]
    assert len(set(first)) == 1_000
    assert first != sorted(first)


@pytest.fixture
def key_load() -> KeyLoad:
    counts, amounts = bytearray([2, 1, 0]), array("H", [10, 3, 0])
    return KeyLoad(KafkaOptions("nowhere:1"), 3, 32, counts, amounts, array("I", [1, 0, 2]))


def state_of(count: int, amount: int, size: int = 32) -> bytes:
    return FIGURES.pack(count, amount, 0.5).ljust(size, b"x")


def folded(load: KeyLoad, records: list[tuple[bytes, bytes | None]], **options: object) -> str:
    check = FoldedState(load, **options)
    for key, value in records:
        check.see(key, value)
    return check.difference()


RIGHT = [(b"k-00000000", state_of(1, 4)), (b"k-00000001", state_of(1, 3)), (b"k-00000000", state_of(2, 10))]


def test_of_a_changelog_the_last_value_of_a_key_counts_and_the_mark_of_its_beginning_does_not(key_load):
    mark = b"\x00sluicegate.changelog.begins\x00" + bytes(8)
    assert is_birth(mark)
    assert folded(key_load, [(mark, b"1"), *RIGHT]) == ""


@pytest.mark.parametrize("last", [state_of(1, 10), state_of(2, 9)])
def test_a_wrong_count_or_sum_of_one_key_is_found(key_load, last):
    assert folded(key_load, [*RIGHT, (b"k-00000000", last)]) == "1 of 3 keys wrong, 0 of them missing"


def test_a_missing_key_is_found(key_load):
    assert folded(key_load, RIGHT[:1] + RIGHT[2:]) == "1 of 3 keys wrong, 1 of them missing"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"k-00000001", None),
        (b"k-00000001", state_of(1, 3, size=31)),
        (b"k-00000003", state_of(1, 3)),
        (b"k-0000000x", state_of(1, 3)),
        (b"k-00000001", state_of(-1, 3)),
        (b"k-00000001", state_of(300, 3)),
    ],
)
def test_what_is_no_state_of_the_work_is_found(key_load, key, value):
    assert folded(key_load, [*RIGHT, (key, value)]).startswith("1 records of the changelog")


def test_of_a_sample_the_other_keys_are_not_looked_at(key_load):
    assert folded(key_load, RIGHT[1:2], only=[1]) == ""
    assert folded(key_load, RIGHT[1:2], only=[0, 1]) == "1 of 2 keys wrong, 1 of them missing"


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


def restored(rate: int | None, *, note: str = "") -> Restored:
    return Restored("ours", "restore", "exactly once", rate, None, None, None, 0, not note, note)


def test_a_restore_is_told_by_its_middle_run_too():
    told = median([restored(30), restored(10), restored(20)])
    assert (told.records_per_s, told.verified) == (20, True)
    told = median([restored(30), restored(None, note="not ready"), restored(20)])
    assert (told.records_per_s, told.verified, told.note) == (20, False, "not ready")


def latency(p50_ms: float, p99_ms: float, *, verified: bool = True) -> Latency:
    return Latency("ours", "latency", "exactly once", 1_000, 400.0, 200, p50_ms, p99_ms, verified)


def test_of_latencies_each_figure_is_its_own_median_and_of_two_the_longer():
    told = typical([latency(1, 50), latency(3, 40), latency(2, 90, verified=False)])
    assert (told.p50_ms, told.p99_ms, told.verified) == (2, 50, False)
    assert typical([latency(1, 50), latency(3, 40)]) == latency(3, 50)


def test_only_a_wrong_result_of_ours_fails_the_run():
    assert not failed([result("sluicegate batch agent", 1), result(PEER, None, verified=False)])
    assert failed([result("sluicegate batch agent", None, verified=False)])


def test_the_lock_of_the_peers_is_whole():
    artefacts = locked(LOCK_FILE)
    assert {artefact.part for artefact in artefacts} == {KAFKA_STREAMS, COMPILER}
    assert all(len(artefact.sha256) == hashlib.sha256().digest_size * 2 for artefact in artefacts)


def test_what_stays_where_it_is_is_flat_saw_teeth_and_all_and_what_rises_is_not():
    saw = [(10.0 * number, 100.0 + number % 6 * 20) for number in range(60)]
    assert growth(saw) == pytest.approx(0, abs=0.05)
    rising = [(at, figure + at / 4) for at, figure in saw]  # by 148 over the whole
    assert growth(rising) == pytest.approx(0.66, abs=0.1)
    assert [flat(growth(each), 0.2) for each in (saw, rising)] == [True, False]
    assert flat(growth([(at, 300 - figure) for at, figure in rising]), 0.2) is True, "it shrank"


def test_windows_that_are_never_forgotten_are_no_flat_state_however_the_teeth_fall():
    kept = [(10.0 * number, 20.0 * number + number % 5 * 400) for number in range(60, 180)]
    assert flat(growth(kept), GROWTH_MAX["state on disk"]) is False


def changelog(bottom_mb, top_mb, tooth_s):
    """Sizes from the tenth to the thirtieth minute: teeth that rise from one bound to the other."""
    sizes = []
    for at in range(600, 1_800, 10):
        low, high = bottom_mb(at), top_mb(at)
        sizes.append((float(at), (low + (high - low) * (at % tooth_s) / tooth_s) * 1_048_576))
    return sizes


@pytest.mark.parametrize("tooth_s", [290, 350])
def test_a_changelog_is_judged_by_what_its_teeth_come_down_to_and_not_by_how_high_they_are(tooth_s):
    most = GROWTH_MAX["changelog"]
    higher = changelog(lambda at: 2 + at // tooth_s % 3 / 4, lambda at: 5 + at / 180, tooth_s)
    samples = Samples(changelog=higher)
    assert growth(higher) > most, "as workers fell behind, the teeth were higher to the end"
    assert flat(samples.after(600)[2], most) is True


@pytest.mark.parametrize("tooth_s", [30, 170, 290, 350])
@pytest.mark.parametrize("teeth_mb", [0, 2, 8])
def test_a_changelog_that_nothing_is_taken_off_for_good_is_found_whatever_its_teeth(tooth_s, teeth_mb):
    kept = changelog(lambda at: at / 60, lambda at: at / 60 + teeth_mb, tooth_s)  # from 10 to 30 MB
    assert flat(Samples(changelog=kept).after(600)[2], GROWTH_MAX["changelog"]) is False


def test_a_run_that_is_too_short_for_the_teeth_of_its_changelog_says_so():
    short = changelog(lambda _at: 2, lambda _at: 9, 290)[:40]
    assert Samples(changelog=short).after(600)[2] is None


def test_a_single_spike_is_no_growth_and_a_few_samples_tell_nothing():
    still = [(10.0 * number, 100.0) for number in range(20)]
    assert growth([*still[:-1], (190.0, 900.0)]) == 0
    assert growth(still[:5]) is None
    assert flat(None, 0.2) is None


def test_a_window_that_closed_twice_or_never_or_with_another_sum_is_found():
    expected = {b"w1": (2, 7, 0.3), b"w2": (1, 5, 0.1)}

    def judged(*records: tuple[bytes, tuple[int, int, float]]) -> str:
        check = EachOnce(expected)
        for key, figures in records:
            check.see(key, FIGURES.pack(*figures))
        return check.difference()

    right = [(b"w1", (2, 7, 0.1 + 0.2)), (b"w2", (1, 5, 0.1))]
    assert judged(*right) == ""
    assert judged(*right, right[0]) == "of 2 windows 0 never closed, 1 closed twice, 0 unknown"
    assert judged(right[0]) == "of 2 windows 1 never closed, 0 closed twice, 0 unknown"
    assert judged(*right, (b"w3", (1, 1, 1.0))).endswith("1 unknown")
    assert judged(right[0], (b"w2", (1, 6, 0.1))) == "1 of 2 windows wrong"


def test_a_soak_that_grew_fails_the_run_although_its_sums_are_right():
    soaked = partial(
        Soaked, "sluicegate", "soak", "exactly once", 1, 1, 0, 1, 0, 0, 0, 0, None, None, None, verified=True
    )
    assert [failed([soaked(flat=each)]) for each in (True, None, False)] == [False, False, True]


def test_a_chart_shows_more_higher_up_and_breaks_for_what_was_not_measured():
    drawn = svg([Panel("over keys", ["1 k", "10 M"], {"a": [100, 50], "b": [None, 25]})], "events/s")
    heights = [float(found) for found in re.findall(r'cy="([\d.]+)"', drawn)]
    assert heights == sorted(heights)
    assert len(heights) == 3
    assert all(text in drawn for text in ("over keys", "1 k", "10 M", "events/s", ">a<", ">b<"))
    ET.fromstring(drawn)


def test_a_rate_of_the_edge_is_held_for_the_minute_that_its_goals_ask():
    assert asked_of_edge({}).seconds == 60
    assert asked_of_edge({"SECONDS": "15"}).seconds == 15


def held(rate: float, p99_ms: float) -> Held:
    found = Snapshot(**dict.fromkeys(Snapshot.__dataclass_fields__, 0) | {"p99_ms": p99_ms})
    return Held(
        rate,
        int(1_000 * rate),
        1_000.0,
        0,
        found,
        complete=True,
        cpu_s=0,
        writes=1,
        streams=1,
        p99_ms_max=150,
    )


class Breaking:
    """A load that is held up to some rate."""

    def __init__(self, most: float) -> None:
        self._most = most

    def hold(self, rate: float, _seconds: float) -> Held:
        return held(rate, 100 if rate <= self._most else 200)


@pytest.mark.parametrize("spoiled", ["", "missing", "no end"])
def test_a_late_client_times_the_first_event_and_finds_one_that_is_missing(spoiled):
    events = [{"seq": seq, "type": "end" if seq == 9 and spoiled != "no end" else "log"} for seq in range(10)]
    if spoiled == "missing":
        del events[4]
    told = [f"id: c\ndata: {json.dumps(event)}\n\n" for event in events]

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            client, _address = listener.accept()
            with client:
                assert client.recv(65_536).startswith(b"GET /s-7 HTTP/1.0\r\n")
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\nretry: 9\n\n" + "".join(told).encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        answered = finished.ask(listener.getsockname()[1], "/s-{stream}", [7, 7])
        server.join(10)
    assert answered.whole is not bool(spoiled)
    assert 0 < answered.at(0.5) <= answered.at(0.99) < 30_000


def test_the_first_bytes_of_a_share_of_the_clients_are_those_of_the_slowest_in_it():
    answered = finished.Answered(tuple(float(ms) for ms in range(40, 0, -1)), whole=True)
    assert (answered.at(0.5), answered.at(0.99)) == (20.0, 40.0)


def test_the_rate_at_which_an_edge_breaks_is_the_first_that_was_not_held_with_the_reason():
    assert streams.raised(Breaking(12)) == {
        "holds_events_per_s": 9.8,
        "breaks_at_events_per_s": 12.2,
        "breaks_by": "not held: p99 200 ms (bound 150), 12 events/s taken",
    }
    none_broke = streams.raised(Breaking(1_000))
    assert (none_broke["breaks_at_events_per_s"], none_broke["breaks_by"]) == (None, "")


def test_memory_beside_the_stalled_is_flat_within_so_much_each_and_no_more():
    at_most_kb = 6 * 2_000 + 8 * 1_024
    assert [Growth(2_000, kb).is_flat for kb in (-500, at_most_kb, at_most_kb + 1)] == [True, True, False]
    assert not Growth(2_000, 8 * 2_000 * 1_500 / 1_024).is_flat, "a reference for each client and event"


def test_counters_that_did_not_rise_are_left_out_and_new_ones_rise_from_none():
    assert changes({"a": 2, "b": 1}, {"a": 2, "b": 4, "c": 5}) == {"b": 3, "c": 5}


PROMISED = {"name", "work", "guarantee", "records_per_s", "cpu_s_per_million", "peak_rss_mb", "verified"}


def test_every_kind_of_line_has_the_fields_that_are_promised():
    assert all(
        {each.name for each in fields(kind)} >= PROMISED for kind in (Result, Latency, Restored, Soaked)
    )


@pytest.mark.parametrize(
    ("said", "peak_mb", "within"),
    [
        ("ready at 1\nstores hold 3 MB\nstores hold 192 MB\n", 192, True),
        ("stores hold 193 MB\nstores hold 12 MB\n", 193, False),  # of another run
        ("ready at 1\n", None, False),
    ],
)
def test_what_stores_use_beyond_their_budget_and_one_unit_fails_the_command(said, peak_mb, within):
    line = Result("sluicegate batch agent", "state", "exactly once", 1, 1, 1.0, 900, verified=True)
    judged = judged_by_budget(line, 128, said)
    assert (judged.state_budget_mb, judged.state_peak_mb, judged.within_budget) == (128, peak_mb, within)
    assert failed([judged]) is not within
    assert not failed([line]), "what is not judged does not fail"
