"""Many framed records at once, as an Arrow batch: for agents that fold columns instead of handling events.

Many records of one schema are read by column (``native``) where that can be done, else one by one
(``arrow``): the same columns, and the same record named where one cannot be read. What it is, is decided once
for each schema.
"""

from __future__ import annotations

from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import MISFITS, array_of, cells_of
from schemas.arrow import column_of
from schemas.catalog import EVENT
from schemas.codec import BROKEN, parsed
from schemas.errors import TooLarge, Undecodable, WireError
from schemas.limits import VALUES_MAX, VALUES_PER_BYTE_MAX
from schemas.native import Native
from schemas.resolving import NotByColumn
from schemas.wire import FRAME_BYTES, READERS_MAX, VALUE_BYTES_MAX, schema_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.arrow import Column
    from schemas.codec import Reader
    from schemas.wire import WireCodec

ROWS_MAX: Final = 128
"""Up to so many records are read one by one: columns take some 2 ms, however few they are."""


class BatchReader:
    """Reads batches of one subject; safe to share between threads."""

    def __init__(
        self,
        codec: WireCodec,
        subject: str = EVENT,
        *,
        value_bytes_max: int = VALUE_BYTES_MAX,
        logical_types: bool = False,
        on_rows: Callable[[int, str], None] = lambda _schema_id, _why: None,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """Take the codec that decides over single records.

        ``logical_types`` gives times and decimals as Arrow's, else all are what they are on the wire.
        ``on_rows`` is told once of each writer's schema whose records are read one by one, and why, where
        those of our own are not. Up to ``rows_max`` of a schema are in any case: of few it is quicker.

        Raises:
            ValueError: the subject's schema holds itself, or is none.
            UnknownType: there is no schema to read it as.
        """
        self._codec = codec
        self._subject = subject
        self._value_bytes_max = value_bytes_max
        self._on_rows = on_rows
        self._rows_max = rows_max
        self._record = _record_of(subject, codec.text_of(subject), logical_types=logical_types)
        self._tagged = self._record.is_tagged
        self._is_wide = self._record.is_wide
        self.schema = pa.schema(list(self._record.type))
        self.has_maps = self._record.has_maps
        self.by_row: str = ""
        """Why records of our own schema are read one by one, so all are; empty = they are read by column."""
        self._own: Native | None = None
        try:
            self._own = Native(self._record, self._record)
        except NotByColumn as why:
            self.by_row = str(why)
        self._others: dict[int, Native | None] = {}  # by the writer's schema id

    def decode_batch(self, values: Sequence[bytes]) -> pa.RecordBatch:
        """Return the records as columns of our schema of the subject.

        Raises:
            WireError: of one record that cannot be read, with its place as ``index``; none is returned.
            RegistryUnavailable: retry.
        """
        if not values:
            return self._of_rows([])
        sizes = list(map(len, values))
        if max(sizes) > self._value_bytes_max:
            index = next(index for index, size in enumerate(sizes) if size > self._value_bytes_max)
            raise _at(TooLarge(sizes[index], self._value_bytes_max), index)
        if all(map(bytes.startswith, values, repeat(values[0][:FRAME_BYTES]))):  # one schema, as mostly
            return self._group(values, range(len(values)))
        groups: dict[bytes, list[int]] = {}
        for index, value in enumerate(values):
            groups.setdefault(value[:FRAME_BYTES], []).append(index)
        parts = [self._group([values[index] for index in indices], indices) for indices in groups.values()]
        # Back into the order in which they came.
        order = pa.array([index for indices in groups.values() for index in indices])
        return _joined(parts, self.schema).take(pc.sort_indices(order))

    def sort_out(
        self, values: Sequence[bytes | None]
    ) -> tuple[pa.RecordBatch, list[int], list[tuple[int, WireError]]]:
        """Return the rows of those that can be read, which they are, and what is wrong with the others.

        Raises:
            RegistryUnavailable: retry; nothing is said about any of them.
        """
        errors: list[tuple[int, WireError]] = [
            (index, Undecodable("the record has no value"))
            for index, value in enumerate(values)
            if value is None
        ]
        rows: list[int] = []
        batches = []
        waiting = [[index for index, value in enumerate(values) if value is not None]]
        while waiting:  # in halves, so that one of thousands costs a dozen reads more
            part = waiting.pop()
            try:
                batches.append(self.decode_batch([values[index] for index in part]))  # type: ignore[misc]
            except WireError as error:
                if len(part) == 1:
                    errors.append((part[0], error))
                else:
                    waiting += (part[len(part) // 2 :], part[: len(part) // 2])
            else:
                rows += part
        errors.sort(key=itemgetter(0))
        return _joined(batches, self.schema), rows, errors

    def _group(self, values: Sequence[bytes], indices: Sequence[int]) -> pa.RecordBatch:
        """Decode values of one schema id, which may be a wrong one."""
        try:
            schema_id = schema_id_of(values[0])
            reader = self._codec.reader(self._subject, schema_id)
        except WireError as error:
            raise _at(error, indices[0]) from None
        native = self._native(schema_id, reader) if reader.resolves else self._own
        if native is not None and len(values) > self._rows_max:
            batch = native.decode([value[FRAME_BYTES:] for value in values])
            if batch is not None:
                return batch
        rows = []
        for value, index in zip(values, indices, strict=True):
            try:
                rows.append(reader.read(value, FRAME_BYTES, tagged=self._tagged))
                if self._is_wide:
                    self._check_width(rows[-1], len(value))
            except WireError as error:
                raise _at(error, index) from None
        try:
            return self._of_rows(rows)
        except MISFITS:
            raise self._misfit(rows, indices) from None

    def _native(self, schema_id: int, reader: Reader) -> Native | None:
        """Return what reads another writer's records by column, None if nothing does."""
        if schema_id in self._others:
            return self._others[schema_id]
        if self._own is None or len(self._others) >= READERS_MAX:
            return None  # a flood of foreign ids: pyruhvro keeps each schema for good
        try:
            native: Native | None = Native(column_of(reader.writer, logical_types=False), self._record)
        except NotByColumn as why:
            native = None
            self._on_rows(schema_id, str(why))
        self._others[schema_id] = native
        return native

    def _check_width(self, row: dict[str, Any], size_bytes: int) -> None:
        """Raise Undecodable for a record that would unfold beyond what ``limits`` lets any."""
        cells, cells_max = cells_of(self._record, row), VALUES_MAX + VALUES_PER_BYTE_MAX * size_bytes
        if cells > cells_max:
            raise Undecodable(f"{size_bytes} bytes unfold into {cells} values, at most {cells_max}")

    def _of_rows(self, rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
        return pa.RecordBatch.from_struct_array(array_of(self._record, rows))

    def _misfit(self, rows: Sequence[dict[str, Any]], indices: Sequence[int]) -> WireError:
        """Find the row that the columns do not hold: an int of more than 32 bits."""
        for row, index in zip(rows, indices, strict=True):
            try:
                self._of_rows([row])
            except MISFITS as error:
                return _at(Undecodable(f"body does not fit: {error}"), index)
        raise AssertionError("columns that do not fit have a row that does not")


def _record_of(subject: str, text: str, *, logical_types: bool) -> Column:
    try:
        record = column_of(parsed(orjson.loads(text)), logical_types=logical_types)
    except BROKEN as error:
        raise ValueError(f"{subject} cannot be read as columns: {error}") from None
    if record.kind != "record":
        raise ValueError(f"{subject} cannot be read as columns: it is no record")
    return record


def _joined(parts: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    if len(parts) == 1:
        return parts[0]
    made = pa.Table.from_batches(parts, schema=schema).combine_chunks().to_batches()
    return made[0] if made else pa.RecordBatch.from_pylist([], schema=schema)


def _at(error: WireError, index: int) -> WireError:
    error.index = index
    return error
