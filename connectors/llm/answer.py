"""One answer's body as deltas: its bytes cut to events, and those read by the provider's normaliser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectors.llm.deltas import Failed, Over, Usage
from connectors.llm.framing import EVENT_BYTES_MAX, Frame, framer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from connectors.llm.deltas import Delta
    from connectors.llm.framing import Framed
    from connectors.llm.provider import Provider


class Answer:
    """Reads one body; whatever its bytes are, ``eof`` leaves it with one ``Over`` or one ``Failed``.

    After that one comes nothing but ``Usage``: some providers count after they said that they failed.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        event_bytes_max: int = EVENT_BYTES_MAX,
        seen: Callable[[Framed], None] | None = None,
    ) -> None:
        """Begin; ``seen`` is told each event and comment before it is read: what a recording is made of."""
        self._framer = framer(provider.framing, event_bytes_max)
        self._normaliser = provider.normaliser()
        self._seen = seen
        self.closed = False
        """Whether ``Over`` or ``Failed`` was given."""

    def feed(self, chunk: bytes) -> Sequence[Delta]:
        """Take the next bytes, cut anywhere. Never raises."""
        return self._read(self._framer.feed(chunk))

    def eof(self) -> Sequence[Delta]:
        """Take the end of the body. Never raises."""
        return [*self._read(self._framer.eof()), *self._admitted(self._normaliser.eof())]

    def _read(self, framed: Iterable[Framed]) -> list[Delta]:
        out: list[Delta] = []
        for each in framed:
            if self._seen is not None:
                self._seen(each)
            taken = self._normaliser.take(*each) if isinstance(each, Frame) else (each,)
            out += self._admitted(taken)
        return out

    def _admitted(self, deltas: Iterable[Delta]) -> list[Delta]:
        out: list[Delta] = []
        for delta in deltas:
            if not self.closed:
                self.closed = isinstance(delta, Over | Failed)
                out.append(delta)
            elif isinstance(delta, Usage):
                out.append(delta)
        return out
