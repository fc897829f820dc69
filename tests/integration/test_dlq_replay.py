"""`sluicegate dlq replay` over a real worker: what is mended is handled, once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer

from connectors.kafka.deadletters import DeadLetterReader
from connectors.kafka.errors import ReplayFailed
from connectors.kafka.replays import Handover, Replayer, Replays
from schemas.topics import DEAD_LETTERS, DEAD_REPLAYS, INPUT, OUTPUT, TopicSpec
from schemas.wire import WireCodec
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from ops.stack.addresses import Addresses


@pytest.fixture
def line(tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, kafka_options) as running:
        yield running


def rows(line: CommandLine, *words: str, code: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Letters and sums that a replay prints."""
    ended, out, err = line.run("dlq", "replay", *words, "--json")
    assert ended == code, err
    *letters, sums = (json.loads(text) for text in out.splitlines())
    return letters, sums


def letters_of(line: CommandLine, cause: str) -> list[dict[str, Any]]:
    found = json.loads(line.run("dlq", "list", "--json")[1])["dead_letters"]
    return [letter for letter in found if letter["cause"] == cause]


def published(line: CommandLine, *events: dict[str, Any]) -> None:
    file = line.folder / "events.ndjson"
    file.write_text("".join(json.dumps({"stream_id": "early", "kind": "log", **e}) + "\n" for e in events))
    line.run("publish", str(file), "--wait")  # an orphan among them is exit code 1


@pytest.mark.timeout(240)
def test_a_record_whose_cause_is_mended_is_handled_once_however_often_it_is_replayed(
    line: CommandLine, kafka_options: KafkaOptions, registry: Registry
) -> None:
    # Given an event that came before its stream was opened, and one that is none at all
    line.worker("ingest")
    line.edge()
    published(line, {"event_id": "too-early", "type": "log", "payload": {"line": "first"}})
    producer = Producer({"bootstrap.servers": kafka_options.bootstrap_servers})
    headers = [("trace", b"\x00\xff"), ("authorization", b"Bearer abcdef"), ("trace", b""), ("null", None)]
    producer.produce(
        INPUT.named(kafka_options.topic_prefix), b"\x01 no avro", b"default/broken", partition=1,
        headers=headers,
    )  # fmt: skip
    assert producer.flush(10) == 0
    line.until(
        lambda: letters_of(line, "orphan") and letters_of(line, "BadMagic"), "both are letters", log="worker"
    )
    (orphan,) = letters_of(line, "orphan")

    # When the stream is opened, a dry run says what would be done and does nothing
    published(line, {"type": "open", "payload": {"title": "now open"}})
    (row,), sums = rows(line, "--all", "--cause", "orphan")
    assert (row["id"], row["outcome"]) == (orphan["id"], "would_replay")
    assert row["to"]["topic"] == INPUT.named(kafka_options.topic_prefix)
    assert (sums["dry_run"], sums["would_replay"]) == (True, 1)
    assert len(read_committed(kafka_options, INPUT, 3)) == 3

    # Then the replay brings it to the output, and a second one does nothing
    (row,), sums = rows(line, orphan["id"], "--yes", "--reason", "it is open now")
    assert (row["outcome"], sums["replayed"]) == ("replayed", 1)
    assert row["to"]["partition"] == int(orphan["from"].partition("[")[2].partition("]")[0])
    for words in ((orphan["id"], "--yes"), ("--all", "--cause", "orphan", "--yes")):
        (row,), sums = rows(line, *words)
        assert (row["outcome"], sums["replayed"], sums["replayed_before"]) == ("replayed_before", 0, 1)
    assert len(read_committed(kafka_options, INPUT, 4)) == 4
    codec = WireCodec(registry)
    output = [codec.decode_event(m.value() or b"") for m in read_committed(kafka_options, OUTPUT, 2)]
    assert [(event.type, event.event_id) for event in output][1:] == [("log", "too-early")]
    (fact,) = read_committed(kafka_options, DEAD_REPLAYS, 1)
    kept = codec.decode(fact.value() or b"", DEAD_REPLAYS.subject)
    assert f"{kept['partition']}:{kept['offset']}" == orphan["id"]
    assert (kept["reason"], "@" in kept["by"]) == ("it is open now", True)

    # And what is not mended becomes a letter of its own again
    (broken,) = letters_of(line, "BadMagic")
    code, out, err = line.run("dlq", "replay", broken["id"], "--yes")
    assert code == 0, err
    assert "replayed to" in out
    line.until(lambda: len(letters_of(line, "BadMagic")) == 2, "it failed again", log="worker")

    # And both times with the headers that it came with, byte for byte, of which people are shown no secret
    inputs = read_committed(kafka_options, INPUT, 5)
    assert [m.headers() for m in inputs if m.value() == b"\x01 no avro"] == [headers, headers]
    first, second = letters_of(line, "BadMagic")
    shown = json.loads(line.run("dlq", "show", first["id"], "--json")[1])["headers"]
    assert [(header["name"], header["value"]) for header in shown] == [
        ("trace", "\\x00\\xff"), ("authorization", "Bearer ***"), ("trace", ""), ("null", None),
    ]  # fmt: skip
    assert "header        trace=\\x00\\xff" in line.run("dlq", "show", second["id"])[1]


def test_letters_that_are_not_there_or_not_named_are_an_error(line: CommandLine) -> None:
    assert line.run("dlq", "replay")[0] == 2
    assert line.run("dlq", "replay", "0:1", "--all")[0] == 2
    assert line.run("dlq", "replay", "nonsense")[0] == 2
    _, sums = rows(line, "0:5", code=1)
    assert sums["missing"] == ["0:5"]
    assert rows(line, "--all")[0] == []


ORDERS = TopicSpec("orders.v1", "key", "", 1, -1, "delete", "Orders.")
_READS_ORDERS = """
from schemas.topics import TopicSpec

ORDERS = TopicSpec("orders.v1", "key", "", 1, -1, "delete", "Orders.")
TOPICS = (ORDERS,)


def register(app, tools, options):
    source = app.source(ORDERS, agent="{agent}", decode=lambda records: [one.value for one in records])

    @app.agent(source)
    async def agent(stream):
        async for _ in stream:
            pass
"""


def test_a_module_that_cannot_be_used_is_named_with_how_to_go_on(
    line: CommandLine, topics, registered_schemas: str
) -> None:
    topics(DEAD_LETTERS, DEAD_REPLAYS)
    (line.folder / "agents").mkdir()
    (line.folder / "agents" / "broken.py").write_text("import no_such_module")
    line.environment["SLUICEGATE_PIPELINES"] = "agents"
    code, _, err = line.run("dlq", "replay", "--all")
    assert code == 1
    assert "which agents of yours read a topic is not known: agents/broken.py: it cannot be impor" in err
    assert "ModuleNotFoundError: No module named 'no_such_module'" in err
    assert "`--also-to-others` goes on without SLUICEGATE_PIPELINES" in err
    code, _, err = line.run("dlq", "replay", "--all", "--also-to-others")
    assert code == 0, err
    assert "warning: agents of SLUICEGATE_PIPELINES are not known as readers: agents/broken.py" in err
    assert "no such dead letters" in err


@pytest.mark.timeout(240)
def test_a_record_whose_agent_is_not_known_is_doubled_for_others_only_if_that_is_asked_for(
    line: CommandLine, kafka_options: KafkaOptions, registry: Registry, topics: Any
) -> None:
    topics(ORDERS, DEAD_LETTERS, DEAD_REPLAYS)
    (folder := line.folder / "agents").mkdir()
    for role, agent in (("bills", "bill"), ("totals", "total")):
        (folder / f"{role}.py").write_text(_READS_ORDERS.format(agent=agent))
    line.environment["SLUICEGATE_PIPELINES"] = str(folder)
    letter = {
        "topic": ORDERS.named(kafka_options.topic_prefix), "partition": 0, "offset": 3, "value": b"order",
        "cause": "Broken", "agent": "renamed",
    }  # fmt: skip
    producer = Producer(kafka_options.client_config())
    value = WireCodec(registry).encode(DEAD_LETTERS.subject, letter)
    producer.produce(DEAD_LETTERS.named(kafka_options.topic_prefix), value, partition=0)
    assert producer.flush(10) == 0

    for words in ((), ("--yes",)):
        (row,), sums = rows(line, "--all", *words, code=1)
        assert (row["outcome"], row["also_to"], sums["cannot"]) == ("cannot", ["bills", "totals"], 1)
        assert "bills, totals reads" in row["why"]
        assert "--also-to-others" in row["why"]
    code, out, err = line.run("dlq", "replay", "--all", "--also-to-others")
    assert code == 0, err
    assert "would go to" in out
    assert "also to bills, totals, once more" in out
    (row,), sums = rows(line, "--all", "--also-to-others", "--yes")
    assert (row["outcome"], row["also_to"], sums["replayed"]) == ("replayed", ["bills", "totals"], 1)
    (row,), _ = rows(line, "--all")
    assert row["outcome"] == "replayed_before"
    assert [m.value() for m in read_committed(kafka_options, ORDERS, 1)] == [b"order"]


@pytest.fixture
def handovers(kafka_options: KafkaOptions, topics: Any, registry: Registry) -> list[Handover]:
    topics(INPUT, DEAD_LETTERS, DEAD_REPLAYS)
    codec = WireCodec(registry, value_bytes_max=DEAD_LETTERS.max_message_bytes)
    producer = Producer(kafka_options.client_config())
    topic = INPUT.named(kafka_options.topic_prefix)
    for number in range(3):
        letter = {"topic": topic, "partition": 2, "offset": number, "value": b"v", "cause": "Broken"}
        value = codec.encode(DEAD_LETTERS.subject, letter)
        producer.produce(DEAD_LETTERS.named(kafka_options.topic_prefix), value, partition=2)
    assert producer.flush(10) == 0
    reader = DeadLetterReader(kafka_options, codec)
    found = [Handover(letter, topic, letter.from_partition) for letter in reader.present()]
    reader.close()
    assert len(found) == 3
    return found


def test_of_two_who_replay_at_once_the_later_one_goes_on_alone(
    kafka_options: KafkaOptions, registry: Registry, handovers: list[Handover]
) -> None:
    codec = WireCodec(registry)
    earlier = Replayer(kafka_options, codec, by="ann@a")
    earlier.open()
    assert Replays(kafka_options, codec).done() == {}
    assert earlier.hand_in(handovers[:1]) == [(2, 0)]
    later = Replayer(kafka_options, codec, by="bob@b")
    later.open()
    known = Replays(kafka_options, codec).done()
    assert known == {handovers[0].letter.id: handovers[0].letter.time_us}
    with pytest.raises(ReplayFailed, match="fenced"):
        earlier.hand_in(handovers[1:])
    later.hand_in(handovers[1:])
    assert len(read_committed(kafka_options, INPUT, 3)) == 3
    assert set(Replays(kafka_options, codec).done()) == {one.letter.id for one in handovers}
