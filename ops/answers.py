"""What an edge's answer over HTTP means: take it, come back later, or correct the request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from ops.errors import EdgeUnreachable, Refused
from ops.redaction import redacted

if TYPE_CHECKING:
    import httpx2 as httpx

# 429 asks to slow down, 503 says that nothing was appended, 502 and 504 come from a proxy before an
# edge that restarts. A repeat is safe after each: events are told apart by event_id.
AGAIN: Final = frozenset({429, 502, 503, 504})
_RETRY_AFTER_S_MAX = 30.0


def object_of(text: str | bytes) -> dict[str, object]:
    """The JSON object of an answer; raises Refused if it is something else."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    if not isinstance(value, dict):
        raise Refused(
            502,
            f"an edge answers with JSON objects, this did with {str(value)[:80]!r}",
            "see what stands at this address, or between it and you (SLUICEGATE_EDGE__URL)",
        )
    return value


def problem_of(response: httpx.Response) -> str:
    """What the edge says is wrong, from its JSON, or the first words of whatever else answered."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return response.text[:200].strip() or response.reason_phrase
    if not isinstance(body, dict):
        return str(body)[:200]
    for name in ("detail", "error", "message", "title"):
        if isinstance(body.get(name), str):
            return str(body[name])
    return orjson.dumps(body).decode()[:500]


def refusal(response: httpx.Response) -> Refused:
    """The error for an answer that a repeat would not change."""
    if not response.is_error:  # a redirect of whatever stands before the edge; nothing was published there
        return Refused(
            response.status_code,
            f"HTTP {response.status_code} {response.headers.get('location', '')}".rstrip()
            + " is no answer of an edge",
            "set SLUICEGATE_EDGE__URL to where the edge itself answers",
        )
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    answer = body if isinstance(body, dict) else {}
    return Refused(response.status_code, problem_of(response), str(answer.get("remedy", "")), answer)


def retry_after_s(response: httpx.Response) -> float:
    """Seconds that the edge asks to wait; 0 if it names none."""
    text = response.headers.get("retry-after", "")
    return min(float(text), _RETRY_AFTER_S_MAX) if text.isascii() and text.isdigit() else 0.0


def unreachable(url: str, patience_s: float, trouble: str) -> EdgeUnreachable:
    """The error for an edge that did not answer for as long as somebody was ready to wait."""
    return EdgeUnreachable(
        f"the edge at {redacted(url)} does not answer; tried for {patience_s:g} s ({trouble})",
        "start one with `sluicegate edge`, or correct its address in SLUICEGATE_EDGE__URL",
    )
