"""What agents share: nothing of it asks the registry while the event loop runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.options import KafkaOptions
from connectors.kafka.ticker import Ticker
from pipelines.app import check_kinds
from pipelines.errors import OptionsRefused
from pipelines.tools import Tools
from schemas.catalog import PAYLOAD_PREFIX, LocalSchemas, subjects
from schemas.errors import BadMagic, RegistryUnavailable
from schemas.kinds import BUILTIN_KINDS, JOB
from schemas.payloads import PayloadCodec
from schemas.record import Record
from schemas.topics import OUTPUT
from schemas.wire import WireCodec
from tests.contract.golden_records import RECORDS
from tests.unit.support_scope import CODEC, make_event

if TYPE_CHECKING:
    from schemas.envelope import Event


class Away(LocalSchemas):
    """A registry that is there until it is told to go away."""

    away = False

    def id_of(self, subject: str) -> int:
        self._answer()
        return super().id_of(subject)

    def schema_of(self, schema_id: int) -> str:
        self._answer()
        return super().schema_of(schema_id)

    def _answer(self) -> None:
        if self.away:
            raise RegistryUnavailable("http://registry", "it is away")


USERS = {
    "sluicegate.payload.users": '{"type": "record", "name": "users", "namespace": "sluicegate.payload",'
    ' "fields": [{"name": "n", "type": "long", "default": 0}]}'
}


@pytest.fixture
def source() -> Away:
    return Away(USERS)


@pytest.fixture
def tools(source) -> Tools:
    return Tools(WireCodec(source), PayloadCodec(source), BUILTIN_KINDS)


def record_of(event: Event) -> Record:
    return Record("t", 0, 0, 0, event.key, CODEC.encode_event(event))


def test_warm_tools_read_and_write_all_of_ours_without_the_registry(source, tools):
    tools.warm()
    letters = tools.dead_letters()
    source.away = True
    for subject in subjects():
        if subject.startswith(PAYLOAD_PREFIX):
            body, schema_id = tools.payloads.encode(subject.removeprefix(PAYLOAD_PREFIX), RECORDS[subject])
            assert tools.payloads.decode(schema_id, body)
        else:
            data = tools.codec.encode(subject, RECORDS[subject])
            assert tools.codec.decode(data, subject) == RECORDS[subject]
    event = make_event("end")
    assert tools.decode_events([record_of(event)]) == [event]
    assert letters.letter(record_of(event), agent="a", cause="c", detail="d", attempts=1).value


def test_a_payload_schema_is_fetched_with_the_events_and_waited_for(source, tools):
    tools.warm()
    schema_id = source.id_of("sluicegate.payload.users")
    event = make_event()._replace(type="users", payload_schema=schema_id)
    source.away = True
    with pytest.raises(RegistryUnavailable):
        tools.decode_events([record_of(event)])
    source.away = False
    assert tools.decode_events([record_of(event)]) == [event]
    source.away = True
    assert tools.payloads.subject_of(schema_id) == "sluicegate.payload.users", "the loop finds it there"


def test_a_payload_schema_that_is_none_holds_nothing_up(tools):
    events = [make_event()._replace(payload_schema=number) for number in (0, -1, 4_711)]
    broken = Record("t", 0, 3, 0, b"k", b"no frame")
    *decoded, error = tools.decode_events([*map(record_of, events), broken])
    assert decoded == events
    assert isinstance(error, BadMagic)


def test_a_registry_that_is_away_at_a_tick_is_no_end_of_the_role(source, tools):
    source.away = True
    ticker = Ticker(KafkaOptions("127.0.0.1:1"), tools.codec.encode_event)
    ticker.watch(SourcePartition("t", 0), 1)
    assert ticker.tick() == 1
    ticker.close()


def test_kinds_that_cannot_be_served_are_refused_with_every_problem():
    check_kinds(BUILTIN_KINDS)
    ephemeral = dataclasses.replace(JOB, doc="", order=dataclasses.replace(JOB.order, dedupe_ttl_ms=-1))
    with pytest.raises(OptionsRefused, match=r"job: doc is empty.*job: order\.dedupe_ttl_ms"):
        check_kinds([ephemeral])
    short = KafkaOptions("127.0.0.1:1", retention_ms={OUTPUT.name: 3_600_000}).kept([OUTPUT])
    with pytest.raises(OptionsRefused, match=r"job: replay\.history_ms=\d+ is longer than streams\.output"):
        check_kinds(BUILTIN_KINDS, short)
