"""Asks whoever comes over HTTP who they are: a route that nobody thought of is closed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from edge.access.identity import ANYBODY
from edge.errors import RequestError
from edge.problems import problem_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from edge.access.gate import Gate
    from edge.access.identity import Identity

_OPEN: Final = ("/healthz", "/readyz", "/client/sluicegate.js")
"""What is asked by machines that hold no token, and by a page's import; it tells of nobody's streams."""
_OF_OTHERS: Final = ("/v1/chat/completions", "/v1/messages", "/v1/models")
"""For others' clients: what is refused is said in their shape, and a token may come in ``x-api-key``."""
_EVENTS: Final = re.compile(r"/v1/streams/[^/]+/events")
PRIVATE: Final = "sluicegate.private"
"""Extension of a scope: it came by a socket that only this user may open (``edge/siblings.py``)."""
_KEY: Final = "sluicegate.identity"


class Doorkeeper:
    """Lets in who may come in: below ``/v1`` anybody who is known, whom each route judges; else operators.

    The endpoint of events asks by itself: it must not say to a browser, for good, what is so for a moment.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and not _asks_by_itself(scope):
            try:
                scope[_KEY] = await self._identity(scope)
            except RequestError as error:
                if scope["path"] not in _OF_OTHERS:
                    await problem_of(error)(scope, receive, send)
                    return
                scope[_KEY] = error
        await self._app(scope, receive, send)

    async def _identity(self, scope: Scope) -> Identity:
        if PRIVATE in scope.get("extensions", {}):
            return ANYBODY
        if scope["path"] in _OF_OTHERS and (token := _api_key(scope)):
            return await self._gate.identify_token(token)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        identity = await self._gate.identify(scope["headers"], query, method=scope["method"])
        if not scope["path"].startswith("/v1/") and (denied := identity.may_operate()) is not None:
            self._gate.denied(denied)
            raise denied
        return identity


def identity_of(scope: Scope) -> Identity:
    """Who asks, as the doorkeeper found out; a request that went past it is answered 500, not served.

    Raises:
        RequestError: they were refused, and the endpoint says so in its own shape.
    """
    found: Identity | RequestError = scope[_KEY]
    if isinstance(found, RequestError):
        raise found
    return found


def _api_key(scope: Scope) -> str:
    """What Anthropic's clients bring as a key, which is a token here; empty if there is a Bearer."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return "" if b"authorization" in headers else headers.get(b"x-api-key", b"").decode("latin-1").strip()


def _asks_by_itself(scope: Scope) -> bool:
    path = scope["path"]
    return path in _OPEN or (scope["method"] in ("GET", "HEAD") and bool(_EVENTS.fullmatch(path)))
