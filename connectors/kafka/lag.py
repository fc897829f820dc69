"""How far a group is behind, in records and in seconds, against what it may read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.kafka.access import refusal
from connectors.kafka.positions import read_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions

_CALL_S: Final = 10.0
_PEEK_S: Final = 5.0


class PartitionLag(NamedTuple):
    """How far a group is behind on one partition."""

    topic: str
    partition: int
    committed: int
    """Next offset that the group will read; -1 = it never committed here."""
    last_stable: int
    """End of what a reader of committed records may see."""
    high_watermark: int
    """End of the log; beyond ``last_stable`` a transaction is open."""
    records: int
    """Offsets from ``committed`` to ``last_stable``: markers of transactions count, unless they are all."""
    seconds: float
    """Age of the first record that was not consumed, by its timestamp and this machine's clock; 0 = none."""
    standstill: str = ""
    """Why the group does not pass the event at ``committed``; empty = it does."""


def committed_offsets(options: KafkaOptions, group: str) -> dict[tuple[str, int], int]:
    """Return the offsets that a group (its full name) has committed, by topic and partition.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: an ACL is missing.
    """
    try:
        found = _committed(AdminClient(options.client_config() | {"log_level": 0}), group)
    except KafkaException as error:
        raise refusal(options, f"Describe group {group}", error.args[0]) from error
    return {at: committed.offset for at, committed in found.items()}


def group_lag(options: KafkaOptions, group: str) -> list[PartitionLag]:
    """Return the lag of a group (its full name) on each partition of each topic that it commits, worst first.

    A group that the broker does not know has none. May block for some seconds.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: an ACL is missing.
    """
    admin = AdminClient(options.client_config() | {"log_level": 0})
    try:
        committed = _committed(admin, group)
        if not committed:
            return []
        partitions = _all_partitions(admin, {topic for topic, _ in committed})
        first = _offsets(admin, partitions, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        stable = _offsets(admin, partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        high = _offsets(admin, partitions, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        start = {at: max(committed.get(at, _NEVER).offset, first[at]) for at in partitions}
        behind = [at for at in partitions if start[at] < stable[at]]
        oldest = _first_timestamps(options, group, {at: start[at] for at in behind})
    except KafkaException as error:
        raise refusal(options, f"Describe group {group} and its topics", error.args[0]) from error
    now_ms = time.time() * 1_000
    lags = []
    for at in partitions:
        timestamp_ms = oldest.get(at)
        nothing = at not in oldest  # all that is left are markers of transactions
        lags.append(
            PartitionLag(
                topic=at[0],
                partition=at[1],
                committed=committed.get(at, _NEVER).offset,
                last_stable=stable[at],
                high_watermark=high[at],
                records=0 if nothing else stable[at] - start[at],
                seconds=0.0 if timestamp_ms is None else max(0.0, (now_ms - timestamp_ms) / 1_000),
                standstill=committed.get(at, _NEVER).note,
            )
        )
    return sorted(lags, key=lambda lag: (-lag.seconds, -lag.records, lag.topic, lag.partition))


def first_offsets(options: KafkaOptions, at: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return where the logs of partitions begin, of topics that exist; raises KafkaException."""
    admin = AdminClient(options.client_config() | {"log_level": 0})
    there = set(_all_partitions(admin, {topic for topic, _ in at}))
    found = [one for one in at if one in there]
    return _offsets(admin, found, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED) if found else {}


_At = tuple[str, int]


class _Committed(NamedTuple):
    offset: int
    note: str


_NEVER: Final = _Committed(-1, "")


def _committed(admin: AdminClient, group: str) -> dict[_At, _Committed]:
    asked = [ConsumerGroupTopicPartitions(group)]
    (future,) = admin.list_consumer_group_offsets(asked, request_timeout=_CALL_S).values()
    try:
        found = future.result().topic_partitions or ()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return {}
        raise
    return {
        (at.topic, at.partition): _Committed(at.offset, read_metadata(at.metadata)[1])
        for at in found
        if at.offset >= 0
    }


def _all_partitions(admin: AdminClient, topics: set[str]) -> list[_At]:
    found = admin.list_topics(timeout=_CALL_S).topics
    # A topic that was removed still has offsets; it has nothing to be behind on.
    return sorted(
        (topic, partition) for topic in topics if topic in found for partition in found[topic].partitions
    )


def _offsets(
    admin: AdminClient, partitions: Sequence[_At], spec: OffsetSpec, isolation: IsolationLevel
) -> dict[_At, int]:
    asked = {TopicPartition(*at): spec for at in partitions}
    answers = admin.list_offsets(asked, isolation_level=isolation, request_timeout=_CALL_S)
    return {(at.topic, at.partition): future.result().offset for at, future in answers.items()}


def _first_timestamps(options: KafkaOptions, group: str, start: dict[_At, int]) -> dict[_At, float | None]:
    """Return the timestamp (ms) of the first committed record from each start; absent = there is none.

    None = it could not be read in time, which is no reason to call the lag zero.
    """
    if not start:
        return {}
    found: dict[_At, float | None] = dict.fromkeys(start)
    consumer = Consumer(
        options.client_config()
        | {
            "log_level": 0,
            "group.id": f"{group}.lag",  # required, never joined: partitions are assigned by hand
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",  # retention may have passed the position meanwhile
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 65_536,  # one record of each is wanted
            "queued.max.messages.kbytes": 2_048,
        }
    )
    try:
        consumer.assign([TopicPartition(*at, offset) for at, offset in start.items()])
        waiting = set(start)
        deadline = time.monotonic() + _PEEK_S
        while waiting and time.monotonic() < deadline:
            for message in consumer.consume(num_messages=100, timeout=0.2):
                at = (message.topic(), message.partition())
                if at not in waiting:
                    continue
                error = message.error()
                if error is None:
                    found[at] = float(message.timestamp()[1])
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own name
                    del found[at]
                else:
                    continue
                waiting.discard(at)
                consumer.pause([TopicPartition(*at)])
    finally:
        consumer.close()
    return found
