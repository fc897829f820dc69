"""The cursor: small, opaque, bound to its stream, and read strictly."""

from __future__ import annotations

import re
import struct
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import cursor as module
from schemas.cursor import TEXT_MAX, Cursor, decode_cursor
from schemas.errors import CursorError, ForeignCursor, MalformedCursor

cursors = st.builds(
    Cursor,
    topic_version=st.integers(0, 2**16 - 1),
    partition=st.integers(0, 2**32 - 1),
    offset=st.integers(0, 2**63 - 1),
    seq=st.integers(-1, 2**63 - 1),
    ended=st.booleans(),
)
tenants = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
streams = st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True)


@given(cursors, tenants, streams)
def test_a_cursor_comes_back_as_it_was_given(cursor: Cursor, tenant: str, stream_id: str) -> None:
    text = cursor.encode(tenant, stream_id)
    assert decode_cursor(text, tenant, stream_id) == cursor
    assert len(text) <= TEXT_MAX
    assert re.fullmatch(r"[A-Za-z0-9._-]+", text)


@given(cursors, tenants, streams, tenants, streams)
def test_a_cursor_of_another_stream_is_foreign(
    cursor: Cursor, tenant: str, stream_id: str, other_tenant: str, other_stream: str
) -> None:
    if (tenant, stream_id) == (other_tenant, other_stream):
        return
    with pytest.raises(ForeignCursor):
        decode_cursor(cursor.encode(tenant, stream_id), other_tenant, other_stream)


def test_a_slash_cannot_be_moved_between_tenant_and_stream() -> None:
    text = Cursor(1, 0, 5, 5).encode("a", "b")
    with pytest.raises(ForeignCursor):
        decode_cursor(text, "a/b", "")


@given(st.text(max_size=200))
def test_any_other_text_is_refused_as_a_cursor_error(text: str) -> None:
    with pytest.raises(CursorError):
        decode_cursor(text, "default", "s")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "=",
        lambda text: text + "AAAA",
        lambda text: text[:10] + "\n" + text[10:],
        lambda text: text[:10] + " " + text[10:],
        lambda text: text[:10] + "+" + text[11:],
        lambda _: "",
        lambda _: "0",
        lambda _: "é" * 39,
        lambda _: "A" * 10_000,
        lambda text: text.replace(text[-1], "\ud800"),
    ],
)
def test_a_spoiled_spelling_is_malformed(spoil) -> None:
    with pytest.raises(MalformedCursor):
        decode_cursor(spoil(Cursor(1, 2, 3, 4).encode("default", "s")), "default", "s")


def test_every_single_changed_character_is_noticed() -> None:
    text = Cursor(1, 3, 123_456, 99).encode("default", "s")
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(CursorError):
            decode_cursor(changed, "default", "s")


def _sealed(*values: int) -> str:
    body = struct.pack(">BHIqq", *values)
    return urlsafe_b64encode(body + module._tag(body, "default", "s")).decode()


def test_another_format_says_so() -> None:
    with pytest.raises(MalformedCursor, match="format 3"):
        decode_cursor(_sealed(3, 1, 0, 0, 0), "default", "s")


@pytest.mark.parametrize(("offset", "seq"), [(-1, 0), (0, -2)])
def test_a_well_sealed_cursor_with_a_negative_place_is_malformed(offset: int, seq: int) -> None:
    with pytest.raises(MalformedCursor, match="negative"):
        decode_cursor(_sealed(1, 1, 0, offset, seq), "default", "s")
