"""An answer in another's shape, as bytes of one HTTP response: as it comes, or all at once when it is whole.

The response's head waits for the first thing to say: what fails before it is answered with its own status,
as that shape's clients expect it.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from edge.llm.told import Done, Failure, Piece
from edge.sse import HEADERS, chunk, head_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.frame import Frame
    from edge.llm.told import Telling

WHOLE_CHARACTERS_MAX: Final = 8_388_608
"""Of an answer that is collected: what a stream of kind llm may hold is four times that."""
_numbers = count(1)


class Shape(Protocol):
    """How others' clients are spoken to; one for each answer, as it may remember what it said."""

    beat: bytes
    """A sign of life."""

    def begin(self) -> bytes:
        """Give what a stream begins with."""
        ...

    def piece(self, piece: Piece) -> bytes:
        """Give one piece."""
        ...

    def done(self, done: Done) -> bytes:
        """Give the end of a whole answer."""
        ...

    def failed(self, failure: Failure) -> bytes:
        """Give the end of an answer that broke off."""
        ...

    def whole(self, pieces: Sequence[Piece], done: Done) -> dict[str, object]:
        """Give an answer that is not streamed."""
        ...

    def problem(self, failure: Failure) -> dict[str, object]:
        """Give the body of an answer that is an error."""
        ...


@dataclass(frozen=True, slots=True)
class Http:
    """One response of HTTP/1.1, or of HTTP/1.0, where a stream ends with the connection."""

    headers: tuple[tuple[bytes, bytes], ...]
    chunked: bool

    def stream_head(self) -> bytes:
        """Begin a stream."""
        return head_of((*HEADERS, *self.headers), chunked=self.chunked)

    def framed(self, data: bytes) -> bytes:
        """Give a part of a stream as it goes over the wire."""
        return chunk(data) if self.chunked else data

    @property
    def last(self) -> bytes:
        """What ends a stream."""
        return b"0\r\n\r\n" if self.chunked else b""

    def whole(self, status: int, body: Mapping[str, object], *headers: tuple[bytes, bytes]) -> bytes:
        """Give a response that is no stream."""
        content = orjson.dumps(body)
        lines = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
            *headers,
            *self.headers,
        )
        first = b"HTTP/1.1 %d %b" % (status, phrase(status))
        return b"\r\n".join([first, *(b"%b: %b" % line for line in lines), b"", content])


class Answer:
    """What both ways have in common; an Encoder of one connection, given each frame once and in order."""

    stateful = True

    def __init__(self, shape: Shape, telling: Telling, http: Http) -> None:
        self.name = f"answer-{next(_numbers)}"
        """Of its own: what it says depends on what it has said, so nobody shares its bytes."""
        self.over = False
        """All was said."""
        self._shape = shape
        self._telling = telling
        self._http = http

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """See Encoder; may be empty."""
        raise NotImplementedError

    def beat(self) -> bytes:
        """Give a sign of life, if there can be one."""
        raise NotImplementedError

    def failed(self, failure: Failure) -> bytes:
        """End it as a failure."""
        raise NotImplementedError

    def _problem(self, failure: Failure) -> bytes:
        body = self._shape.problem(failure)
        return self._http.whole(failure.status, body, *(retry_headers(failure)))


class Streamed(Answer):
    """As it comes."""

    _begun = False

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """See Encoder."""
        said: list[bytes] = []
        for frame in () if self.over else frames:
            told = self._telling.take(frame)
            if isinstance(told, Piece):
                said.append(self._shape.piece(told))
            elif isinstance(told, Done):
                self.over = True
                return self._text(b"".join([*said, self._shape.done(told)])) + self._http.last
            elif told is not None:
                return self._text(b"".join(said)) + self.failed(told)
        return self._text(b"".join(said))

    def beat(self) -> bytes:
        """See Answer."""
        return self._text(self._shape.beat)

    def failed(self, failure: Failure) -> bytes:
        """See Answer."""
        self.over = True
        if not self._begun:
            return self._problem(failure)
        return self._text(self._shape.failed(failure)) + self._http.last

    def _text(self, text: bytes) -> bytes:
        if not text:
            return b""
        if self._begun:
            return self._http.framed(text)
        self._begun = True
        return self._http.stream_head() + self._http.framed(self._shape.begin() + text)


class Collected(Answer):
    """All at once."""

    def __init__(self, shape: Shape, telling: Telling, http: Http) -> None:
        super().__init__(shape, telling, http)
        self._pieces: list[Piece] = []
        self._characters = 0

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """See Encoder."""
        for frame in () if self.over else frames:
            told = self._telling.take(frame)
            if isinstance(told, Piece):
                self._pieces.append(told)
                self._characters += len(told.text)
                if self._characters > WHOLE_CHARACTERS_MAX:
                    return self.failed(Failure(502, "too_large", "the answer is too large to be collected"))
            elif isinstance(told, Done):
                self.over = True
                return self._http.whole(200, self._shape.whole(self._pieces, told))
            elif told is not None:
                return self.failed(told)
        return b""

    def beat(self) -> bytes:
        """See Answer: a response that has not begun cannot show that it will."""
        return b""

    def failed(self, failure: Failure) -> bytes:
        """See Answer."""
        self.over = True
        return self._problem(failure)


def retry_headers(failure: Failure) -> tuple[tuple[bytes, bytes], ...]:
    """Say whether the same question may be sent again: others' clients do so by themselves, and pay twice."""
    if failure.again:
        return ((b"retry-after", b"%d" % failure.retry_after_s), (b"x-should-retry", b"true"))
    return ((b"x-should-retry", b"false"),)


def phrase(status: int) -> bytes:
    """Give the words of a status."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Failed"
