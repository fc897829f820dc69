"""Schemas of Avro at random, values of them, and readers that came before or after them."""

from __future__ import annotations

import datetime as dt
from copy import deepcopy
from decimal import Context, Decimal
from io import BytesIO
from itertools import count
from typing import Any

import fastavro
import orjson
from hypothesis import strategies as st

from schemas.catalog import LocalSchemas
from schemas.wire import WireCodec

SUBJECT = "tests.Random"
INT, LONG = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
LOGICAL: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("int", "date"): st.dates(),
    ("int", "time-millis"): st.times().map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)),
    ("long", "time-micros"): st.times(),
    ("long", "timestamp-millis"): st.datetimes(timezones=st.just(dt.UTC)).map(
        lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
    ),
    ("long", "timestamp-micros"): st.datetimes(timezones=st.just(dt.UTC)),
    ("long", "local-timestamp-micros"): st.datetimes(),
    ("string", "uuid"): st.uuids(),
}
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": INT,
    "long": LONG,
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "bytes": st.binary(max_size=9),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
}
_WIDE = Context(prec=80)
PROMOTED = {
    "int": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",),
    "string": ("bytes",),
}  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a record's schema with some of all that Avro has; each named type has a name of its own."""
    names = (f"tests.N{number}" for number in count())
    return _record(draw, names, SUBJECT, 3)


def _record(draw: st.DrawFn, names: Any, name: str, depth: int) -> dict[str, Any]:
    of = name.rpartition(".")[2].lower()  # so that its values are told from another's
    count_of = draw(st.integers(1, 4))
    fields = [{"name": f"{of}_{at}", "type": _type(draw, names, depth)} for at in range(count_of)]
    return {"type": "record", "name": name, "fields": fields}


def _type(draw: st.DrawFn, names: Any, depth: int) -> Any:  # noqa: PLR0911 - one a form
    forms = ["plain", "plain", "logical", "decimal", "enum", "fixed"]
    if depth > 0:
        forms += ["nullable", "nullable", "union", "array", "map", "record"]
    form = draw(st.sampled_from(forms))
    if form in ("nullable", "union"):
        return _union(draw, names, depth, form)
    if form == "logical":
        plain, logical = draw(st.sampled_from(sorted(LOGICAL)))
        return {"type": plain, "logicalType": logical}
    if form == "decimal":
        precision = draw(st.sampled_from([1, 5, 38, 50]))
        return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": precision // 2}
    if form == "enum":
        return {"type": "enum", "name": next(names), "symbols": ["A", "B", "C"][: draw(st.integers(1, 3))]}
    if form == "fixed":
        return {"type": "fixed", "name": next(names), "size": draw(st.integers(1, 4))}
    if form == "array":
        return {"type": "array", "items": _type(draw, names, depth - 1)}
    if form == "map":
        return {"type": "map", "values": _type(draw, names, depth - 1)}
    if form == "record":
        return _record(draw, names, next(names), depth - 1)
    return draw(st.sampled_from(sorted(PLAIN)))


def _union(draw: st.DrawFn, names: Any, depth: int, form: str) -> list[Any]:
    if form == "nullable":
        branch = _type(draw, names, depth - 1)
        while isinstance(branch, list):
            branch = _type(draw, names, 0)
        return draw(st.permutations(["null", branch]))
    branches: list[Any] = draw(
        st.lists(st.sampled_from(["null", *sorted(PLAIN)]), min_size=1, max_size=4, unique=True)
    )
    branches += [_record(draw, names, next(names), depth - 1) for _ in range(draw(st.integers(0, 2)))]
    return branches


def values_of(schema: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one a form
    """Return what a schema's values are, as fastavro writes them."""
    if isinstance(schema, list):
        return st.one_of([_branch_of(branch) for branch in schema])
    if isinstance(schema, str):
        return st.none() if schema == "null" else PLAIN[schema]
    kind = schema["type"]
    if kind == "record":
        return st.fixed_dictionaries({field["name"]: values_of(field["type"]) for field in schema["fields"]})
    if kind == "array":
        return st.lists(values_of(schema["items"]), max_size=3)
    if kind == "map":
        return st.dictionaries(PLAIN["string"], values_of(schema["values"]), max_size=3)
    if kind == "enum":
        return st.sampled_from(schema["symbols"])
    if kind == "fixed":
        return st.binary(min_size=schema["size"], max_size=schema["size"])
    if schema["logicalType"] == "decimal":
        bound = 10 ** schema["precision"] - 1
        return st.integers(-bound, bound).map(lambda n: Decimal(n).scaleb(-schema["scale"], _WIDE))
    return LOGICAL[kind, schema["logicalType"]]


def _branch_of(branch: Any) -> st.SearchStrategy[Any]:
    values = values_of(branch)
    named = isinstance(branch, dict) and branch["type"] == "record"
    return values.map(lambda value: (branch["name"], value)) if named else values


@st.composite
def readers_of(draw: st.DrawFn, writer: dict[str, Any]) -> dict[str, Any]:
    """Draw a reader's schema that a writer's can be resolved to, as a topic's next version is."""
    reader = deepcopy(writer)
    _evolve(draw, reader)
    return reader


def _evolve(draw: st.DrawFn, record: dict[str, Any]) -> None:
    fields = []
    for field in record["fields"]:
        change = draw(st.sampled_from(["none", "none", "drop", "rename", "promote", "nullable", "deeper"]))
        kind = field["type"]
        if change == "drop":
            continue
        if change == "rename":
            field |= {"name": f"{field['name']}_new", "aliases": [field["name"]]}
        elif change == "promote" and isinstance(kind, str) and kind in PROMOTED:
            field["type"] = draw(st.sampled_from(PROMOTED[kind]))
        elif change == "nullable" and not isinstance(kind, list):
            field["type"] = ["null", kind]
        elif change == "deeper" and isinstance(kind, dict):
            if kind["type"] == "record":
                _evolve(draw, kind)
            elif kind["type"] == "enum":
                kind["symbols"].append("Z")
        fields.append(field)
    for at, (kind, default) in enumerate(draw(st.lists(st.sampled_from(_ADDED), max_size=2))):
        fields.append({"name": f"added{at}", "type": kind, "default": default})
    record["fields"] = fields or [{"name": "added", "type": "long", "default": 7}]


_ADDED = [
    ("long", 3),
    ("float", 0.5),
    ("string", "x"),
    ("bytes", "\u00ff"),
    (["null", "double"], None),
    ({"type": "array", "items": "long"}, [1, 2]),
    ({"type": "map", "values": "string"}, {"k": "v"}),
]


def body_of(schema: Any, value: Any) -> bytes:
    """Return a value as Avro."""
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(deepcopy(schema)), value)
    return out.getvalue()


class Registered:
    """A registry of one subject's schemas, read as one of them."""

    def __init__(self, reader: dict[str, Any]) -> None:
        text = orjson.dumps(reader).decode()
        self._source = LocalSchemas()
        self.codec = WireCodec(self._source, schemas={SUBJECT: text})

    def framed(self, writer: dict[str, Any], body: bytes) -> bytes:
        """Return a body as its writer frames it."""
        schema_id = self._source.register(SUBJECT, orjson.dumps(writer).decode())
        return b"\x00" + schema_id.to_bytes(4, "big") + body
