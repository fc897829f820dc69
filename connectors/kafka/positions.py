"""Where a partition stands: committed offsets, the log's ends, a topic's identity."""

from __future__ import annotations

import re
import time
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition

from connectors.kafka.errors import KafkaUnavailable, PositionRefused

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from connectors.kafka.options import KafkaOptions

# What the broker says on purpose. All else may pass: a coordinator that moves, a broker that is away.
_REFUSED = {
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,  # noqa: SLF001  # librdkafka's name for it
    KafkaError.INVALID_GROUP_ID,
    KafkaError.UNSUPPORTED_VERSION,
}
# A partition that was just made, or whose broker went, has a leader that not every broker knows yet.
_LEADERLESS = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001  # librdkafka's name for one that nobody led when it asked
}
_METADATA = re.compile(r"(?P<unit>[0-9]+)(\+(?P<handback>[0-9]+))?( (?P<note>.*))?\Z", re.DOTALL)
_SILENT = "silent_us="  # a note on why a partition stands still begins with the name of an error
_TRIES_A_CLIENT = 10
_CALL_S = 10.0
_TRIES_S = 60.0


class Committed(NamedTuple):
    """A group's committed position of one partition."""

    offset: int
    unit: int | None
    """Number of the unit of work that committed it."""
    note: str = ""
    """What was committed beside it."""
    handback: int = -1
    """Number of the last hand-back that its partition has had; see ``handbacks.py``. -1 = it had none."""

    @property
    def silent_us(self) -> int:
        """How much silence steps have counted at this offset; see ``idle.py``."""
        return silence_in(self.note) or 0

    @property
    def standstill(self) -> str:
        """Why the group does not pass the event at this offset; empty = it does."""
        return "" if silence_in(self.note) is not None else self.note


def metadata_of(unit: int, note: str, handback: int = -1) -> str:
    """Return what is committed beside an offset: the unit's number, the last hand-back's, and a note.

    As ``17``, ``17+3`` or ``17+3 note``.
    """
    return f"{unit}{f'+{handback}' if handback >= 0 else ''} {note}".rstrip()


def read_metadata(metadata: str | None) -> tuple[int | None, str, int]:
    """Return the unit's number (None if somebody else committed it), the note, and the last hand-back's."""
    found = _METADATA.match(metadata or "")
    if found is None:
        return None, "", -1
    return int(found["unit"]), found["note"] or "", int(found["handback"] or -1)


def silence_note(silent_us: int) -> str:
    """Return the note that so much silence was counted at an offset."""
    return f"{_SILENT}{silent_us}"


def silence_in(note: str) -> int | None:
    """Return what ``silence_note`` says, None if the note is another."""
    return int(note[len(_SILENT) :]) if note.startswith(_SILENT) else None


class PositionReader:
    """Asks the broker on behalf of one group; thread-safe.

    ``committed`` waits for transactions of a member that died (``require_stable``): at most the
    transaction's time-out, which is why it is asked off the poll thread.
    """

    def __init__(self, kafka: KafkaOptions, group: str) -> None:
        self._bootstrap = kafka.bootstrap_servers
        self._group = group
        self._kafka = kafka
        self._consumer = self._client("read_committed")
        # A read-committed client is told the last stable offset where the high watermark is asked for.
        self._log = self._client("read_uncommitted")
        self._admin = kafka.clients.admin(kafka.client_config())
        self._topic_ids: dict[str, str] = {}

    def _client(self, isolation_level: str) -> Any:
        return self._kafka.clients.consumer(
            self._kafka.client_config()
            | {"group.id": self._group, "isolation.level": isolation_level, "enable.auto.commit": False}
        )

    def committed(
        self, topic: str, partition: int, cancelled: threading.Event | None = None
    ) -> Committed | None:
        """Return the stable committed position, None if the group never committed this partition.

        Raises:
            PositionRefused: the group may not be read.
            KafkaUnavailable: no answer within a minute.
        """
        deadline = time.monotonic() + _TRIES_S
        while True:
            try:
                found = self._committed_once(topic, partition)
            except KafkaException as error:
                failure = self._named(f"group {self._group} on {topic}[{partition}]", error)
                over = time.monotonic() > deadline or (cancelled is not None and cancelled.is_set())
                if over or isinstance(failure, PositionRefused):
                    raise failure from error
                if error.args[0].code() == KafkaError._TIMED_OUT:  # noqa: SLF001  # librdkafka's name
                    # One that had a call under way in an outage has been seen to get no answer long after it.
                    self._consumer = self._client("read_committed")
                time.sleep(0.1)
            else:
                if found.offset < 0:
                    return None
                return Committed(found.offset, *read_metadata(found.metadata))

    def _committed_once(self, topic: str, partition: int) -> TopicPartition:
        (found,) = self._consumer.committed([TopicPartition(topic, partition)], timeout=_CALL_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return found

    def ends(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the log's first offset and its high watermark.

        Raises:
            PositionRefused: the topic may not be read.
            KafkaUnavailable: no answer.
        """
        return self._bounds(lambda: self._log, topic, partition)

    def stable_end(self, topic: str, partition: int) -> int:
        """Return the last stable offset: what an open transaction holds back is not there to be read.

        Raises:
            PositionRefused: the topic may not be read.
            KafkaUnavailable: no answer.
        """
        return self._bounds(lambda: self._consumer, topic, partition)[1]

    def _bounds(self, client: Callable[[], Any], topic: str, partition: int) -> tuple[int, int]:
        deadline = time.monotonic() + _CALL_S
        where, tries = TopicPartition(topic, partition), 0
        while True:
            try:
                low, high = client().get_watermark_offsets(where, timeout=_CALL_S)
            except KafkaException as error:
                if error.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
                    raise self._named(f"{topic}[{partition}]", error) from error
                tries += 1
                if tries % _TRIES_A_CLIENT == 0:  # it may keep for minutes what it was told while nobody led
                    self._consumer, self._log = (
                        self._client("read_committed"),
                        self._client("read_uncommitted"),
                    )
                time.sleep(0.1)
            else:
                return int(low), int(high)

    def topic_id(self, topic: str) -> str:
        """Return the topic's identity; a topic that was deleted and made anew has another.

        Raises:
            PositionRefused: the topic may not be described.
            KafkaUnavailable: no answer, or no such topic.
        """
        if topic not in self._topic_ids:
            future = self._admin.describe_topics(TopicCollection([topic]), request_timeout=_CALL_S)[topic]
            try:
                self._topic_ids[topic] = str(future.result(_CALL_S + 1).topic_id)
            except KafkaException as error:
                raise self._named(topic, error) from error
            except FutureTimeout as error:
                raise KafkaUnavailable(self._bootstrap, f"{topic}: no answer") from error
        return self._topic_ids[topic]

    def _named(self, what: str, error: KafkaException) -> KafkaUnavailable | PositionRefused:
        cause: KafkaError = error.args[0]
        if cause.code() in _REFUSED:
            return PositionRefused(what, cause.str())
        return KafkaUnavailable(self._bootstrap, f"{what}: {cause.str()}")

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()
        self._log.close()
