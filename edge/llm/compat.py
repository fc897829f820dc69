"""Endpoints for others' clients: a question in their shape, answered in it by a stream of ours.

1. Who asks is known, and may ask for the tenant. 2. The question is read; who asks may read and write its
stream; it is written down, as any is. 3. The client is attached to the stream, from its first event on.
4. Its connection leaves the framework and becomes an ``AnswerConnection``, whether the answer is streamed or
waited for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson
import structlog
from starlette.responses import Response

from edge.access.cors import cors_head
from edge.access.doorkeeper import identity_of
from edge.admission import Admission
from edge.control import counted
from edge.errors import HistoryUnavailable, RequestError
from edge.events import TAKE_OVER
from edge.join import Joined
from edge.llm.answer import Collected, Http, Streamed, retry_headers
from edge.llm.ask import From, Opened, made_name, traceparent_of
from edge.llm.connection import AnswerConnection
from edge.llm.told import Failure, Telling
from edge.problems import problem_of
from edge.publish import PublishRequest
from schemas.envelope import DEFAULT_TENANT, check_stream_name
from schemas.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from edge.access.identity import Identity
    from edge.core import EdgeCore
    from edge.llm.answer import Shape
    from edge.llm.ask import Asker
    from edge.llm.asked import Asked
    from edge.llm.question import Question
    from edge.llm.refusals import Refusals
    from edge.publish import Publisher

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of others to ask and to be answered."""

    question: Callable[[bytes], Question]
    """Read a body; raises RequestError."""
    shape: Callable[[str, Question], Shape]
    """Make what answers a question, by the name of its stream."""
    problem: Callable[[Failure, str | None], dict[str, object]]
    """Make the body of an error, which may be of one field."""
    id_header: bytes
    """Where its clients look for the name of a request."""


class Compat:
    """Answers; of one edge."""

    def __init__(self, core: EdgeCore, asker: Asker, publisher: Publisher, refusals: Refusals) -> None:
        self._core = core
        self._asker = asker
        self._publisher = publisher
        self._refusals = refusals
        self._admission = Admission(core)
        self._cancelling: set[asyncio.Task[None]] = set()

    async def answer(self, request: Request, dialect: Dialect) -> Response:
        """Answer one request, or hand its connection on."""
        tenant = request.query_params.get("tenant") or DEFAULT_TENANT
        try:
            identity = identity_of(request.scope)
            tenant = request.query_params.get("tenant") or identity.tenants.only or DEFAULT_TENANT
            by = From(tenant, identity, traceparent_of(request.headers.get("traceparent", "")))
            self._asker.check_may(by)
            question = dialect.question(await self._asker.body(request.stream(), request.headers, tenant))
            return await self._answer(request, dialect, question, by)
        except HistoryUnavailable as error:
            return _problem(dialect, Failure(503, "unready", str(error), again=True))
        except RequestError as error:
            self._refusals.note(tenant, error)
            return _refused(dialect, error, keyed="idempotency-key" in request.headers)
        except InvalidEvent as error:
            self._refusals.note(tenant, error)
            return _problem(dialect, Failure(400, "malformed", str(error)), error.field)

    def models(self, request: Request) -> Response:
        """List what a client may call a model."""
        try:
            identity = identity_of(request.scope)
            if (denied := identity.may_ask()) is not None:
                self._core.gate.denied(denied)
                raise denied
        except RequestError as error:
            return problem_of(error)
        return Response(
            orjson.dumps(self._core.models.shown(identity)),
            media_type="application/json",
            headers={"cache-control": "no-store", "x-content-type-options": "nosniff"},
        )

    async def _answer(self, request: Request, dialect: Dialect, question: Question, by: From) -> Response:
        tenant, identity = by.tenant, by.identity
        key, asked = request.headers.get("idempotency-key", ""), question.asked
        if question.extras.route is None:
            route, model = self._core.models.route_of(question.model)
            asked = asked.model_copy(update={"route": route, "model": model})
        if key and asked.stream_id is None:
            asked = asked.model_copy(update={"stream_id": _name_of(tenant, identity, key)})
        name = asked.stream_id or made_name()
        check_stream_name(tenant, name)
        admission = self._admission
        admission.check_read(identity, tenant, name, asked.kind)  # nobody pays for what they may not read
        if busy := await admission.busy():
            raise _busy(503, f"this edge takes no connection now: {busy}")
        if admission.is_full(tenant):
            raise _busy(429, f"tenant {tenant} has all the connections that it may have")
        # Who names a stream may be one of two who do so: only one of them is to be given its answer.
        named = question.asked.stream_id is not None
        opened = await self._ask(asked, by, name, wait=named, again=bool(key))
        joined = await admission.join(
            "answer",
            tenant,
            opened.stream_id,
            None,
            self._core.proxies.peer_of(request.scope),
            identity=identity,
            fresh=asked.stream_id is None,
        )
        assert isinstance(joined, Joined)  # without a cursor nothing is over
        return HandOver(self._connection(request.scope, dialect, question, opened, joined))

    async def _ask(self, asked: Asked, by: From, name: str, *, wait: bool, again: bool) -> Opened:
        """Ask; or give the stream of a question that was asked before under the same key."""

        async def asking() -> dict[str, object]:
            return (await self._asker.ask(asked, by, wait=wait, made=name)).shown()

        try:
            await counted(self._core, asking())
        except RequestError as error:
            if not (again and error.extra.get("code") == "stream_exists"):
                raise
        return Opened(by.tenant, name, asked.kind, "")

    def _connection(
        self, scope: Scope, dialect: Dialect, question: Question, opened: Opened, joined: Joined
    ) -> AnswerConnection:
        name = opened.stream_id.encode()
        http = Http(
            ((b"x-sluicegate-stream", name), (dialect.id_header, name), *cors_head(scope)),
            chunked=scope["http_version"] == "1.1",
        )
        make = Streamed if question.streamed else Collected
        answer = make(dialect.shape(opened.stream_id, question), Telling(self._core.payloads), http)
        return AnswerConnection(
            self._core,
            joined,
            answer,
            self._admission.limits(self._core.kinds.named(opened.kind)),
            left=partial(self._left, opened, joined.identity)
            if question.extras.cancel_on_disconnect
            else None,
        )

    def _left(self, opened: Opened, identity: Identity) -> None:
        task = asyncio.get_running_loop().create_task(self._cancel(opened, identity))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, opened: Opened, identity: Identity) -> None:
        asked = PublishRequest(opened.tenant, opened.stream_id, opened.kind, wait=False, identity=identity)
        try:
            await self._publisher.publish_one(asked, "cancel", {"reason": "the client left", "by": "edge"})
        except RequestError as error:
            log.warning("cancel_lost", stream=f"{opened.tenant}/{opened.stream_id}", cause=str(error))


class HandOver(Response):
    """Not written through the framework: the connection goes on by itself."""

    def __init__(self, connection: AnswerConnection) -> None:
        super().__init__()
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's
        """See ASGI."""
        if not scope["extensions"][TAKE_OVER](self._connection):
            self._connection.never_was()


def _name_of(tenant: str, identity: Identity, key: str) -> str:
    """Name the stream of a question by its key: who repeats it is given the same answer."""
    digest = blake2b(f"{tenant}\n{identity.subject}\n{key}".encode(), digest_size=16).hexdigest()
    return f"llm-{digest}"


def _busy(status: int, detail: str) -> RequestError:
    return RequestError(
        status,
        "Cannot be taken now",
        f"{detail}; nobody was asked",
        remedy="Send the same request again after Retry-After.",
        extra={"code": "overloaded"},
        headers={"retry-after": "1"},
    )


def _refused(dialect: Dialect, error: RequestError, *, keyed: bool) -> Response:
    """Say in their shape what was refused; they know no 422.

    What may have been written is safe to repeat if it has a key: else it would be asked, and paid for, again.
    """
    code, field = error.extra.get("code"), error.extra.get("field")
    detail = f"{error}. {error.remedy}" if error.remedy else str(error)
    again = (
        error.status == 429 or code in ("overloaded", "keys_unavailable") or (keyed and error.status == 503)
    )
    status = 400 if error.status == 422 else error.status
    failure = Failure(status, str(code or "invalid_request"), detail, again=again)
    return _problem(dialect, failure, str(field) if field else None, error.headers)


def _problem(
    dialect: Dialect, failure: Failure, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    told = {name.decode(): value.decode() for name, value in retry_headers(failure)}
    return Response(
        orjson.dumps(dialect.problem(failure, field)),
        status_code=failure.status,
        media_type="application/json",
        headers={"cache-control": "no-store", "x-content-type-options": "nosniff", **told, **(headers or {})},
    )
