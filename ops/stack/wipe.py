"""Removes what sluicegate made, by its names, and nothing that lies beside it."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from ops.stack.errors import StackError, StillInUse
from ops.stack.parts import KAFKA, MODEL, POSTGRES, REGISTRY
from ops.stack.state import FILE, PORTS_FILE
from ops.stack.users import DEMO_LOCK, users_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_STACK = (KAFKA.name, REGISTRY.name, POSTGRES.name, MODEL.name)
_LOGS = (*_STACK, "worker", "edge", "exec", "llm")
_DOWNLOADS = re.compile(r"(kafka|registry)-.+-[0-9a-f]{8}|model-[0-9a-f]{8}")


def refuse_in_use(data_dir: Path) -> None:
    """Raise StillInUse while a worker, an edge or a demo works with the folder."""
    if users := users_of(data_dir):
        raise StillInUse(data_dir, users)


def wipe_data(data_dir: Path) -> None:
    """Remove the data of stack, workers and edge; the folder too, if nothing else is in it."""
    _remove(_own_data(data_dir))
    for emptied in (*data_dir.glob("state/*"), data_dir / "state", data_dir / "logs", data_dir):
        with suppress(OSError):
            emptied.rmdir()


def wipe_downloads(cache_dir: Path) -> None:
    """Remove the downloads; the folder too, if nothing else is in it."""
    there = cache_dir.iterdir() if cache_dir.is_dir() else ()
    _remove([path for path in there if _DOWNLOADS.fullmatch(path.name)])
    (cache_dir / ".lock").unlink(missing_ok=True)
    with suppress(OSError):
        cache_dir.rmdir()


def _own_data(data_dir: Path) -> Iterator[Path]:
    slots = [lock.parent for lock in data_dir.glob("state/*/slot-*/LOCK")]
    # A folder of the user's may have one of these names too; where a stack ran, its ports were kept.
    stack_ran = (data_dir / PORTS_FILE).exists()
    if stack_ran:
        yield from (data_dir / name for name in _STACK)
    if stack_ran or slots:
        yield from (path for name in _LOGS for path in data_dir.glob(f"logs/{name}.log*"))
    yield from slots
    for name in (FILE, PORTS_FILE, "edge.json", "stack.lock", DEMO_LOCK):
        yield data_dir / name


def _remove(paths: Iterable[Path]) -> None:
    """Remove all that can be; raises StackError that names the first that could not."""
    failed: list[str] = []

    def note(name: str, error: BaseException) -> None:
        failed.append(f"{name}: {getattr(error, 'strerror', error)}")

    for path in list(paths):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=lambda _, name, info: note(str(name), info[1]))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            note(str(path), error)
    if failed:
        raise StackError(
            f"{len(failed)} files or folders could not be removed, first {failed[0]}",
            "see whose they are, and remove them by hand; all else is gone",
        )
