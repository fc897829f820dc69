"""OpenAI's chat completions: what their clients are told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.llm.told import Done, Failure, Piece, Totals

_FINISH: Final[Mapping[str, str]] = {"refusal": "content_filter", "pause": "length"}
"""An answer that pauses goes on if it is sent back: it is not whole, and ``length`` alone says so here."""
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_FIELDS: Final[Mapping[str, str]] = {"text": "content", "reasoning": "reasoning", "refusal": "refusal"}


class ChatCompletion:
    """See Shape. ``id`` is the name of our stream, by which the answer can be read again."""

    beat = b": \n\n"

    def __init__(self, stream_id: str, model: str, *, include_usage: bool) -> None:
        self._base = {"id": stream_id, "created": int(time.time()), "model": model}
        self._include_usage = include_usage

    def begin(self) -> bytes:
        """See Shape."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        """See Shape."""
        if piece.channel != "tool":
            return self._chunk({_FIELDS[piece.channel]: piece.text})
        call: dict[str, Any] = {"index": piece.call, "function": {"arguments": piece.text}}
        if piece.first:
            call |= {"id": piece.call_id, "type": "function"}
            call["function"] = {"name": piece.tool, "arguments": piece.text}
        return self._chunk({"tool_calls": [call]})

    def done(self, done: Done) -> bytes:
        """See Shape."""
        last = self._chunk({}, finish=_finish(done))
        usage = _usage(done.totals)
        if self._include_usage and usage is not None:  # their clients read a last chunk's usage unasked
            last += self._event([], usage=usage)
        return last + b"data: [DONE]\n\n"

    def failed(self, failure: Failure) -> bytes:
        """See Shape: an event of an error, which their clients raise, and no ``[DONE]``."""
        return b"data: %b\n\n" % orjson.dumps(self.problem(failure))

    def whole(self, pieces: Sequence[Piece], done: Done) -> dict[str, object]:
        """See Shape."""
        message: dict[str, Any] = {"role": "assistant", "content": _joined(pieces, "text") or None}
        for channel in ("reasoning", "refusal"):
            if text := _joined(pieces, channel):
                message[channel] = text
        calls: dict[int, dict[str, Any]] = {}
        for piece in pieces:
            if piece.channel == "tool":
                made = {"id": piece.call_id, "type": "function", "function": {"name": piece.tool}}
                calls.setdefault(piece.call, made)["function"].setdefault("parts", []).append(piece.text)
        if calls:
            for call in calls.values():
                call["function"]["arguments"] = "".join(call["function"].pop("parts"))
            message["tool_calls"] = list(calls.values())
        choice = {"index": 0, "message": message, "finish_reason": _finish(done), "logprobs": None}
        whole = {**self._base, "object": "chat.completion", "choices": [choice]}
        usage = _usage(done.totals)
        return whole | ({"usage": usage} if usage is not None else {})

    def problem(self, failure: Failure) -> dict[str, object]:
        """See Shape."""
        return problem(failure, failure.field or None)

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._event([choice], usage=None)

    def _event(self, choices: Sequence[object], *, usage: Mapping[str, object] | None) -> bytes:
        event: dict[str, object] = {**self._base, "object": "chat.completion.chunk", "choices": choices}
        if self._include_usage:
            event["usage"] = usage
        return b"data: %b\n\n" % orjson.dumps(event)


def problem(failure: Failure, param: str | None = None) -> dict[str, object]:
    """Give an error as their clients read it."""
    usual = "invalid_request_error" if failure.status < 499 else "server_error"
    kind = _TYPES.get(failure.status, usual)
    return {"error": {"message": failure.message, "type": kind, "param": param, "code": failure.code}}


def _finish(done: Done) -> str:
    return _FINISH.get(done.finish, done.finish)


def _usage(totals: Totals) -> Mapping[str, object] | None:
    """What no provider told is absent."""
    if totals.input_tokens is None or totals.output_tokens is None:
        return None
    cached, thought = totals.cached_input_tokens, totals.reasoning_tokens
    return {
        "prompt_tokens": totals.input_tokens,
        "completion_tokens": totals.output_tokens,
        "total_tokens": totals.input_tokens + totals.output_tokens,
        **({} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}),
        **({} if thought is None else {"completion_tokens_details": {"reasoning_tokens": thought}}),
    }


def _joined(pieces: Sequence[Piece], channel: str) -> str:
    return "".join([piece.text for piece in pieces if piece.channel == channel])
