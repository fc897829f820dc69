"""Frames as JSON: made when the first client needs one, and shared by all transports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import structlog

from schemas.errors import SchemaError, WireError
from schemas.published import event_to_json, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.frame import Frame
    from schemas.payloads import PayloadCodec

log = structlog.get_logger(__name__)


class FrameJson:
    """Encodes frames as the flat JSON that clients read."""

    def __init__(self, payloads: PayloadCodec) -> None:
        self._payloads = payloads
        self.unreadable = 0
        """Frames whose payload could not be read."""

    def gaps_in(self, frames: Sequence[Frame]) -> int:
        """Count those among frames that were encoded which stand for a gap; at no cost while all are read."""
        return sum(frame.unreadable for frame in frames) if self.unreadable else 0

    def json(self, frame: Frame) -> bytes:
        """Give the frame's JSON, without a newline in it."""
        if frame.json is None:
            frame.json = self._encode(frame)
        return frame.json

    def _encode(self, frame: Frame) -> bytes:
        event = frame.event
        assert event is not None  # a declared frame brings its JSON with it
        shown: dict[str, Any]
        try:
            shown = event_to_json(event, self._payloads)
            return orjson.dumps(shown, default=str)
        except (WireError, SchemaError, orjson.JSONEncodeError) as error:
            # The event stands in its place in the log, but not for this client: that is a gap of one.
            self.unreadable += 1
            frame.unreadable = True
            log.error(  # noqa: TRY400  # the cause is the data, not this code
                "unreadable_payload", stream=event.full_id, seq=event.seq, cause=str(error)
            )
            shown = {
                "type": "gap",
                "seq": event.seq,
                "time": time_text(event.time),
                "from_seq": event.seq,
                "to_seq": event.seq,
                "count": 1,
                "reason": "unreadable",
                "event_id": event.event_id,
                "of_type": event.type,
            }
            return orjson.dumps(shown)
