"""The role ``account`` under its engine: each attempt counts once, through repeats, aborts and restarts."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from connectors.llm.emitter import SOURCE
from pipelines.testing import AgentDriver
from schemas import topics
from tests.support.attempts import SECOND_US, attempt, random_attempt

COSTS = ("known_nanos", "estimated_nanos", "cost_unknown")


@pytest.fixture
def role(tmp_path):
    with AgentDriver("account", folder=tmp_path) as driver:
        yield driver


def tell(driver: AgentDriver, *attempts: dict[str, Any]) -> None:
    """Append attempts where a worker does: in the partition of their request, under the attempt's key."""
    for each in attempts:
        partition = topics.partition_of(f"{each['tenant']}/{each['stream_id']}".encode(), 4)
        key = f"{each['tenant']}/{each['stream_id']}/{each['attempt']}".encode()
        at_us = each["ended_us"] or each["started_us"]
        driver.append(each, topic=topics.LLM_ATTEMPTS, key=key, partition=partition, at_us=at_us)


def tasks_of(driver: AgentDriver) -> dict[str, dict[str, Any]]:
    return {task["task_id"]: task for task in driver.table(topics.LLM_TASKS).values()}


def test_a_task_of_three_streams_is_added_up_and_completed_by_its_root(role):
    now_us = role.now_us
    tell(role, attempt(1, "failed", at_us=now_us, stream_id="part", task_id="root"))
    tell(role, attempt(2, at_us=now_us, stream_id="part", task_id="root", why="fallback"))
    tell(role, attempt(1, at_us=now_us, stream_id="root"))
    told = {"provider": "acme", "model": "small", "cost_nanos": 1_000}
    found = {"provider": "vectors", "cost_nanos": 30}
    role.feed(
        role.event("open", stream="root"),
        role.event("open", stream="part", task_id="root"),
        role.event("usage", told, stream="root", source=SOURCE),
        role.event("usage", found, stream="part", upstream_id="retrieval:docs"),
        role.event("end", {"reason": "completed"}, stream="part"),
        topic=topics.OUTPUT,
    )
    assert tasks_of(role)["root"]["state"] == "open"
    role.feed(role.event("end", {"reason": "completed"}, stream="root"), topic=topics.OUTPUT)
    task = tasks_of(role)["root"]
    assert (task["state"], task["attempts"], task["failed_attempts"]) == ("completed", 3, 1)
    assert (task["known_nanos"], task["cost_unknown"]) == (2_030, 1)
    assert task["calls_by_upstream"] == {"model": 3, "retrieval": 1}
    windows = role.table(topics.LLM_WINDOWS).values()
    assert [(row["calls"], row["fallbacks"], row["known_nanos"]) for row in windows] == [(3, 1, 2_000)]
    assert role.dead_letters() == []


@pytest.mark.parametrize("seed", range(4))
def test_windows_and_tasks_hold_each_attempt_once_through_crashes_and_repeats(role, seed):
    rng = Random(seed)
    attempts = [random_attempt(rng, number, role.now_us, span_s=200) for number in range(60)]
    attempts.sort(key=lambda each: each["ended_us"])
    for number, each in enumerate(attempts):
        tell(role, {**each, "state": "started", "ended_us": 0}, *[each] * rng.randint(1, 2))
        if rng.random() < 0.15:
            role.abort_next_unit()
            role.run()
        if number in (20, 40):
            role.restart(lose_state=rng.random() < 0.5)
    tell(role, *rng.sample(attempts, 5))  # a worker that took over settles them once more
    role.run()
    windows = Counter[str]()
    for row in role.table(topics.LLM_WINDOWS).values():
        windows.update({name: row[name] for name in (*COSTS, "calls")})
    tasks = Counter[str]()
    for row in role.table(topics.LLM_TASKS).values():
        tasks.update({name: row[name] for name in COSTS})
        tasks["calls"] += row["attempts"]
        assert row["running"] == 0
    plain = Counter[str]()
    for each in attempts:
        if each["state"] != "refused":
            plain.update({"calls": 1, "known_nanos": 0, "estimated_nanos": 0})
            plain["cost_unknown"] += each["cost_source"] == "unknown"
            if each["cost_source"] != "unknown":
                plain[f"{each['cost_source']}_nanos"] += each["cost_nanos"]
    assert windows == plain
    assert tasks == plain


def test_a_call_that_nobody_settles_stays_visible_as_running(role):
    tell(role, attempt(1, "started", at_us=role.now_us))
    role.feed(
        role.event("open", stream="answer"),
        role.event("end", {"reason": "completed"}, stream="answer"),
        topic=topics.OUTPUT,
    )
    assert (tasks_of(role)["answer"]["state"], tasks_of(role)["answer"]["running"]) == ("completed", 1)


def test_what_is_no_attempt_is_put_aside_and_its_neighbours_are_counted(role):
    tell(role, attempt(1, at_us=role.now_us))
    role.append(b"nonsense", topic=topics.LLM_ATTEMPTS, key=b"k", partition=0)
    tell(role, attempt(2, at_us=role.now_us + SECOND_US))
    role.run()
    assert [(letter.cause, letter.agent) for letter in role.dead_letters()] == [("BadMagic", "llm_attempts")]
    assert tasks_of(role)["answer"]["attempts"] == 2
