"""The documentation against the code: files shown are those files, links lead somewhere, all is named."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import BaseModel

from connectors.llm.metrics import LlmMetrics
from edge.recorded import create_replay_app
from ops.cli import build_app
from ops.settings import ProviderSettings, Settings
from ops.stack.parts import LOCAL_PARTS
from schemas.recording import RecordingHeader
from schemas.topics import DAY_MS, INPUT, OUTPUT, REJECTS
from state.dedupe import SeenOptions
from state.keyvalue import KeyValueOptions
from state.sessions import SessionOptions
from state.windows import WindowOptions
from tests.support.no_engine import worker_registry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
_FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"^\s*sluicegate ([a-z]+)", re.MULTILINE)


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_file_that_a_page_shows_is_that_file(page):
    for path, shown in _FILE.findall(page.read_text()):
        assert shown == (ROOT / path).read_text(), f"{page.name} shows another {path}"


def test_every_example_is_shown_on_a_page():
    shown = {path for page in PAGES for path, _ in _FILE.findall(page.read_text())}
    examples = [file for file in (DOCS / "examples").rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert shown == {str(file.relative_to(ROOT)) for file in examples}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in _LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if heading:
            assert heading in headings(target), f"{page.name}: {link}"


def headings(page: Path) -> set[str]:
    """Anchors as a forge makes them of the headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_names_every_page():
    index = set(_LINK.findall(text("README.md")))
    assert {page.name for page in PAGES} - {"README.md"} <= index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_a_block_runs_exists(page):
    known = {name for name in build_app() if not name.startswith("-")}
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        assert set(_COMMAND.findall(block)) <= known


def measured() -> dict[str, set[str]]:
    """Names of what each process measures, without the ending that says the kind of a metric."""
    edge = create_replay_app(RecordingHeader("default", "one", "log", "2026-01-01T00:00:00Z"), [])
    return {
        "worker": {family.name for family in worker_registry().collect()},
        "edge": {family.name for family in edge.core.metrics.registry.collect()},
        "llm": {family.name for family in LlmMetrics(lambda: 0).registry.collect()},
    }


@pytest.mark.parametrize("process", ["worker", "edge", "llm"])
def test_the_on_call_page_tells_what_every_metric_means(process):
    told = "\n".join(line.split("|")[1] for line in text("on-call.md").splitlines() if line.startswith("| `"))
    names = measured()[process]
    assert len(names) > 5
    assert not [name for name in names if not re.search(rf"`{name}(_total)?`", told)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_names_a_metric_that_is_not_measured(page):
    names = set.union(*measured().values())
    named = {name.removesuffix("_total") for name in re.findall(r"sluicegate_[a-z_]+", page.read_text())}
    assert named <= names


def settings_of(group: str) -> dict[str, object]:
    """Full name to default of a group's settings."""
    model = Settings.model_fields[group].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return {f"{group}.{name}": field.default for name, field in model.model_fields.items()}


def shown(default: object) -> str:
    """A default as a page says it."""
    return "empty" if default in ("", ()) else str(default)


def test_the_data_engineers_page_names_every_setting_of_a_worker_with_its_default():
    rows = dict(re.findall(r"^\| `(worker\.[a-z_]+)` \| (\S+) \|", text("data-engineer.md"), re.MULTILINE))
    assert rows == {name: shown(default) for name, default in settings_of("worker").items()}


def test_the_data_engineers_page_names_every_option_of_windows_and_values_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+Options\.\w+)` \| (\d+) \|", text("data-engineer.md"), re.MULTILINE))
    options = (WindowOptions, SessionOptions, KeyValueOptions, SeenOptions)
    known = {f"{each.__name__}.{one.name}": str(one.default) for each in options for one in fields(each)}
    assert rows == known


def test_the_page_of_access_names_every_setting_of_it_with_its_default():
    rows = dict(re.findall(r"^\| `(access\.[a-z_]+)` \| (\S+) \|", text("access.md"), re.MULTILINE))
    assert rows == {name: shown(default) for name, default in settings_of("access").items()}


def test_the_guarantees_name_what_every_bound_of_a_worker_costs_with_its_default():
    costs = dict(re.findall(r"^\| `(worker\.[a-z_]+)` \| (\S+) \|", text("guarantees.md"), re.MULTILINE))
    no_bounds = {"worker.identity", "worker.web_host", "worker.web_port", "worker.web_advertised_host"}
    bounds = {name: f"{default:,}" if isinstance(default, int) else shown(default)
              for name, default in settings_of("worker").items() if name not in no_bounds}  # fmt: skip
    assert costs == bounds


@pytest.mark.parametrize("group", ["kafka", "registry", "postgres", "state"])
def test_the_data_engineers_page_names_every_setting_of_what_a_worker_reaches(group):
    assert not [name for name in settings_of(group) if f"`{name}`" not in text("data-engineer.md")]


def test_the_page_of_the_local_stack_names_every_setting_and_version():
    page = text("local-stack.md")
    assert not [name for name in settings_of("stack") if f"`{name}`" not in page]
    assert all(f"| {part.version} |" in page for part in LOCAL_PARTS)


def test_the_guarantees_name_retention_as_the_table_of_topics_has_it():
    page = text("guarantees.md")
    for what, topic in (("input", INPUT), ("output", OUTPUT), ("verdicts", REJECTS)):
        days = topic.retention_ms // DAY_MS
        assert f"| {what} | {days} day" in page


def test_no_page_names_a_setting_that_does_not_exist():
    known = {
        f"SLUICEGATE_{group}__{name}".upper()
        for group, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    } | {f"SLUICEGATE_{name}".upper() for name in Settings.model_fields}
    known |= {f"SLUICEGATE_LLM__PROVIDERS__NAME__{name}".upper() for name in ProviderSettings.model_fields}
    known.add("SLUICEGATE_LLM__PROVIDERS__NAME")
    for page in PAGES:
        named = set(re.findall(r"SLUICEGATE_[A-Z_]*[A-Z]", page.read_text()))
        named = {re.sub(r"(?<=PROVIDERS__)[A-Z]+", "NAME", name) for name in named}  # a user's own
        assert named <= known, page.name
