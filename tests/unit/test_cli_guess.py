"""Level and progress are guessed only where a line says them plainly."""

from __future__ import annotations

import pytest

from ops.execution.guess import Progress, level_of, progress_of


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("ERROR: no such target", "error"),
        ("error: linking with `cc` failed", "error"),
        ("[ERROR] Failed to execute goal", "error"),
        ("2026-01-02 10:00:00,123 ERROR Could not connect", "error"),
        ("2026-01-02T10:00:00.123Z [warn] slow query", "warning"),
        ("[12:30:01] WARNING: deprecated", "warning"),
        ("main.c:12:3: error: expected ';'", "error"),
        ("main.c:12:3: warning: unused variable", "warning"),
        ("src/lib.rs:1: fatal error: no input", "error"),
        ("foo.c:3: note: declared here", "info"),
        ('{"level":"error","msg":"boom"}', "error"),
        ("ts=1 level=debug msg=hello", "debug"),
        ("npm ERR! missing script: build", "error"),
        ("npm WARN deprecated", "warning"),
        ("FATAL: the database system is starting up", "critical"),
        ("CRITICAL - disk full", "critical"),
        ("DEBUG    root:app.py:3 hello", "debug"),
        ("Traceback (most recent call last):", "error"),
        ("ValueError: bad", "error"),
        ("requests.exceptions.ConnectionError: refused", "error"),
        ("panic: runtime error: index out of range", "critical"),
        # what only looks like one
        ("compiling error_handler.c", "info"),
        ("tests/test_errors.py::test_error_is_raised PASSED", "info"),
        ("0 errors, 0 warnings", "info"),
        ("Building CXX object warnings.cpp.o", "info"),
        ("checking for error codes... yes", "info"),
        ("infographic", "info"),
        ("Notes are in the margin", "info"),
        ("", "info"),
    ],
)
def test_a_level_is_what_the_line_says_it_is(text: str, level: str) -> None:
    assert level_of(text) == level


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("[12/340] CXX main.o", Progress(12, 340, "")),
        ("[ 45%] Building C object", Progress(45, 100, "%")),
        ("tests/unit/test_x.py::test_y PASSED      [ 12%]", Progress(12, 100, "%")),
        ("Step 3/12 : RUN make", Progress(3, 12, "")),
        ("3/12 done", Progress(3, 12, "")),
        ("45% |####    |", Progress(45, 100, "%")),
        ("Compiling foo (2 / 9)", Progress(2, 9, "")),
    ],
)
def test_progress_is_seen_where_build_tools_put_it(text: str, progress: Progress) -> None:
    assert progress_of(text, overwritten=False) == progress


@pytest.mark.parametrize(
    "text",
    [
        "TOTAL      120      3     93%",
        "see /usr/lib/2/3",
        "2026/01/02 12:00:00 listening",
        "retried (5/3)",
        "[340%] impossible",
        "and/or",
        "load average 1/2 of it",
        "100 % wool",
    ][:-1],
)
def test_what_only_looks_like_progress_is_none(text: str) -> None:
    assert progress_of(text, overwritten=False) is None


def test_in_a_bar_a_count_or_a_percentage_counts_anywhere() -> None:
    assert progress_of("Receiving objects:  45% (123/273)", overwritten=True) == Progress(123, 273, "")
    assert progress_of("downloading  12.5% of 3 MB", overwritten=True) == Progress(12, 100, "%")
    assert progress_of("spinning |", overwritten=True) is None
