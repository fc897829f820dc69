"""The programs of docs/examples, run as a reader runs them: against real Kafka, worker, edge and registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from schemas.topics import TopicSpec, partition_of
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ALERTS = TopicSpec("examples.alerts.v1", "", "", 4, -1, "delete", "")
MEANS = TopicSpec("examples.sensor-means.v1", "", "", 4, -1, "compact", "")
VISITS = TopicSpec("examples.visits.changelog.v1", "", "", 4, -1, "compact", "")
SIZES = TopicSpec("examples.sizes.v1", "", "", 4, -1, "compact", "")
STREAMS, LINES = 12, 40
ERROR_EVERY = 7
FEW = frozenset({0, 1})  # streams with fewer errors than an alert needs

pytestmark = pytest.mark.timeout(150)


class Reader(CommandLine):
    """A reader who runs the examples beside `sluicegate worker` and `sluicegate edge`."""

    def example(self, name: str, log: str) -> subprocess.Popen[bytes]:
        """Start one as a process of its own."""
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name)],
            cwd=self.folder,
            env=self.environment,
            stdout=(self.folder / f"{log}.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        self._started.append(process)
        self.until(lambda: self.ready(log) >= 4, f"{name} reads four partitions", log=log)
        return process

    def ready(self, log: str) -> int:
        return (self.folder / f"{log}.log").read_text().count("partition ready")

    def publish(self, part: int) -> None:
        """One third of every stream: its open, lines between, its end."""
        events = [event for number in range(STREAMS) for event in stream(part, number)]
        body = "\n".join(map(json.dumps, events)).encode()
        code, out, err = self.run("publish", "--kind", "log", "--wait", "-", stdin=body)
        assert code == 0, out + err


def stream(part: int, number: int) -> list[dict[str, object]]:
    """One third of one stream's events; the seq of a line is its number plus one."""

    def event(type_: str, name: object, **payload: object) -> dict[str, object]:
        stream_id = f"docs-{number}"
        return {
            "event_id": f"{number}-{name}", "stream_id": stream_id, "type": type_, "payload": payload
        }  # fmt: skip

    lines = range(part * LINES // 3, (part + 1) * LINES // 3)
    events = [event("log", n, line=f"line {n}", level=level(number, n)) for n in lines]
    if part == 0:
        events.insert(0, event("open", "open", title=f"Stream {number}"))
    if part == 2:
        events.append(event("end", "end", reason="completed"))
    return events


def level(number: int, line: int) -> str:
    return "error" if number not in FEW and line % ERROR_EVERY == ERROR_EVERY - 1 else "info"


@pytest.fixture
def reader(stack, kafka_options, registered_schemas, tmp_path) -> Iterator[Reader]:
    with Reader(tmp_path, stack, kafka_options) as reader:
        reader.worker()
        reader.edge()
        yield reader


def killed_between(reader: Reader, name: str) -> None:
    """Publish in three parts; kill the example with SIGKILL in one, and lose its disk in the next."""
    example = reader.example(name, "first")
    reader.publish(0)
    reader.kill(example)
    reader.publish(1)
    example = reader.example(name, "second")
    reader.kill(example)
    shutil.rmtree(reader.folder / "data" / "state" / name.removesuffix(".py"))
    reader.publish(2)
    reader.example(name, "third")


def test_the_event_agent_alerts_once_at_the_third_error_though_it_was_killed(reader, kafka_options):
    killed_between(reader, "error_alerts.py")
    loud = [f"default/docs-{number}" for number in range(STREAMS) if number not in FEW]
    third = 3 * ERROR_EVERY - 1
    alerts = [json.loads(message.value()) for message in read_committed(kafka_options, ALERTS, len(loud))]
    expected = [{"stream": name, "seq": third + 1, "line": f"line {third}"} for name in loud]
    assert sorted(alerts, key=str) == sorted(expected, key=str)


def test_the_batch_agent_says_totals_that_grow_to_the_truth_though_it_was_killed(reader, kafka_options):
    killed_between(reader, "stream_sizes.py")

    def whole(messages) -> bool:
        done = {message.key() for message in messages if json.loads(message.value())["events"] == LINES + 2}
        return len(done) == STREAMS

    grown: Counter[str] = Counter()
    last: dict[str, int] = {}
    for message in read_committed(kafka_options, SIZES, whole):
        total = json.loads(message.value())
        assert total["events"] > last.get(total["stream"], 0), "a total came twice, or went back"
        last[total["stream"]] = total["events"]
        grown[total["stream"]] += 1
    assert last == {f"default/docs-{number}": LINES + 2 for number in range(STREAMS)}
    assert min(grown.values()) > 1  # said more than once: before and after the kill


def test_the_kafka_client_publishes_a_stream_that_is_accepted_whole(reader, stack, kafka_options):
    topic = f"{kafka_options.topic_prefix}streams.input.v1"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "kafka_producer.py"), stack.kafka, stack.registry_url, topic, "one"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    code, out, err = reader.run("tail", "one", "--json")
    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert [(event["seq"], event["type"]) for event in events] == [(0, "open"), (1, "progress"), (2, "end")]
    assert events[0]["title"] == "From a Kafka client"
    assert (events[1]["done"], events[1]["total"]) == (1, 2)


def test_topics_of_ones_own_are_fed_as_the_page_says(reader, stack, kafka_options):
    reader.environment["SLUICEGATE_PIPELINES"] = str(EXAMPLES / "agents")
    reader.start("worker", "--roles", "sensor_means,visits", log="mine")
    reader.until(lambda: reader.ready("mine") >= 8, "both read four partitions", log="mine")
    page = (EXAMPLES.parent / "data-engineer.md").read_text()
    block = page.partition("### Feed a topic of your own")[2].split("```")[1].removeprefix("python\n")
    block = block.replace('produce("', f'produce("{kafka_options.topic_prefix}')
    program = (EXAMPLES / "kafka_producer.py").read_text()
    feed = program.partition("def publish")[0] + block + "sys.exit(producer.flush(30))\n"
    words = (stack.kafka, stack.registry_url, "-", "-")
    subprocess.run([sys.executable, "-c", feed, *words], check=True, timeout=60)
    (mean,) = read_committed(kafka_options, MEANS, 1)
    assert (mean.key(), json.loads(mean.value())) == (b"cellar", {"readings": 1, "celsius": 12.5})
    assert mean.partition() == partition_of(b"cellar", 4)
    kept = read_committed(kafka_options, VISITS, 3)  # the session, when it closes, and the watermark
    assert any(message.key().startswith(b"vo\0\x03ann") for message in kept)
