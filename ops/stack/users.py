"""Who works with a data folder: workers by their slots, an edge by its address, a demo by its lock."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson
import psutil

from ops.stack.process import CLOCK_TOLERANCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DEMO_LOCK: Final = "demo.lock"


@dataclass(frozen=True, slots=True)
class User:
    """A process that works with a data folder, as it was started: a worker, not its role's processes."""

    what: str
    pid: int
    """0 = not known."""
    roles: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = [f"process {self.pid}"] if self.pid else []
        shown = ": ".join([*known, *([", ".join(self.roles)] if self.roles else [])])
        return f"{self.what} ({shown})" if shown else self.what


def users_of(data_dir: Path) -> list[User]:
    """Return who works with a folder now; what a demo started goes with the demo."""
    demo = list(_demo(data_dir))
    others = [*_workers(data_dir), *_edge(data_dir)]
    return demo + [one for one in others if not any(each.pid == _parent(one.pid) for each in demo)]


def listed(users: Sequence[User]) -> str:
    """Return them in words: ``worker (process 17: ingest) and edge (process 18)``."""
    return " and ".join(map(str, users))


def how_to_stop(users: Sequence[User]) -> str:
    """Return what to do to have them stop."""
    pids = " ".join(str(user.pid) for user in users if user.pid)
    return "press Ctrl-C in their terminals" + (f", or `kill {pids}`" if pids else "")


def holder_of(lock: Path) -> int | None:
    """Return the process that holds a lock, 0 where it left no id; None if nobody does."""
    with suppress(FileNotFoundError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            left = file.read(20)
            return int(left) if left.isdecimal() else 0
    return None


def _demo(data_dir: Path) -> Iterator[User]:
    pid = holder_of(data_dir / DEMO_LOCK)
    if pid is not None:
        yield User("demo", pid)


def _workers(data_dir: Path) -> Iterator[User]:
    roles: dict[int, list[str]] = {}
    for lock in sorted(data_dir.glob("state/*/slot-*/LOCK")):
        pid = holder_of(lock)
        if pid is not None:
            roles.setdefault(_parent(pid) if _is_of_a_worker(pid) else pid, []).append(lock.parts[-3])
    for pid, names in roles.items():
        yield User("worker", pid, tuple(names))


def _edge(data_dir: Path) -> Iterator[User]:
    left = data_dir / "edge.json"
    with suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
        pid = int(orjson.loads(left.read_bytes())["pid"])
        # It left its address after it was started; a process that is younger has the id of one that is gone.
        if psutil.Process(pid).create_time() <= left.stat().st_mtime + CLOCK_TOLERANCE_S:
            yield User("edge", pid)


def _is_of_a_worker(pid: int) -> bool:
    """Whether a process is a role's, which its worker started and stops."""
    with suppress(psutil.Error):
        return "--role-process" in psutil.Process(pid).cmdline()
    return False


def _parent(pid: int) -> int:
    with suppress(psutil.Error):
        return psutil.Process(pid).ppid()
    return -1
