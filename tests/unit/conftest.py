"""What several unit tests of state stand on."""

from __future__ import annotations

import pytest

from state.memory import MemoryBackend
from state.rocksdb import RocksStore


@pytest.fixture(scope="module")
def rocks_store(tmp_path_factory):
    """One of a module's own: to open it costs more than its tests."""
    store = RocksStore(tmp_path_factory.mktemp("store"))
    yield store
    store.close()


@pytest.fixture(params=["memory", "rocksdb"])
def backend(request, rocks_store):
    """Each of the two, empty."""
    made = MemoryBackend() if request.param == "memory" else rocks_store.partition(7)
    made.clear()
    return made
