"""Questions to models that are refused, as lines for who runs the edge: whose, why and where, never what.

In a field's path stand members that a client made up, too, and in a tenant's name anything: only names of
ours are written, and ``*`` in place of others, so that nothing of what was asked is in a log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from edge.errors import RequestError
from edge.llm.anthropic_asked import MessagesRequest
from edge.llm.asked import PARTS_MAX, Asked
from edge.llm.openai_asked import ChatRequest
from schemas.envelope import check_stream_name
from schemas.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = structlog.get_logger(__name__)

LINES_MAX: Final = 60
"""Of ``WINDOW_S``: whoever sends nonsense by the thousand fills no disk."""
WINDOW_S: Final = 60.0
_STATUSES: Final = frozenset({400, 404, 413, 415, 422})
"""What the question is to blame for. Who may not ask is counted (``Gate.denied``)."""


class Refusals:
    """Writes them; of one edge. ``now_s`` is a monotonic time."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._since_s = now_s()
        self._lines = 0
        self._not_logged = 0

    def note(self, tenant: str, error: RequestError | InvalidEvent) -> None:
        """Write that a question of a tenant was refused, if it was to blame, and there is room for a line.

        The first line of a window tells how many of the windows before it had none.
        """
        status = error.status if isinstance(error, RequestError) else 400
        if status not in _STATUSES:
            return
        now_s = self._now_s()
        if now_s - self._since_s >= WINDOW_S:
            self._since_s, self._lines = now_s, 0
        if self._lines >= LINES_MAX:
            self._not_logged += 1
            return
        self._lines += 1
        more = {"not_logged_before": self._not_logged} if self._not_logged else {}
        self._not_logged = 0
        extra = error.extra if isinstance(error, RequestError) else {"field": error.field}
        log.info(
            "llm_question_refused",
            tenant=_tenant(tenant),
            status=status,
            code=extra.get("code", "invalid_request"),
            field=_path(str(extra.get("field") or "request")),
            **more,
        )


def _tenant(name: str) -> str:
    try:
        check_stream_name(name, "x")
    except InvalidEvent:
        return "*"
    return name


def _path(field: str) -> str:
    """Write names of ours, and places in lists of ours: other digits may be a name that a client made up."""
    parts = field.split(".")
    shown = (
        part if part in _MEMBERS or (_MEMBERS.get(before) and _is_index(part)) else "*"
        for before, part in zip(["", *parts], parts, strict=False)
    )
    return ".".join(shown)[:200]


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) <= len(str(PARTS_MAX))


def _members(schema: Any) -> Iterator[tuple[str, bool]]:
    """Give the names of all members in a JSON schema, and whether they may be lists."""
    if isinstance(schema, list):
        for part in schema:
            yield from _members(part)
    elif isinstance(schema, dict):
        for name, shape in schema.get("properties", {}).items():
            yield name, _may_be_a_list(shape)
        for part in schema.values():
            yield from _members(part)


def _may_be_a_list(shape: Mapping[str, Any]) -> bool:
    either = [*shape.get("anyOf", ()), *shape.get("oneOf", ())]
    return shape.get("type") == "array" or any(map(_may_be_a_list, either))


def _named() -> dict[str, bool]:
    named = {"request": False, "tenant": False}
    for shape in (Asked, ChatRequest, MessagesRequest):
        for name, is_list in _members(shape.model_json_schema(by_alias=True)):
            named[name] = named.get(name, False) or is_list
    return named


_MEMBERS: Final[Mapping[str, bool]] = _named()
"""Name of a member of ours → whether it may be a list."""
