"""The parts that each provider's file has, and nothing else of it is known outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.calls import Call, HttpCall, Shape, Target
    from connectors.llm.deltas import Delta, Failed, Named

Framing = Literal["sse", "ndjson"]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far an answer was read that its provider keeps."""

    answer_id: str
    after: int = -1
    """Number of the last event that was read whole; -1 = none was."""


class Normaliser(Protocol):
    """Makes deltas of one answer's events, in order; it keeps what it must remember of those before."""

    def take(self, event: str, data: str) -> Sequence[Delta]:
        """Take one event: its name (empty where the framing has none) and its data as text.

        What is not known is ``Alive``, what cannot be read is ``Failed("malformed")``, what is beyond a bound
        ``Failed("oversized")``: it never raises, and one delta comes of each event at the least. ``Over``
        comes only after ``Finished``. After ``Failed``, only ``Usage`` counts: some providers say what it
        took once they said that they failed.
        """
        ...

    def eof(self) -> Sequence[Delta]:
        """Say what the end of the body means: ``Over`` after a whole answer, else ``Failed("truncated")``."""
        ...

    @property
    def owes(self) -> bool:
        """Whether, behind a failure, an event is still to come that may say what the call took."""
        ...

    @property
    def cursor(self) -> Cursor | None:
        """Where another connection would go on with the answer; None = it is over, or nothing can."""
        ...

    def reconnected(self) -> None:
        """Take that the next event is another connection's: none may be missing, or be read twice."""
        ...


class Provider(Protocol):
    """One wire shape."""

    shape: Shape
    framing: Framing

    def request(self, call: Call, target: Target) -> HttpCall:
        """Make the request of a call: always streamed, usage always asked for.

        Raises:
            CallRefused: the shape cannot say what the call asks for.
        """
        ...

    def output_tokens_max(self, call: Call) -> int:
        """Give the longest answer that is reckoned with: as the call bounds it, else as it is assumed.

        It is what the request has as its bound, wherever it has one.
        """
        ...

    def named(self, headers: Mapping[str, str]) -> Named:
        """Read the provider's names from the headers of an answer (keys in lower case)."""
        ...

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        """Say what an answer of another status than 200 means."""
        ...

    def normaliser(self) -> Normaliser:
        """Give one for one answer."""
        ...


@runtime_checkable
class Keeping(Provider, Protocol):
    """A shape in which a provider keeps an answer that was asked for with ``background``."""

    def resume(self, cursor: Cursor, target: Target) -> HttpCall:
        """Make the request for all of an answer that is behind a cursor."""
        ...

    def drop(self, answer_id: str, target: Target) -> HttpCall:
        """Make the request that ends an answer which nobody reads: closing its connection does not."""
        ...
