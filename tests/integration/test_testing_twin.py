"""Kafka in memory is what it is taken for: the same scenario comes to the same on the real parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.testing import AgentDriver, Stack
from schemas.wire import schema_id_of
from tests.support import silent_agent as silent
from tests.support import twin_scenario as twin
from tests.support.silent_agent import START_US, closes_once
from tests.support.twin_scenario import scenario

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "agents" / "tests"

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def parts(kafka_options, registered_schemas):
    return Stack(kafka_options, registered_schemas)


def said_by(folder, stack=None):
    with AgentDriver("twin", twin.extension(), folder=folder, stack=stack) as driver:
        return scenario(driver)


def test_an_agent_does_the_same_in_memory_and_on_the_real_parts(parts, tmp_path):
    in_memory, on_parts = said_by(tmp_path / "memory"), said_by(tmp_path / "parts", parts)
    assert list(in_memory) == list(on_parts)
    for step, what in in_memory.items():
        assert on_parts[step] == what, step
    # And it is what it should be: two that are wrong alike would pass, too.
    each = on_parts["an event that fails is alone, its neighbours flow"][twin.EACH.name]
    assert [value for _, _, value, _ in each] == [b"1", b"2", b"3", b"4"]
    assert [letter[4:] for letter in on_parts["letters"]] == [
        ("ValueError", 3), ("ValueError", 3), ("EffectTooLarge", 3), ("UnknownSchemaId", 1),
        ("ValueError", 3), ("ValueError", 3), ("BadMagic", 1),
    ]  # fmt: skip
    assert on_parts["counts"] == {"counted": 8, "dead_letter": 7, "summed": 13, "windowed": 3, "late": 1}
    of_outputs = on_parts["headers"]
    assert of_outputs[twin.EACH.name] == of_outputs[twin.SUMS.name] == [twin.HEADERS]
    assert on_parts["headers of letters"] == [
        (twin.READINGS.name, twin.HEADERS), (twin.ROWS.name, twin.HEADERS),
    ]  # fmt: skip


def test_at_least_once_leaves_the_same_behind_in_memory_and_on_the_real_parts(parts, tmp_path):
    def said(folder, stack=None):
        agents = twin.extension()
        with AgentDriver("twin", agents, folder=folder, stack=stack, at_least_once=True) as driver:
            row = {"sensor": "b", "amount": 1, "unit": "kWh"}
            driver.abort_next_unit()
            driver.feed(row, topic=twin.READINGS, key=b"b")
            return driver.values(twin.EACH), driver.state("counter").items(), driver.counts

    in_memory = said(tmp_path / "memory")
    assert said(tmp_path / "parts", parts) == in_memory
    assert in_memory[0] == [b"1", b"1"], "what was appended stands"


def test_levers_and_a_rebalance_do_the_same_in_memory_and_on_the_real_parts(parts, tmp_path):
    def said(folder, stack=None):
        with AgentDriver("twin", twin.extension(), folder=folder, stack=stack) as driver:

            def outputs():
                return [(out.partition, out.value) for out in driver.read(twin.EACH)]

            def fed():
                row = {"sensor": "x", "amount": 1, "unit": "kWh"}
                for partition in (0, 1):
                    driver.append(row, topic=twin.READINGS, key=b"%d" % partition, partition=partition)
                driver.run()
                return outputs()

            driver.pause(0)
            steps = [fed()]
            driver.resume(0)
            steps.append(outputs())
            driver.quarantine(b"1", reason="a loop")
            steps.append(fed())
            driver.quarantine(b"1", undo=True)
            ((taken, other),) = {
                (number, 1 - number) for topic, number in driver.take_away() if topic == twin.READINGS.name
            }
            stayed = fed()
            assert [partition for partition, _ in stayed] == [other]
            driver.give_back(lose_state=True)
            came = outputs()
            assert [partition for partition, _ in came] == [taken], "it was fed while it was away"
            steps.append(sorted(stayed + came))
            letters = [(letter.cause, letter.key) for letter in driver.dead_letters()]
            return steps, letters, driver.state("counter").items()

    in_memory = said(tmp_path / "memory")
    assert said(tmp_path / "parts", parts) == in_memory
    steps, letters, _ = in_memory
    assert steps == [[(1, b"1")], [(0, b"1")], [(0, b"2")], [(0, b"3"), (1, b"2")]]
    assert letters == [("quarantined", b"1")]


def test_a_window_closes_by_silence_behind_transactions_that_left_their_markers(parts, tmp_path):
    """A topic that is written in transactions ends with a marker: nothing that anybody could wait for."""
    with AgentDriver("silent", silent.extension(), folder=tmp_path, stack=parts, start_us=START_US) as driver:
        closes_once(driver, "state lost")


def test_rows_of_several_schemas_in_one_batch_are_resolved_to_the_readers(parts, tmp_path):
    """With ids that a real registry gave: an older schema with an int and no unit, ours, and a newer one."""
    with AgentDriver("twin", twin.extension(), folder=tmp_path, stack=parts) as driver:
        for number in range(30):
            row = {"sensor": "s", "amount": number + 1, "unit": "MWh", "note": "n"}
            text, names = (
                (twin.WITHOUT_UNIT, ("sensor", "amount")),
                (None, ("sensor", "amount", "unit")),
                (twin.WITH_NOTE, ("sensor", "amount", "unit", "note")),
            )[number % 3]
            given = {name: row[name] for name in names}
            driver.append(given, topic=twin.ROWS, key=b"s", schema=text)
        driver.run()
        assert len({schema_id_of(row.raw) for row in driver.read(twin.ROWS)}) == 3
        total, expected = 0, []
        for number in range(30):
            total += number + 1
            expected.append(b"%d %s" % (total, b"kWh" if number % 3 == 0 else b"MWh"))
        assert driver.values(twin.SUMS) == expected
        assert driver.dead_letters() == []


def test_the_flag_runs_the_tests_of_a_users_agents_on_the_real_parts(stack, kafka_options):
    """As docs/testing.md says: the very tests that run in memory, and nothing of them changed."""
    environment = {
        **os.environ,
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": stack.kafka,
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka_options.topic_prefix,
        "SLUICEGATE_REGISTRY__URL": stack.registry_url,
    }
    some = ["-k", "(late or True) and not sensors and not visits"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--stack", *some, str(EXAMPLE)],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
