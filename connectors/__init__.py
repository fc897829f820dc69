"""How Kafka, the registry and PostgreSQL are met."""
