"""How far a group is behind, in records and in seconds, against what it may read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.kafka.access import REFUSALS, refusal
from connectors.kafka.positions import Committed, read_metadata

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
    """Return the offsets alone of ``committed_positions``; raises as that."""
    return {at: committed.offset for at, committed in committed_positions(options, group).items()}


def committed_positions(options: KafkaOptions, group: str) -> dict[tuple[str, int], Committed]:
    """Return what a group (its full name) has committed, by topic and partition.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: an ACL is missing.
    """
    admin = AdminClient(options.client_config())
    try:
        found = _committed(options, admin, group, _all_partitions(admin))
    except KafkaException as error:
        raise refusal(options, f"Describe group {group}", error.args[0]) from error
    return found


def group_lag(options: KafkaOptions, group: str) -> list[PartitionLag]:
    """Return the lag of a group (its full name) on each partition of each topic that it commits, worst first.

    A group that the broker does not know has none. May block for some seconds.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: an ACL is missing.
    """
    admin = AdminClient(options.client_config())
    try:
        there = _all_partitions(admin)
        committed = _committed(options, admin, group, there)
        if not committed:
            return []
        topics = {topic for topic, _ in committed}
        partitions = [at for at in there if at[0] in topics]
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
                standstill=committed.get(at, _NEVER).standstill,
            )
        )
    return sorted(lags, key=lambda lag: (-lag.seconds, -lag.records, lag.topic, lag.partition))


def first_offsets(options: KafkaOptions, at: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return where the logs of partitions begin, of topics that exist; raises KafkaException."""
    admin = AdminClient(options.client_config())
    there = set(_all_partitions(admin))
    found = [one for one in at if one in there]
    return _offsets(admin, found, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED) if found else {}


_At = tuple[str, int]


_NEVER: Final = Committed(-1, None)


def _committed(
    options: KafkaOptions, admin: AdminClient, group: str, partitions: Sequence[_At]
) -> dict[_At, Committed]:
    """Ask by a consumer, of all partitions that there are; it joins nothing.

    The admin client's own question ends the process (SIGSEGV, librdkafka issue 5040) where the broker that
    it asks is not, or not yet, the group's coordinator: as when a cluster's first groups come up.
    """
    _see_it_is_allowed(admin, group)
    if not partitions:
        return {}
    consumer = Consumer(
        options.client_config()
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",  # an open transaction's offsets are not waited for
        }
    )
    try:
        found = consumer.committed([TopicPartition(*at) for at in partitions], timeout=_CALL_S)
    finally:
        consumer.close()
    return {
        (at.topic, at.partition): Committed(at.offset, *read_metadata(at.metadata))
        for at in found
        if at.offset >= 0
    }


def _see_it_is_allowed(admin: AdminClient, group: str) -> None:
    """Raise KafkaException where an ACL is missing, for which a consumer would ask until its time is over."""
    (future,) = admin.describe_consumer_groups([group], request_timeout=_CALL_S).values()
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() in REFUSALS:
            raise


def _all_partitions(admin: AdminClient) -> list[_At]:
    # A topic that was removed still has offsets; it has nothing to be behind on.
    topics = admin.list_topics(timeout=_CALL_S).topics
    return sorted((name, partition) for name, topic in topics.items() for partition in topic.partitions)


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
