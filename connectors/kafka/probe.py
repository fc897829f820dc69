"""Whether a Kafka cluster answers: the question that readiness is made of."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


def cluster_answers(bootstrap_servers: str, timeout_s: float) -> bool:
    """Whether the cluster answers a metadata request, with a controller known, within ``timeout_s``."""
    # One client a question: one that failed to connect backs off, and would answer late.
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "socket.timeout.ms": 5_000})
    try:
        metadata = client.list_topics(timeout=timeout_s)
    except KafkaException:
        return False
    return metadata.controller_id >= 0 and bool(metadata.brokers)
