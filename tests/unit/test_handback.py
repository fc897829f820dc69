"""Which dead letters may be handed in again, and where they go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.kafka.deadletters import NOT_A_LETTER, DeadLetter
from connectors.kafka.replays import BATCH_RECORDS_MAX
from ops.errors import Misused
from ops.handback import Judge, in_batches
from schemas.letters import cut_note, is_cut
from schemas.topics import INPUT, OUTPUT, TAKES_AGAIN, TOPICS

LETTER = DeadLetter(
    partition=1, offset=7, from_topic="eu.streams.input.v1", from_partition=1, from_offset=40, key=b"k",
    value=b"bytes", schema_id=-1, cause="BadMagic", detail="", agent="ingest", code_version="1", attempts=1,
    cut=False, time_us=9,
)  # fmt: skip
CLUSTER = {"eu.streams.input.v1": 4, "eu.streams.output.v1": 4, "eu.orders.v1": 2}


def judge(done: dict[str, int] | None = None, to: str | None = None, *, again: bool = False) -> Judge:
    return Judge(CLUSTER, done or {}, prefix="eu.", to=to, again=again)


def test_a_letter_goes_back_to_where_its_record_stood() -> None:
    verdict = judge().judge(LETTER)
    assert (verdict.outcome, verdict.topic, verdict.partition) == ("goes in", "eu.streams.input.v1", 1)


def test_a_letter_goes_in_once_also_if_it_is_named_twice() -> None:
    one = judge()
    assert [one.judge(LETTER).outcome for _ in range(2)] == ["goes in", "was replayed"]
    assert judge({"1:7": 9}).judge(LETTER).outcome == "was replayed"
    assert judge({"1:7": 9}, again=True).judge(LETTER).outcome == "goes in"


def test_a_letter_of_a_topic_that_was_made_anew_is_another_one() -> None:
    assert judge({"1:7": 8}).judge(LETTER).outcome == "goes in"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cut": True}, "bytes were cut"),
        ({"value": b""}, "no value"),
        ({"cause": NOT_A_LETTER}, "somebody else wrote it"),
        ({"from_topic": "eu.gone.v1"}, "there is no topic eu.gone.v1"),
        ({"from_topic": "eu.orders.v1", "from_partition": 3}, "has no partition 3"),
        ({"from_topic": "eu.streams.output.v1"}, "single writer"),
    ],
)
def test_what_cannot_go_in_says_why(change: dict[str, object], why: str) -> None:
    verdict = judge().judge(replace(LETTER, **change))  # type: ignore[arg-type]
    assert verdict.outcome == "cannot"
    assert why in verdict.why


def test_another_topic_takes_a_record_by_its_key_or_else_by_its_number() -> None:
    elsewhere = judge(to="orders.v1")
    verdict = elsewhere.judge(replace(LETTER, from_partition=3))
    assert (verdict.topic, verdict.partition) == ("eu.orders.v1", None)
    assert elsewhere.judge(replace(LETTER, offset=8, from_partition=3, key=None)).partition == 1


def test_nobody_is_sent_to_a_topic_with_a_single_writer_or_to_none() -> None:
    with pytest.raises(Misused, match="single writer"):
        judge(to=OUTPUT.name)
    with pytest.raises(Misused, match="there is no topic"):
        judge(to="nowhere.v1")


def test_clients_and_state_are_shown_nothing_that_was_replayed_past_ingest() -> None:
    assert INPUT in TAKES_AGAIN
    assert not [spec.name for spec in TAKES_AGAIN if spec.cleanup != "delete"]
    assert set(TOPICS) > TAKES_AGAIN


def test_batches_keep_the_order_and_fit_into_a_transaction() -> None:
    one = judge()
    many = [one.judge(replace(LETTER, offset=n)) for n in range(BATCH_RECORDS_MAX + 1)]
    assert [len(batch) for batch in in_batches(many)] == [BATCH_RECORDS_MAX, 1]
    large = [one.judge(replace(LETTER, offset=10_000 + n, value=b"x" * 1_048_576)) for n in range(5)]
    batches = list(in_batches(large))
    assert [len(batch) for batch in batches] == [3, 2]
    assert [verdict for batch in batches for verdict in batch] == large


def test_a_letter_whose_bytes_were_cut_is_known_by_its_detail() -> None:
    assert is_cut(cut_note(5, 3_000_000) + "what the error said")
    assert not is_cut("cut off in mid-air")
