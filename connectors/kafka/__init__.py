"""Kafka under Faust: transport, consumer, producer, transaction, admin."""
