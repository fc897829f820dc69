"""Which changelogs are on record to have begun with a mark, by what is known of the role at its start."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.kafka.options import KafkaOptions
from pipelines import deployment
from pipelines.deployment import Deployment, new_row, new_store
from state.schema import StoreSchema
from tests.support.totals_agent import CHANGELOG, OUTPUT

NOW, BEFORE = "id-now", "id-before"


class Kept:
    """A roster of one role, in memory."""

    def __init__(self, row: dict[str, Any] | None) -> None:
        self.row = row

    def is_there(self):
        return True

    def read(self):
        return {} if self.row is None else {"totals": self.row}

    def change(self, _role, decide):
        self.row = decide(self.row) or self.row
        return self.row


def row_of(topic_id: str | None, *, marked: bool = False) -> dict[str, Any]:
    store = new_store(CHANGELOG.name, topic=CHANGELOG.name, code=StoreSchema(), marked=marked)
    return new_row("totals") | {"stores": [] if topic_id is None else [store | {"topic_id": topic_id}]}


@pytest.mark.parametrize(
    ("row", "handled", "adopt", "marked"),
    [
        pytest.param(None, False, False, True, id="a first start writes it"),
        pytest.param(None, True, True, False, id="an operator adopts what nobody knows"),
        pytest.param(row_of(NOW), True, False, False, id="begun before there were marks"),
        pytest.param(row_of(NOW, marked=True), True, False, True, id="begun since"),
        pytest.param(row_of(""), True, False, False, id="on record before topic and marks were"),
        pytest.param(row_of("", marked=True), True, False, True, id="on record before its topic was"),
        pytest.param(row_of(None), True, False, True, id="given to an agent that ran without"),
        pytest.param(row_of(BEFORE, marked=True), False, False, True, id="made anew, nothing handled"),
        pytest.param(row_of(BEFORE, marked=True), True, True, False, id="brought back from a copy, adopted"),
    ],
)
def test_a_mark_is_on_record_where_one_was_written(monkeypatch, row, handled, adopt, marked):
    offsets = {(OUTPUT.name, 0): 5} if handled else {}
    monkeypatch.setattr(deployment, "committed_offsets", lambda *_: offsets)
    monkeypatch.setattr(deployment, "topic_ids", lambda *_: {CHANGELOG.name: NOW})
    roster: Any = Kept(row)
    for _ in range(2):  # and the next start finds the same
        starts = Deployment(
            "totals",
            {CHANGELOG: StoreSchema()},
            kafka=KafkaOptions("127.0.0.1:1"),
            roster=roster,
            inputs={CHANGELOG: OUTPUT},
            adopt=adopt,
        )
        starts.admit()
        assert (CHANGELOG in starts.marked) == marked
