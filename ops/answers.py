"""What an edge's answer over HTTP means: take it, come back later, or correct the request."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from ops.errors import EdgeUnreachable, Refused
from schemas.redaction import redacted

if TYPE_CHECKING:
    import httpx2 as httpx

# 429 asks to slow down, 503 says that nothing was appended, 502 and 504 come from a proxy before an
# edge that restarts. A repeat is safe after each: events are told apart by event_id.
AGAIN: Final = frozenset({429, 502, 503, 504})
_RETRY_AFTER_S_MAX = 30.0
_WHO_COMES: Final = (
    "set SLUICEGATE_EDGE__TOKEN to one that holds (`sluicegate tokens issue`, or your issuer's)"
)
_NO_EDGE: Final = "set SLUICEGATE_EDGE__URL to where the edge itself answers, or see what stands before it"


class Trouble(NamedTuple):
    """Why a request that may be repeated came to nothing."""

    said: str
    remedy: str = "start one with `sluicegate edge`, or correct its address in SLUICEGATE_EDGE__URL"
    answered: bool = False
    """It is what the edge answered, and not that nobody did."""


def trouble_of(error: httpx.TransportError) -> Trouble:
    """The trouble that no answer came."""
    return Trouble(f"{type(error).__name__} {error}".strip())


def trouble_in(response: httpx.Response) -> Trouble:
    """The trouble that an answer tells of: an edge's own words; of whoever else only what it answered."""
    body = _object_in(response)
    if body is None:
        return Trouble(f"{_what(response)}, which no edge answers", _NO_EDGE)
    return Trouble(
        f"HTTP {response.status_code}: {_problem(body)}", str(body.get("remedy", "")), answered=True
    )


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


def check_media(response: httpx.Response, *media: str) -> None:
    """Raise Refused for an answer of success that is none of an edge: it is of another media type."""
    if _media_of(response) not in media:
        raise _is_no_edge(response)


def refusal(response: httpx.Response) -> Refused:
    """The error for an answer that a repeat would not change; nothing was done."""
    body = _object_in(response)
    if body is None or not response.is_error:  # a page, or a redirect, of whatever stands before the edge
        return _is_no_edge(response)
    remedy = _WHO_COMES if response.status_code == HTTPStatus.UNAUTHORIZED else str(body.get("remedy", ""))
    return Refused(response.status_code, _problem(body), remedy, body)


def _is_no_edge(response: httpx.Response) -> Refused:
    """The error for an answer that no edge gave; its page is not shown, which may be of any size and kind."""
    asked = redacted(str(response.request.url.join("/")))
    problem = f"{asked} does not answer as an edge does: {_what(response)}"
    return Refused(response.status_code, problem, _NO_EDGE)


def _what(response: httpx.Response) -> str:
    to = response.headers.get("location")
    what = f"to {to}" if to else f"with {_media_of(response) or 'no content type'}"
    return f"HTTP {response.status_code} {what}"


def _media_of(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _object_in(response: httpx.Response) -> dict[str, object] | None:
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _problem(body: dict[str, object]) -> str:
    for name in ("detail", "error", "message", "title"):
        if isinstance(body.get(name), str):
            return str(body[name])
    return orjson.dumps(body).decode()[:500]


def retry_after_s(response: httpx.Response) -> float:
    """Seconds that the edge asks to wait; 0 if it names none."""
    text = response.headers.get("retry-after", "")
    return min(float(text), _RETRY_AFTER_S_MAX) if text.isascii() and text.isdigit() else 0.0


def unreachable(url: str, patience_s: float, trouble: Trouble) -> EdgeUnreachable:
    """The error for an edge that did not do it for as long as somebody was ready to wait."""
    does = "cannot do it now" if trouble.answered else "does not answer"
    return EdgeUnreachable(
        f"the edge at {redacted(url)} {does}; tried for {patience_s:g} s ({trouble.said})", trouble.remedy
    )
