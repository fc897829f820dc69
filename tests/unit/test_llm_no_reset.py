"""Clients that cannot take back what they were shown: an answer is gone on with, or ends as it is."""

from __future__ import annotations

import asyncio
import json

import pytest

from connectors.llm.ledger import Attempt, Known
from tests.unit.support_llm_operation import World, head, said

TWO = [{"target": "here", "model": name, "retries": 0, "can_continue": True} for name in ("m", "n")]
GOES_ON = {"after_content": "continue", "candidates": TWO}


def died(**fields):
    """What the ledger has of an operation whose worker died."""
    known = Known()
    known.take(Attempt(
        tenant="default", stream_id="s1", kind="llm", attempt=1, epoch=3, provider="here", model="m",
        request_offset=7, route="default", route_version=1, **fields,
    ))  # fmt: skip
    return known


@pytest.mark.parametrize("no_reset", [True, False])
@pytest.mark.parametrize(
    ("cut", "asks"),
    [
        ("Once upon ", {}),
        ("Once upon", {"tools_json": '[{"name": "look"}]'}),
        ('{"a":', {"schema_json": '{"type": "object"}'}),
    ],
    ids=["white-space", "tools", "schema"],
)
def test_what_cannot_be_gone_on_with_ends_as_it_is_and_nobody_else_is_paid(cut, asks, no_reset):
    world = World(said(cut, whole=False), said("{}"), **GOES_ON).run(no_reset=no_reset, **asks)
    if no_reset:
        assert (world.end, world.shown, len(world.calls)) == ("upstream_error", cut, 1)
        assert "reset" not in world.types()
        assert "it may not begin anew" in world.events[-1][2]["message"]
    else:
        assert (world.end, world.shown, len(world.calls)) == ("completed", "{}", 2)


def test_what_can_be_gone_on_with_is_and_by_who_can():
    mute = {"target": "here", "model": "mute", "retries": 0}
    world = World(
        said("Once", whole=False), said(" upon", whole=False), said(" a time"), **GOES_ON | {
            "candidates": [TWO[0], mute, TWO[1], {**TWO[1], "model": "o"}]
        }
    ).run(no_reset=True)  # fmt: skip
    assert (world.end, world.shown) == ("completed", "Once upon a time")
    assert [call["model"] for call in world.calls] == ["m", "n", "o"]
    assert "reset" not in world.types()


def test_before_anything_is_shown_any_candidate_may_be_asked():
    mute = {"target": "here", "model": "mute", "retries": 0}
    world = World(said(whole=False), said("Once"), **GOES_ON | {"candidates": [TWO[0], mute]})
    assert (world.run(no_reset=True).end, world.shown) == ("completed", "Once")


@pytest.mark.parametrize(
    ("state", "contents", "shown", "end"),
    [
        ("started", 0, False, "completed"),
        ("started", 1, True, "upstream_error"),
        ("started", 1, None, "upstream_error"),
        ("failed", 3, True, "upstream_error"),
        ("failed", 3, None, "upstream_error"),
        ("failed", 3, False, "completed"),
    ],
)
def test_after_a_crash_it_is_made_anew_only_if_nobody_was_shown_anything(state, contents, shown, end):
    """A gate may have held all that came; ``None``: a worker of an earlier version noted it."""
    left = died(
        state=state, contents=contents, shown=shown, error_class="" if state == "started" else "truncated"
    )
    world = World(said("Once"), known=left, **GOES_ON).run(no_reset=True)
    assert (world.end, len(world.calls)) == (end, int(end == "completed"))
    assert "reset" not in world.types()


def test_that_something_is_shown_is_on_record_before_it_is():
    world = World(said("Once"), **GOES_ON).run(no_reset=True)
    assert [row.shown for row in world.rows if row.state == "started"] == [False, True]


@pytest.mark.parametrize("no_reset", [True, False])
def test_where_the_money_is_not_enough_to_go_on_nobody_begins_anew_for_less(no_reset):
    models = [{**TWO[0], "model": name} for name in ("cheap", "dear", "spare")]
    prices = {f"here/{name}": {"input_usd": 1, "output_usd": 1} for name in ("cheap", "spare")}
    prices["here/dear"] = {"input_usd": 1_000, "output_usd": 1_000}
    world = World(
        said("Once", whole=False), said("There was"), budgets={"default": {"usd_day": 0.01}}, prices=prices,
        fallback_on=["truncated", "spend_limited"], max_output_tokens=100, candidates=models,
        after_content="continue",
    ).run(no_reset=no_reset)  # fmt: skip
    assert (world.end, world.shown) == (
        ("upstream_error", "Once") if no_reset else ("completed", "There was")
    )


class Slow(World):
    """Its ledger takes the provider's name of the call once content has come, and the rest a little later."""

    puts = 0
    shown_before = None

    async def put(self, tenure, rows, *, ends=None):
        """See Committer."""
        self.puts += 1
        if self.puts == 2:
            while self.puts < 3:  # noqa: ASYNC110  # it is content over a socket that is waited for
                await asyncio.sleep(0.005)
        elif self.puts == 3:
            await asyncio.sleep(0.05)
            self.shown_before = self.shown
        await super().put(tenure, rows, ends=ends)


def test_it_is_not_taken_for_on_record_because_the_providers_name_of_it_is():
    text = {"item_id": "i", "output_index": 0, "content_index": 0, "delta": "Once"}
    events = [
        {"type": "response.created", "response": {"id": "resp_1", "model": "m"}},
        {"type": "response.output_text.delta", **text},
        {"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}},
    ]
    frames = [
        f"data: {json.dumps({**event, 'sequence_number': number})}\n\n" for number, event in enumerate(events)
    ]
    keeps = [{"target": "here", "model": "m", "can_resume": True}]
    answer = head() + "".join(frames).encode()
    world = Slow(answer, shape="openai-responses", candidates=keeps, after_content="resume")
    assert world.run(no_reset=True).shown == "Once"
    assert world.shown_before == ""
