"""How to reach a Kafka cluster, as one frozen object."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from connectors.kafka.clients import Clients
from connectors.kafka.said import Said
from schemas.topics import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from schemas.topics import TopicSpec

_SEGMENT_MS_MIN: Final = 3_600_000
_SEGMENT_SHARE: Final = 4
"""A segment lasts for so small a part of what its topic keeps: records stay by no more than that longer."""


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
    retention_ms: Mapping[str, int] = field(default_factory=dict)
    """How long a topic of the table keeps records in this deployment, by its name there; else as it says."""
    said: Said = field(default_factory=Said, repr=False, compare=False)
    """Hears the clients that are polled."""

    @property
    def principal(self) -> str:
        """Who the broker takes us for, as far as we know: it reads certificates and tokens by its rules."""
        security = self.security
        if client_id := security.get("sasl.oauthbearer.client.id"):
            return f"the OAuth client {client_id}"
        name = (
            security.get("sasl.username") or re.split("[/@]", security.get("sasl.kerberos.principal", ""))[0]
        )
        return f"User:{name}" if name else "this principal"

    def kept(self, specs: Iterable[TopicSpec]) -> list[TopicSpec]:
        """Return topics as this deployment has them: with its own retention, and segments as short."""
        return [self._kept(spec) for spec in specs]

    def _kept(self, spec: TopicSpec) -> TopicSpec:
        retention_ms = self.retention_ms.get(spec.name)
        if retention_ms is None:
            return spec
        segment_ms = max(retention_ms // _SEGMENT_SHARE, _SEGMENT_MS_MIN)
        if spec.segment_ms is not None:
            segment_ms = min(segment_ms, spec.segment_ms)
        return replace(spec, retention_ms=retention_ms, segment_ms=segment_ms)

    def client_config(self) -> dict[str, object]:
        """Return what every librdkafka client starts from; the caller adds its own."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
            "log_level": 0,  # one that is polled may be heard: ``said``
            # A broker that restarts is found again within a second, not after librdkafka's ten. Not sooner:
            # while no broker answers it starts over from the bootstrap addresses, and each time forgets its
            # back-off (at 50 ms: 36 attempts and lines of log a second, at 500 ms 4). Without that
            # (``metadata.recovery.strategy=none``) a client that was told of no broker at all, as by one
            # that was frozen for a while and does not know itself yet, would never ask anybody again.
            "reconnect.backoff.ms": 500,
            "reconnect.backoff.max.ms": 1_000,
            # Above every topic's max.message.bytes (2 MiB at most): the topic decides, not the client.
            "message.max.bytes": 4 * MIB,
            **self.security,
        }
