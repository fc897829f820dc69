"""Deltas as events of the operation's stream, on their way to ``ingest``.

1. The first content goes out at once: somebody waits for it. 2. Then pieces of one block gather for
``flush_ms`` at most or ``flush_bytes``, whichever is first; another block, a finish, an error or a cancel
ends the gathering. 3. Each event goes to the idempotent producer at once, in order. 4. The ``end`` is not
sent from here: it goes out with the ledger's row and the offsets, when all that went before is acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from connectors.llm.clock import now_us
from schemas.envelope import SEQ_UNSET, UPSTREAM_BYTES_MAX, Event, fitting
from schemas.wire import avro_string

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from connectors.llm.deltas import Media, Piece
    from connectors.llm.ledger import Attempt
    from connectors.llm.options import FlushOptions
    from connectors.llm.request import Envelope
    from schemas.payloads import PayloadCodec
    from schemas.wire import EventTemplate, WireCodec

SOURCE: Final = "sluicegate/llm"
"""Source of the events that a worker writes: their usage stands on the ledger too, and is counted there."""
_CONTENTS: Final = frozenset({"token", "media", "structured"})
_SHORT: Final = 65_536
"""Characters of a piece that is surely within the bounds of a payload, as nearly all are."""


class Outlet(Protocol):
    """Where a stream's events go."""

    def send(self, key: bytes, value: bytes, partition: int) -> None:
        """Have a record appended to ``ingest``'s input, after those sent before."""
        ...


class Emitter:
    """Writes one operation's events; belongs to the loop."""

    def __init__(
        self,
        to: Envelope,
        partition: int,
        outlet: Outlet,
        wire: WireCodec,
        payloads: PayloadCodec,
        flush: FlushOptions,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._to = to
        self._partition = partition
        self._outlet = outlet
        self._wire = wire
        self._payloads = payloads
        self._flush_us = flush.flush_ms * 1_000
        self._flush_bytes = flush.flush_bytes
        self._loop = loop
        self.epoch = 0
        self._attempt = 0
        self.first_attempt = 1
        """Number on the ledger of the stream's first attempt, which is 0 in its events."""
        self._upstream_id = ""
        self._events = 0
        """Events under this epoch; names the next."""
        self._supersedes = ""
        """Why the next content supersedes all before it; empty = it does not."""
        self._block: Piece | None = None
        self._texts: list[str] = []
        self._size = 0
        """UTF-8 of what has gathered."""
        self._since_us = 0
        self._due: asyncio.TimerHandle | None = None
        self._had_content = False
        self._template: tuple[Piece, bytes, EventTemplate] | None = None
        """A block, what follows the text in its tokens' payloads, and their envelope."""
        self._held: list[tuple[bytes, bool]] | None = None
        """Events that are held back, and whether each is content; None = none is."""
        self.sent_content = False
        """Whether content was sent, which clients may have."""

    def open(self) -> None:
        """Open the stream, if whoever asked has not."""
        if not self._to.opened:
            self._send("open", {}, self._to.time_us, event_id="open")

    def begin(self, attempt: Attempt) -> None:
        """Go on with another attempt's output; its first content goes out at once again."""
        self.flush()
        self._supersedes = ""
        self._attempt = attempt.attempt - self.first_attempt
        self._upstream_id = ""
        self._template = None
        self._had_content = False

    def raise_epoch(self, epoch: int) -> None:
        """Write under this epoch: what a dead owner may still write is of a lower one, and is refused."""
        self.drop()
        self.epoch, self._events = epoch, 0
        self._template = None

    def supersede(self, reason: str) -> None:
        """Have the next content supersede all before it; until there is some, what clients have stays."""
        self._supersedes = reason

    @property
    def content_epoch(self) -> int:
        """Epoch of the next content."""
        return self.epoch + bool(self._supersedes)

    def supersede_now(self) -> None:
        """Say that what came is superseded, if it is to be: content follows, or the answer is whole."""
        reason, self._supersedes = self._supersedes, ""
        if reason:
            self.reset(reason)

    def reset(self, reason: str) -> None:
        """Say that all content so far is superseded; what follows is of the next epoch."""
        self.raise_epoch(self.epoch + 1)
        # The open is seq 0, and the only event that stays.
        self._send("reset", {"from_seq": 1, "reason": reason}, now_us())

    def named(self, upstream_id: str) -> None:
        """Name the provider's call in the events that follow, of which ingest would refuse any other name."""
        self._upstream_id = fitting(upstream_id, UPSTREAM_BYTES_MAX)
        self._template = None

    def piece(self, piece: Piece) -> None:
        """Take a piece of content."""
        block = self._block
        if block is not None and not _joins(block, piece):
            self.flush()
            block = None
        if block is None:
            self._block = piece
            self._since_us = now_us()
        self._texts.append(piece.text)
        text = piece.text
        self._size += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if not self._had_content or self._size >= self._flush_bytes:
            self._had_content = True
            self.flush()
        elif self._due is None:
            # All answers flush at the same ticks of the clock: their events share requests and transactions.
            left_us = self._flush_us - self._since_us % self._flush_us
            self._due = self._loop.call_later(left_us / 1e6, self.flush)

    def media(self, media: Media) -> None:
        """Send a piece of sound or picture."""
        self.flush()
        self.supersede_now()
        self._had_content = True
        fields = {"mime": media.mime, "index": media.index, "data": media.data, "reference": media.reference}
        self._send("media", fields, now_us())

    def data(self, type_name: str, fields: Mapping[str, Any]) -> None:
        """Send another event of the operation: usage, structured."""
        self.flush()
        if type_name == "structured":
            self.supersede_now()
        self._send(type_name, fields, now_us())

    def flush(self) -> None:
        """Send what has gathered."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        block = self._block
        if block is None:
            return
        text = "".join(self._texts) if len(self._texts) > 1 else self._texts[0]
        self._forget()
        self.supersede_now()
        if len(text) <= _SHORT:
            self._token(block, text, self._since_us)
        else:
            self._send("token", _token_fields(block, text), self._since_us)

    def drop(self) -> None:
        """Forget what has gathered: it is superseded."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._forget()

    def hold(self) -> None:
        """Send nothing until ``release``; whoever calls sees to it that little comes meanwhile."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Send what was held back, and what comes."""
        held, self._held = self._held or (), None
        for value, is_content in held:
            self._out(value, is_content=is_content)

    def forget_held(self) -> None:
        """Have what is held back never be sent."""
        self.drop()
        if self._held is not None:
            self._held = []

    def end(self, reason: str, message: str) -> bytes:
        """Give the value of the stream's ``end``, which is sent with what settles it."""
        return self._value("end", {"reason": reason, "message": message}, now_us(), f"{self.epoch}.end")

    def value(self, type_name: str, fields: Mapping[str, Any]) -> bytes:
        """Give the value of another event that is sent with the ``end``, before it."""
        return self._value(type_name, fields, now_us(), f"{self.epoch}.{type_name}")

    def _forget(self) -> None:
        self._block = None
        self._texts = []
        self._size = 0

    def _token(self, block: Piece, text: str, time_us: int) -> None:
        """Send a short token: the same to the byte as ``_send`` would, with what stays written once."""
        template = self._template
        if template is None or not _joins(template[0], block):
            payload, schema = self._payloads.encode("token", _token_fields(block, ""))
            envelope = self._wire.template(self._event("token", "", 0, payload, schema))
            template = self._template = block, payload.removeprefix(avro_string("")), envelope
        self._out(template[2].write(self._next_id(), time_us, avro_string(text) + template[1]))

    def _send(
        self, type_name: str, fields: Mapping[str, Any], time_us: int, *, event_id: str | None = None
    ) -> None:
        value = self._value(type_name, fields, time_us, self._next_id() if event_id is None else event_id)
        self._out(value, is_content=type_name in _CONTENTS)

    def _out(self, value: bytes, *, is_content: bool = True) -> None:
        if self._held is not None:
            self._held.append((value, is_content))
            return
        self.sent_content = self.sent_content or is_content
        self._outlet.send(self._to.key, value, self._partition)

    def _next_id(self) -> str:
        event_id = f"{self.epoch}.{self._events}"
        self._events += 1
        return event_id

    def _value(self, type_name: str, fields: Mapping[str, Any], time_us: int, event_id: str) -> bytes:
        payload, schema = self._payloads.encode(type_name, fields)
        return self._wire.encode_event(self._event(type_name, event_id, time_us, payload, schema))

    def _event(self, type_name: str, event_id: str, time_us: int, payload: bytes, schema: int) -> Event:
        to = self._to
        return Event(
            event_id=event_id,
            tenant=to.tenant,
            stream_id=to.stream_id,
            seq=SEQ_UNSET,
            kind=to.kind,
            type=type_name,
            time=time_us,
            source=SOURCE,
            request_id=to.request_id,
            task_id=to.task_id,
            upstream_id=self._upstream_id,
            traceparent=to.traceparent,
            epoch=self.epoch,
            attempt=self._attempt,
            payload=payload,
            payload_schema=schema,
        )


def _token_fields(block: Piece, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "index": block.index,
        "channel": block.channel,
        "call_id": block.call_id,
        "tool": block.tool,
    }


def _joins(block: Piece, piece: Piece) -> bool:
    return (
        block.channel == piece.channel
        and block.index == piece.index
        and block.call_id == piece.call_id
        and block.tool == piece.tool
    )
