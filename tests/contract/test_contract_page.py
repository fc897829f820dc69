"""CONTRACT.md says what the code does: its tables and bounds are read and compared."""

from __future__ import annotations

import re
from dataclasses import astuple, fields
from pathlib import Path
from typing import get_args

import pytest

from edge import messages
from edge.options import EdgeOptions
from pipelines.verdicts import Verdict
from schemas import cloudevents, envelope, kinds, limits, topics, wire
from schemas.catalog import subjects
from schemas.cursor import TEXT_MAX
from schemas.envelope import CONTROL_TYPES, DATA_TYPES, RESERVED_TYPES, Event
from schemas.payloads import END_REASONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRACT.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^#+ (?:\d+\. )?{re.escape(title)}$(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of a section's tables, headings and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for number, row in enumerate(cells) if not _is_rule(row) and not _is_head(cells, number)]


def _is_rule(row: list[str]) -> bool:
    return all(set(cell) == {"-"} for cell in row)


def _is_head(cells: list[list[str]], number: int) -> bool:
    return number + 1 < len(cells) and _is_rule(cells[number + 1])


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_field_of_the_envelope_is_in_the_table() -> None:
    listed = [name for row in rows(section("Envelope")) for name in names(row[0])]
    assert listed == list(Event._fields)


def test_the_patterns_are_those_of_the_code() -> None:
    text = section("Envelope")
    for pattern in (envelope._TENANT, envelope._STREAM, envelope._KIND, envelope._TYPE):
        assert f"`{pattern.pattern}`" in text


def test_the_bounds_are_those_of_the_code() -> None:
    assert envelope.PAYLOAD_BYTES_MAX == 900 * 1024
    assert "at most 900 KiB" in PAGE
    assert wire.VALUE_BYTES_MAX == 2**20
    assert TEXT_MAX == 128
    assert "at most 128 characters of `[A-Za-z0-9._-]`" in PAGE
    assert (limits.SCHEMA_BYTES_MAX, limits.DEPTH_MAX, limits.VALUES_PER_BYTE_MAX) == (64 * 1024, 16, 8)
    assert "at most 64 KiB, at most 16 levels deep" in PAGE
    assert "more than 8 values a byte" in PAGE


def test_types_are_those_of_the_code_and_each_has_the_fields_that_are_named() -> None:
    text = section("Types and payloads")
    listed = {names(row[0])[0]: names(row[2]) for row in rows(text)}
    assert set(listed) == set(CONTROL_TYPES)
    for type_name, field_names in listed.items():
        schema = subjects()[f"sluicegate.payload.{type_name}"]
        for name in field_names:
            if name not in ("from_seq", "epoch") or type_name != "reset":
                assert f'"name":"{name}"' in schema
    line = next(line for line in text.splitlines() if line.startswith("Data types:"))
    assert tuple(names(line)[: len(DATA_TYPES)]) == DATA_TYPES
    line = next(line for line in text.splitlines() if "MUST NOT be published" in line)
    assert set(names(line)) == set(RESERVED_TYPES)


def test_reasons_and_verdicts_are_those_of_the_code() -> None:
    sentence = re.search(r"`end\.reason` is ([^.]*)\.", section("Lifecycle"))
    assert sentence
    assert tuple(names(sentence[1])) == END_REASONS
    listed = {name for row in rows(section("Verdicts and time")) for name in names(row[0])}
    assert listed == set(get_args(Verdict))


# Of a CloudEvent, but no field of an event.
NO_FIELDS = ("specversion", "type", "subject", "datacontenttype", "dataschema", "data", "data_base64")


def test_cloud_events_attributes_are_those_of_the_code() -> None:
    listed: dict[str, str] = {}
    for row in rows(section("CloudEvents 1.0")):
        listed.update(zip(names(row[0]), names(row[1]), strict=False))
    for attribute, field in cloudevents.ATTRIBUTES.items():
        assert listed[attribute] == field
    assert set(listed) <= {*cloudevents.ATTRIBUTES, *NO_FIELDS}


@pytest.mark.parametrize("spec", topics.TOPICS, ids=lambda spec: spec.name)
def test_topics_are_those_of_the_code(spec: topics.TopicSpec) -> None:
    listed = {names(row[0])[0]: row for row in rows(section("Topics"))}
    if spec.name.endswith(".changelog.v1"):
        assert spec.name not in listed  # nobody's business but the worker's
        return
    row = listed[spec.name]
    assert names(row[2])[0] == spec.subject
    days = spec.retention_ms / topics.DAY_MS
    assert ("latest" in row[3]) == ("compact" in spec.cleanup)
    if spec.retention_ms > 0:
        assert f"{days:g} day" in row[3]


def test_policies_are_those_of_the_code() -> None:
    listed = {row[0]: names(row[1]) for row in rows(section("Policies of a kind"))}
    policies = {field.name for field in fields(kinds.Kind)} - {"name", "doc"}
    assert set(listed) == policies
    job = kinds.JOB
    assert listed["connection"] == [field.name for field in fields(job.connection)]
    for page in {page for kind in kinds.BUILTIN_KINDS for page in astuple(kind.runbooks)}:
        written = (ROOT / "runbooks" / f"{page}.md").exists()
        assert written != (f"the page `{page}` is not written yet" in PAGE), page
    assert listed["backpressure"][:4] == list(get_args(kinds.Pressure))


def test_what_is_said_over_a_websocket_is_what_the_code_takes() -> None:
    tables = [row for row in rows(section("Delivery over WebSocket")) if len(row) == 3]
    listed = {names(row[0])[0]: set(names(row[1])) - {"id"} for row in tables}
    assert listed == {name: set(members) for name, members in messages.MEMBERS.items()}
    text = section("Delivery over WebSocket")
    options = EdgeOptions()
    assert f"within {options.websocket_pong_ms_max // 1_000} seconds is cut off" in text
    assert f"and {options.request_read_ms_max // 1_000} seconds to come" in text
