"""The archive's columns are the fields of the Avro records: neither may drift from the other."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from connectors.postgres.tables import LLM_ATTEMPTS, LLM_CONTENTS, TABLES, Table

AVRO = Path(str(files("schemas"))) / "avro"
MIGRATIONS = Path(str(files("connectors.postgres"))) / "migrations"

COLUMN_TYPES = {
    "string": "text",
    "int": "bigint",
    "long": "bigint",
    "boolean": "boolean",
    "array<string>": "text[]",
    "map<long>": "jsonb",
}


def record_of(table: Table) -> dict[str, object]:
    for path in AVRO.rglob("*.avsc"):
        schema = json.loads(path.read_text())
        if f"{schema.get('namespace')}.{schema['name']}" == table.record or schema["name"] == table.record:
            return schema
    pytest.fail(f"no .avsc file declares {table.record}")


def column_type(avro: object) -> str:
    if isinstance(avro, list):
        assert "null" in avro
        (other,) = (branch for branch in avro if branch != "null")
        return column_type(other) + "?"
    if isinstance(avro, dict):
        if avro["type"] in ("array", "map"):
            inner = avro.get("items", avro.get("values"))
            inner = inner["type"] if isinstance(inner, dict) else inner
            return COLUMN_TYPES[f"{avro['type']}<{inner}>"]
        return column_type(avro["type"])
    return COLUMN_TYPES[str(avro)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_columns_are_the_fields_of_the_record(table):
    fields = {field["name"]: column_type(field["type"]) for field in record_of(table)["fields"]}
    assert set(table.left_out) <= fields.keys()
    assert dict(table.columns) == {name: kind for name, kind in fields.items() if name not in table.left_out}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_key_and_revision_are_columns(table):
    assert {*table.key, table.revision} <= table.columns.keys()


def test_every_migration_says_which_code_may_live_with_it():
    found = sorted(MIGRATIONS.glob("*.sql"))
    assert found
    for path in found:
        assert re.match(r"-- oldest: \d+\n", path.read_text()), path.name


@pytest.mark.parametrize("table", [LLM_ATTEMPTS, LLM_CONTENTS], ids=lambda table: table.name)
def test_what_is_kept_of_an_attempt_is_taken_from_either_topic_and_null_takes_nothing_away(table):
    upsert = table.upsert("s").as_string()
    for column in table.apart:
        assert f'"{column}" = coalesce(EXCLUDED."{column}", kept."{column}")' in upsert
    ledger = table is LLM_ATTEMPTS
    assert ('"state" = EXCLUDED."state"' in upsert) == ledger
    assert upsert.endswith(' WHERE kept."ended_us" < EXCLUDED."ended_us"') == ledger
