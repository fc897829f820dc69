"""Anthropic's messages: what their clients are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.llm.told import Done, Failure, Piece, Totals

_STOP: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
}
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesAnswer:
    """See Shape. An answer is a list of blocks: text, thinking, or one call of a tool each."""

    beat = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, stream_id: str, model: str) -> None:
        self._id = stream_id
        self._model = model
        self._blocks = 0
        self._open = ""
        """Channel of the block that is open, or ``tool`` and the number of its call; empty = none is."""
        self._of_call: dict[int, int] = {}
        """The block of each call."""

    def begin(self) -> bytes:
        """See Shape."""
        nothing_yet = {"input_tokens": 0, "output_tokens": 0}
        return _event("message_start", message=self._message([], None, nothing_yet))

    def piece(self, piece: Piece) -> bytes:
        """See Shape."""
        if piece.channel == "tool":
            block = f"tool {piece.call}"
            start = {"type": "tool_use", "id": piece.call_id, "name": piece.tool, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": piece.text}
        elif piece.channel == "reasoning":
            block = "reasoning"
            start = {"type": "thinking", "thinking": "", "signature": ""}
            delta = {"type": "thinking_delta", "thinking": piece.text}
        else:
            block = "text"
            start = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": piece.text}
        said = b""
        if self._open != block and not (piece.channel == "tool" and not piece.first):
            said = self._close() + _event("content_block_start", index=self._blocks, content_block=start)
            if piece.channel == "tool":
                self._of_call[piece.call] = self._blocks
            self._blocks += 1
            self._open = block
        index = self._of_call[piece.call] if piece.channel == "tool" else self._blocks - 1
        return said + _event("content_block_delta", index=index, delta=delta)

    def done(self, done: Done) -> bytes:
        """See Shape."""
        delta = {"stop_reason": _stop(done), "stop_sequence": done.stop_sequence or None}
        return (
            self._close()
            + _event("message_delta", delta=delta, usage=_usage(done.totals))
            + _event("message_stop")
        )

    def failed(self, failure: Failure) -> bytes:
        """See Shape: their event of an error, which their clients raise."""
        return b"event: error\ndata: %b\n\n" % orjson.dumps(self.problem(failure))

    def whole(self, pieces: Sequence[Piece], done: Done) -> dict[str, object]:
        """See Shape."""
        message = self._message(_blocks(pieces), _stop(done), _usage(done.totals))
        return message | {"stop_sequence": done.stop_sequence or None}

    def problem(self, failure: Failure) -> dict[str, object]:
        """See Shape."""
        return problem(failure, failure.field or None) | {"request_id": self._id}

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", index=self._blocks - 1)

    def _message(
        self, content: Sequence[object], stop: str | None, usage: Mapping[str, object]
    ) -> dict[str, object]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }


def problem(failure: Failure, param: str | None = None) -> dict[str, object]:
    """Give an error as their clients read it; the field is in the message, for there is none of its own."""
    usual = "invalid_request_error" if failure.status < 499 else "api_error"
    kind = _TYPES.get(failure.status, usual)
    where = f"{param}: " if param and param not in failure.message else ""
    error = {"type": kind, "message": f"{where}{failure.message}", "code": failure.code}
    return {"type": "error", "error": error}


def _event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))


def _stop(done: Done) -> str:
    return "stop_sequence" if done.stop_sequence is not None else _STOP.get(done.finish, "end_turn")


def _usage(totals: Totals) -> Mapping[str, object]:
    """What no provider told is null, not 0; theirs has the tokens of a cache beside the input, not in it."""
    read, written, thought = totals.cached_input_tokens, totals.cache_write_tokens, totals.reasoning_tokens
    sent = totals.input_tokens
    plain = None if sent is None else max(sent - (read or 0) - (written or 0), 0)
    return {
        "input_tokens": plain,
        "output_tokens": totals.output_tokens,
        **({} if read is None else {"cache_read_input_tokens": read}),
        **({} if written is None else {"cache_creation_input_tokens": written}),
        **({} if thought is None else {"output_tokens_details": {"thinking_tokens": thought}}),
    }


def _blocks(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """Join pieces to blocks: calls by their number, all else with what it follows."""
    blocks: list[dict[str, Any]] = []
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        if piece.channel == "tool":
            if piece.first:
                blocks.append(
                    {"type": "tool_use", "id": piece.call_id, "name": piece.tool, "call": piece.call}
                )
            arguments.setdefault(piece.call, []).append(piece.text)
            continue
        kind, field = ("thinking", "thinking") if piece.channel == "reasoning" else ("text", "text")
        if not blocks or blocks[-1]["type"] != kind:
            blocks.append({"type": kind, field: "", **({"signature": ""} if kind == "thinking" else {})})
        blocks[-1][field] += piece.text
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = _input("".join(arguments[block.pop("call")]))
    return blocks


def _input(text: str) -> object:
    """Read a call's arguments; what is no JSON is the model's doing, and is handed on as it is."""
    try:
        return orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {"_unreadable": text}
