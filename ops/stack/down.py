"""Stop what was started, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ops.stack.cache import Cache
from ops.stack.errors import StackError
from ops.stack.filelock import FileLock
from ops.stack.java import is_training, keep_archive
from ops.stack.launch import STOP_SIGNAL
from ops.stack.parts import KAFKA, REGISTRY
from ops.stack.process import stop
from ops.stack.progress import Progress, Silent
from ops.stack.state import read_state, write_state
from ops.stack.wipe import refuse_in_use, wipe_data, wipe_downloads

if TYPE_CHECKING:
    from ops.settings import Settings
    from ops.stack.state import RunningPart

LOCK_PATIENCE_S = 300.0
STOP_PATIENCE_S = 20.0
TRAINING_PATIENCE_S = 90.0  # 5 to 8 s on two idle cores of 2026; without the archive the next start is slower


def down(
    settings: Settings, *, wipe: bool = False, cache: bool = False, progress: Progress | None = None
) -> dict[str, str]:
    """Stop the stack of the data folder; tells for each part how it went.

    ``wipe`` removes what is in the data folder of ours, ``cache`` the downloads too; asking first is the
    caller's. Raises StillInUse while a worker or an edge works there, StackError if a folder cannot be a
    stack's own or something could not be removed.
    """
    progress = progress or Silent()
    data_dir = settings.data_dir.absolute()
    cache_dir = settings.cache_dir.absolute()
    for folder in (*([data_dir] if wipe else ()), *([cache_dir] if cache else ())):
        refuse_precious(folder)
    if wipe:
        refuse_in_use(data_dir)
    outcome: dict[str, str] = {}
    if data_dir.is_dir():
        with FileLock(data_dir / "stack.lock", LOCK_PATIENCE_S, progress):
            outcome = _stop_all(settings, data_dir, progress)
            if wipe:
                wipe_data(data_dir)
                _tell_removed(data_dir, progress)
    if cache and cache_dir.is_dir():
        with FileLock(cache_dir / ".lock", LOCK_PATIENCE_S, progress):
            wipe_downloads(cache_dir)
            _tell_removed(cache_dir, progress)
    return outcome


def _tell_removed(folder: Path, progress: Progress) -> None:
    if folder.exists():
        progress.note(f"removed what sluicegate kept in {folder}; the rest is not its own and stays")
    else:
        progress.note(f"removed {folder}")


def _stop_all(settings: Settings, data_dir: Path, progress: Progress) -> dict[str, str]:
    state = read_state(data_dir)
    if not state:
        return {}
    if any(is_training(part.process) for part in state.values()):
        progress.note("the first time, Java keeps what it learnt for a faster start; this takes some seconds")
    with ThreadPoolExecutor(len(state)) as pool:
        told = dict(zip(state, pool.map(stop_part, state.values()), strict=True))
    write_state(data_dir, {})
    cache = Cache(settings.cache_dir.absolute())
    for name in (KAFKA.name, REGISTRY.name):
        if name in state:
            keep_archive(cache.folder(name), data_dir / name)
    return told


def stop_part(part: RunningPart, patience_s: float | None = None) -> str:
    """Stop one part, if its process is still the one that was recorded; tells how it went."""
    if patience_s is None:
        patience_s = TRAINING_PATIENCE_S if is_training(part.process) else STOP_PATIENCE_S
    return stop(part.process, ask=STOP_SIGNAL[part.name], patience_s=patience_s)


def refuse_precious(folder: Path) -> None:
    """Raise StackError for a folder that cannot be a stack's own: a slip in a setting must cost no home."""
    folder = folder.resolve()
    above_us = [Path.home().resolve(), Path.cwd().resolve()]
    holds = next((place for place in above_us if place == folder or folder in place.parents), None)
    holds = holds or next(
        (folder / name for name in (".git", "pyproject.toml") if (folder / name).exists()), None
    )
    if holds:
        raise StackError(
            f"{folder} is not removed: it holds {holds}",
            "set SLUICEGATE_DATA_DIR and SLUICEGATE_CACHE_DIR to folders of sluicegate's own",
        )
