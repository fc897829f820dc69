"""What a store's declaration says, kept and read back, and what of a change is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.topics import INGEST_STREAMS_CHANGELOG
from state.dedupe import SeenOptions
from state.keyvalue import KeyValueOptions
from state.schema import Migration, StoreSchema, dedupe, differences, key_values, kv, seen, sessions, windows
from state.sessions import SessionOptions
from state.windows import WindowOptions

MINUTES = WindowOptions(window_ms=60_000, grace_ms=5_000, ttl_ms=3_600_000)
STORE = StoreSchema(
    parts=(
        windows("m", MINUTES, key="tenant", value=">qq"),
        kv("c", key="the watermark", value=">q"),
        sessions("v", SessionOptions(), key="tenant", value=">q"),
        dedupe("d", key="event id", ttl_ms=60_000),
    )
)


def test_what_is_kept_is_read_back_and_does_not_depend_on_the_order_of_the_parts():
    turned = replace(STORE, parts=tuple(reversed(STORE.parts)))
    assert turned.text() == STORE.text()
    assert differences(StoreSchema.of(1, STORE.text()), STORE) == []
    newer = STORE.text().replace('"kind"', '"of_a_later_sluicegate":1,"kind"')
    assert differences(StoreSchema.of(1, newer), STORE) == []


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (windows("m", replace(MINUTES, window_ms=30_000), key="tenant", value=">qq"), "window_ms is 60000"),
        (windows("m", replace(MINUTES, grace_ms=1), key="tenant", value=">qq"), "grace_ms is 5000"),
        (windows("m", replace(MINUTES, ttl_ms=1), key="tenant", value=">qq"), "ttl_ms is 3600000"),
        (windows("m", replace(MINUTES, advance_ms=6_000), key="tenant", value=">qq"), "advance_ms is 0"),
        (windows("m", MINUTES, key="user", value=">qq"), "key is 'tenant', this code's 'user'"),
        (windows("m", MINUTES, key="tenant", value=">q"), "value is '>qq', this code's '>q'"),
        (kv("m", key="tenant", value=">qq"), "kind is 'window', this code's 'kv'"),
    ],
)
def test_each_change_of_a_part_is_told(part, said):
    changed = replace(STORE, parts=(part, *STORE.parts[1:]))
    assert any(f"m: {said}" in one for one in differences(STORE, changed))
    assert all(one.startswith("m: ") for one in differences(STORE, changed))


def test_what_expires_is_needed_for_its_ttl_and_a_changed_ttl_is_told():
    before = StoreSchema(
        parts=(
            key_values("v", KeyValueOptions(ttl_ms=5_000), key="sensor", value=">d"),
            seen("d", SeenOptions(ttl_ms=9_000), key="id"),
        )
    )
    after = StoreSchema(
        parts=(
            key_values("v", KeyValueOptions(ttl_ms=6_000), key="sensor", value=">d"),
            seen("d", SeenOptions(ttl_ms=8_000), key="id"),
        )
    )
    assert [part.lives_ms for part in before.parts] == [10_000, 9_000], "a refresh keeps an older entry"
    assert differences(before, after) == [
        "d: ttl_ms is 9000, this code's 8000",
        "v: ttl_ms is 5000, this code's 6000",
    ]
    plain = StoreSchema(parts=(kv("v", key="sensor", value=">d", ttl_ms=5_000), before.parts[1]))
    assert len(differences(before, plain)) == 1, "the bytes are others, though the words are the same"


def test_a_part_that_came_or_went_is_told_and_so_is_the_version():
    fewer = replace(STORE, parts=STORE.parts[1:], version=2)
    assert differences(STORE, fewer) == ["its version is 1, this code's 2", "m (window) is not in this code"]
    assert differences(fewer, STORE) == ["its version is 2, this code's 1", "m (window) is not in the store"]


def test_who_declares_nothing_is_held_to_the_version_alone():
    assert differences(StoreSchema(), STORE) == differences(STORE, StoreSchema()) == []
    assert differences(StoreSchema(), StoreSchema(2)) == ["its version is 1, this code's 2"]


def test_declarations_that_make_no_sense_are_refused():
    for wrong in (
        lambda: StoreSchema(0),
        lambda: StoreSchema(parts=(STORE.parts[0], STORE.parts[0])),
        lambda: Migration("", INGEST_STREAMS_CHANGELOG, 1, 2),
        lambda: Migration("same", INGEST_STREAMS_CHANGELOG, 2, 2),
    ):
        with pytest.raises(ValueError, match="version"):
            wrong()
