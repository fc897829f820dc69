"""`sluicegate demo`: all parts come up, a real command flows through, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import httpx2
import psutil
import pytest

from ops.demo import LIVES_S_MIN
from tests.support.command_line import CommandLine

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses


@pytest.fixture
def line(tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, kafka_options) as running:
        yield running


def left_behind(folder: Path) -> list[str]:
    """Processes that belong to a folder: by their words, their working folder or their settings."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            ours = (words, process.cwd(), process.environ().get("SLUICEGATE_DATA_DIR", ""))
            if any(str(folder) in text for text in ours) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid}: {words[:150]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Reader(threading.Thread):
    """Reads an output while the process runs, so that it never waits for us."""

    def __init__(self, pipe: object) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.text = ""
        self.start()

    def run(self) -> None:
        for line in self._pipe:  # type: ignore[attr-defined]  # a pipe of Popen
            self.text += line.decode()


def wait_for_page(line: CommandLine, demo: subprocess.Popen[bytes], *, within_s: float = 90) -> str:
    """The address that the demo prints; the processes that it started run by then."""
    out, err = Reader(demo.stdout), Reader(demo.stderr)
    page = re.compile(r"http://127\.0\.0\.1:\d+/console#default/\S+")

    def printed() -> bool:
        assert demo.poll() is None, out.text + err.text
        return page.search(out.text) is not None

    line.until(printed, "the demo prints the page's address", within_s=within_s)
    found = page.search(out.text)
    assert found is not None
    return found[0]


@pytest.mark.timeout(600)
def test_once_prints_the_stream_that_the_edge_delivered_and_leaves_nothing(line: CommandLine) -> None:
    record = stack_of_its_own(line)

    code, out, err = line.run("demo", "--once", timeout_s=560)

    assert code == 0, out[-2_000:] + err[-2_000:]
    printed = out.splitlines()
    assert printed[-1] == "end completed"
    assert printed[0].startswith("open unit tests of sluicegate")
    assert sum(" PASSED " in text for text in printed) > 100
    assert re.search(r"=+ \d+ passed", out)
    assert left_behind(line.folder) == []
    assert not record.exists()
    assert not (line.folder / "data" / "edge.json").exists()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0)])
def test_it_stays_until_it_is_told_to_stop_and_then_leaves_nothing(
    line: CommandLine, number: signal.Signals, code: int
) -> None:
    demo = line.start("demo")
    page = wait_for_page(line, demo)
    url, _, stream = page.partition("/console#default/")
    assert httpx2.get(page, trust_env=False, verify=False).status_code == 200
    tail = line.start("tail", stream)
    assert tail.stdout is not None
    assert tail.stdout.readline().startswith(b"open unit tests")
    assert url.startswith("http://127.0.0.1:")

    demo.send_signal(number)

    assert demo.wait(60) == code
    line.kill(tail)
    assert left_behind(line.folder) == []


def stack_of_its_own(line: CommandLine) -> Path:
    """Let the demo start a stack; where that leaves its record."""
    for name in ("KAFKA__BOOTSTRAP_SERVERS", "REGISTRY__URL", "POSTGRES__DSN", "KAFKA__TOPIC_PREFIX"):
        del line.environment[f"SLUICEGATE_{name}"]
    return line.folder / "data" / "stack.json"


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_demo_takes_its_processes_along_and_down_stops_the_stack_that_it_started(
    line: CommandLine,
) -> None:
    record = stack_of_its_own(line)
    demo = line.start("demo")
    wait_for_page(line, demo)
    parts = {part["pid"] for part in json.loads(record.read_bytes())["parts"].values()}

    demo.kill()
    demo.wait(10)

    def others() -> list[str]:
        stack = parts | {child.pid for pid in parts for child in psutil.Process(pid).children(recursive=True)}
        return [text for text in left_behind(line.folder) if int(text.partition(":")[0]) not in stack]

    line.until(lambda: not others(), "all but the stack is gone", within_s=45)
    assert all(psutil.pid_exists(pid) for pid in parts)
    assert line.run("down", timeout_s=120)[0] == 0
    assert left_behind(line.folder) == []


@pytest.mark.timeout(180)
def test_a_demo_whose_terminal_is_closed_leaves_nothing(line: CommandLine) -> None:
    demo, terminal = line.start_on_terminal("demo")
    said = b""
    while b"/console#" not in said:
        said += os.read(terminal, 4_096)
    assert len(left_behind(line.folder)) > 5
    os.close(terminal)
    assert demo.wait(60) == 0
    assert left_behind(line.folder) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_while_the_stack_starts_ends_that_too_and_a_second_one_leaves_nothing(
    line: CommandLine, number: signal.Signals
) -> None:
    record = stack_of_its_own(line)
    demo = line.start("demo")
    line.until(record.exists, "a part of the stack is started", within_s=200)
    demo.send_signal(number)
    time.sleep(0.05)  # two of a kind at the very same time are one for the kernel already
    demo.send_signal(number)
    assert demo.wait(100) == 130
    assert left_behind(line.folder) == []
    assert not record.exists()


@pytest.mark.timeout(120)
def test_a_stage_that_fails_is_named_with_what_it_said(line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line.environment["SLUICEGATE_EDGE__PORT"] = str(taken.getsockname()[1])
        code, out, err = line.run("demo", "--once", timeout_s=100)
    assert code == 1
    assert "edge ended with exit code" in err
    assert "cannot listen on 127.0.0.1" in err
    assert "edge.log" in err
    assert "end completed" not in out
    assert left_behind(line.folder) == []


@pytest.mark.timeout(180)
def test_what_somebody_kills_is_started_anew_and_the_stream_shows_nothing_of_it(line: CommandLine) -> None:
    demo = line.start("demo")
    page = wait_for_page(line, demo)
    url, _, stream = page.partition("/console#default/")
    tail = line.start("tail", stream, "--json")
    events = Reader(tail.stdout)
    line.until(lambda: events.text.count("\n") > 20, "the stream flows")
    time.sleep(LIVES_S_MIN)

    before = parts_of(demo)
    (ingest,) = (role for role in before["worker"].children() if role.cmdline()[-1] == "ingest")
    ingest.kill()
    before["edge"].kill()

    def anew() -> bool:
        now = parts_of(demo)
        return all(name in now and now[name].pid != before[name].pid for name in ("worker", "edge"))

    line.until(anew, "both run again")
    line.until(lambda: _cancelled(f"{url}/v1/streams/{stream}/cancel"), "the edge is back")
    code = tail.wait(60)
    events.join(30)
    told = [json.loads(text) for text in events.text.splitlines()]
    assert [event["seq"] for event in told] == list(range(len(told)))
    # On a slow machine the command may be done before the edge is back to be asked to cancel it.
    assert (code, told[-1]["reason"]) in ((1, "cancelled"), (0, "completed"))
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0
    assert left_behind(line.folder) == []


def parts_of(demo: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """The processes that a demo started, by the command that each is."""
    found = {}
    for child in psutil.Process(demo.pid).children():
        try:
            found[child.cmdline()[3]] = child
        except (psutil.Error, IndexError):  # it just died, and has no words any more
            continue
    return found


def _cancelled(url: str) -> bool:
    try:
        return httpx2.post(url, trust_env=False, verify=False).status_code in (202, 409)
    except httpx2.TransportError:
        return False
