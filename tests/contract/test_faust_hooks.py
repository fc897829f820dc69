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
from yarl import URL

from connectors.kafka.errors import NotSupported
from connectors.kafka.stream import Stream
from connectors.kafka.transport import Consumer, Producer, Transport
from pipelines.role import RoleApp, Tables


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
