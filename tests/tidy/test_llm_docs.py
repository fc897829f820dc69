"""The page of language models against the code: settings, routes, prompts, prices, budgets, examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import PydanticUndefined

from connectors.llm.budgets import Limits, budgets_config
from connectors.llm.genai import ATTRIBUTES
from connectors.llm.prices import Price
from connectors.llm.prompts import template_of
from connectors.llm.route import (
    FALLBACK_ON,
    Candidate,
    KeepConfig,
    RouteConfig,
    TimersConfig,
    When,
    route_config,
)
from ops.settings import LlmSettings, ProviderSettings

if TYPE_CHECKING:
    from pydantic import BaseModel

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "llm.md").read_text(encoding="utf-8")


def table_under(title: str) -> dict[str, str]:
    """Rows of the table whose head begins with a title: name, or names, to default."""
    _, _, rest = PAGE.partition(f"\n| {title} |")
    rows = re.findall(r"^\| (`.+?`) \| ?(.*?) ?\|", rest.split("\n\n")[0], re.MULTILINE)
    return {name: default for names, default in rows for name in re.findall(r"`(.+?)`", names)}


def shown(default: Any) -> str:
    if default is PydanticUndefined:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if default is None:
        return "none"
    return (
        "empty"
        if default in ("", (), {}) or default == When()
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


def defaults_of(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    return {
        prefix + name: shown(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
    }


@pytest.mark.parametrize(
    ("title", "model", "said_otherwise"),
    [
        ("route", RouteConfig, {"fallback_on": "below", "timers": "", "keep": ""}),
        ("candidate", Candidate, {}),
        ("price", Price, {}),
        ("limit", Limits, {}),
        ("worker", LlmSettings, {}),
        (
            "`llm.providers.NAME.…`",
            ProviderSettings,
            {
                "shape": "as its name is known for, else `openai-chat`",
                "base_url": "of `openai`, `anthropic`, `gemini`, `ollama`",
            },
        ),
    ],
    ids=["route", "candidate", "price", "limit", "worker", "provider"],
)
def test_each_table_names_every_field_with_its_default(title, model, said_otherwise):
    prefix = "llm." if model is LlmSettings else ""
    expected = defaults_of(model, prefix) | said_otherwise
    expected.pop("llm.providers", None)  # has a table of its own
    assert table_under(title) == expected


def test_conditions_timers_and_what_is_kept_are_named_with_their_defaults():
    for name, field in When.model_fields.items():
        assert f"`{field.alias or name}`" in PAGE, name
    for name, field in TimersConfig.model_fields.items():
        assert f"`{name}` {field.default}" in PAGE, name
    for name in KeepConfig.model_fields:
        assert f"`{name}`" in PAGE


def test_every_error_that_is_fallen_back_on_is_named():
    assert not [error for error in FALLBACK_ON if f"`{error}`" not in PAGE]


def test_the_table_of_opentelemetrys_names_is_that_of_the_code():
    rows = re.findall(
        r"^\| (.+) \| (.+) \|$", PAGE.partition("| ledger | attribute |")[2].split("\n\n")[0], re.MULTILINE
    )
    said = {}
    for fields, names in rows:
        said |= dict(zip(re.findall(r"`(\w+)`", fields), re.findall(r"`([\w.]+)`", names), strict=False))
    assert said == ATTRIBUTES


def test_the_examples_are_what_they_are_said_to_be():
    def example(name):
        return (DOCS / "examples" / "llm" / f"{name}.json").read_text(encoding="utf-8")

    assert len(route_config(example("route"), "default").candidates) == 3
    assert set(template_of(example("prompt"), "support").variables) == {"company", "language"}
    assert budgets_config(example("budgets")).of("anybody").calls == 4
