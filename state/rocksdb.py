"""Committed state on disk: one RocksDB a worker and store, a key prefix a partition."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
from typing import TYPE_CHECKING

import structlog
from rocksdict import (
    BlockBasedOptions,
    Cache,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
)

from state.errors import StoreLocked, StoreUnreadable
from state.store import Position

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

_PREFIX = struct.Struct(">H")
_POSITION = struct.Struct(">qq")
_POSITIONS = b"\xff\xff"  # before the positions; no topic has 65,535 partitions here


class RocksStore:
    """One store's database; ``partition(n)`` gives the backend of a partition.

    Opening takes an exclusive lock on the folder. What cannot be read, found now or by the worker that had
    it before, is set aside under a name that says so, and the store begins empty: the changelog is the truth.
    """

    def __init__(self, folder: Path, *, cache_mb: int = 64, write_buffer_mb: int = 32) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "OWNER").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StoreLocked(f"{folder} is in use by another process") from error
        options = _options(cache_mb, write_buffer_mb)
        self._found_unreadable = folder / "UNREADABLE"
        if self._found_unreadable.exists():
            self._set_aside()
            self._found_unreadable.unlink()
        data = folder / "data"
        try:
            self._db = Rdict(str(data), options)
        except Exception as error:  # rocksdict raises bare Exception for what RocksDB reports
            if not data.exists():
                raise StoreUnreadable(f"{data} cannot be made: {error}") from error
            self._set_aside()
            self._db = Rdict(str(data), options)

    def _set_aside(self) -> None:
        data, aside = self._folder / "data", self._folder / f"unreadable-{time.time_ns()}"
        log.warning("state set aside, rebuilding from the changelog", folder=str(data), aside=str(aside))
        if data.exists():
            shutil.move(data, aside)

    def partition(self, number: int) -> RocksBackend:
        """Return the backend of partition ``number`` (below 65,535)."""
        return RocksBackend(self._db, number, self._found_unreadable)

    def size_bytes(self) -> int:
        """Bytes of the live files on disk."""
        return sum(file.stat().st_size for file in os.scandir(self._folder / "data") if file.is_file())

    def close(self) -> None:
        """Flush and close; the folder's lock is given back."""
        self._db.close()
        self._lock.close()


class RocksBackend:
    """A ``state.store.Backend``: one partition's keys behind a two-byte prefix."""

    def __init__(self, db: Rdict, number: int, found_unreadable: Path) -> None:
        self._db = db
        self._found_unreadable = found_unreadable  # left for the next opening, which sets the data aside
        self._prefix = _PREFIX.pack(number)
        self._position_key = _POSITIONS + self._prefix

    def get(self, key: bytes) -> bytes | None:
        """See ``Backend``."""
        try:
            value: bytes | None = self._db.get(self._prefix + key)
        except Exception as error:
            raise self._unreadable(error) from error
        return value

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Backend``."""
        prefix = self._prefix
        try:
            values: list[bytes | None] = self._db.get([prefix + key for key in keys])
        except Exception as error:
            raise self._unreadable(error) from error
        return values

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``Backend``."""
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(self._prefix + end)
        found: list[tuple[bytes, bytes]] = []
        try:
            iterator = self._db.iter(bounds)
            iterator.seek(self._prefix + start)
            while iterator.valid() and len(found) < limit:
                found.append((iterator.key()[2:], iterator.value()))
                iterator.next()
            iterator.status()  # an iterator that met a broken block only looks as if it were at its end
        except Exception as error:
            raise self._unreadable(error) from error
        return found

    def write(self, changes: Mapping[bytes, bytes | None], position: Position) -> None:
        """See ``Backend``."""
        batch = WriteBatch(raw_mode=True)
        prefix = self._prefix
        for key, value in changes.items():
            if value is None:
                batch.delete(prefix + key)
            else:
                batch.put(prefix + key, value)
        stamp = _POSITION.pack(position.offset, position.written_us)
        batch.put(self._position_key, stamp + position.topic_id.encode())
        self._db.write(batch)

    def position(self) -> Position | None:
        """See ``Backend``."""
        try:
            stored: bytes | None = self._db.get(self._position_key)
        except Exception as error:
            raise self._unreadable(error) from error
        if stored is None:
            return None
        offset, written_us = _POSITION.unpack_from(stored)
        return Position(stored[_POSITION.size :].decode(), offset, written_us)

    def clear(self) -> None:
        """See ``Backend``."""
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(self._prefix, _PREFIX.pack(_PREFIX.unpack(self._prefix)[0] + 1))
        batch.delete(self._position_key)
        self._db.write(batch)

    def _unreadable(self, error: Exception) -> StoreUnreadable:
        """Name what cannot be read, so that it stops the worker: an agent would call it the event's fault.

        rocksdict raises bare ``Exception`` for what RocksDB reports.
        """
        if str(error).startswith("Corruption"):
            self._found_unreadable.touch()
        return StoreUnreadable(f"state in {self._found_unreadable.parent} cannot be read: {error}")


def _options(cache_mb: int, write_buffer_mb: int) -> Options:
    cache = Cache(cache_mb << 20)
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(10, block_based=False)
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    options.set_block_based_table_factory(table)
    # One budget for all column families, so that memory stays what the settings say.
    options.set_write_buffer_manager(
        WriteBufferManager.new_write_buffer_manager_with_cache(
            write_buffer_mb << 20, allow_stall=True, cache=cache
        )
    )
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_use_fsync(False)
    return options
