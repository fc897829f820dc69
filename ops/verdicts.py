"""What ingest decided on published events, as an edge tells it to who waited for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one event: ``accepted``, one of the refusals, or ``pending`` when none came in time."""

    event_id: str
    name: str
    detail: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the event is in the stream; a duplicate is in it already."""
        return self.name in ("accepted", "duplicate")

    @property
    def pending(self) -> bool:
        """Whether nobody decided yet."""
        return self.name == "pending"


def verdicts_of(answer: Mapping[str, object]) -> list[Verdict]:
    """The verdicts of an answer to a publish that waited; none if it did not."""
    verdicts = answer.get("verdicts")
    if not isinstance(verdicts, list):
        return []
    return [
        Verdict(str(item.get("event_id", "")), str(item.get("verdict", "")), str(item.get("detail") or ""))
        for item in verdicts
        if isinstance(item, dict)
    ]
