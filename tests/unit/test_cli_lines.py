"""Bytes of a command become lines: every byte in exactly one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.execution.lines import Line, LineCutter


def cut(data: bytes, sizes: list[int], bound: int = 64 * 1024) -> list[Line]:
    cutter, lines, at = LineCutter(bound), [], 0
    for size in sizes:
        lines += cutter.feed(data[at : at + size])
        at += size
    lines += cutter.feed(data[at:])
    return lines + cutter.finish()


def joined(lines: list[Line]) -> str:
    return "".join(line.text + {"newline": "\n", "return": "\r"}.get(line.ending, "") for line in lines)


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"\r", b"\n", b"a", "é€😀".encode(), b"\xff"])).map(b"".join),
    st.lists(st.integers(0, 20), max_size=30),
)
def test_whatever_is_written_in_whatever_chunks_is_in_the_lines_once(data: bytes, sizes: list[int]) -> None:
    assert joined(cut(data, sizes)) == data.replace(b"\r\n", b"\n").decode("utf-8", "replace")


@given(st.binary(max_size=200), st.lists(st.integers(0, 20), max_size=30))
def test_how_it_was_chunked_changes_nothing(data: bytes, sizes: list[int]) -> None:
    assert cut(data, sizes) == cut(data, [])


@given(st.text(max_size=400), st.lists(st.integers(0, 50), max_size=20), st.integers(8, 40))
def test_long_lines_are_cut_between_characters_and_say_so(text: str, sizes: list[int], bound: int) -> None:
    lines = cut(text.encode(), sizes, bound)
    assert joined(lines) == text.replace("\r\n", "\n")
    assert all(len(line.text.encode()) <= bound for line in lines)


def test_an_unfinished_line_is_told_apart_from_a_finished_one() -> None:
    assert cut(b"done\nnot do", []) == [Line("done", "newline"), Line("not do", "eof")]


def test_a_bar_is_seen_as_text_that_is_written_over() -> None:
    assert cut(b" 10%\r 20%\r\nnext\r", [5]) == [
        Line(" 10%", "return"),
        Line(" 20%", "newline"),
        Line("next", "return"),
    ]


def test_a_line_is_given_out_with_the_chunk_that_ends_it() -> None:
    cutter = LineCutter()
    assert cutter.feed(b"half") == []
    assert cutter.feed(b" whole\nrest") == [Line("half whole", "newline")]


def test_a_bound_that_holds_no_character_is_refused() -> None:
    with pytest.raises(ValueError, match="8 or more"):
        LineCutter(4)
