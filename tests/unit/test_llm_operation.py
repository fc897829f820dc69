"""One operation whose surroundings break: it ends alone, on record, and takes nobody with it."""

from __future__ import annotations

import asyncio
import time

import pytest
import structlog

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.errors import ProducerFailed
from connectors.llm.calls import Call, Target
from connectors.llm.committer import PartitionLost
from connectors.llm.emitter import Emitter
from connectors.llm.ledger import attempt_of
from connectors.llm.metrics import LlmMetrics
from connectors.llm.offsets import Tenure
from connectors.llm.operation import Operation
from connectors.llm.options import FlushOptions
from connectors.llm.plan import Choice, Next, Plan
from connectors.llm.request import Envelope, Request
from connectors.llm.tools import Tools
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from schemas.topics import INPUT, LLM_ATTEMPTS
from schemas.wire import WireCodec

TO = Envelope("acme", "answer-1", "llm", "", "", "", 1, opened=True)
CHOICE = Choice(Target("here", "openai-chat", "http://127.0.0.1:1/v1"), "m")
PLAN = Plan(call=Call("", [{"role": "user", "content": "hi"}]), choices=[CHOICE], fallback_on=frozenset())


class Desk:
    """Plans one call; ``breaks`` names what raises."""

    def __init__(self, breaks, error):
        self.breaks, self.error = breaks, error
        self.settled = []

    def _meet(self, name):
        if name == self.breaks:
            raise self.error

    def plan(self, request):
        """See tools.Desk."""
        self._meet("plan")
        return PLAN

    def decide(self, to, plan, tried, left_ms):
        """See tools.Desk."""
        return Next(CHOICE, "first")

    def reserve(self, plan, row):
        """See tools.Desk."""
        self._meet("reserve")
        return plan

    def release(self, row):
        """See tools.Desk."""

    def settle(self, plan, row, shown):
        """See tools.Desk."""
        self.settled.append(row.attempt)


class World:
    """Keeps what was committed."""

    def __init__(self, breaks, error):
        self.wire, self.payloads = WireCodec(LocalSchemas()), PayloadCodec(LocalSchemas())
        self.desk = Desk(breaks, error)
        self.rows, self.events, self.ends = [], [], []

    async def put(self, tenure, rows, *, ends=None):
        """See Committer."""
        for row in rows:
            if row.topic is LLM_ATTEMPTS:
                self.rows.append(attempt_of(self.wire.decode(row.value, LLM_ATTEMPTS.subject)))
            else:
                assert row.topic is INPUT
                self.events.append(self.wire.decode_event(row.value))
        self.ends.append(ends)

    full = False
    """See KafkaOutlet."""

    async def acknowledged(self, key):
        """See KafkaOutlet."""

    def send(self, key, value, partition):
        """See Outlet."""

    async def run(self, providers):
        """Run one operation."""
        tools = Tools(
            desk=self.desk, client=None, providers=providers, committer=self, outlet=self, wire=self.wire,
            worker="w", queue_ms_max=10**9, judges={}, metrics=LlmMetrics(lambda: 0),
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        emitter = Emitter(TO, 3, self, self.wire, self.payloads, FlushOptions(), loop)
        tenure = Tenure(SourcePartition("llm.requests.v1", 3), 0, 0, 0)
        request = Request(
            TO, "default", "", "", "", {}, PLAN.call.messages, [], None, "", PLAN.call.params, 0, None,
            side_effects=False,
        )  # fmt: skip
        await Operation(tools, tenure, 7, time.time_ns() // 1_000, TO, request, None, emitter).run()


def told(world):
    """How the stream ended, and what the person read."""
    (end,) = [event for event in world.events if event.type == "end"]
    return world.payloads.decode(end.payload_schema, end.payload)


@pytest.mark.parametrize("breaks", ["plan", "reserve"])
def test_a_defect_before_a_call_ends_its_stream_alone_and_is_on_record(breaks):
    world = World(breaks, ZeroDivisionError("secret"))
    with structlog.testing.capture_logs() as logs:
        asyncio.run(world.run({}))
    (logged,) = logs
    assert (logged["event"], logged["error"]) == ("llm_operation_broke", "ZeroDivisionError")
    assert logged["at"].startswith("_meet:")
    assert "secret" not in repr(logs), "a message may quote what was asked"
    assert "exc_info" not in logged, "and so may a traceback"
    assert told(world) == {
        "reason": "upstream_error", "message": "a defect of the worker: ZeroDivisionError",
        "exit_code": None, "events": 0, "bytes": 0,
    }  # fmt: skip
    (row,) = world.rows
    assert (row.attempt, row.state, row.end_reason) == (0, "refused", "upstream_error")
    assert world.ends == [7]


def test_a_defect_after_the_attempt_is_on_record_settles_it():
    world = World("", None)
    asyncio.run(world.run({}))  # there is no provider of that shape: a KeyError
    started, settled = world.rows
    assert (started.attempt, started.state) == (1, "started")
    assert (settled.attempt, settled.state, settled.error_class) == (1, "failed", "crashed")
    assert world.desk.settled == [1]
    assert told(world)["reason"] == "upstream_error"


@pytest.mark.parametrize("error", [PartitionLost(), ProducerFailed("full")], ids=["lost", "kafka"])
def test_what_concerns_all_of_them_is_not_taken_for_the_fault_of_one(error):
    world = World("reserve", error)
    with pytest.raises(type(error)):
        asyncio.run(world.run({}))
    assert world.ends == []
