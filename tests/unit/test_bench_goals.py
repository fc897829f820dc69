"""Goals of benchmarks: said beside the figures, and what a call of ``GOALS=1`` ends with."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
import pytest

from benchmarks import call
from benchmarks.asked import asked as engine_asked
from benchmarks.edge.asked import asked as edge_asked
from benchmarks.goals import Goal, judged, missed
from benchmarks.llm import streams
from benchmarks.llm.asked import asked as llm_asked
from benchmarks.llm.results import Answered
from benchmarks.llm.works import GOALS as WORKS_GOALS
from benchmarks.results import OURS, show

GOALS = (Goal("p99_ms", 100), Goal("ratio", 5, least=True))


@dataclass(frozen=True)
class Measured:
    name: str = "sluicegate, here"
    work: str = "some"
    verified: bool = True
    figures: dict[str, object] = field(default_factory=dict)

    def row(self):
        return {"name": self.name, **self.figures}


@pytest.mark.parametrize(
    ("figures", "goal", "met", "short"),
    [
        ({"p99_ms": 99.9, "ratio": 5}, "p99_ms < 100, ratio ≥ 5", True, None),
        ({"p99_ms": 100.0, "ratio": 5}, "p99_ms < 100, ratio ≥ 5", False, "p99_ms < 100 (100)"),
        ({"p99_ms": 1, "ratio": 4.9}, "p99_ms < 100, ratio ≥ 5", False, "ratio ≥ 5 (4.9)"),
        ({"p99_ms": 101, "ratio": 0}, "p99_ms < 100, ratio ≥ 5", False, "p99_ms < 100 (101), ratio ≥ 5 (0)"),
        ({"p99_ms": 1, "ratio": None}, "p99_ms < 100, ratio ≥ 5", None, None),
        ({"p99_ms": 101, "ratio": None}, "p99_ms < 100, ratio ≥ 5", False, "p99_ms < 100 (101)"),
        ({"p99_ms": 1}, "p99_ms < 100", True, None),
    ],
    ids=["met", "late", "few", "both", "unknown", "late-unknown", "one"],
)
def test_a_line_of_ours_says_what_is_asked_of_its_figures_and_whether_they_are_so(figures, goal, met, short):
    line = judged(Measured(figures=figures), GOALS)
    assert line.row() == {"name": "sluicegate, here", **figures, "goal": goal, "met": met}
    assert missed([line]) == ([f"sluicegate, here: {short}"] if short else [])


def test_others_and_what_has_no_such_figure_are_not_judged():
    other, plain = Measured("LiteLLM proxy", figures={"p99_ms": 900}), Measured(figures={"events": 3})
    assert judged(other, GOALS) is other
    assert judged(plain, GOALS) is plain
    assert missed([other, plain]) == []


@pytest.mark.parametrize("asked", [engine_asked, edge_asked, llm_asked], ids=["engine", "edge", "llm"])
def test_goals_are_asked_for_by_a_variable(asked):
    assert asked({"GOALS": "1"}).goals
    assert not asked({}).goals


@pytest.mark.parametrize(("wanted", "p99_ms", "good"), [("1", 99, True), ("1", 101, False), ("", 101, True)])
def test_a_goal_that_is_missed_fails_a_call_that_asks_for_goals_alone(capsys, wanted, p99_ms, good):
    line = Measured(figures={"p99_ms": p99_ms})
    asked = llm_asked({"GOALS": wanted, "JSON": "1"})
    assert call._done(lambda _: [line], "overhead", show, GOALS, asked) is good
    out, err = capsys.readouterr()
    assert orjson.loads(out) == {**line.row(), "goal": "p99_ms < 100", "met": p99_ms < 100}
    assert ("a goal is missed" in err) == (p99_ms >= 100)


@pytest.mark.parametrize(
    ("theirs", "ratio"), [([], None), ([0, None], None), ([19, 0], 6.05), ([19, 31], 3.71)],
    ids=["none", "nothing", "one", "best"],
)  # fmt: skip
def test_answers_at_once_are_compared_with_the_better_of_litellms(theirs, ratio):
    peers = [Answered("LiteLLM", "streams", "", verified=True, figures={"streams": held}) for held in theirs]
    ours = Answered(OURS, "streams", "", verified=True, figures={"streams": 115})
    line = judged(streams.beside(ours, peers), WORKS_GOALS["streams"])
    assert line.row()["ratio_to_litellm"] == ratio
    assert line.row()["met"] == (None if ratio is None else ratio >= 5)
