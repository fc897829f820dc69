"""What all stores of one worker process may use together: memory and open files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state.errors import BudgetRefused

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_OTHER_FILES: Final = 256
"""Files that a worker has open beside its stores': connections, logs, libraries. It had 60 when counted."""


@dataclass(frozen=True, slots=True)
class StateOptions:
    """One budget a process, which is a role's, however many stores it has."""

    block_cache_mb: int = 128
    """Blocks, indexes and filters as they were read, and the write buffers, which are counted into it."""
    write_buffer_mb: int = 32
    """Writes that are not on the disk yet. A unit of work that is larger than this is held beyond it."""
    open_files_max: int = 512

    def __post_init__(self) -> None:
        if self.block_cache_mb < 8 or self.write_buffer_mb < 1 or self.open_files_max < 32:
            raise ValueError(
                f"block_cache_mb must be at least 8, write_buffer_mb 1 and open_files_max 32: {self}"
            )
        if self.write_buffer_mb > self.block_cache_mb // 2:
            raise ValueError(
                f"write_buffer_mb={self.write_buffer_mb} must be at most half of block_cache_mb="
                f"{self.block_cache_mb}, into which it is counted: nothing would be left to read with"
            )


def check_machine(options: StateOptions, files: int, *, processes: int = 1) -> None:
    """Compare a budget with what this machine gives; ``processes`` have one each, of memory.

    ``files``: how many each of them may open.

    Raises:
        BudgetRefused: there is less of it.
    """
    memory_mb = memory_bytes() >> 20
    if options.block_cache_mb * max(processes, 1) > memory_mb:
        times = f", in each of {processes} roles with state," if processes > 1 else ""
        raise BudgetRefused(
            f"state.block_cache_mb={options.block_cache_mb}{times} is more than the {memory_mb} MiB that "
            "this process may have" + (" with its children" if processes > 1 else ""),
            remedy="Lower SLUICEGATE_STATE__BLOCK_CACHE_MB, which each role has for itself, or start fewer "
            "roles here.",
        )
    if options.open_files_max + _OTHER_FILES > files:
        raise BudgetRefused(
            f"state.open_files_max={options.open_files_max} with {_OTHER_FILES} for all else is more than "
            f"the {files} files that this process may open",
            remedy="Raise the hard limit of open files (`ulimit -Hn`, LimitNOFILE=, a container's ulimits), "
            "or lower SLUICEGATE_STATE__OPEN_FILES_MAX.",
        )


def memory_bytes() -> int:
    """Return what this process may have: the machine's memory, or its control group's if that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control group (v2), or "max"
        return physical
