"""A disk that takes nothing more: the store says so, by where it stands, and keeps what it has."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from state.errors import StoreUnwritable
from state.rocksdb import RocksStore
from state.store import Position

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT = Position("topic-1", 10, 1_000)
LARGE = {b"%03d" % number: os.urandom(1_000) for number in range(100)}


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """A quota, as a full disk is: what stands can be read, nothing more is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        with capture_logs():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(folder: Path) -> pytest.RaisesExc[StoreUnwritable]:
    return pytest.raises(StoreUnwritable, match=f"state in {folder} cannot be written: .*File too large")


def test_a_write_and_a_restore_that_begins_anew_say_which_store_the_disk_does_not_take(tmp_path: Path):
    store = RocksStore(tmp_path / "store")
    backend = store.partition(0)
    backend.write({b"a": b"1"}, AT)
    with no_file_larger_than(20_000):
        with refused(tmp_path / "store") as told:
            backend.write(LARGE, AT)
        assert "Free space" in told.value.remedy
        assert told.value.fatal
        with refused(tmp_path / "store"):
            backend.clear()
        assert backend.get(b"a") == b"1"
        store.close()
    store = RocksStore(tmp_path / "store")
    assert store.partition(0).get(b"a") == b"1"
    store.close()


def test_a_store_that_is_opened_on_a_full_disk_is_not_set_aside(tmp_path: Path):
    store = RocksStore(tmp_path / "store")
    store.partition(0).write({b"a": b"1"}, AT)
    store.close()
    for _ in range(2):  # whoever restarts it loses nothing by it
        with no_file_larger_than(30), refused(tmp_path / "store"):
            RocksStore(tmp_path / "store")
    assert not list((tmp_path / "store").glob("unreadable-*"))
    store = RocksStore(tmp_path / "store")
    assert store.partition(0).get(b"a") == b"1"
    store.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritable, match=f"state in {tmp_path}/file/store cannot be written"):
        RocksStore(tmp_path / "file" / "store")
