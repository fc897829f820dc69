"""An event that cannot be handled, and the levers that help: by a real worker and a real command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest

from schemas.topics import AUDIT
from tests.support.failing_deployment import Deployment
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def line(
    request: pytest.FixtureRequest, tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions
) -> Iterator[Deployment]:
    """The deployment of the role that a test is parametrised with."""
    with Deployment(tmp_path, stack, kafka_options, request.param) as running:
        yield running


@pytest.mark.parametrize("line", ["strict"], indirect=True)
def test_a_partition_stands_still_at_an_event_until_it_is_skipped_or_tried_again(line: Deployment) -> None:
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
    metrics = httpx2.get(f"{line.web}/metrics", trust_env=False, verify=False).text
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
    assert [held["what"] for held in line.told("levers")["held"]] == ["skipped"], "it took place"
    assert line.told("lag", "strict")["groups"][0]["worst"]["standstill"] == ""


@pytest.mark.parametrize("line", ["batched"], indirect=True)
def test_a_key_in_quarantine_has_its_events_put_aside_over_a_restart_until_it_is_released(
    line: Deployment,
) -> None:
    role = line.role
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
    return bool(line.letters_now())


def _handled(line: Deployment, partition: int, key: str) -> bool:
    line.publish(partition, "released", key=key)
    found = read_committed(line.kafka, line.output, 0, quiet_s=0.5)
    return any((message.value() or b"").endswith(b"released") for message in found)
