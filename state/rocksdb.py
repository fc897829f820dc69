"""Committed state on disk: one RocksDB a store, a key prefix a partition, one budget of memory a process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import threading
import time
from contextlib import suppress
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

from state.budget import StateOptions
from state.errors import StoreLocked, StoreUnreadable, StoreUnwritable
from state.manifest import ManifestMark
from state.store import Position, StoreFigures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

_PREFIX = struct.Struct(">H")
_POSITION = struct.Struct(">qq")
_ACTIVE_BUFFER = "rocksdb.cur-size-active-mem-table"
_OPEN_FILES_MIN = 32
_MEMTABLE_BLOOM = 0.1  # of a write buffer, and counted into it
_ASIDE = "unreadable-"
_NO_DAMAGE = tuple(
    os.strerror(code)
    for code in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
        errno.EMFILE, errno.ENFILE,
    )
)  # fmt: skip
"""How RocksDB names what is no fault of a store's files."""
_POSITIONS = b"\xff\xff"  # before the positions; no topic has 65,535 partitions here


class RocksMemory:
    """One block cache and one budget of write buffers for all stores of a process.

    RocksDB's own stall on a spent budget is not in use: only the database that holds the memory can give it
    back, and one that is idle would not. The write that waits for it would wait for ever, and with it all of
    the process, as rocksdict keeps Python's lock meanwhile. Instead, whoever spends the rest has the database
    that holds most written out (``relieve``).
    """

    def __init__(self, options: StateOptions | None = None) -> None:
        self.options = options or StateOptions()
        self._cache = Cache(self.options.block_cache_mb << 20)
        self._buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            self.options.write_buffer_mb << 20, allow_stall=False, cache=self._cache
        )
        self._open: list[Rdict] = []
        self._lock = threading.Lock()

    def open(self, folder: Path, stores: int) -> Rdict:
        """Open the database in ``folder``, one of ``stores`` that share the budget.

        rocksdict raises bare ``Exception`` for what RocksDB reports.
        """
        db = Rdict(str(folder), self._options(stores))
        with self._lock:
            self._open.append(db)
        return db

    def close(self, db: Rdict) -> None:
        """Flush a database and close it."""
        with self._lock:
            self._open.remove(db)
        db.close()

    def relieve(self) -> None:
        """Have memory written out if the budget of write buffers is spent; does not wait for it.

        What is on its way already is not hurried by more, smaller files: if most of the budget is not, some
        database holds at least its share of half of it.
        """
        budget_bytes = self._buffers.get_buffer_size()
        if self._buffers.get_usage() < budget_bytes:
            return
        with self._lock:
            held = [(int(db.property_int_value(_ACTIVE_BUFFER) or 0), db) for db in self._open]
            held_bytes, largest = max(held, key=lambda each: each[0])
            if held_bytes >= budget_bytes // (2 * len(held)):
                largest.flush(wait=False)

    def write_buffer_bytes(self) -> int:
        """Bytes of writes that are not on the disk yet, those that are on their way there included."""
        return int(self._buffers.get_usage())

    def block_cache_bytes(self) -> int:
        """Bytes in the block cache, write buffers included; 0 while no store is open."""
        with self._lock:
            used = self._open[0].property_int_value("rocksdb.block-cache-usage") if self._open else 0
        return int(used or 0)

    def _options(self, stores: int) -> Options:
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        # Else they are kept beside the cache, for each open file, and no budget knows of them.
        table.set_cache_index_and_filter_blocks(v=True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(v=True)
        table.set_bloom_filter(10, block_based=False)
        options = Options(raw_mode=True)
        options.create_if_missing(create_if_missing=True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(self._buffers)
        # One is filled while the other is written out.
        options.set_write_buffer_size((self.options.write_buffer_mb << 20) // 2)
        # Most keys asked for are not in it: that is told at once, instead of a search from its top.
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(_MEMTABLE_BLOOM)
        options.set_max_open_files(max(self.options.open_files_max // stores, _OPEN_FILES_MIN))
        options.set_keep_log_file_num(2)
        options.set_use_fsync(False)
        return options


class RocksStore:
    """One store's database; ``partition(n)`` gives the backend of a partition.

    Opening takes an exclusive lock on the folder. What cannot be read, or was cut, found now or by the worker
    that had it before, is set aside under a name that says so, and the store begins empty: the changelog is
    the truth. The newest of what was set aside is kept for a look: a disk that breaks again and again is not
    filled by it.
    """

    def __init__(self, folder: Path, memory: RocksMemory | None = None, *, stores: int = 1) -> None:
        self._folder = folder
        self._memory = memory or RocksMemory()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "OWNER").open("a+")
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StoreLocked(f"{folder} is in use by another process") from error
        try:
            self._mark = ManifestMark(folder / "data", folder / "MANIFEST_SIZE")
        except OSError as error:
            self._lock.close()
            raise _unwritable(folder, error) from error
        self._found_unreadable = folder / "UNREADABLE"
        try:
            self._db = self._open(folder / "data", stores)
        except BaseException:
            self._mark.close()
            self._lock.close()
            raise
        self._mark.note()

    def _open(self, data: Path, stores: int) -> Rdict:
        """Open the database; a full disk is no reason to set aside what stands on it."""
        if self._found_unreadable.exists():
            self._set_aside("a block could not be read")
            self._found_unreadable.unlink()
        elif lost := self._mark.lost():
            self._set_aside(lost)
        try:
            return self._memory.open(data, stores)
        except Exception as error:  # rocksdict raises bare Exception for what RocksDB reports
            if any(cause in str(error) for cause in _NO_DAMAGE):
                raise _unwritable(self._folder, error) from error
            if not data.exists():
                raise StoreUnreadable(f"{data} cannot be made: {error}") from error
            self._set_aside(str(error))
        try:
            return self._memory.open(data, stores)
        except Exception as error:
            raise _unwritable(self._folder, error) from error

    def _set_aside(self, cause: str) -> None:
        data, aside = self._folder / "data", self._folder / f"{_ASIDE}{time.time_ns()}"
        log.warning(
            "state set aside, rebuilding from the changelog", folder=str(data), aside=str(aside), cause=cause
        )
        if data.exists():
            shutil.move(data, aside)
            for older in self._asides()[:-1]:
                shutil.rmtree(older, ignore_errors=True)
        self._mark.forget()

    def _asides(self) -> list[Path]:
        """Return what was set aside, the newest last."""
        return sorted(self._folder.glob(f"{_ASIDE}*"))

    def partition(self, number: int) -> RocksBackend:
        """Return the backend of partition ``number`` (below 65,535)."""
        return RocksBackend(self._db, number, self._found_unreadable, self._memory, self._mark)

    def figures(self) -> StoreFigures:
        """Return how large the store is; some microseconds and a listing of its folders."""
        disk_bytes = _size_bytes(self._folder / "data")
        aside_bytes = sum(map(_size_bytes, self._asides()))
        memtable_bytes = self._db.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
        keys = self._db.property_int_value("rocksdb.estimate-num-keys") or 0
        return StoreFigures(disk_bytes, int(memtable_bytes), int(keys), aside_bytes)

    def close(self) -> None:
        """Flush and close; the folder's lock is given back."""
        try:
            self._memory.close(self._db)
        except Exception as error:  # noqa: BLE001  as bare as all that rocksdict raises
            # A full disk, say, of which the write that met it has told. What was written stands in its log.
            log.warning("store not flushed at its end", folder=str(self._folder), cause=str(error))
        self._mark.note()
        self._mark.close()
        self._lock.close()


def _unwritable(folder: Path, error: Exception) -> StoreUnwritable:
    """Name what the disk does not take; rocksdict raises bare ``Exception`` for what RocksDB reports."""
    return StoreUnwritable(f"state in {folder} cannot be written: {error}")


def _size_bytes(folder: Path) -> int:
    size_bytes = 0
    with suppress(FileNotFoundError):  # an operator removed what was set aside
        for file in os.scandir(folder):
            with suppress(FileNotFoundError):  # a compaction took it away meanwhile
                size_bytes += file.stat().st_size
    return size_bytes


class RocksBackend:
    """A ``state.store.Backend``: one partition's keys behind a two-byte prefix."""

    def __init__(
        self, db: Rdict, number: int, found_unreadable: Path, memory: RocksMemory, mark: ManifestMark
    ) -> None:
        self._db = db
        self._mark = mark
        self._memory = memory
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
        return self._pairs(start, end, limit, from_start=True)

    def last(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``Backend``."""
        return self._pairs(start, end, limit, from_start=False)

    def _pairs(self, start: bytes, end: bytes, limit: int, *, from_start: bool) -> list[tuple[bytes, bytes]]:
        low, high = self._prefix + start, self._prefix + end
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(high)
        found: list[tuple[bytes, bytes]] = []
        try:
            iterator = self._db.iter(bounds)
            iterator.seek(low)
            step, last = iterator.next, None
            if not from_start and iterator.valid():
                # The options' lower bound does not hold (rocksdict 0.3): beyond the first key of the range it
                # would walk over all that was deleted before that.
                step, last = iterator.prev, iterator.key()
                iterator.seek_for_prev(high)  # the upper bound is outside, whatever stands there
            while iterator.valid() and len(found) < limit:
                key = iterator.key()
                found.append((key[2:], iterator.value()))
                if key == last:
                    break
                step()
            iterator.status()  # an iterator that met a broken block only looks as if it were at its end
        except Exception as error:
            raise self._unreadable(error) from error
        return found

    def write(self, changes: Mapping[bytes, bytes | None], position: Position) -> None:
        """See ``Backend``."""
        batch = WriteBatch(raw_mode=True)
        prefix = self._prefix
        # In key order, as neighbours in the memtable are found in the processor's caches: a third of the time
        # of keys that come at random.
        for key in sorted(changes):
            value = changes[key]
            if value is None:
                batch.delete(prefix + key)
            else:
                batch.put(prefix + key, value)
        stamp = _POSITION.pack(position.offset, position.written_us)
        batch.put(self._position_key, stamp + position.topic_id.encode())
        self._write(batch)

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
        self._write(batch)

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._db.write(batch)
            self._mark.note()
            self._memory.relieve()
        except Exception as error:
            raise _unwritable(self._found_unreadable.parent, error) from error

    def _unreadable(self, error: Exception) -> StoreUnreadable:
        """Name what cannot be read, so that it stops the worker: an agent would call it the event's fault.

        rocksdict raises bare ``Exception`` for what RocksDB reports.
        """
        if str(error).startswith("Corruption"):
            with suppress(OSError):  # a full disk: the next start meets the block again
                self._found_unreadable.touch()
        return StoreUnreadable(f"state in {self._found_unreadable.parent} cannot be read: {error}")
