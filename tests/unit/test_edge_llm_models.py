"""Which names a client of another's shape may give as a model."""

from __future__ import annotations

import orjson
import pytest

from edge.access.identity import ANYBODY, Identity, Names
from edge.errors import RequestError
from edge.llm.models import NAMES_MAX, ROUTES_MAX, Models


def told(name, candidates, version=1):
    config = orjson.dumps({"candidates": candidates}).decode()
    return {"name": name, "version": version, "config_json": config, "time_us": 1_700_000_000_000_000}


def names(models, identity=ANYBODY):
    return [model["id"] for model in models.shown(identity)["data"]]


def test_a_name_of_a_route_is_the_route_and_any_other_is_a_model_of_the_default():
    models = Models()
    models.take(told("cheap", [{"target": "a", "model": "small"}]))
    assert models.route_of("cheap") == ("cheap", "")
    assert models.route_of("default") == ("default", "")
    assert models.route_of("small") == ("default", "small")
    assert names(models) == ["default", "cheap", "small"]


def test_the_highest_version_holds_whatever_comes_after_it():
    models = Models()
    for version, model in ((2, "new"), (1, "old")):
        models.take(told("r", [{"target": "a", "model": model}], version))
    assert names(models) == ["default", "r", "new"]


def test_what_cannot_be_read_leaves_the_version_before_it():
    models = Models()
    models.take(told("r", [{"target": "a", "model": "m"}]))
    for config in (
        "{",
        "[]",
        "{}",
        '{"candidates": 3}',
        '{"candidates": [3]}',
        '{"candidates": [{"when": 3}]}',
    ):
        models.take(told("r", [], 2) | {"config_json": config})
    models.take(told("budgets", []))
    assert names(models) == ["default", "r", "m"]


def test_a_model_that_is_for_some_tenants_is_shown_to_them_alone():
    models, ours = Models(), [{"target": "a", "model": "m", "when": {"tenants": ["acme"]}}]
    models.take(told("r", [*ours, {"target": "a", "model": "n"}]))
    assert names(models, Identity(tenants=Names(("acme",)))) == ["default", "r", "m", "n"]
    assert names(models, Identity(tenants=Names(("other",)))) == ["default", "r", "n"]


def test_a_route_that_is_for_others_alone_is_not_shown():
    models = Models()
    models.take(told("r", [{"target": "a", "model": "m", "when": {"tenants": ["acme"]}}]))
    assert names(models, Identity(tenants=Names(("acme",)))) == ["default", "r", "m"]
    assert names(models, Identity(tenants=Names(("other",)))) == ["default"]


def refused(models, route, model="", tenant="acme"):
    with pytest.raises(RequestError) as raised:
        models.check(route, model, tenant)
    assert (raised.value.status, raised.value.extra["code"]) == (404, "model_not_found")
    return raised.value


def test_a_route_that_nobody_wrote_is_refused_with_those_that_the_tenant_may_use():
    models = Models()
    models.check("default", "anything", "acme")  # made of workers' settings, of which nothing is known here
    models.take(told("cheap", [{"target": "a", "model": "small"}]))
    models.take(told("secret", [{"target": "a", "model": "m", "when": {"tenants": ["other"]}}]))
    models.check("cheap", "", "acme")
    error = refused(models, "chaep")
    assert "'chaep'" in str(error)
    assert error.extra["field"] == "route"
    assert error.remedy.startswith("Name one of default, cheap: ")


@pytest.mark.parametrize(
    ("candidate", "asked", "taken"),
    [
        ({"model": "gpt-5"}, "gpt-5", True),
        ({"model": "gpt-5"}, "openai/gpt-5", True),
        ({"model": "gpt-5"}, "gtp-5", False),
        ({"model": "gpt-5"}, "", True),
        ({}, "gtp-5", True),
        ({"model": "gpt-5", "when": {"models": ["gpt-*"]}}, "gpt-4o", True),
        ({"model": "gpt-5", "when": {"models": ["gpt-*"]}}, "gtp-5", False),
        ({"model": "meta/llama", "when": {"tenants": ["other"]}}, "meta/llama", True),
    ],
    ids=["own", "provider", "mistyped", "none", "any", "pattern", "no-pattern", "slash"],
)
def test_a_model_is_refused_only_where_every_worker_would_refuse_it(candidate, asked, taken):
    models = Models()
    models.take(told("default", [{"target": "openai", **candidate}]))
    if taken:
        models.check("default", asked, "acme")
    else:
        assert "gpt-5" in refused(models, "default", asked).remedy


def test_of_many_names_a_few_are_told():
    models = Models()
    for number in range(100):
        models.take(told(f"r{number:03}", [{"target": "a", "model": "m"}]))
    remedy = refused(models, "r").remedy
    assert remedy.count(",") == NAMES_MAX
    assert "…" in remedy


def test_the_number_of_routes_is_bounded():
    models = Models()
    for number in range(ROUTES_MAX + 10):
        models.take(told(f"r{number}", []))
    assert len(names(models)) == ROUTES_MAX + 1
