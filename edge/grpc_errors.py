"""What went wrong as a gRPC status: the code by which clients decide, the problem in full beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import structlog
from grpc import StatusCode

from edge.errors import HistoryUnavailable, RequestError, Unauthenticated
from edge.problems import code_of
from edge.sse import jittered
from schemas.errors import CursorError, ForeignCursor, InvalidEvent, SluicegateError
from schemas.proto.sluicegate.v1.stream_pb2 import Problem

if TYPE_CHECKING:
    from edge.grpc_call import Call

log = structlog.get_logger(__name__)
Behaviour = Callable[[Any, "Call"], Awaitable[Any]]
PROBLEM_KEY: Final = "sluicegate-problem-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""Obeyed by gRPC's own retries (proposal A6); a negative one would forbid them."""
_DETAIL_MAX: Final = 1_000
"""Clients refuse metadata of more than 8 KiB altogether; a message may quote what it was sent."""

_OF_HTTP: Final = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.FAILED_PRECONDITION,
    410: StatusCode.OUT_OF_RANGE,
    413: StatusCode.INVALID_ARGUMENT,
    415: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    503: StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends that does not end well."""

    code: StatusCode
    problem: Problem

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What is said in the trailing metadata."""
        found: list[tuple[str, str | bytes]] = [(PROBLEM_KEY, self.problem.SerializeToString())]
        if self.problem.retry_ms:
            found.append((PUSHBACK_KEY, str(self.problem.retry_ms)))
        return tuple(found)


def status_of(error: SluicegateError) -> Status:
    """The status of one of our own errors."""
    problem = Problem(title=type(error).__name__, detail=str(error)[:_DETAIL_MAX], remedy=error.remedy)
    if isinstance(error, RequestError):
        extra = error.extra
        problem.title = error.title
        problem.code = str(extra.get("code", ""))
        problem.field = str(extra.get("field", ""))
        if isinstance(index := extra.get("index"), int):
            problem.index = index
        problem.retry_ms = jittered(1_000 * int(error.headers.get("retry-after", "0")))
        code = _OF_HTTP.get(error.status, StatusCode.INTERNAL)
        if problem.code == "overloaded":
            code = StatusCode.RESOURCE_EXHAUSTED
        return Status(code, problem)
    if isinstance(error, InvalidEvent):
        problem.title, problem.field = "Request is malformed", error.field
        return Status(StatusCode.INVALID_ARGUMENT, problem)
    if isinstance(error, CursorError):
        problem.title, problem.code = "Cursor refused", code_of(error)
        foreign = isinstance(error, ForeignCursor)
        return Status(StatusCode.PERMISSION_DENIED if foreign else StatusCode.INVALID_ARGUMENT, problem)
    if isinstance(error, HistoryUnavailable):
        problem.retry_ms = jittered(1_000)
        return Status(StatusCode.UNAVAILABLE, problem)
    return Status(StatusCode.INTERNAL, problem)


def sent_away(reason: str, retry_ms: int) -> Status:
    """The status of a watch whose client is to come back."""
    code = StatusCode.RESOURCE_EXHAUSTED if reason in ("overload", "slow") else StatusCode.UNAVAILABLE
    problem = Problem(
        code=reason,
        title="Come back",
        detail=f"this edge ends the call ({reason})",
        remedy="Watch again with your last cursor.",
        retry_ms=retry_ms,
    )
    return Status(code, problem)


def token_over(reason: str) -> Status | None:
    """What a call would be answered that came again with a token that is over; None for another reason."""
    if reason == "expired":
        return status_of(Unauthenticated("token_expired", "the token has expired"))
    if reason == "revoked":
        return status_of(Unauthenticated("token_revoked", "the token was revoked"))
    return None


def failed() -> Status:
    """The status of what ought not to happen; nothing of it is told to strangers."""
    problem = Problem(title="Internal error", detail="the edge failed; its log says why")
    return Status(StatusCode.INTERNAL, problem)


def ended_by_status(behaviour: Behaviour) -> Behaviour:
    """Have errors end a call with their status. What ought not to happen is told in the log alone."""

    async def answer(request: Any, call: Call) -> Any:
        try:
            return await behaviour(request, call)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except grpc.aio.InternalError as error:  # it took no more: its client has just left
            log.info("call_broken_off", cause=str(error))
            raise asyncio.CancelledError from None
        except SluicegateError as error:
            await end(call, status_of(error))
        except Exception as error:
            log.exception("call_failed", cause=str(error))
            await end(call, failed())

    return answer


async def end(call: Call, status: Status) -> NoReturn:
    """End a call with an error; one whose connection takes nothing any more ends with that."""
    try:
        await call.abort(status.code, status.problem.detail, status.metadata)
    except grpc.aio.InternalError as error:
        log.info("status_not_sent", status=status.code.name, cause=str(error))
        raise asyncio.CancelledError from None
