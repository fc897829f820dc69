"""Reads what a stopped worker's ingest left on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.streams import Stream, read_stream
from pipelines.turn import STREAM
from schemas.topics import INPUT, partition_of
from state.rocksdb import RocksStore

if TYPE_CHECKING:
    from pathlib import Path


def stored_streams(data_dir: Path) -> dict[bytes, Stream]:
    """Return the streams by key; each from the slot that stood furthest in its partition's changelog."""
    found: dict[bytes, Stream] = {}
    furthest = dict.fromkeys(range(INPUT.partitions), -1)
    for folder in sorted((data_dir / "state" / "ingest").glob("slot-*/ingest")):
        store = RocksStore(folder)
        try:
            for number in furthest:
                backend = store.partition(number)
                position = backend.position()
                if position is None or position.offset <= furthest[number]:
                    continue
                furthest[number] = position.offset
                for key, value in backend.scan(STREAM, STREAM + b"\xff" * 8, 1_000_000):
                    stream_key = key[len(STREAM) :]
                    assert partition_of(stream_key, INPUT.partitions) == number
                    found[stream_key] = read_stream(stream_key, value)
        finally:
            store.close()
    return found
