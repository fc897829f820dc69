"""The local stack: real Kafka, registry and PostgreSQL from packages alone.

`up.ensure_up`, `up.addresses_of`, `down.down` and `status.status` are what others use. Nothing is imported
here: most commands want an address, and not the modules that start a Kafka.
"""
