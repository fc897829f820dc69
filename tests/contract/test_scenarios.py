"""The same scenarios over every transport at once, against real edges on real Kafka (``play.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.contract.drivers import DRIVERS
from tests.contract.play import Play
from tests.support.stage import stage
from tests.support.tokens import ISSUER, Issuer, keys_file

if TYPE_CHECKING:
    from tests.support.edge_process import EdgeProcess
    from tests.support.stage import Stage

__all__ = ["stage"]  # a fixture

pytestmark = pytest.mark.timeout(240)

HERE = Path(__file__).parent
QUICK = {"ahead_wait_ms": 1_500, "drain_ms": 500, "pipelines": str(HERE / "kinds")}
SCENARIOS: dict[str, dict[str, Any]] = {
    file.stem: yaml.safe_load(file.read_text()) for file in sorted((HERE / "scenarios").glob("*.yaml"))
}


def options_of(scenario: dict[str, Any]) -> list[dict[str, Any]]:
    options = scenario.get("options", {})
    return options if isinstance(options, list) else [options]


PLAYS = [
    pytest.param(name, number, id=f"{name}{number or ''}")
    for name, scenario in SCENARIOS.items()
    for number in range(len(options_of(scenario)))
]


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


def edge_of(stage: Stage, scenario: dict[str, Any], number: int, keys: dict[str, Any]) -> EdgeProcess:
    options: dict[str, Any] = {**QUICK, **options_of(scenario)[number]}
    if scenario.get("access"):
        options["access"] = {**options["access"], **keys}
    return stage.edge(**options)


@pytest.mark.parametrize(("name", "number"), PLAYS)
def test_a_scenario_holds_over_all_transports(stage, issuer, name, number, tmp_path):
    scenario = SCENARIOS[name]
    keys = {"keys_file": str(keys_file(tmp_path, issuer)), "issuer": ISSUER}
    play = Play(
        stage.twin,
        edge_of(stage, scenario, number, keys),
        kind=scenario["kind"],
        drivers=list(DRIVERS.values()),
        issuer=issuer if scenario.get("access") else None,
    )
    play.perform(scenario["steps"])


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"sees": {"client": "a", "events": ["log 0"]}},
        {"follows": {"client": "a", "to": 2, "gap": "slow"}},
        {"sees": {"client": "a", "events": ["open 0", "log 1..2"], "expiring": True}},
    ],
    ids=["events", "gap", "expiring"],
)
def test_a_scenario_that_expects_what_does_not_happen_fails(stage, driver, wrong):
    steps = [{"write": "open"}, {"write": "log 2"}, {"join": {"client": "a"}}, wrong]
    play = Play(stage.twin, stage.edge(**QUICK), kind="log", drivers=[DRIVERS[driver]])
    with pytest.raises(AssertionError, match="step 4"):
        play.perform(steps)
