"""One process at a time: an advisory lock on a file, given back by the kernel when its holder ends."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from ops.stack.errors import StackBusy

if TYPE_CHECKING:
    from pathlib import Path

    from ops.stack.progress import Progress

POLL_S = 0.1


class FileLock:
    """Context manager that holds a lock; raises StackBusy if another holds it longer than ``patience_s``."""

    def __init__(self, path: Path, patience_s: float, progress: Progress) -> None:
        self._path, self._patience_s, self._progress = path, patience_s, progress
        self._descriptor = -1

    def __enter__(self) -> None:
        # The file is never removed: a lock on a name that another process re-creates would lock nothing.
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + self._patience_s
        told = False
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(self._descriptor)
                    raise StackBusy(self._path, self._patience_s) from None
                if not told:
                    self._progress.note(f"waiting for another sluicegate that holds {self._path}")
                    told = True
                time.sleep(POLL_S)
            else:
                return

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)  # closing gives the lock back
