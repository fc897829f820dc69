"""Which dead letters may be handed in again, and where they go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from connectors.kafka.deadletters import NOT_A_LETTER, DeadLetter
from connectors.kafka.options import KafkaOptions
from connectors.kafka.replays import BATCH_RECORDS_MAX
from ops.commands.asides import _tell_ways_back
from ops.deployed import Running
from ops.errors import Misused
from ops.handback import Judge, Reader, Verdict, in_batches, readers_of, ways_back
from pipelines.blueprint import blueprints
from pipelines.extension import Extension
from schemas.letters import cut_note, is_cut
from schemas.topics import INPUT, OUTPUT, RECORDS, TAKES_AGAIN, TOPICS, TopicSpec

if TYPE_CHECKING:
    from pathlib import Path

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
        ({"cut": True}, "is not whole"),
        ({"value": b""}, "no value"),
        ({"cause": NOT_A_LETTER}, "somebody else wrote it"),
        ({"from_topic": "eu.gone.v1"}, "there is no topic eu.gone.v1"),
        ({"from_topic": "eu.orders.v1", "from_partition": 3}, "has no partition 3"),
        ({"from_topic": "eu.streams.output.v1"}, "no role that is known here has"),
    ],
)
def test_what_cannot_go_in_says_why(change: dict[str, object], why: str) -> None:
    verdict = judge().judge(replace(LETTER, **change))  # type: ignore[arg-type]
    assert verdict.outcome == "cannot"
    assert why in verdict.why


READERS = {
    "streams.output.v1": [
        Reader("totals", "counts", takes_back=True),
        Reader("bills", "bill", takes_back=True),
    ],
    "streams.records.v1": [Reader("archive", "archive_streams", takes_back=False)],
    "streams.input.v1": [Reader("ingest", "ingest", takes_back=True)],
}
OF_OUTPUT = replace(LETTER, from_topic="eu.streams.output.v1", agent="counts")


def back(letter: DeadLetter, *, running: dict[str, Running] | None = None, again: bool = False) -> Verdict:
    given = Judge(CLUSTER, {}, prefix="eu.", readers=READERS, running=running or {}, again=again)
    return given.judge(letter)


def test_a_record_that_others_read_too_is_handed_back_to_its_own_agent_alone() -> None:
    verdict = back(OF_OUTPUT)
    assert (verdict.outcome, verdict.topic, verdict.partition) == ("goes in", "eu.streams.output.v1", 1)
    assert (verdict.role, verdict.generation, verdict.others) == ("totals", 1, ())
    assert (verdict.handover.role, verdict.handover.generation) == ("totals", 1)


def test_what_producers_write_is_appended_as_ingest_judges_it_anew() -> None:
    assert (back(LETTER).outcome, back(LETTER).role) == ("goes in", "")


def test_one_whose_agent_is_not_known_or_keeps_its_own_position_is_not_handed_back() -> None:
    unknown = back(replace(OF_OUTPUT, agent="renamed"))
    assert (unknown.outcome, "set SLUICEGATE_PIPELINES" in unknown.why) == ("cannot", True)
    archived = back(replace(LETTER, from_topic="eu.streams.records.v1", agent="archive_streams"))
    assert (archived.outcome, "its position outside of Kafka" in archived.why) == ("cannot", True)
    two = {"streams.output.v1": [Reader(role, "counts", takes_back=True) for role in ("a", "b")]}
    either = Judge(CLUSTER, {}, prefix="eu.", readers=two).judge(OF_OUTPUT)
    assert (either.outcome, "roles a, b each have an agent 'counts'" in either.why) == ("cannot", True)
    there = judge(to="orders.v1").judge(OF_OUTPUT)
    assert (there.outcome, there.topic, there.role) == ("goes in", "eu.orders.v1", ""), "as it says"


def test_a_record_goes_back_to_the_generation_that_runs_which_may_have_had_it() -> None:
    live = {"totals": Running("eu.sluicegate.totals.g2", "", 2, 2)}
    assert back(OF_OUTPUT, running=live).generation == 2
    assert back(replace(OF_OUTPUT, generation=2), running=live).outcome == "goes in"
    of_the_first = replace(OF_OUTPUT, generation=1)
    assert "generation 1 of totals made it; 2 runs" in back(of_the_first, running=live).why
    assert back(of_the_first, running=live, again=True).outcome == "goes in"
    built = {"totals": Running("eu.sluicegate.totals", "eu.sluicegate.totals.g2", 1, 2)}
    assert "totals is rebuilt as eu.sluicegate.totals.g2" in back(of_the_first, running=built).why


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


@pytest.mark.parametrize(
    ("role", "topics", "cause", "told"),
    [
        ("ingest", [INPUT], "quarantined", ["undone, `sluicegate dlq replay --all --cause q"]),
        ("ingest", [INPUT], "skipped", ["v1: `sluicegate dlq replay --all --cause skipped`"]),
        ("archive", [RECORDS], "quarantined", ["no way back to archive"]),
        ("totals", [OUTPUT], "quarantined", ["undone, `sluicegate dlq replay --all --cause q"]),
        ("totals", [OUTPUT, RECORDS], "skipped", ["dlq replay --all", "no way back to totals"]),
    ],
)  # fmt: skip
def test_a_replay_is_promised_only_where_one_goes_in(
    role: str, topics: list[TopicSpec], cause: str, told: list[str]
) -> None:
    said = ways_back(role, [spec.name for spec in topics], cause, READERS)
    assert len(said) == len(told)
    assert all(part in line for part, line in zip(told, said, strict=True))
    for spec in topics:  # as the replay itself judges
        mine = next((one.agent for one in READERS[spec.name] if one.role == role), "")
        letter = replace(LETTER, from_topic=f"eu.{spec.name}", cause=cause, agent=mine)
        judged = Judge({letter.from_topic: 4}, {}, prefix="eu.", readers=READERS).judge(letter)
        goes = judged.outcome == "goes in"
        assert goes == any(spec.name in line and "dlq replay --all" in line for line in said)


@pytest.mark.parametrize(
    ("agent", "others"),
    [
        ("sink", ("bills",)),
        ("gone", ("bills", "totals")),
    ],
)
def test_a_record_that_another_role_reads_too_goes_in_only_if_that_is_asked_for(
    agent: str, others: tuple[str, ...]
) -> None:
    orders = [Reader("totals", "sink", takes_back=False), Reader("bills", "bill", takes_back=True)]
    readers = READERS | {"orders.v1": orders}
    letter = replace(LETTER, from_topic="eu.orders.v1", agent=agent)

    def verdict(letter: DeadLetter, *, to: str | None = None, also_to_others: bool = False) -> Verdict:
        given = {"readers": readers, "also_to_others": also_to_others}
        return Judge(CLUSTER, {}, prefix="eu.", to=to, **given).judge(letter)  # type: ignore[arg-type]

    refused = verdict(letter)
    assert (refused.outcome, refused.others) == ("cannot", others)
    assert f"{', '.join(others)} reads eu.orders.v1, too" in refused.why
    assert "--also-to-others" in refused.why
    asked_for = verdict(letter, also_to_others=True)
    assert (asked_for.outcome, asked_for.others) == ("goes in", others)
    assert verdict(LETTER).outcome == "goes in", "its topic has one reader"
    assert verdict(LETTER, to="orders.v1").others == (), "which have not had it"
    assert verdict(replace(letter, value=b""), also_to_others=True).outcome == "cannot"


def test_of_two_roles_with_an_agent_of_that_name_both_are_named() -> None:
    readers = {"orders.v1": [Reader("one", "same", takes_back=True), Reader("two", "same", takes_back=True)]}
    letter = replace(LETTER, from_topic="eu.orders.v1", agent="same")
    assert Judge(CLUSTER, {}, prefix="eu.", readers=readers).judge(letter).others == ("one", "two")


def test_who_reads_a_topic_is_learnt_of_all_roles() -> None:
    readers = readers_of(blueprints(Extension(), KafkaOptions("", "eu.")))
    assert readers["streams.input.v1"] == [Reader("ingest", "ingest", takes_back=True)]
    assert {"aggregate", "account"} <= {one.role for one in readers["streams.output.v1"]}
    assert not any(one.takes_back for one in readers["streams.records.v1"]), "PostgreSQL has its position"


def test_batches_keep_the_order_and_fit_into_a_transaction() -> None:
    one = judge()
    many = [one.judge(replace(LETTER, offset=n)) for n in range(BATCH_RECORDS_MAX + 1)]
    assert [len(batch) for batch in in_batches(many)] == [BATCH_RECORDS_MAX, 1]
    large = [one.judge(replace(LETTER, offset=10_000 + n, value=b"x" * 1_048_576)) for n in range(5)]
    batches = list(in_batches(large))
    assert [len(batch) for batch in batches] == [3, 2]
    assert [verdict for batch in batches for verdict in batch] == large
    heavy = (("h", bytes(3 * 1_048_576)),)
    many = [one.judge(replace(LETTER, offset=20_000 + n, headers=heavy)) for n in range(2)]
    assert [len(batch) for batch in in_batches(many)] == [1, 1]


def test_a_letter_whose_bytes_were_cut_is_known_by_its_detail() -> None:
    assert is_cut(cut_note(5, 3_000_000) + "what the error said")
    assert is_cut(cut_note(5, 3_000_000, "7 headers") + "what the error said")
    assert not is_cut("cut off in mid-air")


@pytest.mark.parametrize("role", ["ingest", "totals"])
def test_the_way_back_is_told_also_beside_a_module_that_is_broken_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    (tmp_path / "totals.py").write_text("def register(app, tools, options):\n    raise KeyError('lost')\n")
    monkeypatch.setenv("SLUICEGATE_PIPELINES", str(tmp_path))
    monkeypatch.setenv("SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("SLUICEGATE_REGISTRY__URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SLUICEGATE_POSTGRES__DSN", "postgresql://127.0.0.1:1/x")
    _tell_ways_back(role, {INPUT.name}, "skipped")
    said = capsys.readouterr().err
    assert "totals.py" in said
    assert ("dlq replay --all --cause skipped" in said) == (role == "ingest")
