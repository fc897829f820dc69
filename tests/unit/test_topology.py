"""What `sluicegate topology` draws: the same each time, and what the agents' own code declares."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import orjson
import pytest

from connectors.kafka.options import KafkaOptions
from ops.cli import run
from ops.scaffold import new_agent
from ops.topology.graph import EDGE_OUT, Graph, Node, graph_of
from ops.topology.graph import as_json as plain
from ops.topology.layout import place
from ops.topology.live import PartitionFacts, RoleFacts, as_they_run
from ops.topology.text import lines_of
from pipelines.blueprint import Agent, Blueprint, blueprint, blueprints
from pipelines.errors import AgentRefused, UnknownRole
from pipelines.extension import Extension, load
from schemas.access import ROLES as ACCESS
from schemas.topics import DEAD_LETTERS, INPUT, OUTPUT, RECORDS

KAFKA = KafkaOptions("", "p.")
ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents")
    new_agent("stream_totals", folder)
    return blueprints(load(folder), KAFKA)


def test_the_tree_of_our_roles_and_a_new_agent_is_as_the_golden_file_shows_it(mine):
    golden = Path(__file__).parent / "golden" / "topology.txt"
    assert "\n".join(lines_of(mine, mine, "p.", "range")) + "\n" == golden.read_text()


def test_the_drawing_of_the_page_is_what_the_command_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["topology", "--svg", "drawn.svg"]) == 0
    assert (tmp_path / "drawn.svg").read_text() == (ROOT / "docs" / "topology.svg").read_text()


def test_a_role_reads_and_writes_what_the_table_of_access_lets_it(mine):
    for one in mine:
        if one.role in ACCESS:
            written = {spec for agent in one.agents for spec in agent.appends}
            ticked = {agent.reads for agent in one.agents if agent.ticks}
            assert written | ticked | {DEAD_LETTERS} == set(ACCESS[one.role].writes)


def test_each_agent_of_the_examples_writes_what_it_says_and_no_more():
    extension = load(ROOT / "docs" / "examples" / "agents")
    made = [agent for role in extension.roles for agent in blueprint(role, extension, KAFKA).agents]
    assert {agent.name: [spec.name for spec in agent.writes] for agent in made} == {
        "calls": ["examples.calls.v1"],
        "call_windows": ["examples.call-windows.v1"],
        "sensor_means": ["examples.sensor-means.v1"],
        "sensors": ["examples.silent-sensors.v1"],
        "visits": ["examples.visits.v1"],
    }


def test_live_the_generation_and_the_state_are_those_that_run(mine):
    (one,) = (one for one in mine if one.role == "stream_totals")
    now = "stream_totals.changelog.g2-959a8f.v1"
    stores = [{"changelog": "stream_totals.changelog.g2.v1", "topic": now}]
    (shown,) = as_they_run([one], {"stream_totals": {"generation": 2, "stores": stores}})
    told = "\n".join(lines_of([shown], [shown], "p.", "range"))
    assert f"state    {now} (4)" in told
    assert "stream_totals  (group p.sluicegate.stream_totals.g2)" in told
    (role,) = plain([shown], [shown], "p.")["roles"]
    assert (role["generation"], role["agents"][0]["changelog"]) == (2, f"p.{now}")
    assert f"state: {now}" in [note for node in graph_of([shown]).nodes for note in node.notes]
    assert as_they_run([one], {}) == [one], "nothing is on record of it"


def test_a_drawing_that_cannot_be_written_is_a_wrong_word(capsys):
    assert run(["topology", "--svg", "/nonexistent/x.svg"]) == 2
    assert "name a file in a folder that is there" in capsys.readouterr().err


def test_an_agent_that_lets_time_pass_says_so():
    one = blueprint("sensors", load(ROOT / "docs" / "examples" / "agents"), KAFKA)
    told = "\n".join(lines_of([one], [one], "p.", "range"))
    assert "idle     counts the silence of examples.readings.v1, each 10,000 ms" in told


def test_an_agent_that_declares_no_output_has_the_rest_of_its_modules_topics(tmp_path):
    (tmp_path / "quiet.py").write_text(
        "from dataclasses import replace\n"
        "from schemas.topics import OUTPUT\n"
        "OUT = replace(OUTPUT, name='quiet.v1')\n"
        "LOG = replace(OUTPUT, name='quiet.changelog.v1', cleanup='compact')\n"
        "TOPICS = (OUT, LOG)\n"
        "def register(app, tools, options):\n"
        "    source = app.source(OUTPUT, agent='quiet', decode=tools.decode_events, changelog=LOG)\n"
        "    @app.agent(source)\n"
        "    async def quiet(stream):\n"
        "        async for _ in stream: pass\n"
    )
    (agent,) = blueprint("quiet", load(tmp_path), KAFKA).agents
    assert [spec.name for spec in agent.writes] == ["quiet.v1"]


@pytest.mark.parametrize(
    ("body", "remedy"),
    [("1 / 0", "Correct that file."), ("pass", "app.source"), ("app.Table('x')", "a store")],
)
def test_a_module_that_cannot_be_registered_is_named_with_what_to_write_instead(tmp_path, body, remedy):
    (tmp_path / "broken.py").write_text(f"def register(app, tools, options):\n    {body}\n")
    with pytest.raises(AgentRefused, match=r"broken\.py: register ") as caught:
        blueprint("broken", load(tmp_path), KAFKA)
    assert remedy in caught.value.remedy


def test_a_role_that_there_is_not_is_named():
    with pytest.raises(UnknownRole, match="nobody"):
        blueprint("nobody", Extension(), KAFKA)


def test_inputs_of_one_role_that_differ_in_partitions_are_told():
    uneven = Blueprint("odd", (agent("a", OUTPUT), agent("b", INPUT, partitions=9)))
    assert uneven.partitions is None
    assert any("not co-partitioned: streams.output.v1 (4), odd.v1 (9)" in line for line in text(uneven))
    even = Blueprint("even", (agent("a", OUTPUT), agent("b", INPUT)))
    assert any("equal numbers go to one worker" in line for line in text(even))
    assert any("may part equal numbers" in line for line in text(even, "cooperative-sticky"))
    assert any("equal numbers go to one worker" in line for line in text(even, "consumer"))


def agent(name, spec, partitions=4):
    reads = spec if partitions == spec.partitions else replace(spec, name="odd.v1", partitions=partitions)
    return Agent(name, reads, (), None, ticks=False, sink="")


def text(*given, assignment="range", facts=None):
    return list(lines_of(given[:1], given[:1], "", given[1] if len(given) > 1 else assignment, facts))


def test_what_is_known_now_stands_below_its_role_and_topic():
    one = Blueprint("even", (agent("a", OUTPUT), agent("b", RECORDS)))
    parts = (
        PartitionFacts(OUTPUT.name, 0, "w-1", paused=False, committed=12, lag_records=0, lag_s=0.0),
        PartitionFacts(OUTPUT.name, 1, "", paused=True, committed=-1, lag_records=1_200, lag_s=7.5),
    )
    shown = text(one, facts={"even": RoleFacts("preparing_rebalancing", ("w-1",), parts)})
    assert shown[1] == "│  now: preparing rebalancing, 1 member (w-1)"
    assert "│  ├─ now      [0] at 12, level; w-1 has it" in shown
    assert "│  └─ now      [1] at 0, 1,200 behind, 7.5 s; nobody has it, paused" in shown
    nobody = text(one, facts={"even": RoleFacts("dead", (), ())})
    assert nobody[1] == "│  now: nobody runs it, and nobody ever did"


def test_the_json_of_a_role_names_topics_in_full_and_whoever_is_at_their_other_end(capfdbinary, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_KAFKA__TOPIC_PREFIX", "p.")
    assert run(["topology", "aggregate", "--json"]) == 0
    told = orjson.loads(capfdbinary.readouterr().out)
    (role,) = told["roles"]
    assert (role["role"], role["group"], role["co_partitioned"]) == (
        "aggregate",
        "p.sluicegate.aggregate",
        True,
    )
    assert [one["agent"] for one in role["agents"]] == ["usage_partials", "usage_merge"]
    topics = {one["topic"]: one for one in told["topics"]}
    assert topics["p.streams.output.v1"]["written_by"] == ["ingest"]
    assert topics["p.streams.output.v1"]["read_by"] == ["usage_partials", "llm_events", EDGE_OUT]
    assert run(["topology", "nobody"]) == 2


def test_boxes_do_not_overlap_and_each_edge_runs_from_box_to_box(mine):
    graph = graph_of(mine)
    drawing = place(graph)
    for one, other in permutations(drawing.boxes, 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert beside or one.y + one.height <= other.y or other.y + other.height <= one.y
    at = {box.node.key: box for box in drawing.boxes}
    for (a, b), line in zip(graph.edges, drawing.lines, strict=True):
        assert line[0] == pytest.approx((at[a].x + at[a].width / 2, at[a].y + at[a].height), abs=0.11)
        assert line[-1] == pytest.approx((at[b].x + at[b].width / 2, at[b].y), abs=0.11)
        assert all(low[1] < high[1] for low, high in pairwise(line)), "downwards all the way"
        for box in drawing.boxes:  # a bend passes between the boxes
            assert not any(box.x < x < box.x + box.width and box.y < y < box.y + box.height for x, y in line)


def test_a_circle_is_drawn_too():
    nodes = tuple(Node(key, "topic", key) for key in "abc")
    drawing = place(Graph(nodes, (("a", "b"), ("b", "c"), ("c", "a"), ("c", "b"))))
    tops = [box.y for box in drawing.boxes]
    assert tops == sorted(set(tops)), "a above b above c"
    assert [line[0][1] < line[-1][1] for line in drawing.lines] == [True, True, False, False]


def test_the_drawing_is_a_picture_with_a_name_and_is_told_in_words():
    root = ET.parse(ROOT / "docs" / "topology.svg").getroot()
    assert root.get("role") == "img"
    named = {child.get("id"): child.text for child in root if child.tag in (f"{SVG}title", f"{SVG}desc")}
    assert root.get("aria-labelledby") == " ".join(named)
    assert "ingest to streams.output.v1" in named["desc"]
    letters = "".join(root.itertext())
    assert "PostgreSQL" in letters
    assert "state: ingest.streams.changelog.v1" in letters
