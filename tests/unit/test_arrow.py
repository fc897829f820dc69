"""Any schema of Avro as Arrow: columns hold what fastavro gives with the reader's schema, however read."""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from decimal import Decimal
from functools import partial
from io import BytesIO

import fastavro
import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pipelines.tools import Tools
from schemas.batch import BatchReader
from schemas.codec import parsed
from schemas.errors import Undecodable, WireError

from .support_avro import SUBJECT, Registered, body_of, readers_of, records, values_of

ByColumn = partial(BatchReader, rows_max=0)
SLOW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def record(*types, **named):
    fields = [{"name": f"f{at}", "type": kind} for at, kind in enumerate(types)]
    fields += [{"name": name, "type": kind} for name, kind in named.items()]
    return {"type": "record", "name": SUBJECT, "fields": fields}


def single(writer, reader, body):
    """What fastavro reads, with logical types, as Arrow gives it back to Python."""
    given = fastavro.schemaless_reader(BytesIO(body), parsed(writer), parsed(reader))
    return as_given(given, reader)


def as_given(value, schema):
    if isinstance(schema, dict):
        if schema["type"] == "record":
            return {
                field["name"]: as_given(value[field["name"]], field["type"]) for field in schema["fields"]
            }
        if schema["type"] == "array":
            return [as_given(item, schema["items"]) for item in value]
        if schema["type"] == "map":
            return {name: as_given(item, schema["values"]) for name, item in value.items()}
    if isinstance(schema, list):
        return in_union(value, schema)
    if schema == "float":  # an int that was promoted is held in fewer bits
        return struct.unpack("f", struct.pack("f", value))[0]
    return str(value) if isinstance(value, uuid.UUID) else value


def in_union(value, schema):
    if value is None:
        return None
    if len(schema) == 2 and "null" in schema:
        return as_given(value, schema[schema[0] == "null"])
    for branch in schema if isinstance(value, dict) else ():
        if isinstance(branch, dict) and {field["name"] for field in branch["fields"]} == value.keys():
            return as_given(value, branch)
    return as_given(value, None)


def one_by_one(codec, *, logical_types=True):
    """A reader of batches whose way by column is shut."""
    return BatchReader(codec, SUBJECT, logical_types=logical_types)


@SLOW
@given(st.data())
def test_columns_are_what_fastavro_reads_whoever_wrote_them(data):
    writer = data.draw(records(), "writer")
    reader = data.draw(readers_of(writer), "reader")
    registered = Registered(reader)
    batch_reader = ByColumn(registered.codec, SUBJECT, logical_types=True)
    values, expected = [], []
    for _ in range(data.draw(st.integers(1, 6), "rows")):
        schema = data.draw(st.sampled_from([writer, reader]), "of")
        body = body_of(schema, data.draw(values_of(schema), "value"))
        value = registered.framed(schema, body)
        try:
            expected.append(single(schema, reader, body))
        except UnicodeDecodeError:  # of a union's bytes, for which fastavro takes the reader's string before
            with pytest.raises(Undecodable):
                batch_reader.decode_batch([value])
        else:
            values.append(value)
    batch = batch_reader.decode_batch(values)
    batch.validate(full=True)
    assert batch.schema == batch_reader.schema
    assert batch.to_pylist(maps_as_pydicts="strict") == expected
    assert one_by_one(registered.codec).decode_batch(values).equals(batch)
    assert batch.take(pa.array(range(len(values)), pa.int64())[::-1]).to_pylist() == batch.to_pylist()[::-1]


NESTED = record(
    ["null", "long"], ["string", "null"], "float", ["null", "double"],
    {"type": "enum", "name": "E", "symbols": ["A", "B"]},
    {"type": "array", "items": ["null", "string"]},
    ["null", {"type": "map", "values": "int"}],
    ["null", {"type": "record", "name": "N", "fields": [
        {"name": "x", "type": "int"}, {"name": "y", "type": ["null", {"type": "array", "items": "bytes"}]},
    ]}],
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
)  # fmt: skip
ROW = {
    "f0": 300, "f1": "text", "f2": 1.5, "f3": None, "f4": "B", "f5": ["a", None, ""], "f6": {"k": 70_000},
    "f7": {"x": -5, "y": [b"\xff", b""]}, "f8": dt.datetime(2026, 11, 26, tzinfo=dt.UTC),
    "f9": Decimal("12.34"),
}  # fmt: skip
WHOLE = Registered(NESTED)
BODY = body_of(NESTED, ROW)


def rows_or_error(reader, body):
    try:
        rows = reader.decode_batch([WHOLE.framed(NESTED, BODY), WHOLE.framed(NESTED, body)]).to_pylist()
    except WireError as error:
        return type(error), error.index
    for row in rows:  # under a name that is written twice, the last
        row["f6"] = row["f6"] and dict(row["f6"])
    return rows


@settings(max_examples=250, deadline=None)
@given(st.integers(0, len(BODY) - 1), st.binary(max_size=11), st.booleans())
def test_no_bytes_read_otherwise_by_column_than_one_by_one(place, new, cut):
    body = BODY[:place] + new + (b"" if cut else BODY[place + 1 :])
    by_column = ByColumn(WHOLE.codec, SUBJECT, logical_types=False)
    assert rows_or_error(by_column, body) == rows_or_error(one_by_one(WHOLE.codec, logical_types=False), body)


def test_the_usual_ones_are_read_by_column_those_of_another_writer_too():
    reader = ByColumn(WHOLE.codec, SUBJECT, logical_types=True)
    assert reader.by_row == ""
    assert reader._own.decode([BODY] * 3).to_pylist(maps_as_pydicts="strict") == [ROW] * 3
    older = orjson.loads(orjson.dumps(NESTED))
    del older["fields"][9]
    newer = orjson.loads(orjson.dumps(NESTED))
    newer["fields"][9]["default"] = "\u0001"
    newer["fields"][7]["type"][1]["fields"][0]["type"] = "long"
    newer["fields"][2]["type"] = "double"
    registered, told = Registered(newer), []
    reader = ByColumn(registered.codec, SUBJECT, logical_types=True, on_rows=lambda *why: told.append(why))
    value = registered.framed(older, body_of(older, ROW))
    batch = reader.decode_batch([value, registered.framed(NESTED, BODY)])
    assert batch.to_pylist(maps_as_pydicts="strict") == [ROW | {"f9": Decimal("0.01")}, ROW]
    assert told == []
    assert [type(native).__name__ for native in reader._others.values()] == ["Native", "Native"]


@pytest.mark.parametrize(
    ("kind", "arrow"),
    [
        ("null", pa.null()),
        ("float", pa.float32()),
        ({"type": "fixed", "name": "F", "size": 3}, pa.binary(3)),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, pa.string()),
        ({"type": "int", "logicalType": "date"}, pa.date32()),
        ({"type": "int", "logicalType": "time-millis"}, pa.time32("ms")),
        ({"type": "long", "logicalType": "time-micros"}, pa.time64("us")),
        ({"type": "long", "logicalType": "timestamp-millis"}, pa.timestamp("ms", "UTC")),
        ({"type": "long", "logicalType": "timestamp-micros"}, pa.timestamp("us", "UTC")),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, pa.timestamp("ms")),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, pa.decimal128(9, 2)),
        ({"type": "bytes", "logicalType": "decimal", "precision": 39}, pa.decimal256(39, 0)),
        ({"type": "string", "logicalType": "uuid"}, pa.string()),
        ({"type": "long", "logicalType": "nobody-knows"}, pa.int64()),
        ({"type": "array", "items": "long"}, pa.list_(pa.field("item", pa.int64(), nullable=False))),
        (
            {"type": "map", "values": ["null", "double"]},
            pa.map_(pa.string(), pa.field("value", pa.float64(), nullable=True)),
        ),
        (["long", "string"], pa.dense_union([pa.field("long", pa.int64()), pa.field("string", pa.string())])),
    ],
    ids=str,
)
def test_a_type_of_avros_is_its_nearest_in_arrow(kind, arrow):
    schema = ByColumn(Registered(record(kind)).codec, SUBJECT, logical_types=True).schema
    assert schema == pa.schema([pa.field("f0", arrow, nullable=arrow == pa.null())])


def test_a_null_is_a_null_and_its_column_says_so():
    reader = ByColumn(Registered(record(["null", "long"], ["long", "null"], "long")).codec, SUBJECT)
    assert [field.nullable for field in reader.schema] == [True, True, False]


def test_records_of_two_names_in_a_union_stay_what_they_were():
    parts = [
        {"type": "record", "name": name, "fields": [{"name": "x", "type": "long"}]} for name in ("a.A", "a.B")
    ]
    schema = record(["null", *parts])
    registered = Registered(schema)
    values = [
        registered.framed(schema, body_of(schema, {"f0": value}))
        for value in (("a.B", {"x": 1}), None, ("a.A", {"x": 2}))
    ]
    batch = ByColumn(registered.codec, SUBJECT).decode_batch(values)
    assert batch["f0"].type_codes.to_pylist() == [2, 0, 1]
    assert batch.to_pylist() == [{"f0": {"x": 1}}, {"f0": None}, {"f0": {"x": 2}}]


def test_a_decimal_of_too_many_digits_is_named_by_its_place():
    schema = record({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 0})
    registered = Registered(schema)
    reader = ByColumn(registered.codec, SUBJECT, logical_types=True)
    values = [registered.framed(schema, body) for body in (b"\x02\x63", b"\x02\x9d", b"\x02\x64")]
    assert reader.decode_batch(values[:2]).to_pylist() == [{"f0": Decimal(99)}, {"f0": Decimal(-99)}]
    with pytest.raises(Undecodable, match="2 digits") as caught:
        reader.decode_batch(values)
    assert caught.value.index == 2


def test_nulls_of_a_byte_do_not_become_columns_without_bound():
    part = {
        "type": "record",
        "name": "W",
        "fields": [{"name": f"x{at}", "type": ["null", "long"]} for at in range(20)],
    }
    schema = record({"type": "array", "items": ["null", part]})
    registered = Registered(schema)
    reader = ByColumn(registered.codec, SUBJECT)
    assert reader.by_row == "null items are wide in it"
    whole = [{f"x{at}": at for at in range(20)}, None] * 100
    value = registered.framed(schema, body_of(schema, {"f0": whole}))
    assert reader.decode_batch([value]).to_pylist() == [{"f0": whole}]
    hostile = registered.framed(schema, body_of(schema, {"f0": [None] * 10_000}))
    with pytest.raises(Undecodable, match="unfold into 210002 values") as caught:
        reader.decode_batch([value, hostile])
    assert caught.value.index == 1


def test_a_schema_that_holds_itself_is_refused_at_once():
    schema = record(["null", SUBJECT])
    with pytest.raises(ValueError, match="holds itself"):
        ByColumn(Registered(schema).codec, SUBJECT)


def test_which_schemas_are_read_one_by_one_is_told_once():
    usual, union = record("long"), record(["long", "string"])
    with capture_logs() as logs:
        Tools(Registered(usual).codec, None, None).columns(SUBJECT)
    assert logs == []
    with capture_logs() as logs:
        Tools(Registered(union).codec, None, None).columns(SUBJECT)
    assert [(log["subject"], log["cause"]) for log in logs] == [(SUBJECT, "f0 has a union")]
    registered, told = Registered(usual), []
    reader = ByColumn(registered.codec, SUBJECT, on_rows=lambda *why: told.append(why))
    value = registered.framed(union, body_of(union, {"f0": 5}))
    assert [reader.decode_batch([value]).to_pylist() for _ in range(2)] == [[{"f0": 5}]] * 2
    assert [why for _, why in told] == ["f0 has a union"]
