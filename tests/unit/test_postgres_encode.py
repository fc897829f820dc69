"""Rows on their way to PostgreSQL: reduced, repaired, sorted, or refused by name."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.encode import prepare
from connectors.postgres.errors import SinkRefused
from connectors.postgres.tables import LLM_ATTEMPTS, STREAMS, USAGE_WINDOWS
from tests.integration.postgres_case import stream, window

HOSTILE = st.text(alphabet=st.characters(codec=None), max_size=6)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3)), max_size=20))
def test_a_batch_is_reduced_to_what_one_after_the_other_would_leave(given_rows):
    rows = [stream(name, revision=rev, attempts=at) for at, (name, rev) in enumerate(given_rows)]
    left: dict[str, int] = {}
    for at, (name, revision) in enumerate(given_rows):
        if name not in left or given_rows[left[name]][1] < revision:
            left[name] = at
    prepared = prepare(STREAMS, rows)
    assert {str(row["stream_id"]): at for at, row in prepared.rows} == left
    assert all(row["attempts"] == at for at, row in prepared.rows)


def test_what_a_newer_row_lacks_of_columns_that_come_apart_is_that_of_the_one_before_it():
    made = dict.fromkeys(LLM_ATTEMPTS.columns, "") | dict.fromkeys(LLM_ATTEMPTS.apart)
    made |= {"request_partition": 2, "request_offset": 7}
    started = made | {"attempt": 1, "ended_us": 0, "input_json": "i"}
    settled = made | {"attempt": 1, "ended_us": 7, "output_json": "o"}
    other = made | {"attempt": 2, "ended_us": 8}
    ((_, kept), (_, plain)) = prepare(LLM_ATTEMPTS, [started, settled, other]).rows
    assert (kept["ended_us"], kept["input_json"], kept["output_json"]) == (7, "i", "o")
    assert plain == other


@given(st.lists(HOSTILE, max_size=8))
def test_whatever_text_comes_what_leaves_can_be_stored(texts):
    rows = [window(model=text, revision=at) for at, text in enumerate(texts)]
    prepared = prepare(USAGE_WINDOWS, rows)
    back = orjson.loads(prepared.json())
    shown = [
        "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)
        for text in texts
    ]
    assert {row["model"] for row in back} == set(shown)
    assert len(back) == len(set(shown))
    for row in back:
        assert shown[row["revision"]] == row["model"]


def test_each_replaced_character_is_counted_wherever_it_stands():
    row = stream(
        request_id="\x00\ud800", upstream_ids=["\udfff"], events_by_type={"a\x00": 1}, bytes_by_type={}
    )
    assert prepare(STREAMS, [row, stream("job:2")]).characters_replaced == 4


def test_clean_text_is_passed_as_it_is():
    row = stream(request_id="\\u0000 \ufffd 𝄞")
    prepared = prepare(STREAMS, [row])
    assert prepared.rows == ((0, row),)
    assert prepared.characters_replaced == 0


def test_rows_leave_in_the_order_of_their_keys_whatever_order_they_came_in():
    rows = [stream(f"job:{n:02}") for n in range(30)]
    one, other = prepare(STREAMS, rows), prepare(STREAMS, rows[::-1])
    assert [row for _, row in one.rows] == [row for _, row in other.rows]


def test_parts_are_the_whole_without_overlap():
    prepared = prepare(STREAMS, [stream(f"job:{n:02}") for n in range(25)])
    parts = list(prepared.parts(10))
    assert [len(part.rows) for part in parts] == [10, 10, 5]
    assert sum((part.rows for part in parts), ()) == prepared.rows


@pytest.mark.parametrize(("field", "value"), [("revision", None), ("revision", True), ("tenant", 1)])
def test_a_key_or_revision_that_cannot_be_compared_is_refused_before_the_database_is_asked(field, value):
    with pytest.raises(SinkRefused) as caught:
        prepare(STREAMS, [stream(), stream("job:2") | {field: value}])
    assert (caught.value.table, caught.value.column, caught.value.row) == ("streams", field, 1)
