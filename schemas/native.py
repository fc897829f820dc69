"""Bodies to columns by pyruhvro, which reads some millions of records a second; fastavro a hundred thousand.

It is trusted with nothing: it checks neither UTF-8 nor what stands after a record, so both are checked by
column, and what does not fit to the byte is left to the reader of single records, which decides. It is asked
in words that cannot go wrong: bytes are read as strings, into which pyruhvro 0.4 does not look (bytes it
cannot read), ints and enums as longs (ints it cuts off), all under names of ours.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from schemas.arrays import MISFITS
from schemas.resolving import NotByColumn, resolved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.arrow import Column

_READ_AS: Final = {"bytes": "string", "int": "long", "enum": "long"}
_SELF: Final = ("null", "boolean", "long", "float", "double", "string")
# A number n takes one byte more on the wire from each of these on (zigzag, seven bits a byte).
_STEPS: Final = tuple(2 ** (7 * more - 1) for more in range(1, 10))
_PANIC: Final = "PanicException"  # of pyo3, which no module gives; it is no Exception


class Native:
    """Reads bodies of one writer's schema as columns of the reader's; safe to share between threads."""

    def __init__(self, writer: Column, reader: Column) -> None:
        """Take the records of both.

        Raises:
            NotByColumn: it cannot be done.
        """
        if not reader.fields:
            raise NotByColumn(f"{reader.name} has no fields")
        if writer.is_wide:  # hundreds of columns for a null of one byte, before anybody could look
            raise NotByColumn("null items are wide in it")
        self._writer = writer
        self._text = orjson.dumps(_told(writer, writer.name, count())).decode()
        self._fields = resolved(writer, reader)
        self._schema = pa.schema(list(reader.type))

    def decode(self, bodies: Sequence[bytes]) -> pa.RecordBatch | None:
        """Return the records; None if one does not fit to the byte, or has what its column does not hold."""
        try:
            found = pyruhvro.deserialize_array(bodies, self._text).columns
        except BaseException as error:
            if isinstance(error, ValueError) or type(error).__name__ == _PANIC:
                return None
            raise
        sizes: pa.Array | pa.Scalar = pa.scalar(0, pa.int64())
        for field, column in zip(self._writer.fields, found, strict=True):
            sizes = pc.add(sizes, _wire_bytes(field.column, column))
        lengths = pa.array(list(map(len, bodies)), pa.int64())
        if not pc.all(pc.equal(sizes, lengths)).as_py():
            return None
        try:
            return pa.RecordBatch.from_arrays(self._fields(found, len(bodies)), schema=self._schema)
        except MISFITS:
            return None


def _told(column: Column, where: str, names: Iterator[int]) -> Any:
    """Return a writer's schema as pyruhvro is told it."""
    match column.kind:
        case "record":
            if not column.fields:
                raise NotByColumn(f"{where} has no fields")
            parts = [
                {"name": f"f{next(names)}", "type": _told(each.column, each.name, names)}
                for each in column.fields
            ]
            told: Any = {"type": "record", "name": f"r{next(names)}", "fields": parts}
        case "array":
            told = {"type": "array", "items": _told(column.fields[0].column, where, names)}
        case "map":
            told = {"type": "map", "values": _told(column.fields[0].column, where, names)}
        case kind if kind in _SELF or kind in _READ_AS:
            told = _READ_AS.get(kind, kind)
        case kind:
            raise NotByColumn(f"{where} has a {kind}")
    if not column.nullable:
        return told
    return ["null", told] if column.null_first else [told, "null"]


def _wire_bytes(column: Column, array: pa.Array) -> pa.Array | pa.Scalar:
    """Return how many bytes each value took on the wire, if its numbers were written as short as can be."""
    present = _present_bytes(column, array)
    if not column.nullable:
        return present
    return pc.if_else(array.is_valid(), pc.add(present, 1), pa.scalar(1, pa.int64()))


def _present_bytes(column: Column, array: pa.Array) -> pa.Array | pa.Scalar:
    match column.kind:
        case "int" | "long" | "enum":
            return _varint_bytes(array)
        case "string" | "bytes":
            lengths = pc.binary_length(array).cast(pa.int64())
            return pc.add(lengths, _varint_bytes(lengths))
        case "record":
            total: pa.Array | pa.Scalar = pa.scalar(0, pa.int64())
            for at, field in enumerate(column.fields):
                total = pc.add(total, _wire_bytes(field.column, array.field(at)))
            return total
        case "array":
            return _block_bytes(array, _wire_bytes(column.fields[0].column, array.values))
        case "map":
            keys = pc.binary_length(array.keys).cast(pa.int64())
            pairs = pc.add(keys, _varint_bytes(keys))
            return _block_bytes(array, pc.add(pairs, _wire_bytes(column.fields[0].column, array.items)))
        case kind:
            return pa.scalar({"null": 0, "boolean": 1, "float": 4, "double": 8}[kind], pa.int64())


def _block_bytes(array: pa.Array, items: pa.Array | pa.Scalar) -> pa.Array:
    """Return the bytes of each array or map: one block with its count, if there is any item, and the end."""
    starts, ends = array.offsets[:-1], array.offsets[1:]
    counts = pc.subtract(ends, starts).cast(pa.int64())
    if isinstance(items, pa.Scalar):
        sums = pc.multiply(counts, items)
    else:
        until = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(items)])
        sums = pc.subtract(until.take(ends), until.take(starts))
    frames = pc.if_else(pc.equal(counts, 0), 1, pc.add(_varint_bytes(counts), 1))
    return pc.add(sums, frames)


def _varint_bytes(numbers: pa.Array) -> pa.Array | pa.Scalar:
    bounds = pc.min_max(numbers).as_py()
    total: pa.Array | pa.Scalar = pa.scalar(1, pa.int64())
    if bounds["max"] is None:  # no number at all
        return total
    for step in _STEPS:
        if bounds["max"] < step and bounds["min"] >= -step:
            break
        beyond = pc.or_(pc.greater_equal(numbers, step), pc.less(numbers, -step))
        total = pc.add(total, beyond.cast(pa.int64()))
    return total
