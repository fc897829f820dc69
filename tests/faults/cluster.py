"""Three Kafka nodes of a test's own, each broker and controller, that may be stopped and killed."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from connectors.kafka.options import KafkaOptions
from ops.stack.kafka import KafkaService, new_cluster_id
from ops.stack.logs import last_lines
from ops.stack.parts import KAFKA
from ops.stack.ports import LOOPBACK, free_port
from ops.stack.process import ProcessRecord, start_detached, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ops.stack.cache import Cache

NODES = (1, 2, 3)
_START_S = 90.0


@dataclass(frozen=True)
class Node(KafkaService):
    """One of the three: the local stack's Kafka, with copies on the others."""

    number: int = 0
    cluster_id: str = ""
    voters: str = ""

    def _cluster_id(self) -> str:
        return self.cluster_id

    def _config(self) -> Mapping[str, str]:
        copies = {
            f"{topic}.replication.factor": "3"
            for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        }
        return {
            **super()._config(),
            **copies,
            "node.id": str(self.number),
            "controller.quorum.voters": self.voters,
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
            "transaction.state.log.min.isr": "2",
            # Kafka's defaults again: on a busy machine three nodes would take each other for dead.
            "broker.session.timeout.ms": "9000",
            "broker.heartbeat.interval.ms": "2000",
        }


class Cluster:
    """The three nodes, running from ``with`` to its end."""

    def __init__(self, folder: Path, cache: Cache) -> None:
        taken: set[int] = set()
        ports: list[int] = []
        for _ in range(2 * len(NODES)):
            ports.append(free_port(taken))
            taken.add(ports[-1])
        voters = ",".join(f"{n}@{LOOPBACK}:{ports[2 * n - 1]}" for n in NODES)
        identity = new_cluster_id()
        self._nodes = {
            number: Node(
                folder=folder / f"node-{number}",
                cache_folder=cache.folder(KAFKA.name),
                jars=tuple(cache.jars(KAFKA.name)),
                port=ports[2 * number - 2],
                controller_port=ports[2 * number - 1],
                heap_mb=320,
                number=number,
                cluster_id=identity,
                voters=voters,
            )
            for number in NODES
        }
        self._processes: dict[int, ProcessRecord] = {}

    @property
    def bootstrap(self) -> str:
        """All three addresses."""
        return ",".join(node.address for node in self._nodes.values())

    def options(self, prefix: str) -> KafkaOptions:
        """How a client reaches it."""
        return KafkaOptions(self.bootstrap, prefix)

    def __enter__(self) -> Self:
        for number, node in self._nodes.items():
            node.prepare()
            self.start(number)
        self.until_whole()
        return self

    def __exit__(self, *_: object) -> None:
        for record in self._processes.values():
            stop(record, ask=signal.SIGKILL, patience_s=10)

    def start(self, number: int) -> None:
        """Start a node; it takes some seconds until it answers."""
        node = self._nodes[number]
        launch = node.launch()
        log = node.folder / "node.log"
        self._processes[number] = start_detached(launch.command, log=log, cwd=launch.cwd, env=launch.env)

    def end(self, number: int, how: signal.Signals) -> None:
        """Stop (SIGTERM) or kill (SIGKILL) a node, and see it gone."""
        record = self._processes[number]
        stop(record, ask=how, patience_s=30)
        assert not record.runs

    def until_whole(self) -> None:
        """Wait until all nodes are there and each partition has all its copies."""
        self._until(self._is_whole, "a whole cluster")

    def controller(self) -> int:
        """The node that leads the metadata quorum, as most nodes' own files say."""
        votes = []
        for node in self._nodes.values():
            state = node.folder / "logs" / "__cluster_metadata-0" / "quorum-state"
            said = json.loads(state.read_text())
            votes.append((said["leaderEpoch"], said["leaderId"]))
        return int(max(votes)[1])

    def leader(self, topic: str, partition: int) -> int:
        """The node that leads a partition."""
        return int(self._admin().list_topics(topic, timeout=10).topics[topic].partitions[partition].leader)

    def coordinator(self, group: str) -> int:
        """The node that coordinates a group: the leader of the group's part of the offsets topic."""
        topic = "__consumer_offsets"
        partitions = len(self._admin().list_topics(topic, timeout=10).topics[topic].partitions)
        return self.leader(topic, (_java_hash(group) & 0x7FFFFFFF) % partitions)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _is_whole(self) -> bool:
        for number, record in self._processes.items():
            log = self._nodes[number].folder / "node.log"
            assert record.runs, f"node {number} ended:\n" + "\n".join(last_lines(log))
        try:
            found = self._admin().list_topics(timeout=2)
        except KafkaException:
            return False
        partitions = [each for topic in found.topics.values() for each in topic.partitions.values()]
        return len(found.brokers) == len(NODES) and all(
            each.leader > 0 and len(each.isrs) == len(NODES) for each in partitions
        )

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_S
        while not holds():
            assert time.monotonic() < deadline, f"never seen: {what}"
            time.sleep(0.2)


def _java_hash(text: str) -> int:
    value = 0
    for unit in text.encode("ascii"):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value
