"""What an edge shows of a stream, as the events of a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from schemas.published import published_from_shown, time_from_text
from schemas.recording import RecordedEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

INGESTS_REASON: Final = "missing_input"  # of the gaps that stand in the stream itself


class Recorder:
    """Takes the events of one stream in order; ``missing`` says what the edge declared as missing."""

    def __init__(self) -> None:
        self.events = 0
        self.ended = False
        self.missing: list[str] = []
        self._first_us: int | None = None
        self._at_ms = 0
        self._seq = -1

    def take(self, shown: Mapping[str, object]) -> RecordedEvent | None:
        """The recorded form of an event; None for what is no part of the stream.

        The cadence is that of the events' own times, so that a stream that ended long ago is recorded
        as it flowed; a time that goes back counts as none passed.
        """
        published = published_from_shown(shown)
        event_type, seq = str(published["type"]), published.get("seq")
        edges_own = event_type == "gap" and shown.get("reason") != INGESTS_REASON
        if edges_own or not isinstance(seq, int) or seq <= self._seq or "event_id" not in published:
            # Said by the edge to this one client, though it may stand at the number of what it stands for.
            if event_type == "gap":
                self.missing.append(f"seq {shown.get('from_seq')} to {shown.get('to_seq')}")
            self.ended |= event_type == "end"
            return None
        time_us = time_from_text(str(published["time"]))
        if self._first_us is None:
            self._first_us = time_us
        self._at_ms = max(self._at_ms, (time_us - self._first_us) // 1_000)
        self._seq = seq
        self.events += 1
        self.ended |= event_type == "end"
        return RecordedEvent(
            at_ms=self._at_ms,
            event_id=str(published["event_id"]),
            type=event_type,
            seq=seq,
            time=str(published["time"]),
            payload=published["payload"],
        )
