"""Errors as ``application/problem+json`` (RFC 9457): what is wrong, where, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge.errors import RequestError
from schemas.errors import CursorError, InvalidEvent, SluicegateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

_TITLES = {
    404: "No such page",
    405: "Method not allowed",
    415: "Content type not supported",
}
_REMEDIES = {
    404: "Look the path up in CONTRACT.md; a name in it holds no slash.",
    405: "Look up in CONTRACT.md by which method this is asked; `Allow` names one that is taken here.",
}


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    remedy: str = "",
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make a problem document."""
    body: dict[str, object] = {"title": title, "status": status, "detail": detail}
    if remedy:
        body["remedy"] = remedy
    return Response(
        orjson.dumps({**body, **(extra or {})}),
        status_code=status,
        media_type="application/problem+json",
        headers={"cache-control": "no-store", **(headers or {})},
    )


def problem_of(error: SluicegateError) -> Response:
    """The answer for one of our own errors."""
    if isinstance(error, RequestError):
        return problem(
            error.status,
            error.title,
            str(error),
            remedy=error.remedy,
            extra=error.extra,
            headers=error.headers,
        )
    if isinstance(error, InvalidEvent):
        extra = {"field": error.field}
        return problem(400, "Request is malformed", str(error), remedy=error.remedy, extra=extra)
    if isinstance(error, CursorError):
        return problem(400, "Cursor refused", str(error), remedy=error.remedy, extra={"code": code_of(error)})
    return problem(500, type(error).__name__, str(error), remedy=error.remedy)


def code_of(error: SluicegateError) -> str:
    """``MalformedCursor`` as ``malformed_cursor``."""
    name = type(error).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


async def on_error(_request: Request, error: Exception) -> Response:
    """Answer one of our errors."""
    assert isinstance(error, SluicegateError)
    return problem_of(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    title = _TITLES.get(error.status_code, "Request refused")
    detail = f"{request.method} {request.url.path[:200]}: {error.detail}"
    remedy = _REMEDIES.get(error.status_code, "")
    return problem(error.status_code, title, detail, remedy=remedy, headers=dict(error.headers or {}))


async def on_invalid_query(_request: Request, error: Exception) -> Response:
    """Answer a query parameter that is not what it must be."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return problem(400, "Request is malformed", f"{field}: {first['msg']}", extra={"field": field})


async def on_left(_request: Request, _error: Exception) -> Response:
    """End the request of a client that left, or broke off, in the middle of its body: nobody reads this."""
    return Response(status_code=499)
