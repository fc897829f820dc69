"""Late events: what came after its window had closed, kept with its bytes and with how late it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipelines.tools import fitting, short_text

if TYPE_CHECKING:
    from schemas.record import Record
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec
    from state.effects import Append

SUBJECT: Final = "sluicegate.LateEvent"
_NAME_CHARACTERS_MAX: Final = 256
_DETAIL_CHARACTERS_MAX: Final = 1_024
# What an event holds besides key and value: texts, at most four bytes a character, a topic's name, numbers.
_REST_BYTES_MAX: Final = 4 * (_DETAIL_CHARACTERS_MAX + _NAME_CHARACTERS_MAX) + 1_024


@dataclass(slots=True)
class LateEventMaker:
    """Satisfies ``state.effects.LateEvents`` for one topic.

    It never raises and always fits its topic, as a dead letter does, for it is appended in the unit of work
    of what was in time.
    """

    codec: WireCodec
    topic: TopicSpec

    def __post_init__(self) -> None:
        """Fetch the schema; blocks, raises as ``WireCodec.warm``."""
        self.codec = self.codec.limited(self.topic.max_message_bytes)
        self.codec.warm((SUBJECT,))

    def event(self, record: Record, *, agent: str, time_us: int, watermark_us: int, detail: str) -> Append:
        """Return what to append for ``record``: bytes, coordinates, event time and watermark."""
        late = {
            "agent": short_text(agent, _NAME_CHARACTERS_MAX),
            "detail": short_text(detail, _DETAIL_CHARACTERS_MAX),
            "event_time_us": time_us,
            "watermark_us": watermark_us,
        }
        return fitting(self.codec, self.topic, SUBJECT, record, late, _REST_BYTES_MAX)
