"""What a changelog must keep: what its store needs, and tombstones for as long as a disk's state is used."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from connectors.kafka import birth
from connectors.kafka.options import KafkaOptions
from pipelines.changelogs import Retention, keeps_too_little
from pipelines.extension import Extension
from pipelines.generations import target_of
from pipelines.restoration import Restoration
from pipelines.testing import AgentDriver
from state.errors import StateLost
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
    retention = Retention(-1, tombstones_ms)
    restoration = Restoration(KafkaOptions(""), reader, restorer, CHANGELOG, 0, backend, retention=retention)
    restoration.run(None, threading.Event())
    assert starts == [start]
    assert (backend.get(b"deleted meanwhile") is None) == (start == 0)


MARK = birth._KEY + b"12345678"
ENTRY = b"in the log"
EXPIRING = replace(CHANGELOG, cleanup="compact,delete", retention_ms=3_600_000)
YOUNG_S, OLD_S = 60, 7_200
KEPT, REBUILT, LOST = "kept", "rebuilt", "lost"


def restored(changelog, at, low, first, *, age_s=YOUNG_S, topic_id="id", handled=40, high=100, **options):
    """What becomes of a partition whose disk stands ``at`` an offset (None = it has none)."""
    backend = MemoryBackend()
    if at is not None:
        written_us = time.time_ns() // 1_000 - age_s * 1_000_000
        backend.write({b"on the disk": b"1"}, Position(topic_id, at, written_us))
    reader: Any = SimpleNamespace(topic_id=lambda _topic: "id", ends=lambda *_: (low, high))

    def restore(*_, start, high, apply, **__):
        if first is not None and start < high:
            apply({first: b"1", ENTRY: b"1"}, high - 1)  # a marker stands behind it

    restorer: Any = SimpleNamespace(restore=restore)
    restoration = Restoration(KafkaOptions(""), reader, restorer, changelog, 0, backend, **options)
    before, lost = backend.position(), None
    try:
        has_state = restoration.run(handled, threading.Event())
    except StateLost as error:
        lost = error
    if lost is not None:
        assert lost.remedy
        assert backend.position() == before, "what the disk has is left as it is"
        assert ("left as it is" in str(lost)) == (at is not None)
        return LOST
    position = backend.position()
    assert has_state == (position is not None)
    assert position is None or (position.topic_id, position.offset) == ("id", high)
    return REBUILT if backend.get(b"on the disk") is None else KEPT


@pytest.mark.parametrize(
    ("changelog", "topic_id", "level", "cause"),
    [
        (target_of(CHANGELOG, 2), "before", "info", "is another one since a migration (was before, is id)"),
        (target_of(CHANGELOG, 2), "id", "warning", "position 50 is outside of the changelog"),
        (CHANGELOG, "before", "warning", "was made anew (was before, is id)"),
    ],
)
def test_state_of_before_a_migration_is_rebuilt_without_a_warning(changelog, topic_id, level, cause):
    with capture_logs() as told:
        high = 40 if topic_id == "id" else 100
        assert restored(changelog, 50, 0, MARK, topic_id=topic_id, high=high) == REBUILT
    (line,) = (line for line in told if line["event"] == "local state is not used, rebuilding")
    assert line["log_level"] == level
    assert cause in line["cause"]


@pytest.mark.parametrize("changelog", [CHANGELOG, EXPIRING], ids=["compact", "compact,delete"])
@pytest.mark.parametrize(
    ("at", "low", "first", "how", "fate"),
    [
        (50, 0, MARK, {}, KEPT),
        (50, 10, ENTRY, {}, KEPT),
        (5, 10, ENTRY, {}, LOST),
        (5, 10, ENTRY, {"handled": None}, REBUILT),
        (5, 100, None, {}, LOST),
        (120, 10, ENTRY, {"age_s": OLD_S}, LOST),
        (50, 0, ENTRY, {"topic_id": "before"}, LOST),
        (50, 10, ENTRY, {"topic_id": "before", "age_s": OLD_S}, LOST),
        (50, 0, MARK, {"topic_id": "before"}, REBUILT),
        (50, 0, None, {"topic_id": "before", "high": 0}, LOST),
        (50, 0, None, {"topic_id": "before", "high": 0, "handled": None}, REBUILT),
        (None, 0, MARK, {}, REBUILT),
        (None, 0, ENTRY, {}, LOST),
        (None, 0, None, {"high": 0}, LOST),
    ],
)
def test_a_changelog_without_its_beginning_is_refused_under_either_cleanup(
    changelog, at, low, first, how, fate
):
    assert restored(changelog, at, low, first, **how) == fate


@pytest.mark.parametrize(
    ("at", "low", "first", "how"),
    [
        (5, 10, ENTRY, {"age_s": OLD_S}),
        (5, 100, None, {"age_s": OLD_S}),
        (None, 10, ENTRY, {}),
        (None, 100, None, {}),
    ],
)
def test_what_retention_may_have_taken_is_rebuilt_from_what_is_left_where_the_changelog_deletes(
    at, low, first, how
):
    assert restored(EXPIRING, at, low, first, **how) == REBUILT
    assert restored(CHANGELOG, at, low, first, **how) == LOST
    assert restored(replace(EXPIRING, retention_ms=-1), at, low, first, **how) == LOST


@pytest.mark.parametrize(
    ("cleanup", "retention_ms", "retention_bytes", "records_ms"),
    [
        ("compact", 5, -1, -1),
        ("compact", 5, 9, -1),
        ("compact,delete", 5, -1, 5),
        ("compact,delete", -1, -1, -1),
        ("compact,delete", 5, 9, 0),
        ("compact,delete", -1, 9, 0),
    ],
)
def test_what_size_alone_may_take_may_go_at_any_age(cleanup, retention_ms, retention_bytes, records_ms):
    config = {"cleanup.policy": cleanup, "retention.ms": str(retention_ms)}
    config |= {"retention.bytes": str(retention_bytes), "delete.retention.ms": "7"}
    assert Retention.of(config) == (records_ms, 7)


@pytest.mark.parametrize("at", [5, None])
def test_a_log_that_its_size_may_have_cut_is_rebuilt_from_what_is_left(at):
    by_size = Retention(0, Retention.declared(EXPIRING).tombstones_ms)
    assert restored(EXPIRING, at, 10, ENTRY, retention=by_size) == REBUILT
    assert restored(EXPIRING, at, 0, ENTRY, retention=by_size) == (LOST if at is None else KEPT)


@pytest.mark.parametrize(
    ("at", "low", "first", "how", "fate"),
    [
        (None, 0, None, {"high": 0}, REBUILT),
        (None, 0, ENTRY, {}, REBUILT),
        (None, 10, ENTRY, {}, REBUILT),
        (50, 0, ENTRY, {"age_s": 8 * 86_400}, REBUILT),
        (50, 0, ENTRY, {"topic_id": "before"}, REBUILT),
        (50, 0, ENTRY, {}, KEPT),
        (5, 10, ENTRY, {}, LOST),
        (120, 0, ENTRY, {}, LOST),
    ],
)
def test_no_mark_is_demanded_of_a_changelog_that_deletes_and_was_begun_without_one(at, low, first, how, fate):
    for_ever = replace(EXPIRING, retention_ms=-1)
    assert restored(EXPIRING, at, low, first, marked=False, **how) == fate
    assert restored(for_ever, at, low, first, marked=False, **how) == fate
    if fate == REBUILT:  # of one that is compacted alone the mark was always written
        assert restored(CHANGELOG, at, low, first, marked=False, **how) == LOST


def test_state_that_stands_at_the_end_of_its_changelog_has_missed_no_tombstone():
    tombstones_s = Retention.declared(CHANGELOG).tombstones_ms // 1_000
    assert restored(CHANGELOG, 100, 0, MARK, age_s=tombstones_s + 60) == KEPT
    assert restored(CHANGELOG, 99, 0, ENTRY, age_s=tombstones_s + 60) == KEPT, "before its last unit's marker"
    assert restored(CHANGELOG, 98, 0, MARK, age_s=tombstones_s + 60) == REBUILT
