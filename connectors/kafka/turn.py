"""A change of what topics hold, made of what they held: by one writer at a time, whoever starts at once.

1. Take the one transactional id that everybody has for it. That fences who had it, and the broker ends what
   that one had open.
2. Read, and decide: nobody else can change it unseen from here on.
3. Append in a transaction, in which a group's offsets may be committed, too. Who was fenced meanwhile, or
   does not know what became of it, begins again at 1, from what stands then.
4. Wait for the markers: a commit is answered before what it committed can be read.
"""

from __future__ import annotations

import random
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from connectors.kafka.access import REFUSALS
from connectors.kafka.errors import KafkaUnavailable, NotAuthorized, PositionRefused
from connectors.kafka.ports import Backoff
from connectors.kafka.positions import PositionReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions

    Records = Sequence[tuple[str, bytes, bytes | None]]
    """Topic, key and value of each; all on partition 0."""

_TIMEOUT_MS: Final = 10_000
_SEEN_S: Final = 5.0
_LOOK_S: Final = 0.01
_BACKOFF: Final = Backoff(first_ms=100, ms_max=4_000)
_TRIES_S: Final = 60.0  # far longer than a few people take, one after the other
_ANEW: Final = frozenset(
    (
        KafkaError.UNKNOWN,  # "Unknown broker error": whether it took place nobody knows
        KafkaError._FENCED,  # noqa: SLF001  # librdkafka's name
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.INVALID_TXN_STATE,
    )
)


class _Unheard:
    """Takes what librdkafka says of a producer: to be fenced is how this works, and it calls it fatal."""

    def log(self, *_: object) -> None:
        """Take a line, as a ``logging.Logger`` does."""


class Commits(NamedTuple):
    """Offsets that a group without members begins at."""

    group: str
    offsets: Mapping[tuple[str, int], int]


def change(
    kafka: KafkaOptions,
    transactional_id: str,
    topics: Sequence[str],
    decide: Callable[[], Records],
    commits: Commits | None = None,
) -> None:
    """Append to ``topics`` what ``decide`` makes of what it reads; nothing if it makes nothing.

    ``decide`` is asked again if somebody else was quicker, and what it raises goes through. ``commits`` takes
    place if and only if something is appended.

    Raises:
        KafkaUnavailable: no answer, or others change it all the time; nothing is known to be changed.
        NotAuthorized: an ACL is missing.
    """
    deadline = time.monotonic() + _TRIES_S
    tries = 0
    while True:
        tries += 1
        try:
            return _try(kafka, transactional_id, decide, commits)
        except (KafkaException, SystemError) as error:
            # SystemError: confluent-kafka raises "fenced" under the feet of whatever callback runs then.
            cause = _cause(error)
            if cause is not None and cause.code() in REFUSALS:
                what = f"Write transactional id {transactional_id} and topic {', '.join(topics)}"
                what += f", Read group {commits.group}" if commits is not None else ""
                raise NotAuthorized(kafka.principal, what) from None
            again = cause is None or cause.code() in _ANEW or cause.retriable() or cause.txn_requires_abort()
            if not again or time.monotonic() > deadline:
                said = str(error) if cause is None else cause.str()
                raise KafkaUnavailable(kafka.bootstrap_servers, said) from None
            # So that two do not keep step; and who is many, on a slow broker, leaves each other time to end.
            time.sleep(_BACKOFF.seconds(tries) * random.uniform(0.5, 1.5))  # noqa: S311  # nobody guesses it


def _try(
    kafka: KafkaOptions, transactional_id: str, decide: Callable[[], Records], commits: Commits | None
) -> None:
    producer = Producer(
        kafka.client_config()
        | {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": _TIMEOUT_MS,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
            "logger": _Unheard(),
        }
    )
    producer.init_transactions(_TIMEOUT_MS / 1_000)
    records = decide()
    if not records:
        return
    producer.begin_transaction()
    failed: list[KafkaError] = []
    ends: dict[str, int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error)
        else:
            ends[str(message.topic())] = int(message.offset() or 0) + 1

    for topic, key, value in records:
        producer.produce(topic, value, key, partition=0, on_delivery=delivered)
    left = producer.flush(_TIMEOUT_MS / 1_000)
    if failed or left:
        producer.purge()
        raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    if commits is not None:
        _commit(kafka, producer, commits)
    # One whose outcome is not known is settled by the next try, which decides from what stands then.
    producer.commit_transaction(_TIMEOUT_MS / 1_000)
    _wait_until_seen(kafka, transactional_id, ends)
    if commits is not None:
        _wait_until_stable(kafka, commits)


def _commit(kafka: KafkaOptions, producer: Producer, commits: Commits) -> None:
    parts = [TopicPartition(*at, offset) for at, offset in commits.offsets.items()]
    with closing(Consumer(kafka.client_config() | {"group.id": commits.group})) as consumer:
        producer.send_offsets_to_transaction(parts, consumer.consumer_group_metadata(), _TIMEOUT_MS / 1_000)


def _wait_until_seen(kafka: KafkaOptions, group: str, ends: Mapping[str, int]) -> None:
    """Return when readers find what was committed, or nobody says so: it is committed all the same."""
    deadline = time.monotonic() + _SEEN_S
    with closing(PositionReader(kafka, group)) as positions, suppress(KafkaUnavailable, PositionRefused):
        for topic, end in ends.items():
            while positions.stable_end(topic, 0) < end and time.monotonic() < deadline:
                time.sleep(_LOOK_S)


def _wait_until_stable(kafka: KafkaOptions, commits: Commits) -> None:
    """Return when the group's offsets are those: until then whoever asks is told that there are none."""
    with (
        closing(PositionReader(kafka, commits.group)) as positions,
        suppress(KafkaUnavailable, PositionRefused),
    ):
        for at in commits.offsets:
            positions.committed(*at)


def _cause(error: BaseException) -> KafkaError | None:
    for one in (error, error.__cause__):
        if isinstance(one, KafkaException):
            cause: KafkaError = one.args[0]
            return cause
    return None
