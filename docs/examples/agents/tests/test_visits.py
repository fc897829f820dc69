"""visits under its engine: sessions that grow together and close by time alone, JSON that does not parse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

AGENTS = Path(__file__).parents[1]


@pytest.fixture
def agent(start_agent):
    return start_agent("visits", AGENTS)


def click(agent, *seconds_ago, visitor="ann"):
    for seconds in seconds_ago:
        row = {"visitor": visitor, "time": agent.now_us - seconds * 1_000_000}
        agent.append(json.dumps(row).encode(), key=visitor.encode())
    agent.run()


def visits(agent):
    return [json.loads(value) for value in agent.values("examples.visits.v1")]


def test_a_click_between_two_visits_makes_one_of_them_that_is_said_once(agent):
    end_us = agent.now_us
    click(agent, 1_803, 0, 900)  # more than half an hour apart, and one between them that came last
    agent.advance(1_800)
    assert visits(agent) == [], "it waits for the disorder and the grace, seven seconds"
    agent.advance(10)
    start_us = end_us - 1_803_000_000
    assert visits(agent) == [{"visitor": "ann", "start_us": start_us, "end_us": end_us, "clicks": 3}]
    agent.advance(7_200)
    assert visits(agent) == []


def test_what_is_not_json_is_a_dead_letter_and_its_neighbours_are_counted(agent):
    agent.append(b"{", key=b"ann")
    agent.append(b'{"visitor": "ann"}', key=b"ann")
    click(agent, 0)
    assert [letter.cause for letter in agent.dead_letters()] == ["JSONDecodeError", "KeyError"]
    assert agent.counts == {"counted": 1, "dead_letter": 2}


def test_a_click_of_a_visit_that_is_over_is_late(agent):
    click(agent, 0)
    click(agent, 3_600)
    assert agent.counts == {"counted": 1, "late": 1}
    assert [late["agent"] for late in agent.late_events()] == ["visits"]
