"""Dead letters in a real topic: the largest that there can be is taken, and read again."""

from __future__ import annotations

import random

from confluent_kafka import Producer

from connectors.kafka.deadletters import DeadLetterReader
from pipelines.tools import DeadLetterMaker
from schemas.catalog import LocalSchemas
from schemas.record import Record
from schemas.topics import DEAD_LETTERS, EVENT_BYTES_MAX, MIB
from schemas.wire import WireCodec

RANDOM = random.Random(3)  # of bytes that do not compress
SCHEMAS = LocalSchemas()


def test_letters_of_the_largest_records_are_taken_and_read(kafka_options, topics):
    topics(DEAD_LETTERS)
    maker = DeadLetterMaker(WireCodec(SCHEMAS))
    producer = Producer(kafka_options.client_config() | {"compression.type": "lz4"})
    given = {
        0: (b"k" * 193, RANDOM.randbytes(EVENT_BYTES_MAX - 193)),
        1: (RANDOM.randbytes(600_000), RANDOM.randbytes(400_000)),
        2: (RANDOM.randbytes(2 * MIB), RANDOM.randbytes(3 * MIB)),
    }
    failed = []
    for partition, (key, value) in given.items():
        record = Record("t", partition, 7, 0, key, value)
        letter = maker.letter(record, agent="a", cause="TooLarge", detail="d" * 9_000, attempts=1)
        producer.produce(
            DEAD_LETTERS.named(kafka_options.topic_prefix), letter.value, letter.key,
            partition=letter.partition, on_delivery=lambda error, _message: failed.append(error),
        )  # fmt: skip
    assert producer.flush(30) == 0
    assert failed == [None] * 3

    codec = WireCodec(SCHEMAS, value_bytes_max=DEAD_LETTERS.max_message_bytes)
    reader = DeadLetterReader(kafka_options, codec)
    found = {letter.from_partition: letter for letter in reader.newest(9)}
    reader.close()
    for partition in (0, 1):
        assert (found[partition].key, found[partition].value) == given[partition]
    assert f"value of {3 * MIB} bytes, read it at its coordinates" in found[2].detail
    assert given[2][1].startswith(found[2].value)
    assert len(found[2].value) > MIB
    assert all(letter.time_us > 0 for letter in found.values())
