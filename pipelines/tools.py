"""What agents share: codecs, kinds and the maker of dead letters. Built once by the composition root."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from connectors.kafka.columns import Columns, columns_of
from pipelines.decoding import RowDecoder
from schemas.batch import BatchReader
from schemas.catalog import EVENT
from schemas.record import Record
from schemas.topics import DEAD_LETTERS
from state.checkpoint import Append

if TYPE_CHECKING:
    from connectors.kafka.chunk import Chunker
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec
    from schemas.wire import WireCodec

Decode = Callable[[Sequence[Record]], list[Any]]


@dataclass(frozen=True, slots=True)
class Tools:
    """The codecs and tables that agents work with."""

    codec: WireCodec
    payloads: PayloadCodec
    kinds: KindTable
    _events: RowDecoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_events", RowDecoder(self.codec))

    def decode_events(self, records: Sequence[Record]) -> list[Any]:
        """Decode envelopes; what does not decode is given as its ``WireError``.

        Raises:
            RegistryUnavailable: a schema must be fetched and cannot; nothing is said about the records.
        """
        return self._events(records)

    def decoder(self, subject: str) -> Decode:
        """Return a decoder of ``subject`` to dicts (None = a tombstone), errors among them as above."""
        return RowDecoder(self.codec, subject)

    def columns(self, subject: str = EVENT) -> Chunker:
        """Return what gives a batch agent the records of a flat ``subject`` as Arrow columns.

        Raises:
            ValueError: the subject has fields that are no plain columns.
            UnknownType: there is no schema to read it as.
        """
        reader = BatchReader(self.codec, subject)
        return columns_of(lambda values: Columns(*reader.sort_out(values)))

    def dead_letters(self) -> DeadLetterMaker:
        """Return the maker of dead letters."""
        return DeadLetterMaker(self.codec)


class DeadLetterMaker:
    """Satisfies ``state.checkpoint.DeadLetters``."""

    def __init__(self, codec: WireCodec) -> None:
        self._codec = codec
        self._code_version = _code_version()

    def letter(self, record: Record, *, agent: str, cause: str, detail: str, attempts: int) -> Append:
        """Return the dead letter of ``record``: its bytes, coordinates, schema id and cause."""
        value = record.value or b""
        framed = len(value) >= 5 and value[0] == 0
        letter = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": record.key,
            "value": value,
            "schema_id": int.from_bytes(value[1:5], "big") if framed else -1,
            "cause": cause,
            "detail": detail[:4_096],
            "agent": agent,
            "code_version": self._code_version,
            "attempts": attempts,
            "time_us": time.time_ns() // 1_000,
        }
        return Append(
            DEAD_LETTERS, record.key, self._codec.encode(DEAD_LETTERS.subject, letter), record.partition
        )


def _code_version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return "unknown"
