"""publish, tail, record, replay, lag and dlq as a user runs them, over real parts from end to end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from confluent_kafka import Producer

from connectors.kafka.options import KafkaOptions
from ops.stack.addresses import Addresses
from schemas.published import time_from_text
from schemas.topics import INPUT
from tests.support.command_line import CommandLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, stack: Addresses) -> Iterator[CommandLine]:

    folder = tmp_path_factory.mktemp("streams")
    with CommandLine(
        folder, stack, KafkaOptions(stack.kafka, topic_prefix=f"t{uuid.uuid4().hex[:10]}.")
    ) as running:
        running.worker("ingest,aggregate")
        running.edge()
        yield running


def ndjson(folder: Path, *events: dict[str, Any] | str) -> str:
    file = folder / f"events-{time.monotonic_ns()}.ndjson"
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    file.write_text("\n".join(texts) + "\n")
    return str(file)


def a_stream(stream_id: str, lines: int = 3) -> list[dict[str, Any]]:
    body = [{"type": "log", "payload": {"line": f"line {n}"}} for n in range(lines)]
    events = [{"type": "open", "payload": {"title": stream_id}}, *body]
    events.append({"type": "end", "payload": {"reason": "completed"}})
    return [{"stream_id": stream_id, "kind": "log", **event} for event in events]


def shown(out: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in out.splitlines()]


# -- publish ------------------------------------------------------------------------------------------


def test_a_file_of_several_streams_is_published_and_each_event_has_its_verdict(
    line: CommandLine, tmp_path: Path
) -> None:
    mixed = [event for pair in zip(a_stream("pa"), a_stream("pb"), strict=True) for event in pair]
    code, out, err = line.run("publish", ndjson(tmp_path, *mixed), "--wait", "--json")
    assert code == 0, err
    assert json.loads(out) | {"requests": 0} == {
        "events": 10,
        "requests": 0,
        "streams": ["pa", "pb"],
        "verdicts": {"accepted": 10},
        "rejected": [],
    }
    code, out, _ = line.run("tail", "pb")
    assert code == 0
    assert out.splitlines() == ["open pb", "line 0", "line 1", "line 2", "end completed"]


def test_a_stream_that_is_not_known_is_waited_for_with_a_word_until_ctrl_c(line: CommandLine) -> None:
    tail = line.start("tail", "nobodys")
    assert tail.stderr is not None
    said = tail.stderr.readline().decode()
    assert said == "no stream default/nobodys is known yet; waiting until it opens\n"
    tail.send_signal(signal.SIGINT)
    out, err = tail.communicate(timeout=20)
    assert (tail.returncode, out, err) == (130, b"", b"")


def test_the_same_file_again_doubles_nothing_though_its_events_have_no_ids(
    line: CommandLine, tmp_path: Path
) -> None:
    file = ndjson(tmp_path, *({**event, "tenant": "default"} for event in a_stream("twice")))
    codes, told = zip(*(line.run("publish", file, "--wait", "--json")[:2] for _ in range(2)), strict=True)
    assert codes == (0, 0)
    assert [json.loads(out)["verdicts"] for out in told] == [{"accepted": 5}, {"duplicate": 5}]


def test_a_verdict_is_waited_for_longer_than_an_edge_lets_one_request_wait(
    tmp_path: Path, stack: Addresses
) -> None:
    options = KafkaOptions(stack.kafka, topic_prefix=f"t{uuid.uuid4().hex[:10]}.")
    with CommandLine(tmp_path, stack, options) as line:
        line.edge()
        events = a_stream("early")
        publishing = line.start("publish", ndjson(tmp_path, *events), "--wait", "--json")
        assert publishing.stderr is not None
        assert "5 events have no verdict yet" in publishing.stderr.readline().decode()
        line.worker("ingest")
        out, err = publishing.communicate(timeout=60)
        assert publishing.returncode == 0, err
        told = json.loads(out)
        assert told["events"] == sum(told["verdicts"].values()) == len(events)
        assert set(told["verdicts"]) <= {"accepted", "duplicate"}
        assert told["requests"] >= 2
        code, out, _ = line.run("tail", "early")
        assert (code, out.splitlines()) == (0, ["open early", "line 0", "line 1", "line 2", "end completed"])


def test_without_a_worker_the_events_are_pending_when_the_patience_ends(
    tmp_path: Path, stack: Addresses
) -> None:
    options = KafkaOptions(stack.kafka, topic_prefix=f"t{uuid.uuid4().hex[:10]}.")
    with CommandLine(tmp_path, stack, options) as line:
        line.edge()
        file = ndjson(tmp_path, *a_stream("never"))
        code, out, _ = line.run("publish", file, "--wait", "--json", "--patience-s", "1")
        assert (code, json.loads(out)["verdicts"]) == (1, {"pending": 5})


def test_events_that_ingest_refuses_are_named_by_file_line_and_verdict(
    line: CommandLine, tmp_path: Path
) -> None:
    late = {"stream_id": "late", "kind": "log", "type": "log", "payload": {"line": "too late"}}
    other = late | {"kind": "job"}
    *begun, end = a_stream("late")
    file = ndjson(tmp_path, *begun, other, end, late)
    code, _, err = line.run("publish", file, "--wait")
    assert code == 1
    assert f"{file}:5: wrong_kind" in err
    assert f"{file}:7: late" in err
    assert "5 accepted, 1 wrong_kind, 1 late" in err
    url = json.loads((line.folder / "data" / "edge.json").read_bytes())["url"]
    rejects = httpx2.get(f"{url}/v1/streams/late/rejects", trust_env=False, verify=False).json()["rejects"]
    assert [one["verdict"] for one in rejects] == ["late", "wrong_kind"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{nonsense", "no JSON"),
        ('["a list"]', "an event is a JSON object"),
        ('{"stream_id":"bad","kind":"log"}', "type: is missing"),
        ('{"stream_id":"bad","kind":"log","type":"log","payload":{"lime":1}}', "payload.li"),
        ('{"kind":"log","type":"log","payload":{"line":"x"}}', "names no stream_id"),
        ('{"stream_id":"bad","kind":"log","type":"tick"}', "written by sluicegate alone"),
        ('{"stream_id":"bad id","kind":"log","type":"open"}', "stream_id"),
        ('{"stream_id":"bad","tenant":"x","kind":"log","type":"open"}', "tenant: is 'x', but --tenant says"),
    ],
)
def test_a_bad_line_is_named_and_nothing_of_the_file_is_published(
    line: CommandLine, tmp_path: Path, bad: str, said: str
) -> None:
    stream = f"half-{abs(hash(bad))}"
    file = ndjson(tmp_path, *a_stream(stream), bad)
    code, _, err = line.run("publish", file)
    assert code == 1
    assert f"{file}:6: " in err
    assert said in err
    url = json.loads((line.folder / "data" / "edge.json").read_bytes())["url"]
    assert httpx2.get(f"{url}/v1/streams/{stream}", trust_env=False, verify=False).status_code == 404


def test_what_only_the_edge_can_know_is_told_by_line_too(line: CommandLine, tmp_path: Path) -> None:
    strange = {"stream_id": "own", "kind": "log", "type": "of_my_own", "payload": {"a": 1}}
    file = ndjson(tmp_path, *a_stream("own")[:1], strange)
    code, _, err = line.run("publish", file)
    assert code == 1
    assert f"{file}:2: " in err
    assert "of_my_own" in err


def test_a_live_pipe_flows_event_by_event(line: CommandLine) -> None:
    process = line.start("publish", "-", "--stream", "live", "--kind", "log", stdin=subprocess.PIPE)
    assert process.stdin is not None
    tail = line.start("tail", "live")
    assert tail.stdout is not None
    for event, expected in (
        ({"type": "open", "payload": {"title": "t"}}, b"open t\n"),
        ({"type": "log", "payload": {"line": "one"}}, b"one\n"),
        ({"type": "end", "payload": {"reason": "cancelled"}}, b"end cancelled\n"),
    ):
        process.stdin.write(json.dumps(event).encode() + b"\n")
        process.stdin.flush()
        assert tail.stdout.readline() == expected
    process.stdin.close()
    assert process.wait(10) == 0
    assert tail.wait(10) == 1, "a stream that did not complete is no success"


# -- tail ---------------------------------------------------------------------------------------------


def test_tail_goes_on_after_a_cursor_and_says_when_nothing_follows(line: CommandLine, tmp_path: Path) -> None:
    line.run("publish", ndjson(tmp_path, *a_stream("cut", 5)), "--wait")
    events = shown(line.run("tail", "cut", "--json")[1])
    assert [event["seq"] for event in events] == list(range(7))
    rest = shown(line.run("tail", "cut", "--json", "--from", events[3]["cursor"])[1])
    assert [event["seq"] for event in rest] == [4, 5, 6]
    code, out, err = line.run("tail", "cut", "--from", events[-1]["cursor"])
    assert (code, out) == (0, "")
    assert "nothing follows" in err


def test_a_cursor_of_another_stream_or_none_at_all_is_refused(line: CommandLine, tmp_path: Path) -> None:
    line.run("publish", ndjson(tmp_path, *a_stream("mine"), *a_stream("yours")), "--wait")
    foreign = shown(line.run("tail", "yours", "--json")[1])[1]["cursor"]
    for cursor in (foreign, "nonsense"):
        code, out, err = line.run("tail", "mine", "--from", cursor)
        assert (code, out) == (1, "")
        assert "cursor" in err


def test_a_cancel_from_outside_ends_a_command(line: CommandLine) -> None:
    process = line.start("exec", "--stream", "stopped", "--", "sh", "-c", "echo up; exec sleep 60")
    tail = line.start("tail", "stopped")
    assert tail.stdout is not None
    assert [tail.stdout.readline(), tail.stdout.readline()][1] == b"up\n"
    url = json.loads((line.folder / "data" / "edge.json").read_bytes())["url"]
    answer = httpx2.post(
        f"{url}/v1/streams/stopped/cancel",
        json={"by": "ann", "reason": "enough"},
        trust_env=False,
        verify=False,
    )
    assert answer.status_code == 202
    assert process.wait(20) == 128 + signal.SIGTERM
    assert tail.stdout.read().splitlines() == [b"cancel asked for by ann: enough", b"end cancelled"]


def test_an_id_that_is_taken_starts_no_command(line: CommandLine, tmp_path: Path) -> None:
    line.run("publish", ndjson(tmp_path, *a_stream("taken")), "--wait")
    marker = tmp_path / "ran"
    code, _, err = line.run("exec", "--stream", "taken", "--", "touch", str(marker))
    assert code == 1
    assert "touch was not run: stream taken: second_open" in err
    assert not marker.exists()


# -- record and replay --------------------------------------------------------------------------------


def test_a_recording_played_again_is_a_new_stream_of_the_same_payloads_in_the_same_cadence(
    line: CommandLine, tmp_path: Path
) -> None:
    script = 'for n in 1 2 3 4; do echo "[$n/4] step"; sleep 0.4; done; echo odd >&2; exit 2'
    line.run("exec", "--stream", "orig", "--label", "a=b", "--", "sh", "-c", script)
    code, recording, _ = line.run("record", "orig")
    assert code == 0
    file = tmp_path / "orig.stream.jsonl"
    file.write_text(recording)

    began = time.monotonic()
    code, _, err = line.run("replay", str(file), "--speed", "2", "--as", "again")
    took_s = time.monotonic() - began
    assert code == 0, err
    assert took_s > 0.8, "half of the 1.6 s that the command slept"

    old, new = (shown(line.run("tail", stream, "--json")[1]) for stream in ("orig", "again"))
    carried = ("type", "seq", "line", "level", "stream", "done", "total", "labels", "reason", "exit_code")
    assert [[e.get(name) for name in carried] for e in new] == [
        [e.get(name) for name in carried] for e in old
    ]
    assert not {e["event_id"] for e in new} & {e["event_id"] for e in old}
    times = [[_seconds(event["time"]) for event in events] for events in (old, new)]
    gaps = [[b - a for a, b in pairwise(some)] for some in times]
    assert all(abs(before / 2 - after) < 0.05 for before, after in zip(*gaps, strict=True))
    assert times[1][0] > times[0][-1]

    # Once more as the same stream: ids follow from it, so nothing is doubled.
    code, _, err = line.run("replay", str(file), "--speed", "0", "--as", "again")
    assert code == 0, err
    assert len(shown(line.run("tail", "again", "--json")[1])) == len(new)


def test_a_stream_that_started_over_is_recorded_and_played_again(line: CommandLine, tmp_path: Path) -> None:
    said = [
        {"type": "open", "payload": {"title": "t"}},
        {"type": "token", "payload": {"text": "wrong"}},
        {"type": "reset", "epoch": 1, "payload": {"from_seq": 1, "reason": "again"}},
        {"type": "token", "epoch": 1, "payload": {"text": "wrong too"}},
        {"type": "reset", "epoch": 2, "payload": {"from_seq": 1, "reason": "once more"}},
        {"type": "token", "epoch": 2, "payload": {"text": "right"}},
        {"type": "end", "epoch": 2, "payload": {"reason": "completed"}},
    ]
    file = ndjson(tmp_path, *({"stream_id": "over", "kind": "llm", **event} for event in said))
    assert line.run("publish", file, "--wait")[0] == 0
    recording = tmp_path / "over.stream.jsonl"
    recording.write_text(line.run("record", "over")[1])

    code, _, err = line.run("replay", str(recording), "--speed", "0", "--as", "over-again")

    assert code == 0, err
    code, out, _ = line.run("tail", "over-again", "--json")
    assert code == 0
    assert [event["type"] for event in shown(out)] == [event["type"] for event in said]


def test_a_broken_recording_is_told_by_its_line_and_nothing_is_played(
    line: CommandLine, tmp_path: Path
) -> None:
    line.run("exec", "--stream", "sound", "--", "echo", "hi")
    recording = line.run("record", "sound")[1].splitlines()
    file = tmp_path / "broken.stream.jsonl"
    file.write_text("\n".join([*recording[:-1], "{broken"]) + "\n")
    code, _, err = line.run("replay", str(file), "--as", "never")
    assert code == 1
    assert f"{file}:{len(recording)}: is not JSON" in err
    url = json.loads((line.folder / "data" / "edge.json").read_bytes())["url"]
    assert httpx2.get(f"{url}/v1/streams/never", trust_env=False, verify=False).status_code == 404


def test_a_recording_is_served_with_nothing_else_running(line: CommandLine, tmp_path: Path) -> None:
    line.run("exec", "--stream", "alone", "--", "seq", "3")
    file = tmp_path / "alone.stream.jsonl"
    file.write_text(line.run("record", "alone")[1])
    alone = CommandLine(tmp_path, *_nowhere())
    with alone:
        served = alone.start("replay", "--serve", "0", str(file))
        assert served.stdout is not None
        url = served.stdout.readline().decode().split()[-1].partition("/console")[0]
        alone.environment["SLUICEGATE_EDGE__URL"] = url
        code, out, _ = alone.run("tail", "alone")
        assert code == 0
        assert out.splitlines() == ["open seq 3", "1", "2", "3", "end completed"]
        served.send_signal(signal.SIGINT)
        assert served.wait(20) == 0


# -- on call ------------------------------------------------------------------------------------------


def test_lag_is_nothing_when_all_is_read_and_counts_what_waits_for_a_worker(
    line: CommandLine, tmp_path: Path
) -> None:
    line.run("publish", ndjson(tmp_path, *a_stream("lagging", 50)), "--wait")

    def drained() -> bool:
        found = json.loads(line.run("lag", "ingest", "--json")[1])["groups"][0]
        return found["records"] == 0 and bool(found["partitions"])

    line.until(drained, "ingest has read all")
    code, out, _ = line.run("lag", "--wait-s", "30")
    assert code == 0
    assert "ingest" in out
    assert "nothing committed yet" in out, "no archive runs here"
    code, _, err = line.run("lag", "no-such-group")
    assert code == 1
    assert "has committed nothing" in err

    line.run("pause", "ingest", "--yes", "--reason", "to see it fall behind")
    line.run("publish", ndjson(tmp_path, *a_stream("behind", 50)))
    code, _, err = line.run("lag", "ingest", "--wait-s", "2")
    assert code == 1
    assert "still behind after 2 s: " in err
    line.run("resume", "ingest", "--yes", "--reason", "seen")
    assert line.run("lag", "ingest", "--wait-s", "60")[0] == 0


def test_what_is_no_event_is_listed_and_shown_as_a_dead_letter(line: CommandLine, stack: Addresses) -> None:
    producer = Producer({"bootstrap.servers": stack.kafka})
    topic = INPUT.named(line.environment["SLUICEGATE_KAFKA__TOPIC_PREFIX"])
    value = b"\x01 not avro, password=hunter22 \x1b[2J\xff"
    producer.produce(topic, value, b"default/[/red]", partition=1)
    assert producer.flush(10) == 0

    def listed() -> list[dict[str, Any]]:
        found = json.loads(line.run("dlq", "list", "--json")[1])["dead_letters"]
        return [letter for letter in found if letter["key"] == "default/[/red]"]

    line.until(listed, "the dead letter is listed", log="worker")
    assert "BadMagic" in line.run("dlq", "list")[1]
    code, out, err = line.run("topics", "read", INPUT.name, "--limit", "1000")
    assert code == 0, err
    assert re.search(r"^1:\d+  20\d\d-[0-9T:.-]+Z  default/\[/red\]  ", out, re.MULTILINE), "data, not markup"
    letter = listed()[0]
    assert letter["from"].startswith(f"{topic}[1]@")
    assert letter["size_bytes"] == len(value)
    code, out, _ = line.run("dlq", "show", letter["id"])
    assert code == 0
    assert "BadMagic" in out
    assert "hunter22" not in out
    assert "\x1b" not in out
    _, out, _ = line.run("dlq", "show", letter["id"], "--raw")
    assert "|word=hunter22 .[|" in out
    assert line.run("dlq", "show", "0:999999")[0] == 1
    assert line.run("dlq", "show", "nonsense")[0] == 2


def _seconds(text: str) -> float:
    return time_from_text(text) / 1e6


def _nowhere() -> tuple[Addresses, KafkaOptions]:
    """Addresses where nobody answers: whoever asks them fails."""
    return Addresses("127.0.0.1:9", "http://127.0.0.1:9", "postgresql://127.0.0.1:9/x"), KafkaOptions(
        "127.0.0.1:9"
    )
