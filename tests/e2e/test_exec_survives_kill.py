"""A real build is streamed while its worker is killed: the reader misses nothing, and nothing comes twice."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.support.command_line import CommandLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def line(tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, kafka_options) as running:
        yield running


def owner_of_the_stream(line: CommandLine, stream: str, logs: Iterable[str]) -> str:
    """Which worker's ingest has the stream's partition: the one that said so last."""
    url = json.loads((line.folder / "data" / "edge.json").read_bytes())["url"]
    partition = httpx2.get(f"{url}/v1/streams/{stream}", trust_env=False, verify=False).json()["partition"]
    said = []
    for log in logs:
        for text in (line.folder / f"{log}.log").read_text().splitlines():
            fields = json.loads(text) if text.startswith("{") else {}
            if fields.get("event") == "partition ready" and fields["partition"] == partition:
                said.append((fields["timestamp"], log))
    return max(said)[1]


class Client(threading.Thread):
    """`sluicegate tail --json`, read line by line while it runs."""

    def __init__(self, line: CommandLine, stream: str) -> None:
        super().__init__(daemon=True)
        self.process = line.start("tail", stream, "--json", "--patience-s", "120")
        self.events: list[dict[str, Any]] = []
        self.start()

    def wait(self) -> int:
        """Its exit code, when all that it wrote has been read."""
        code = self.process.wait(90)
        self.join(30)
        return code

    def run(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.events.append(json.loads(text))

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Lines of the log as (output, text), in the order in which they came."""
        return [(e["stream"], e["line"]) for e in list(self.events) if e["type"] == "log"]


def a_real_build(folder: Path) -> list[str]:
    """This project's own build, from a copy: wheel and source archive, without fetching anything."""
    copy = folder / "project"
    ignored = shutil.ignore_patterns(".venv", ".git", ".sluicegate", "__pycache__", ".*_cache", "dist")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return [sys.executable, "-m", "build", "--no-isolation", "--verbose", str(copy)]


def a_compile(folder: Path, units: int) -> list[str]:
    """Every module of the project, compiled one by one: a line each, for a while."""
    script = (
        "import compileall, pathlib, py_compile, sys, time\n"
        f"files = sorted(pathlib.Path({str(ROOT)!r}).glob('*/**/*.py'))\n"
        "files = [f for f in files if '.venv' not in f.parts]\n"
        f"for n in range({units}):\n"
        "    file = files[n % len(files)]\n"
        f"    py_compile.compile(str(file), cfile={str(folder / 'out.pyc')!r})\n"
        f"    print(f'[{{n + 1}}/{units}] compiled {{file.name}}', flush=True)\n"
        "    if n % 50 == 0: print(f'note: {n} done', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.003)\n"
    )
    return [sys.executable, "-c", script]


@pytest.mark.timeout(240)
def test_what_the_client_sees_is_what_the_command_printed_though_the_worker_was_killed(
    line: CommandLine, tmp_path: Path
) -> None:
    workers = {log: line.worker(log=log) for log in ("one", "two")}
    line.edge()
    process = line.start("exec", "--stream", "build", "--", *a_compile(tmp_path, 3_000))
    printed = Printed(process)
    client = Client(line, "build")
    line.until(lambda: len(client.lines) > 300, "the client reads along", log="one")

    owner = owner_of_the_stream(line, "build", workers)
    line.kill(workers.pop(owner))
    seen_at_kill = len(client.lines)
    assert process.poll() is None, "the command had ended before the worker was killed"

    assert process.wait(120) == 0
    printed.wait()
    assert client.wait() == 0
    assert seen_at_kill < len(client.lines), "all was delivered before the kill"
    # Line by line, once each, in order: on each output, as the two are only merged by exec.
    for output in ("stdout", "stderr"):
        assert [text for name, text in client.lines if name == output] == printed.of(output)
    assert [event["seq"] for event in client.events] == list(range(len(client.events)))
    assert (client.events[0]["type"], client.events[-1]["reason"]) == ("open", "completed")
    (survivor,) = workers.values()
    assert survivor.poll() is None


@pytest.mark.timeout(240)
def test_the_projects_own_build_survives_a_killed_worker_and_a_killed_edge(
    line: CommandLine, tmp_path: Path
) -> None:
    first, edge = line.worker(), line.edge()
    process = line.start("exec", "--stream", "build", "--patience-s", "90", "--", *a_real_build(tmp_path))
    printed = Printed(process)
    client = Client(line, "build")
    line.until(lambda: len(client.lines) >= 1, "the first line arrives", log="worker")

    line.kill(first)
    line.worker(log="second")
    line.kill(edge)
    time.sleep(0.5)
    port = json.loads((tmp_path / "data" / "edge.json").read_bytes())["url"].rpartition(":")[2]
    line.environment["SLUICEGATE_EDGE__PORT"] = port  # a restarted edge is found where it was
    line.edge()

    assert process.wait(120) == 0
    printed.wait()
    assert client.wait() == 0
    for output in ("stdout", "stderr"):
        assert [text for name, text in client.lines if name == output] == printed.of(output)
    assert any("Successfully built" in text for _, text in client.lines)
    assert [event["seq"] for event in client.events] == list(range(len(client.events)))


@pytest.mark.timeout(120)
def test_a_command_that_ran_while_no_worker_was_there_is_all_in_its_stream_once_one_is(
    line: CommandLine,
) -> None:
    line.edge()
    code, _, err = line.run("exec", "--stream", "build", "--", "sh", "-c", "seq 500; exit 5", timeout_s=60)
    assert code == 5
    assert "no worker confirmed the stream yet" in err
    line.worker()
    code, out, _ = line.run("tail", "build", timeout_s=60)
    assert code == 1
    assert out.splitlines()[1:] == [*(str(n) for n in range(1, 501)), "end upstream_error: exit code 5"]


class Printed:
    """What the command printed, as `exec` passed it on to its own outputs."""

    def __init__(self, process: Any) -> None:
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers = [
            threading.Thread(target=self._read, args=(name, pipe), daemon=True)
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, pipe: Any) -> None:
        for text in pipe:
            self._texts[name].append(text.decode().rstrip("\n"))

    def wait(self) -> None:
        """Until all is read of a command that has ended."""
        for reader in self._readers:
            reader.join(30)

    def of(self, output: str) -> list[str]:
        """Its lines, without what `exec` itself says on standard error."""
        return [text for text in self._texts[output] if output == "stdout" or not _is_execs(text)]


def _is_execs(text: str) -> bool:
    own = ("stream build on http://", "warning: no worker confirmed", "warning: the stream is not confirmed")
    return text.startswith(own)
