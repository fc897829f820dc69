"""Who may do what: the table against the agents, and what `sluicegate topics acls` prints of it."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from connectors.kafka.appends import producer_config
from connectors.kafka.membership import consumer_config
from ops.access import as_row, as_script, grants_of
from ops.errors import Misused
from ops.scaffold import new_agent
from ops.settings import KafkaSettings, Settings
from pipelines.blueprint import ROLES as AGENTS
from schemas.access import EDGE, OF_EDGE, OF_EVERY_ROLE, OF_LLM, OF_RESPONDER, ROLES, Grant
from schemas.topics import INPUT, OUTPUT, TOPICS

ROOT = Path(__file__).resolve().parents[2]


class Recorder:
    """Takes the sources that a role declares, and no agents."""

    def __init__(self):
        self.role = "recorded"
        self.reads, self.changelogs, self.ticked = set(), set(), set()

    def source(self, spec, *, changelog=None, open_deadline=None, **_rest):
        self.reads.add(spec)
        self.changelogs |= {changelog} - {None}
        self.ticked |= {spec} if open_deadline is not None else set()

    def agent(self, _source, **_rest):
        return lambda agent: agent

    def task(self, task):
        return task

    def show(self, _collector):
        """What it counts is nobody's to read here."""


@pytest.mark.parametrize("role", ROLES)
def test_the_table_reads_what_the_agents_of_a_role_read(role):
    assert ROLES.keys() == AGENTS.keys()
    app = Recorder()
    tools = SimpleNamespace(
        kinds=None,
        codec=None,
        payloads=None,
        decode_events=None,
        decoder=lambda _subject: None,
        columns=lambda **_form: None,
    )
    options = SimpleNamespace(postgres_dsn="postgresql://", kafka=SimpleNamespace(topic_prefix=""))
    for register in AGENTS[role]:
        register(app, tools, options)
    assert set(ROLES[role].reads) == app.reads
    assert set(ROLES[role].changelogs) == app.changelogs
    assert app.ticked <= set(ROLES[role].writes)


def test_every_topic_of_the_table_of_topics_has_one_that_writes_and_one_that_reads_it():
    ours = [*ROLES.values(), OF_EVERY_ROLE, OF_EDGE, OF_LLM, OF_RESPONDER]
    touched = {spec for access in ours for spec in (*access.writes, *access.changelogs)}
    assert touched == set(TOPICS)


def settings(**kafka):
    return Settings(kafka=KafkaSettings(**kafka))


def test_names_have_the_prefix_and_only_what_is_a_roles_own_is_open_at_its_end():
    grants = grants_of(settings(topic_prefix="team-a."), ["ingest", EDGE])
    assert all(grant.name.startswith("team-a.") for grant in grants)
    assert {grant.name for grant in grants if grant.prefixed} == {
        "team-a.sluicegate.ingest.", "team-a.ingest.streams.changelog.", "team-a.sluicegate.append.",
    }  # fmt: skip
    assert Grant("ingest", "Read", "group", "team-a.sluicegate.ingest") in grants
    assert Grant(EDGE, "Write", "topic", INPUT.named("team-a.")) in grants
    makes = [grant for grant in grants if grant.operation in ("Create", "DescribeConfigs")]
    assert {(grant.operation, grant.name, grant.prefixed) for grant in makes} == {
        ("Create", "team-a.ingest.streams.changelog.", True),
        ("DescribeConfigs", "team-a.ingest.streams.changelog.", True),
        ("DescribeConfigs", "team-a.ingest.streams.changelog.v1", False),
    }


def test_one_line_of_the_script_has_all_names_with_which_the_same_may_be_done():
    grants = [
        Grant("edge", "Read", "topic", "a"),
        Grant("edge", "Read", "topic", "b"),
        Grant("edge", "Write", "topic", "b"),
        Grant("edge", "Read", "topic", "c"),
        Grant("edge", "Write", "transactional-id", "edge.", prefixed=True),
    ]
    prefixed = "--resource-pattern-type prefixed"
    begin = "kafka-acls.sh --bootstrap-server k:9 --command-config admin.properties --add --allow-principal"
    assert list(as_script([as_row(grant, "User:CN=an edge") for grant in grants], "k:9"))[1:] == [
        f"{begin} 'User:CN=an edge' --operation Read --topic a --topic c",
        f"{begin} 'User:CN=an edge' --operation Read --operation Write --topic b",
        f"{begin} 'User:CN=an edge' --operation Write --transactional-id edge. {prefixed}",
    ]


def test_an_agent_of_ones_own_is_a_role_that_reads_the_output_and_owns_its_topics(tmp_path):
    new_agent("totals", tmp_path)
    with_agents = settings().model_copy(update={"pipelines": tmp_path})
    topics = {
        (grant.operation, grant.name)
        for grant in grants_of(with_agents, ["totals"])
        if grant.resource == "topic"
    }
    assert topics == {
        *(
            (operation, f"totals.{what}.")
            for operation in ("Read", "Write", "Create", "DescribeConfigs")
            for what in ("results", "changelog")
        ),
        ("Read", "ops.roles.v1"),
        ("Write", "ops.roles.v1"),
        ("Read", "ops.controls.v1"),
        ("Read", "dead.replays.v1"),
        ("Read", "dead.letters.v1"),
        ("Read", "streams.output.v1"),
        ("Write", "dead.letters.v1"),
        ("Read", "totals.results.v1"),
        ("Write", "totals.results.v1"),
        ("Read", "totals.changelog.v1"),
        ("Write", "totals.changelog.v1"),
        ("DescribeConfigs", "totals.results.v1"),
        ("DescribeConfigs", "totals.changelog.v1"),
    }
    (tmp_path / "totals.py").open("a").write("READS = (OUTPUT,)\nTICKS = (OUTPUT,)\n")
    (tmp_path / "totals.py").open("a").write(
        "from schemas.topics import LATE_EVENTS\nWRITES = (LATE_EVENTS,)\n"
    )
    assert Grant("totals", "Write", "topic", "late.events.v1") in grants_of(with_agents, ["totals"])
    assert Grant("totals", "Write", "topic", OUTPUT.name) in grants_of(with_agents, ["totals"])


def test_of_an_agent_whose_module_says_nothing_of_topics_it_is_seen_what_it_declares(tmp_path):
    new_agent("totals", tmp_path)
    module = tmp_path / "totals.py"
    module.write_text(
        module.read_text().replace("TOPICS = ", "ITS_OWN = ").replace("OUTPUT, agent", "INPUT, agent")
    )
    module.open("a").write("from schemas.topics import INPUT\n")
    found = grants_of(settings().model_copy(update={"pipelines": tmp_path}), ["totals"])
    for operation, name in (
        ("Read", INPUT.name),
        ("Write", "totals.results.v1"),
        ("Read", "totals.changelog.v1"),
    ):
        assert Grant("totals", operation, "topic", name) in found
    assert Grant("totals", "Create", "topic", "totals.changelog.", prefixed=True) in found
    assert Grant("totals", "Read", "topic", OUTPUT.name) not in found
    assert len(set(found)) == len(found)


def test_the_page_shows_what_the_command_prints():
    page = (ROOT / "docs" / "security.md").read_text()
    block = page.partition("<!-- block: acls -->")[2]
    shown = [line.replace("…", "").split() for line in re.findall(r"^User:.*$", block, re.MULTILINE)]
    rows = [as_row(grant, None) for grant in grants_of(settings(), ["archive"])]
    ends = {"literal": "", "prefixed": "*"}
    assert shown == [
        [row["principal"], row["operation"], row["resource"], row["name"] + ends[row["pattern"]]]
        for row in rows
    ]


def test_a_role_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(Misused, match="dancer is no role") as caught:
        grants_of(settings(), ["ingest", "dancer"])
    assert (
        "ingest, aggregate, archive, account, edge, llm, operator, responder, producer" in caught.value.remedy
    )


def test_every_client_of_kafka_is_told_how_to_prove_who_it_is():
    """Each begins with `client_config`, but for the question whether the local stack answers.

    ``stage.py`` hands on a configuration that it was given; ``producer_config`` and
    ``consumer_config`` begin with it, too.
    """
    clients = {"Consumer", "Producer", "AdminClient"}
    makers = set()

    def is_maker(made: ast.expr) -> bool:
        if isinstance(made, ast.Attribute):  # kafka.clients.consumer(…)
            return ast.unparse(made.value).endswith("clients")
        return isinstance(made, ast.Name) and made.id in clients

    for file in (ROOT / "connectors").rglob("*.py"):
        text = file.read_text()
        made = [
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and is_maker(node.func)
        ]
        if made and file.name not in {"probe.py", "stage.py"}:
            makers.add(file.stem)
            # ``producer_config`` is that of a unit's producer, whatever its guarantee.
            begins = ("client_config()", "producer_config(", "consumer_config(")
            assert any(config in text for config in begins), file
            assert not [call for call in made if isinstance(call.args[0], ast.Dict)], file
    assert all("client_config()" in inspect.getsource(made) for made in (producer_config, consumer_config))
    assert len(makers) > 10
