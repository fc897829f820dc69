"""The producer of deltas when Kafka takes less than providers send: nobody waits for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from connectors.kafka.clients import Clients
from connectors.kafka.errors import ProducerFailed
from connectors.kafka.options import KafkaOptions
from connectors.llm import outlet as module
from connectors.llm.outlet import KafkaOutlet
from tests.unit.support_llm_operation import World, chunk, head


class Message:
    """What was acknowledged."""

    def __init__(self, topic, partition, key, value):
        self._topic, self._partition, self._key, self._value = topic, partition, key, value

    def topic(self):
        """See confluent_kafka."""
        return self._topic

    def partition(self):
        """See confluent_kafka."""
        return self._partition

    def key(self):
        """See confluent_kafka."""
        return self._key

    def __len__(self):
        return len(self._value)


class Producer:
    """librdkafka's queue: full when the test says so."""

    def __init__(self):
        self.full = False
        self.queue = []
        self.values = []
        self.appends = False
        self.polls = 0

    def flush(self, timeout_s):
        """See confluent_kafka."""
        self.acknowledge()

    def produce(self, topic, value, key, partition, on_delivery):
        """See confluent_kafka."""
        if self.full:
            raise BufferError
        self.values.append(value)
        self.queue.append((on_delivery, Message(topic, partition, key, value)))

    def poll(self, timeout_s):
        """See confluent_kafka."""
        self.polls += 1
        if self.appends:
            self.acknowledge()

    def acknowledge(self):
        """Have all of it in the log."""
        queue, self.queue = self.queue, []
        for on_delivery, message in queue:
            on_delivery(None, message)


@pytest.fixture
def producer():
    return Producer()


def made(producer, monkeypatch, failures):
    """Make an outlet; of the running loop."""
    monkeypatch.setattr(module, "_FULL_S", 0.0)
    kafka = KafkaOptions("127.0.0.1:1", clients=Clients(producer=lambda _: producer))
    return KafkaOutlet(kafka, failures.append, asyncio.get_running_loop())


def test_a_queue_that_stays_full_fails_the_worker_and_whoever_waits(producer, monkeypatch):
    async def go():
        failures = []
        outlet = made(producer, monkeypatch, failures)
        outlet.send(b"a", b"one", 0)
        waits = asyncio.ensure_future(outlet.acknowledged(b"a"))
        await asyncio.sleep(0)
        producer.full = True
        with pytest.raises(ProducerFailed, match="no room"):
            outlet.send(b"b", b"two", 1)
        (failure,) = failures
        with pytest.raises(ProducerFailed):
            await asyncio.wait_for(waits, 10)
        producer.full = False
        producer.acknowledge()
        for key in (b"a", b"b"):
            with pytest.raises(ProducerFailed):  # an end after it would say that all of it is there
                await asyncio.wait_for(outlet.acknowledged(key), 10)
        with pytest.raises(ProducerFailed):
            outlet.send(b"a", b"three", 0)
        assert failures == [failure]

    asyncio.run(go())


@pytest.mark.parametrize("bound", ["RECORDS_MAX", "BYTES_MAX"])
def test_it_is_full_at_half_of_its_queue_and_empties_as_it_is_acknowledged(producer, monkeypatch, bound):
    async def go():
        monkeypatch.setattr(module, bound, 10)
        outlet = made(producer, monkeypatch, [])
        for _ in range(5):
            outlet.send(b"a", b"v", 0)
        assert not outlet.full
        outlet.send(b"a", b"v", 0)
        assert outlet.full
        waits = asyncio.ensure_future(outlet.emptied())
        await asyncio.sleep(0.1)
        assert not waits.done()
        producer.appends = True
        await asyncio.wait_for(waits, 10)
        await asyncio.wait_for(outlet.acknowledged(b"a"), 10)

    asyncio.run(go())


def test_whoever_waits_is_told_when_all_is_in_the_log_and_then_nobody_looks_any_more(producer, monkeypatch):
    async def go():
        outlet = made(producer, monkeypatch, [])
        await outlet.acknowledged(b"a")
        assert producer.polls == 0
        for key in (b"a", b"a", b"b"):
            outlet.send(key, b"v", 0)
        waits = [asyncio.ensure_future(outlet.acknowledged(key)) for key in (b"a", b"b")]
        while producer.polls < 5:  # noqa: ASYNC110  it goes on to look, and tells nobody
            await asyncio.sleep(0.001)
        assert not any(wait.done() for wait in waits)
        producer.appends = True
        await asyncio.wait_for(asyncio.gather(*waits), 10)
        polls = producer.polls
        await asyncio.sleep(0.1)
        assert producer.polls == polls

    asyncio.run(go())


def held_back(producer, monkeypatch):
    """Send four records, of which one partition's second and third come while its first is under way."""
    monkeypatch.setattr(module, "_JOIN_S", -1.0)
    outlet = made(producer, monkeypatch, [])
    for value in (b"0", b"1", b"2"):
        outlet.send(b"a", value, 0)
    outlet.send(b"b", b"other", 1)
    assert producer.values == [b"0", b"other"]
    return outlet


def test_what_comes_while_a_request_is_under_way_goes_out_after_it_in_order(producer, monkeypatch):
    async def go():
        outlet = held_back(producer, monkeypatch)
        producer.appends = True
        await asyncio.wait_for(outlet.acknowledged(b"a"), 10)
        assert producer.values == [b"0", b"other", b"1", b"2"]

    asyncio.run(go())


def test_a_close_after_a_record_was_lost_waits_for_nothing(producer, monkeypatch):
    async def go():
        outlet = held_back(producer, monkeypatch)
        outlet._lose(ProducerFailed("lost"))
        outlet.stop()
        flushes = []
        monkeypatch.setattr(producer, "flush", flushes.append)
        await asyncio.to_thread(outlet.close)
        assert not flushes

    asyncio.run(go())


def test_what_is_held_back_when_it_closes_is_appended(producer, monkeypatch):
    async def go():
        outlet = held_back(producer, monkeypatch)
        outlet.stop()
        await asyncio.to_thread(outlet.close)
        assert producer.values == [b"0", b"other", b"1", b"2"]
        assert not outlet._records

    asyncio.run(go())


def test_an_answer_is_not_read_on_while_there_is_no_room_and_is_not_blamed_for_it():
    class Full(World):
        """Has no room after the first content, for longer than the timer between contents."""

        full = False

        def send(self, key, value, partition, topic=module.INPUT):
            """See KafkaOutlet."""
            super().send(key, value, partition, topic)
            self.full = self.full or (self.types().count("token") == 1 and not self.waited)

        waited = 0

        async def emptied(self):
            """See KafkaOutlet."""
            self.waited += 1
            await asyncio.sleep(2.5)
            self.full = False

    async def answers(writer):
        for text in ("a", "b"):
            writer.write((head() if text == "a" else b"") + chunk(text).encode())
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write((chunk(finish="stop") + "data: [DONE]\n\n").encode())
        with suppress(OSError):
            await writer.drain()

    timers = {"between_contents_ms": 2_000}
    world = Full(answers, timers=timers).run()
    assert (world.waited, world.end, world.shown) == (1, "completed", "ab")
