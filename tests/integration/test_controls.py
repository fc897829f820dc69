"""What a role hears of the control topic, as it stands in a real Kafka."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer

from pipelines.controls import Controls
from schemas.topics import CONTROLS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry


def write(kafka: KafkaOptions, *records: tuple[bytes, bytes | None]) -> None:
    producer = Producer(kafka.client_config())
    for key, value in records:
        producer.produce(CONTROLS.named(kafka.topic_prefix), value, key)
    assert producer.flush(10) == 0


def control(registry: Registry, role: str, partition: int = -1, action: str = "pause") -> bytes:
    fields = {"role": role, "partition": partition, "action": action}
    return WireCodec(registry).encode(CONTROLS.subject, fields)


async def until(holds: Any) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  it is told by nobody
            await asyncio.sleep(0.02)


def test_what_holds_is_known_before_the_start_and_what_is_others_or_unreadable_is_left_alone(
    kafka_options: KafkaOptions, registry: Registry, topics: Any
) -> None:
    topics(CONTROLS)
    write(
        kafka_options,
        (b"mine/1", control(registry, "mine", 1)),
        (b"mine/2", control(registry, "mine", 2)),
        (b"mine/2", None),
        (b"mine/3", control(registry, "mine", 3, "dance")),  # of a later version
        (b"mine/0", b"no avro"),
        (b"other", control(registry, "other")),
        (b"mine/x", control(registry, "mine")),
    )

    async def scenario() -> None:
        heard: list[list[bool]] = []
        controls = Controls(kafka_options, "mine", WireCodec(registry))
        await controls.start(lambda _back: heard.append([controls.is_paused(number) for number in range(4)]))
        assert heard == [[False, True, False, False]]
        write(kafka_options, (b"mine", control(registry, "mine")))
        await until(lambda: len(heard) == 2)
        write(kafka_options, (b"mine", None), (b"mine/1", None))
        await until(lambda: heard[-1] == [False] * 4)
        assert heard[1] == [True] * 4
        await controls.stop()

    asyncio.run(scenario())


def test_a_role_starts_without_the_topic_and_obeys_once_it_is_there(
    kafka_options: KafkaOptions, registry: Registry, topics: Any
) -> None:
    async def scenario() -> None:
        controls = Controls(kafka_options, "mine", WireCodec(registry))
        await controls.start(lambda _taken_back: None)
        assert not controls.is_paused(0)
        await asyncio.to_thread(topics, CONTROLS)
        await asyncio.to_thread(write, kafka_options, (b"mine", control(registry, "mine")))
        await until(lambda: controls.is_paused(0))
        await controls.stop()

    asyncio.run(scenario())
