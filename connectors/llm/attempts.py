"""Reads one operation's attempts from the ledger, with what is kept of them: what became of it."""

from __future__ import annotations

from contextlib import closing
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import NoSuchTopic, NotAuthorized
from connectors.llm.ledger import Attempt, attempt_of
from schemas.topics import LLM_ATTEMPTS, LLM_CONTENTS, partition_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec

_CLOCKS_MS: Final = 60_000
"""How far a worker's clock may be before the brokers', by which Kafka looks for a time."""


class _Place(NamedTuple):
    """Which attempt a row is of: of a name that was asked for anew, two may have one number."""

    partition: int
    offset: int
    """… of the question."""
    attempt: int


class Found(NamedTuple):
    """What the ledger tells of an operation."""

    attempts: list[Attempt]
    """As they ended; see ``as_ended``."""
    refused: NotAuthorized | None
    """Why what was sent and what came is not told, if so: who sees what calls cost need not see that."""


def attempts_of(kafka: KafkaOptions, codec: WireCodec, tenant: str, stream_id: str) -> Found:
    """Return the attempts of a stream as the ledger has them at this moment.

    Reads the partition that has them from its beginning, and that of what is kept of them from when it was
    asked on: what is another's is passed over by its key.

    Raises:
        NoSuchTopic: nobody has made the ledger.
        KafkaUnavailable, NotAuthorized: it cannot be read.
        WireError: a row of the stream cannot be read.
    """
    operation = f"{tenant}/{stream_id}".encode()
    ledger = _rows(kafka, codec, LLM_ATTEMPTS, operation)
    if ledger is None:
        raise NoSuchTopic(LLM_ATTEMPTS.named(kafka.topic_prefix))
    if not ledger:
        return Found([], None)
    # When it was asked is as whoever asked says; when a call began, as a worker says.
    began_us = min(min(row.requested_us, row.started_us or row.requested_us) for row in ledger.values())
    refused = None
    try:
        contents = _rows(kafka, codec, LLM_CONTENTS, operation, began_us // 1_000 - _CLOCKS_MS)
    except NotAuthorized as error:
        contents, refused = None, error
    for place, kept in (contents or {}).items():
        if place in ledger:
            ledger[place].input_json, ledger[place].output_json = kept.input_json, kept.output_json
    return Found(as_ended(ledger.values()), refused)


def _rows(
    kafka: KafkaOptions, codec: WireCodec, spec: TopicSpec, operation: bytes, since_ms: int = 0
) -> dict[_Place, Attempt] | None:
    """Give the latest row of each attempt of an operation; None = there is no such topic."""
    found: dict[_Place, Attempt] = {}
    with closing(CommittedReader(kafka, spec.named(kafka.topic_prefix))) as reader:
        partitions = reader.partitions()
        if not partitions:
            return None
        partition = partition_of(operation, len(partitions))
        start, high = reader.bounds(partition)
        if since_ms > 0:
            start = max(start, reader.since(partition, since_ms))
        for message in reader.read({partition: start}, {partition: high}) if start < high else ():
            key, value = message.key() or b"", message.value()
            if value is not None and key.rpartition(b"/")[0] == operation:
                row = attempt_of(codec.decode(value, spec.subject))
                found[_Place(row.request_partition, row.request_offset, row.attempt)] = row
    return found


def as_ended(rows: Iterable[Attempt]) -> list[Attempt]:
    """Put attempts in the order in which they ended, those under way last.

    That an operation ended without another call is attempt 0, whatever was tried before.
    """
    return sorted(rows, key=lambda row: (row.ended_us or inf, row.attempt == 0, row.attempt))
