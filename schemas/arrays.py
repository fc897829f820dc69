"""Values that were read one by one, as columns: the way that takes every schema."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from schemas.arrow import UNSET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.arrow import Column, Field

MISFITS: Final = (pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError)
"""What is raised over a value that Avro holds and its column does not: an int of 33 bits, say."""

_KINDS: Final = {
    type(None): ("null",),
    bool: ("boolean",),
    int: ("int", "long"),
    float: ("double", "float"),
    str: ("string", "enum"),
    bytes: ("bytes", "fixed"),
    list: ("array",),
    dict: ("record", "map"),
}
"""Branches of a union that hold a value of Python, the first that takes it before the others."""


def array_of(column: Column, values: Sequence[Any]) -> pa.Array:
    """Return values that fastavro read without logical types as a column.

    Raises one of ``MISFITS`` over a value that the column does not hold.
    """
    match column.kind:
        case "record":
            return _structs(column, values)
        case "array":
            items = [item for value in values for item in value or ()]
            return nested(column.type, values, _offsets(values), [array_of(column.fields[0].column, items)])
        case "map":
            keys = pa.array([key for value in values for key in value or ()], pa.string())
            items = [item for value in values for item in (value or {}).values()]
            entries = entries_of(column.type, keys, array_of(column.fields[0].column, items))
            return nested(column.type, values, _offsets(values), [entries])
        case "union":
            return _unions(column, values)
        case _:
            return shown(column, pa.array(values, column.wire))


def cells_of(column: Column, value: Any) -> int:
    """Return how many values of Arrow's arrays a value takes that ``array_of`` is given."""
    match column.kind:
        case "record" if value is not None:
            record = value[1] if type(value) is tuple else value
            return 1 + sum(cells_of(field.column, record.get(field.name)) for field in column.fields)
        case "array":
            return 1 + sum(cells_of(column.fields[0].column, item) for item in value or ())
        case "map":
            return 1 + sum(1 + cells_of(column.fields[0].column, item) for item in (value or {}).values())
        case "union":
            return 1 + cells_of(column.fields[_branch(column.fields, value)].column, value)
        case _:
            return column.cells


def shown(column: Column, wire: pa.Array) -> pa.Array:
    """Return an array of a plain column's ``wire`` type as its ``type``. Raises one of ``MISFITS``."""
    if column.type == wire.type:
        return wire
    if pa.types.is_decimal(column.type):
        return _decimals(column.type, wire.to_pylist())
    return wire.view(column.type)


def nested(
    made: pa.DataType, values: Sequence[Any], offsets: pa.Buffer | None, children: list[pa.Array]
) -> pa.Array:
    """Return a struct, list or map over its children; what is None in ``values`` is null.

    Of buffers, as Arrow's own makers refuse a null below a null where the field says that it has none.
    """
    validity, nulls = _validity(values)
    buffers = [validity] if offsets is None else [validity, offsets]
    return pa.Array.from_buffers(made, len(values), buffers, nulls, children=children)


def entries_of(made: pa.MapType, keys: pa.Array, items: pa.Array) -> pa.Array:
    """Return the pairs of maps, one after the other, as Arrow keeps them."""
    entries = pa.struct([pa.field("key", keys.type, nullable=False), made.item_field])
    return pa.Array.from_buffers(entries, len(keys), [None], 0, children=[keys, items])


def _validity(values: Sequence[Any]) -> tuple[pa.Buffer | None, int]:
    present = [value is not None for value in values]
    nulls = len(present) - sum(present)
    return (pa.array(present, pa.bool_()).buffers()[1] if nulls else None), nulls


def _offsets(values: Sequence[Any]) -> pa.Buffer:
    lengths = (len(value) if value is not None else 0 for value in values)
    return pa.array(list(accumulate(lengths, initial=0)), pa.int32()).buffers()[1]


def _structs(column: Column, values: Sequence[Any]) -> pa.Array:
    # Read with names (``is_tagged``), a record in a union comes as its name and itself.
    plain = [value[1] if type(value) is tuple else value for value in values]
    children = []
    for field in column.fields:
        name, default = field.name, field.default
        if default is UNSET:
            found = [None if value is None else value[name] for value in plain]
        else:  # a record that is a default itself may leave out what has one
            found = [None if value is None else value.get(name, default) for value in plain]
        children.append(array_of(field.column, found))
    return nested(column.type, plain, None, children)


def _unions(column: Column, values: Sequence[Any]) -> pa.Array:
    parts: list[list[Any]] = [[] for _ in column.fields]
    codes, offsets = [], []
    for value in values:
        code = _branch(column.fields, value)
        codes.append(code)
        offsets.append(len(parts[code]))
        parts[code].append(value)
    children = [array_of(field.column, part) for field, part in zip(column.fields, parts, strict=True)]
    names = [field.name for field in column.fields]
    return pa.UnionArray.from_dense(
        pa.array(codes, pa.int8()), pa.array(offsets, pa.int32()), children, names
    )


def _branch(fields: Sequence[Field], value: Any) -> int:
    """Return which branch holds a value: of several that can, one that loses nothing of it."""
    if type(value) is tuple:
        return next(code for code, field in enumerate(fields) if field.name == value[0])
    for kind in _KINDS[type(value)]:
        for code, field in enumerate(fields):
            if field.column.kind == kind and _holds(field.column, value):
                return code
    if value is None:
        return 0  # below a null
    raise ValueError(f"no branch of {[field.name for field in fields]} holds a {type(value).__name__}")


def _holds(column: Column, value: Any) -> bool:
    match column.kind:
        case "int":
            return bool(-(2**31) <= value < 2**31)
        case "enum":
            return value in column.symbols
        case "fixed":
            return bool(len(value) == column.wire.byte_width)
        case "record":
            return bool(value.keys() == {field.name for field in column.fields})
        case _:
            return True


def _decimals(made: pa.DataType, values: Sequence[bytes | None]) -> pa.Array:
    """Return numbers in big-endian two's complement as decimals."""
    numbers = [0 if value is None else int.from_bytes(value, "big", signed=True) for value in values]
    bound = 10**made.precision
    for number in numbers:
        if not -bound < number < bound:
            raise ValueError(f"a decimal of more than {made.precision} digits")
    width = made.byte_width
    data = b"".join([number.to_bytes(width, "little", signed=True) for number in numbers])
    validity, nulls = _validity(values)
    return pa.Array.from_buffers(made, len(values), [validity, pa.py_buffer(data)], nulls)
