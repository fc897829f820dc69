"""A slot's identity stands for one folder alone, whatever its process died of."""

from __future__ import annotations

import os

import pytest

from pipelines.slots import Slot


def test_a_restart_finds_its_identity_and_a_second_worker_gets_another(tmp_path):
    first = Slot(tmp_path, "ingest")
    second = Slot(tmp_path, "ingest")
    assert first.identity != second.identity
    first.close()
    assert Slot(tmp_path, "ingest").identity == first.identity


def test_a_process_that_dies_while_it_writes_its_identity_leaves_none_behind(tmp_path, monkeypatch):
    def dies(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", dies)
        with pytest.raises(OSError, match="No space"):
            Slot(tmp_path, "ingest")
    identities = {Slot(tmp_path, "ingest").identity, Slot(tmp_path / "elsewhere", "ingest").identity}
    assert len(identities) == 2
    assert "" not in identities
