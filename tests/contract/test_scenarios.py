"""The same scenarios over every transport, against real edge processes on real Kafka (``play.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.drivers import DRIVERS
from tests.contract.play import Play
from tests.support.stage import stage

__all__ = ["stage"]  # a fixture

pytestmark = pytest.mark.timeout(240)

QUICK = {"ahead_wait_ms": 1_500, "drain_ms": 500}
SCENARIOS: dict[str, dict[str, Any]] = {
    file.stem: yaml.safe_load(file.read_text())
    for file in sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))
}
PLAYS = [
    pytest.param(name, first, resuming, id=f"{name}-{first}" + (f"-{resuming}" if first != resuming else ""))
    for name, scenario in SCENARIOS.items()
    for first in DRIVERS
    for resuming in DRIVERS
    if first == resuming or scenario.get("cross")
]


@pytest.mark.parametrize(("name", "first", "resuming"), PLAYS)
def test_a_scenario_holds_over_a_transport(stage, name, first, resuming):
    scenario = SCENARIOS[name]
    play = Play(
        stage.twin,
        stage.edge(**QUICK, **scenario.get("options", {})),
        kind=scenario["kind"],
        first=DRIVERS[first],
        resuming=DRIVERS[resuming],
    )
    play.perform(scenario["steps"])


def test_a_scenario_that_expects_what_does_not_happen_fails(stage):
    steps = [{"write": "open"}, {"join": {"client": "a"}}, {"sees": {"client": "a", "events": ["log 0"]}}]
    for driver in DRIVERS.values():
        play = Play(stage.twin, stage.edge(**QUICK), kind="log", first=driver, resuming=driver)
        with pytest.raises(AssertionError, match="step 3"):
            play.perform(steps)
