"""A provider's calls are held to the ledger stream by stream: one too many of one hides in no other."""

from __future__ import annotations

import pytest

from connectors.llm.ledger import Attempt
from connectors.llm.loopback.seen import Seen
from tests.support.llm_calls import check_on_record


def call(stream, began_us, path="/v1/chat/completions"):
    return Seen(1, "openai-chat", path, f"words?tokens=3&tag={stream}", {}, "", began_us)


def row(stream, attempt, started_us, ended_us, state="completed"):
    return Attempt(
        tenant="default", stream_id=stream, kind="llm", attempt=attempt, epoch=0, state=state,
        started_us=started_us, ended_us=ended_us,
    )  # fmt: skip


DIED = row("a", 1, 10, 20, "abandoned")
ROWS = [row("a", 1, 10, 0, "started"), DIED, row("a", 2, 20, 30), row("b", 1, 10, 30)]
GOOD = [call("a", 21), call("b", 11)]


def test_calls_that_are_on_record_and_attempts_that_made_none_are_let_be():
    check_on_record(GOOD, ROWS)
    check_on_record([*GOOD, call("a", 15)], ROWS)
    check_on_record([*GOOD, call("b", 12, "/v1/responses/resp_1?stream=true")], ROWS)
    check_on_record([*GOOD, call("b", 12, "/v1/responses/resp_1/cancel")], ROWS)


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ([*GOOD, call("c", 15)], "nothing is on record"),
        ([*GOOD, call("a", 25)], "was 2"),
        ([*GOOD, call("a", 5)], "of no attempt"),
        ([*GOOD, call("a", 35)], "of no attempt"),
        ([call("a", 15), call("b", 11)], "was no call"),
        ([call("a", 15), call("a", 21)], "was no call"),
    ],
    ids=["unknown", "twice", "before", "behind", "of the dead one", "none"],
)
def test_a_call_too_many_or_too_few_of_a_stream_is_told(calls, why):
    with pytest.raises(AssertionError, match=why):
        check_on_record(calls, ROWS)
