"""What a provider's error means, however it says it."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.framing import RAW_CHARACTERS_MAX
from connectors.llm.providers import PROVIDERS
from connectors.llm.providers.failures import RETRY_AFTER_MS_MAX, failed_in_band, retry_after_ms

NOW_S = 1_700_000_000.0


def failed(status: int, error: object, shape: str = "openai-chat", **headers: str):
    body = error if isinstance(error, str) else json.dumps({"error": error})
    return PROVIDERS[shape].failed(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode()
    )


@pytest.mark.parametrize(
    ("status", "error", "error_class"),
    [
        (401, {"message": "Incorrect API key provided", "code": "invalid_api_key"}, "unauthorized"),
        (403, {"type": "permission_error", "message": "Your key may not use the model"}, "unauthorized"),
        (
            403,
            {"code": 403, "message": "Input flagged", "metadata": {"reasons": ["moderation"]}},
            "content_refused",
        ),
        (400, {"code": "content_filter", "message": "The response was filtered"}, "content_refused"),
        (
            400,
            {"code": "content_policy_violation", "message": "Your request was rejected"},
            "content_refused",
        ),
        (402, {"code": 402, "message": "Insufficient credits"}, "spend_limited"),
        (402, "", "spend_limited"),
        (
            400,
            {"type": "invalid_request_error", "message": "Your credit balance is too low"},
            "spend_limited",
        ),
        (429, {"type": "insufficient_quota", "message": "You exceeded your current quota"}, "spend_limited"),
        (
            429,
            {
                "type": "rate_limit_error",
                "details": {"error_code": "enforced_spend_limit_reached"},
                "message": "m",
            },
            "spend_limited",
        ),
        (429, {"message": "You have reached your specified API usage limits."}, "spend_limited"),
        (429, {"code": "rate_limit_exceeded", "message": "See /account/billing"}, "rate_limited"),
        (
            429,
            {"type": "rate_limit_error", "message": "Too many tokens in the context window"},
            "rate_limited",
        ),
        (429, "slow down", "rate_limited"),
        (
            413,
            {"code": "rate_limit_exceeded", "message": "Request too large for tokens per minute"},
            "rate_limited",
        ),
        (413, {"type": "request_too_large", "message": "Request exceeds the maximum size"}, "bad_request"),
        (400, {"code": "context_length_exceeded", "message": "m"}, "context_overflow"),
        (400, {"message": "This model's maximum context length is 8192 tokens"}, "context_overflow"),
        (
            400,
            {"type": "invalid_request_error", "message": "prompt is too long: 200001 tokens"},
            "context_overflow",
        ),
        (400, {"message": "The input token count (1200000) exceeds the maximum"}, "context_overflow"),
        (400, {"type": "exceed_context_size_error", "code": 400, "message": "m"}, "context_overflow"),
        (404, {"code": "model_not_found", "message": "The model `x` does not exist"}, "not_found"),
        (404, "404 page not found", "not_found"),
        (400, {"message": "model 'x' not found"}, "not_found"),
        (400, {"type": "invalid_request_error", "message": "Unknown parameter"}, "bad_request"),
        (422, '{"detail": [{"msg": "field required"}]}', "bad_request"),
        (408, "", "server"),
        (500, {"type": "server_error", "message": "maximum context length"}, "server"),
        (502, "<html><title>502 Bad Gateway</title></html>", "server"),
        (503, {"message": "The server is overloaded"}, "overloaded"),
        (500, {"type": "overloaded_error", "message": "Overloaded"}, "overloaded"),
        (529, "", "overloaded"),
        (301, "Moved", "bad_request"),
        (204, "", "malformed"),
    ],
    ids=str,
)
def test_an_answer_of_another_status_is_of_its_class(status, error, error_class):
    for shape in PROVIDERS:
        assert failed(status, error, shape).error_class == error_class


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        ({"code": 429, "message": "Rate limit exceeded"}, "rate_limited"),
        ({"code": "502", "message": "Provider returned error"}, "server"),
        ({"code": 402, "message": "m"}, "spend_limited"),
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded"),
        ({"type": "api_error", "message": "Internal server error"}, "server"),
        ({"type": "invalid_request_error", "message": "prompt is too long: 2 > 1"}, "context_overflow"),
        ({"status": "UNAVAILABLE", "code": 503, "message": "m"}, "overloaded"),
        ({"code": "invalid_prompt", "message": "m"}, "content_refused"),
        ("model runner has unexpectedly stopped", "server"),
        ({"message": None, "code": None}, "server"),
        (7, "server"),
        ({}, "server"),
    ],
    ids=str,
)
def test_an_error_in_band_is_of_its_class(error, error_class):
    assert failed_in_band(error, "raw").error_class == error_class


def test_its_words_are_kept_and_bounded():
    page = "<html>" + "x" * 10_000
    assert failed(502, page).raw == page[: RAW_CHARACTERS_MAX - 1] + "…"
    assert failed(503, "").raw == "status 503 without a body"
    assert "�" in PROVIDERS["openai-chat"].failed(500, {}, b"\xff\xfe").raw


@pytest.mark.parametrize(
    ("headers", "waits_ms"),
    [
        ({"retry-after": "20"}, 20_000),
        ({"retry-after": "0.5"}, 500),
        ({"retry-after-ms": "1234", "retry-after": "2"}, 1_234),
        ({"retry-after": formatdate(NOW_S + 30, usegmt=True)}, 30_000),
        ({"retry-after": formatdate(130, usegmt=True), "date": formatdate(100, usegmt=True)}, 30_000),
        ({"retry-after": formatdate(NOW_S - 30, usegmt=True)}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "inf"}, 0),
        ({"retry-after": "1e300"}, RETRY_AFTER_MS_MAX),
        ({"retry-after": "soon"}, 0),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2_000),
        ({}, 0),
    ],
    ids=str,
)
def test_how_long_to_wait_is_read_in_each_of_its_forms(headers, waits_ms):
    assert retry_after_ms(headers, now=NOW_S) == waits_ms


def test_a_refusal_tells_how_long_to_wait():
    assert failed(429, {"message": "m"}, retry_after="3").retry_after_ms == 3_000
    delay = {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.25s"}]}
    assert failed(429, delay, "gemini").retry_after_ms == 1_250
    assert failed_in_band(delay, "raw").retry_after_ms == 1_250
    listed = json.dumps([{"error": {"code": 429, **delay}}])
    assert failed(429, listed, "gemini").retry_after_ms == 1_250
    assert failed_in_band({"details": [{"retryDelay": "soons"}]}, "raw").retry_after_ms == 0


@given(
    status=st.integers(201, 599),
    body=st.binary(max_size=200)
    | st.text(max_size=50).map(lambda text: json.dumps({"error": {"message": text}}).encode()),
    headers=st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), st.text(max_size=20)),
)
def test_any_refusal_is_an_outcome(status, body, headers):
    for provider in PROVIDERS.values():
        outcome = provider.failed(status, headers, body)
        assert outcome.raw
        assert 0 <= outcome.retry_after_ms <= RETRY_AFTER_MS_MAX
