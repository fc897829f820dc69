"""`docker-compose.yml`, `Dockerfile` and `deploy/` against the parts, the code and compose's schema."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml

from connectors.llm.deltas import ErrorClass
from connectors.llm.metrics import LlmMetrics
from edge.metrics import EdgeMetrics, LevelCollector
from ops.settings import ProviderSettings, Settings
from ops.stack.compose import FILE, render
from ops.stack.parts import LLM_WEB_PORT, LOCAL_PARTS, PARTS, WORKER_WEB_PORTS
from tests.support.no_engine import worker_registry

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]


def test_the_committed_file_is_what_the_table_gives():
    assert FILE.read_text() == render(), "run `make compose`"


def test_compose_would_accept_the_file():
    # The package's own module is not imported: only the schema that it carries is wanted.
    package = Path(find_spec("check_jsonschema").origin).parent
    schema = json.loads((package / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())

    jsonschema.validate(COMPOSE, schema)


def test_what_is_no_compose_file_would_be_refused():
    package = Path(find_spec("check_jsonschema").origin).parent
    schema = json.loads((package / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"kafka": {"imagine": "kafka"}}}, schema)


def test_every_part_of_the_local_stack_is_there_in_the_same_version():
    for part in LOCAL_PARTS:
        assert SERVICES[part.name]["image"].endswith(f":{part.version}")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_published_on_the_loopback_alone(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_says_when_it_is_well_and_waits_for_what_it_needs(name):
    service = SERVICES[name]

    assert service["healthcheck"]["test"][0] == "CMD"
    for needed, condition in service.get("depends_on", {}).items():
        assert "healthcheck" in SERVICES[needed]
        assert condition == {"condition": "service_healthy"}


def test_no_password_stands_in_the_file_and_each_is_in_the_example():
    words = re.findall(r"^\s*\w*PASSWORD\w*: (.*)$", FILE.read_text(), re.MULTILINE)
    named = set(re.findall(r"\$\{(\w+):\?", FILE.read_text()))
    example = (ROOT / ".env.example").read_text()

    assert words
    assert all(word.startswith("${") for word in words)
    assert named == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))


def test_our_images_are_told_only_settings_that_exist():
    ours = [SERVICES[part.name]["environment"] for part in PARTS if part.built]
    assert len(ours) == 3

    for environment in ours:
        for variable in environment:
            assert exists(variable), f"{variable} is no setting"


def test_keys_of_providers_are_in_a_file_that_is_the_users_and_without_it_no_worker_asks_them():
    llm = SERVICES["llm"]
    assert llm["profiles"] == ["llm"]
    assert llm["env_file"] == ["llm.env"], "compose refuses to start it without the file"
    assert not any("PROVIDERS" in variable for variable in llm["environment"])
    assert "llm.env" in (ROOT / ".gitignore").read_text().splitlines()
    example = (ROOT / "llm.env.example").read_text()
    named = re.findall(r"^#?(SLUICEGATE_\w+)=(.*)$", example, re.MULTILINE)
    assert named
    for variable, value in named:
        group, _, name_and_field = variable.partition("__PROVIDERS__")
        _, field = name_and_field.split("__")
        assert exists(f"{group}__PROVIDERS")
        assert field.lower() in ProviderSettings.model_fields
        assert value == ""


def exists(variable: str) -> bool:
    fields = Settings.model_fields
    for name in variable.removeprefix("SLUICEGATE_").lower().split("__"):
        if name not in fields:
            return False
        fields = getattr(fields[name].annotation, "model_fields", {})
    return True


def test_files_that_are_mounted_are_there():
    mounted = [volume.split(":")[0] for part in PARTS for volume in part.volumes if volume.startswith("./")]

    assert mounted
    assert all((ROOT / path).exists() for path in mounted)


class TestDockerfile:
    TEXT = (ROOT / "Dockerfile").read_text()

    def test_every_package_is_copied_and_let_through(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        ignored = (ROOT / ".dockerignore").read_text().splitlines()

        for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
            assert f"COPY {package} {package}\n" in self.TEXT
            assert f"!{package}" in ignored

    def test_what_it_copies_from_the_context_is_let_through(self):
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", self.TEXT, re.MULTILINE)

        assert {f"!{name}" for line in copied for name in line.split()} <= set(ignored)

    def test_it_installs_by_hash_runs_as_nobody_in_particular_and_tells_its_health(self):
        assert "--require-hashes -r requirements.lock" in self.TEXT
        assert re.search(r"^USER (?!0|root)", self.TEXT, re.MULTILINE)
        assert re.search(r"^HEALTHCHECK ", self.TEXT, re.MULTILINE)

    def test_its_base_is_pinned_and_of_a_python_that_the_project_takes(self):
        bases = set(re.findall(r"^FROM (\S+)", self.TEXT, re.MULTILINE))

        assert bases == {"python:3.11-slim-bookworm"}


class TestPrometheus:
    CONFIG = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())

    def test_it_asks_every_role_of_the_worker_and_the_edge(self):
        targets = {
            job["job_name"]: [
                target for group in job.get("static_configs", ()) for target in group["targets"]
            ]
            for job in self.CONFIG["scrape_configs"]
        }

        assert targets["worker"] == [f"worker:{port}" for port in WORKER_WEB_PORTS]
        assert targets["edge"] == [f"edge:{SERVICES['edge']['environment']['SLUICEGATE_EDGE__PORT']}"]

    def test_what_it_says_of_an_edge_with_keys_is_right_when_the_mark_is_taken_away(self):
        text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
        (edge,) = [
            job
            for job in yaml.safe_load(text.replace("# authorization:", "authorization:"))["scrape_configs"]
            if job["job_name"] == "edge"
        ]

        assert edge["authorization"] == {"credentials_file": "edge.token"}
        assert "> deploy/prometheus/edge.token" in text

    def test_it_finds_the_workers_of_language_models_by_their_name(self):
        (job,) = [job for job in self.CONFIG["scrape_configs"] if job["job_name"] == "llm"]
        (found,) = job["dns_sd_configs"]
        assert (found["names"], found["port"]) == (["llm"], LLM_WEB_PORT)
        assert SERVICES["llm"]["environment"]["SLUICEGATE_LLM__WEB_PORT"] == str(LLM_WEB_PORT)

    def test_the_edge_answers_to_the_name_that_it_is_asked_by(self):
        assert "edge" in json.loads(SERVICES["edge"]["environment"]["SLUICEGATE_EDGE__ALLOWED_HOSTS"])

    def test_its_rules_are_about_what_is_measured_and_name_a_page_that_is_there(self):
        assert self.CONFIG["rule_files"] == ["rules.yml"]
        (group,) = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
        for rule in group["rules"]:
            assert set(re.findall(r"sluicegate_\w+", rule["expr"])) <= measured(), rule
            if "alert" in rule:
                page, _, heading = rule["annotations"]["runbook"].partition("#")
                anchors = {
                    re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in (ROOT / page).read_text().splitlines()
                    if line.startswith("#")
                }
                assert not heading or heading in anchors, rule

    def test_a_rule_about_errors_of_models_names_classes_that_there_are(self):
        rules = (ROOT / "deploy/prometheus/rules.yml").read_text()
        named = {each for words in re.findall(r'error!~"([^"]+)"', rules) for each in words.split("|")}

        assert named
        assert named <= set(get_args(ErrorClass))


class TestGrafana:
    DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))

    @pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
    def test_a_dashboard_shows_only_metrics_that_are_measured(self, file):
        shown = {
            metric
            for panel in json.loads(file.read_text())["panels"]
            for target in panel["targets"]
            for metric in re.findall(r"sluicegate_\w+", target["expr"])
        }

        assert shown
        assert shown <= measured()

    def test_its_source_is_the_prometheus_of_the_file(self):
        path = ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml"
        (source,) = yaml.safe_load(path.read_text())["datasources"]

        assert source["url"] == "http://prometheus:9090"
        assert {
            panel["datasource"]["uid"]
            for file in self.DASHBOARDS
            for panel in json.loads(file.read_text())["panels"]
        } == {source["uid"]}


class NoLevels:
    """An edge that stands still: enough for the names of what is read at a scrape."""

    def levels(self) -> dict[str, tuple[str, float]]:
        return {}

    def tail_lag(self) -> dict[tuple[str, int], int]:
        return {}


def measured() -> set[str]:
    """Names that workers and edge give, as Prometheus stores them."""
    suffixes = {
        "counter": ("_total",), "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count"),
    }  # fmt: skip
    sources = (
        worker_registry(),
        LlmMetrics(lambda: 0).registry,
        EdgeMetrics().registry,
        LevelCollector(NoLevels()),
    )
    return {
        family.name + suffix
        for source in sources
        for family in source.collect()
        for suffix in suffixes[family.type]
    }
