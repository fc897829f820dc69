"""State on a disk that breaks or is full: found, set aside, rebuilt; nothing commits past a failed write."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.faults.ledger import CHANGELOG, INPUT
from tests.faults.worker import ROLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.run import Run, Worker

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]

BLOCK = 4_096
"""Bytes of a table's block, by RocksDB's default."""


def flip_bytes(data: Path) -> None:
    """Turn bytes over in each block of the first half of each table, behind which its index stands."""
    tables = list(data.glob("*.sst"))
    assert tables, "nothing was flushed to tables"
    for table in tables:
        damaged = bytearray(table.read_bytes())
        for first in range(0, len(damaged) // 2, BLOCK // 4):
            for at in range(first, first + 16):
                damaged[at] ^= 0xFF
        table.write_bytes(damaged)


def cut_manifest(data: Path) -> None:
    """Leave the first half of the file that says which tables there are."""
    (manifest,) = data.glob("MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])


def lose_manifest(data: Path) -> None:
    """Leave none."""
    (manifest,) = data.glob("MANIFEST-*")
    manifest.unlink()


def rebuilt(worker: Worker) -> int:
    """How many partitions of the ledger were restored."""
    return sum("state restored" in line and CHANGELOG.name in line for line in worker.says.splitlines())


@pytest.mark.parametrize("damage", [flip_bytes, cut_manifest, lose_manifest])
def test_broken_files_are_found_set_aside_and_rebuilt(run: Run, damage: Callable[[Path], None]):
    run.begin()
    worker = run.worker()
    run.until_committed(2_000)
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    slot = run.folder / "disk" / ROLE / "slot-0"
    damage(slot / ROLE / "data")
    worker = run.worker()
    run.until(lambda: not worker.runs or "partition ready" in worker.says, "a worker that looks at its disk")
    if damage is flip_bytes:  # found by the first read of a broken block
        assert worker.end() != 0
        assert "cannot be read" in worker.says
        worker = run.worker()
    run.until(lambda: rebuilt(worker) == INPUT.partitions, "all partitions rebuilt from the changelog")
    assert "state set aside" in worker.says
    assert list((slot / ROLE).glob("unreadable-*"))
    run.until_committed(1_000)
    run.settle()
    run.check()


@pytest.fixture
def small_disk(run: Run) -> Iterator[Path]:
    """The workers' state on 24 MB of memory; skips where nothing may be mounted."""
    where = run.folder / "disk"
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(where)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as sink:
        while True:
            sink.write(bytes(1 << 12))


def stops_and_commits_nothing_more(run: Run, worker: Worker, said: str) -> None:
    assert worker.end(60) == 1
    assert "cannot be written" in worker.says
    assert said in worker.says
    committed = run.committed()
    run.load.stop()
    assert run.committed() == committed, "it committed past a write that failed"


def test_a_full_disk_stops_the_worker_with_the_reason_and_costs_nothing(run: Run, small_disk: Path):
    run.begin()
    worker = run.worker()
    run.until_committed(1_000)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        fill(filler)
    stops_and_commits_nothing_more(run, worker, "No space left")
    filler.unlink()
    run.worker()
    run.settle()
    run.check()


def test_a_file_that_may_not_grow_stops_the_worker_with_the_reason_and_costs_nothing(run: Run):
    run.begin()
    worker = run.worker()
    run.until_committed(1_000)
    log_bytes = worker.log.stat().st_size
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (log_bytes + 60_000, resource.RLIM_INFINITY))
    stops_and_commits_nothing_more(run, worker, "File too large")
    run.worker()
    run.settle()
    run.check()


def test_a_restore_that_the_disk_does_not_take_stops_the_worker_as_a_unit_does_and_costs_nothing(run: Run):
    run.begin()
    worker = run.worker()
    run.until_committed(6_000)
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    shutil.rmtree(run.folder / "disk" / ROLE / "slot-0" / ROLE)
    worker = run.worker()
    log_bytes = worker.log.stat().st_size
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (log_bytes + 40_000, resource.RLIM_INFINITY))
    stops_and_commits_nothing_more(run, worker, "File too large")
    assert rebuilt(worker) < INPUT.partitions, "it was no restore"
    assert f"state in {run.folder / 'disk' / ROLE}" in worker.says
    assert "Free space or mend the disk" in worker.says
    run.worker()
    run.settle()
    run.check()
