"""Rows by column and rows one by one are the same rows, and the same errors in the same places."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.decoding import MANY, RowDecoder
from schemas.catalog import EVENT, subjects
from schemas.envelope import Event
from schemas.errors import RegistryUnavailable, WireError
from schemas.record import Record
from schemas.wire import WireCodec
from tests.contract.golden_records import RECORDS

from .test_wire import CODEC, FRAMED, events


def records(values):
    return [Record("t", 0, at, 0, b"k", value) for at, value in enumerate(values)]


def same(decoded, alone):
    return [type(one) if isinstance(one, WireError) else one for one in decoded] == [
        type(one) if isinstance(one, WireError) else one for one in alone
    ]


@given(
    st.lists(events.map(CODEC.encode_event) | st.binary(max_size=8) | st.just(FRAMED + b"\x00"), max_size=8),
    st.booleans(),
)
def test_events_by_column_are_those_read_alone(few, tombstone):
    values = few + [FRAMED] * MANY + ([None] if tombstone else [])
    decode = RowDecoder(CODEC)
    alone = [one for value in values for one in decode(records([value]))]
    decoded = decode(records(values))
    assert same(decoded, alone)
    assert all(isinstance(one, Event | WireError) or one is None for one in decoded)


@pytest.mark.parametrize("subject", ["sluicegate.UsagePartial", "sluicegate.DeadLetter"])
def test_other_subjects_are_dicts_whether_they_are_flat_or_not(subject):
    decode = RowDecoder(CODEC, subject)
    data = CODEC.encode(subject, RECORDS[subject])
    found = decode(records([data] * MANY + [b"\x01", data]))
    assert found[:MANY] == [RECORDS[subject]] * MANY
    assert isinstance(found[MANY], WireError)
    assert found[MANY + 1] == RECORDS[subject]


def test_an_events_fields_are_the_schemas_in_its_order():
    fields = [field["name"] for field in orjson.loads(subjects()[EVENT])["fields"]]
    assert fields == list(Event._fields)


def test_a_registry_that_is_away_says_nothing_about_the_records():
    class Away:
        def schema_of(self, _schema_id):
            raise RegistryUnavailable("http://registry", "away")

    with pytest.raises(RegistryUnavailable):
        RowDecoder(WireCodec(Away()))(records([FRAMED] * MANY))


def test_a_subject_of_a_users_own_is_read_as_it_was_given():
    text = orjson.dumps(
        {"type": "record", "name": "Reading", "namespace": "mine", "fields": [{"name": "n", "type": "long"}]}
    ).decode()

    class Source:
        def id_of(self, _subject):
            return 7

        def schema_of(self, _schema_id):
            return text

    codec = WireCodec(Source(), schemas={"mine.Reading": text})
    data = codec.encode("mine.Reading", {"n": 3})
    assert RowDecoder(codec, "mine.Reading")(records([data] * MANY)) == [{"n": 3}] * MANY
