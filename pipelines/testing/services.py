"""What an agent under test runs on: Kafka in memory with the schemas of files, or the real parts."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from connectors.kafka.admin import delete_topics, ensure_topics
from connectors.kafka.errors import AppendFailed
from connectors.kafka.memory import MemoryKafka
from connectors.kafka.options import KafkaOptions
from connectors.kafka.rival import KafkaRival, MemoryRival
from connectors.registry import Registry
from pipelines.partitions import open_rocks
from schemas.catalog import LocalSchemas
from schemas.topics import TopicSpec
from state.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from connectors.kafka.rival import Rival
    from connectors.kafka.stage import Stage
    from pipelines.extension import Extension
    from pipelines.testing.records import Feed
    from schemas.catalog import SchemaSource
    from state.rocksdb import RocksMemory
    from state.store import Store

_APPEND_S: Final = 30.0
_AGE_MS_MAX: Final = 2**62  # a test's clock may stand at any time


@dataclass(frozen=True, slots=True)
class Stack:
    """Real parts that a test is run against: topics get a prefix of their own, and are deleted after it."""

    kafka: KafkaOptions
    registry_url: str


class Services(Protocol):
    """What a driver needs of the world."""

    kafka: KafkaOptions
    schemas: SchemaSource

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create those topics that are not there."""

    def append(self, feeds: Sequence[Feed]) -> None:
        """Append records, and wait until they stand in the log."""

    def register(self, subject: str, schema: str) -> int:
        """Register a schema's text and return its id."""

    def open_store(self, folder: Path, memory: RocksMemory, stores: int, /) -> Store:
        """Open an agent's store; see ``pipelines.partitions.OpenStore``."""

    def lose_state(self, folder: Path) -> None:
        """Lose what the store of a folder holds, as a disk is lost."""

    def rival(self, group: str, topics: Sequence[str]) -> Rival:
        """Have another member join a group that reads ``topics``, by their full names."""

    def close(self) -> None:
        """Leave nothing behind."""


class InMemory:
    """``Services`` without a broker, a registry or a disk."""

    def __init__(self, extension: Extension, stage: Stage) -> None:
        self._log = MemoryKafka(lambda: stage.now_us)
        self._stores: dict[Path, MemoryStore] = {}
        self.kafka = KafkaOptions("memory:0", clients=stage.clients(self._log.clients()))
        local = LocalSchemas(extension.schemas)
        self.schemas: SchemaSource = local
        self.register = local.register

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """See ``Services``."""
        self._log.create(specs)

    def append(self, feeds: Sequence[Feed]) -> None:
        """See ``Services``. All at once for whoever reads."""
        with self._log.changed:
            _append(self.kafka, feeds)

    def open_store(self, folder: Path, _memory: RocksMemory, _stores: int) -> Store:
        """See ``Services``; the budget of memory is RocksDB's alone."""
        return self._stores.setdefault(folder, MemoryStore(folder))

    def lose_state(self, folder: Path) -> None:
        """See ``Services``."""
        self._stores.pop(folder, None)

    def rival(self, group: str, topics: Sequence[str]) -> Rival:
        """See ``Services``."""
        return MemoryRival(self._log, group, topics)

    def close(self) -> None:
        """See ``Services``."""


class OnStack:
    """``Services`` of real Kafka, registry and RocksDB."""

    def __init__(self, stack: Stack, extension: Extension, stage: Stage) -> None:
        given = stack.kafka
        self.kafka = replace(
            given,
            topic_prefix=f"{given.topic_prefix}test-{uuid.uuid4().hex[:10]}.",
            clients=stage.clients(given.clients),
        )
        self._registry = registry = Registry(stack.registry_url)
        registry.register_all()
        for subject, text in extension.schemas.items():
            registry.register(subject, text)
        self.schemas: SchemaSource = registry
        self.register = registry.register
        self._created: list[str] = []

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """See ``Services``. The topics take the test's times for the broker's, and keep all."""
        made = ensure_topics(self.kafka, [_OfTheTestsTime.of(spec) for spec in specs])
        self._created += made.created

    def append(self, feeds: Sequence[Feed]) -> None:
        """See ``Services``."""
        _append(self.kafka, feeds)

    def open_store(self, folder: Path, memory: RocksMemory, stores: int) -> Store:
        """See ``Services``."""
        return open_rocks(folder, memory, stores)

    def lose_state(self, folder: Path) -> None:
        """See ``Services``."""
        shutil.rmtree(folder)

    def rival(self, group: str, topics: Sequence[str]) -> Rival:
        """See ``Services``."""
        return KafkaRival(self.kafka, group, topics)

    def close(self) -> None:
        """See ``Services``."""
        self._registry.close()
        delete_topics(self.kafka, self._created)


def _append(kafka: KafkaOptions, feeds: Sequence[Feed]) -> None:
    """Append by a client of its own; raises AppendFailed."""
    if not feeds:
        return
    producer = kafka.clients.producer(
        kafka.client_config() | {"enable.idempotence": True, "linger.ms": 0, "partitioner": "murmur2_random"}
    )
    failed: list[str] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(str(error))

    for feed in feeds:
        where = {} if feed.partition is None else {"partition": feed.partition}
        producer.produce(
            feed.spec.named(kafka.topic_prefix),
            feed.value,
            feed.key,
            timestamp=feed.at_us // 1_000,
            headers=list(feed.headers),
            on_delivery=delivered,
            **where,
        )
    if producer.flush(_APPEND_S):
        failed.append("no answer in time")
    if failed:
        raise AppendFailed(failed[0])


class _OfTheTestsTime(TopicSpec):
    """A topic on which a test says what the broker's clock is."""

    @classmethod
    def of(cls, spec: TopicSpec) -> TopicSpec:
        return cls(
            spec.name, spec.key, spec.subject, spec.partitions, -1, spec.cleanup, spec.doc,
            spec.max_message_bytes,
        )  # fmt: skip

    def config(self) -> dict[str, str]:
        """See ``TopicSpec``."""
        return TopicSpec.config(self) | {
            "message.timestamp.type": "CreateTime",
            "message.timestamp.before.max.ms": str(_AGE_MS_MAX),
            "message.timestamp.after.max.ms": str(_AGE_MS_MAX),
        }
