"""What reprocessing would do: times, names, refusals, progress, and where held-back outputs go."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from connectors.kafka.errors import HeldBack
from connectors.kafka.options import KafkaOptions
from connectors.kafka.outputs import Outputs
from ops.errors import Misused
from ops.reprocess.build import _same
from ops.reprocess.plan import Plan, from_ms_of, is_ago, plan_of
from ops.reprocess.progress import Watch
from ops.scaffold import new_agent
from pipelines.blueprint import Agent
from pipelines.errors import AgentRefused
from pipelines.extension import load
from pipelines.generations import between, folder_of, group_of, held_back
from schemas.topics import DEAD_LETTERS, LATE_EVENTS, OUTPUT, TopicSpec
from state.checkpoint import Append

KAFKA = KafkaOptions("", "p.")
NOW_MS = 1_800_000_000_000


def spec(name, cleanup="compact"):
    return TopicSpec(name, "key", "", 4, -1, cleanup, "of a test")


def agent(name, reads, *writes, **more):
    given = {"changelog": spec(f"{name}.changelog.v1"), "ticks": False, "sink": "", **more}
    return Agent(name, reads, writes, **given)


def plan(*agents):
    return Plan("totals", 1, 2, agents, KAFKA)


@pytest.mark.parametrize(
    ("text", "from_ms"),
    [
        ("earliest", -1),
        ("0s", NOW_MS),
        ("90m", NOW_MS - 5_400_000),
        ("3d", NOW_MS - 259_200_000),
        ("2026-05-01T08:00:00Z", 1_777_622_400_000),
        ("2026-05-01T10:00:00+02:00", 1_777_622_400_000),
    ],
)
def test_a_time_is_said_in_one_of_three_ways(text, from_ms):
    assert from_ms_of(text, NOW_MS) == from_ms
    assert is_ago(text) is (text in ("0s", "90m", "3d"))


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-05-01T08:00:00", "2999-01-01T00:00:00Z", "-1h", "1w"]
)
def test_what_is_no_time_in_the_past_is_refused_with_how_to_say_one(text):
    with pytest.raises(Misused) as caught:
        from_ms_of(text, NOW_MS)
    assert "90m" in caught.value.remedy


def test_only_code_of_a_later_generation_is_built(tmp_path):
    new_agent("totals", tmp_path)
    row = {"generation": 2}
    for generation, live, fits in ((1, None, False), (2, None, True), (2, row, False), (3, row, True)):
        (tmp_path / "totals.py").write_text(
            (tmp_path / "totals.py").read_text().partition("\nGENERATION")[0]
            + f"\nGENERATION = {generation}\n"
        )
        extension = load(tmp_path)
        assert extension.generation("totals") == generation
        if fits:
            found = plan_of("totals", extension, KAFKA, live)
            assert (found.generation, found.group) == (generation, f"p.sluicegate.totals.g{generation}")
        else:
            with pytest.raises(Misused, match=f"this code is generation {generation}"):
                plan_of("totals", extension, KAFKA, live)
    for role, said in (("ingest", "sluicegate's own"), ("nobody", "there is no role")):
        with pytest.raises(Misused, match=said):
            plan_of(role, extension, KAFKA, None)


@pytest.mark.parametrize("generation", ["0", "'2'", "True and 1.5", "10_000"])
def test_a_generation_that_is_no_small_number_is_refused(tmp_path, generation):
    (tmp_path / "mine.py").write_text(f"GENERATION = {generation}\ndef register(app, tools, options): ...\n")
    with pytest.raises(AgentRefused, match="GENERATION"):
        load(tmp_path)


def test_the_first_generation_has_the_plain_names_and_each_later_one_its_own():
    assert group_of("p.", "totals", 1) == "p.sluicegate.totals"
    assert (folder_of("totals", 1), folder_of("totals", 12)) == ("totals", "totals.g12")
    topics = plan(agent("totals", OUTPUT, spec("totals.results.v1"), spec("totals.seen.v3", "delete")))
    ((changelog, topic),) = topics.changelogs("ab").items()
    assert (changelog.name, topic.name) == ("totals.changelog.g2.v1", "totals.changelog.g2-ab.v1")
    assert {one.name: side.name for one, side in topics.sides("ab").items()} == {
        "totals.results.v1": "totals.results.g2-ab.v1",
        "totals.seen.v3": "totals.seen.g2-ab.v3",
        "dead.letters.v1": "totals.changelog.g2-ab.dead.letters.v1",  # its own ACLs cover the name
    }
    assert [one.name for one in topics.superseding("ab")] == ["totals.results.v1"]


def test_a_topic_between_two_agents_of_a_role_is_no_output_of_it():
    inner, out = spec("totals.parts.v2", "delete"), spec("totals.sums.v1")
    agents = (agent("one", OUTPUT, inner), agent("two", inner, out, late_to=LATE_EVENTS))
    assert between(agents) == (inner,)
    found = plan(*agents)
    assert (found.inputs, found.inner) == ((OUTPUT,), (inner,))
    assert set(found.sides("ab")) == {out, LATE_EVENTS, DEAD_LETTERS}


def test_what_is_not_live_writes_to_its_own_topics_alone():
    inner, out = spec("totals.parts.v2", "delete"), spec("totals.sums.v1")
    agents = (agent("one", OUTPUT, inner), agent("two", inner, out))
    outputs = held_back(agents, [spec("totals.changelog.g2-ab.v1")], 2, "ab")

    def goes_to(topic, on_offset=None):
        return outputs.name_of(Append(topic, b"k", b"v", 0, on_offset))

    assert goes_to(out) == "totals.sums.g2-ab.v1"
    assert goes_to(DEAD_LETTERS) == "one.changelog.g2-ab.dead.letters.v1"
    assert goes_to(inner) == inner.name
    assert goes_to(spec("totals.changelog.g2-ab.v1"), on_offset=print) == "totals.changelog.g2-ab.v1"
    with pytest.raises(HeldBack, match=r"writes other\.v1"):
        goes_to(spec("other.v1"))
    with pytest.raises(HeldBack, match="names the offsets"):
        goes_to(out, on_offset=print)
    assert Outputs({"a.v1": "b.v1"}).name_of(Append(spec("a.v1"), b"", b"", 0, print)) == "b.v1"


def test_what_cannot_be_held_back_or_told_apart_is_refused(tmp_path, monkeypatch):
    new_agent("totals", tmp_path)
    extension = replace(load(tmp_path), generations={"totals": 2})
    inner = spec("totals.parts.v2", "delete")
    for agents, said in (
        ((agent("one", OUTPUT, sink="a database"),), "a database"),
        ((agent("one", OUTPUT, inner), agent("two", inner, spec("out.v1", "delete"))), "cannot be told"),
    ):
        made = SimpleNamespace(agents=agents)
        monkeypatch.setattr("ops.reprocess.plan.blueprint", lambda *_, made=made: made)
        with pytest.raises(Misused, match=said):
            plan_of("totals", extension, KAFKA, None)


def test_state_from_before_the_time_is_said_to_be_lost_where_there_is_state():
    whole, taken = plan(agent("one", OUTPUT)), "what retention had taken of its input is not in it"
    before = "state from before 2026-05-01T08:00:00.000000Z is not in it"
    assert whole.loss(1_777_622_400_000, cut=False) == before
    assert whole.loss(1_777_622_400_000, cut=True) == f"{before}; {taken}"
    assert (whole.loss(-1, cut=False), whole.loss(-1, cut=True)) == ("", taken)
    assert plan(agent("one", OUTPUT, changelog=None)).loss(1_777_622_400_000, cut=False) == ""


def test_progress_is_counted_from_the_first_look_on_with_rate_and_time_left():
    now = [100.0]
    watch = Watch(plan(agent("one", OUTPUT)), lambda: now[0])
    at = [("t", 0), ("t", 1)]
    first = watch.summary({at[0]: 100, at[1]: 0}, {at[0]: 20_100, at[1]: 20_000, ("t", 2): 9})
    assert (first.done, first.left, first.per_s, first.eta_s, first.level) == (0, 40_000, 0.0, None, False)
    now[0] = 110.0
    look = watch.summary({at[0]: 10_100, at[1]: 10_000}, {at[0]: 20_100, at[1]: 20_000})
    assert (look.done, look.left, look.per_s, look.eta_s, look.share) == (20_000, 20_000, 2_000.0, 10.0, 0.5)
    assert watch.still_s == 0
    now[0] = 119.0
    stuck = watch.summary({at[0]: 10_100, at[1]: 10_000}, {at[0]: 20_100, at[1]: 20_000})
    assert (watch.still_s, stuck.level) == (9.0, False)
    now[0] = 120.0
    few = Watch(plan(agent("one", OUTPUT)), lambda: now[0]).summary({at[0]: 100}, {at[0]: 141})
    assert (few.left, few.level, few.share) == (41, False, 0.0), "nothing of it is done"
    level = watch.summary({at[0]: 20_100, at[1]: 19_900}, {at[0]: 20_100, at[1]: 20_000})
    assert level.level
    assert level.as_json()["left"] == 100


def test_what_is_being_built_is_gone_on_with_and_not_begun_otherwise():
    row = {"candidate": 2, "from_ms": -1}
    found = plan(agent("one", OUTPUT))
    assert _same(found, row, None) is row
    assert _same(found, row, -1) is row
    with pytest.raises(Misused, match="from another time"):
        _same(found, row, NOW_MS)
    with pytest.raises(Misused, match="generation 3 of totals is built already, this code is 2"):
        _same(found, {**row, "candidate": 3}, -1)
