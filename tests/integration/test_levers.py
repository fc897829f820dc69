"""`sluicegate pause` and `resume` over a real worker: nothing is read, lost or doubled meanwhile."""

from __future__ import annotations

import json
import shlex
import socket
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.kafka.lag import committed_offsets
from schemas.topics import AUDIT, CONTROLS, INPUT, OUTPUT, partition_of
from schemas.wire import WireCodec
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from ops.stack.addresses import Addresses


@pytest.fixture
def line(tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, kafka_options) as running:
        with socket.create_server(("127.0.0.1", 0)) as free:
            running.environment["SLUICEGATE_WORKER__WEB_PORT"] = str(free.getsockname()[1])
        yield running


def told(line: CommandLine, *words: str) -> dict[str, Any]:
    code, out, err = line.run(*words, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def ready(line: CommandLine) -> dict[str, Any]:
    """What the worker's web says of itself; nothing while it does not answer."""
    url = f"http://127.0.0.1:{line.environment['SLUICEGATE_WORKER__WEB_PORT']}/readyz"
    try:
        return dict(httpx2.get(url, trust_env=False, verify=False).json())
    except httpx2.TransportError:
        return {}


def published(line: CommandLine, *streams: str) -> None:
    events = [
        {"stream_id": stream, "kind": "log", **event}
        for stream in streams
        for event in ({"type": "open", "payload": {}}, {"type": "log", "payload": {"line": stream}})
    ]
    file = line.folder / "events.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    code, _, err = line.run("publish", str(file))
    assert code == 0, err


def streams_of(partition: int, count: int) -> list[str]:
    names = (f"s{number}" for number in range(10_000))
    found = (name for name in names if partition_of(f"default/{name}".encode(), 4) == partition)
    return [next(found) for _ in range(count)]


def outputs(kafka: KafkaOptions, registry: Registry, enough: int) -> list[tuple[int, str, str]]:
    codec = WireCodec(registry)
    messages = read_committed(kafka, OUTPUT, enough)
    events = [(message.partition() or 0, codec.decode_event(message.value() or b"")) for message in messages]
    return [(partition, event.stream_id, event.type) for partition, event in events]


@pytest.mark.timeout(300)
def test_a_paused_partition_waits_through_a_restart_while_others_flow_and_then_goes_on(
    line: CommandLine, kafka_options: KafkaOptions, registry: Registry
) -> None:
    worker = line.worker("ingest")
    line.edge()
    line.until(lambda: len(ready(line).get("partitions", ())) == 4, "it reads", log="worker")
    here, there = streams_of(2, 3), streams_of(1, 3)
    topic = INPUT.named(kafka_options.topic_prefix)

    # A dry run says how it is undone, and does nothing
    plan = told(line, "pause", "ingest", "2")
    assert (plan["dry_run"], plan["would_change"]) == (True, ["ingest/2"])
    assert read_committed(kafka_options, CONTROLS, 0, quiet_s=0.5) == []
    assert line.run("pause", "ingest", "2", "--yes")[0] == 2, "a reason is needed"

    # Paused, its records wait, and those of others do not
    done = told(line, "pause", "ingest", "2", "--reason", "poison at 17", "--yes")
    assert done["undo"] == ["sluicegate resume ingest 2 --yes"]
    line.until(lambda: ready(line).get("paused") == [f"{topic}[2]"], "it is paused", log="worker")
    assert ready(line)["status"] == "ready"
    published(line, here[0], there[0])
    assert outputs(kafka_options, registry, 2) == [(1, there[0], "open"), (1, there[0], "log")]
    assert told(line, "pause", "ingest", "2", "--reason", "again", "--yes")["unchanged"] == ["ingest/2"]

    # A worker that is killed and started again leaves it alone, too
    line.kill(worker)
    line.worker("ingest", log="second")
    line.until(lambda: ready(line).get("paused") == [f"{topic}[2]"], "it is still paused", log="second")
    published(line, here[1], there[1])
    assert len(outputs(kafka_options, registry, 4)) == 4
    lag = told(line, "lag", "ingest")["groups"][0]
    assert lag["paused"] == ["partition 2"]
    now = told(line, "topology", "ingest", "--live")["live"]["ingest"]
    assert [(one["partition"], one["paused"], bool(one["owner"])) for one in now["partitions"]] == [
        (partition, partition == 2, True) for partition in range(4)
    ]
    assert now["members"] == [now["partitions"][0]["owner"]]
    assert "paused by an operator, partition 2" in line.run("lag", "ingest")[2]

    # Resumed, all that waited is handled, once and in its order
    assert told(line, "resume", "ingest")["would_change"] == ["ingest/2"]
    assert told(line, "resume", "ingest", "--yes")["changed"] == ["ingest/2"]
    published(line, here[2], there[2])
    found = outputs(kafka_options, registry, 12)
    assert [(stream, kind) for partition, stream, kind in found if partition == 2] == [
        (stream, kind) for stream in here for kind in ("open", "log")
    ]
    assert len(found) == 12
    assert ready(line)["paused"] == []
    assert told(line, "lag", "ingest")["groups"][0]["paused"] == []

    # And both are on record
    codec = WireCodec(registry)
    kept = [codec.decode(m.value() or b"", AUDIT.subject) for m in read_committed(kafka_options, AUDIT, 2)]
    assert [(one["action"], one["target"], one["reason"]) for one in kept] == [
        ("pause", "ingest/2", "poison at 17"),
        ("resume", "ingest/2", ""),
    ]


def test_a_role_that_is_paused_as_a_whole_is_resumed_as_a_whole(line: CommandLine) -> None:
    assert told(line, "pause", "archive", "--reason", "repair", "--yes")["changed"] == ["archive"]
    assert line.run("resume", "archive", "1")[0] == 2
    code, out, _ = line.run("resume", "archive", "--yes")
    assert code == 0
    assert "archive, all: resumed" in out
    assert "undo: sluicegate pause archive --reason 'resumed too early' --yes" in out
    assert "not paused already" in line.run("resume", "archive")[1]
    assert line.run("pause", "dancing")[0] == 2
    assert line.run("pause", "ingest", "-1")[0] == 2


def test_a_key_that_is_no_text_is_put_in_quarantine_and_released_by_the_undo_that_is_printed(
    line: CommandLine, topics: Callable[..., None]
) -> None:
    topics(CONTROLS, AUDIT)
    code, _, err = line.run("quarantine", "ingest", "acme/x")
    assert code == 0
    assert "once it is undone, `sluicegate dlq replay --all --cause quarantined`" in err
    assert "no way back to archive of what stood in" in line.run("quarantine", "archive", "acme/x")[2]
    held = told(line, "quarantine", "ingest", "--key-hex", "ff00", "--reason", "a test", "--yes")
    assert held["changed"] == ["ingest/key=%FF%00"]
    (undo,) = held["undo"]
    assert undo == "sluicegate quarantine ingest --key-hex ff00 --undo --yes"
    (row,) = told(line, "levers")["held"]
    assert row["ends_by"] == undo
    assert told(line, *shlex.split(undo)[1:])["changed"] == ["ingest/key=%FF%00"]
    assert told(line, "levers")["held"] == []
    for words in (("--key-hex", "f"), ("acme/run-7", "--key-hex", "ff"), ()):
        assert line.run("quarantine", "ingest", *words)[0] == 2, words


# -- what retention took -----------------------------------------------------------------------------------


def test_a_loss_is_accepted_once_with_a_record_of_the_gap_and_never_behind_a_worker(
    line: CommandLine,
    kafka_options: KafkaOptions,
    registry: Registry,
    topics: Callable[..., None],
) -> None:
    topics(INPUT, AUDIT)
    source = INPUT.named(kafka_options.topic_prefix)
    group = f"{kafka_options.topic_prefix}sluicegate.ingest"
    producer = Producer(kafka_options.client_config())
    for partition in (0, 1):
        for _ in range(50):
            producer.produce(source, b"v", b"k", partition)
    assert producer.flush(20) == 0
    admin = AdminClient(kafka_options.client_config())
    stands = [TopicPartition(source, 0, 25), TopicPartition(source, 1, 40)]
    admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, stands)])[group].result(20)
    assert told(line, "accept-loss", "ingest") == {"dry_run": True, "role": "ingest", "lost": []}

    cut = TopicPartition(source, 0, 30)
    admin.delete_records([cut])[cut].result(20)
    gap = {"topic": INPUT.name, "partition": 0, "first": 25, "last": 29, "offsets": 5}
    assert told(line, "accept-loss", "ingest")["lost"] == [gap]
    assert committed_offsets(kafka_options, group) == {(source, 0): 25, (source, 1): 40}, "a dry run"

    member = Consumer(kafka_options.client_config() | {"group.id": group, "auto.offset.reset": "error"})
    member.subscribe([source])
    line.until(lambda: bool(member.poll(0.1) or member.assignment()), "a worker in the group")
    accept = ("accept-loss", "ingest", "--reason", "down too long", "--yes")
    code, _, err = line.run(*accept)
    assert code == 2
    assert "ingest has workers" in err
    member.close()

    assert told(line, *accept)["lost"] == [gap]
    assert committed_offsets(kafka_options, group) == {(source, 0): 30, (source, 1): 40}
    (message,) = read_committed(kafka_options, AUDIT, 1)
    record = WireCodec(registry).decode(message.value(), AUDIT.subject)
    assert record["action"] == "accept-loss"
    assert record["target"] == "ingest/streams.input.v1/0/25-29"
    assert record["reason"] == "down too long"
    assert told(line, *accept)["lost"] == [], "and not twice"


def test_a_loss_of_the_archive_is_not_accepted_here_as_postgresql_has_its_position(line: CommandLine) -> None:
    code, _, err = line.run("accept-loss", "archive")
    assert code == 2
    assert "runbooks/checkpoint-failure.md" in err
