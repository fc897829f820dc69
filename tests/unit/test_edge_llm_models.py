"""Which names a client of another's shape may give as a model."""

from __future__ import annotations

import orjson

from edge.access.identity import ANYBODY, Identity, Names
from edge.llm.models import ROUTES_MAX, Models


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
    models = Models()
    models.take(told("r", [{"target": "a", "model": "m", "when": {"tenants": ["acme"]}}]))
    assert names(models, Identity(tenants=Names(("acme",)))) == ["default", "r", "m"]
    assert names(models, Identity(tenants=Names(("other",)))) == ["default", "r"]


def test_the_number_of_routes_is_bounded():
    models = Models()
    for number in range(ROUTES_MAX + 10):
        models.take(told(f"r{number}", []))
    assert len(names(models)) == ROUTES_MAX + 1
