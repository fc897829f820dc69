"""What a stream of ours says to whoever speaks another shape: pieces, how it was done, or what went wrong.

A client of that sort is shown each piece once and cannot take one back. So what our own clients are told of
as a gap or a ``reset`` behind content is a failure to it, never a text with a hole or of two attempts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import orjson
import structlog

from connectors.llm.deltas import Finish
from schemas.errors import SchemaError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge.frame import Frame
    from schemas.payloads import PayloadCodec

log = structlog.get_logger(__name__)
RETRY_AFTER_MS_MAX: Final = 3_600_000
"""A longer wait is none that a client is told of."""
Channel = Literal["text", "reasoning", "tool", "refusal"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Something to add to what was said before."""

    channel: Channel
    text: str
    call: int = -1
    """Of a tool's arguments: of which call, from 0."""
    call_id: str = ""
    tool: str = ""
    first: bool = False
    """It is the call's first."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Tokens of all calls that were made for an answer; None = no provider said.

    Input has in it what was read from and written to a cache, output the reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    def plus(self, fields: Mapping[str, Any]) -> Totals:
        """Count what one more call took. What is not known is not counted as 0."""
        if fields["provenance"] == "unknown":
            return self
        return Totals(**{name: _sum(getattr(self, name), fields[name]) for name in _COUNTS})


_COUNTS: Final = tuple(Totals.__dataclass_fields__)


def _sum(before: int | None, more: int | None) -> int | None:
    return before if more is None else (before or 0) + more


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is whole, as far as the model was willing."""

    finish: str
    """stop, length, tool_calls, content_filter, refusal, pause."""
    totals: Totals
    stop_sequence: str | None = None
    """The text of the question's at which it stopped, empty if it is not known which; None = at none."""


@dataclass(frozen=True, slots=True)
class Failure:
    """There is no (more of an) answer."""

    status: int
    """What HTTP says of it, if nothing was said before."""
    code: str
    message: str
    again: bool = False
    """Whether the same question may be sent again without being paid for twice."""
    retry_after_s: int = 1
    """When, if so."""
    field: str = ""
    """Of the question, where one was refused."""


Told = Piece | Done | Failure

_OF_CLASS: Final[Mapping[str, tuple[int, str]]] = {
    "not_found": (404, "model_not_found"),
    "bad_request": (400, "bad_request"),
    "context_overflow": (400, "context_length_exceeded"),
    "rate_limited": (429, "rate_limited"),
    "spend_limited": (429, "insufficient_quota"),
    "overloaded": (503, "overloaded"),
    "invalid_answer": (502, "invalid_answer"),
}
"""What is said of a failure whose class the worker told; any other is the provider's, 502."""
_OF_REASON: Final[Mapping[str, tuple[int, str]]] = {
    "timed_out": (504, "timed_out"),
    "cancelled": (499, "cancelled"),
}
_WORDS: Final = frozenset({"content_filter", "refusal"})
"""Finishes that end a stream as ``upstream_error``, and for which the other shapes have a word."""


def _milliseconds(value: object) -> int:
    """Read a wait; 0 = it is none."""
    return value if type(value) is int and 0 < value <= RETRY_AFTER_MS_MAX else 0


def _finish_in(note: Mapping[str, Any]) -> str:
    """Read how the model finished: ``other`` is a word of a worker's that is not known here."""
    finish = note.get("finish")
    if isinstance(finish, str) and finish in get_args(Finish):
        return finish
    return "other" if isinstance(finish, str) and "raw" in note else ""


class Telling:
    """Reads one stream from its first event on."""

    def __init__(self, payloads: PayloadCodec) -> None:
        self._payloads = payloads
        self._calls: dict[str, int] = {}
        self._finish = ""
        self._finish_of: object = None
        """By which attempt."""
        self._stop_sequence: str | None = None
        self._error_class = self._field = ""
        self._retry_after_ms = 0
        self._shown = False
        self._totals = Totals()
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], Told | None]] = {
            "token": self._piece,
            "usage": self._count,
            "state": self._note,
            "reset": self._superseded,
            "end": self._ended,
        }

    def take(self, frame: Frame) -> Told | None:
        """Give what the next frame means; None = nothing to such a client. After Done or Failure: nothing."""
        if frame.type == "gap":
            return Failure(502, "gap", "a part of the answer is missing: it cannot be given whole")
        handle = self._handlers.get(frame.type)
        if handle is None:
            return None
        try:
            fields = self._fields(frame)
        except (WireError, SchemaError) as error:
            log.error("unreadable_payload", offset=frame.offset, cause=str(error))  # noqa: TRY400  # the data
            return Failure(502, "unreadable", "a part of the answer cannot be read")
        return handle(fields)

    def _fields(self, frame: Frame) -> Mapping[str, Any]:
        event = frame.event
        if event is None:  # told from the index
            fields = orjson.loads(frame.json or b"{}")
            return {"reason": fields["reason"], "message": ""}
        return self._payloads.decode(event.payload_schema, event.payload)

    def _piece(self, fields: Mapping[str, Any]) -> Piece | None:
        channel, text = cast("Channel", fields["channel"]), fields["text"]
        if channel != "tool":
            self._shown = self._shown or bool(text)
            return Piece(channel, text) if text else None
        name = fields["call_id"] or f"{fields['index']} {fields['tool']}"
        first = name not in self._calls
        call = self._calls.setdefault(name, len(self._calls))
        self._shown = True
        if not first and not text:
            return None
        return Piece("tool", text, call, fields["call_id"] or f"call_{call}", fields["tool"], first)

    def _count(self, fields: Mapping[str, Any]) -> None:
        self._totals = self._totals.plus(fields)

    def _note(self, fields: Mapping[str, Any]) -> None:
        """Take from the worker's notes how the model finished, or what class a failure is of."""
        if fields["name"] not in ("finish", "error"):
            return
        try:
            value = orjson.loads(fields["value_json"])
        except orjson.JSONDecodeError:
            return
        if not isinstance(value, dict):
            return
        attempt = value.get("attempt")
        if fields["name"] == "finish":
            self._finish, self._finish_of = _finish_in(value), attempt
            stop = value.get("stop_sequence")
            by_name = "" if value.get("raw") == "stop_sequence" else None
            self._stop_sequence = stop if isinstance(stop, str) else by_name
        else:
            self._error_class = str(value.get("error_class", ""))
            self._retry_after_ms = _milliseconds(value.get("retry_after_ms"))
            field = value.get("field")
            # What is in `params` with us stands by itself with them.
            self._field = field.removeprefix("params.") if isinstance(field, str) else ""
            if attempt != self._finish_of:  # an earlier attempt's, of which nothing was shown
                self._finish = ""

    def _superseded(self, fields: Mapping[str, Any]) -> Failure | None:
        if self._shown:
            message = f"the answer begins anew, and what was shown cannot be taken back: {fields['reason']}"
            return Failure(502, "superseded", message)
        self._finish = self._error_class = self._field = ""
        return None

    def _ended(self, fields: Mapping[str, Any]) -> Done | Failure:
        reason, finish = fields["reason"], self._finish
        if reason == "completed" or (reason == "upstream_error" and finish in _WORDS):
            if finish == "other":  # as earlier workers ended what was given up, or a later one's word
                return Failure(502, "truncated", "the model finished by a word that nobody knows")
            # A model that was told to call a tool finishes as any other with some providers; who runs tools
            # for it stops there.
            called = self._calls and finish in ("", "stop")
            finish = "tool_calls" if called else finish or "stop"
            return Done(finish, self._totals, self._stop_sequence if finish == "stop" else None)
        status, code = _OF_REASON.get(reason) or _OF_CLASS.get(self._error_class) or (502, reason)
        field = self._field if code == "bad_request" else ""
        message = fields["message"] or f"the stream ended as {reason}"
        if reason == "upstream_error" and self._retry_after_ms:
            after_s = math.ceil(self._retry_after_ms / 1_000)
            return Failure(status, code, message, again=True, retry_after_s=after_s)
        return Failure(status, code, message, field=field)
