"""Avro's schema resolution over columns: from what one writer wrote to what the reader has.

Only what is the same for every row of a column: names and aliases, fields left out and added, promotions. All
else (a union's branches, an enum's default) is the reader of single records' to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from schemas.arrays import array_of, entries_of, shown
from schemas.arrow import UNSET

if TYPE_CHECKING:
    from schemas.arrow import Column, Field

Step = Callable[[pa.Array], pa.Array]
Fields = Callable[[Sequence[pa.Array], int], list[pa.Array]]
_Source = Callable[[Sequence[pa.Array], int], pa.Array]


class NotByColumn(Exception):
    """Why records of one schema are read one by one: what no step over whole columns does."""


def resolved(writer: Column, reader: Column) -> Fields:
    """Return what makes the reader's fields of a record out of the writer's, and of their number of rows.

    What it returns raises one of ``MISFITS`` where a value has no place in the reader's column.

    Raises:
        NotByColumn: the two do not fit together, or not for each value alike.
    """
    known = {field.name: field for field in reader.fields}
    aliased = {alias: field for field in reader.fields for alias in field.aliases}
    sources: dict[str, _Source] = {}
    for at, field in enumerate(writer.fields):
        wanted = known.get(field.name, aliased.get(field.name))
        if wanted is None:
            continue  # the reader does not know it
        if wanted.name in sources:
            raise NotByColumn(f"{wanted.name} is written under two names")
        sources[wanted.name] = _taken(at, _step(field.column, wanted.column, field.name))
    made = [sources.get(field.name) or _added(field) for field in reader.fields]
    return lambda columns, rows: [source(columns, rows) for source in made]


def _taken(at: int, step: Step) -> _Source:
    return lambda columns, _rows: step(columns[at])


def _added(field: Field) -> _Source:
    if field.default is UNSET:
        raise NotByColumn(f"{field.name} is not written and has no default")
    one = array_of(field.column, [field.default])
    return lambda _columns, rows: one.take(pa.repeat(0, rows))


def _step(writer: Column, reader: Column, where: str) -> Step:
    step = _present(writer, reader, where)
    if not writer.nullable or reader.nullable:
        return step

    def whole(array: pa.Array) -> pa.Array:
        if array.null_count:
            raise ValueError(f"{where} is null, which the reader's is not")
        return step(array)

    return whole


def _present(writer: Column, reader: Column, where: str) -> Step:
    match writer.kind, reader.kind:
        case "record", "record" if writer.name == reader.name:
            return _record(writer, reader)
        case "array", "array":
            item = _step(writer.fields[0].column, reader.fields[0].column, where)
            return lambda array: _around(reader.type, array, 2, item(array.values))
        case "map", "map":
            return _map(reader, _step(writer.fields[0].column, reader.fields[0].column, where))
        case "enum", "enum" if writer.name == reader.name and set(writer.symbols) <= set(reader.symbols):
            symbols = pa.array(writer.symbols, pa.string())
            return lambda array: symbols.take(array)  # noqa: PLW0108 - it has a type so
    wire = _WIRE.get((writer.kind, reader.kind))
    if wire is None:
        raise NotByColumn(f"{where} is written as {writer.kind} and read as {reader.kind}")
    return lambda array: shown(reader, wire(array))


def _record(writer: Column, reader: Column) -> Step:
    fields = resolved(writer, reader)
    width = len(writer.fields)

    def step(array: pa.Array) -> pa.Array:
        children = fields([array.field(at) for at in range(width)], len(array))
        return _around(reader.type, array, 1, *children)

    return step


def _map(reader: Column, item: Step) -> Step:
    def step(array: pa.Array) -> pa.Array:
        entries = entries_of(reader.type, _text(array.keys), item(array.items))
        return _around(reader.type, array, 2, entries)

    return step


def _text(array: pa.Array) -> pa.Array:
    array.validate(full=True)  # nobody has looked whether it is UTF-8
    return array


def _same(array: pa.Array) -> pa.Array:
    return array


def _int(array: pa.Array) -> pa.Array:
    return array.cast(pa.int32())  # it was read as a long


def _double(array: pa.Array) -> pa.Array:
    return array.cast(pa.float64(), safe=False)  # beyond 53 bits it is rounded, as Avro's promotion does


def _float(array: pa.Array) -> pa.Array:
    return _double(array).cast(pa.float32())  # by way of a double, as the reader of single records


def _bytes(array: pa.Array) -> pa.Array:
    return array.view(pa.binary())


def _bytes_of_text(array: pa.Array) -> pa.Array:
    return _bytes(_text(array))


_WIRE: Final[Mapping[tuple[str, str], Step]] = {
    ("null", "null"): _same, ("boolean", "boolean"): _same,
    ("int", "int"): _int, ("int", "long"): _same, ("int", "float"): _float, ("int", "double"): _double,
    ("long", "long"): _same, ("long", "float"): _float, ("long", "double"): _double,
    ("float", "float"): _same, ("float", "double"): _double, ("double", "double"): _same,
    ("string", "string"): _text, ("string", "bytes"): _bytes_of_text,
    ("bytes", "string"): _text, ("bytes", "bytes"): _bytes,
}  # fmt: skip
"""What a plain value is made by that was written as one and is read as another."""


def _around(made: pa.DataType, array: pa.Array, buffers: int, *children: pa.Array) -> pa.Array:
    """Return new children where ``array`` has its own: its nulls, and its offsets if it has any."""
    kept = array.buffers()[:buffers]
    return pa.Array.from_buffers(made, len(array), kept, array.null_count, children=list(children))
