"""What all workers follow: which calls are stopped by it, and why nothing is taken before it was read."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from connectors.kafka.options import KafkaOptions
from connectors.kafka.tailer import TailState
from connectors.llm.follower import Follower
from connectors.llm.lives import Lives
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.record import Record
from schemas.topics import LLM_ATTEMPTS, LLM_CONTROL
from schemas.wire import WireCodec

WIRE, PAYLOADS = WireCodec(LocalSchemas()), PayloadCodec(LocalSchemas())
KEY = b"acme/a"


@pytest.fixture
def told():
    return []


@pytest.fixture
def lives():
    return Lives(BUILTIN_KINDS)


@pytest.fixture
def follower(told, lives):
    loop = asyncio.new_event_loop()
    yield Follower(
        KafkaOptions("127.0.0.1:1"),
        WIRE,
        loop,
        lives,
        stopped=lambda key: told.append((key, lives.stopped(key, 0))),
        refused=lambda *what: told.append(what),
        saw=told.append,
    )
    loop.close()


def control(type_name, fields):
    payload, schema = PAYLOADS.encode(type_name, fields)
    event = Event(
        "e-1", "acme", "a", 1, "llm", type_name, 1_000, "edge", "", "", "", "", 0, 0, payload, schema
    )  # fmt: skip
    return Record(LLM_CONTROL.name, 0, 0, 0, KEY, WIRE.encode_event(event))


def read(follower, record):
    follower.tail_batch(follower._decode([record]), {})


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (control("cancel", {"reason": "enough"}), (KEY, "cancelled")),
        (control("end", {"reason": "timed_out", "message": ""}), (KEY, "timed_out")),
        (control("open", {"title": ""}), (KEY, "e-1")),
    ],
    ids=["cancel", "time-out", "second open"],
)
def test_a_call_is_stopped_for_what_ingest_says_of_its_stream(follower, told, record, said):
    read(follower, record)
    assert told == [said]


@pytest.mark.parametrize(
    ("topic", "event"),
    [(LLM_CONTROL, "undecodable_control"), (LLM_ATTEMPTS, "undecodable_row")],
    ids=["control", "ledger"],
)
def test_what_cannot_be_read_stops_no_call_that_is_paid_for_and_is_told(follower, lives, told, topic, event):
    with capture_logs() as lines:
        read(follower, Record(topic.name, 2, 9, 0, KEY, b"\x00nonsense"))
    assert told == []
    assert lives.stopped(KEY, 0) == ""
    (line,) = lines
    assert (line["event"], line["partition"], line["offset"]) == (event, 2, 9)


def test_it_says_what_is_waited_for_until_all_of_the_ledger_was_read(follower):
    assert follower.unready == "Kafka has not answered yet"
    follower.tail_state(TailState(connected=True, problem=""))
    follower.tail_batch(follower._decode([]), {(LLM_ATTEMPTS.name, 0): 0, (LLM_ATTEMPTS.name, 1): 0})
    follower.tail_caught_up((LLM_ATTEMPTS.name, 0))
    assert follower.unready == "the ledger of the last day is being read"
    follower.tail_caught_up((LLM_ATTEMPTS.name, 1))
    assert follower.unready == ""


def test_no_request_is_taken_before_it_is_known_which_streams_have_ended(follower):
    follower.tail_state(TailState(connected=True, problem=""))
    follower.tail_batch(follower._decode([]), {(LLM_ATTEMPTS.name, 0): 0, (LLM_CONTROL.name, 0): 0})
    follower.tail_caught_up((LLM_ATTEMPTS.name, 0))
    assert follower.unready
    follower.tail_caught_up((LLM_CONTROL.name, 0))
    assert not follower.unready
