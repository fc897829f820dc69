"""What is said over one WebSocket: streams subscribed to, and requests that are under way.

Writes to one stream are done in the order in which they were asked for; all else goes side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from websockets.frames import CloseCode

from edge.connection import ConnectionLimits
from edge.control import counted, known_stream, stream_to_cancel
from edge.delivery import Delivery
from edge.errors import Forbidden, HistoryUnavailable, RequestError
from edge.held_back import HELD_BACK_S_MAX, wait_for_credit
from edge.join import Joined
from edge.messages import WebSocketEncoder, error_of, malformed, read_message, refused_of
from edge.publish import Publisher, PublishRequest
from edge.slowing import TICK_S
from edge.sse import jittered
from schemas.envelope import check_stream_name, split_key
from schemas.errors import CursorError, InvalidEvent, SluicegateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection

    from edge.messages import Asked
    from edge.upgrade import WebSocketShare
    from edge.websocket import WebSocketConnection

log = structlog.get_logger(__name__)
_CHAT: Final = "chat"
_CHAT_ID_CHARACTERS_MIN: Final = 16
Message = dict[str, object]
Request = Callable[[], Coroutine[Any, Any, Message | None]]
"""Begins a request when its turn has come."""


class Conversation:
    """Of one connection."""

    __slots__ = (
        "_connection",
        "_deliveries",
        "_held_back",
        "_joining",
        "_last_writes",
        "_requests",
        "_share",
        "_tenants",
        "held_bytes",
    )

    def __init__(self, share: WebSocketShare, connection: WebSocketConnection) -> None:
        self._share = share
        self._connection = connection
        self._deliveries: dict[bytes, Delivery] = {}
        """By stream; who was written to longest ago first."""
        self._joining: dict[bytes, Asked] = {}
        """Subscriptions whose place is still looked for."""
        self._tenants: frozenset[str] = frozenset()
        """To whom the connection is counted for what it follows, beside the tenant of its token."""
        self._requests: set[asyncio.Task[None]] = set()
        self._last_writes: dict[bytes, asyncio.Task[None]] = {}
        self._held_back: dict[bytes, asyncio.Task[None]] = {}
        """By stream: the request to publish that waits for its credit; those behind it wait for it."""
        self.held_bytes = 0
        """Of the messages whose requests are under way."""

    @property
    def deliveries(self) -> Collection[Delivery]:
        """The streams subscribed to."""
        return self._deliveries.values()

    @property
    def under_way(self) -> bool:
        """Whether a request was not answered yet."""
        return bool(self._requests)

    @property
    def busy(self) -> bool:
        """Whether no further request can be taken now."""
        return len(self._requests) >= self._share.core.options.websocket_requests_max

    def take(self, data: bytes) -> None:
        """Take a client's message; what is wrong with it is answered, and the connection goes on."""
        try:
            data.decode()
        except UnicodeDecodeError:
            self._connection.fail(CloseCode.INVALID_DATA, "a text message is UTF-8", "protocol")
            return
        asked = None
        try:
            asked = read_message(data)
            self._do(asked)
        except SluicegateError as error:
            self._connection.say(error_of(error, asked))
        finally:
            self._share.core.metrics.messages.labels(asked.type if asked is not None else "malformed").inc()

    def delivered_end(self, delivery: Delivery) -> None:
        """Say that a stream has ended; the connection stays."""
        channel = delivery.subscriber.channel
        delivery.stop()
        del self._deliveries[channel.key]
        self._count_no_more(channel.tenant)
        self._connection.say({"type": "ended", "tenant": channel.tenant, "stream": channel.stream_id})

    def let_go(self, delivery: Delivery) -> None:
        """Say that a client was too slow for a stream, and is to subscribe again; the connection stays."""
        channel, cursor = delivery.subscriber.channel, delivery.cursor
        del self._deliveries[channel.key]
        self._count_no_more(channel.tenant)
        where = {"tenant": channel.tenant, "stream": channel.stream_id}
        place = {"cursor": cursor} if cursor else {}
        retry_ms = jittered(self._connection.retry_ms)
        self._connection.say({"type": "reconnect", **where, **place, "reason": "slow", "retry_ms": retry_ms})

    def had_turn(self, delivery: Delivery) -> None:
        """Let the others go first the next time."""
        key = delivery.subscriber.channel.key
        if key in self._deliveries:
            self._deliveries[key] = self._deliveries.pop(key)

    def _do(self, asked: Asked) -> None:
        if asked.type == "ping":
            self._connection.say({"type": "pong", **asked.place})
            return
        if asked.type == "auth":
            self._start(asked, partial(self._renew, asked))
            return
        check_stream_name(asked.tenant, asked.stream_id)
        if asked.type == "unsubscribe":
            self._unsubscribe(asked)
            return
        if self._connection.leaving is not None:
            raise RequestError(
                503,
                "Leaving",
                f"this edge is about to close the connection ({self._connection.leaving}); nothing was done",
                remedy="Ask again over the next connection.",
            )
        {
            "subscribe": self._subscribe,
            "publish": self._publish,
            "cancel": self._cancel,
            "chat": self._chat,
        }[asked.type](asked)

    async def _renew(self, asked: Asked) -> Message:
        """Go on as whom a new token says; streams that it does not allow are refused."""
        identity = await self._share.core.gate.identify_token(asked.text("token"))
        self._connection.authorise(identity)
        expires = {"expires_in_ms": identity.expires_in_ms} if isfinite(identity.expires_s) else {}
        return {"type": "auth_ack", **asked.place, **expires}

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """Stop a stream that its client may not have, or no longer; the connection stays."""
        channel = delivery.subscriber.channel
        delivery.stop("refused")
        self._deliveries.pop(channel.key, None)
        self._count_no_more(channel.tenant)
        where = {"tenant": channel.tenant, "stream": channel.stream_id}
        self._connection.say(refused_of(denied, where))

    # -- reading ----------------------------------------------------------------------------------------

    def _unsubscribe(self, asked: Asked) -> None:
        delivery = self._deliveries.pop(asked.key, None)
        if delivery is not None:
            delivery.stop("left")
        elif self._joining.pop(asked.key, None) is None:
            raise _not_subscribed(asked)
        self._count_no_more(asked.tenant)
        self._connection.say({"type": "unsubscribed", **asked.place})

    def _subscribe(self, asked: Asked) -> None:
        key, most = asked.key, self._share.core.options.websocket_subscriptions_max
        if key in self._deliveries or key in self._joining:
            raise RequestError(
                409,
                "Already subscribed",
                f"this connection follows {asked.tenant}/{asked.stream_id} already",
                remedy="Unsubscribe first, to begin elsewhere in it.",
            )
        if len(self._deliveries) + len(self._joining) >= most:
            raise RequestError(
                429,
                "Too many subscriptions",
                f"one connection follows at most {most} streams",
                remedy="Unsubscribe from one, or open another connection.",
            )
        try:  # before it is asked how full a tenant is: that is nobody else's to know
            self._share.admission.check_read(self._connection.identity, asked.tenant, asked.stream_id)
        except Forbidden as denied:
            self._connection.say(self._refused(asked, denied))
            return
        self._check_room()
        self._count(asked.tenant)
        self._joining[key] = asked
        self._start(asked, partial(self._join_counted, asked))

    def _check_room(self) -> None:
        core = self._share.core
        if core.hub.followers < core.options.websocket_streams_max:
            return
        core.quotas.hit("subscriptions", "")
        core.metrics.joins.labels("websocket", "overload").inc()
        raise RequestError(
            503,
            "Too many subscriptions",
            "the clients of this edge follow as many streams as it can keep places for",
            remedy="Subscribe again after retry_ms.",
            headers={"retry-after": str(self._share.admission.retry_after_s)},
        )

    def _count(self, tenant: str) -> None:
        """Count the connection to the tenant of a stream that it is to follow; once.

        A token of one tenant alone was counted with its connection.

        Raises:
            RequestError: 503, the tenant has all the connections that it may have.
        """
        core = self._share.core
        if tenant == self._connection.tenant or tenant in self._tenants:
            return
        if self._share.admission.is_full(tenant):
            core.metrics.joins.labels("websocket", "overload").inc()
            raise RequestError(
                503,
                "Too many connections",
                f"tenant {tenant} has all the connections that it may have here",
                remedy="Subscribe again after retry_ms.",
                headers={"retry-after": str(self._share.admission.retry_after_s)},
            )
        self._tenants |= {tenant}
        core.quotas.opened(tenant)

    def _count_no_more(self, tenant: str) -> None:
        """Take back ``_count``, if nothing of the tenant's is followed any more."""
        if tenant not in self._tenants:
            return
        if not any(split_key(key)[0] == tenant for key in (*self._deliveries, *self._joining)):
            self._tenants -= {tenant}
            self._share.core.quotas.closed(tenant)

    def left(self) -> None:
        """The connection is gone: it counts to nobody."""
        tenants, self._tenants = self._tenants, frozenset()
        for tenant in tenants:
            self._share.core.quotas.closed(tenant)

    async def _join_counted(self, asked: Asked) -> Message | None:
        try:
            return await self._join(asked)
        finally:
            self._count_no_more(asked.tenant)

    async def _join(self, asked: Asked) -> Message | None:
        admission = self._share.admission
        tenant, stream_id, text = asked.tenant, asked.stream_id, asked.text("cursor")
        try:
            cursor = admission.cursor(text, tenant, stream_id) if text else None
            joined = await admission.join(
                "websocket",
                tenant,
                stream_id,
                cursor,
                self._connection.name,
                identity=self._connection.identity,
            )
        except (CursorError, Forbidden) as error:
            return self._refused(asked, error) if self._still_wanted(asked) else None
        except BaseException:
            self._still_wanted(asked)
            raise
        wanted = self._still_wanted(asked)
        if not isinstance(joined, Joined):
            self._share.core.metrics.joins.labels("websocket", "over").inc()
            return {"type": "ended", **asked.place} if wanted else None
        if not wanted:
            self._share.core.hub.detach(joined.subscriber)
            return None
        try:
            joined = self._still_allowed(asked, joined)
        except Forbidden as denied:
            return self._refused(asked, denied)
        self._deliver(asked, joined)
        return None

    def _refused(self, asked: Asked, error: CursorError | Forbidden) -> Message:
        self._share.core.metrics.joins.labels("websocket", "refused").inc()
        return refused_of(error, asked.place)

    def _still_wanted(self, asked: Asked) -> bool:
        """End the looking; say whether its client still waits for it, and not for another place by now."""
        if self._joining.get(asked.key) is not asked:
            return False
        del self._joining[asked.key]
        return not self._connection.over

    def _still_allowed(self, asked: Asked, joined: Joined) -> Joined:
        """Judge once more, if a new token came while the stream was looked for. Raises Forbidden."""
        core, identity = self._share.core, self._connection.identity
        if joined.identity is identity:
            return joined
        try:
            self._share.admission.check_read(identity, asked.tenant, asked.stream_id)
        except Forbidden:
            core.hub.detach(joined.subscriber)
            raise
        return replace(joined, identity=identity)

    def _deliver(self, asked: Asked, joined: Joined) -> None:
        core, connection = self._share.core, self._connection
        encoder = WebSocketEncoder(core.json, asked.tenant, asked.stream_id)
        delivery = self._deliveries[asked.key] = Delivery(core, joined, encoder, connection)
        kind = core.joiner.kind_of(asked.key)
        if kind is not None:
            connection.keep_to(ConnectionLimits.of(kind), core.now_s())
        connection.say({"type": "subscribed", **asked.place})
        delivery.start()

    # -- writing ----------------------------------------------------------------------------------------

    def _publish(self, asked: Asked) -> None:
        publisher, core, wait = self._publisher(), self._share.core, asked.text("wait")
        if wait not in ("", "committed"):
            detail = f"publish: wait is 'committed' or absent, not {wait[:40]!r}"
            raise malformed("Bad member", detail, field="wait")
        kind = asked.text("kind") or core.joiner.kind_name(asked.key) or None
        request = self._request(asked, kind, wait=bool(wait))

        async def publish() -> Message:
            answer = await self._in_time(asked, partial(publisher.publish_values, request, asked.events))
            return {"type": "publish_ack", **asked.place, **_without_address(answer)}

        self._write(asked, publish)

    def _cancel(self, asked: Asked) -> None:
        publisher, core, identity = self._publisher(), self._share.core, self._connection.identity

        async def cancel() -> Message:
            entry = await stream_to_cancel(core, asked.tenant, asked.stream_id, identity)
            request = self._request(asked, entry.kind, wait=False)
            fields = {name: asked.text(name) for name in ("reason", "by") if asked.text(name)}
            answer = await publisher.publish_one(request, "cancel", fields)
            return {"type": "cancel_ack", **asked.place, **_without_address(answer)}

        self._write(asked, cancel)

    def _chat(self, asked: Asked) -> None:
        publisher, core, identity = self._publisher(), self._share.core, self._connection.identity
        event_id = asked.id
        if not isinstance(event_id, str) or len(event_id) < _CHAT_ID_CHARACTERS_MIN:
            raise RequestError(
                400,
                "Bad id",
                f"the id of a chat is a text of at least {_CHAT_ID_CHARACTERS_MIN} characters: it becomes "
                "the event's, and two people's '1' would be one message",
                remedy="Use a UUID, and the same one when you repeat the message.",
                extra={"field": "id"},
            )
        fields = {"text": asked.text("text"), "from": asked.text("from")}
        event = {"type": "message", "event_id": event_id, "payload": fields}

        async def chat() -> Message:
            entry = await known_stream(core, asked.tenant, asked.stream_id, identity.may_publish)
            if entry.kind != _CHAT:
                raise RequestError(
                    422,
                    "Wrong kind",
                    f"stream {asked.tenant}/{asked.stream_id} is of kind {entry.kind!r}, not of {_CHAT!r}",
                    remedy="Use publish for streams of other kinds.",
                )
            request = self._request(asked, _CHAT, wait=False)
            await self._in_time(asked, partial(publisher.publish_values, request, [event]))
            return {"type": "chat_ack", **asked.place, "event_id": event_id}

        self._write(asked, chat)

    async def _in_time(self, asked: Asked, publish: Callable[[], Awaitable[Message]]) -> Message:
        """Publish once stream and tenant may; till then the answer, the client's credit, is withheld.

        The socket is read on meanwhile, as far as ``requests_max`` goes: what is asked of other streams, a
        ``cancel``, a new token and a pong have nothing to do with who is slow.
        """
        slowing, key = self._share.core.slowing, asked.key
        until_s = self._share.core.now_s() + HELD_BACK_S_MAX
        while True:
            try:
                return await publish()
            except RequestError as refused:
                self._held_back[key] = cast("asyncio.Task[None]", asyncio.current_task())
                try:
                    await wait_for_credit(
                        refused, slowing, key, until_s=until_s, may_wait=self._may_hold_back
                    )
                finally:
                    del self._held_back[key]

    def _may_hold_back(self) -> bool:
        return self._connection.leaving is None and self._share.may_hold_back

    def drop_held_back(self) -> None:
        """Its client has left: what waits is not done, nor what stands behind it, or it would overtake it."""
        for task in self._held_back.values():
            task.cancel()

    def _request(self, asked: Asked, kind: str | None, *, wait: bool) -> PublishRequest:
        identity = self._connection.identity
        return PublishRequest(asked.tenant, asked.stream_id, kind, wait, identity, "websocket")

    def _publisher(self) -> Publisher:
        if self._share.publisher is None:
            raise RequestError(
                404,
                "Not served",
                "this edge plays a recording: it takes no events",
                remedy="Publish to an edge on Kafka.",
            )
        return self._share.publisher

    # -- requests under way -----------------------------------------------------------------------------

    def _write(self, asked: Asked, request: Callable[[], Coroutine[Any, Any, Message]]) -> None:
        """Start a request that appends, behind those to the same stream."""
        core = self._share.core
        self._start(asked, lambda: counted(core, request()), in_order=True)

    def _start(self, asked: Asked, request: Request, *, in_order: bool = False) -> None:
        before = self._last_writes.get(asked.key) if in_order else None
        task = asyncio.get_running_loop().create_task(self._answer(asked, request, before))
        self._requests.add(task)
        self.held_bytes += asked.size_bytes
        if in_order:
            self._last_writes[asked.key] = task
        task.add_done_callback(self._done(asked))

    async def _answer(self, asked: Asked, request: Request, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await self._turn(asked.key, before, passes_held_back=asked.type == "cancel")
        try:
            answer = await request()
        except (RequestError, InvalidEvent, HistoryUnavailable) as error:
            answer = error_of(error, asked)
        except Exception as error:
            log.exception("request_broke", type=asked.type, cause=str(error))
            hidden = RequestError(500, "Internal error", "the edge failed; its log says why")
            answer = error_of(hidden, asked)
        if answer is not None:
            self._connection.say(answer)
        if before is not None:  # what stands behind a cancel stands behind what that has passed, too
            await self._turn(asked.key, before)

    async def _turn(self, key: bytes, before: asyncio.Task[None], *, passes_held_back: bool = False) -> None:
        """Wait for a stream's write before this one; if that is dropped, this one is, too.

        Who asks that a stream be stopped does not wait for what is held back for its slow clients.
        """
        while not (before.done() or (passes_held_back and key in self._held_back)):
            await asyncio.wait({before}, timeout=TICK_S if passes_held_back else None)
        if before.cancelled() and not passes_held_back:
            raise asyncio.CancelledError

    def _done(self, asked: Asked) -> Callable[[asyncio.Task[None]], None]:
        def done(task: asyncio.Task[None]) -> None:
            self._requests.discard(task)
            self.held_bytes -= asked.size_bytes
            if self._last_writes.get(asked.key) is task:
                del self._last_writes[asked.key]
            self._connection.request_done()

        return done


def _not_subscribed(asked: Asked) -> RequestError:
    return RequestError(
        404,
        "Not subscribed",
        f"this connection does not follow {asked.tenant}/{asked.stream_id}",
        remedy="Nothing is to be done: no event of it comes.",
    )


def _without_address(answer: Message) -> Message:
    """Leave out what the message's own address says already."""
    return {name: value for name, value in answer.items() if name not in ("tenant", "stream_id")}
