"""Whether a client can be taken, and from where it is served: the same for every transport."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from edge.connection import ConnectionLimits
from edge.errors import RequestError
from edge.join import Joined
from edge.problems import code_of
from schemas.envelope import stream_key
from schemas.errors import CursorError

if TYPE_CHECKING:
    from edge.access.identity import Identity
    from edge.connection import Leaving
    from edge.core import EdgeCore
    from edge.join import Over
    from schemas.cursor import Cursor
    from schemas.kinds import Kind

_LOOK_S = 0.05
_UNKNOWN_LIFE_MS = 3_600_000


class Admission:
    """Decides for one edge."""

    def __init__(self, core: EdgeCore) -> None:
        self._core = core

    async def busy(self) -> Leaving | Literal[""]:
        """Say why no client can be taken now, after waiting a little for an edge that has just started."""
        core, loop = self._core, asyncio.get_running_loop()
        deadline = loop.time() + core.options.unready_wait_ms / 1_000
        # All who waited go on at one moment: whoever looked before has not seen the others.
        while not (why := self._why_not()) and not core.caught_up:
            if loop.time() >= deadline:
                return "unready"
            core.held += 1  # its socket is open all the while
            try:
                await asyncio.sleep(_LOOK_S)
            finally:
                core.held -= 1
        return why

    def _why_not(self) -> Leaving | Literal[""]:
        if self._core.draining:
            return "drain"
        return "overload" if self.has_no_room() else ""

    def has_no_room(self) -> bool:
        """Whether this process has all the connections that it may have; to be asked before each is made."""
        core = self._core
        if core.connections + core.held < core.options.connections_max:
            return False
        core.quotas.hit("connections", "")
        return True

    def is_full(self, tenant: str) -> bool:
        """Whether a tenant has all the connections that it may have; it may come again later, as if busy."""
        return self._core.quotas.is_full(tenant)

    @property
    def retry_after_s(self) -> int:
        """When one comes again who is told by a status that there is no room."""
        return max(2 * self._core.options.retry_ms // 1_000, 1)

    def cursor(self, text: str, tenant: str, stream_id: str) -> Cursor:
        """Read a cursor and count one that is refused. Raises MalformedCursor or ForeignCursor."""
        try:
            return self._core.joiner.cursor(text, tenant, stream_id)
        except CursorError as error:
            self._core.metrics.refused.labels(code_of(error)).inc()
            raise

    def cursor_still_held(self, text: str, tenant: str, stream_id: str, identity: Identity) -> Cursor:
        """Read a cursor of a client that is told by status what is wrong with it, and does not repeat it.

        Who may not have all kinds is told so of a stream of theirs alone: of others no status may say whether
        they exist.

        Raises:
            CursorError: it is malformed or foreign.
            RequestError: 410, what follows it is gone.
        """
        core, key, cursor = self._core, stream_key(tenant, stream_id), self.cursor(text, tenant, stream_id)
        kind = core.joiner.kind_name(key)
        if not identity.kinds.all and (not kind or identity.may_subscribe(tenant, stream_id, kind)):
            return cursor
        lost = core.joiner.lost(key, cursor, core.low_offset(cursor.partition))
        if lost is not None:
            core.metrics.refused.labels(lost.reason).inc()
            raise RequestError(
                410,
                "Cursor is too old",
                lost.detail,
                remedy="Join without a cursor: you are given what is left, and told of the gap.",
                extra={"code": lost.reason},
            )
        return cursor

    async def join(
        self,
        transport: str,
        tenant: str,
        stream_id: str,
        cursor: Cursor | None,
        name: str,
        *,
        identity: Identity,
        fresh: bool = False,
    ) -> Joined | Over:
        """Attach a client; whoever gets ``Joined`` detaches it from the hub in the end.

        The stream's kind is judged by ``Delivery``, whether it is known by now or not: a client is answered
        alike. ``fresh``: the name was made a moment ago, so there is nothing to look up.

        Raises:
            Forbidden: the client may not read the stream.
            Unauthenticated: its token has ended, or was revoked, a moment ago.
            HistoryUnavailable: it cannot be said now where the stream stands.
        """
        core, key = self._core, stream_key(tenant, stream_id)
        self.check_read(identity, tenant, stream_id)  # before anybody else's stream is looked for
        if not fresh:
            await core.find(key)
        if identity.may_subscribe(tenant, stream_id, core.joiner.kind_name(key)) is not None:
            cursor = None  # where it stands is not for this client to know: it is about to be refused
        beyond = cursor is not None and await core.is_beyond_the_log(cursor)
        if not fresh:
            await core.find(key)  # others were looked up meanwhile: it may have given way to them
        core.gate.check_still(identity)  # it may have been revoked while we waited, before it can be closed
        joined = core.joiner.join(tenant, stream_id, cursor, name=name, beyond=beyond)
        start = "open" if cursor is None else "resume"
        core.metrics.joins.labels(transport, start).inc()
        return replace(joined, identity=identity) if isinstance(joined, Joined) else joined

    def check_read(self, identity: Identity, tenant: str, stream_id: str, kind: str = "") -> None:
        """Raise Forbidden, counted, if somebody may not read a stream; without ``kind`` by its name alone."""
        denied = identity.may_subscribe(tenant, stream_id, kind)
        if denied is not None:
            self._core.gate.denied(denied)
            raise denied

    def limits(self, kind: Kind | None) -> ConnectionLimits:
        """What holds for a connection to streams of a kind; None = it is not known, or there is none yet.

        Once it is, ``Delivery`` has the connection keep to it.
        """
        if kind is None:
            options = self._core.options
            return ConnectionLimits(
                heartbeat_ms=options.idle_heartbeat_ms,
                retry_ms=options.retry_ms,
                life_ms_max=_UNKNOWN_LIFE_MS,
                drain_ms=options.drain_ms,
            )
        return ConnectionLimits.of(kind)
