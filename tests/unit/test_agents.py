"""An agent whose function ends, or fails with no event in hand, is told: its topic would have no reader."""

from __future__ import annotations

import asyncio

import pytest

from connectors.kafka.options import KafkaOptions
from pipelines import agents as module
from pipelines.blueprint import blueprint
from pipelines.errors import AgentEnded, AgentRefused
from pipelines.extension import Extension
from pipelines.testing import AgentDriver
from schemas.errors import SluicegateError
from tests.support.twin_scenario import EACH, READINGS, ROWS, SCHEMA, SUBJECT

pytestmark = pytest.mark.timeout(60)
ROW = {"sensor": "a", "amount": 1, "unit": "kWh"}


class Away(SluicegateError):
    """A service is away."""

    transient = True


def role_of(fun):
    def register(app, tools, _options):
        app.agent(app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT)))(fun)

    return Extension({"one": [register]}, (READINGS, EACH), {SUBJECT: SCHEMA})


def handle(scope):
    scope.emit(EACH, b"k", b"one", partition=scope.partition)
    scope.count("counted")


async def breaks(stream):
    async for _ in stream:
        handle(stream.scope)
        break


async def returns_between_batches(stream):
    async for batch in stream.batches():
        handle(batch.scope)
        return


async def returns_at_once(_stream):
    return


async def yields_and_ends(stream):
    async for row in stream:
        handle(stream.scope)
        yield row
        break


ENDING = [breaks, returns_between_batches, returns_at_once, yields_and_ends]


async def breaks_and_begins_anew(stream):
    while True:
        async for _ in stream:
            handle(stream.scope)
            break


async def awaits_what_was_cancelled(stream):
    async for _ in stream:
        raise asyncio.CancelledError


@pytest.mark.parametrize("lets_go", [breaks_and_begins_anew, awaits_what_was_cancelled])
def test_an_event_that_its_agent_lets_go_of_again_and_again_is_put_aside(lets_go, tmp_path):
    with AgentDriver("one", role_of(lets_go), folder=tmp_path) as driver:
        driver.feed(ROW, ROW, key=b"a")
        assert [(letter.cause, letter.attempts) for letter in driver.dead_letters()] == [("LetGo", 3)] * 2
        assert driver.counts == {"dead_letter": 2}
        assert driver.values(EACH) == []


@pytest.mark.parametrize("ends", ENDING, ids=lambda ends: ends.__name__)
def test_an_agent_that_ends_stops_the_worker_and_is_named(ends, tmp_path):
    with pytest.raises(AgentEnded, match=rf"agent {ends.__name__} ended: its function returned") as caught:
        AgentDriver("one", role_of(ends), folder=tmp_path).feed(ROW, ROW, key=b"a")
    assert "continue" in caught.value.remedy


def test_an_agent_that_fails_before_its_first_event_stops_the_worker_and_says_where(tmp_path):
    begun = []

    async def fails(stream):
        begun.append(stream)
        raise KeyError("PRICES")
        async for _ in stream:
            pass

    said = r"agent fails failed with no event in hand, at .*test_agents\.py"
    with pytest.raises(AgentEnded, match=said) as caught:
        AgentDriver("one", role_of(fails), folder=tmp_path).feed(ROW, key=b"a")
    assert "KeyError: 'PRICES'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(begun) == 1


def test_a_source_without_an_agent_is_refused_as_it_would_hold_up_the_others(tmp_path):
    def register(app, tools, _options):
        app.source(ROWS, agent="two", decode=tools.decoder(SUBJECT))

        @app.agent(app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT)))
        async def one(stream):
            async for _ in stream:
                pass

    extension = Extension({"one": [register]}, (READINGS, ROWS), {SUBJECT: SCHEMA})
    with pytest.raises(AgentEnded, match=r"role one: no agent reads twin\.rows\.v1"):
        AgentDriver("one", extension, folder=tmp_path)
    with pytest.raises(AgentRefused, match=r"test_agents\.py: no agent reads twin\.rows\.v1"):
        blueprint("one", extension, KafkaOptions(""))


def test_an_agent_may_begin_later_than_another_of_its_role(tmp_path):
    def register(app, tools, _options):
        @app.agent(app.source(READINGS, agent="quick", decode=tools.decoder(SUBJECT)))
        async def quick(stream):
            async for _ in stream:
                stream.scope.count("counted")

        @app.agent(app.source(ROWS, agent="slow", decode=tools.decoder(SUBJECT)))
        async def slow(stream):
            await asyncio.sleep(0.5)
            async for _ in stream:
                stream.scope.count("counted")

    extension = Extension({"one": [register]}, (READINGS, ROWS), {SUBJECT: SCHEMA})
    with AgentDriver("one", extension, folder=tmp_path) as driver:
        driver.append(ROW, topic=READINGS, key=b"a")
        driver.append(ROW, topic=ROWS, key=b"a")
        driver.run()
        assert driver.counts == {"counted": 2}


def test_what_may_pass_before_its_first_event_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    tries = []

    async def patient(stream):
        tries.append(stream)
        if len(tries) < 4:
            raise Away("no price list")
        async for _ in stream:
            handle(stream.scope)

    with AgentDriver("one", role_of(patient), folder=tmp_path) as driver:
        driver.feed(ROW, ROW, key=b"a")
        assert driver.counts == {"counted": 2}
    assert len(tries) == 4
