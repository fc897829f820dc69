"""Every fault of the field on every wire shape, through the real worker: the declared outcome, one end."""

from __future__ import annotations

from typing import get_args

import pytest

from connectors.llm.calls import Shape
from connectors.llm.loopback.faults import NOT_IN
from connectors.llm.loopback.server import LoopbackThread
from tests.support.llm_world import TOPICS, LlmWorld

SHAPES = get_args(Shape)
# Fault of the loopback provider → how the stream ends, and the error that stands on record.
DECLARED = {
    "": ("completed", ""),
    "rate_limited": ("upstream_error", "rate_limited"),
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
    "malformed": ("upstream_error", "malformed"),
    "bad_utf8": ("upstream_error", "malformed"),
    "unknown": ("completed", ""),
    "duplicate_start": ("completed", ""),
    "comments": ("completed", ""),
    "split": ("completed", ""),
    "missing_usage": ("completed", ""),
    "missing_finish": ("upstream_error", "truncated"),
    "html": ("upstream_error", "malformed"),
    "refusal": ("upstream_error", "content_refused"),
    "no_answer": ("timed_out", "timeout_total"),
    "drop": ("upstream_error", "connect"),
}
OTHERWISE = {
    ("anthropic", "error_frame"): ("upstream_error", "overloaded"),  # what its error in band says
    ("gemini", "error_frame"): ("upstream_error", "overloaded"),
    ("ollama", "refusal"): ("completed", ""),  # the shape has no word for it: it is text
}
SLOW = {"timed_out"}


@pytest.fixture(scope="module")
def loopback():
    with LoopbackThread() as loopback:
        yield loopback


def test_each_fault_on_each_shape_has_its_declared_outcome_and_one_end(
    kafka_options, registry, topics, tmp_path, loopback
):
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    try:
        world.worker(
            {
                shape: {"shape": shape, "base_url": loopback.base_url(shape), "models": ["*"]}
                for shape in SHAPES
            }
        )
        world.ask("ready", model=f"{SHAPES[0]}/words?tokens=1")
        world.answer("ready")  # so that the short deadlines below begin with a worker that is there
        asked = {}
        for number, (fault, usual) in enumerate(DECLARED.items()):
            for shape in SHAPES:
                if shape in NOT_IN.get(fault, ()):
                    continue
                declared = OTHERWISE.get((shape, fault), usual)
                name = f"{shape}-{number}"
                asked[name] = (shape, fault, declared)
                world.ask(
                    name,
                    model=f"{shape}/words?tokens=8" + (f"&fault={fault}" if fault else ""),
                    deadline_ms=3_000 if declared[0] in SLOW else 60_000,
                    after_content="surface",
                )
        answers = dict(zip(asked, world.answers(*asked, deadline_s=120), strict=True))
        rows = {}
        for row in world.rows():
            rows.setdefault(row.stream_id, {})[row.attempt] = row
    finally:
        world.close()
    wrong = []
    for name, (shape, fault, (end, error)) in asked.items():
        answer, last = answers[name], max(rows[name].values(), key=lambda row: row.attempt)
        ends = [fields["reason"] for fields in answer.of("end")]
        if ends != [end] or last.error_class != error:
            wrong.append(f"{shape} {fault or 'none'}: {ends} {last.error_class!r} {last.error_raw[:80]!r}")
    assert not wrong, "\n".join(wrong)
