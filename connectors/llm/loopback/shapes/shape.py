"""The parts of a wire shape as a provider speaks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connectors.llm import calls
    from connectors.llm.loopback.script import Asked, Script
    from connectors.llm.provider import Framing

Kind = Literal["start", "content", "finish", "usage", "done", "other"]
"""What an event is, for faults that stand before, after or in place of it. ``done`` is the shape's end mark;
where finish, usage and end are one event, it is ``done``."""
Said = tuple[str, Any]
"""An event's name, empty where there is none, and its value: to be written as JSON, or a text as it is."""

MESSAGES: Final = {
    "rate_limited": "Rate limit reached for requests.",
    "spend_limited": "This request would exceed your account's monthly spend limit.",
    "server": "The server had an error while processing your request.",
    "bad_gateway": "Bad gateway.",
    "overloaded": "The model is overloaded. Please try again later.",
    "unauthorized": "Incorrect API key provided.",
    "not_found": "The model does not exist.",
    "bad_request": "A parameter of the request is invalid.",
    "context_overflow": "The prompt is too long.",
    "moderated": "The prompt was refused by the content policy.",
}
"""Of answers of another status, where a shape has no words of its own for a client to go by."""


class Shape(Protocol):
    """One wire shape."""

    name: calls.Shape
    framing: Framing
    request_id_header: str
    """Empty: the shape has none."""

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        """Read a request. May raise whatever its hostile values lead to: it is answered with 400."""
        ...

    def lines(self, script: Script) -> Iterable[Said]:
        """Say a script."""
        ...

    def kind(self, event: str, value: Any) -> Kind:
        """Say what an event is; ``value`` is parsed where it is JSON, else text."""
        ...

    def without_usage(self, value: Any) -> Any:
        """Give the value without usage, None if nothing is left."""
        ...

    def given_up(self, value: Any) -> Any:
        """Give the value of an event that ends an answer as one that ends it before it is whole."""
        ...

    def failed(self) -> Iterable[Said]:
        """Say an error in band."""
        ...

    def ping(self) -> Said | None:
        """Say that the provider lives; None where the shape has comments alone."""
        ...

    def refused(self, fault: str, message: str, retry_after: str) -> tuple[int, Any]:
        """Give the status and the body of an answer that is none."""
        ...


def text_of(content: Any) -> str:
    """Read the text of a message: a text, or parts of which some have one."""
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in content or () if isinstance(part, dict) and "text" in part)


def dropped(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Give a copy without some names."""
    return {name: each for name, each in value.items() if name not in names}
