"""Attempts by OpenTelemetry's names for generative AI, for who makes spans of the ledger: here alone.

The names are those of its GenAI conventions, all of which are in development and change: so they are given to
what is read, and stand in no record (``docs/adr/0016-names-of-opentelemetry.md``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.ledger import Attempt

ATTRIBUTES: Final[Mapping[str, str]] = {
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "model_answered": "gen_ai.response.model",
    "provider_request_id": "gen_ai.response.id",
    "finish": "gen_ai.response.finish_reasons",
    "input_tokens": "gen_ai.usage.input_tokens",
    "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "prompt": "gen_ai.prompt.name",
    "error_class": "error.type",
    "http_status": "http.response.status_code",
}
"""Field of ``sluicegate.LlmAttempt`` → attribute."""
_LISTS: Final = frozenset({"gen_ai.response.finish_reasons"})


def attributes_of(row: Attempt) -> dict[str, Any] | None:
    """Give an attempt's attributes, None where no call was made; what is not known is absent, and never 0."""
    if row.state == "refused":  # attempt 0, too
        return None
    made: dict[str, Any] = {"gen_ai.operation.name": "chat"}
    for field, name in ATTRIBUTES.items():
        value = getattr(row, field)
        if value not in (None, "") and not (field == "http_status" and not value):
            made[name] = [value] if name in _LISTS else value
    return made
