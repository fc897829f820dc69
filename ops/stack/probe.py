"""Readiness, asked as a client would: never a line in a log, and never a sleep."""

from __future__ import annotations

import httpx2
import psycopg

from ops.stack.parts import KAFKA, MODEL, POSTGRES, REGISTRY


def answers(part: str, address: str, timeout_s: float) -> bool:
    """Whether a part does its work now: a metadata request, a list of subjects, a `SELECT 1`, weights."""
    probes = {KAFKA.name: kafka, REGISTRY.name: registry, POSTGRES.name: postgres, MODEL.name: model}
    return probes[part](address, timeout_s)


def kafka(bootstrap_servers: str, timeout_s: float) -> bool:
    """Whether a metadata request is answered."""
    from connectors.kafka.probe import cluster_answers

    return cluster_answers(bootstrap_servers, timeout_s)


def registry(url: str, timeout_s: float) -> bool:
    """Whether the registry lists its subjects."""
    return _is_ok(f"{url}/subjects", timeout_s)


def model(url: str, timeout_s: float) -> bool:
    """Whether the model's server has loaded its weights."""
    return _is_ok(f"{url.removesuffix('/v1')}/health", timeout_s)


def postgres(dsn: str, timeout_s: float) -> bool:
    """Whether `SELECT 1` is answered."""
    try:
        with psycopg.connect(dsn, connect_timeout=max(2, round(timeout_s))) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except (psycopg.Error, OSError):
        return False


def _is_ok(url: str, timeout_s: float) -> bool:
    try:
        # No proxy to the loopback, and no authorities: they take 30 ms to read, at each question.
        verify = not url.startswith("http://")
        response = httpx2.get(url, timeout=timeout_s, trust_env=False, verify=verify)
    except httpx2.HTTPError:
        return False
    return response.status_code == httpx2.codes.OK
