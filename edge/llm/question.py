"""A question in another's shape, as it is asked of us; and what of ours a client of that shape may add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from edge.llm.asked import DEADLINE_MS_MAX, Label, Name, Shape, Text

if TYPE_CHECKING:
    from edge.llm.asked import Asked


class Extras(Shape):
    """The member ``sluicegate`` of a request, which others' clients send as an extra field of the body."""

    route: Name | None = Field(default=None, description="Route; absent = the model's own, else the default.")
    prompt: Label = ""
    prompt_label: Name = "production"
    variables: dict[Name, Text] = Field(default={}, max_length=100)
    after_content: Literal["surface", "continue"] = Field(
        default="surface", description="What was shown cannot be taken back, so it may not be begun anew."
    )
    deadline_ms: int = Field(default=0, ge=0, le=DEADLINE_MS_MAX)
    side_effects: bool = False
    on_invalid: Literal["report", "fail"] | None = Field(
        default=None, description="What an answer that breaks its schema leads to."
    )
    stream_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    title: str = Field(default="", max_length=256)
    request_id: Label = ""
    task_id: Label = ""
    cancel_on_disconnect: bool = Field(
        default=False, description="A client that leaves cancels its question."
    )

    def asked(self) -> dict[str, Any]:
        """Give them as fields of ``Asked``."""
        fields = self.model_dump(exclude={"cancel_on_disconnect"}, exclude_defaults=True)
        return fields | {"after_content": self.after_content, "no_reset": True}


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, and how it is to be answered."""

    asked: Asked
    model: str
    """As the client named it, and is answered."""
    streamed: bool
    include_usage: bool
    extras: Extras
