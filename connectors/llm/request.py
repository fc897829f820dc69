"""A request as it stands on its topic, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, get_args

from connectors.llm.calls import Params, Tool
from connectors.llm.errors import CallRefused
from connectors.llm.nesting import read_json
from connectors.llm.plan import AfterContent, OnInvalid
from schemas.envelope import check_kind_name, check_origin, check_stream_name, stream_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROLES: Final = ("system", "user", "assistant", "tool")
MESSAGES_MAX: Final = 1_000
TOOLS_MAX: Final = 128
NAME_BYTES_MAX: Final = 128
"""Of routes, models, prompts, labels, tools and schemas: they stand in rows, events, keys and messages."""
SPEAKER_CHARACTERS_MAX: Final = 64
"""Of a message's name, as OpenAI bounds it."""
DETAILS: Final = ("", "auto", "low", "high", "original")
"""How closely a picture is looked at, in OpenAI's words."""
STOPS_MAX: Final = 16
STOP_CHARACTERS_MAX: Final = 1_024
DEADLINE_MS_MAX: Final = 86_400_000
"""The longest that any kind of stream may take."""
_ABOUT: Final = frozenset({"time_us", "traceparent", "request_id", "source", "opened", "open_id"})
"""Fields of a request that differ when it is sent again."""
_PARAMS: Final = frozenset(Params.__dataclass_fields__)
_NUMBERS: Final[Mapping[str, tuple[Sequence[type], int, int]]] = {
    "max_output_tokens": ((int,), 1, 10_000_000),
    "seed": ((int,), -(2**63), 2**63 - 1),
    "temperature": ((int, float), 0, 10),
    "top_p": ((int, float), 0, 1),
}


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
    on_invalid: OnInvalid | None = None
    no_reset: bool = False


def envelope_of(record: Mapping[str, Any]) -> Envelope:
    """Read whose it is. Raises InvalidEvent: no event of its stream could be written, so nobody is told."""
    check_stream_name(record["tenant"], record["stream_id"])
    check_kind_name(record["kind"])
    check_origin(record["request_id"], record["task_id"], record["traceparent"], record["time_us"])
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
    """Read a request (a record of ``sluicegate.LlmRequest``), whoever wrote it: the edge is not the only one.

    Raises:
        InvalidEvent: no event of its stream could be written.
        CallRefused: a field cannot be used; nothing is called.
    """
    after = _one_of("after_content", record, get_args(AfterContent))
    on_invalid = _one_of("on_invalid", record, get_args(OnInvalid))
    messages = _array("messages", record["messages_json"], MESSAGES_MAX)
    for number, message in enumerate(messages):
        _check_message(f"messages[{number}]", message)
    if not messages and not record["prompt"]:
        raise CallRefused("messages", "there is nothing to ask: neither messages nor a prompt are given")
    for name in ("route", "model", "prompt", "prompt_label", "schema_name"):
        _check_name(name, record[name])
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
        deadline_ms=min(max(record["deadline_ms"], 0), DEADLINE_MS_MAX),
        after_content=after,
        side_effects=record["side_effects"],
        on_invalid=on_invalid,
        no_reset=record["no_reset"],
    )


def asks_of(record: Mapping[str, Any]) -> bytes:
    """Give a digest of what a request asks, whoever asks it and when: the same for the same question."""
    asked = {name: value for name, value in record.items() if name not in _ABOUT}
    return blake2b(repr(sorted(asked.items())).encode("utf-8", "replace"), digest_size=16).digest()


def _one_of(name: str, record: Mapping[str, Any], known: tuple[Any, ...]) -> Any:
    """Read a word that may be left out: None then."""
    value = record[name] or None
    if value is not None and value not in known:
        raise CallRefused(name, f"must be one of {', '.join(known)}, is {value!r:.40}")
    return value


def _check_name(where: str, value: Any) -> None:
    if not isinstance(value, str):
        raise CallRefused(where, "must be a name")
    if not value.isprintable() or len(value.encode()) > NAME_BYTES_MAX:
        raise CallRefused(where, f"is more than {NAME_BYTES_MAX} bytes, or cannot be shown")


def _check_message(where: str, message: Any) -> None:
    """Check what is read before a provider's shape reads the rest: ``providers/messages.py``."""
    if not isinstance(message, dict):
        raise CallRefused(where, "must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise CallRefused(f"{where}.role", f"must be one of {', '.join(ROLES)}, is {role!r:.40}")
    if message.get("tool_calls") and not isinstance(message["tool_calls"], list):
        raise CallRefused(f"{where}.tool_calls", "must be a list")
    if not isinstance(message.get("is_error", False), bool):
        raise CallRefused(f"{where}.is_error", "must be true or false")
    name = message.get("name", "")
    if not isinstance(name, str) or len(name) > SPEAKER_CHARACTERS_MAX:
        raise CallRefused(f"{where}.name", f"must be text of at most {SPEAKER_CHARACTERS_MAX} characters")
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return
    if not isinstance(content, list):
        raise CallRefused(f"{where}.content", "must be text, or a list of parts of type text or media")
    for number, part in enumerate(content):
        _check_part(f"{where}.content[{number}]", part)


def _check_part(where: str, part: Any) -> None:
    if not isinstance(part, dict) or part.get("type") not in ("text", "media"):
        raise CallRefused(where, "must be a part of type text or media")
    for name in ("text", "mime", "data", "url"):
        if not isinstance(part.get(name, ""), str):
            raise CallRefused(f"{where}.{name}", "must be text")
    if part.get("detail", "") not in DETAILS:
        raise CallRefused(f"{where}.detail", f"must be one of {', '.join(filter(None, DETAILS))}")


def _tool(where: str, value: Any) -> Tool:
    if not isinstance(value, dict) or not value.get("name"):
        raise CallRefused(f"{where}.name", "must be a name")
    _check_name(f"{where}.name", value["name"])
    parameters, description = value.get("parameters", {}), value.get("description", "")
    if not isinstance(parameters, dict):
        raise CallRefused(f"{where}.parameters", "must be a JSON schema")
    if not isinstance(description, str):
        raise CallRefused(f"{where}.description", "must be text")
    return Tool(value["name"], description, parameters)


def _variables(text: str) -> Mapping[str, str]:
    found = _object("variables", text)
    for name, value in found.items():
        if not isinstance(value, str):
            raise CallRefused(f"variables.{name[:40]}", "must be text")
    return found


def _params(text: str) -> Params:
    found = _object("params", text)
    if strange := found.keys() - _PARAMS:
        raise CallRefused(
            f"params.{min(strange)[:40]}", f"is not known; there are {', '.join(sorted(_PARAMS))}"
        )
    stop = found.get("stop") or ()
    stop = found["stop"] = (stop,) if isinstance(stop, str) else stop
    if (
        not isinstance(stop, list | tuple)
        or len(stop) > STOPS_MAX
        or not all(isinstance(each, str) and 0 < len(each) <= STOP_CHARACTERS_MAX for each in stop)
    ):
        raise CallRefused(
            "params.stop",
            f"must be text, or a list of at most {STOPS_MAX}, of 1 to {STOP_CHARACTERS_MAX} characters each",
        )
    found["stop"] = tuple(stop)
    for name, (kinds, low, high) in _NUMBERS.items():
        value = found.get(name)
        if value is None:
            continue
        if type(value) not in kinds or not low <= value <= high:
            raise CallRefused(f"params.{name}", f"must be a number from {low} to {high}, is {value!r:.40}")
    if found.get("reasoning", "") not in ("", "low", "medium", "high"):
        raise CallRefused("params.reasoning", "must be low, medium or high")
    _check_name("params.tool_choice", found.get("tool_choice", ""))
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
        return read_json(text)
    except ValueError as error:
        raise CallRefused(where, f"is not JSON that can be used: {error}") from None
