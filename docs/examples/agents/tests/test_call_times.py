"""call_times under its engine: `pytest` runs it on Kafka in memory, `pytest --stack` on the real parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.topics import OUTPUT
from state.windows import TimeWindows, WindowOptions

AGENTS = Path(__file__).parents[1]
OPEN = TimeWindows(b"w", WindowOptions(window_ms=10_000))  # as the agent has them


@pytest.fixture
def agent(start_agent):
    return start_agent("call_times", AGENTS, start_us=1_700_000_000_000_000)


def call(agent, model="small", latency_ms=10, **envelope):
    usage = {"provider": "acme", "model": model, "latency_ms": latency_ms}
    return agent.event("usage", usage, **envelope)


def test_a_window_says_its_calls_once_when_it_closes(agent):
    start_us = agent.now_us
    agent.feed(
        agent.event("open"),
        call(agent),
        call(agent, latency_ms=30),
        call(agent, "large"),
        topic=OUTPUT,
    )
    assert agent.read("examples.call-windows.v1") == [], "it is open"
    assert OPEN.get(agent.state(), start_us, b"small") is not None

    agent.advance(17)  # ten seconds, five of grace, one of disorder
    agent.feed(call(agent), call(agent, "large"), topic=OUTPUT)

    closed = agent.read("examples.call-windows.v1")
    assert {window.key: window.value for window in closed} == {
        b"small": {"model": "small", "start_us": start_us, "calls": 2, "latency_ms": 40},
        b"large": {"model": "large", "start_us": start_us, "calls": 1, "latency_ms": 10},
    }
    assert len(closed) == 2
    assert agent.counts == {"ignored": 1, "called": 5, "counted": 5}


def test_a_call_that_comes_after_its_window_is_late_and_routed(agent):
    agent.feed(call(agent), topic=OUTPUT)
    agent.advance(17)
    late_us = agent.now_us - 17_000_000
    agent.feed(call(agent), call(agent, latency_ms=99, time=late_us), topic=OUTPUT)
    (late,) = agent.late_events()
    assert (late["agent"], late["key"], late["event_time_us"]) == ("call_windows", b"small", late_us)
    assert late["watermark_us"] == agent.now_us - 1_000_000, "it was sixteen seconds behind"
    assert agent.counts["late"] == 1


def test_a_call_without_a_model_is_put_aside_and_its_neighbours_are_counted(agent):
    agent.feed(call(agent), call(agent, model=""), call(agent), topic=OUTPUT)
    (letter,) = agent.dead_letters()
    assert (letter.cause, letter.detail, letter.agent) == ("ValueError", "a call of no model", "calls")
    assert agent.counts == {"called": 2, "counted": 2, "dead_letter": 1}


def test_a_unit_that_the_broker_refuses_leaves_nothing_behind(agent):
    agent.abort_next_unit()
    agent.feed(call(agent), call(agent), topic=OUTPUT)
    assert len(agent.read("examples.calls.v1")) == 2
    assert agent.counts == {"called": 2, "counted": 2}


@pytest.mark.parametrize("lose_state", [False, True])
def test_open_windows_outlive_a_restart(agent, lose_state):
    agent.feed(call(agent), topic=OUTPUT)
    agent.restart(lose_state=lose_state)
    agent.feed(call(agent), topic=OUTPUT)
    agent.advance(17)
    agent.feed(call(agent), topic=OUTPUT)
    assert [window["calls"] for window in agent.values("examples.call-windows.v1")] == [2]
