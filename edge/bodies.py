"""Bodies of publish requests: read within their bound, split into JSON values with the place of each."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

import orjson

from edge.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Mapping, Sequence

JSON: Final = ("application/json", "application/cloudevents+json", "application/cloudevents-batch+json")
NDJSON: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
ACCEPTED: Final = ", ".join((*JSON, *NDJSON))
Placed = list[tuple[dict[str, int], object]]
"""JSON values with where each stands: ``{"line": 3}`` (from 1) or ``{"index": 2}`` (from 0)."""


async def read_body(
    chunks: AsyncIterable[bytes], headers: Mapping[str, str], limit_bytes: int, *, what: str = "a request"
) -> bytes:
    """Read a body; one that is too large is refused while it comes in, or before if it says so."""
    if headers.get("content-encoding", "identity") != "identity":
        raise RequestError(
            415,
            "Content encoding not supported",
            f"content-encoding {headers['content-encoding'][:50]!r} is not read here",
            remedy="Send the body as it is.",
        )
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(what, limit_bytes)
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit_bytes:
            raise _too_large(what, limit_bytes)
    return bytes(body)


def split_body(body: bytes, content_type: str, events_max: int) -> Placed:
    """Give the JSON values of a body.

    Raises:
        RequestError: 415, 413 or 400, naming the line or the place in the text.
    """
    media, _, parameters = content_type.partition(";")
    media = media.strip().lower()
    charset = parameters.lower().partition("charset=")[2].strip(' "')
    if media not in JSON + NDJSON or charset not in ("", "utf-8", "utf8"):
        raise RequestError(
            415,
            "Content type not supported",
            f"content type {content_type[:100] or 'none'!r} is not an event",
            remedy=f"Send one of: {ACCEPTED} (in UTF-8).",
        )
    if media in NDJSON:
        return _lines(body, events_max)
    return _values(body, events_max, batch=media == JSON[2], one=media == JSON[1])


def check_count(values: Sequence[object], events_max: int) -> None:
    """Raise RequestError for a request of no events, or of too many."""
    if not values:
        raise RequestError(400, "Nothing to publish", "the request holds no event")
    if len(values) > events_max:
        raise _too_many(str(len(values)), events_max)


def _values(body: bytes, events_max: int, *, batch: bool, one: bool) -> Placed:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(str(error), {"line": error.lineno, "column": error.colno}) from None
    if batch and not isinstance(value, list):
        raise RequestError(400, "Not a batch", "a CloudEvents batch is a JSON array")
    if one and not isinstance(value, dict):
        raise RequestError(400, "Not an event", "a CloudEvent is a JSON object")
    values = value if isinstance(value, list) else [value]
    check_count(values, events_max)  # before each is noted with its place: a mebibyte may hold half a million
    return [({"index": index}, each) for index, each in enumerate(values)]


def _lines(body: bytes, events_max: int) -> Placed:
    values: Placed = []
    for number, ended in enumerate(BytesIO(body), start=1):
        if not (line := ended.rstrip()):
            continue
        if len(values) == events_max:
            raise _too_many(f"more than {events_max}", events_max)
        try:
            values.append(({"line": number}, orjson.loads(line)))
        except orjson.JSONDecodeError as error:
            place = {"line": number, "column": error.colno}
            raise _not_json(f"line {number}: {error.msg}", place) from None
    check_count(values, events_max)
    return values


def _too_many(events: str, events_max: int) -> RequestError:
    return RequestError(
        413,
        "Too many events",
        f"{events} events in one request, at most {events_max}",
        remedy="Split them over several requests; each is appended as one transaction.",
    )


def _not_json(problem: str, place: Mapping[str, int]) -> RequestError:
    return RequestError(
        400,
        "Not JSON",
        problem,
        remedy="Nothing was appended. Correct the text and send the request again.",
        extra=place,
    )


def _too_large(what: str, limit_bytes: int) -> RequestError:
    return RequestError(
        413,
        "Request too large",
        f"the body of {what} is at most {limit_bytes} bytes",
        remedy="Nothing was appended. Shorten it; events may be split over several requests.",
    )
