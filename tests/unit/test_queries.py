"""Reads of state from outside: what is answered of one's own, and where else a reader is sent."""

from __future__ import annotations

import struct
import time
from http import HTTPStatus
from types import SimpleNamespace

import pytest

from connectors.kafka import owners
from connectors.kafka.chunk import SourcePartition
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.options import KafkaOptions
from connectors.kafka.owners import Owners, advertised_in, client_id
from connectors.kafka.restore import Progress
from pipelines.partitions import Source
from pipelines.queries import (
    Answer,
    Held,
    Query,
    Span,
    StateReader,
    key_value_query,
    span_of,
    starts_in,
    value_query,
    window_query,
)
from pipelines.state_page import _refusal, _stranger, is_loopback
from schemas.topics import TopicSpec, partition_of
from state.keyvalue import KeyValueOptions, KeyValues
from state.memory import MemoryBackend
from state.store import Position, StagedView
from state.watermark import Watermark
from state.windows import TimeWindows, WindowOptions

INPUT = TopicSpec("clicks.v1", "name", "", 4, -1, "delete", "Clicks.")
COUNT = struct.Struct(">q")
ANN = SourcePartition("eu.clicks.v1", partition_of(b"ann", 4))
MINUTES = TimeWindows(b"m", WindowOptions(60_000))
MINUTE_US = 60_000_000
LAST, LAST_FOR_US = KeyValues(b"l", KeyValueOptions()), KeyValueOptions().ttl_ms * 1_000
EVER = Span(0, 600 * MINUTE_US)


def count(value):
    return COUNT.unpack(value)[0]


class World:
    """This worker's partitions, and where others answer."""

    def __init__(self):
        self.held, self.owners = {}, {}
        queries = {
            "clicks": value_query(count, stored=lambda key: b"n" + key),
            "last": key_value_query(LAST, count),
            "minutes": window_query(MINUTES, count),
            "closed": None,
        }
        sources = {
            f"eu.{agent}.v1": Source(INPUT, lambda _: None, agent, query=query)
            for agent, query in queries.items()
        }
        self.reader = StateReader(sources, self.held.get, self.owners.get)

    def own(self, agent, changes):
        backend = MemoryBackend()
        backend.write(changes, Position("", 0, 0))
        where = SourcePartition(f"eu.{agent}.v1", ANN.partition)
        self.held[where] = Held(backend, None)
        return where

    def get(self, store, key="ann", span=EVER, query=()):
        found = self.reader.here(store, key, span)
        if isinstance(found, Answer):
            return found
        return self.reader.elsewhere(found, store, key, dict(query))


def test_a_value_of_its_own_partition_is_answered():
    world = World()
    world.own("clicks", {b"nann": COUNT.pack(7)})
    answer = world.get("clicks")
    assert answer.status is HTTPStatus.OK
    assert answer.body == {"store": "clicks", "key": "ann", "partition": ANN.partition, "value": 7}


def test_a_value_that_expires_is_answered():
    world, view = World(), StagedView(MemoryBackend())
    LAST.put(view, 0, b"ann", COUNT.pack(7))
    world.own("last", dict(view.staged))
    assert world.get("last").body["value"] == 7
    assert world.get("last", "bob").status is not HTTPStatus.OK


def test_a_value_that_has_expired_by_the_watermark_that_its_agent_saved_is_not_answered():
    def now_us(view):
        clock = Watermark(1_000)
        clock.load(view, b"c")
        return clock.now_us

    query, view = key_value_query(LAST, count, now_us=now_us), StagedView(MemoryBackend())
    LAST.put(view, 0, b"ann", COUNT.pack(7))
    assert query.answer(view, b"ann", EVER) == 7, "no watermark was saved yet"
    for ahead_us, value in ((-1, 7), (0, None)):
        Watermark(1_000, max_us=LAST_FOR_US + 1_000 + ahead_us).save(view, b"c")
        assert query.answer(view, b"ann", EVER) == value


def test_the_windows_of_a_key_are_those_that_begin_within_the_span():
    world, view = World(), StagedView(MemoryBackend())
    for minute in (1, 2, 5):
        MINUTES.put(view, minute * MINUTE_US, b"ann", COUNT.pack(minute))
    world.own("minutes", dict(view.staged))
    assert [each["value"] for each in world.get("minutes").body["value"]] == [1, 2, 5]
    (only,) = world.get("minutes", span=Span(MINUTE_US + 1, 5 * MINUTE_US)).body["value"]
    assert only == {"start_us": 2 * MINUTE_US, "end_us": 3 * MINUTE_US, "value": 2}
    assert world.get("minutes", span=Span(0, MINUTE_US)).status is HTTPStatus.NOT_FOUND
    wide = world.get("minutes", span=Span(0, 1_001 * MINUTE_US))
    assert wide.status is HTTPStatus.BAD_REQUEST
    assert "1001 windows" in wide.body["error"]


@pytest.mark.parametrize("store", ["unknown", "closed"])
def test_a_store_that_declares_no_query_is_as_unknown_as_one_that_is_not_there(store):
    answer = World().get(store)
    assert answer.status is HTTPStatus.NOT_FOUND
    assert answer.body["stores"] == ["clicks", "last", "minutes"]


def test_a_key_that_is_not_there_is_told_from_a_store_that_is_not():
    world = World()
    world.own("clicks", {})
    answer = world.get("clicks")
    assert (answer.status, answer.body["error"]) == (
        HTTPStatus.NOT_FOUND,
        "nothing is stored under that key",
    )
    assert answer.body["by"] == "murmur2", "by which it was looked for: a producer may have another"


def test_a_partition_that_is_being_restored_says_when_to_come_again():
    world = World()
    where = world.own("clicks", {})
    began = time.monotonic() - 10
    world.held[where] = Held(None, Progress(position=1_000, end=4_000, records=1_000, began=began))
    answer = world.get("clicks")
    assert answer.status is HTTPStatus.SERVICE_UNAVAILABLE
    assert answer.body["remaining"] == 3_000
    assert int(answer.headers["Retry-After"]) in range(28, 33), "at 100 a second"
    world.held[where] = Held(None, None)  # it waits for its committed offset yet
    assert world.get("clicks").headers["Retry-After"] == "1"


def test_a_reader_is_sent_to_the_owner_with_all_that_was_asked_and_once_only():
    world = World()
    world.owners[SourcePartition("eu.minutes.v1", partition_of(b"a/b c", 4))] = "10.0.0.7:8700"
    answer = world.get("minutes", key="a/b c", query={"from": "1", "to": "9"})
    assert answer.status is HTTPStatus.TEMPORARY_REDIRECT
    assert (
        answer.headers["Location"] == "http://10.0.0.7:8700/state/minutes/a%2Fb%20c?from=1&to=9&redirected=1"
    )
    again = world.get("minutes", key="a/b c", query={"redirected": "1"})
    assert again.status is HTTPStatus.SERVICE_UNAVAILABLE
    assert again.headers["Retry-After"] == "1"


@pytest.mark.parametrize(("owner", "says"), [(None, "no worker has"), ("", "no web")])
def test_an_owner_that_is_not_known_or_has_no_web_is_said(owner, says):
    world = World()
    if owner is not None:
        world.owners[SourcePartition("eu.clicks.v1", ANN.partition)] = owner
    answer = world.get("clicks")
    assert answer.status is HTTPStatus.SERVICE_UNAVAILABLE
    assert says in answer.body["error"]


def test_a_key_that_cannot_be_is_the_readers_fault():
    def key(text):
        raise ValueError(f"{text!r} is no name")

    closed = Source(INPUT, lambda _: None, "x", query=Query(lambda *_: 1, key))
    reader = StateReader({"eu.x.v1": closed}, lambda _: None, lambda _: None)
    assert reader.here("x", "?", EVER).status is HTTPStatus.BAD_REQUEST


def test_an_owner_that_cannot_be_asked_for_is_raised_to_the_page():
    def away(_where):
        raise KafkaUnavailable("kafka:9092", "away")

    reader = StateReader(World().reader._sources, lambda _: None, away)
    with pytest.raises(KafkaUnavailable):
        reader.elsewhere(ANN, "clicks", "ann", {})


def test_a_span_is_the_last_hour_unless_it_is_said():
    assert span_of({}, 3 * 3_600_000_000) == Span(2 * 3_600_000_000, 3 * 3_600_000_000)
    assert span_of({"from": "5", "to": "9"}, 0) == Span(5, 9)
    assert span_of({"to": str(2**63 - 1), "from": "0"}, 0) == Span(0, 2**63 - 1)
    for wrong in (
        {"from": "x"},
        {"from": "9", "to": "5"},
        {"from": "-1"},
        {"to": "٣"},
        {"from": "9" * 5_000},
    ):
        with pytest.raises(ValueError, match=r"^(from|to) .*63 bits"):
            span_of(wrong, 0)


@pytest.mark.parametrize(
    ("queries", "bound_to", "allowed"),
    [
        ("loopback", "127.0.0.1", True),
        ("loopback", "::1", True),
        ("loopback", "0.0.0.0", False),
        ("loopback", "worker-3", False),
        ("network", "0.0.0.0", True),
        ("off", "127.0.0.1", False),
    ],
)
def test_state_leaves_the_machine_only_if_it_is_said(queries, bound_to, allowed):
    refusal = _refusal(queries, bound_to)
    assert (refusal is None) == allowed
    assert refusal is None or refusal.status is HTTPStatus.FORBIDDEN


def test_a_browsers_page_under_a_foreign_name_that_points_here_is_refused():
    def asked_as(host):
        return SimpleNamespace(url=SimpleNamespace(host=host))

    assert _stranger("loopback", asked_as("localhost")) is None
    assert _stranger("loopback", asked_as("127.0.0.1")) is None
    assert _stranger("network", asked_as("worker-3")) is None
    refused = _stranger("loopback", asked_as("evil.example"))
    assert refused is not None
    assert refused.status is HTTPStatus.MISDIRECTED_REQUEST
    assert not is_loopback("localhost.evil.example")


def test_a_broker_that_does_not_answer_is_not_asked_again_by_all_who_wait(monkeypatch):
    monkeypatch.setattr(owners, "_FRESH_S", 600.0)
    asked = Owners(KafkaOptions("127.0.0.1:9"), "sluicegate.ingest")
    asked._known_at -= 1_200.0
    with pytest.raises(KafkaUnavailable, match=r"Describe group sluicegate\.ingest") as first:
        asked.of(ANN)
    with pytest.raises(KafkaUnavailable) as second:
        asked.of(ANN)
    assert second.value is first.value


def test_the_address_of_a_web_travels_in_the_client_id():
    assert advertised_in(client_id("sluicegate", "10.0.0.7:8700")) == "10.0.0.7:8700"
    assert advertised_in(client_id("team@sluicegate", "[::1]:8700")) == "[::1]:8700"
    assert client_id("sluicegate", "") == "sluicegate"
    assert advertised_in("sluicegate") == ""


def test_numbers_that_no_time_has_are_refused_and_not_computed_with():
    with pytest.raises(ValueError, match="63 bits"):
        span_of({"from": "0", "to": str(10**30)}, 0)
    with pytest.raises(ValueError, match="at most 1000"):
        starts_in(MINUTES, span_of({"from": "0", "to": str(2**63 - 1)}, 0))
