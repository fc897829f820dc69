"""Our schemas: complete, documented, within the limits that we set to others, and open to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from schemas.catalog import LocalSchemas, payload_subject, subjects
from schemas.envelope import CONTROL_TYPES, DATA_TYPES, TICK
from schemas.errors import UnknownSchemaId, UnknownType
from schemas.limits import checked_schema
from schemas.shape import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# What an Avro reader cannot do without; everything else may one day go.
ESSENTIAL_MAX = {"sluicegate.UsagePartial": 4, "sluicegate.DeadLetter": 4, "sluicegate.Event": 6}


def fields(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        for field in schema.get("fields", ()):
            yield field
            yield from fields(field["type"])
        for part in ("items", "values", "type"):
            yield from fields(schema.get(part))
    elif isinstance(schema, list):
        for branch in schema:
            yield from fields(branch)


def test_every_type_of_the_contract_has_a_schema() -> None:
    for type_name in (*CONTROL_TYPES, *DATA_TYPES, TICK):
        assert payload_subject(type_name) in subjects()


@pytest.mark.parametrize("subject", sorted(subjects()))
def test_a_schema_is_documented_and_within_limits(subject: str) -> None:
    schema = checked_schema(subjects()[subject], 1)
    assert schema["doc"]
    assert [field["name"] for field in fields(schema) if not field.get("doc")] == []


@pytest.mark.parametrize("subject", sorted(subjects()))
def test_few_fields_lack_a_default_so_that_schemas_can_change(subject: str) -> None:
    schema = orjson.loads(subjects()[subject])
    essential = [field["name"] for field in schema["fields"] if "default" not in field]
    assert len(essential) <= ESSENTIAL_MAX.get(subject, 4), essential


def test_local_ids_are_the_same_everywhere_and_fit_the_frame() -> None:
    one, other = LocalSchemas(), LocalSchemas()
    ids = {subject: one.id_of(subject) for subject in subjects()}
    assert ids == {subject: other.id_of(subject) for subject in subjects()}
    assert len(set(ids.values())) == len(ids)
    assert all(0 < schema_id < 2**31 for schema_id in ids.values())
    for subject, text in subjects().items():
        assert one.schema_of(ids[subject]) == text


def test_the_shape_of_a_schema_is_what_a_reader_can_notice() -> None:
    field = {"name": "f", "type": {"type": "fixed", "name": "F", "size": 2}, "default": "ab", "doc": "words"}
    spelt = {
        "doc": "other words",
        "type": "record",
        "name": "R",
        "namespace": "n",
        "fields": [
            field,
            {"type": ["null", "n.F", {"type": "long", "logicalType": "time-micros"}], "name": "u"},
        ],
    }
    short = {
        "type": "record",
        "name": "n.R",
        "fields": [
            {"name": "f", "default": "ab", "type": {"type": "fixed", "name": "n.F", "size": 2}},
            {"name": "u", "type": ["null", "F", "long"]},
        ],
    }
    assert shape_of(spelt) == shape_of(short)
    for change in (
        {"name": "n.Q"},
        {"fields": spelt["fields"][:1]},
        {"fields": [{**field, "default": "cd"}, spelt["fields"][1]]},
        {"fields": [{**field, "type": {"type": "fixed", "name": "F", "size": 3}}, spelt["fields"][1]]},
        {"fields": list(reversed(spelt["fields"]))},
    ):
        assert shape_of({**spelt, **change}) != shape_of(short)


def test_what_is_not_registered_is_named() -> None:
    source = LocalSchemas()
    with pytest.raises(UnknownType, match=r"sluicegate\.payload\.reading"):
        source.id_of("sluicegate.payload.reading")
    with pytest.raises(UnknownSchemaId, match="schema id 7 "):
        source.schema_of(7)
