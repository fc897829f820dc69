"""How to reach a Kafka cluster, as one frozen object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connectors.kafka.clients import Clients

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """Where Kafka is and how to speak to it."""

    bootstrap_servers: str
    """``host:port``, several with commas."""
    topic_prefix: str = ""
    """Before the name of every topic and group, so that deployments can share a cluster."""
    client_id: str = "sluicegate"
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    """librdkafka's ``security.*``, ``sasl.*`` and ``ssl.*`` properties; kept out of every repr."""
    clients: Clients = field(default=Clients(), repr=False)

    @property
    def principal(self) -> str:
        """Who the broker takes us for, as far as we know: it reads a certificate by rules of its own."""
        name = self.security.get("sasl.username")
        return f"User:{name}" if name else "this principal"

    def client_config(self) -> dict[str, object]:
        """Return what every librdkafka client starts from; the caller adds its own."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
            # A broker that restarts is found again within a second, not after librdkafka's ten.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            # librdkafka's default starts over from the bootstrap addresses while no broker answers, and
            # forgets its back-off and what it has logged by it: 40 attempts and lines a second.
            "metadata.recovery.strategy": "none",
            # Above every topic's max.message.bytes (2 MiB at most): the topic decides, not the client.
            "message.max.bytes": 4 * 1_048_576,
            **self.security,
        }
