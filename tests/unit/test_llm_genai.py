"""Attempts by OpenTelemetry's names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.llm.genai import ATTRIBUTES, attributes_of
from connectors.llm.ledger import Attempt


def row(**fields):
    return Attempt(tenant="acme", stream_id="a", kind="llm", attempt=1, epoch=0, **fields)


def test_what_is_known_of_an_attempt_has_their_names_and_what_is_not_is_absent():
    known = row(
        state="completed", provider="openai", model="gpt-5-mini", finish="stop", http_status=200,
        input_tokens=12, cached_input_tokens=0, output_tokens=34,
    )  # fmt: skip
    assert attributes_of(known) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 34,
        "http.response.status_code": 200,
    }
    crashed = attributes_of(row(state="abandoned", error_class="crashed"))
    assert crashed == {"gen_ai.operation.name": "chat", "error.type": "crashed"}


@pytest.mark.parametrize("attempt", [0, 2], ids=["ended", "refused"])
def test_where_no_call_was_made_there_is_nothing_to_make_a_span_of(attempt):
    refused = replace(row(state="refused", error_class="budget", provider="openai"), attempt=attempt)
    assert attributes_of(refused) is None


def test_each_name_is_that_of_a_field_of_the_ledger():
    assert ATTRIBUTES.keys() <= Attempt.__dataclass_fields__.keys()
