"""What `sluicegate edge check` makes of an answer; real proxies are in tests/e2e/test_nginx.py."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from edge.selftest import FRAMES, PERIOD_MS
from ops.cli import run
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


@pytest.mark.parametrize(("frames", "code"), [(FRAMES, "idle_cut_off"), (7, "cut_short"), (0, "buffered")])
def test_where_a_stream_ends_says_what_ended_it(frames, code):
    cut = seen(IN_TIME[:frames], ended_ms=IN_TIME[FRAMES - 1] + 5_000)
    (finding,) = judge(cut, 16_000)
    assert finding.code == code
    if code == "idle_cut_off":
        assert "after 5.0 s; asked for was a silence of 16.0 s" in finding.problem


def test_a_page_of_something_else_is_no_stream_that_is_held_back():
    (finding,) = judge(Seen(200, {"content-type": "text/html"}), 0)
    assert (finding.code, "text/html" in finding.problem) == ("no_stream", True)


@pytest.mark.parametrize("status", [204, 301, 401, 403, 404, 421, 500, 502, 503, 504])
def test_a_status_that_is_not_the_edges_says_what_to_do(status):
    (finding,) = judge(Seen(status, {}), 0)
    assert (finding.code, str(status) in finding.problem, bool(finding.remedy)) == ("no_stream", True, True)


@pytest.mark.parametrize(
    "url",
    [
        "", "nonsense", "localhost:8600", "ftp://streams.example", "//streams.example", "http://", "https:///x",
        "http://127.0.0.1:99999", "http://127.0.0.1:0", "http://[::1", "http://a\x01b", "http://xn--\u00e4",
    ],
)  # fmt: skip
def test_what_is_no_address_is_wrong_usage_and_is_told_what_one_looks_like(url, capfd, monkeypatch):
    assert run(("edge", "check", url)) == 2
    assert "https://streams.example" in capfd.readouterr().err
    if url:  # that one is as good as not set
        monkeypatch.setenv("SLUICEGATE_EDGE__URL", url)
        assert run(("connections",)) == 2
        assert "SLUICEGATE_EDGE__URL" in capfd.readouterr().err


def test_an_address_where_nobody_is_is_told_without_its_password(capfd):
    with socket.socket() as taken:  # bound, and not listened to
        taken.bind(("127.0.0.1", 0))
        assert run(("edge", "check", f"http://me:s3cret@127.0.0.1:{taken.getsockname()[1]}")) == 3
    told = capfd.readouterr().err
    assert "no answer from http://me:***@127.0.0.1" in told
    assert "s3cret" not in told
