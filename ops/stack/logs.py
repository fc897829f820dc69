"""Logs of the parts: one file each, with the one before kept beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LINES_SHOWN = 15
TAIL_BYTES_MAX = 64 * 1024
LINE_LENGTH_MAX = 300


def last_lines(log: Path, count: int = LINES_SHOWN) -> list[str]:
    """Give the last lines of a log, however large it is; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES_MAX))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line[:LINE_LENGTH_MAX] for line in text.splitlines() if line.strip()][-count:]


def rotate(log: Path) -> None:
    """Keep the log of the last run beside a new one, so that two runs bound what logs take."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
