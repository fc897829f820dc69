"""What a connector may raise, drawn together from its parts.

    SluicegateError
    ├── WireError, SchemaError     of schemas/errors.py: the registry and the bytes
    ├── KafkaFailure               of connectors/kafka/errors.py
    └── (PostgreSQL)               of connectors/postgres/errors.py

The registry needs no error of its own: what it says is about schemas.
"""

from __future__ import annotations

from connectors.kafka.errors import AppendFailed, KafkaFailure, KafkaUnavailable
from schemas.errors import IncompatibleSchema, RegistryUnavailable

__all__ = ["AppendFailed", "IncompatibleSchema", "KafkaFailure", "KafkaUnavailable", "RegistryUnavailable"]
