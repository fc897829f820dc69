"""Sets what a broker holds of a topic, as an operator would."""

from __future__ import annotations

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)


def set_config(admin: AdminClient, topic: str, key: str, value: str) -> None:
    """Set one of the settings of a topic (its name as it stands in Kafka); the others stay as they are."""
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(30)
