"""A stream's name that is opened again once its history is over: what of its life before still counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from connectors.kafka.chunk import SourcePartition
from connectors.llm import worker
from connectors.llm.ledger import Attempt, Known
from connectors.llm.lives import NAMES_MAX, Lives
from connectors.llm.offsets import Offsets
from connectors.llm.options import LlmOptions
from schemas.kinds import BUILTIN_KINDS, KindTable
from schemas.record import Record
from schemas.topics import LLM_REQUESTS, partition_of
from tests.unit.support_llm_operation import World, said

KEY = b"default/s1"
SECOND_US = 1_000_000
ENDED_US = 1_000 * SECOND_US
LLM = BUILTIN_KINDS.named("llm")
SHORT = replace(
    LLM,
    name="short",
    order=replace(LLM.order, dedupe_ttl_ms=1_000),
    replay=replace(LLM.replay, history_ms=5_000),
)
KINDS = KindTable([LLM, SHORT])
AGAIN_US = ENDED_US + 45 * SECOND_US


def row(attempt=1, *, kind="short", **fields):
    ended = {"state": "completed", "end_reason": "completed", "ended_us": ENDED_US}
    base = {"tenant": "default", "stream_id": "s1", "kind": kind, "attempt": attempt, "epoch": 0}
    return Attempt(**base | ended | fields)


@pytest.fixture
def lives():
    return Lives(KINDS)


@pytest.mark.parametrize(("kind", "later_s", "over"), [
    ("short", 1, True), ("short", 6, False), ("llm", 6, True), ("llm", 86_400, False),
    ("undeclared", 6, True), ("undeclared", 3_600, False),
])  # fmt: skip
def test_a_question_is_of_another_life_once_the_history_of_the_kind_is_over(lives, kind, later_s, over):
    lives.took(row(kind=kind), ENDED_US)
    lives.stop(KEY, kind, "cancelled", ENDED_US)
    asked_us = ENDED_US + later_s * SECOND_US
    assert lives.has_ended(KEY, asked_us) == over
    assert lives.stopped(KEY, asked_us) == ("cancelled" if over else "")


def test_a_question_that_was_asked_before_the_end_is_over_whatever_is_begun_after_it(lives):
    lives.took(row(), ENDED_US)
    lives.took(row(2, state="started", end_reason="", ended_us=0), AGAIN_US)
    assert lives.has_ended(KEY, ENDED_US - SECOND_US)
    assert not lives.has_ended(KEY, AGAIN_US)


def test_attempts_of_a_later_life_are_numbered_on_so_that_none_takes_anothers_place_on_the_ledger(lives):
    assert lives.first_attempt(KEY) == 1
    lives.took(row(1, state="failed", end_reason=""), ENDED_US)
    lives.took(row(2, state="failed", end_reason=""), ENDED_US)
    assert lives.first_attempt(KEY) == 1, "it is not over"
    lives.took(row(0, state="refused"), ENDED_US)
    assert lives.first_attempt(KEY) == 3
    lives.took(row(3, state="started", end_reason=""), AGAIN_US)
    assert lives.first_attempt(KEY) == 3
    assert Lives(KINDS).first_attempt(KEY) == 1


def test_the_numbers_of_an_operation_begin_where_those_of_the_life_before_ended():
    world = World(said("Once"), first_attempt=3).run()
    assert [each.attempt for each in world.rows] == [3, 3]
    assert world.attempts == {0}, "to whoever reads the stream it is the first"


def test_what_is_remembered_is_bounded(lives):
    for number in range(NAMES_MAX + 5):
        lives.stop(b"%d" % number, "short", "cancelled", ENDED_US)
    assert lives.stopped(b"4", ENDED_US) == ""
    assert lives.stopped(b"5", ENDED_US) == "cancelled"


def test_of_what_a_dead_owner_left_a_later_life_has_only_what_began_after_the_end():
    known = Known()
    known.take(row(1, started_us=ENDED_US - 5))
    assert known.after_end() is None
    known.take(row(2, state="started", end_reason="", ended_us=0, started_us=AGAIN_US))
    assert list(known.after_end().attempts) == [2]
    assert known.after_end().after_end().end is None


class Begun:
    """Stands for Operation: notes what was begun, and goes on."""

    def __init__(self, _tools, tenure, offset, asked_us, to, _request, known, _emitter, _asks, _open, first):
        self.tenure, self.offset, self.asked_us, self.to = tenure, offset, asked_us, to
        self.known, self.first, self.ended = known, first, ""
        self.claim = SimpleNamespace(lost=False)

    async def run(self):
        """See Operation."""
        await asyncio.sleep(3_600)

    def cancel(self, reason):
        """See Operation."""
        self.ended = reason


@pytest.fixture
def begins(monkeypatch):
    """Has a worker begin a question that was asked at a time; gives the operation, None = passed over."""
    monkeypatch.setattr(worker, "Operation", Begun)
    world = World()

    async def begun(asked_us, prepare, after):
        options = LlmOptions(SimpleNamespace(topic_prefix=""), "")
        made = worker.LlmWorker(options, world.wire, world.payloads, None, None, KINDS, None)
        made._loop, made._tools, made._outlet = asyncio.get_running_loop(), None, world
        made._follower = SimpleNamespace(refused=lambda *_: False)
        made._poll = SimpleNamespace(handled=lambda *_: None)
        partition = partition_of(KEY, LLM_REQUESTS.partitions)
        tenure = Offsets().start(SourcePartition(LLM_REQUESTS.name, partition), 0, 0, 0)
        made._known[tenure] = {}
        prepare(made, made._known[tenure])
        made._begin(tenure, Record(LLM_REQUESTS.name, partition, 9, asked_us, KEY, b""), ASKED)
        if after is not None:
            after(made)
        found = made._operations.get(KEY)
        if found is not None:
            found[1].cancel()
        return found and found[0]

    return lambda asked_us, prepare, after=None: asyncio.run(begun(asked_us, prepare, after))


ASKED = {
    "tenant": "default", "stream_id": "s1", "kind": "short", "request_id": "", "task_id": "",
    "traceparent": "", "source": "", "time_us": 0, "opened": True, "route": "", "model": "", "prompt": "",
    "prompt_label": "", "variables_json": "", "messages_json": '[{"role": "user", "content": "Why?"}]',
    "tools_json": "", "schema_json": "", "schema_name": "", "params_json": "", "deadline_ms": 0,
    "after_content": "", "side_effects": False, "open_id": "o", "on_invalid": "", "no_reset": False,
}  # fmt: skip


def ended_and_cancelled(made, _known):
    made._lives.took(row(2), ENDED_US)
    made._lives.stop(KEY, "short", "cancelled", ENDED_US)


def test_a_question_for_a_name_that_was_opened_again_is_answered(begins):
    assert begins(ENDED_US + 1, ended_and_cancelled) is None, "the same life, whose answer there is"
    operation = begins(AGAIN_US, ended_and_cancelled)
    assert (operation.known, operation.first, operation.ended) == (None, 3, "")


def test_a_stop_of_the_life_before_that_is_read_late_stops_no_call_of_this_one(begins):
    def stop(made, at_us):
        made._lives.stop(KEY, "short", "timed_out", at_us)
        made._stop_operation(KEY)

    def nothing(_made, _known):
        pass

    assert begins(AGAIN_US, nothing, lambda made: stop(made, ENDED_US)).ended == ""
    assert begins(AGAIN_US, nothing, lambda made: stop(made, AGAIN_US + 1)).ended == "timed_out"


def test_what_a_dead_owner_began_of_a_later_life_is_left_for_its_question(begins):
    def left(made, known):
        known[KEY] = Known()
        known[KEY].take(row(1, started_us=ENDED_US - 5))
        known[KEY].take(row(2, state="started", end_reason="", ended_us=0, started_us=AGAIN_US))
        made._left = known

    kept = []
    assert begins(ENDED_US - SECOND_US, left, lambda made: kept.append(made._left.get(KEY))) is None
    assert list(kept[0].attempts) == [2]
    assert list(begins(AGAIN_US, left).known.attempts) == [2]
