"""What of questions and answers is kept, as the route's policy says: nothing, the shape of it, or all.

``redacted`` keeps what an operator needs to see what went on, and no word that a person or a model wrote:
each string but those of a few keys (types, roles, names of models and tools, reasons) becomes as many dots.
Those keys count only where they are the provider's own, not in what was said or in arguments of tools.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import orjson

from connectors.llm.nesting import read_event

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from connectors.llm.calls import Call
    from connectors.llm.contents import Contents
    from connectors.llm.plan import Keep

BYTES_MAX: Final = 200_000
"""Of one side of an attempt; its row must fit a record with both. What is longer is cut, and says so."""
_PLAIN: Final = frozenset(
    ("type", "object", "role", "model", "id", "name", "event", "status", "index", "finish_reason",
     "stop_reason",
     "finishReason", "done_reason", "stop_sequence", "code", "error_code", "reason", "retryDelay", "mime",
     "channel", "tool_call_id", "call_id",
     "responseId", "modelVersion", "created_at", "service_tier", "system_fingerprint")
)  # fmt: skip
"""Keys of a provider's envelope."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/@+-]{1,128}")
_KEY: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]{0,63}")
_OPAQUE: Final = frozenset(
    ("args", "arguments", "input", "parameters", "parametersJsonSchema", "schema", "json_schema", "format")
)
"""Of these nothing is kept but how long their JSON is: keys and numbers in them are somebody's, too."""
_CONTENTS: Final = frozenset(("messages", "content", "contents"))
_SAID_PLAIN: Final[Mapping[str, Collection[str]]] = {
    "role": frozenset(("system", "user", "assistant", "tool", "model")),
    "type": frozenset(
        ("text", "media", "image", "image_url", "input_audio", "output_text", "refusal", "thinking",
         "redacted_thinking", "reasoning", "tool_use", "tool_result", "server_tool_use")
    ),
}  # fmt: skip
"""Within a content these alone, by their words."""
_DEPTH_MAX: Final = 64


def kept_input(call: Call, keep: Keep) -> str | None:
    """Return what was sent as JSON, None where it is not kept."""
    if keep == "off":
        return None
    value = {
        "messages": list(call.messages),
        "tools": [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in call.tools
        ],
        "schema": call.schema,
    }
    # Of how it is asked these alone are somebody's words.
    params = {name: said for name, said in asdict(call.params).items() if said not in (None, "", ())}
    stop = {"stop": params.pop("stop")} if "stop" in params else {}
    if keep == "redacted":
        value, stop = redacted(value), redacted(stop)
    return _bounded({**value, "params": params | stop})


def kept_output(contents: Contents, keep: Keep, said: str = "") -> str | None:
    """Return what came as JSON, None where it is not kept.

    ``said`` are the provider's words of its failure, where they are kept whatever ``keep`` says.
    """
    if keep == "off" and not said:
        return None
    value = {} if keep == "off" else contents.value()
    return _bounded(({"error": said} if said else {}) | (redacted(value) if keep == "redacted" else value))


def kept_raw(data: str, keep: Keep) -> str:
    """Return a provider's event as it is kept; under ``full`` byte for byte."""
    if keep == "full":
        return data
    try:
        value = read_event(data)
    except ValueError:  # [DONE], or nothing that anybody could read, or would
        return data if len(data) <= 16 else _dots(data)
    return orjson.dumps(redacted(value)).decode()


def without_words(said: str) -> str:
    """Return what a provider says of a failure as any may read it: structure, codes and numbers alone.

    It may quote the question or the answer, of which nothing may be kept that no policy says.
    """
    try:
        value = read_event(said)
    except ValueError:
        return f"a text of {len(said)} characters"
    return orjson.dumps(redacted(value)).decode()


def named_plainly(word: str) -> str:
    """Return a provider's own word if it is one, as its reasons are; of another text its size."""
    return word if _NAME.fullmatch(word) or not word else f"a text of {len(word)} characters"


def redacted(value: Any, key: str = "", depth: int = 0, *, said: bool = False) -> Any:
    """Return a JSON value without the words in it; the sizes stay.

    ``said``: it is within a content, whose members a person, a model or a tool may have named and filled.
    """
    if isinstance(value, str):
        plain = value in _SAID_PLAIN.get(key, ()) if said else key in _PLAIN and _NAME.fullmatch(value)
        return value if plain else _dots(value)
    if depth >= _DEPTH_MAX:
        return None
    if key in _OPAQUE and value is not None:
        return _dots(orjson.dumps(value, default=dict).decode())
    said = said or key in _CONTENTS
    if isinstance(value, dict):
        return {
            name if _KEY.fullmatch(name) else _dots(name): redacted(part, name, depth + 1, said=said)
            for name, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redacted(part, key, depth + 1, said=said) for part in value]
    return 0 if said and type(value) in (int, float) else value


def _dots(text: str) -> str:
    return "·" * len(text)


def _bounded(value: Any) -> str:
    data = orjson.dumps(value, default=dict)
    if len(data) <= BYTES_MAX:
        return data.decode()
    head = data[: BYTES_MAX // 2].decode("utf-8", "ignore")
    return orjson.dumps({"cut": True, "bytes": len(data), "head": head}).decode()
