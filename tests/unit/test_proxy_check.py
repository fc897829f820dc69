"""What `sluicegate edge check` makes of an answer; real proxies are in tests/e2e/test_nginx.py."""

from __future__ import annotations

from typing import Any

import pytest

from edge.selftest import FRAMES, PERIOD_MS
from ops.proxy_check import Seen, held_ms, judge

FINE = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store, no-transform",
}


def seen(came_ms: list[float], **more: Any) -> Seen:
    frames = [
        {"number": n, "at_ms": n * PERIOD_MS, "http_version": "1.1", "last_event_id": "selftest"}
        for n in range(len(came_ms))
    ]
    whole = len(frames) == FRAMES + 1
    return Seen(**({"status": 200, "headers": FINE, "whole": whole} | more), frames=frames, came_ms=came_ms)


def codes(one: Seen, silent_ms: int = 0) -> list[str]:
    return [finding.code for finding in judge(one, silent_ms)]


IN_TIME = [n * PERIOD_MS + 3.0 for n in range(FRAMES + 1)]


def test_frames_that_come_as_they_are_written_are_fine_however_far_the_edge_is():
    assert codes(seen(IN_TIME)) == []
    assert codes(seen([at + 5_000 for at in IN_TIME])) == []


def test_a_machine_that_stumbles_is_no_buffer_and_a_buffer_of_a_few_frames_is_one():
    stumbles = [max(at, 700.0) if at < 700 else at for at in IN_TIME]
    assert codes(seen(stumbles)) == []
    assert held_ms(seen(stumbles)) == 697
    by_fours = [(n // 4 + 1) * 4 * PERIOD_MS for n in range(FRAMES + 1)]
    assert codes(seen(by_fours)) == ["buffered"]
    assert codes(seen([2_000.0] * (FRAMES + 1))) == ["buffered"]


@pytest.mark.parametrize(("frames", "code"), [(FRAMES, "idle_cut_off"), (7, "cut_short"), (0, "no_stream")])
def test_where_a_stream_ends_says_what_ended_it(frames, code):
    cut = seen(IN_TIME[:frames], ended_ms=IN_TIME[FRAMES - 1] + 5_000)
    (finding,) = judge(cut, 16_000)
    assert finding.code == code
    if code == "idle_cut_off":
        assert "after 5.0 s; asked for was a silence of 16.0 s" in finding.problem


@pytest.mark.parametrize("status", [204, 301, 401, 403, 404, 421, 500, 502, 503, 504])
def test_a_status_that_is_not_the_edges_says_what_to_do(status):
    (finding,) = judge(Seen(status, {}), 0)
    assert (finding.code, str(status) in finding.problem, bool(finding.remedy)) == ("no_stream", True, True)
