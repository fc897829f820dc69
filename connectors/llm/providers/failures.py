"""What a provider's error means, whichever way it says it: status, type, code and words."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import orjson

from connectors.llm.deltas import Failed
from connectors.llm.framing import clipped
from connectors.llm.kept import without_words
from connectors.llm.nesting import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.deltas import ErrorClass

RETRY_AFTER_MS_MAX: Final = 86_400_000
"""A day: what is said beyond it is no time to wait for."""

_SPENT_NAMES: Final = re.compile(
    r"insufficient_(quota|funds|balance|credits)|billing|spend_limit", re.IGNORECASE
)
_SPENT: Final = re.compile(
    r"exceeded your current quota|credit balance is too low|insufficient (credits|balance|funds|quota)"
    r"|out of credits|spend(ing)? limit|usage limits?|PerDay",  # the last is of Gemini's quotaId
    re.IGNORECASE,
)
_PASSES: Final = re.compile(r"PerMinute", re.IGNORECASE)
"""Gemini's quotaId again, whose message speaks of the current quota and of billing for every limit."""
_OVERFLOWS: Final = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|context[ _](window|length|size)"
    r"|prompt is too long|input is too long|input token count.{0,40}exceeds",
    re.IGNORECASE,
)
_REFUSED: Final = re.compile(
    r"content[_ ](filter|policy|management)|moderation|safety_violation|flagged|cyber_policy"
    r"|prohibited_content",
    re.IGNORECASE,
)
_NO_MODEL: Final = re.compile(r"model_not_found|model.{0,200}(not found|does not exist)", re.IGNORECASE)
_WORDS_MAX: Final = 8_192
"""So many characters of each text of an error are looked through."""
_NAME_MAX: Final = 256

_NAMED: Final[Mapping[str, ErrorClass]] = {
    # OpenAI's and Anthropic's type or code, Gemini's status; in lower case
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "rate_limited": "rate_limited",
    "requests": "rate_limited",
    "tokens": "rate_limited",
    "resource_exhausted": "rate_limited",
    "too_many_requests": "rate_limited",
    "overloaded_error": "overloaded",
    "overloaded": "overloaded",
    "server_is_overloaded": "overloaded",
    "slow_down": "overloaded",
    "unavailable": "overloaded",
    "service_unavailable": "overloaded",
    "unavailable_error": "overloaded",
    "api_error": "server",
    "server_error": "server",
    "internal_error": "server",
    "internal": "server",
    "internal_server_error": "server",
    "timeout_error": "server",
    "gateway_timeout_error": "server",
    "deadline_exceeded": "server",
    "authentication_error": "unauthorized",
    "permission_error": "unauthorized",
    "permission_denied": "unauthorized",
    "unauthenticated": "unauthorized",
    "invalid_api_key": "unauthorized",
    "not_found_error": "not_found",
    "not_found": "not_found",
    "invalid_request_error": "bad_request",
    "invalid_argument": "bad_request",
    "failed_precondition": "bad_request",
    "request_too_large": "bad_request",
    "invalid_prompt": "content_refused",
}


def failed_answer(status: int, headers: Mapping[str, str], body: bytes) -> Failed:
    """Say what an answer of another status than 200 means (header names in lower case)."""
    text = body.decode("utf-8", "replace")
    try:
        value = read_json(text)
    except ValueError:
        value = None
    if isinstance(value, list) and value:  # Gemini's, without alt=sse
        value = value[0]
    wait_ms = max(retry_after_ms(headers), _retry_of(value))
    if not (raw := text.strip()):
        return replace(_failed(None, status, f"status {status} without a body", wait_ms), masked="")
    return _failed(error_of(value), status, raw, wait_ms)


def failed_in_band(error: object, raw: str) -> Failed:
    """Say what an error means that comes in a stream; ``raw`` is the event that it came in."""
    return _failed(error, 0, raw, _retry_of(error))


def error_of(value: object) -> object:
    """Give the error within a body: ``{"error": …}`` of all shapes, or the body itself."""
    if isinstance(value, dict):
        for name in ("error", "detail"):
            if value.get(name):
                return value[name]
    return value


def retry_after_ms(headers: Mapping[str, str], now: float | None = None) -> int:
    """Read how long to wait: ``retry-after-ms``, or ``retry-after`` as seconds or as an HTTP date.

    A date is held against the answer's own ``date``, as our clock may differ; ``now`` (seconds since 1970) is
    taken where there is none. 0 = it was not said, or cannot be read.
    """
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1_000)):
        try:
            waits_ms = float(headers[name]) * unit_ms
        except (KeyError, ValueError):
            continue
        return _bounded(waits_ms)
    until_s = _http_date(headers.get("retry-after", ""))
    if until_s is None:
        return 0
    from_s = _http_date(headers.get("date", ""))
    if from_s is None:
        from_s = time.time() if now is None else now
    return _bounded((until_s - from_s) * 1_000)


def _failed(error: object, status: int, raw: str, wait_ms: int) -> Failed:
    names, words = _names_and_words(error)
    for name in names:
        if name.isascii() and name.isdigit() and 400 <= int(name[:4]) <= 599:
            status = status or int(name)
    return Failed(_class_of(names, words, status), clipped(raw), wait_ms, clipped(without_words(raw)))


def _names_and_words(error: object) -> tuple[list[str], str]:
    """Give what an error names itself by, and those names with all its words."""
    if not isinstance(error, dict):
        return [], error[:_WORDS_MAX] if isinstance(error, str) else ""
    names: list[str] = []
    details = error.get("details")
    for holder in (error, details if isinstance(details, dict) else {}):
        for key in ("code", "type", "status", "error_code", "reason"):
            name = holder.get(key)
            if isinstance(name, str | int) and not isinstance(name, bool) and name != "error":
                names.append(str(name)[:_NAME_MAX])
    words = [*names]
    words += [value for key in ("message", "msg", "param") if isinstance(value := error.get(key), str)]
    for key in (
        "details",
        "metadata",
        "innererror",
    ):  # Gemini's quota, OpenRouter's moderation, Azure's filter
        if error.get(key):
            words.append(orjson.dumps(error[key]).decode())
    return names, " ".join(word[:_WORDS_MAX] for word in words)


def _class_of(names: Sequence[str], words: str, status: int) -> ErrorClass:
    """Give the class: what it names itself and its status come before its words, which may quote anything."""
    named = [_NAMED[name.lower()] for name in names if name.lower() in _NAMED]
    by_status = _by_status(status)
    classes = {by_status, *named}
    if status == 402 or any(_SPENT_NAMES.search(name) for name in names):
        return "spend_limited"
    if "rate_limited" in classes:
        spent = _SPENT.search(words) and not _PASSES.search(words)
        return "spend_limited" if spent else "rate_limited"
    if not classes & {"server", "overloaded"}:
        for pattern, error_class in _WORDS:
            if pattern.search(words):
                return error_class
    if by_status not in (None, "bad_request", "server"):
        return by_status
    telling = [each for each in named if each not in ("bad_request", "server")]
    return next(iter([*telling, *named]), by_status or "server")


def _by_status(status: int) -> ErrorClass | None:
    by_status: ErrorClass | None = _STATUSES.get(status)
    if by_status is None and status:
        by_status = "server" if status >= 500 else "bad_request" if status >= 300 else "malformed"
    return by_status


_STATUSES: Final[Mapping[int, ErrorClass]] = {
    401: "unauthorized",
    402: "spend_limited",
    403: "unauthorized",
    404: "not_found",
    408: "server",  # it took too long to read or to answer: as passing as a 5xx
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}
_WORDS: Final[tuple[tuple[re.Pattern[str], ErrorClass], ...]] = (
    (_SPENT, "spend_limited"),
    (_OVERFLOWS, "context_overflow"),
    (_REFUSED, "content_refused"),
    (_NO_MODEL, "not_found"),
)


def _retry_of(value: object) -> int:
    """Read Gemini's ``google.rpc.RetryInfo``, ``"retryDelay": "34.07s"``."""
    error = error_of(value)
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                return _bounded(float(delay[:-1]) * 1_000)
            except ValueError:
                return 0
    return 0


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _bounded(wait_ms: float) -> int:
    return min(RETRY_AFTER_MS_MAX, max(0, math.ceil(wait_ms))) if math.isfinite(wait_ms) else 0
