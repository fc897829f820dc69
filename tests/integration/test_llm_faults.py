"""Every fault of the field on every wire shape, through the real worker: the declared outcome, one end."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import pytest

from connectors.llm.calls import Shape
from connectors.llm.loopback.faults import NOT_IN
from connectors.llm.loopback.script import REFUSAL, words
from connectors.llm.loopback.server import LoopbackThread
from tests.support.llm_world import TOPICS, LlmWorld, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from connectors.llm.ledger import Attempt
    from tests.support.llm_world import Answer

SHAPES = get_args(Shape)
# Fault of the loopback provider → how the stream ends, and the error that stands on record.
DECLARED = {
    "": ("completed", ""),
    "rate_limited": ("upstream_error", "rate_limited"),
    "rate_limited&retry_after=60": ("upstream_error", "rate_limited"),
    "rate_limited&retry_after=1&times=1": ("completed", ""),
    "spend_limited": ("upstream_error", "spend_limited"),
    "server": ("upstream_error", "server"),
    "bad_gateway": ("upstream_error", "server"),
    "overloaded": ("upstream_error", "overloaded"),
    "unauthorized": ("upstream_error", "unauthorized"),
    "not_found": ("upstream_error", "not_found"),
    "bad_request": ("upstream_error", "bad_request"),
    "context_overflow": ("upstream_error", "context_overflow"),
    "moderated": ("upstream_error", "content_refused"),
    "cut&after=0": ("upstream_error", "truncated"),
    "cut": ("upstream_error", "truncated"),
    "closed": ("upstream_error", "truncated"),
    "ended": ("upstream_error", "truncated"),
    "cut_utf8": ("upstream_error", "malformed"),
    "stall&after=0": ("timed_out", "timeout_total"),
    "stall": ("timed_out", "timeout_total"),
    "pings": ("timed_out", "timeout_total"),
    "error_frame": ("upstream_error", "server"),
    "abort": ("upstream_error", "truncated"),
    "abort&after=0": ("upstream_error", "truncated"),
    "malformed": ("upstream_error", "malformed"),
    "bad_utf8": ("upstream_error", "malformed"),
    "unknown": ("completed", ""),
    "huge": ("upstream_error", "oversized"),
    "duplicate_start": ("completed", ""),
    "comments": ("completed", ""),
    "split": ("completed", ""),
    "missing_usage": ("completed", ""),
    "missing_finish": ("upstream_error", "truncated"),
    "missing_done": ("upstream_error", "truncated"),
    "html": ("upstream_error", "malformed"),
    "refusal": ("upstream_error", "content_refused"),
    "no_answer": ("timed_out", "timeout_total"),
    "drop": ("upstream_error", "connect"),
}
OTHERWISE = {
    ("anthropic", "error_frame"): ("upstream_error", "overloaded"),  # what its error in band says
    ("gemini", "error_frame"): ("upstream_error", "overloaded"),
    ("gemini", "abort"): ("upstream_error", "server"),  # its word for it is one of an error
    ("gemini", "abort&after=0"): ("upstream_error", "server"),
    ("ollama", "refusal"): ("completed", ""),  # the shape has no word for it: it is text
    ("openai-chat", "missing_done"): ("completed", ""),  # servers leave it out; the finish was said
}
SLOW = {"timed_out"}
# Faults by which an answer falls silent → the timer that is to end the attempt.
TIMERS = {
    "stall&after=0": "first_content",
    "no_answer": "first_content",
    "stall": "between_contents",
    "pings": "between_contents",
}
OURS = {"bad_request", "content_refused"}
"""Errors after which no other provider is asked by default."""
KEY, QUESTION = "sk-marker-8f1d2c6b7a", "marker-question-5e0a9d"
"""Neither may be in a log."""


@dataclass(frozen=True)
class Case:
    """A fault of a shape, and what is declared of it."""

    shape: str
    fault: str
    end: str
    error: str

    @property
    def model(self) -> str:
        """Who is asked for it."""
        return f"words?tokens=8&tag={self.shape}" + (f"&fault={self.fault}" if self.fault else "")


CASES = {
    f"{shape}-{number}": Case(shape, fault, *OTHERWISE.get((shape, fault), usual))
    for number, (fault, usual) in enumerate(DECLARED.items())
    for shape in SHAPES
    if shape not in NOT_IN.get(fault.partition("&")[0], ())
}


@pytest.fixture
def loopback():
    with LoopbackThread() as loopback:
        yield loopback


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path: Path) -> Iterator[LlmWorld]:
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    yield world
    world.close()


def providers(loopback) -> Mapping[str, Mapping[str, object]]:
    """Settings of the loopback in each shape, with a key that its worker must keep to itself."""
    return {
        shape: {"shape": shape, "base_url": loopback.base_url(shape), "models": ["*"], "api_key": KEY}
        for shape in SHAPES
    }


def started(world: LlmWorld, loopback):
    """A worker that is there: what is asked from now on waits for no start."""
    worker = world.worker(providers(loopback))
    world.ask("ready", QUESTION, model=f"{SHAPES[0]}/words?tokens=1")
    world.answer("ready")
    return worker


def came_of(world: LlmWorld) -> tuple[dict[str, Answer], dict[str, dict[int, Attempt]]]:
    """What clients have of each case, and its attempts, once nothing is left to do."""
    until(world.is_at_rest, timeout_s=120)
    answers = dict(zip(CASES, world.answers(*CASES), strict=True))
    attempts: dict[str, dict[int, Attempt]] = defaultdict(dict)
    for row in world.rows():
        assert KEY not in repr(row)
        attempts[row.stream_id][row.attempt] = row
    return answers, attempts


def check_log(world: LlmWorld, log: Path) -> None:
    """Hold the worker's log to what must not be in it, with requests that are wrong where it is told so."""
    wrong = {
        "messages_json": f'["{QUESTION}',
        "tools_json": f'[{{"name": "{QUESTION} {QUESTION}"}}]',
        "params_json": f'{{"{QUESTION}": 1}}',
        "variables_json": f'{{"{QUESTION}": "{QUESTION}"}}',
    }
    for name, value in wrong.items():
        world.ask(name, **{name: value})
    assert {answer.end for answer in world.answers(*wrong)} == {"upstream_error"}
    text = log.read_text()
    assert "llm_opened" in text
    assert KEY not in text
    assert QUESTION not in text


def test_each_fault_on_each_shape_has_its_declared_outcome_and_one_end(world, loopback):
    worker = started(world, loopback)
    for name, case in CASES.items():
        deadline_ms = 3_000 if case.end in SLOW else 60_000
        model = f"{case.shape}/{case.model}"
        world.ask(name, QUESTION, model=model, deadline_ms=deadline_ms, after_content="surface")
    answers, attempts = came_of(world)
    wrong = []
    for name, case in CASES.items():
        answer, last = answers[name], attempts[name][max(attempts[name])]
        ends = [fields["reason"] for fields in answer.of("end")]
        if (ends, last.error_class, answer.ends_written) != ([case.end], case.error, 1):
            wrong.append(f"{case}: {ends} {last.error_class!r} {last.error_raw[:80]!r}")
        if "retry_after" in case.fault:
            first, calls = attempts[name][1], {"1": 2, "60": 1}[case.fault.split("=")[1].split("&")[0]]
            waited = first.error_class, first.retry_after_ms > 0, len(attempts[name])
            if waited != ("rate_limited", True, calls):
                wrong.append(f"{case}: {waited} {first.retry_after_ms}")
    assert not wrong, "\n".join(wrong)
    check_log(world, worker.log)


def test_another_provider_answers_after_each_fault_within_the_time_that_the_route_gives(world, loopback):
    """Each shape has the next one behind it, and its timers are short where it falls silent."""
    seed = 2
    for shape, behind in zip(SHAPES, (*SHAPES[1:], SHAPES[0]), strict=True):
        second = {"target": behind, "model": f"words?tokens=8&seed={seed}"}
        for timer in ("", *sorted(set(TIMERS.values()))):
            first = {"target": shape, "retries": 0, "timers": {f"{timer}_ms": 1_000} if timer else {}}
            world.route(f"{shape}.{timer}", candidates=[first, second], after_content="restart")
    worker = started(world, loopback)
    for name, case in CASES.items():
        world.ask(name, QUESTION, model=case.model, route=f"{case.shape}.{TIMERS.get(case.fault, '')}")
    answers, attempts = came_of(world)
    wrong = []
    for name, case in CASES.items():
        answer, first, last = answers[name], attempts[name][1], attempts[name][max(attempts[name])]
        timer = TIMERS.get(case.fault)
        error = "rate_limited" if "retry_after=1&" in case.fault else case.error
        error = f"timeout_{timer}" if timer else error
        ours = error in OURS
        text = REFUSAL if case.fault == "refusal" else said(1)
        if error and not ours:
            text = said(seed)
        declared = {
            "ends": ["upstream_error" if ours else "completed"],
            "written": 1,
            "first": error,
            "last": error if ours else "",
            "calls": 2 if error and not ours else 1,
            "resets": int(bool(first.contents) and bool(error) and not ours),
        } | ({} if ours else {"text": text})
        found = {
            "ends": [fields["reason"] for fields in answer.of("end")],
            "written": answer.ends_written,
            "first": first.error_class,
            "last": last.error_class,
            "calls": len(attempts[name]),
            "resets": len(answer.of("reset")),
        } | ({} if ours else {"text": answer.text})
        if found != declared:
            wrong.append(f"{case}: {found}, not {declared}; {first.error_raw[:80]!r}")
    assert not wrong, "\n".join(wrong)
    check_log(world, worker.log)


def said(seed: int) -> str:
    """The loopback's answer of eight words."""
    return "".join(words(8, random.Random(seed)))
