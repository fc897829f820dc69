"""Who of a group has which partition, and where its web answers: as the group itself describes it.

A worker says the address of its web in its client id, behind ``@``. So who owns what, and where, is one
answer of the broker's, and neither can be newer than the other.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from connectors.kafka.access import refusal
from connectors.kafka.chunk import SourcePartition
from connectors.kafka.errors import KafkaFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka.admin import AdminClient

    from connectors.kafka.options import KafkaOptions

_FRESH_S: Final = 1.0
_ANSWER_S: Final = 3.0


def client_id(plain: str, advertised: str) -> str:
    """Return the client id of a worker whose web answers at ``advertised`` (``host:port``; empty = none)."""
    return f"{plain}@{advertised}" if advertised else plain


def advertised_in(client_id: str) -> str:
    """Return the address that a client id holds; empty = none."""
    return client_id.rpartition("@")[2] if "@" in client_id else ""


class Owners:
    """One group's members; thread-safe, one asks at a time. An answer, or a failure, holds for a second."""

    def __init__(self, kafka: KafkaOptions, group: str) -> None:
        self._kafka = kafka
        self._group = group
        self._admin: AdminClient | None = None  # made for the first query: most workers are never asked
        self._lock = threading.Lock()
        self._known: Mapping[SourcePartition, str] | KafkaFailure = {}
        self._known_at = -_FRESH_S

    def of(self, source: SourcePartition) -> str | None:
        """Return where the owner of a partition answers, ``host:port``; empty = nowhere, None = no owner.

        Blocks for three seconds at most.

        Raises:
            KafkaUnavailable: no answer.
            NotAuthorized: the group may not be described.
        """
        with self._lock:
            if time.monotonic() - self._known_at > _FRESH_S:
                try:
                    self._known = self._ask()
                except KafkaFailure as failure:  # those who wait for the lock must not wait as long again
                    self._known = failure
                self._known_at = time.monotonic()
            if isinstance(self._known, KafkaFailure):
                raise self._known
            return self._known.get(source)

    def _ask(self) -> Mapping[SourcePartition, str]:
        if self._admin is None:
            self._admin = self._kafka.clients.admin(self._kafka.client_config())
        asked = self._admin.describe_consumer_groups([self._group], request_timeout=_ANSWER_S)
        try:
            members = asked[self._group].result(_ANSWER_S + 1).members
        except KafkaException as error:
            raise refusal(self._kafka, f"Describe group {self._group}", error.args[0]) from error
        return {
            SourcePartition(at.topic, at.partition): advertised_in(member.client_id)
            for member in members
            if member.assignment is not None
            for at in member.assignment.topic_partitions
        }
