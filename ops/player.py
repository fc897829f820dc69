"""A recording played again as a new stream: other ids, other times, the same payloads and cadence."""

from __future__ import annotations

import asyncio
import hashlib
import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from ops.client import REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX
from ops.errors import StreamNotOurs
from ops.verdicts import verdicts_of
from schemas.envelope import RESERVED_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ops.client import EdgeClient
    from schemas.recording import RecordedEvent

_TOTALS: Final = ("events", "bytes")  # of an end: ingest counts them anew


@dataclass(frozen=True, slots=True)
class DueEvent:
    """An event of the new stream, and how long after the first it is to be sent."""

    after_s: float
    type: str
    body: bytes


class Rewriter:
    """Makes the new stream's events out of a recording's.

    Ids follow from the new stream's id and the old event's, so playing the same recording as the same
    stream twice doubles nothing. What only sluicegate may say (a gap) is left out, and the numbers after
    it close up, those that a ``reset`` names with them. An edge shows no epochs, so each ``reset`` raises
    the new stream's, as ingest demands.
    """

    def __init__(self, stream_id: str, *, speed: float, start_us: int) -> None:
        self._stream_id = stream_id
        self._speed = speed
        self._start_us = start_us
        self._kept: list[int] = []
        self._epoch = 0

    def rewrite(self, events: Iterable[RecordedEvent]) -> Iterator[DueEvent]:
        """The new stream's events, in order."""
        for event in events:
            if event.type in RESERVED_TYPES:
                continue
            if not self._kept and event.type != "open":
                self._kept.append(-1)  # its open was beyond the retention when it was recorded
                yield self._make(event, "open", "opened", {"title": f"replay from seq {event.seq} on"})
            self._kept.append(event.seq)
            self._epoch = max(self._epoch + (event.type == "reset"), event.epoch)
            yield self._make(event, event.type, event.event_id, self._payload(event))

    def stopped(self, seq: int) -> bytes:
        """An end for a player who was stopped before the event of this number."""
        payload = {"reason": "cancelled", "message": "the replay was stopped"}
        name = f"{self._stream_id}\0stopped\0{seq}".encode()
        return orjson.dumps(
            {
                "event_id": hashlib.blake2b(name, digest_size=16).hexdigest(),
                "seq": seq,
                "type": "end",
                "epoch": self._epoch,
                "payload": payload,
            }
        )

    def _payload(self, event: RecordedEvent) -> dict[str, object]:
        payload = dict(event.payload)
        if event.type == "end":
            return {name: value for name, value in payload.items() if name not in _TOTALS}
        if event.type == "reset" and isinstance(payload.get("from_seq"), int):
            payload["from_seq"] = bisect_left(self._kept, payload["from_seq"])
        return payload

    def _make(self, event: RecordedEvent, event_type: str, old_id: str, payload: object) -> DueEvent:
        after_s = event.at_ms / 1_000 / self._speed if self._speed > 0 else 0.0
        name = f"{self._stream_id}\0{old_id}".encode()
        return DueEvent(
            after_s,
            event_type,
            orjson.dumps(
                {
                    "event_id": hashlib.blake2b(name, digest_size=16).hexdigest(),
                    "seq": len(self._kept) - 1,
                    "type": event_type,
                    "time": self._start_us + int(after_s * 1_000_000),
                    "epoch": self._epoch,
                    "attempt": event.attempt,
                    **event.texts,
                    "payload": payload,
                }
            ),
        )


class Player:
    """Sends due events to an edge; what falls due while a request is under way goes with the next."""

    def __init__(self, client: EdgeClient, stream_id: str, kind: str) -> None:
        self._client = client
        self._stream_id = stream_id
        self._kind = kind
        self._sending = False
        self.sent = 0
        self.ended = False

    async def play(self, events: Iterable[DueEvent]) -> None:
        """Play to the end; raises StreamNotOurs, Refused and EdgeUnreachable."""
        started = time.monotonic()
        batch: list[DueEvent] = []
        size = 0
        for event in events:
            full = len(batch) == REQUEST_EVENTS_MAX or size + len(event.body) + 1 > REQUEST_BYTES_MAX
            early = started + event.after_s > time.monotonic()
            # Open and end go alone, since each waits for its verdict.
            if batch and (full or early or event.type == "end" or batch[0].type == "open"):
                await self._send(batch)
                batch, size = [], 0
            await asyncio.sleep(max(0.0, started + event.after_s - time.monotonic()))
            batch.append(event)
            size += len(event.body) + 1
        if batch:
            await self._send(batch)

    async def stop(self, rewriter: Rewriter) -> None:
        """End the stream for its readers, unless a request was under way: what became of it is not known."""
        if self.sent and not self.ended and not self._sending:
            await self._client.publish(self._stream_id, [rewriter.stopped(self.sent)], kind=self._kind)

    async def _send(self, batch: list[DueEvent]) -> None:
        wait = batch[0].type in ("open", "end")
        self._sending = True
        answer = await self._client.publish(
            self._stream_id, [event.body for event in batch], kind=self._kind, wait=wait
        )
        self._sending = False
        for verdict in verdicts_of(answer):
            if not verdict.accepted and not verdict.pending:
                raise StreamNotOurs(self._stream_id, verdict.name, verdict.detail)
        self.sent += len(batch)
        self.ended |= batch[-1].type == "end"
