"""The parent of edges where a new process does not get ready: real processes, which stand in for edges."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from ops import edge_processes
from ops.edge import edge_options
from ops.edge_processes import EdgeProcesses
from ops.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

STAND_IN = """
import http.server, os, pathlib, socketserver, sys, time
folder, name, siblings = pathlib.Path(sys.argv[1]), sys.argv[-3], pathlib.Path(sys.argv[-1])
with (folder / "starts").open("a") as starts:
    starts.write(f"{name} {os.getpid()}\\n")
if (folder / "ends").exists():
    sys.exit(3)
while (folder / "hangs").exists():
    time.sleep(0.02)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass
path = siblings / f"{name}.sock"
path.unlink(missing_ok=True)
server = socketserver.UnixStreamServer(str(path), Ready)
(folder / f"ready-{os.getpid()}").touch()
server.serve_forever()
"""


class Edges:
    """What became of the processes that a parent started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def starts(self) -> list[tuple[str, int]]:
        """Name and pid of each that was started, in order."""
        file = self.folder / "starts"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [(name, int(pid)) for name, pid in map(str.split, lines)]

    def count(self, name: str) -> int:
        return sum(one == name for one, _ in self.starts())

    def ready(self) -> dict[str, int]:
        """The pid of each that answers, by name."""
        return {
            name: pid for name, pid in self.starts() if (self.folder / f"ready-{pid}").exists() and runs(pid)
        }

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.starts()
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[dict[str, int]]:
        """Two that are ready, by name; in the end they are told to stop, and do."""
        parent = asyncio.create_task(EdgeProcesses(Settings(), "127.0.0.1", 0, -1, 2).run())
        await self.until(lambda: parent.done() or len(self.ready()) == 2)
        yield self.ready()
        assert not parent.done(), "the parent goes on"
        os.kill(os.getpid(), signal.SIGTERM)
        assert await parent == 0
        assert self.ready() == {}


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edges:
    script = tmp_path / "edge.py"
    script.write_text(STAND_IN)
    command = [sys.executable, str(script), str(tmp_path)]
    monkeypatch.setattr(edge_processes, "sluicegate", lambda *words: [*command, *words])
    monkeypatch.setattr(edge_processes, "_PAUSE_S", 0.2)
    monkeypatch.setenv("SLUICEGATE_DATA_DIR", str(tmp_path / "data"))
    return Edges(tmp_path)


def test_a_rolling_restart_ends_with_the_first_that_does_not_start_and_goes_on_once_that_is_mended(
    edges: Edges, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        async with edges.serving() as first:
            (edges.folder / "ends").touch()
            os.kill(os.getpid(), signal.SIGUSR1)
            # More often than one alone would be tried: once, thrice at once, and then again and again.
            await edges.until(lambda: edges.count("0") >= 7)
            assert edges.ready() == {"1": first["1"]}, "the other one serves as it did"
            (edges.folder / "ends").unlink()
            await edges.until(lambda: len(edges.ready()) == 2)
            assert edges.count("1") == 1
            os.kill(os.getpid(), signal.SIGUSR1)
            await edges.until(lambda: len(edges.ready()) == 2 and edges.ready()["1"] != first["1"])

    asyncio.run(scene())
    said = capfd.readouterr().err
    assert said.count("edge 0 did not get ready: the restart ends here") == 1
    assert "edge 0 ended by itself with exit code 3, again; the others go on without it" in said
    assert "edge 1 ended by itself" not in said


def test_a_rolling_restart_ends_with_the_first_that_takes_too_long_and_leaves_it_its_time(
    edges: Edges, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with edges.serving() as first:
            monkeypatch.setattr(edge_processes, "_READY_S", 0.5)
            (edges.folder / "hangs").touch()
            os.kill(os.getpid(), signal.SIGUSR1)
            said = ""

            def has_said() -> bool:
                nonlocal said
                said += capfd.readouterr().err
                return "edge 0 did not get ready" in said

            await edges.until(has_said)
            (edges.folder / "hangs").unlink()
            await edges.until(lambda: len(edges.ready()) == 2)
            assert edges.ready()["1"] == first["1"]
            assert (edges.count("0"), edges.count("1")) == (2, 1), "nobody was started a third time"

    asyncio.run(scene())


@pytest.mark.parametrize(("bound", "share"), [(0, 0), (1, 1), (3, 1), (4, 1), (10, 2)])
def test_what_a_tenant_may_have_is_divided_among_the_processes_of_an_edge(
    bound: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONNECTIONS_MAX", "EVENTS_PER_S_MAX"):
        monkeypatch.setenv(f"SLUICEGATE_EDGE__TENANT_{name}", str(bound))
    one, of_four = edge_options(Settings()), edge_options(Settings(), processes=4)
    assert (one.tenant_connections_max, one.tenant_events_per_s_max) == (bound, bound)
    assert (of_four.tenant_connections_max, of_four.tenant_events_per_s_max) == (share, share)


def test_where_none_starts_the_parent_gives_up(
    edges: Edges, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_processes, "_PAUSE_S", 600.0)
    (edges.folder / "ends").touch()
    assert asyncio.run(EdgeProcesses(Settings(), "127.0.0.1", 0, -1, 2).run()) == 1
    assert "again; all are stopped" in capfd.readouterr().err
    assert len(edges.starts()) == 8
