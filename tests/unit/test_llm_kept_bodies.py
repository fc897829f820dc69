"""What a worker keeps of an answer that is no events plays again as what came."""

from __future__ import annotations

import pytest

from connectors.llm.attempt import ERROR_BODY_MAX
from connectors.llm.deltas import Failed
from connectors.llm.loopback.answers import SHAPES
from connectors.llm.loopback.play import HTML, play_recording
from connectors.llm.loopback.wanted import parse_wanted
from connectors.llm.normalised import normalised
from connectors.llm.providers import PROVIDERS
from connectors.llm.recording import SUFFIX, read_recording, write_recording
from tests.unit.support_llm_operation import World, head, refusal, said

KEEP = {"keep": {"raw": "full"}, "attempts_max": 1}
ANSWERS = {
    "html": head(content_type="text/html", set_cookie="a=b") + HTML,
    "page": head("502 Bad Gateway", content_type="text/html") + HTML,
    "refusal": refusal("529 Overloaded", "too busy", retry_after="7", content_type="application/json"),
    "nothing": head("500 Oh"),
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("answer", sorted(ANSWERS))
def test_an_answer_that_is_no_events_plays_again_as_what_came(shape, answer, tmp_path):
    world = World(ANSWERS[answer], shape=shape, **KEEP).run()
    (row,) = [row for row in world.rows if row.state == "failed"]
    write_recording(tmp_path / f"a{SUFFIX}", world.kept())
    recording = read_recording(tmp_path / f"a{SUFFIX}")
    (failed,) = [delta for _, delta in normalised(recording, PROVIDERS[shape]) if isinstance(delta, Failed)]
    assert (failed.error_class, failed.retry_after_ms) == (row.error_class, row.retry_after_ms)
    if answer == "html" and PROVIDERS[shape].framing == "ndjson":
        assert [each.data for each in recording.events] == [HTML.decode().strip()], "a line of it is an event"
        return
    play = play_recording(recording, parse_wanted("a", ""), SHAPES[shape])
    came, _, body = ANSWERS[answer].partition(b"\r\n\r\n")
    assert play.status == int(came.split()[1])
    assert play.body == body
    assert f"content-type: {play.headers['content-type']}".encode() in came or answer == "nothing"
    assert play.headers.get("retry-after", "") == ("7" if answer == "refusal" else "")
    assert "set-cookie" not in play.headers


def test_a_body_is_kept_as_long_as_it_is_read_and_shows_that_it_was_cut():
    world = World(head("500 Oh") + b"x" * 200_000, **KEEP).run()
    (event,) = world.kept().events
    assert event.body == "x" * ERROR_BODY_MAX + "…"


def test_an_answer_of_events_has_them_and_no_body():
    world = World(said("Once"), **KEEP).run()
    recording = world.kept()
    assert (recording.status, recording.is_body, recording.headers) == (200, False, {})
    assert recording.events[-1].data == "[DONE]"


def test_of_a_redacted_route_no_word_of_a_body_is_kept():
    world = World(ANSWERS["html"], keep={"raw": "redacted"}, attempts_max=1).run()
    (record,) = world.raw
    assert record["status"] == 200
    assert set(record["chunks"][0]) == {"·"}
