"""What records decode to, for agents that take events: by column where many come at once, else one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from schemas.batch import BatchReader
from schemas.catalog import EVENT
from schemas.envelope import Event
from schemas.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from schemas.record import Record
    from schemas.wire import WireCodec

MANY: Final = 512
"""From so many records on columns are quicker, twice at 2,000: asking for them takes 2 ms."""


class RowDecoder:
    """Decodes records of one subject; gives ``WireError`` for what does not decode, None for a tombstone.

    Called on the poll thread. Both ways give the same, errors too (tests/unit/test_decoding.py).
    """

    def __init__(self, codec: WireCodec, subject: str = EVENT) -> None:
        self._columns: BatchReader | None
        self._one: Callable[[bytes], Any] = codec.decode_event
        self._rows: Callable[[Any], Iterable[Any]] = _events
        if subject != EVENT:
            self._one = lambda value: codec.decode(value, subject)
            self._rows = lambda batch: batch.to_pylist()
        try:
            columns = BatchReader(codec, subject)
        except ValueError:  # it holds itself: no record of it can be read, which each is told by itself
            self._columns = None
        else:
            # Arrow gives a map back as pairs, with all that were written under one name.
            self._columns = None if columns.by_row or columns.has_maps else columns

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        """Return what each record decodes to.

        Raises:
            RegistryUnavailable: a schema must be fetched and cannot; nothing is said about the records.
        """
        values = [record.value for record in records]
        if self._columns is None or len(values) < MANY or None in values:
            return [self._each(value) for value in values]
        batch, rows, errors = self._columns.sort_out(values)
        made = self._rows(batch)
        if not errors:
            return list(made)
        decoded: list[Any] = [None] * len(values)
        for index, row in zip(rows, made, strict=True):
            decoded[index] = row
        for index, error in errors:
            decoded[index] = error
        return decoded

    def _each(self, value: bytes | None) -> Any:
        try:
            return None if value is None else self._one(value)
        except WireError as error:
            return error


def _events(batch: Any) -> Iterable[Event]:
    # The schema's fields are the envelope's, in its order: tests/unit/test_decoding.py.
    return map(Event._make, zip(*[column.to_pylist() for column in batch.columns], strict=True))
