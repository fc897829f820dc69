"""``GET /state/{store}/{key}`` on a worker's web: who may ask, and what is asked of whom."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote_to_bytes

from pipelines.queries import Answer, span_of
from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from pipelines.queries import StateReader
    from pipelines.role import RoleApp

Queries = Literal["loopback", "network", "off"]
"""Who may read state by HTTP: who is on this machine (default), whoever reaches the port, or nobody."""
_ASK_S: Final = 5.0


def add_state_page(app: RoleApp, queries: Queries, bound_to: str) -> None:
    """Add the page; where it may not be answered it says why."""
    refusal = _refusal(queries, bound_to)

    @app.page("/state/{store}/{key:.+}")
    async def state(web: Any, request: Any, store: str, key: str) -> Any:
        answer = refusal or _stranger(queries, request) or _no_text(request.rel_url.raw_path)
        if answer is None:
            answer = await _answer(app.reader, store, key, dict(request.query))
        return web.json(dict(answer.body), status=answer.status.value, headers=dict(answer.headers))


async def _answer(reader: StateReader, store: str, key: str, query: dict[str, str]) -> Answer:
    try:
        span = span_of(query, time.time_ns() // 1_000)
    except ValueError as error:
        return Answer(HTTPStatus.BAD_REQUEST, {"error": f"from, to: {error}"})
    try:
        found = reader.here(store, key, span)
        if isinstance(found, Answer):
            return found
        async with asyncio.timeout(_ASK_S):
            return await asyncio.to_thread(reader.elsewhere, found, store, key, query)
    except TimeoutError:
        problem = "who has that partition was not told in time"
    except SluicegateError as error:
        if not getattr(error, "transient", False):
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error), "remedy": error.remedy})
        problem = str(error)
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": problem}, {"Retry-After": "1"})


def _refusal(queries: Queries, bound_to: str) -> Answer | None:
    """State is tenants' data and has no password before it: it does not leave the machine unasked."""
    if queries == "off":
        return Answer(
            HTTPStatus.FORBIDDEN, {"error": "state is not read here (SLUICEGATE_STATE__QUERIES=off)"}
        )
    if queries == "loopback" and not is_loopback(bound_to):
        problem = (
            f"the worker's web is bound to {bound_to}, which others reach: set "
            "SLUICEGATE_STATE__QUERIES=network if whoever does may read all state"
        )
        return Answer(HTTPStatus.FORBIDDEN, {"error": problem})
    return None


def _stranger(queries: Queries, request: Any) -> Answer | None:
    """Refuse a page of a browser on this machine whose name was made to point here (DNS rebinding)."""
    if queries == "network" or is_loopback(request.url.host or ""):
        return None
    return Answer(HTTPStatus.MISDIRECTED_REQUEST, {"error": f"Host {request.url.host!r} is not this machine"})


def _no_text(raw_path: str) -> Answer | None:
    """Refuse escapes that are no UTF-8: they would be left as they are, and another key be asked for."""
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return Answer(HTTPStatus.BAD_REQUEST, {"error": "the path's %-escapes are no UTF-8"})
    return None


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
