"""A deployment that is asked for answers of two providers on loopback, which a test can have fail."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx2
import psycopg

from connectors.llm.loopback.server import LoopbackThread
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.llm.loopback.server import Loopback
    from tests.e2e.deployment import Deployment

ROUTE: Final = {
    "candidates": [
        {"target": "main", "model": "big", "retries": 0},
        {"target": "backup", "model": "small", "retries": 0},
    ],
    "timers": {"between_contents_ms": 100_000},  # what hangs does so for longer than a test looks at it
    "prices": {
        "main/*": {"input_usd": 0, "output_usd": 100_000},
        "backup/*": {"input_usd": 0, "output_usd": 0},
    },
}


class ModelDeployment:
    """An edge, a worker that answers, and roles that reckon up, around a deployment's own folder."""

    def __init__(self, deployment: Deployment, loopback: Loopback) -> None:
        self._deployment = deployment
        self._loopback = loopback

    def says(self, model: str, wanted: str) -> None:
        """Have a model answer so from now on, in the loopback provider's words: ``words?fault=stall``."""
        url = f"{self._loopback.url}/_models/{model}"
        assert httpx2.put(url, content=wanted.encode(), trust_env=False).status_code == 200

    def ask(self, stream_id: str, tenant: str = "default") -> None:
        """Ask for an answer."""
        self._http("POST", "/v1/llm/streams", tenant, {
            "stream_id": stream_id, "messages": [{"role": "user", "content": "Say something."}],
        })  # fmt: skip

    def end(self, stream_id: str, tenant: str = "default") -> str:
        """Give how it ended; empty = it has not."""
        return str(self._http("GET", f"/v1/streams/{stream_id}", tenant)["reason"] or "")

    def _http(self, method: str, path: str, tenant: str, body: object = None) -> dict[str, Any]:
        answer = httpx2.request(
            method,
            self._deployment.environment["EDGE"] + path,
            params={"tenant": tenant},
            json=body,
            trust_env=False,
            timeout=30,
        )
        assert answer.is_success, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def until(self, query: str, wanted: object) -> None:
        """Wait until PostgreSQL gives this for a query of one value."""

        def given() -> bool:
            with psycopg.connect(self._deployment.postgres_dsn) as reader:
                if reader.execute("SELECT to_regclass('sluicegate.llm_windows')").fetchone() == (None,):
                    return False
                return reader.execute(query.encode()).fetchone() == (wanted,)

        self._deployment.until(given, f"{query} gives {wanted}", timeout_s=90)

    def calls(self, wanted: int, **of: str) -> None:
        """Wait until the archive has so many calls of these values."""
        where = " AND ".join(f"{name} = '{value}'" for name, value in of.items())
        self.until(f"SELECT count(*) FROM sluicegate.llm_attempts WHERE {where}", wanted)


@contextmanager
def asked_for_answers(deployment: Deployment) -> Iterator[ModelDeployment]:
    """Start it all; the deployment ends what it started."""
    edge, web = free_port(), free_port()
    with LoopbackThread() as loopback:
        base_url = loopback.base_url("openai-chat")
        providers = {name: {"shape": "openai-chat", "base_url": base_url} for name in ("main", "backup")}
        deployment.environment |= {
            "EDGE": f"http://127.0.0.1:{edge}",
            "LLM": f"http://127.0.0.1:{web}",
            "SLUICEGATE_LLM__PROVIDERS": json.dumps(providers),
            "SLUICEGATE_LLM__WEB_PORT": str(web),
        }
        model = ModelDeployment(deployment, loopback)
        for name in ("big", "small"):
            model.says(name, "words?tokens=20")
        route = deployment.folder / "route.json"
        route.write_text(json.dumps(ROUTE))
        deployment.start("ingest,account,archive")
        deployment.start_edge(edge)
        deployment.start_llm()
        deployment.command(
            "sluicegate", "llm", "routes", "set", "default", str(route), "--reason=first", "--yes"
        )
        deployment.until(lambda: _is_ready(deployment), "edge and workers are ready")
        yield model


def _is_ready(deployment: Deployment) -> bool:
    for name in ("EDGE", "LLM"):
        try:
            answer = httpx2.get(f"{deployment.environment[name]}/readyz", trust_env=False)
        except httpx2.TransportError:
            return False
        if answer.status_code != 200:
            return False
    return deployment.logged("route_in_force", deployment.llm_log)
