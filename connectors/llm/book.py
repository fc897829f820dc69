"""What holds now: routes, prompts and budgets, as their topics tell them, validated before they count.

A record that is not valid is refused and logged, and the version before it stays in force: somebody's slip
must not take a route away from everybody who uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from connectors.llm.budgets import BUDGETS, BudgetsConfig, budgets_config
from connectors.llm.errors import LlmError, PromptRefused, RouteRefused
from connectors.llm.prices import Prices
from connectors.llm.prompts import Labels, Prompt, choose, labels_of, template_of
from connectors.llm.route import DEFAULT, Route, default_route, route_config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.llm.calls import Target
    from connectors.llm.prompts import Template
    from connectors.llm.routing import Draw

log = structlog.get_logger(__name__)
ROUTES_MAX: Final = 1_000
PROMPTS_MAX: Final = 1_000
VERSIONS_MAX: Final = 1_000  # of a prompt; its labels may point at any of them


class Book:
    """Belongs to one loop; written by ``follow.py``, or by a test."""

    def __init__(self, targets: Mapping[str, Target], prices: Prices | None = None) -> None:
        self.targets = targets
        self.prices = prices if prices is not None else Prices()
        self.budgets = BudgetsConfig()
        self._budgets_version = 0
        self._routes: dict[str, Route] = {}
        self._templates: dict[str, dict[int, Template]] = {}
        self._labels: dict[str, Labels] = {}
        self.refused = 0
        """Records that were not taken."""
        config = default_route([(name, target.models) for name, target in targets.items()])
        self._fallback = Route(DEFAULT, 0, config) if config is not None else None

    # -- what is asked ----------------------------------------------------------------------------------

    def queue_ms(self, name: str) -> int | None:
        """Give how long a request of a route may wait for its call; None = the route has no bound."""
        found = self._routes.get(name or DEFAULT)
        return None if found is None else found.config.queue_ms

    def route(self, name: str) -> Route:
        """Give the version of a route that is in force.

        Raises:
            RouteRefused: there is none of that name.
        """
        name = name or DEFAULT
        found = self._routes.get(name)
        if found is not None:
            return found
        if name != DEFAULT:
            known = ", ".join(sorted({DEFAULT, *self._routes})[:20])
            raise RouteRefused(
                f"there is no route {name[:80]!r}",
                remedy=f"Use one of {known}; or write it: `sluicegate llm routes set`.",
            )
        if self._fallback is None:
            raise RouteRefused(
                "no provider is configured on this worker, and no route is written",
                remedy="Set SLUICEGATE_LLM__PROVIDERS__OPENAI__API_KEY, or another's, and start it again.",
            )
        return self._fallback

    def prompt(self, name: str, label: str, draw: Draw) -> Prompt:
        """Give the version of a prompt that a label stands for, for one stream.

        Raises:
            PromptRefused: there is no such prompt, label or version.
        """
        versions = self._templates.get(name)
        if not versions:
            raise PromptRefused(
                f"there is no prompt {name[:80]!r}",
                remedy="`sluicegate llm prompts list` shows all; `… prompts set` writes one.",
            )
        version = choose(name, label, self._labels.get(name, {}), list(versions), draw)
        return Prompt(name, version, versions[version])

    # -- what is told -----------------------------------------------------------------------------------

    def take_route(self, key: bytes, record: Mapping[str, Any] | None) -> None:
        """Take a record of ``llm.routes.v1`` (``sluicegate.LlmRoute``); None: it cannot be read."""
        self._guarded(key, record, self._take_route)

    def take_prompt(self, key: bytes, record: Mapping[str, Any] | None) -> None:
        """Take a record of ``llm.prompts.v1`` (``sluicegate.LlmPrompt``), as ``take_route``."""
        self._guarded(key, record, self._take_prompt)

    def _guarded(
        self, key: bytes, record: Mapping[str, Any] | None, take: Callable[[Mapping[str, Any]], None]
    ) -> None:
        cause, remedy = "the record cannot be read", "Write the version again."
        if record is not None:
            try:
                take(record)
            except LlmError as error:
                cause, remedy = str(error), error.remedy
            else:
                return
        self.refused += 1
        name = key.decode("utf-8", "backslashreplace")[:200]
        log.error("version_refused", key=name, cause=cause, remedy=remedy, in_force="the version before it")

    def _take_route(self, record: Mapping[str, Any]) -> None:
        name, version = record["name"], record["version"]
        if name == BUDGETS:
            budgets = budgets_config(record["config_json"])
            if version > self._budgets_version:
                self.budgets, self._budgets_version = budgets, version
            return
        config = route_config(record["config_json"], name)
        held = self._routes.get(name)
        if held is None and len(self._routes) >= ROUTES_MAX:
            raise RouteRefused(f"there are {ROUTES_MAX} routes already", remedy="Use fewer.")
        if held is None or version > held.version:
            self._routes[name] = Route(name, version, config)
            log.info("route_in_force", route=name, version=version)

    def _take_prompt(self, record: Mapping[str, Any]) -> None:
        name, version = record["name"], record["version"]
        if version == 0:
            labels = labels_of(record["labels_json"], name)
            if name in self._labels or len(self._labels) < PROMPTS_MAX:
                self._labels[name] = labels
            return
        template = template_of(record["template_json"], name)
        if name not in self._templates and len(self._templates) >= PROMPTS_MAX:
            raise PromptRefused(f"there are {PROMPTS_MAX} prompts already", remedy="Use fewer.")
        versions = self._templates.setdefault(name, {})
        if len(versions) >= VERSIONS_MAX:
            raise PromptRefused(
                f"prompt {name} has {VERSIONS_MAX} versions", remedy="Begin one of another name."
            )
        if versions.setdefault(version, template) != template:
            raise PromptRefused(
                f"version {version} of prompt {name} is there already with another text, and never changes",
                remedy="Write it as a new version: `sluicegate llm prompts set`.",
            )
