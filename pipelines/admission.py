"""The gate of ingest: whether a record is an event of the contract and stands where it belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.catalog import payload_subject
from schemas.envelope import Event, check_published
from schemas.errors import InvalidEvent, WireError
from schemas.payloads import check_payload
from schemas.topics import partition_of

if TYPE_CHECKING:
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec
    from schemas.record import Record


class Arrival(NamedTuple):
    """An event that passed the gate."""

    record: Record
    event: Event
    fields: dict[str, Any]
    """Its payload."""
    at_us: int
    """Effective time, see ``Watermark.see``."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Checks what any record of the input topic may hold: it takes native Kafka producers too."""

    kinds: KindTable
    payloads: PayloadCodec
    partitions: int

    def fields(self, record: Record, item: object) -> dict[str, Any]:
        """Return the payload of a record that is an event in its place.

        Raises:
            ContractError, WireError: what is wrong; the record is a dead letter.
            RegistryUnavailable: retry, it says nothing about the record.
        """
        if isinstance(item, WireError):
            raise item
        if not isinstance(item, Event):
            raise InvalidEvent("value", "the record has none")
        check_published(item)
        self._check_place(record, item)
        self.kinds.named(item.kind)
        return self.payload(item)

    def payload(self, event: Event) -> dict[str, Any]:
        """Return the payload of an event, checked; raises as ``fields``."""
        subject = self.payloads.subject_of(event.payload_schema)
        if subject != payload_subject(event.type):
            raise InvalidEvent(
                "payload_schema", f"{event.payload_schema} is of {subject}, not of type {event.type!r}"
            )
        fields = self.payloads.decode(event.payload_schema, event.payload)
        check_payload(event.type, fields)
        return fields

    def _check_place(self, record: Record, event: Event) -> None:
        key = event.key
        if record.key != key:
            found = "none" if record.key is None else repr(record.key[:200])
            raise InvalidEvent("key", f"the record's key must be the event's, {key!r}; it is {found}")
        partition = partition_of(key, self.partitions)
        if partition != record.partition:
            raise InvalidEvent(
                "partition",
                f"key {key!r} belongs to partition {partition} (murmur2), it is on {record.partition}; "
                "set the producer's partitioner to murmur2_random",
            )
