"""What is deployed of each role, on record in a compacted topic; changed by one at a time, from what it read.

A record is changed like this, whoever starts at the same moment:

1. Take the one transactional id that everybody has for it. That fences who had it, and the broker ends what
   that one had open.
2. Read the role's record: nobody else can change it unseen from here on.
3. Append the new record in a transaction. Who was fenced meanwhile begins again at 1, from what stands then.

So two that decide at once decide one after the other; compaction keeps the latest, which is what counts.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.kafka.access import REFUSALS
from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import KafkaUnavailable, NotAuthorized
from schemas.access import ROSTER
from schemas.errors import WireError
from schemas.topics import DEPLOYED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.kafka.options import KafkaOptions
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

Row = dict[str, Any]
_TIMEOUT_MS: Final = 10_000
_TRIES_S: Final = 60.0  # far longer than all roles of a deployment take, one after the other
_FENCED: Final = frozenset(
    (
        KafkaError._FENCED,  # noqa: SLF001  # librdkafka's name
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.INVALID_TXN_STATE,
    )
)


class Roster:
    """The records of all roles; safe to share between threads."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec) -> None:
        self._kafka = kafka
        self._codec = codec
        self._topic = DEPLOYED.named(kafka.topic_prefix)
        self._reader: CommittedReader | None = None
        self._lock = threading.Lock()

    def read(self) -> dict[str, Row]:
        """Return the records by role, as of now; none where nobody made the topic. Blocks for milliseconds.

        Raises:
            KafkaUnavailable: no answer.
            NotAuthorized: an ACL is missing.
        """
        found: dict[str, Row] = {}
        with self._lock:
            if self._reader is None:
                self._reader = CommittedReader(self._kafka, self._topic)
            for message in self._reader.present():
                key = (message.key() or b"").decode("utf-8", "replace")
                value = message.value()
                try:
                    found[key] = self._codec.decode(value or b"", DEPLOYED.subject)
                except WireError as error:
                    log.warning("record of a role cannot be read", role=key, cause=str(error))
        return found

    def is_there(self) -> bool:
        """Say whether anybody made the topic; raises KafkaUnavailable."""
        with self._lock:
            if self._reader is None:
                self._reader = CommittedReader(self._kafka, self._topic)
            return bool(self._reader.partitions())

    def change(self, role: str, decide: Callable[[Row | None], Row | None]) -> Row | None:
        """Have ``decide`` make the role's new record of the one that stands, and keep it; returns what holds.

        ``decide`` may be asked again, with another record, if somebody else was quicker; it returns None to
        leave the record as it is, and what it raises goes through.

        Raises:
            KafkaUnavailable: no answer, or others change it all the time; nothing is known to be changed.
            NotAuthorized: an ACL is missing.
        """
        deadline = time.monotonic() + _TRIES_S
        while True:
            try:
                return self._try(role, decide)
            except (KafkaException, SystemError) as error:
                # SystemError: confluent-kafka raises "fenced" under the feet of whatever callback runs then.
                cause = _cause(error)
                if cause is not None and cause.code() in REFUSALS:
                    what = (
                        f"Write transactional id {self._kafka.topic_prefix}{ROSTER} and topic {self._topic}"
                    )
                    raise NotAuthorized(self._kafka.principal, what) from None
                again = cause is None or cause.code() in _FENCED or cause.retriable()
                if not again or time.monotonic() > deadline:
                    said = str(error) if cause is None else cause.str()
                    raise KafkaUnavailable(self._kafka.bootstrap_servers, said) from None
                time.sleep(random.uniform(0.05, 0.3))  # noqa: S311  # so that two do not keep step

    def close(self) -> None:
        """Let the connection go."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _try(self, role: str, decide: Callable[[Row | None], Row | None]) -> Row | None:
        producer = Producer(
            self._kafka.client_config()
            | {
                "transactional.id": f"{self._kafka.topic_prefix}{ROSTER}",
                "transaction.timeout.ms": _TIMEOUT_MS,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
                "log_level": 0,
            }
        )
        producer.init_transactions(_TIMEOUT_MS / 1_000)
        before = self.read().get(role)
        after = decide(before)
        if after is None or after == before:
            return before
        producer.begin_transaction()
        failed: list[KafkaError] = []
        producer.produce(
            self._topic,
            self._codec.encode(DEPLOYED.subject, after),
            role.encode(),
            partition=0,
            on_delivery=lambda error, _message: failed.append(error) if error is not None else None,
        )
        left = producer.flush(_TIMEOUT_MS / 1_000)
        if failed or left:
            producer.purge()
            raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        # One whose outcome is not known is settled by the next try: its record stands then, or does not.
        producer.commit_transaction(_TIMEOUT_MS / 1_000)
        return after


def store_of(row: Mapping[str, Any] | None, changelog: str) -> Row | None:
    """Return what a role's record says of one store, by its changelog's name in the code; None = nothing."""
    stores = row["stores"] if row is not None else ()
    return next((store for store in stores if store["changelog"] == changelog), None)


def _cause(error: BaseException) -> KafkaError | None:
    for one in (error, error.__cause__):
        if isinstance(one, KafkaException):
            cause: KafkaError = one.args[0]
            return cause
    return None
