"""Which routes there are, as ``llm.routes.v1`` tells them: what a client of another's shape may call a model.

The worker decides what a route means; here its name is told from a model's, and both are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from edge.errors import RequestError
from schemas.published import time_text

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from edge.access.identity import Identity

log = structlog.get_logger(__name__)
DEFAULT: Final = "default"
ROUTES_MAX: Final = 1_000
NAMES_MAX: Final = 20
"""So many names are told to whoever mistyped one; `GET /v1/models` has all."""
_NOT_A_ROUTE: Final = "budgets"
"""Stands on the same topic (``connectors/llm/budgets.py``)."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    model: str
    """Empty = whatever a client names."""
    patterns: tuple[str, ...]
    """Of models that a client may name for it, beside its own."""
    tenants: tuple[str, ...]
    """Whom it is for; none = all."""

    def is_for(self, tenants: Container[str]) -> bool:
        return not self.tenants or any(tenant in tenants for tenant in self.tenants)

    def may_know(self, model: str) -> bool:
        names = {model, model.partition("/")[2]}  # a worker knows whether what is before it is a provider
        return (
            not self.model
            or self.model in names
            or any(fnmatchcase(name, pattern) for name in names for pattern in self.patterns)
        )


@dataclass(frozen=True, slots=True)
class _Route:
    version: int
    time_us: int
    candidates: tuple[_Candidate, ...]

    def is_for(self, tenants: Container[str]) -> bool:
        return not self.candidates or any(each.is_for(tenants) for each in self.candidates)

    def may_know(self, model: str) -> bool:
        return any(each.may_know(model) for each in self.candidates)


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
            candidates = tuple(_candidates_of(orjson.loads(record["config_json"])))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            log.warning("route_cannot_be_read", route=name[:64], version=version, cause=str(error))
            return
        self._routes[name] = _Route(version, record["time_us"], candidates)

    def route_of(self, model: str) -> tuple[str, str]:
        """Give (route, model) for what a client calls a model: a route by its name, else the default's."""
        if model == DEFAULT or model in self._routes:
            return model, ""
        return DEFAULT, model

    def check(self, route: str, model: str, tenant: str) -> None:
        """Refuse a name that no worker would know either, before anything is written.

        Not of ``default`` where nobody has written it: it is made of workers' settings, unknown here.

        Raises:
            RequestError: 404, with the names that the tenant may use instead.
        """
        held = self._routes.get(route)
        if held is None:
            if route != DEFAULT:
                raise self._unknown("route", route, tenant)
        elif model and not held.may_know(model):
            raise self._unknown("model", model, tenant)

    def _unknown(self, what: str, name: str, tenant: str) -> RequestError:
        known = [each for each, kind, _ in self._names({tenant}) if what in ("model", kind)]
        more = ", …" if len(known) > NAMES_MAX else ""
        return RequestError(
            404,
            f"No such {what}",
            f"there is no {what} {name[:80]!r}; nobody was asked",
            remedy=f"Name one of {', '.join(known[:NAMES_MAX])}{more}: `GET /v1/models` lists all.",
            extra={"code": "model_not_found", "field": what},
        )

    def shown(self, identity: Identity) -> dict[str, object]:
        """Give the list as OpenAI's and Anthropic's clients read it, both from the same members."""
        data = [_shown(name, kind, time_us) for name, kind, time_us in self._names(identity.tenants)]
        last = data[-1]["id"]
        return {"object": "list", "data": data, "has_more": False, "first_id": DEFAULT, "last_id": last}

    def _names(self, tenants: Container[str]) -> list[tuple[str, str, int]]:
        """Give what these tenants may name, the default first: (name, route or model, when written)."""
        found = {DEFAULT: ("route", 0)}
        routes = [(name, route) for name, route in sorted(self._routes.items()) if route.is_for(tenants)]
        found |= {name: ("route", route.time_us) for name, route in routes}
        for _, route in routes:
            for candidate in route.candidates:
                if candidate.is_for(tenants):
                    for model in _exact([candidate.model, *candidate.patterns]):
                        found.setdefault(model, ("model", route.time_us))
        return [(name, kind, time_us) for name, (kind, time_us) in found.items()]


def _candidates_of(config: Mapping[str, Any]) -> Iterator[_Candidate]:
    for candidate in config["candidates"]:
        when = candidate.get("when", {})
        patterns, tenants = (tuple(map(str, when.get(name, ()))) for name in ("models", "tenants"))
        yield _Candidate(str(candidate.get("model", "")), patterns, tenants)


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
