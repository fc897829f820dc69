"""What `down --wipe --cache` removes, and what it never does."""

from __future__ import annotations

import errno
import json
import os
from unittest.mock import Mock

import pytest

from ops.stack.down import down
from ops.stack.errors import StackError, StillInUse
from ops.stack.state import write_ports
from pipelines.slots import Slot
from tests.unit.support_stack import settings_in


def make_used(settings):
    """Folders as a stack, a worker and downloads leave them."""
    data, cache = settings.data_dir, settings.cache_dir
    slot = data / "state" / "ingest" / "slot-0"
    for folder in (data / "kafka" / "logs", data / "logs", slot, cache / "kafka-4.3.0-7f3ec749"):
        folder.mkdir(parents=True)
    for file in (data / "logs" / "kafka.log.1", slot / "LOCK", cache / ".lock"):
        file.touch()
    write_ports(data, {"kafka": 9092})


def test_down_can_remove_data_and_downloads(tmp_path):
    settings = settings_in(tmp_path)
    make_used(settings)

    down(settings, wipe=True)
    assert not settings.data_dir.exists()
    assert settings.cache_dir.exists()

    down(settings, wipe=True, cache=True)
    assert not settings.cache_dir.exists()


def test_what_lies_beside_our_own_stays(tmp_path):
    settings = settings_in(tmp_path)
    make_used(settings)
    users = [
        settings.data_dir / "thesis.txt",
        settings.data_dir / "logs" / "diary.txt",
        settings.data_dir / "state" / "map.txt",
        settings.cache_dir / "pip" / "wheel",
    ]
    for file in users:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    down(settings, wipe=True, cache=True)

    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(users)


def test_a_folder_where_no_stack_ever_ran_keeps_all_it_has(tmp_path):
    settings = settings_in(tmp_path)
    users = [
        settings.data_dir / name for name in ("kafka/notes.txt", "logs/worker.log", "state/ohio/map.txt")
    ]
    for file in users:
        file.parent.mkdir(parents=True)
        file.touch()

    down(settings, wipe=True)

    assert all(file.exists() for file in users)


def test_what_a_worker_or_an_edge_works_with_is_not_removed(tmp_path):
    settings = settings_in(tmp_path)
    make_used(settings)
    slot = Slot(settings.data_dir / "state", "ingest")
    with pytest.raises(StillInUse, match=rf"in use by worker \(process {os.getpid()}: ingest\)"):
        down(settings, wipe=True)
    slot.close()
    edge = settings.data_dir / "edge.json"
    edge.write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": os.getpid()}))
    with pytest.raises(StillInUse, match=rf"in use by edge \(process {os.getpid()}\)"):
        down(settings, wipe=True)
    os.utime(edge, (1, 1))  # older than this process: left by one that is gone and had its id
    down(settings, wipe=True)
    assert not settings.data_dir.exists()


def test_what_cannot_be_removed_is_said(tmp_path, monkeypatch):
    settings = settings_in(tmp_path)
    make_used(settings)
    notes = []
    monkeypatch.setattr("os.rmdir", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted")))

    with pytest.raises(StackError, match=r"could not be removed, first .*kafka"):
        down(settings, wipe=True, progress=Mock(note=notes.append))

    assert notes == []
