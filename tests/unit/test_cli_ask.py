"""What who asks a model is told while no answer comes."""

from __future__ import annotations

import asyncio
import json

import pytest

from ops import console
from ops.commands import tail
from ops.subscription import StreamEvent

SILENT = "nobody has taken it"


@pytest.fixture(autouse=True)
def _fresh_consoles(monkeypatch):
    monkeypatch.setattr(tail, "SILENT_S", 0.05)
    console.err.cache_clear()
    yield
    console.err.cache_clear()


class Edge:
    """Sends events, each after a pause."""

    def __init__(self, *events):
        self._events = events

    async def events(self, stream, cursor):
        for pause_s, kind, fields in self._events:
            await asyncio.sleep(pause_s)
            yield StreamEvent("c", {"type": kind, **fields})


def followed(*events, if_silent=SILENT):
    return asyncio.run(tail.follow(Edge(*events), "s", as_json=True, if_silent=if_silent))


def test_who_asks_is_told_on_standard_error_that_no_answer_comes(capfdbinary):
    code = followed((0, "open", {}), (0.3, "end", {"reason": "timed_out"}))
    out, err = capfdbinary.readouterr()
    assert (code, err.decode().count(SILENT)) == (1, 1)
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["open", "end"]


@pytest.mark.parametrize(
    "events",
    [
        ((0, "open", {}), (0, "token", {"text": "a"}), (0.3, "end", {"reason": "completed"})),
        ((0, "open", {}), (0, "end", {"reason": "completed"})),
    ],
    ids=["slow", "quick"],
)
def test_an_answer_that_has_begun_is_waited_for_in_silence(capfd, events):
    assert followed(*events) == 0
    assert SILENT not in capfd.readouterr().err


def test_a_stream_that_is_only_shown_may_be_silent(capfd):
    assert followed((0, "open", {}), (0.2, "end", {"reason": "completed"}), if_silent="") == 0
    assert capfd.readouterr().err == ""
