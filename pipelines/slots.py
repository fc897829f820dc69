"""A worker's slot: a folder under lock, with an identity that names its group member and transactions.

A restart takes the lowest free slot, and so finds its partitions, its state and its open transaction. The
identity lives in the folder, beside the state that it speaks for: two folders never share one.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from state.errors import StoreLocked

if TYPE_CHECKING:
    from pathlib import Path

_SLOTS_MAX = 64  # more workers of one role on one machine than any machine has cores for


class Slot:
    """The lowest free slot of a role in a state folder; held until ``close`` or the process's end.

    ``identity`` names the slots of a folder that does not outlive its process (a container without a
    volume): then a restart is recognised by it. Two running workers must never be given the same.
    """

    def __init__(self, state_dir: Path, role: str, identity: str = "") -> None:
        for number in range(_SLOTS_MAX):
            folder = state_dir / role / f"slot-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            lock = hold(folder / "LOCK")
            if lock is None:
                continue
            self.number = number
            self.folder = folder
            self.identity = f"{identity}-{number}" if identity else _kept_identity(folder)
            self._lock: IO[str] = lock
            return
        raise StoreLocked(
            f"all {_SLOTS_MAX} slots of role {role} under {state_dir} are in use",
            remedy="Stop a worker, or give this one a state folder of its own.",
        )

    def close(self) -> None:
        """Give the slot back."""
        self._lock.close()


def hold(path: Path) -> IO[str] | None:
    """Lock a file until what is returned is closed, with our process's id in it; None if another has it."""
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    with suppress(OSError):  # on a full disk nobody is told who holds it, and it is held all the same
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), b"%d" % os.getpid())
    return lock


def _kept_identity(folder: Path) -> str:
    kept = folder / "IDENTITY"
    if not kept.exists():
        fresh = folder / "IDENTITY.new"
        with fresh.open("w") as file:
            file.write(uuid.uuid4().hex[:16])
            file.flush()
            os.fsync(file.fileno())  # never half written, after a loss of power either: empty ones are alike
        fresh.replace(kept)
    return kept.read_text()
