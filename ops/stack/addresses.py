"""Where the three services are, whoever started them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of Kafka, the registry and PostgreSQL; the last holds a password and is not shown by repr."""

    kafka: str
    """Bootstrap servers, ``host:port,…``."""
    registry_url: str
    """Base of the registry's Confluent API, without a slash at its end."""
    postgres_dsn: str = field(repr=False)
    """libpq connection string, with its password."""
