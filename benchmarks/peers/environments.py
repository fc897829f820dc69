"""Environments of the peers in Python: each its own, for they pin what the product wants newer."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ops.settings import Settings

INSTALL_TIMEOUT_S: Final = 600.0


def python(settings: Settings, name: str) -> str:
    """Return the interpreter that has what ``<name>.txt`` pins, made if need be.

    Raises:
        CalledProcessError: pip's own words are in it.
        TimeoutExpired: the index did not give them in ten minutes.
    """
    pinned = Path(__file__).with_name(f"{name}.txt")
    digest = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()
    folder = settings.cache_dir.absolute() / "peers" / f"{name}-{digest[:8]}"
    interpreter, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        _run(
            str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
            "--only-binary", ":all:", "-r", str(pinned),
        )  # fmt: skip
        whole.touch()
    return str(interpreter)


def _run(*command: str) -> None:
    subprocess.run(command, timeout=INSTALL_TIMEOUT_S, capture_output=True, text=True, check=True)
