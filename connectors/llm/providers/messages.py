"""A call's messages, checked once, for the shapes to write down each in its own way."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import orjson

from connectors.llm.calls import OUTPUT_TOKENS_ASSUMED, HttpCall
from connectors.llm.errors import CallRefused
from connectors.llm.nesting import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.calls import Call, Target

Role = Literal["system", "user", "assistant", "tool"]
_MIME: Final = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]{0,126}\Z")
_ANY_OF: Final = re.compile(r"[a-z]+/\*\Z")
"""Of what a URL gives one may know no more than that it is a picture."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z")


@dataclass(frozen=True, slots=True)
class Media:
    """A picture, a sound or a document; one of ``data`` (base64) and ``url`` is set."""

    mime: str
    data: str
    url: str
    where: str
    detail: str = ""
    """How closely a picture is looked at; empty = the provider's default."""

    @property
    def kind(self) -> str:
        """What it is: image, audio, video, application, text."""
        return self.mime.partition("/")[0]

    @property
    def data_url(self) -> str:
        """Give it as one text, for shapes that take no bytes apart."""
        return self.url or f"data:{self.mime};base64,{self.data}"

    def refused(self, shape: str, remedy: str) -> CallRefused:
        """Say that a shape cannot carry it."""
        how = "by URL" if self.url else "as data"
        return CallRefused(self.where, f"{shape} takes no {self.mime} {how}.", remedy)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the model called before."""

    call_id: str
    name: str
    arguments: str
    """JSON text of an object."""

    @property
    def object(self) -> Mapping[str, Any]:
        """Its arguments, read."""
        return cast("Mapping[str, Any]", orjson.loads(self.arguments))


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``parts`` are texts and media in their order."""

    role: Role
    parts: Sequence[str | Media]
    tool_uses: Sequence[ToolUse]
    call_id: str
    where: str
    is_error: bool = False
    """Of role tool: the call failed."""
    name: str = ""
    """Who of several in this role says it."""

    def only_text(self, shape: str) -> str:
        """Give its text. Raises CallRefused if there is more than text."""
        for part in self.parts:
            if isinstance(part, Media):
                problem = f"{shape} takes only text in a message of role {self.role}."
                raise CallRefused(part.where, problem, "Send media in a message of role user.")
        return "".join(cast("Sequence[str]", self.parts))


def messages_of(call: Call) -> Sequence[Message]:
    """Read a call's messages. Raises CallRefused, naming the message and the field."""
    if not call.model:
        raise CallRefused("model", "is empty.", "Name a model in the route.")
    out: list[Message] = []
    for index, value in enumerate(call.messages):
        out.append(_message(value, f"messages[{index}]"))
    if not any(each.role != "system" for each in out):
        raise CallRefused("messages", "there is none to be answered.", "Send one of role user at the least.")
    return _told_apart(out)


def _told_apart(messages: list[Message]) -> list[Message]:
    """Give each call of a tool an id of its own; an answer belongs to the nearest call before it.

    Where a provider names no calls they are counted within an answer, so that each turn has a ``call_0``.
    """
    taken: set[str] = set()
    now: dict[str, str] = {}
    out = []
    for message in messages:
        uses = []
        for use in message.tool_uses:
            own, number = use.call_id, 1
            while own in taken:
                own, number = f"{use.call_id}_{number}", number + 1
            taken.add(own)
            now[use.call_id] = own
            uses.append(use if own == use.call_id else replace(use, call_id=own))
        answered = now.get(message.call_id, message.call_id)
        changed = uses != message.tool_uses or answered != message.call_id
        out.append(replace(message, tool_uses=uses, call_id=answered) if changed else message)
    return out


def output_tokens_max(call: Call, thinking: int = 0) -> int:
    """Give the longest answer of a call; one without a bound may think for so many tokens more."""
    bound = call.params.max_output_tokens
    return OUTPUT_TOKENS_ASSUMED + thinking if bound is None else bound


def tool_names(messages: Sequence[Message]) -> Mapping[str, str]:
    """Give the names of the tools that were called, by the ids of the calls."""
    return {use.call_id: use.name for message in messages for use in message.tool_uses}


def request_to(target: Target, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> HttpCall:
    """Make the request; headers of the target win over the shape's. Raises CallRefused: it is no JSON."""
    sent = {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "accept-encoding": "identity",  # a compressor between holds back what was flushed
        **headers,
        **{name.lower(): value for name, value in target.headers.items()},
    }
    try:
        written = orjson.dumps(body)
    except TypeError as error:  # a lone surrogate, a number beyond 64 bits, an object of ours
        raise CallRefused("request", f"cannot be written as JSON: {error}.") from None
    return HttpCall(target.base_url.rstrip("/") + path, sent, written)


def given(**values: Any) -> dict[str, Any]:
    """Give those that are said: neither None nor empty."""
    return {name: value for name, value in values.items() if value is not None and value not in ("", [], {})}


def is_strict(schema: object) -> bool:
    """Say whether a schema is of OpenAI's strict subset as to objects: closed, and all properties required.

    A schema that is not is sent without ``strict``, as it would be refused with it.
    """
    if isinstance(schema, list):
        return all(is_strict(each) for each in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties")
        names = set(properties) if isinstance(properties, dict) else set()
        required = schema.get("required")
        if schema.get("additionalProperties") is not False:
            return False
        if names != set(required if isinstance(required, list) else ()):
            return False
    return all(is_strict(each) for each in schema.values())


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise CallRefused(where, "must be an object.")
    role = value.get("role")
    if role not in get_args(Role):
        raise CallRefused(f"{where}.role", f"must be one of {', '.join(get_args(Role))}, is {role!r:.40}.")
    content = value.get("content")
    if content is None:
        content = ""
    parts = [content] if isinstance(content, str) else _parts(content, f"{where}.content")
    tool_uses = _tool_uses(value.get("tool_calls"), f"{where}.tool_calls")
    call_id = value.get("tool_call_id") or ""
    if tool_uses and role != "assistant":
        raise CallRefused(f"{where}.tool_calls", f"a message of role {role} has none.")
    if not isinstance(call_id, str) or (role == "tool" and not call_id):
        raise CallRefused(f"{where}.tool_call_id", "must name the call that this answers.")
    said = [part for part in parts if part != ""]
    failed, name = value.get("is_error") is True, value.get("name") or ""
    return Message(cast("Role", role), said, tool_uses, call_id, where, failed, name)


def _parts(value: Any, where: str) -> list[str | Media]:
    if not isinstance(value, list):
        raise CallRefused(where, "must be text or a list of parts.")
    return [_part(each, f"{where}[{index}]") for index, each in enumerate(value)]


def _part(value: Any, where: str) -> str | Media:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text" and isinstance(value.get("text"), str):
        return str(value["text"])
    if kind != "media":
        raise CallRefused(
            where, 'must be {"type": "text", "text"} or {"type": "media", "mime", "data" or "url"}'
        )
    mime, data, url = (value.get(name) or "" for name in ("mime", "data", "url"))
    if not isinstance(mime, str) or not (_MIME.match(mime) or (url and _ANY_OF.match(mime))):
        raise CallRefused(f"{where}.mime", "must be a media type such as image/png.")
    if not isinstance(data, str) or not isinstance(url, str) or bool(data) == bool(url):
        raise CallRefused(where, "must have one of data and url.")
    if data and (len(data) % 4 or not _BASE64.match(data)):
        raise CallRefused(f"{where}.data", "must be base64.")
    if url and not url.startswith(("https://", "http://", "gs://")):
        raise CallRefused(f"{where}.url", "must begin with https://, http:// or gs://.")
    return Media(mime, data, url, where, value.get("detail") or "")


def _tool_uses(value: Any, where: str) -> list[ToolUse]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise CallRefused(where, "must be a list.")
    out: list[ToolUse] = []
    for index, each in enumerate(value):
        here = f"{where}[{index}]"
        if not isinstance(each, dict):
            raise CallRefused(here, "must be an object.")
        call_id, name, arguments = each.get("id"), each.get("name"), each.get("arguments", "{}")
        if not (isinstance(call_id, str) and call_id and isinstance(name, str) and name):
            raise CallRefused(here, "must have an id and a name.")
        try:
            written = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
            is_object = isinstance(read_json(written or "{}"), dict)
        except (TypeError, ValueError):
            is_object = False
        if not is_object:
            raise CallRefused(f"{here}.arguments", "must be JSON of an object.")
        out.append(ToolUse(call_id, name, written or "{}"))
    return out
