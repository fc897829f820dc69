"""WebSocket: one connection, which hears its client piece by piece and never more than it can hold.

Frames are parsed by ``websockets``; what is said is written as it is made, since a server's frames are
neither masked nor bound to what went before. What a client sends is taken no faster than its bounds allow:
beyond them the socket is not read, and TCP holds the client back.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Final

import structlog
from websockets.frames import CloseCode, Opcode
from websockets.frames import Frame as WireFrame
from websockets.protocol import OPEN

from edge.connection import Connection, ConnectionLimits, Leaving
from edge.conversation import Conversation
from edge.messages import PING, text_frame
from edge.sse import jittered

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from websockets.server import ServerProtocol

    from edge.delivery import Delivery
    from edge.errors import Forbidden
    from edge.upgrade import WebSocketShare

log = structlog.get_logger(__name__)
_PIECE_BYTES: Final = 4_096
"""Parsed at a time: at most 680 frames, some 4 ms."""
_FREE_BYTES: Final = 16_384
"""What a connection may hold of its client's words whatever the others hold: as much as a request's head."""
_LINGER_S: Final = 5.0
"""How long a client may take to answer the end of a connection."""
_CLOSE_CODES: Final[Mapping[str, CloseCode]] = {
    "drain": CloseCode.SERVICE_RESTART,
    "life": CloseCode.SERVICE_RESTART,
    "expired": CloseCode.POLICY_VIOLATION,
    "revoked": CloseCode.POLICY_VIOLATION,
}
"""Why the edge closes; all else is ``TRY_AGAIN_LATER``."""


class WebSocketConnection(Connection):
    """Frames of one connection, its pace, its signs of life and its end; ``Conversation`` is what is said."""

    transport_name = "websocket"
    __slots__ = (
        "_allowance",
        "_allowed_s",
        "_closing",
        "_conversation",
        "_fragments",
        "_frames",
        "_head",
        "_heard_s",
        "_held_bytes",
        "_inbox",
        "_later",
        "_partial_bytes",
        "_partial_s",
        "_pinged_s",
        "_reading",
        "_share",
        "_turn",
        "_unanswered_s",
        "_ws",
    )

    def __init__(
        self,
        share: WebSocketShare,
        ws: ServerProtocol,
        name: str,
        limits: ConnectionLimits,
        *,
        head: bytes,
    ) -> None:
        super().__init__(share.core, name, limits)
        self._share = share
        self._ws = ws
        self._head = head
        self._conversation = Conversation(share, self)
        self._turn = asyncio.Lock()
        self._inbox = bytearray()
        self._frames: list[WireFrame] = []
        """Not dealt with yet, the first one last; a deque would take 700 bytes of every connection."""
        self._fragments: bytearray | None = None
        self._partial_bytes = 0
        """Of a frame that is not whole yet."""
        self._partial_s = 0.0
        """When the message that is not whole yet began; 0 = there is none."""
        self._held_bytes = 0
        self._allowance = float(self._core.options.websocket_messages_per_s_max)
        self._allowed_s = self._heard_s = self._pinged_s = self.opened_s
        self._unanswered_s = 0.0
        """When the first ping was sent that was not answered; 0 = all were."""
        self._reading = True
        self._later: asyncio.TimerHandle | None = None
        self._closing = False

    # -- what it says -----------------------------------------------------------------------------------

    @property
    def deliveries(self) -> Collection[Delivery]:
        """See Connection."""
        return self._conversation.deliveries

    @property
    def turn(self) -> asyncio.Lock:
        """See Connection."""
        return self._turn

    def begin(self) -> None:
        """See Connection."""
        options = self._core.options
        self.write(self._head)
        self._head = b""
        self.say(
            {
                "type": "connected",
                "heartbeat_ms": int(self._heartbeat_s * 1_000),
                "retry_ms": jittered(self.retry_ms),
                "limits": {
                    "message_bytes_max": options.request_bytes_max,
                    "messages_per_s_max": options.websocket_messages_per_s_max,
                    "subscriptions_max": options.websocket_subscriptions_max,
                    "requests_max": options.websocket_requests_max,
                    "events_max": options.request_events_max,
                },
            }
        )

    def say(self, message: Mapping[str, Any]) -> None:
        """Write a message about the connection; nothing once it is closing."""
        if not self.over:
            self._written_s = self._core.now_s()
            self.write(text_frame(self._share.dumps(message)))

    def beat(self) -> None:
        """See Connection."""
        self._pinged_s = self._core.now_s()
        self._unanswered_s = self._unanswered_s or self._pinged_s
        self.write(PING)

    def say_goodbye(self, reason: Leaving) -> None:
        """See Connection."""
        self.say({"type": "reconnect", "reason": reason, "retry_ms": jittered(self.retry_ms)})

    def say_expiring(self, expires_in_ms: int) -> None:
        """See Connection."""
        self.say({"type": "expiring", "expires_in_ms": expires_in_ms})

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """See Outlet."""
        self._conversation.refuse(delivery, denied)

    def let_go(self, delivery: Delivery) -> None:
        """See Outlet. The other streams stay: what holds the socket up may be none of theirs."""
        if not self.paused:
            self._conversation.let_go(delivery)

    def delivered_end(self, delivery: Delivery) -> None:
        """See Outlet."""
        self._conversation.delivered_end(delivery)

    def had_turn(self, delivery: Delivery) -> None:
        """See Connection."""
        self._conversation.had_turn(delivery)

    # -- what it hears ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._heard_s, self._unanswered_s = self._core.now_s(), 0.0
        self._inbox += data
        self.listen()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self.listen()

    def listen(self) -> None:
        """Take what has come, as far as the bounds allow; beyond them, read no more until they do."""
        while self._frames or self._inbox:
            if not self._may_listen():
                self._read_on(on=False)
                break
            if self._frames:
                self._hear(self._frames.pop())
            else:
                self._parse()
        else:
            self._read_on(on=True)
        self._weigh()

    def _parse(self) -> None:
        piece = bytes(self._inbox[:_PIECE_BYTES])
        del self._inbox[:_PIECE_BYTES]
        self._ws.receive_data(piece)
        frames = [event for event in self._ws.events_received() if isinstance(event, WireFrame)]
        self._send_out()
        if self._closing:
            return
        self._frames = frames[::-1]
        self._partial_bytes = 0 if frames else self._partial_bytes + len(piece)

    def _hear(self, frame: WireFrame) -> None:
        self._allowance -= 1
        if frame.opcode is Opcode.BINARY:
            self.fail(CloseCode.UNSUPPORTED_DATA, "send text messages of JSON", "unsupported")
        elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
            if frame.fin:
                self._partial_s = 0.0  # what is not whole now is another, which began behind it
            if not frame.fin and self._fragments is None:
                self._fragments = bytearray()
            if self._fragments is None:
                self._conversation.take(bytes(frame.data))
                return
            self._fragments += frame.data
            if frame.fin:
                whole, self._fragments = bytes(self._fragments), None
                self._conversation.take(whole)

    def _may_listen(self) -> bool:
        if self._closing:
            return True  # to nothing but the client's own end
        if self.paused or self._conversation.busy:
            return False
        options, now_s = self._core.options, self._core.now_s()
        rate = options.websocket_messages_per_s_max
        self._allowance = min(self._allowance + (now_s - self._allowed_s) * rate, float(rate))
        self._allowed_s = now_s
        if self._allowance < 1 and self._later is None:
            loop = asyncio.get_running_loop()
            self._later = loop.call_later((1 - self._allowance) / rate, self._listen_later)
        return self._allowance >= 1

    def _listen_later(self) -> None:
        self._later = None
        self.listen()

    def _read_on(self, *, on: bool) -> None:
        if on == self._reading or self.transport.is_closing():
            return
        self._reading = on
        (self.transport.resume_reading if on else self.transport.pause_reading)()

    def _weigh(self) -> None:
        """Count what is held of the client's words; together all connections hold so much and no more."""
        fragments = len(self._fragments) if self._fragments is not None else 0
        partial_bytes = self._partial_bytes + fragments
        self._partial_s = (self._partial_s or self._core.now_s()) if partial_bytes else 0.0
        held = len(self._inbox) + partial_bytes + self._conversation.held_bytes
        if self._closing:  # what it asked for before is done yet
            held = self._conversation.held_bytes
        grown, self._held_bytes = held - self._held_bytes, held
        self._share.held_bytes += grown
        if grown > 0 and held > _FREE_BYTES and self._share.is_full:
            self.fail(CloseCode.TRY_AGAIN_LATER, "too much is being sent to this edge", "overload")

    # -- its end ----------------------------------------------------------------------------------------

    def send_away(self, reason: Leaving) -> None:
        """See Connection. Requests under way are finished first, unless its client is no longer welcome."""
        if self._closing:
            return
        if reason in ("drain", "life") and self._conversation.under_way and not self.transport.is_closing():
            self._leaving = self._leaving or reason
            return
        super().send_away(reason)

    @property
    def over(self) -> bool:
        """Whether nothing more can be said."""
        return self._closing or self.transport.is_closing()

    @property
    def leaving(self) -> Leaving | None:
        """Why it is about to be closed, if so."""
        return self._leaving

    def request_done(self) -> None:
        """A request was answered: there is room for the next, or it was the last."""
        if self._leaving is not None and not self._conversation.under_way:
            self.send_away(self._leaving)
        if self.transport.is_closing():
            self._weigh()
        else:
            self.listen()

    def finish(self, reason: str) -> None:
        """See Connection. The client answers before the socket closes, or what it has not read is lost."""
        if self._ws.state is OPEN:
            self._ws.send_close(_CLOSE_CODES.get(reason, CloseCode.TRY_AGAIN_LATER), reason)
        self._close(reason)

    def fail(self, code: CloseCode, detail: str, reason: str) -> None:
        """Close for what the client did."""
        if not self._closing:
            self._inbox.clear()
            self._ws.fail(code, detail)
            self._close(reason)

    def _close(self, reason: str) -> None:
        """Write what is to be written at the end, and wait a little for the client's."""
        if self._closing:
            return
        self._closing, self._reason = True, reason
        for delivery in tuple(self.deliveries):
            delivery.stop(reason)
        self._conversation.drop_held_back()
        self._frames.clear()
        self._fragments, self._partial_bytes = None, 0
        self._send_out()
        self._weigh()
        if not self.transport.is_closing():
            self._core.wheel.put(self, self._core.now_s() + _LINGER_S)
            self._read_on(on=True)

    def _send_out(self) -> None:
        """Write what the protocol says by itself: pongs, and how it ends."""
        for data in self._ws.data_to_send():
            if data:
                self.write(data)
            elif self._ws.close_rcvd is not None:
                self._close("left")
                self.transport.close()
            else:
                self._close("protocol")
                if self.transport.can_write_eof():
                    self.transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._closing = True
        if self._later is not None:
            self._later.cancel()
        self._conversation.drop_held_back()
        self._weigh()
        super().connection_lost(exc)
        self._conversation.left()

    # -- its time ---------------------------------------------------------------------------------------

    def on_time(self, now_s: float) -> float:
        """See Timed."""
        options = self._core.options
        if self._closing:
            self.abort(self._reason)
            return now_s + _LINGER_S
        if self._is_dead(now_s):
            log.info("peer_dead", peer=self.name, subject=self.identity.shown)
            self.abort("dead")
            return now_s + _LINGER_S
        if self._partial_s and now_s - self._partial_s >= options.request_read_ms_max / 1_000:
            self.fail(CloseCode.POLICY_VIOLATION, "a message did not come in its time", "slow_message")
            return now_s + _LINGER_S
        due_s = super().on_time(now_s)
        return min(due_s, now_s + _LINGER_S) if self._closing else due_s

    def _is_dead(self, now_s: float) -> bool:
        """Whether a ping was not answered in its time, though we listened and all before it was taken."""
        return now_s >= self._answer_due_s and not self.paused

    @property
    def _answer_due_s(self) -> float:
        if not (self._unanswered_s and self._reading):
            return inf
        return self._unanswered_s + self._core.options.websocket_pong_ms_max / 1_000

    def _idle_since(self) -> float:
        # Events that are written say nothing of whether somebody is there: it is asked all the same.
        return max(self._heard_s, self._pinged_s)

    def _next_look(self, now_s: float) -> float:
        return min(super()._next_look(now_s), max(self._answer_due_s, now_s))

    def keep_to(self, limits: ConnectionLimits, since_s: float) -> None:
        """See Outlet; of several kinds that came to the connection the least counts."""
        now_s = self._core.now_s()
        self._heartbeat_s = min(self._heartbeat_s, limits.heartbeat_ms / 1_000)
        self._ends_s = min(self._ends_s, since_s + limits.life_ms_max / 1_000)
        self.retry_ms = min(self.retry_ms, limits.retry_ms)
        self.drain_ms = min(self.drain_ms, limits.drain_ms)
        self._look_again(now_s)
