"""Notes how far RocksDB's MANIFEST had come, so that one that was cut is told from an older database.

The MANIFEST is a log of which tables there are. Cut at the border of two records it is sound in itself:
RocksDB opens the database as it was then, deletes the tables that it does not know, and puts the writes of
its newest log on top. What stood in those tables is missing, and the changelog position says that all is
there. So its size is noted beside the database: it only grows, and a new one has a higher number.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

_NOTE = struct.Struct(">qq")  # number of the file, and its bytes
_NAME = re.compile(r"MANIFEST-(\d+)\s*")


class ManifestMark:
    """The note of one database; ``note`` costs the question for a file's size, and a small write if it grew.

    A flush in the background is noted with the next write or at the close: a cut that takes no more than what
    came since is not found. Nothing is forced to the disk, as of the database's own writes.
    """

    def __init__(self, data: Path, file: Path) -> None:
        self._data = data
        self._noted = (0, 0)
        self._manifest: tuple[int, Path] | None = None
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)

    def lost(self) -> str:
        """Say what of the MANIFEST is gone that was there; empty = nothing, or nothing was noted."""
        noted = os.pread(self._file, _NOTE.size, 0)
        current = self._current()
        if len(noted) < _NOTE.size or current is None:
            return ""
        number, size_bytes = _NOTE.unpack(noted)
        found, manifest = current
        if found < number:
            return f"CURRENT names {manifest.name}, and number {number} was in use"
        found_bytes = manifest.stat().st_size if manifest.exists() else 0
        if found == number and found_bytes < size_bytes:
            return f"{manifest.name} has {found_bytes} bytes, and had {size_bytes}"
        return ""

    def note(self) -> None:
        """Note how far it has come."""
        try:
            self._note()
        except OSError as error:  # a full disk, say, on which the database's own next write fails
            log.warning("the size of the MANIFEST is not noted", folder=str(self._data), cause=str(error))

    def forget(self) -> None:
        """Note nothing any more: the database is another's, or new."""
        os.ftruncate(self._file, 0)
        self._noted, self._manifest = (0, 0), None

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)

    def _note(self) -> None:
        if self._manifest is None:
            self._manifest = self._current()
            if self._manifest is None:
                return
        number, manifest = self._manifest
        try:
            size_bytes = os.stat(manifest).st_size  # noqa: PTH116  a third of what a Path's own takes
        except FileNotFoundError:  # it had grown large, and RocksDB began another
            self._manifest = None
            return
        if (number, size_bytes) != self._noted:
            os.pwrite(self._file, _NOTE.pack(number, size_bytes), 0)
            self._noted = (number, size_bytes)

    def _current(self) -> tuple[int, Path] | None:
        try:
            name = _NAME.fullmatch((self._data / "CURRENT").read_text(errors="replace"))
        except FileNotFoundError:
            return None
        return None if name is None else (int(name[1]), self._data / name[0].strip())
