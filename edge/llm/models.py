"""Which routes there are, as ``llm.routes.v1`` tells them: what a client of another's shape may call a model.

The worker decides what a route means; here its name is told from a model's, and both are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from schemas.published import time_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from edge.access.identity import Identity

log = structlog.get_logger(__name__)
DEFAULT: Final = "default"
ROUTES_MAX: Final = 1_000
_NOT_A_ROUTE: Final = "budgets"
"""Stands on the same topic (``connectors/llm/budgets.py``)."""


@dataclass(frozen=True, slots=True)
class _Route:
    version: int
    time_us: int
    models: tuple[tuple[str, tuple[str, ...]], ...]
    """Models that its candidates name, each with the tenants that it is for; none = all."""


class Models:
    """Written by the tail; belongs to the loop."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}

    def take(self, record: Mapping[str, Any]) -> None:
        """Take a version of a route (``sluicegate.LlmRoute``); one that cannot be read changes nothing."""
        name, version = record["name"], record["version"]
        held = self._routes.get(name)
        if name == _NOT_A_ROUTE or (held is not None and held.version >= version):
            return
        if held is None and len(self._routes) >= ROUTES_MAX:
            log.warning("too_many_routes", route=name[:64], most=ROUTES_MAX)
            return
        try:
            models = tuple(_models_of(orjson.loads(record["config_json"])))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            log.warning("route_cannot_be_read", route=name[:64], version=version, cause=str(error))
            return
        self._routes[name] = _Route(version, record["time_us"], models)

    def route_of(self, model: str) -> tuple[str, str]:
        """Give (route, model) for what a client calls a model: a route by its name, else the default's."""
        if model == DEFAULT or model in self._routes:
            return model, ""
        return DEFAULT, model

    def shown(self, identity: Identity) -> dict[str, object]:
        """Give the list as OpenAI's and Anthropic's clients read it, both from the same members."""
        found: dict[str, dict[str, object]] = {DEFAULT: _shown(DEFAULT, "route", 0)}
        for name, route in sorted(self._routes.items()):
            found[name] = _shown(name, "route", route.time_us)
        for route in self._routes.values():
            for model, tenants in route.models:
                if not tenants or any(tenant in identity.tenants for tenant in tenants):
                    found.setdefault(model, _shown(model, "model", route.time_us))
        data = list(found.values())
        last = data[-1]["id"]
        return {"object": "list", "data": data, "has_more": False, "first_id": DEFAULT, "last_id": last}


def _models_of(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for candidate in config["candidates"]:
        when = candidate.get("when", {})
        tenants = tuple(when.get("tenants", ()))
        for model in _exact([candidate.get("model", ""), *when.get("models", ())]):
            yield model, tenants


def _exact(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name and not set("*?[").intersection(name))


def _shown(name: str, kind: str, time_us: int) -> dict[str, object]:
    return {
        "id": name,
        "kind": kind,
        "object": "model",
        "created": time_us // 1_000_000,
        "owned_by": "sluicegate",
        "type": "model",
        "display_name": name,
        "created_at": time_text(time_us),
    }
