"""sensors and sensor_means under their engine: duplicates, what expires by time alone, restarts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from state.dedupe import Seen, SeenOptions

AGENTS = Path(__file__).parents[1]


@pytest.fixture
def agent(start_agent):
    return start_agent("sensors", AGENTS)


def reading(agent, number, sensor="cellar", celsius=12.5):
    return {"id": f"r-{number}", "sensor": sensor, "time": agent.now_us, "celsius": celsius}


def feed(agent, *readings):
    for each in readings:
        agent.append(each, key=each["sensor"].encode())
    agent.run()


def silent(agent):
    return [json.loads(value) for value in agent.values("examples.silent-sensors.v1")]


@pytest.mark.parametrize("lose_state", [False, True])
def test_a_reading_that_is_sent_again_counts_once_over_a_restart_too(agent, lose_state):
    feed(agent, reading(agent, 1), reading(agent, 1), reading(agent, 2))
    agent.restart(lose_state=lose_state)
    feed(agent, reading(agent, 2), reading(agent, 3))
    assert agent.counts == {"counted": 3, "duplicate": 2}
    seen = Seen(b"d", SeenOptions(ttl_ms=86_400_000))  # as the agent has it
    assert seen.knows(agent.state(), b"r-3", agent.now_us)


def test_a_sensor_that_says_nothing_is_told_once_though_nothing_comes_at_all(agent):
    feed(agent, reading(agent, 1), reading(agent, 2, "roof", 30.0))
    agent.advance(400)
    feed(agent, reading(agent, 3, "roof", 31.0))
    agent.advance(300)
    assert silent(agent) == [{"sensor": "cellar", "celsius": 12.5}], "the roof has 100 seconds more"
    agent.advance(400)
    assert silent(agent) == [{"sensor": "roof", "celsius": 31.0}]
    agent.advance(4_000)
    assert silent(agent) == []


def test_a_refused_commit_tells_nothing_twice(agent):
    feed(agent, reading(agent, 1))
    agent.abort_next_unit()
    agent.advance(700)
    assert silent(agent) == [{"sensor": "cellar", "celsius": 12.5}]


@pytest.mark.parametrize("rows_max", [3, 2_000])
def test_means_by_column_are_the_same_however_readings_are_cut_into_batches(start_agent, rows_max):
    agent = start_agent("sensor_means", AGENTS, chunk_events_max=rows_max)
    feed(agent, *(reading(agent, number % 5, celsius=10.0 + number % 5) for number in range(10)))
    agent.restart(lose_state=True)
    feed(agent, reading(agent, 4), reading(agent, 5, celsius=18.0), reading(agent, 6, "roof", 30.0))
    assert agent.table("examples.sensor-means.v1") == {
        b"cellar": b'{"readings": 6, "celsius": 13.0}',
        b"roof": b'{"readings": 1, "celsius": 30.0}',
    }
    assert agent.counts == {"counted": 7, "duplicate": 6}
    agent.advance(500)
    feed(agent, reading(agent, 7, celsius=20.0))
    assert agent.table("examples.sensor-means.v1")[b"cellar"] == b'{"readings": 7, "celsius": 14.0}'
    agent.advance(700)
    feed(agent, reading(agent, 8, celsius=5.0))
    assert agent.table("examples.sensor-means.v1")[b"cellar"] == b'{"readings": 1, "celsius": 5.0}'
