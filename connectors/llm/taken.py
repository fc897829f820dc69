"""Requests as they are taken off their topic: decoded, whose they are, and which contend for a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectors.llm.errors import LlmError
from connectors.llm.request import envelope_of
from schemas.errors import RegistryUnavailable, WireError
from schemas.topics import LLM_REQUESTS, partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.llm.offsets import Tenure
    from connectors.llm.request import Envelope
    from schemas.kinds import KindTable
    from schemas.record import Record
    from schemas.wire import WireCodec

    Taken = tuple[Tenure, Record, Any]
    """A request, decoded or the error in its place, and under whose partition it was taken."""


def decoded(records: Sequence[Record], wire: WireCodec) -> list[Any]:
    """Decode requests; an error is an item of its own. Raises RegistryUnavailable."""
    found: list[Any] = []
    for record in records:
        try:
            found.append(wire.decode(record.value or b"", LLM_REQUESTS.subject))
        except RegistryUnavailable:
            raise
        except WireError as error:
            found.append(error)
    return found


def addressed(record: Record, item: Any, kinds: KindTable) -> Envelope:
    """Read whose a request is. Raises WireError, ContractError, LlmError: nobody can be told of it."""
    if isinstance(item, BaseException):
        raise item
    to = envelope_of(item)
    if record.key != to.key:
        raise LlmError(f"its key is {record.key!r}, and it names the stream {to.key.decode()}")
    partition = partition_of(to.key, LLM_REQUESTS.partitions)
    if record.partition != partition:  # its stream is another partition's, and another worker's
        raise LlmError(f"it is on partition {record.partition}, and its key belongs on {partition}")
    kinds.named(to.kind)
    return to


class Rivals:
    """Questions for whose stream another one is under way; the poll thread bounds how many there are."""

    def __init__(self) -> None:
        self._by_stream: dict[bytes, list[Taken]] = {}

    def add(self, key: bytes, taken: Taken) -> None:
        """Have a question wait for what ``ingest`` says of its ``open``."""
        self._by_stream.setdefault(key, []).append(taken)

    def refuse(self, key: bytes, open_id: str) -> list[Taken]:
        """Give those, waiting no more, whose ``open`` was refused."""
        waiting = self._by_stream.pop(key, [])
        if left := [taken for taken in waiting if taken[2]["open_id"] != open_id]:
            self._by_stream[key] = left
        return [taken for taken in waiting if taken[2]["open_id"] == open_id]

    def leave(self, key: bytes) -> list[Taken]:
        """Give all of a stream, which wait no more."""
        return self._by_stream.pop(key, [])

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_stream
