"""A request as it stands on its topic, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

import orjson

from connectors.llm.calls import Params, Tool
from connectors.llm.errors import CallRefused
from connectors.llm.plan import AfterContent
from schemas.envelope import check_kind_name, check_stream_name, stream_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROLES: Final = ("system", "user", "assistant", "tool")
MESSAGES_MAX: Final = 1_000
TOOLS_MAX: Final = 128
_PARAMS: Final = frozenset(Params.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Whose operation it is: what can be read even of a request that is otherwise wrong."""

    tenant: str
    stream_id: str
    kind: str
    request_id: str
    task_id: str
    traceparent: str
    time_us: int
    opened: bool

    @property
    def key(self) -> bytes:
        """The Kafka key of the operation's stream."""
        return stream_key(self.tenant, self.stream_id)


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked; ``calls.Call`` is made of it and a prompt."""

    to: Envelope
    route: str
    model: str
    prompt: str
    prompt_label: str
    variables: Mapping[str, str]
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Tool]
    schema: Mapping[str, Any] | None
    schema_name: str
    params: Params
    deadline_ms: int
    after_content: AfterContent | None
    side_effects: bool


def envelope_of(record: Mapping[str, Any]) -> Envelope:
    """Read whose it is. Raises InvalidEvent: it names no stream, so nobody can be told of it."""
    check_stream_name(record["tenant"], record["stream_id"])
    check_kind_name(record["kind"])
    return Envelope(
        record["tenant"],
        record["stream_id"],
        record["kind"],
        record["request_id"],
        record["task_id"],
        record["traceparent"],
        record["time_us"],
        record["opened"],
    )


def request_of(record: Mapping[str, Any]) -> Request:
    """Read a request (a record of ``sluicegate.LlmRequest``).

    Raises:
        InvalidEvent: it names no stream.
        CallRefused: a field cannot be used; nothing is called.
    """
    after = record["after_content"] or None
    if after is not None and after not in get_args(AfterContent):
        raise CallRefused(
            "after_content", f"must be one of {', '.join(get_args(AfterContent))}, is {after!r}"
        )
    messages = _array("messages", record["messages_json"], MESSAGES_MAX)
    for number, message in enumerate(messages):
        _check_message(f"messages[{number}]", message)
    if not messages and not record["prompt"]:
        raise CallRefused("messages", "there is nothing to ask: neither messages nor a prompt are given")
    schema = _object("schema", record["schema_json"]) if record["schema_json"] else None
    return Request(
        to=envelope_of(record),
        route=record["route"],
        model=record["model"],
        prompt=record["prompt"],
        prompt_label=record["prompt_label"],
        variables=_variables(record["variables_json"]),
        messages=messages,
        tools=[
            _tool(f"tools[{number}]", each)
            for number, each in enumerate(_array("tools", record["tools_json"], TOOLS_MAX))
        ],
        schema=schema,
        schema_name=record["schema_name"],
        params=_params(record["params_json"]),
        deadline_ms=max(record["deadline_ms"], 0),
        after_content=after,
        side_effects=record["side_effects"],
    )


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise CallRefused(where, "must be an object with role and content")
    if message.get("role") not in ROLES:
        raise CallRefused(f"{where}.role", f"must be one of {', '.join(ROLES)}, is {message.get('role')!r}")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and part.get("type") in ("text", "media") for part in content
    ):
        raise CallRefused(f"{where}.content", "must be text, or a list of parts of type text or media")


def _tool(where: str, value: Any) -> Tool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise CallRefused(f"{where}.name", "must be a name")
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise CallRefused(f"{where}.parameters", "must be a JSON schema")
    return Tool(value["name"], str(value.get("description", "")), parameters)


def _variables(text: str) -> Mapping[str, str]:
    found = _object("variables", text)
    for name, value in found.items():
        if not isinstance(value, str):
            raise CallRefused(f"variables.{name}", "must be text")
    return found


def _params(text: str) -> Params:
    found = _object("params", text)
    if strange := found.keys() - _PARAMS:
        raise CallRefused(f"params.{min(strange)}", f"is not known; there are {', '.join(sorted(_PARAMS))}")
    stop = found.get("stop", ())
    found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for name, kinds in (
        ("max_output_tokens", int), ("seed", int), ("temperature", (int, float)), ("top_p", (int, float)),
    ):  # fmt: skip
        value = found.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise CallRefused(f"params.{name}", f"must be a number, is {value!r}")
    if found.get("max_output_tokens") is not None and found["max_output_tokens"] < 1:
        raise CallRefused("params.max_output_tokens", "must be 1 or more")
    if found.get("reasoning", "") not in ("", "low", "medium", "high"):
        raise CallRefused("params.reasoning", "must be low, medium or high")
    if not all(isinstance(each, str) for each in found["stop"]):
        raise CallRefused("params.stop", "must be text, or a list of texts")
    return Params(**found)


def _object(where: str, text: str) -> dict[str, Any]:
    value = _json(where, text) if text else {}
    if not isinstance(value, dict):
        raise CallRefused(where, "must be a JSON object")
    return value


def _array(where: str, text: str, most: int) -> list[Any]:
    value = _json(where, text) if text else []
    if not isinstance(value, list):
        raise CallRefused(where, "must be a JSON array")
    if len(value) > most:
        raise CallRefused(where, f"has {len(value)} entries, at most {most}")
    return value


def _json(where: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CallRefused(where, f"is not JSON: {error}") from None
