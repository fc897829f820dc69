"""Debian's packages of the peers, unpacked into the cache folder: nothing is installed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops.settings import Settings

TIMEOUT_S: Final = 300.0
_INSTALLS: Final = re.compile(r"^Inst (\S+)", re.MULTILINE)


class NoPackage(RuntimeError):
    """The package cannot be had; its text says why and what to do."""


def unpacked(settings: Settings, *packages: str) -> Path:
    """Return the folder that has the packages, and what they need that this machine does not have.

    Raises:
        NoPackage: no apt, no lists of packages that it could read, or no such package.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise NoPackage(f"{packages[0]} is taken from Debian's packages, and there is no apt-get here")
    root = settings.cache_dir.absolute() / "bench-edge" / f"{packages[-1]}-{platform.machine()}"
    if (root / "whole").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    archives = root / "archives"
    archives.mkdir(parents=True)
    plan = ("apt-get", "install", "--simulate", "--no-install-recommends", "--reinstall", *packages)
    found = _run(*plan)
    if found.returncode and os.geteuid() == 0:  # a fresh machine has no lists
        _run("apt-get", "update", "-q")
        found = _run(*plan)
    if found.returncode:
        raise NoPackage(
            f"apt knows no {' '.join(packages)} (`apt-get update` as root first?): "
            f"{found.stderr.strip()[-200:]}"
        )
    names = _INSTALLS.findall(found.stdout)
    fetched = _run("apt-get", "download", *names, cwd=archives)
    if fetched.returncode:
        raise NoPackage(f"{' '.join(names)} could not be downloaded: {fetched.stderr.strip()[-200:]}")
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(archive), str(root)], timeout=TIMEOUT_S, check=True)
    shutil.rmtree(archives)
    (root / "whole").touch()
    return root


def environment(root: Path) -> Mapping[str, str]:
    """Return the environment in which unpacked programs find each other and their libraries."""
    libraries = [str(path) for path in (root / "usr" / "lib").glob("*-linux-gnu*")]
    return os.environ | {
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{root / 'usr' / 'bin'}:{os.environ.get('PATH', '')}",
    }


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, timeout=TIMEOUT_S, capture_output=True, text=True, check=False,
        env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
