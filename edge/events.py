"""``GET /v1/streams/{id}/events``: answers what is to be answered, and hands a stream's client on.

A client that joins a stream leaves the framework here: its connection becomes an ``SseConnection``, and its
request, its parser and its task are gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from starlette.responses import Response

from edge.access.cors import cors_head
from edge.admission import Admission
from edge.errors import HistoryUnavailable, KeysUnavailable, RequestError
from edge.join import Over
from edge.problems import code_of, problem_of
from edge.queries import check_query
from edge.sse import HEADERS, REFUSED_ID, SseConnection, come_back, jittered, said
from schemas.envelope import DEFAULT_TENANT, check_stream_name, stream_key
from schemas.errors import CursorError, InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from edge.access.identity import Identity
    from edge.core import EdgeCore
    from edge.join import Joined
    from schemas.cursor import Cursor

TAKE_OVER: Final = "sluicegate.take_over"
"""Extension of the scope: puts a protocol in place of the server's own (``edge/protocol.py``)."""
CURSOR_NAMES: Final = ("last_event_id", "lastEventId")
"""In the query; the second is what a widely used stand-in for ``EventSource`` sends."""
_SSE_HEADERS = {name.decode(): value.decode() for name, value in HEADERS}


class EventsEndpoint:
    """An ASGI app of its own, for it does not return a response."""

    def __init__(self, core: EdgeCore) -> None:
        self._core = core
        self._admission = Admission(core)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 200 with events, 204 if there are no more, 4xx for what the address says."""
        try:
            response = await self._answer(scope)
        except (RequestError, InvalidEvent, CursorError) as error:
            response = problem_of(error)
        if response is not None:
            await response(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response | None:  # noqa: PLR0911  # a line an outcome
        """Give the answer; None if the connection was handed on."""
        admission = self._admission
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tenant = query.get("tenant", [DEFAULT_TENANT])[0]
        stream_id = scope["path_params"]["stream_id"]
        check_stream_name(tenant, stream_id)
        check_query(query, ("tenant", *CURSOR_NAMES))
        if busy := await admission.busy():
            return self._come_back(busy)
        try:
            identity = await self._core.gate.identify(scope["headers"], query, method=scope["method"])
        except KeysUnavailable:
            return self._come_back("unready")
        admission.check_read(identity, tenant, stream_id)
        if admission.is_full(tenant):
            return self._come_back("overload")
        if scope["method"] == "HEAD":
            return Response(headers=_SSE_HEADERS)
        in_header = _header(scope, b"last-event-id")
        if in_header == REFUSED_ID:
            return self._nothing_more()
        try:
            cursor = self._cursor(in_header, query, tenant, stream_id, identity)
        except CursorError as error:
            if not in_header:
                raise
            return self._refuse(error)
        try:
            peer = self._core.proxies.peer_of(scope)
            joined = await admission.join("sse", tenant, stream_id, cursor, peer, identity=identity)
        except HistoryUnavailable:
            return self._come_back("unready")
        if isinstance(joined, Over):
            return self._nothing_more()
        return self._hand_on(scope, joined, tenant, stream_id)

    def _cursor(
        self,
        in_header: str,
        query: Mapping[str, list[str]],
        tenant: str,
        stream_id: str,
        identity: Identity,
    ) -> Cursor | None:
        """Where the client was; in the address it is judged more strictly, for no client repeats it there."""
        if in_header:
            return self._admission.cursor(in_header, tenant, stream_id)
        in_query = next((query[name][0] for name in CURSOR_NAMES if name in query), "")
        if not in_query:
            return None
        return self._admission.cursor_still_held(in_query, tenant, stream_id, identity)

    def _hand_on(self, scope: Scope, joined: Joined, tenant: str, stream_id: str) -> Response | None:
        if self._admission.has_no_room() or self._admission.is_full(tenant):  # others came meanwhile
            self._core.hub.detach(joined.subscriber)
            return self._come_back("overload")
        limits = self._admission.limits(self._core.joiner.kind_of(stream_key(tenant, stream_id)))
        chunked = scope["http_version"] == "1.1"
        head = (*HEADERS, *cors_head(scope))
        connection = SseConnection(self._core, joined, limits, head=head, chunked=chunked)
        if not scope["extensions"][TAKE_OVER](connection):
            self._core.hub.detach(joined.subscriber)  # it left while it was looked after
        return None

    def _come_back(self, reason: str) -> Response:
        """Any final status but 200 would close a native client for good: say 200, and when to come back."""
        self._core.metrics.joins.labels("sse", reason).inc()
        return _told(come_back(reason, jittered(2 * self._core.options.retry_ms)))

    def _refuse(self, error: CursorError) -> Response:
        """Say in-stream what is wrong with a cursor; the id that comes with it makes the retry end in 204."""
        self._core.metrics.joins.labels("sse", "refused").inc()
        fields = {"type": "refused", "code": code_of(error), "detail": str(error), "remedy": error.remedy}
        return _told(said(fields, last_id=REFUSED_ID))

    def _nothing_more(self) -> Response:
        self._core.metrics.joins.labels("sse", "over").inc()
        return Response(status_code=204, headers={"cache-control": "no-store"})


def _told(text: bytes) -> Response:
    return Response(text, headers=_SSE_HEADERS | {"connection": "close"})


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1")).strip()
    return ""
