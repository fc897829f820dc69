"""Hands the records of dead letters in again: the record, and that it was handed in, in one transaction.

Or it hands them back to the agent that could not handle them (``handbacks.py``): then the note is the order.

The order is what makes a replay happen once, whoever runs it and however often:

1. Take the one transactional id that every replay has. It fences who had it, and the broker ends what that
   one had open.
2. Read which letters were replayed: nobody else can add to it unseen from here on.
3. A batch is one transaction of records and facts. A batch that fails ends the replay; it is never tried
   again from the same knowledge.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import KafkaUnavailable, ReplayFailed
from schemas.errors import WireError
from schemas.topics import DEAD_REPLAYS, MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.kafka.deadletters import DeadLetter
    from connectors.kafka.options import KafkaOptions
    from schemas.wire import WireCodec

BATCH_RECORDS_MAX: Final = 500
BATCH_BYTES_MAX: Final = 4 * MIB  # of one transaction; the largest letter alone is a quarter of it
_TIMEOUT_MS: Final = 30_000
_ASK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Handover:
    """A letter, and where its record goes."""

    letter: DeadLetter
    topic: str
    """With its prefix."""
    partition: int | None
    """None = by the key."""
    role: str = ""
    """Whose agent has the record back, where it stands; empty = it is appended."""
    generation: int = 0
    """Of the role."""


class Replay(NamedTuple):
    """That a letter's record was handed in again, or is to be handed back."""

    number: int
    """Offset in the topic of replays."""
    letter_time_us: int
    time_us: int
    topic: str
    partition: int
    role: str
    generation: int
    by: str
    reason: str


class Replays:
    """What was replayed so far; reading it changes nothing."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec) -> None:
        self._kafka = kafka
        self._codec = codec

    def done(self) -> dict[str, int]:
        """Return the letters that were handed in again: id → when the letter was written, in microseconds.

        Raises as ``all``.
        """
        return {letter_id: replay.letter_time_us for letter_id, replay in self.all().items()}

    def all(self) -> dict[str, Replay]:
        """Return the last replay of each letter, by its id.

        Raises:
            KafkaUnavailable: no answer.
        """
        reader = CommittedReader(self._kafka, DEAD_REPLAYS.named(self._kafka.topic_prefix))
        found: dict[str, Replay] = {}
        try:
            for message in reader.present():
                try:
                    fact = self._codec.decode(bytes(message.value() or b""), DEAD_REPLAYS.subject)
                except WireError:
                    continue  # somebody else's
                found[f"{fact['partition']}:{fact['offset']}"] = Replay(
                    int(message.offset() or 0), fact["letter_time_us"], message.timestamp()[1] * 1_000,
                    fact["to_topic"], fact["to_partition"], fact.get("to_role", ""),
                    fact.get("to_generation", 0), fact["by"], fact["reason"],
                )  # fmt: skip
        finally:
            reader.close()
        return found


class Replayer:
    """See the module's docstring; ``open``, then ``Replays.done``, then ``hand_in`` as often as needed."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec, *, by: str, reason: str = "") -> None:
        self._kafka = kafka
        self._codec = codec
        self._facts = DEAD_REPLAYS.named(kafka.topic_prefix)
        self._told = {"by": by, "reason": reason}
        self._producer: Producer | None = None

    def open(self) -> None:
        """Become the only one who replays.

        Raises:
            UnknownType: the schema of what is kept is not registered.
            KafkaUnavailable: no answer.
        """
        self._codec.warm((DEAD_REPLAYS.subject,))
        producer = Producer(
            self._kafka.client_config()
            | {
                "transactional.id": f"{self._kafka.topic_prefix}sluicegate.dead-letter-replay",
                "transaction.timeout.ms": _TIMEOUT_MS,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "partitioner": "murmur2_random",  # librdkafka's own default would split a stream
            }
        )
        try:
            producer.init_transactions(_TIMEOUT_MS / 1_000)
        except KafkaException as error:
            raise KafkaUnavailable(self._kafka.bootstrap_servers, error.args[0].str()) from None
        self._producer = producer

    def hand_in(self, batch: Sequence[Handover]) -> list[tuple[int, int]]:
        """Append the records of a batch and that they were, or nothing; return (partition, offset) of each.

        Of one that is handed back only the order is appended: its record stays where it is.

        Raises:
            ReplayFailed: nothing of the batch was appended, or nobody knows; the next replay does.
        """
        producer = self._producer
        assert producer is not None, "opened first"
        self._producer = None  # until the batch is in: one that failed is not gone on with
        where: dict[int, tuple[int, int]] = {}
        failed: list[KafkaError] = []
        try:
            producer.begin_transaction()
            for number, handover in enumerate(batch):
                self._produce(producer, handover, number, where, failed)
            _acknowledged(producer, failed)
            _commit(producer)
        except (KafkaException, BufferError, SystemError) as error:
            # SystemError: confluent-kafka raises "fenced" under the feet of whatever callback runs just then.
            _abort(producer)
            raise ReplayFailed(_said(error)) from None
        self._producer = producer
        return [where[number] for number in range(len(batch))]

    def _produce(
        self,
        producer: Producer,
        handover: Handover,
        number: int,
        where: dict[int, tuple[int, int]],
        failed: list[KafkaError],
    ) -> None:
        letter = handover.letter

        def appended(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                failed.append(error)
            else:
                where[number] = (message.partition(), message.offset())

        def noted(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        partition = -1 if handover.partition is None else handover.partition
        if handover.role:
            where[number] = letter.from_partition, letter.from_offset
        else:
            producer.produce(
                handover.topic,
                letter.value,
                letter.key,
                partition=partition,
                on_delivery=appended,
                headers=list(letter.headers),
            )
        producer.produce(
            self._facts, self._fact(handover, partition), letter.id.encode(), partition=0, on_delivery=noted
        )
        producer.poll(0)

    def _fact(self, handover: Handover, partition: int) -> bytes:
        letter = handover.letter
        fact: Mapping[str, object] = {
            "partition": letter.partition,
            "offset": letter.offset,
            "letter_time_us": letter.time_us,
            "to_topic": handover.topic,
            "to_partition": partition,
            "to_role": handover.role,
            "to_generation": handover.generation,
            **self._told,
        }
        return self._codec.encode(DEAD_REPLAYS.subject, fact)


def _acknowledged(producer: Producer, failed: list[KafkaError]) -> None:
    """Wait until the broker has every record; ``failed`` is filled meanwhile."""
    left = producer.flush(_TIMEOUT_MS / 1_000)
    if failed or left:
        raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001


def _commit(producer: Producer) -> None:
    deadline = time.monotonic() + _TIMEOUT_MS / 1_000
    while True:
        try:
            producer.commit_transaction(_ASK_S)
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            # the call goes on where it stood
        else:
            return


def _said(error: Exception) -> str:
    cause = error.__cause__ or error
    first = cause.args[0] if cause.args else cause
    return first.str() if isinstance(first, KafkaError) else str(first)


def _abort(producer: Producer) -> None:
    """End what is open, as far as the broker answers; the next replay's producer ends the rest."""
    try:
        producer.abort_transaction(_ASK_S)
    except (KafkaException, SystemError):
        producer.purge()
