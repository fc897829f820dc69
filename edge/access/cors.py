"""Cross-origin requests of browsers: preflights and answers, for the sites that are allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

_KEY: Final = "sluicegate.cors"
# A preflight is a round trip before each connection; browsers keep its answer for up to two hours.
_MAX_AGE_S: Final = 7_200


class Cors(CORSMiddleware):
    """Starlette's, which also leaves the headers at hand for an answer that is not written through it."""

    def __init__(self, app: ASGIApp, origins: Collection[str], *, cookies: bool) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            # Last-Event-ID is on no browser's safe list where it is set by hand, as fetch-based clients do.
            allow_headers=("Authorization", "Cache-Control", "Content-Type", "Last-Event-ID"),
            expose_headers=("Retry-After", "WWW-Authenticate", "X-Sluicegate-Stream"),
            allow_credentials=cookies,
            max_age=_MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            scope[_KEY] = self._headers(Headers(scope=scope).get("origin"))
        await super().__call__(scope, receive, send)

    def _headers(self, origin: str | None) -> dict[str, str]:
        if origin is None or not self.is_allowed_origin(origin):
            return {"vary": "Origin"}
        allowed = "*" if self.allow_all_origins and not self.allow_credentials else origin
        headers = {**self.simple_headers, "Access-Control-Allow-Origin": allowed, "Vary": "Origin"}
        return {name.lower(): value for name, value in headers.items()}


def cors_head(scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    """The headers that an answer to a request must have for its page to see it; none without CORS."""
    headers: dict[str, str] = scope.get(_KEY, {})
    return tuple((name.encode(), value.encode("latin-1")) for name, value in headers.items())
