"""Each private hook of Faust that the engine stands on: a new Faust that changes one fails here by name."""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import entry_points, version

import faust
import pytest
from faust.agents.agent import Agent
from faust.agents.manager import AgentManager
from faust.app.base import App, BootStrategy
from faust.transport import by_url
from faust.transport.conductor import Conductor
from faust.types.transports import ConsumerT, ProducerT
from mode.supervisors import SupervisorStrategy
from structlog.testing import capture_logs
from yarl import URL

from connectors.kafka.errors import NotSupported
from connectors.kafka.stream import Stream
from connectors.kafka.transport import Consumer, Producer, Transport
from pipelines.extension import Extension
from pipelines.role import RoleApp
from pipelines.services import Tables
from pipelines.testing import AgentDriver
from tests.support.twin_scenario import EACH, READINGS, ROWS, SCHEMA, SUBJECT, topic


def test_the_version_is_the_one_that_these_hooks_were_read_in():
    assert version("faust-streaming") == "0.15.3"


def test_the_transport_is_found_by_its_entry_point():
    assert [e.value for e in entry_points(group="faust.transports", name="sluicegate")]
    assert by_url(URL("sluicegate://host")) is Transport


@pytest.mark.parametrize(("ours", "theirs"), [(Consumer, ConsumerT), (Producer, ProducerT)])
def test_every_abstract_method_of_fausts_seam_is_there(ours, theirs):
    assert not ours.__abstractmethods__
    for name in theirs.__abstractmethods__:
        assert getattr(ours, name) is not getattr(theirs, name), name


@pytest.mark.parametrize(
    ("owner", "hook", "parameters"),
    [
        (App, "_stop_consumer", ["self"]),
        (App, "_on_agent_error", ["self", "agent", "exc"]),
        (App, "on_start", ["self"]),
        (BootStrategy, "kafka_consumer", ["self"]),
        (Conductor, "_update_callback_map", ["self"]),
        (SupervisorStrategy, "wakeup", ["self"]),
        (AgentManager, "wait_until_agents_started", ["self"]),
        (Agent, "_execute_actor", ["self", "coro", "aref"]),
        (faust.Worker, "_sentinel_task", ["self"]),
    ],
)
def test_a_hook_has_the_signature_that_we_override_or_rely_on(owner, hook, parameters):
    assert list(inspect.signature(getattr(owner, hook)).parameters) == parameters


def test_an_agent_that_raises_is_reported_before_it_is_restarted():
    source = inspect.getsource(Agent._execute_actor)
    assert source.index("self._on_error(self, exc)") < source.rindex("self.supervisor.wakeup()")


def test_the_conductor_subscribes_only_when_all_agents_are_up():
    source = inspect.getsource(Conductor._subscriber.fun)
    assert source.index("wait_until_agents_started") < source.index("consumer.subscribe")


def test_a_worker_waits_for_the_sentinel_after_it_cancelled_all_tasks_and_before_it_closes_the_loop():
    source = inspect.getsource(faust.Worker._shutdown_loop)
    steps = [
        source.index(step) for step in ("self._gather_all()", "self._sentinel_task()", "self.loop.close()")
    ]
    assert steps == sorted(steps)
    assert "task.cancel()" in inspect.getsource(faust.Worker._gather_all)


def test_stock_exactly_once_is_off_for_the_class_and_not_by_chance():
    assert RoleApp.in_transaction is False


def test_stock_tables_are_refused_with_what_to_use_instead():
    with pytest.raises(NotSupported, match="faust table"):
        Tables.add(object.__new__(Tables), type("T", (), {"name": "counts"})())


def test_sending_past_the_unit_of_work_is_refused():
    producer = object.__new__(Producer)
    with pytest.raises(NotSupported, match=r"topic\.send"):
        asyncio.run(producer.send("topic", b"k", b"v", None, None, None))


def test_our_stream_is_fausts_stream_with_its_own_iteration():
    assert issubclass(Stream, faust.Stream)
    assert "__aiter__" in vars(Stream)
    assert "__anext__" in vars(Stream)


# -- Faust's own ways to iterate, each under the engine ---------------------------------------------------

CHANGELOG = topic("twin.one.changelog.v1", cleanup="compact")
POISON = 13


class Poison(Exception):
    """The event that this agent cannot handle."""


def handle(scope, amount):
    """Add up and tell, exactly once: the sum is kept, and said with each amount."""
    total = int(scope.state.get(b"sum") or 0) + amount
    scope.state.put(b"sum", b"%d" % total)
    scope.emit(EACH, b"k", b"%d of %d" % (amount, total), partition=scope.partition)
    scope.count("counted")
    if amount == POISON:
        raise Poison


async def values(stream):
    async for row in stream:
        handle(stream.scope, row["amount"])


async def events(stream):
    async for event in stream.events():
        assert event.key == stream.record.key
        assert event.message.offset == faust.current_event().message.offset == stream.record.offset
        assert event.message.timestamp == stream.record.timestamp_us / 1e6
        handle(stream.scope, event.value["amount"])


async def items(stream):
    async for key, row in stream.items():
        assert key == b"a"
        handle(stream.scope, row["amount"])


async def enumerated(stream):
    async for _, row in stream.enumerate():
        handle(stream.scope, row["amount"])


async def taken(stream):
    async for rows in stream.take(4, within=5):
        assert 1 <= len(rows) <= 4
        assert stream.current_event is None, "several are in hand"
        for row in rows:
            handle(stream.scope, row["amount"])


async def filtered(stream):
    async for row in stream.filter(lambda row: row["amount"] % 2):
        handle(stream.scope, row["amount"])


async def filtered_and_taken(stream):
    async def is_odd(row):
        return row["amount"] % 2

    async for rows in stream.filter(is_odd).take(3, within=5):
        for row in rows:
            handle(stream.scope, row["amount"])


async def mapped(stream):
    stream.add_processor(lambda row: row["amount"])
    async for amount in stream:
        handle(stream.scope, amount)


async def yielding(stream):
    async for row in stream:
        handle(stream.scope, row["amount"])
        yield row


def role_of(fun, **agent):
    """A role of the one agent."""

    def register(app, tools, _options):
        source = app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT), changelog=CHANGELOG)
        app.agent(source, **agent)(fun)

    return Extension({"one": [register]}, (READINGS, EACH), {SUBJECT: SCHEMA})


def rows(*amounts):
    return [{"sensor": "a", "amount": amount, "unit": "kWh"} for amount in amounts]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "way",
    [values, events, items, enumerated, taken, filtered, filtered_and_taken, mapped, yielding],
    ids=lambda way: way.__name__,
)
def test_each_of_fausts_ways_to_iterate_has_one_effect_an_event(way, tmp_path):
    odd = "filtered" in way.__name__
    with AgentDriver("one", role_of(way), folder=tmp_path, chunk_events_max=10) as driver:
        driver.abort_next_unit()
        driver.feed(*rows(*range(1, 26)), key=b"a", partition=0)
        driver.restart(lose_state=True)
        driver.feed(*rows(27), key=b"a", partition=0)
        sums, wanted = [], 0
        for amount in [*range(1, 26), 27]:
            if amount != POISON and (not odd or amount % 2):
                wanted += amount
                sums.append(b"%d of %d" % (amount, wanted))
        assert driver.values(EACH) == sums
        (letter,) = driver.dead_letters()
        assert (letter.cause, letter.from_offset) == ("Poison", POISON - 1)
        evens = {"filtered": 12} if odd else {}
        assert driver.counts == {"counted": len(sums), "dead_letter": 1, **evens}


@pytest.mark.timeout(60)
def test_a_filter_is_not_doubled_by_an_agent_that_begins_anew(tmp_path):
    seen = []

    async def once(stream):
        async for row in stream.filter(lambda row: seen.append(row["amount"]) or True):
            handle(stream.scope, row["amount"])

    with AgentDriver("one", role_of(once), folder=tmp_path) as driver:
        driver.feed(*rows(POISON), key=b"a", partition=0)
        driver.feed(*rows(2), key=b"a", partition=0)
    assert seen.count(2) == 1
    assert seen.count(POISON) == 3, "it was tried three times"


REFUSED = {
    "noack": lambda stream: stream.noack(),
    "noack_take": lambda stream: stream.noack_take(2, within=1),
    "take_events": lambda stream: stream.take_events(2, within=1),
    "take_with_timestamp": lambda stream: stream.take_with_timestamp(2, 1, "at"),
    "through": lambda stream: stream.through("elsewhere"),
    "echo": lambda stream: stream.echo("elsewhere"),
    "group_by": lambda stream: stream.group_by(lambda row: row["sensor"], name="sensor"),
    "combine": lambda stream: stream & stream,
    "join": lambda stream: stream.left_join(),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_send_or_acknowledge_by_itself_stops_the_worker_with_what_to_write(name, tmp_path):
    async def one(stream):
        async for _ in REFUSED[name](stream):
            raise AssertionError("an event came by")

    with pytest.raises(NotSupported, match=rf"stream\.{name}\(\)") as caught, capture_logs() as logs:
        AgentDriver("one", role_of(one), folder=tmp_path).feed(*rows(1), key=b"a")
    assert caught.value.remedy
    (said,) = (line for line in logs if line["event"] == "worker stops")
    assert said["agent"] == "one"
    assert __file__ in said["raised_at"]


@pytest.mark.timeout(60)
def test_an_agent_that_sends_by_faust_stops_the_worker_with_what_to_write_and_makes_no_dead_letter(tmp_path):
    apps = []

    def register(app, tools, _options):
        apps.append(app)
        source = app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT), changelog=CHANGELOG)

        @app.agent(source)
        async def one(stream):
            async for _ in stream:
                await apps[-1].topic("elsewhere").send(value=b"1")

    role = Extension({"one": [register]}, (READINGS, EACH), {SUBJECT: SCHEMA})
    driver = AgentDriver("one", role, folder=tmp_path)
    with pytest.raises(NotSupported, match=r"topic\.send to elsewhere") as caught, capture_logs() as logs:
        driver.feed(*rows(1), key=b"a", partition=1)
    assert "scope.emit" in caught.value.remedy
    (said,) = (line for line in logs if line["event"] == "worker stops")
    assert (said["partition"], said["offset"]) == (1, 0)
    assert said["topic"].endswith(READINGS.name)
    assert said["raised_at"].startswith(__file__)
    assert said["raised_at"].endswith(" in one")


# -- one agent a topic ------------------------------------------------------------------------------------


def test_a_second_source_of_a_topic_is_refused_with_both_agents(tmp_path):
    def register(app, tools, _options):
        app.source(READINGS, agent="first", decode=tools.decoder(SUBJECT))
        app.source(READINGS, agent="second", decode=tools.decoder(SUBJECT))

    extension = Extension({"one": [register]}, (READINGS,), {SUBJECT: SCHEMA})
    with pytest.raises(ValueError, match=r"source of second: twin\.readings\.v1 is read by first already"):
        AgentDriver("one", extension, folder=tmp_path)


def test_a_second_source_of_one_agent_is_refused_as_it_would_have_one_folder_with_the_first(tmp_path):
    def register(app, tools, _options):
        app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT), changelog=CHANGELOG)
        other = topic("twin.two.changelog.v1", cleanup="compact")
        app.source(ROWS, agent="one", decode=tools.decoder(SUBJECT), changelog=other)

    extension = Extension({"one": [register]}, (READINGS, ROWS), {SUBJECT: SCHEMA})
    with pytest.raises(ValueError, match=r"source of one: an agent of that name reads twin\.readings\.v1"):
        AgentDriver("one", extension, folder=tmp_path)


def test_two_agents_on_one_source_are_refused_with_both_names(tmp_path):
    def register(app, tools, _options):
        source = app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT))
        app.agent(source)(values)
        app.agent(source)(items)

    extension = Extension({"one": [register]}, (READINGS,), {SUBJECT: SCHEMA})
    with pytest.raises(ValueError, match=r"agents values and items both read twin\.readings\.v1"):
        AgentDriver("one", extension, folder=tmp_path)


@pytest.mark.parametrize(
    ("how", "named"),
    [({"concurrency": 2}, "concurrency=2"), ({"isolated_partitions": True}, "isolated_partitions")],
)
def test_several_actors_of_one_agent_are_refused(how, named, tmp_path):
    with pytest.raises(ValueError, match=f"agent values: {named} is not supported"):
        AgentDriver("one", role_of(values, **how), folder=tmp_path)


def test_an_agent_of_a_topic_that_is_no_source_is_refused(tmp_path):
    def register(app, _tools, _options):
        app.agent(app.topic("elsewhere"))(values)

    with pytest.raises(ValueError, match=r"agent values: elsewhere is no source; give it what app\.source"):
        AgentDriver("one", Extension({"one": [register]}), folder=tmp_path)
