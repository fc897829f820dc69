"""What a person at a terminal sees of a stream, and what a stream cannot do to the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from connectors.kafka.deadletters import DeadLetter
from ops import console as consoles
from ops.commands.dlq import _facts
from ops.naming import stream_named
from ops.redaction import escaped, hex_dump
from ops.rendering import Renderer
from schemas.redaction import redacted


def rendered(*events: dict[str, object], terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None, soft_wrap=True, width=80)
    renderer = Renderer(console)
    for event in events:
        renderer.show(str(event["type"]), event)
    renderer.end_line()
    return out.getvalue()


def log(line: str, **more: object) -> dict[str, object]:
    return {"type": "log", "line": line, "level": "info", **more}


def test_in_a_pipe_a_line_is_what_the_command_printed() -> None:
    text = "tab\there [bold]not markup[/bold] \x1b[31mred\x1b[0m " + "x" * 300
    assert rendered(log(text)) == text + "\n"


def test_on_a_terminal_a_line_cannot_steer_it() -> None:
    shown = rendered(log("a\x1b]0;title\x07b\x1b[2Jc"), terminal=True)
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_titles_and_messages_are_cleaned_everywhere() -> None:
    shown = rendered(
        {"type": "open", "title": "x\x1b[2J\x07"}, {"type": "message", "from": "a\x1bb", "text": "t"}
    )
    assert "\x1b" not in shown


def test_tokens_flow_into_one_line_that_the_next_event_ends() -> None:
    words = [{"type": "token", "text": text} for text in ("Hel", "lo ", "you")]
    assert rendered(*words, {"type": "end", "reason": "completed"}) == "Hello you\nend completed\n"


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("upstream_error", "end upstream_error: no such route"), ("completed", "end completed")],
)
def test_an_end_that_is_a_failure_says_why(reason: str, shown: str) -> None:
    end = {"type": "end", "reason": reason, "message": "no such route"}
    assert rendered(end) == f"{shown}\n"


def test_parts_of_a_long_line_are_joined() -> None:
    assert rendered(log("abc", partial=True), log("def"), log("g")) == "abcdef\ng\n"


def test_progress_that_was_read_off_the_line_above_is_not_said_twice() -> None:
    progress = {"type": "progress", "done": 1.0, "total": 3.0, "unit": "", "message": "[1/3] a"}
    assert rendered(log("[1/3] a"), progress) == "[1/3] a\n"
    assert rendered(log("[1/3] a"), progress, progress | {"done": 2}) == "[1/3] a\nprogress 2/3  [1/3] a\n"
    assert rendered(progress) == "progress 1/3  [1/3] a\n"
    assert rendered({"type": "progress", "done": 45, "total": 100, "unit": "%"}) == "progress 45%\n"


def test_progress_without_a_message_is_shown_whatever_line_was_before_it() -> None:
    progress = {"type": "progress", "done": 3.0, "total": 9.0, "unit": "", "message": ""}
    assert rendered({"type": "open"}, progress) == "open\nprogress 3/9\n"
    assert rendered(log(" "), progress) == " \nprogress 3/9\n"


def test_a_gap_is_said_out_loud_and_a_type_that_nobody_knows_is_shown_whole() -> None:
    gap = {"type": "gap", "from_seq": 3, "to_seq": 5, "count": 3, "reason": "retention"}
    assert rendered(gap) == "gap: 3 events are missing (seq 3 to 5): retention\n"
    assert rendered({"type": "mine", "seq": 1, "a": {"b": [1]}}) == 'mine {"a":{"b":[1]}}\n'


def test_what_looks_like_a_secret_is_masked() -> None:
    for text in (
        "password=hunter22 next",
        '{"api_key": "abcdef123"}',
        "Authorization: Bearer abc.def",
        "postgresql://me:s3cret@host/db",
        "key sk-abcdefghijklmnopqrstuv end",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    ):
        shown = redacted(text)
        assert "***" in shown, text
        for secret in ("hunter22", "abcdef123", "abc.def", "s3cret", "sk-abc", "eyJ"):
            assert secret not in shown, text
    for plain in ("a plain line with tokens: 3", "words?tokens=150&rate=10", "max_tokens=4096"):
        assert redacted(plain) == plain


def test_a_cost_that_is_estimated_is_said_to_be() -> None:
    usage: dict[str, object] = {"type": "usage", "provider": "p", "model": "m", "cost_nanos": 9_000}
    assert rendered(usage).endswith("cost 0.000009\n")
    assert rendered(usage | {"provenance": "estimated"}).endswith("cost 0.000009 (estimated)\n")
    assert rendered(usage | {"cost_nanos": None}).endswith("cost unknown\n")
    counts = {"input_tokens": 0, "output_tokens": 0}
    assert ": 0 tokens in, 0 out, " in rendered(usage | counts)
    unknown = usage | counts | {"provenance": "unknown"}
    assert ": unknown tokens in, unknown out, cost unknown" in rendered(unknown)
    assert ": 7 tokens in, unknown out, " in rendered(unknown | {"input_tokens": 7})


def test_a_stream_is_named_with_its_tenant_or_without() -> None:
    assert stream_named("acme/a") == ("acme", "a")
    assert stream_named("a") == ("default", "a")
    assert stream_named("a", "acme") == ("acme", "a")


def test_bytes_are_shown_so_that_nothing_of_them_acts() -> None:
    assert escaped(b"a\x1b[2J\xff\n\x00", 100) == "a\\x1b[2J\\xff\\n\\x00"
    assert escaped(b"x" * 20, 10) == "x" * 10 + "…"
    assert hex_dump(b"0123456789abcdefg\x00").splitlines()[1] == f"00000010  67 00{'':<19} {'':<23}  |g.|"


@pytest.mark.parametrize("name", ["out", "err"])
def test_no_data_is_markup_whether_it_is_a_line_or_in_a_table(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "[/red] [bold]b[/bold] [link=x] :warning: \\[y]"
    table = Table(box=None, pad_edge=False)
    table.add_column("column [i]")
    table.add_row(given)
    console = getattr(consoles, name)()
    console.print(given)
    console.print(table)
    shown = getattr(capsys.readouterr(), name).splitlines()
    assert [line.rstrip() for line in shown] == [given, "column [i]", given]


def test_a_dead_letter_is_shown_with_where_in_the_agents_code_its_error_was_raised() -> None:
    letter = DeadLetter(
        0, 7, "in.v1", 1, 5, b"k", b"v", 1, "ValueError", "why", "mine", "1", 3,
        cut=False, time_us=0, raised_at="mine.py:7 in handle",
    )  # fmt: skip
    assert _facts(letter)["raised_at"] == "mine.py:7 in handle"
