"""All stores of a process share one cache and one budget of write buffers, and stay within both."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ops.commands.worker import worker_command
from ops.settings import StateSettings
from state import budget
from state.budget import StateOptions, check_machine
from state.errors import BudgetRefused
from state.rocksdb import RocksMemory, RocksStore
from state.store import Position

MIB = 1 << 20
FILES = 10_000
AT = Position("topic-1", 10, 1_000)
SMALL = StateOptions(block_cache_mb=8, write_buffer_mb=4, open_files_max=64)
UNIT_KEYS = 500
VALUE_BYTES = 1_000
# RocksDB allots memtables by the block of 1 MiB at most, one for each of two stores.
SLACK_BYTES = 2 * MIB


def unit(number: int) -> dict[bytes, bytes | None]:
    """What one unit of work writes: half a mebibyte that does not compress."""
    return {b"%04d-%04d" % (number, key): os.urandom(VALUE_BYTES) for key in range(UNIT_KEYS)}


def settled(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def stores(tmp_path):
    memory = RocksMemory(SMALL)
    opened = [RocksStore(tmp_path / name, memory, stores=2) for name in ("one", "two")]
    yield memory, opened
    for store in opened:
        store.close()


def test_writes_and_reads_of_ten_times_the_budget_stay_within_it(stores):
    memory, (one, two) = stores
    most_buffers = most_cache = 0
    for number in range(80):  # 40 MiB, now here, now there
        store = (one, two)[number // 10 % 2]
        store.partition(number % 4).write(unit(number), AT)
        most_buffers = max(most_buffers, memory.write_buffer_bytes())
    for number in range(80):
        keys = [b"%04d-%04d" % (number, key) for key in range(UNIT_KEYS)]
        found = (one, two)[number // 10 % 2].partition(number % 4).multi_get(keys)
        assert all(value is not None and len(value) == VALUE_BYTES for value in found)
        most_cache = max(most_cache, memory.block_cache_bytes())
    # Beyond the budget stands at most what is being written out while the next unit comes.
    assert most_buffers <= 2 * SMALL.write_buffer_mb * MIB + SLACK_BYTES
    assert most_cache <= SMALL.block_cache_mb * MIB + MIB // 2
    assert most_cache > SMALL.block_cache_mb * MIB // 2, "the cache is in use: the bound was met"
    settled(lambda: memory.write_buffer_bytes() <= SMALL.write_buffer_mb * MIB)
    held = sum(store.figures().memtable_bytes for store in (one, two))
    assert held <= SMALL.write_buffer_mb * MIB


def test_an_idle_store_that_holds_the_whole_budget_does_not_stop_another_ones_writes(stores):
    memory, (idle, busy) = stores
    large = {b"%05d" % key: os.urandom(VALUE_BYTES) for key in range(6_000)}  # one unit over the budget
    idle.partition(0).write(large, AT)
    for number in range(4):
        busy.partition(0).write(unit(number), AT)
    settled(lambda: memory.write_buffer_bytes() <= SMALL.write_buffer_mb * MIB)
    assert idle.partition(0).get(b"00000") == large[b"00000"]


def test_the_figures_of_a_store_are_of_what_was_written(stores):
    _, (one, two) = stores
    one.partition(0).write(unit(0), AT)
    figures = one.figures()
    assert figures.keys_estimate == UNIT_KEYS + 1, "and the position"
    assert figures.memtable_bytes >= UNIT_KEYS * VALUE_BYTES
    assert figures.disk_bytes >= UNIT_KEYS * VALUE_BYTES, "the log of writes counts, it is on the disk"
    assert two.figures().keys_estimate == 0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"block_cache_mb": 4}, "block_cache_mb must be at least 8"),
        ({"write_buffer_mb": 0}, "write_buffer_mb 1"),
        ({"open_files_max": 3}, "open_files_max 32"),
        ({"block_cache_mb": 32, "write_buffer_mb": 17}, "at most half of block_cache_mb=32"),
    ],
)
def test_nonsense_is_refused_by_its_name(given, named):
    with pytest.raises(ValueError, match=named):
        StateOptions(**given)
    with pytest.raises(ValueError, match=named):
        StateSettings(**given)


def test_more_memory_than_the_process_may_have_is_refused(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text(f"{100 * MIB}\n")
    monkeypatch.setattr(budget, "_CGROUP_LIMIT", limit)
    check_machine(StateOptions(block_cache_mb=100), FILES)
    with pytest.raises(BudgetRefused, match="block_cache_mb=101 is more than the 100 MiB"):
        check_machine(StateOptions(block_cache_mb=101), FILES)
    limit.write_text("max\n")
    check_machine(StateOptions(block_cache_mb=101), FILES)


def test_the_roles_of_one_worker_are_counted_together(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text(f"{100 * MIB}\n")
    monkeypatch.setattr(budget, "_CGROUP_LIMIT", limit)
    check_machine(StateOptions(block_cache_mb=33, write_buffer_mb=8), FILES, processes=3)
    with pytest.raises(BudgetRefused, match="block_cache_mb=34, in each of 3 roles with state, is more than"):
        check_machine(StateOptions(block_cache_mb=34, write_buffer_mb=8), FILES, processes=3)
    monkeypatch.setenv("SLUICEGATE_STATE__BLOCK_CACHE_MB", "64")
    with pytest.raises(BudgetRefused, match="in each of 2 roles"):
        worker_command(roles="ingest,aggregate")


def test_more_files_than_the_process_may_open_are_refused():
    check_machine(StateOptions(open_files_max=344), 600)
    with pytest.raises(BudgetRefused, match="open_files_max=345") as refused:
        check_machine(StateOptions(open_files_max=345), 600)
    assert "ulimit -Hn" in refused.value.remedy


@pytest.mark.parametrize(("hard", "outcome"), [(2_000, "3"), (600, "BudgetRefused")])
def test_a_worker_raises_its_soft_limit_of_files_before_it_looks_for_room(hard, outcome):
    program = (
        "import resource; from ops.commands.worker import worker_command\n"
        "try: print(worker_command(roles='ingest'))\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    limits = f"ulimit -Sn 256 && ulimit -Hn {hard} && exec {sys.executable} -c"
    done = subprocess.run(
        ["sh", "-c", f'{limits} "$PROGRAM"'],
        env={"PATH": os.environ["PATH"], "PROGRAM": program, "SLUICEGATE_DATA_DIR": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [outcome, f"{hard} {hard}"]
