"""An event that cannot be handled, and the levers that help: by a real worker and a real command line."""

from __future__ import annotations

import json
import shutil
import socket
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from confluent_kafka import Producer

from connectors.registry import Registry
from schemas.topics import AUDIT, DEAD_LETTERS
from schemas.wire import WireCodec
from tests.support import failing_agent
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses
    from schemas.topics import TopicSpec

pytestmark = pytest.mark.timeout(300)


class Deployment(CommandLine):
    """A worker of the failing agent in one role, and all that was published to it."""

    def __init__(self, folder: Path, stack: Addresses, kafka: KafkaOptions, role: str) -> None:
        super().__init__(folder, stack, kafka)
        self.kafka, self.role = kafka, role
        self.mended = folder / "mended"
        (folder / "agents").mkdir()
        shutil.copy(failing_agent.__file__, folder / "agents" / f"{role}.py")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.web = f"http://127.0.0.1:{port}"
        self.environment |= {
            "SLUICEGATE_PIPELINES": str(folder / "agents"),
            "SLUICEGATE_WORKER__WEB_PORT": str(port - 3),  # ours have the first three
            "MENDED": str(self.mended),
        }
        self.codec = WireCodec(Registry(stack.registry_url))
        self.producer = Producer(kafka.client_config())

    @property
    def input(self) -> str:
        """The agent's input as it stands in Kafka."""
        return f"{self.kafka.topic_prefix}{self.role}.input.v1"

    @property
    def output(self) -> TopicSpec:
        return replace(failing_agent.OUTPUT, name=f"{self.role}.output.v1")

    def publish(self, partition: int, *values: str, key: str = "key") -> None:
        for value in values:
            self.producer.produce(self.input, value, f"{key}-{partition}", partition)
        assert self.producer.flush(30) == 0

    def outputs(self, enough: int) -> dict[str, list[str]]:
        """The values of each key that were counted; fails unless the counts are 1, 2, 3, …"""
        found: dict[str, list[str]] = defaultdict(list)
        for message in read_committed(self.kafka, self.output, enough):
            key, value = (message.key() or b"").decode(), message.value() or b""
            found[key].append(value[failing_agent.COUNT.size :].decode())
            assert failing_agent.COUNT.unpack_from(value)[0] == len(found[key]), "once, and in order"
        return found

    def letters(self, enough: int) -> list[tuple[str, int, str, int, int]]:
        messages = read_committed(self.kafka, DEAD_LETTERS, enough)
        found = [self.codec.decode(m.value() or b"", DEAD_LETTERS.subject) for m in messages]
        return [
            (one["value"].decode(), one["partition"], one["cause"], one["attempts"], one["offset"])
            for one in found
        ]

    def told(self, *words: str) -> dict[str, Any]:
        code, out, err = self.run(*words, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    def ready(self) -> dict[str, Any]:
        try:
            return dict(httpx2.get(f"{self.web}/readyz", trust_env=False).json())
        except httpx2.TransportError:
            return {}

    def standstills(self) -> list[tuple[int, int]]:
        return [(at["partition"], at["offset"]) for at in self.ready().get("standstills", ())]

    def until_ready(self, log: str) -> None:
        self.until(lambda: len(self.ready().get("partitions", ())) == 4, "it reads", log=log)


@pytest.fixture
def deploy(tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions) -> Iterator[Any]:
    made: list[Deployment] = []

    def of(role: str) -> Deployment:
        made.append(Deployment(tmp_path, stack, kafka_options, role))
        return made[-1]

    yield of
    for deployment in made:
        deployment.__exit__()


def test_a_partition_stands_still_at_an_event_until_it_is_skipped_or_tried_again(deploy: Any) -> None:
    line: Deployment = deploy("strict")
    worker = line.worker("strict")
    line.until_ready("worker")
    topic = line.input

    # Given an event that its agent must not pass over, its partition stands before it, and others flow
    line.publish(2, "a", "b", "poison", "c")
    for partition in (0, 1, 3):
        line.publish(partition, *(str(n) for n in range(50)))
    line.until(lambda: line.standstills() == [(2, 2)], "it stands still", log="worker")
    found = line.outputs(152)
    assert {key: len(values) for key, values in found.items()} == {
        "key-0": 50, "key-1": 50, "key-3": 50, "key-2": 2,
    }  # fmt: skip
    assert line.ready()["status"] == "ready"
    metrics = httpx2.get(f"{line.web}/metrics", trust_env=False).text
    assert f'sluicegate_partition_standstill{{partition="2",role="strict",topic="{topic}"}} 1.0' in metrics

    # Which everybody sees, and without what looks like a secret
    (held,) = line.told("levers")["held"]
    assert (held["what"], held["on"]) == ("standstill", "strict strict.input.v1 2 2")
    assert held["ends_by"] == "sluicegate resume strict 2 --yes"
    warning = f"stands still at {topic}[2]@2, ValueError: cannot be handled, password=***"
    assert warning in line.run("lag", "strict")[2]

    # A worker that is killed and started again comes to the same event
    line.kill(worker)
    line.worker("strict", log="second")
    line.until(lambda: line.standstills() == [(2, 2)], "it stands still again", log="second")

    # When the event is skipped, then it is a dead letter and what comes after it is handled
    skip = ("skip", "strict", topic, "2", "2")
    plan = line.told(*skip)
    assert (plan["dry_run"], plan["would_change"]) == (True, ["strict/strict.input.v1/2/2"])
    assert line.run(*skip, "--yes")[0] == 2, "a reason is needed"
    done = line.told(*skip, "--reason", "cannot be mended", "--yes")
    assert done["undo"] == ["sluicegate skip strict strict.input.v1 2 2 --undo --yes"]
    assert line.outputs(153)["key-2"] == ["a", "b", "c"]
    assert line.letters(1) == [("poison", 2, "skipped", 0, 2)]
    assert line.standstills() == []
    assert "poison" in line.told("dlq", "show", "2:0").get("preview", "")

    # What was passed, or is not there, cannot be skipped
    for undo in ((), ("--undo",)):
        code, _, err = line.run(*skip, *undo, "--reason", "late", "--yes")
        assert code == 2
        assert f"has passed {'strict.input.v1'}[2]@2, it stands at 4" in err
    assert "no record stands at" in line.run("skip", "strict", topic, "2", "99")[2]
    assert "does not read" in line.run("skip", "strict", "streams.input.v1", "2", "9")[2]

    # When it is mended and tried again, then it goes on, and nothing was lost
    line.publish(2, "poison again", "d")
    line.until(lambda: line.standstills() == [(2, 4)], "it stands still at the next", log="second")
    line.mended.touch()
    assert line.told("resume", "strict")["would_change"] == ["strict/2"]
    assert line.told("resume", "strict", "2", "--yes")["changed"] == ["strict/2"]
    assert line.outputs(155)["key-2"] == ["a", "b", "c", "poison again", "d"]
    assert line.standstills() == []
    assert len(line.letters(1)) == 1
    assert [held["what"] for held in line.told("levers")["held"]] == ["skip"]
    assert line.told("lag", "strict")["groups"][0]["worst"]["standstill"] == ""


@pytest.mark.parametrize("role", ["lenient", "batched"])
def test_a_key_in_quarantine_has_its_events_put_aside_over_a_restart_until_it_is_released(
    deploy: Any, role: str
) -> None:
    line: Deployment = deploy(role)
    worker = line.worker(role)
    line.until_ready("worker")
    words = ("quarantine", role, "bad-1")

    assert line.told(*words)["would_change"] == [f"{role}/key=bad-1"]
    assert line.told(*words, "--reason", "floods", "--yes")["changed"] == [f"{role}/key=bad-1"]
    assert line.told(*words, "--reason", "floods", "--yes")["unchanged"] == [f"{role}/key=bad-1"]
    line.until(lambda: _flows(line, 1), "it is followed", log="worker")
    seen = len(line.letters(1))
    line.kill(worker)
    line.worker(role, log="second")
    line.until_ready("second")
    line.publish(1, "c", "d", key="bad")
    line.publish(1, "e", key="good")
    assert {letter[:4] for letter in line.letters(seen + 2)[seen:]} == {
        ("c", 1, "quarantined", 0), ("d", 1, "quarantined", 0),
    }  # fmt: skip

    assert line.told(*words, "--undo", "--yes")["undo"] == [
        f"sluicegate quarantine {role} bad-1 --reason 'taken back too early' --yes"
    ]
    line.until(lambda: _handled(line, 1, key="bad"), "it is released", log="second")
    assert line.outputs(1)["good-1"] == ["e"]
    assert line.run("levers")[2].count("nothing is paused")
    audit = [
        line.codec.decode(message.value() or b"", AUDIT.subject)
        for message in read_committed(line.kafka, AUDIT, 2)
    ]
    assert [(one["action"], one["target"]) for one in audit] == [
        ("quarantine", f"{role}/key=bad-1"), ("undo quarantine", f"{role}/key=bad-1"),
    ]  # fmt: skip


def _flows(line: Deployment, partition: int) -> bool:
    """Publish one more event of the key; says whether a letter of one is there."""
    line.publish(partition, "probe", key="bad")
    return bool(read_committed(line.kafka, DEAD_LETTERS, 0, quiet_s=0.5))


def _handled(line: Deployment, partition: int, key: str) -> bool:
    line.publish(partition, "released", key=key)
    found = read_committed(line.kafka, line.output, 0, quiet_s=0.5)
    return any((message.value() or b"").endswith(b"released") for message in found)
