"""Publish a stream with confluent-kafka alone: Avro, the registry, no sluicegate.

Usage: kafka_producer.py BOOTSTRAP_SERVERS REGISTRY_URL TOPIC STREAM_ID
"""

import io
import json
import sys
import time
import uuid

import fastavro
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient

servers, registry_url, topic, stream_id = sys.argv[1:]
registry = SchemaRegistryClient({"url": registry_url})
producer = Producer(
    {"bootstrap.servers": servers, "enable.idempotence": True, "partitioner": "murmur2_random"}
)


def encoded(subject: str, record: dict[str, object]) -> tuple[int, bytes]:
    """Return the id of the subject's latest schema, and the record's Avro body."""
    latest = registry.get_latest_version(subject)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, json.loads(latest.schema.schema_str), record)
    return latest.schema_id, body.getvalue()


def publish(seq: int, type_: str, payload: dict[str, object]) -> None:
    """Hand one event to the producer; its key is the stream, so its partition is the stream's."""
    payload_schema, payload_bytes = encoded(f"sluicegate.payload.{type_}", payload)
    event = {
        "event_id": str(uuid.uuid4()), "stream_id": stream_id, "seq": seq, "kind": "job", "type": type_,
        "time": time.time_ns() // 1_000, "payload": payload_bytes, "payload_schema": payload_schema,
    }  # fmt: skip
    schema_id, body = encoded("sluicegate.Event", event)
    value = b"\0" + schema_id.to_bytes(4, "big") + body
    producer.produce(topic, key=f"default/{stream_id}", value=value)


publish(0, "open", {"title": "From a Kafka client"})
publish(1, "progress", {"done": 1, "total": 2})
publish(2, "end", {"reason": "completed"})
if producer.flush(30):
    sys.exit("not delivered within 30 s: publish the same events again, with the same event ids")
