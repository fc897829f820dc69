"""Appends: a request is in the log as a whole or not at all, whatever happens in between."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.kafka.admin import ensure_topics
from connectors.kafka.errors import AppendFailed, AppendRefused
from connectors.kafka.options import KafkaOptions
from connectors.kafka.producer import Appender, AppenderOptions, Offset
from schemas.topics import EVENT_BYTES_MAX, INPUT, OUTPUT, partition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

KEY = b"default/s"
WHERE = partition_of(KEY, INPUT.partitions)


@pytest.fixture
def topic(kafka_options: KafkaOptions) -> str:
    ensure_topics(kafka_options, [INPUT, OUTPUT])
    return INPUT.named(kafka_options.topic_prefix)


def run(work: Callable[[Appender], Coroutine[Any, Any, Any]], options: KafkaOptions, **bounds: int) -> Any:
    async def main() -> Any:
        appender = Appender(options, AppenderOptions(**bounds))
        try:
            return await work(appender)
        finally:
            await appender.close()

    return asyncio.run(main())


def committed(options: KafkaOptions, topic: str) -> list[Message]:
    """Every record that a reader of committed data sees, partition by partition."""
    consumer = Consumer(
        options.client_config()
        | {"group.id": "unused", "isolation.level": "read_committed", "enable.partition.eof": True}
    )
    partitions = range(len(consumer.list_topics(topic, timeout=10).topics[topic].partitions))
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found, ends = [], set()
    deadline = time.monotonic() + 30
    while len(ends) < len(partitions):
        assert time.monotonic() < deadline
        for message in consumer.consume(1_000, timeout=0.5):
            if message.error() is None:
                found.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ends.add(message.partition())
    consumer.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def test_a_request_is_appended_and_told_where(kafka_options: KafkaOptions, topic: str) -> None:
    async def work(appender: Appender) -> list[Offset]:
        records = [(topic, KEY, b"%d" % n, None) for n in range(3)]
        return await appender.append_transaction([*records, (topic, b"t/other", None, 1)])

    offsets = run(work, kafka_options)
    assert offsets == [Offset(WHERE, 0), Offset(WHERE, 1), Offset(WHERE, 2), Offset(1, offsets[3].offset)]
    seen = {(m.partition(), m.offset()): (m.key(), m.value()) for m in committed(kafka_options, topic)}
    assert [seen[offset] for offset in offsets] == [
        (KEY, b"0"),
        (KEY, b"1"),
        (KEY, b"2"),
        (b"t/other", None),
    ]


def test_nothing_is_appended_for_nothing(kafka_options: KafkaOptions, topic: str) -> None:
    assert run(lambda appender: appender.append_transaction([]), kafka_options) == []
    assert committed(kafka_options, topic) == []


def test_many_callers_at_once_each_stay_whole_and_in_order(kafka_options: KafkaOptions, topic: str) -> None:
    async def work(appender: Appender) -> list[list[Offset]]:
        async def request(number: int) -> list[Offset]:
            key = b"default/%d" % number
            return await appender.append_transaction(
                [(topic, key, b"%d.%d" % (number, part), None) for part in range(1 + number % 7)]
            )

        return await asyncio.gather(*(request(number) for number in range(700)))

    answers = run(work, kafka_options)
    seen = {(m.partition(), m.offset()): m.value() for m in committed(kafka_options, topic)}
    assert len(seen) == sum(len(offsets) for offsets in answers)
    for number, offsets in enumerate(answers):
        assert [seen[offset] for offset in offsets] == [b"%d.%d" % (number, n) for n in range(len(offsets))]
        assert offsets == sorted(offsets)


def test_a_caller_alone_is_answered_at_once(kafka_options: KafkaOptions, topic: str) -> None:
    async def work(appender: Appender) -> float:
        took = []
        for _ in range(60):
            began = time.perf_counter()
            await appender.append_transaction([(topic, KEY, b"v", None)])
            took.append(time.perf_counter() - began)
        return sorted(took)[len(took) // 2]

    assert run(work, kafka_options) < 0.3  # 3 ms on a quiet machine; a wait for others would show


def test_a_record_that_no_topic_takes_is_refused_before_anything(
    kafka_options: KafkaOptions, topic: str
) -> None:
    async def work(appender: Appender) -> None:
        await appender.append_transaction(
            [(topic, KEY, b"v", None), (topic, KEY, b"x" * EVENT_BYTES_MAX, None)]
        )

    with pytest.raises(AppendRefused, match="too large"):
        run(work, kafka_options)
    assert committed(kafka_options, topic) == []


def test_a_record_of_the_largest_size_is_taken(kafka_options: KafkaOptions, topic: str) -> None:
    value = bytes(range(256)) * 4_096  # 1 MiB
    run(lambda appender: appender.append_transaction([(topic, KEY, value, None)]), kafka_options)
    assert [message.value() for message in committed(kafka_options, topic)] == [value]


def test_a_request_of_which_the_broker_refuses_one_record_leaves_no_trace(
    kafka_options: KafkaOptions, topic: str
) -> None:
    small = f"{kafka_options.topic_prefix}small.v1"
    admin = AdminClient(kafka_options.client_config())
    new = NewTopic(small, num_partitions=1, replication_factor=-1, config={"max.message.bytes": "1000"})
    admin.create_topics([new])[small].result(30)

    async def work(appender: Appender) -> None:
        noise = os.urandom(5_000)  # compression must not make it fit
        with pytest.raises(AppendFailed, match=r"(?i)large"):
            await appender.append_transaction([(topic, KEY, b"lost", None), (small, KEY, noise, None)])
        await appender.append_transaction([(topic, KEY, b"kept", None)])

    run(work, kafka_options, producers=1)
    assert [message.value() for message in committed(kafka_options, topic)] == [b"kept"]
    assert committed(kafka_options, small) == []


def test_a_fenced_producer_is_replaced_and_the_request_goes_through(
    kafka_options: KafkaOptions, topic: str
) -> None:
    async def work(appender: Appender) -> None:
        await appender.append_transaction([(topic, KEY, b"0", None)])
        slot = appender._threads[0]._args[0]
        rival = Producer(slot._config)
        rival.init_transactions(30)
        assert await appender.append_transaction([(topic, KEY, b"1", None)])

    run(work, kafka_options, producers=1)
    assert [message.value() for message in committed(kafka_options, topic)] == [b"0", b"1"]


def clients() -> int:
    """librdkafka clients of this process: each has one main thread."""
    names = Path("/proc/self/task").glob("*/comm")
    return sum(name.read_text().startswith("rdk:main") for name in names)


class Doubtful:
    """A real producer whose commit is done, or not, but never answered."""

    def __init__(self, producer: Producer, *, commits: bool) -> None:
        self._producer = producer
        self._commits = commits

    def commit_transaction(self, timeout_s: float) -> None:
        if self._commits:
            self._producer.commit_transaction(timeout_s)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


@pytest.mark.parametrize("commits", [True, False])
def test_after_a_commit_without_an_answer_the_outcome_is_settled_before_the_next(
    kafka_options: KafkaOptions, topic: str, *, commits: bool
) -> None:
    async def work(appender: Appender) -> None:
        await appender.append_transaction([(topic, KEY, b"0", None)])
        gc.collect()
        before = clients()
        gc.disable()
        slot = appender._threads[0]._args[0]
        slot._producer = Doubtful(slot._producer, commits=commits)
        with pytest.raises(AppendFailed, match="not known") as caught:
            await appender.append_transaction([(topic, KEY, b"doubt", None), (topic, b"t/2", b"doubt", 3)])
        assert "by event_id" in caught.value.remedy
        await appender.append_transaction([(topic, KEY, b"1", None)])
        assert clients() <= before, "the producer that failed lives on"
        assert caught.value.__traceback__

    try:
        run(work, kafka_options, producers=1, transaction_timeout_ms=5_000)
    finally:
        gc.enable()
    values = [message.value() for message in committed(kafka_options, topic)]
    assert values.count(b"doubt") == (2 if commits else 0)
    assert [value for value in values if value != b"doubt"] == [b"0", b"1"]


def test_callers_beyond_the_bound_are_refused_at_once_and_the_rest_after_the_wait() -> None:
    nowhere = KafkaOptions("127.0.0.1:1", client_id="test-nowhere")

    async def work(appender: Appender) -> tuple[list[Any], float]:
        began = time.perf_counter()
        request = appender.append_transaction
        answers = await asyncio.gather(
            *(request([("t", KEY, b"v", None)]) for _ in range(5)), return_exceptions=True
        )
        return answers, time.perf_counter() - began

    answers, took_s = run(
        work, nowhere, producers=1, waiting_requests_max=3, wait_ms_max=500, transaction_timeout_ms=3_000
    )
    assert all(isinstance(answer, AppendFailed) and answer.overloaded for answer in answers)
    assert sum("wait already" in str(answer) for answer in answers) == 2
    assert sum("waited 500 ms" in str(answer) for answer in answers) == 3
    assert 0.5 <= took_s < 10


def test_callers_beyond_the_bound_in_bytes_are_refused() -> None:
    nowhere = KafkaOptions("127.0.0.1:1", client_id="test-nowhere")

    async def work(appender: Appender) -> list[Any]:
        request = appender.append_transaction
        return await asyncio.gather(
            *(request([("t", KEY, b"v" * 60, None)]) for _ in range(2)), return_exceptions=True
        )

    answers = run(
        work, nowhere, producers=1, waiting_bytes_max=100, wait_ms_max=200, transaction_timeout_ms=1_000
    )
    assert "69 bytes wait already" in str(answers[1])


def test_a_broker_that_is_not_there_is_an_answer_in_time() -> None:
    nowhere = KafkaOptions("127.0.0.1:1", client_id="test-nowhere")

    async def work(appender: Appender) -> float:
        await asyncio.sleep(1.2)  # the thread has given up to connect and waits for work
        began = time.perf_counter()
        with pytest.raises(AppendFailed, match=r"127\.0\.0\.1:1|timed out|overloaded"):
            await appender.append_transaction([("t", KEY, b"v", None)])
        return time.perf_counter() - began

    assert run(work, nowhere, producers=1, transaction_timeout_ms=1_000) < 30


def test_close_appends_what_waits_and_then_refuses(kafka_options: KafkaOptions, topic: str) -> None:
    async def work() -> list[Any]:
        appender = Appender(kafka_options)
        requests = [
            asyncio.create_task(appender.append_transaction([(topic, KEY, b"%d" % n, None)]))
            for n in range(200)
        ]
        await asyncio.sleep(0)
        await appender.close()
        with pytest.raises(AppendFailed, match="stopping"):
            await appender.append_transaction([(topic, KEY, b"late", None)])
        return await asyncio.gather(*requests)

    answers = asyncio.run(work())
    assert len(answers) == 200
    values = [message.value() for message in committed(kafka_options, topic)]
    assert sorted(values) == sorted(b"%d" % n for n in range(200))


def test_a_caller_that_gives_up_harms_nobody(kafka_options: KafkaOptions, topic: str) -> None:
    async def work(appender: Appender) -> None:
        gone = [
            asyncio.create_task(appender.append_transaction([(topic, KEY, b"gone", None)])) for _ in range(50)
        ]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        await appender.append_transaction([(topic, KEY, b"stays", None)])

    run(work, kafka_options, producers=2)
    assert [m.value() for m in committed(kafka_options, topic)].count(b"stays") == 1
