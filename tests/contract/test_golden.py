"""Bytes that stand in topics are read for ever: by every later version, and by every earlier one."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import orjson
import pytest

from schemas.catalog import subjects
from schemas.changes import problems_between
from schemas.codec import Reader, Writer
from schemas.shape import shape_of
from tests.contract.golden_files import Golden, read_all

GOLDENS = read_all()
LATEST = {golden.subject: golden for golden in GOLDENS}


def successor(golden: Golden) -> Golden:
    """A next version as one will come some day: one field more, and the last that may go gone."""
    schema = orjson.loads(golden.schema)
    optional = [field for field in schema["fields"] if "default" in field]
    for field in optional[-1:]:
        schema["fields"].remove(field)
    schema["fields"].append({"name": "added", "type": "string", "default": "d"})
    text = orjson.dumps(schema).decode()
    names = {field["name"] for field in schema["fields"]}
    record = {name: value for name, value in golden.record.items() if name in names}
    return Golden(golden.subject, golden.version + 1, text, Writer(1, text).write(record), record)


def in_both(one: Any, other: Any) -> Any:
    """What two versions of a record share, records within it included: a field that one lacks is left out."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: in_both(one[name], other[name]) for name in set(one) & set(other)}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [in_both(*pair) for pair in zip(one, other, strict=True)]
    return one


VERSIONS = [*GOLDENS, *(successor(golden) for golden in LATEST.values())]
PAIRS = [pair for pair in permutations(VERSIONS, 2) if pair[0].subject == pair[1].subject]


@pytest.mark.parametrize("subject", sorted(subjects()))
def test_a_schema_is_its_latest_golden_version_in_all_but_words(subject: str) -> None:
    assert subject in LATEST, "a new subject: python -m tests.contract.golden_files"
    assert shape_of(orjson.loads(subjects()[subject])) == shape_of(orjson.loads(LATEST[subject].schema)), (
        "the schema has changed: python -m tests.contract.golden_files writes its next version"
    )


def test_no_golden_version_has_lost_its_subject_or_a_predecessor() -> None:
    assert set(LATEST) == set(subjects())
    for subject, latest in LATEST.items():
        versions = [golden.version for golden in GOLDENS if golden.subject == subject]
        assert versions == list(range(1, latest.version + 1))


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_golden_bytes_are_written_and_read(golden: Golden) -> None:
    assert Writer(1, golden.schema).write(golden.record) == golden.body
    assert Reader(1, golden.schema, None, golden.subject).read(golden.body) == golden.record


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_golden_records_leave_no_field_at_its_default(golden: Golden) -> None:
    fields = orjson.loads(golden.schema)["fields"]
    assert set(golden.record) == {field["name"] for field in fields}
    assert [f["name"] for f in fields if "default" in f and golden.record[f["name"]] == f["default"]] == []


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_todays_schema_reads_every_version(golden: Golden) -> None:
    record = Reader(1, golden.schema, subjects()[golden.subject], golden.subject).read(golden.body)
    assert in_both(record, golden.record) == in_both(golden.record, record)


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=str)
def test_every_version_reads_every_other_and_the_next_that_may_come(one: Golden, other: Golden) -> None:
    assert problems_between(one.schema, other.schema) == []
    record = Reader(1, one.schema, other.schema, one.subject).read(one.body)
    written = Reader(1, one.schema, None, one.subject).read(one.body)
    wanted = [field["name"] for field in orjson.loads(other.schema)["fields"]]
    assert sorted(record) == sorted(wanted)
    assert in_both(record, written) == in_both(written, record)


@pytest.mark.parametrize(
    ("change", "readable"),
    [
        (lambda fields: fields.append({"name": "new", "type": "string", "default": "d"}), True),
        (lambda fields: fields.pop(), True),
        (lambda fields: fields.append({"name": "new", "type": "string"}), False),
        (lambda fields: fields.pop(0), False),
    ],
    ids=["new with default", "gone that had one", "new without default", "gone that had none"],
)
def test_the_check_of_versions_tells_a_good_change_from_a_bad_one(change, readable: bool) -> None:  # noqa: FBT001
    golden = LATEST["sluicegate.StreamIndex"]
    schema = orjson.loads(golden.schema)
    change(schema["fields"])
    other = orjson.dumps(schema).decode()
    assert (problems_between(golden.schema, other) == []) == readable
    if readable:
        Reader(1, golden.schema, other, golden.subject).read(golden.body)
