"""How a role's consumer is a member of its group, and librdkafka's configuration for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from connectors.kafka.owners import client_id
from connectors.kafka.ports import HANDOVER_BYTES_MAX
from schemas.topics import MIB

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions

Assignment = Literal["range", "cooperative-sticky", "consumer"]
"""Who gives partitions to members, and how.

``range``: the classic protocol, all partitions given anew each time; equally numbered partitions of several
topics stay together. ``cooperative-sticky``: moves only what must move, promises no such thing.
``consumer``: KIP-848, by the broker and its ``range``, which keeps equal numbers together, too; the session
time-out is the broker's own setting (45 s by default).
"""
CHUNK_BYTES_MAX: Final = 8 * MIB
"""Records of as many bytes are decoded, and handed over, at once."""


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """Bounds and time-outs of one role's consumer."""

    group: str
    instance_id: str
    """Static member (KIP-345): a restarted slot finds its partitions without a rebalance."""
    assignment: Assignment = "range"
    session_timeout_ms: int = 6_000
    max_poll_interval_ms: int = 60_000
    chunk_records_max: int = 2_000
    chunk_bytes_max: int = CHUNK_BYTES_MAX
    advertised: str = ""
    """Where the worker's web answers, ``host:port``, for others of the group to send readers to."""
    handover_records_max: int = 20_000
    handover_bytes_max: int = HANDOVER_BYTES_MAX
    """Handed over and not yet handled; above either bound partitions are paused and polling goes on. As many
    bytes are fetched ahead of it, in librdkafka's queue."""


def consumer_config(kafka: KafkaOptions, options: ConsumerOptions) -> dict[str, object]:
    """Return librdkafka's configuration of a role's consumer; who makes it adds callbacks."""
    return kafka.client_config() | {
        "client.id": client_id(kafka.client_id, options.advertised),
        "group.id": options.group,
        "group.instance.id": options.instance_id,
        "max.poll.interval.ms": options.max_poll_interval_ms,
        **_membership(options),
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A position that is not in the log is never guessed: see docs/guarantees.md.
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": 50,
        "fetch.error.backoff.ms": 100,
        # When a partition's part of the queue is full librdkafka asks for no more of it for a second by
        # default, in which an agent that is quick runs dry: a third of the throughput was left.
        "fetch.queue.backoff.ms": 10,
        "queued.max.messages.kbytes": options.handover_bytes_max >> 10,
    }


def _membership(options: ConsumerOptions) -> dict[str, object]:
    if options.assignment == "consumer":
        # Sessions and heartbeats are the broker's settings; by its own choice of an assignor numbers part.
        return {"group.protocol": "consumer", "group.remote.assignor": "range"}
    return {
        "session.timeout.ms": options.session_timeout_ms,
        "heartbeat.interval.ms": max(options.session_timeout_ms // 6, 100),
        "partition.assignment.strategy": options.assignment,
    }
