"""What a changelog must keep: what its store needs, and tombstones for as long as a disk's state is used."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.kafka.options import KafkaOptions
from pipelines.changelogs import keeps_too_little
from pipelines.extension import Extension
from pipelines.restoration import Restoration
from pipelines.testing import AgentDriver
from state.memory import MemoryBackend
from state.schema import StoreSchema, dedupe, kv, sessions, windows
from state.sessions import SessionOptions
from state.store import Position
from state.windows import WindowOptions
from tests.support.twin_scenario import READINGS, SCHEMA, SUBJECT, topic

CHANGELOG = topic("twin.kept.changelog.v1", cleanup="compact")
SIXTEEN_S = StoreSchema(
    parts=(
        windows("w", WindowOptions(window_ms=10_000, grace_ms=5_000, ttl_ms=1_000), key="k", value="v"),
        sessions("s", SessionOptions(gap_ms=3_000, grace_ms=2_000, ttl_ms=1_000), key="k", value="v"),
        dedupe("d", key="k", ttl_ms=15_000),
        kv("clock", key="k", value="v"),
    )
)


def test_an_entry_is_needed_for_its_window_its_grace_and_its_ttl():
    assert [part.lives_ms for part in SIXTEEN_S.parts] == [16_000, 6_000, 15_000, 0]
    assert (SIXTEEN_S.lives_ms, StoreSchema().lives_ms) == (16_000, 0)


@pytest.mark.parametrize(
    ("cleanup", "retention_ms", "said"),
    [
        ("compact", 1, ""),
        ("compact,delete", 16_000, ""),
        ("compact,delete", -1, ""),
        ("compact, delete", 15_999, "needs its entries for 16000 ms"),
        ("delete", -1, "must be compact"),
    ],
)
def test_a_cleanup_that_deletes_what_is_needed_is_named(cleanup, retention_ms, said):
    problem = keeps_too_little(cleanup, retention_ms, SIXTEEN_S)
    assert said in problem
    assert bool(said) == bool(problem)


@pytest.mark.parametrize(
    "wrong", [{"cleanup": "delete"}, {"cleanup": "compact,delete", "retention_ms": 15_999}], ids=str
)
def test_such_a_changelog_is_refused_where_it_is_declared(wrong, tmp_path):
    def register(app, tools, _options):
        changelog = replace(CHANGELOG, **wrong)
        app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT), changelog=changelog, store=SIXTEEN_S)

    extension = Extension({"one": [register]}, (READINGS,), {SUBJECT: SCHEMA})
    with pytest.raises(ValueError, match=r"source of one: twin\.kept\.changelog\.v1: cleanup\.policy="):
        AgentDriver("one", extension, folder=tmp_path)


@pytest.mark.parametrize(("tombstones_ms", "start"), [(60_000, 5), (1_000, 0)])
def test_state_that_is_older_than_the_tombstones_is_rebuilt(tombstones_ms, start):
    starts = []
    backend = MemoryBackend()
    backend.write({b"deleted meanwhile": b"1"}, Position("id", 5, time.time_ns() // 1_000 - 10_000_000))
    reader: Any = SimpleNamespace(topic_id=lambda _topic: "id", ends=lambda *_: (0, 9))
    restorer: Any = SimpleNamespace(restore=lambda *_, start, **__: starts.append(start))
    restoration = Restoration(
        KafkaOptions(""), reader, restorer, CHANGELOG, 0, backend, tombstones_ms=tombstones_ms
    )
    restoration.run(None, threading.Event())
    assert starts == [start]
    assert (backend.get(b"deleted meanwhile") is None) == (start == 0)
