"""From the ``POST`` of a cancel to the provider's connection being closed, as the provider sees it."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.goals import Goal
from benchmarks.llm.provider import MODEL, RATE
from benchmarks.llm.results import Answered

if TYPE_CHECKING:
    from benchmarks.llm.provider import Provider
    from benchmarks.llm.servers import Contender

CANCELS: Final = 200
AT_ONCE: Final = 20
"""Answers that go on meanwhile."""
GAP_S: Final = 0.05
GOALS: Final = (Goal("p99_ms", 250),)
ANSWER_S: Final = 120
ANSWERED_S: Final = 60.0
LOOK_S: Final = 0.05


def work() -> str:
    """Say what is measured."""
    return f"cancel: from POST to the provider's closed connection, {AT_ONCE} answers at once"


def measure(provider: Provider, ours: Contender) -> Answered:
    """Cancel answers one after the other, each amid its tokens and among others that go on.

    Raises:
        RuntimeError: one was not answered, or not cancelled.
    """
    say(f"cancel: {CANCELS} cancels")
    provider.answers(ANSWER_S * RATE)
    provider.forget()
    run = f"cancel-{time.time_ns()}"
    posted_us: dict[str, int] = {}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for first in range(0, CANCELS, AT_ONCE):
            streams = [f"{run}-{number}" for number in range(first, first + AT_ONCE)]
            list(threads.map(lambda stream: _ask(ours.port, stream), streams))
            _until_sent(provider, streams)
            for stream in streams:
                posted_us[stream] = time.time_ns() // 1_000
                _post(ours.port, f"/v1/streams/{stream}/cancel", {"reason": "enough"})
                time.sleep(GAP_S)
    took_ms = sorted((_closed_us(provider, stream) - posted_us[stream]) / 1_000 for stream in posted_us)
    figures = {
        "cancels": len(took_ms),
        "p50_ms": round(took_ms[len(took_ms) // 2], 1),
        "p99_ms": round(took_ms[int(0.99 * (len(took_ms) - 1))], 1),
        "max_ms": round(took_ms[-1], 1),
    }
    return Answered(
        ours.name,
        work(),
        "the cancel is in Kafka before it is acted upon; what was answered stays",
        verified=len(took_ms) == CANCELS and took_ms[0] > 0,
        figures=figures,
    )


def _ask(port: int, stream: str) -> None:
    asked = {"model": MODEL, "stream_id": stream, "messages": [{"role": "user", "content": stream}]}
    _post(port, "/v1/llm/streams", asked)


def _post(port: int, path: str, body: object) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.ACCEPTED:
        raise RuntimeError(f"{path} was answered {answer.status}: {said[:200]!r}")


def _until_sent(provider: Provider, streams: list[str]) -> None:
    """Wait until each has had some tokens: what is cancelled is amid its answer."""
    deadline = time.monotonic() + ANSWERED_S
    while True:
        amid = {_asked_of(call["body"]) for call in provider.calls() if call["sent"] > 3}
        if amid.issuperset(streams):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(set(streams) - amid)} of {len(streams)} were not answered")
        time.sleep(LOOK_S)


def _closed_us(provider: Provider, stream: str) -> int:
    """Return when the worker closed its last call; raises RuntimeError if it did not."""
    deadline = time.monotonic() + ANSWERED_S
    while time.monotonic() < deadline:
        calls = [call for call in provider.calls() if _asked_of(call["body"]) == stream]
        if all(call["outcome"] != "playing" for call in calls) and calls[-1]["outcome"] == "client_closed":
            return int(calls[-1]["done_us"])
        time.sleep(LOOK_S)
    raise RuntimeError(f"{stream} was cancelled, and its call goes on")


def _asked_of(body: str) -> str:
    return str(json.loads(body)["messages"][-1]["content"])
