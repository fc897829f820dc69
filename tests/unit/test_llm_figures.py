"""Money, times and costs as a person reads them; an attempt's times."""

from __future__ import annotations

import orjson
import pytest

from connectors.llm.attempts import as_ended
from connectors.llm.ledger import Attempt
from ops.commands.llm_attempts import _lines, _times
from ops.llm_figures import cost, duration, figures_of, money, per_completed, times_of, tokens


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [
        (0, "$0.00"), (500, "$0.0000005"), (20_000_000, "$0.02"), (1_234_500_000, "$1.2345"),
        (2_000_000_000, "$2.00"), (1_234_567_890_000, "$1,234.57"), (0.4, "$0.00"),
    ],
)  # fmt: skip
def test_money_has_as_many_places_as_say_something(nanos, shown):
    assert money(nanos) == shown


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ((5_000_000, 0, 0), "$0.005"),
        ((0, 0, 3), "$0.00 + 3 of unknown cost"),
        ((5_000_000, 7_000_000, 0.5), "$0.005 + about $0.007 + 0.5 of unknown cost"),
    ],
)
def test_what_is_not_known_is_never_shown_as_nothing(parts, shown):
    assert cost(*parts) == shown


@pytest.mark.parametrize(
    ("parts", "shown"), [((1_234, 0, 0), "1,234"), ((1_234, 0, 1), "~1,234"), ((0, 2, 1), "≥0")]
)
def test_a_sum_of_tokens_says_what_is_not_in_it(parts, shown):
    assert tokens(*parts) == shown


@pytest.mark.parametrize(
    ("ms", "shown"), [(None, "-"), (0, "0 ms"), (999, "999 ms"), (1_500, "1.5 s"), (90_000, "1.5 min")]
)
def test_a_time_is_told_in_the_unit_that_it_has(ms, shown):
    assert duration(ms) == shown


def test_a_completed_task_bears_what_the_failed_ones_cost():
    tasks = {"completed": 2, "known_nanos": 10, "estimated_nanos": 4, "cost_unknown": 1}
    assert per_completed(tasks) == {"known_nanos": 5.0, "estimated_nanos": 2.0, "cost_unknown": 0.5}
    assert per_completed(tasks | {"completed": 0}) is None


def test_an_attempts_times_count_from_its_call_and_are_none_for_what_did_not_happen():
    row = Attempt(tenant="t", stream_id="s", kind="llm", attempt=1, epoch=0, started_us=2_000_000)
    row.connected_us, row.ended_us = 2_010_000, 2_500_000
    assert times_of(row, 1_900_000) == {
        "queue_ms": 100.0, "connect_ms": 10.0, "first_content_ms": None, "total_ms": 500.0,
    }  # fmt: skip
    assert times_of(row, 0)["queue_ms"] is None


def test_attempts_are_told_as_they_ended_and_the_end_without_a_call_comes_last():
    common = {"tenant": "t", "stream_id": "s", "kind": "llm", "epoch": 0, "requested_us": 1_000_000}
    end = Attempt(**common, attempt=0, state="refused", started_us=20_000_000, ended_us=20_000_000)
    end.route, end.model, end.error_class, end.error_raw = "default", "m", "crashed", "this route ends there"
    first = Attempt(**common, attempt=1, state="abandoned", provider="here", model="m")
    first.started_us, first.ended_us = 1_200_000, 20_000_000
    under_way = Attempt(**common, attempt=2, provider="here", model="m", started_us=20_100_000)
    rows = as_ended([end, under_way, first])
    assert [row.attempt for row in rows] == [1, 0, 2]
    told = [_lines(row, times) for row, times in zip(rows, _times(rows), strict=True)]
    assert told[0][0] == "1  abandoned  first  here/m"
    assert "queue 200 ms, connect -" in told[0][1]
    assert told[1][:3] == ["ended  m", "   route    default", "   time     queue 0 ms"]
    assert "queue 100 ms" in told[2][1]


def test_tokens_a_second_and_quantiles_follow_from_the_sums():
    row = {
        "first_content_ms": {"100": 1},
        "first_content_ms_max": 80,
        "stream_ms_sum": 2_000,
        "stream_tokens": 90,
    }
    told = figures_of(row)
    assert (told["tokens_per_s"], told["first_content_ms_p95"]) == (45.0, pytest.approx(78.5))
    assert figures_of(row | {"stream_ms_sum": 0})["tokens_per_s"] is None


def test_what_was_sent_and_what_came_is_shown_of_an_attempt_where_it_is_kept():
    sent = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "And?"}, {"type": "media", "mime": "image/png"},
            ]},
        ],
        "tools": [{"name": "find"}], "schema": None, "params": {"max_output_tokens": 9},
    }  # fmt: skip
    came = {
        "text": "It \x1b[2J", "reasoning": "hm",
        "tool_calls": [{"id": "c-1", "name": "find", "arguments": '{"a":1}'}],
        "media": [
            {"mime": "audio/wav", "index": 0, "bytes": 48_000},
            {"mime": "image/*", "index": 1, "bytes": 0, "reference": "https://x/y"},
        ],
        "cut": True,
    }  # fmt: skip
    row = Attempt(
        tenant="t", stream_id="s", kind="llm", attempt=1, epoch=0, state="completed", input_tokens=1_000,
        output_tokens=7, usage_source="provider", usage_details={"output_audio": 5, "input_image": 258},
        input_json=orjson.dumps(sent).decode(), output_json=orjson.dumps(came).decode(),
    )  # fmt: skip
    told = _lines(row, times_of(row, 0))
    tokens = "in 1,000, cached unknown, out 7, reasoning unknown, input image 258, output audio 5"
    for line in (
        f"   tokens   {tokens} (provider)",
        "   sent     2 messages, tool find, max_output_tokens 9",
        "   sent     user: And? [image/png]",
        "   came     reasoning: hm",
        '   came     tool find (c-1): {"a":1}',
        "   came     media 0: audio/wav, 48,000 bytes",
        "   came     media 1: image/*, https://x/y",
        "   came     cut: what is longer is not kept",
    ):
        assert line in told, f"{line!r} is not in {told}"
    assert "\x1b" not in "".join(told)
    plain = Attempt(tenant="t", stream_id="s", kind="llm", attempt=1, epoch=0)
    assert not [line for line in _lines(plain, times_of(plain, 0)) if "sent" in line or "came" in line]


def test_an_attempt_of_a_name_that_was_opened_again_waited_since_it_was_asked_for_and_not_since_the_end():
    base = {"tenant": "t", "stream_id": "s", "kind": "llm", "epoch": 0}
    first = {"requested_us": 1_000_000, "started_us": 1_010_000, "ended_us": 2_000_000}
    again = {"requested_us": 90_000_000, "started_us": 90_020_000, "ended_us": 91_000_000}
    rows = [
        Attempt(attempt=1, **base, **first),
        Attempt(attempt=2, **base, **first | {"started_us": 2_005_000, "ended_us": 3_000_000}),
        Attempt(attempt=3, **base, **again),
    ]
    rows[1].end_reason = "completed"
    assert [times["queue_ms"] for times in _times(rows)] == [10, 5, 20]
