"""Many framed records at once, as an Arrow batch: for agents that fold columns instead of handling events.

pyruhvro reads some millions of records a second where fastavro reads a hundred thousand. It is trusted with
nothing: it checks neither UTF-8 nor what stands after a record, so both are checked here by column, and
whatever does not fit to the byte is read again by ``wire``, which decides.
"""

from __future__ import annotations

from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from schemas.catalog import EVENT
from schemas.errors import TooLarge, Undecodable, WireError
from schemas.limits import without_logical_types
from schemas.wire import FRAME_BYTES, VALUE_BYTES_MAX, schema_id_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.wire import WireCodec

_ARROW: Final = {
    "string": pa.string(),
    "bytes": pa.binary(),
    "long": pa.int64(),
    "int": pa.int32(),
    "boolean": pa.bool_(),
    "double": pa.float64(),
}
# A number n takes one byte more on the wire from each of these on (zigzag, seven bits a byte).
_STEPS: Final = tuple(2 ** (7 * more - 1) for more in range(1, 10))


class BatchReader:
    """Reads batches of one flat subject of ours; safe to share between threads."""

    def __init__(
        self, codec: WireCodec, subject: str = EVENT, *, value_bytes_max: int = VALUE_BYTES_MAX
    ) -> None:
        """Take the codec that decides over single records.

        Raises:
            ValueError: the subject has fields that are no plain columns.
        """
        self._codec = codec
        self._subject = subject
        self._value_bytes_max = value_bytes_max
        self.schema, self._text = _columns(subject, codec.text_of(subject))

    def decode_batch(self, values: Sequence[bytes]) -> pa.RecordBatch:
        """Return the records as columns of our schema of the subject, times as whole numbers.

        Raises:
            WireError: of one record that cannot be read, with its place as ``index``; none is returned.
            RegistryUnavailable: retry.
        """
        if not values:
            return pa.RecordBatch.from_pylist([], schema=self.schema)
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
        table = pa.Table.from_batches(parts).combine_chunks()
        return table.take(pc.sort_indices(order)).to_batches()[0]

    def sort_out(
        self, values: Sequence[bytes | None]
    ) -> tuple[pa.RecordBatch, list[int], list[tuple[int, WireError]]]:
        """Return the rows of those that can be read, which they are, and what is wrong with the others.

        Raises:
            RegistryUnavailable: retry; nothing is said about any of them.
        """
        sound = [value for value in values if value is not None]
        if len(sound) == len(values):
            try:
                return self.decode_batch(sound), list(range(len(sound))), []
            except WireError:
                pass  # at least one; which ones is found out one by one
        rows: list[int] = []
        errors: list[tuple[int, WireError]] = []
        batches = []
        for index, value in enumerate(values):
            try:
                if value is None:
                    raise Undecodable("the record has no value")
                batches.append(self.decode_batch([value]))
            except WireError as error:
                errors.append((index, error))
            else:
                rows.append(index)
        table = pa.Table.from_batches(batches, schema=self.schema).combine_chunks()
        found = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=self.schema)]
        return found[0], rows, errors

    def _group(self, values: Sequence[bytes], indices: Sequence[int]) -> pa.RecordBatch:
        """Decode values of one schema id, which may be a wrong one."""
        try:
            reader = self._codec.reader(self._subject, schema_id_of(values[0]))
        except WireError as error:
            raise _at(error, indices[0]) from None
        batch = None if reader.resolves else self._columns(values)
        if batch is not None:
            return batch
        rows = []
        for value, index in zip(values, indices, strict=True):
            try:
                rows.append(reader.read(value, FRAME_BYTES))
            except WireError as error:
                raise _at(error, index) from None
        try:
            return pa.RecordBatch.from_pylist(rows, schema=self.schema)
        except (pa.ArrowInvalid, OverflowError):
            raise self._misfit(rows, indices) from None

    def _misfit(self, rows: Sequence[dict[str, Any]], indices: Sequence[int]) -> WireError:
        """Find the row that the columns do not hold: an int of more than 32 bits."""
        for row, index in zip(rows, indices, strict=True):
            try:
                pa.RecordBatch.from_pylist([row], schema=self.schema)
            except (pa.ArrowInvalid, OverflowError) as error:
                return _at(Undecodable(f"body does not fit: {error}"), index)
        raise AssertionError("columns that do not fit have a row that does not")

    def _columns(self, values: Sequence[bytes]) -> pa.RecordBatch | None:
        """Decode by column; None if any record does not fit to the byte."""
        bodies = [value[FRAME_BYTES:] for value in values]
        try:
            found = pyruhvro.deserialize_array(bodies, self._text)
        except ValueError:
            return None
        columns = []
        sizes = pa.array([0], pa.int64())[0]
        for field, column in zip(self.schema, found.columns, strict=True):
            sizes = pc.add(sizes, _encoded_bytes(column))
            try:
                if field.type == pa.string():
                    column.validate(full=True)
                columns.append(column.cast(field.type))
            except pa.ArrowInvalid:
                return None  # not UTF-8, or an int of more than 32 bits
        lengths = pa.array(list(map(len, bodies)), pa.int64())
        if not pc.all(pc.equal(sizes, lengths)).as_py():
            return None
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _encoded_bytes(column: pa.Array) -> pa.Array | pa.Scalar:
    """Return how many bytes each value took on the wire, if its numbers were written as short as can be."""
    if pa.types.is_boolean(column.type):
        return pa.scalar(1, pa.int64())
    if pa.types.is_floating(column.type):
        return pa.scalar(8, pa.int64())
    if pa.types.is_integer(column.type):
        return _varint_bytes(column.cast(pa.int64()))
    lengths = pc.binary_length(column).cast(pa.int64())
    return pc.add(lengths, _varint_bytes(lengths))


def _varint_bytes(numbers: pa.Array) -> pa.Array | pa.Scalar:
    bounds = pc.min_max(numbers).as_py()
    total: pa.Array | pa.Scalar = pa.scalar(1, pa.int64())
    for step in _STEPS:
        if bounds["max"] < step and bounds["min"] >= -step:
            break
        beyond = pc.or_(pc.greater_equal(numbers, step), pc.less(numbers, -step))
        total = pc.add(total, beyond.cast(pa.int64()))
    return total


@cache
def _columns(subject: str, text: str) -> tuple[pa.Schema, str]:
    """Return a subject's Arrow schema, and the Avro text that pyruhvro reads it with.

    The text says of each field what is the same on the wire and cannot go wrong: bytes are read as strings,
    into which pyruhvro 0.4 does not look (bytes it cannot read), and ints as longs (ints it cuts off).
    """
    schema: dict[str, Any] = without_logical_types(orjson.loads(text))
    columns = []
    for field in schema["fields"]:
        kind = field["type"]["type"] if isinstance(field["type"], dict) else field["type"]
        if not isinstance(kind, str) or kind not in _ARROW:
            raise ValueError(f"{subject}.{field['name']} is no plain column")
        columns.append(pa.field(field["name"], _ARROW[kind], nullable=False))
        field["type"] = {"bytes": "string", "int": "long"}.get(kind, kind)
        field.pop("default", None)
    return pa.schema(columns), orjson.dumps(schema).decode()


def _at(error: WireError, index: int) -> WireError:
    error.index = index
    return error
