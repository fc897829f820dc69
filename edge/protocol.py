"""One client's connection as the server holds it: given up when what was written to it is never taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

log = structlog.get_logger(__name__)


def giving_up_after(stall_ms_max: int) -> type[HttpToolsProtocol]:
    """Make the protocol class for a server; a client may take nothing for twice as long as given here.

    The endpoints have that bound too, for what they write: they find a stall first and can say of whom.
    This one is for what is left then. Closing a transport waits for its buffer to empty, so a client that
    neither reads nor leaves would keep its socket for ever.
    """
    wait_s = 2 * stall_ms_max / 1_000

    class Protocol(HttpToolsProtocol):
        _watching: asyncio.TimerHandle | None = None
        _unsent_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs
            super().connection_made(transport)
            # So that any byte that is not taken counts as a pause.
            transport.set_write_buffer_limits(high=0)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch_no_more()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            self._watch_no_more()
            super().resume_writing()

        def _watch(self) -> None:
            self._unsent_bytes = self.transport.get_write_buffer_size()
            self._watching = self.loop.call_later(wait_s, self._look)

        def _watch_no_more(self) -> None:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None

        def _look(self) -> None:
            if self.transport.get_write_buffer_size() < self._unsent_bytes:
                self._watch()  # slow, but it reads
                return
            log.warning("connection_given_up", peer=self.client, unsent_bytes=self._unsent_bytes)
            self.transport.abort()

    return Protocol
