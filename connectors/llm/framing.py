"""A body's bytes as the events in it, as they come: server-sent events, or a JSON value a line.

httpx2 reads server-sent events too, but leaves out comments, which show that a provider lives, replaces bytes
that are not UTF-8 instead of telling of them, and raises where a body is too long: here that is one more
``Failed``, so that an attempt ends by one way whatever a provider sends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import orjson

from connectors.llm.deltas import Alive, Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.llm.deltas import ErrorClass
    from connectors.llm.provider import Framing

EVENT_BYTES_MAX: Final = 16 * 1_048_576
"""A picture of 4096 x 4096 in base64 is below it; a call holds so much only of a provider that means harm."""
RAW_CHARACTERS_MAX: Final = 2_000
"""So much of what cannot be read is told to the operator."""
_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    """One event: its name, empty where there is none, and its data as it came."""

    event: str
    data: str


Framed = Frame | Alive | Failed


class Framer(Protocol):
    """Splits one body. After a ``Failed`` it gives nothing more."""

    def feed(self, chunk: bytes) -> Sequence[Framed]:
        """Take the next bytes, cut anywhere, and give what they complete. Never raises."""
        ...

    def eof(self) -> Sequence[Framed]:
        """Give what the end of the body completes; a piece of an event is ``Failed("truncated")``."""
        ...


def framer(framing: Framing, event_bytes_max: int = EVENT_BYTES_MAX) -> Framer:
    """Give one for one body. An event of more bytes than ``event_bytes_max`` is oversized."""
    return _Events(event_bytes_max) if framing == "sse" else _Lines(event_bytes_max)


def clipped(raw: str) -> str:
    """Bound what a provider said in its own words."""
    return raw if len(raw) <= RAW_CHARACTERS_MAX else raw[: RAW_CHARACTERS_MAX - 1] + "…"


class _Lined:
    """Cuts bytes into lines (ended by CR LF, LF or CR, which a chunk may end between) and decodes them."""

    def __init__(self, event_bytes_max: int) -> None:
        self._bytes_max = event_bytes_max
        self._line = bytearray()
        self._held = 0
        """Size of the lines of an event that is not whole yet."""
        self._after_cr = False
        self._begun = False
        self._dead = False

    def feed(self, chunk: bytes) -> Sequence[Framed]:
        """See ``Framer``."""
        out: list[Framed] = []
        if not chunk:
            return out
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            if self._dead:
                break
            line = piece.rstrip(b"\r\n")
            if self._held + len(self._line) + len(line) > self._bytes_max:
                out.append(self._fail(f"an event of more than {self._bytes_max} bytes", "oversized"))
            elif len(line) == len(piece):
                self._line += line
            elif self._line:
                line = bytes(self._line) + line
                self._line.clear()
                self._decode(line, out)
            else:
                self._decode(line, out)
        return out

    def _rest(self, out: list[Framed]) -> None:
        """Take the last line, which nothing ends."""
        if self._line:
            line = bytes(self._line)
            self._line.clear()
            self._decode(line, out)

    def _decode(self, line: bytes, out: list[Framed]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            out.append(self._fail(f"bytes that are not UTF-8 ({error.reason}), in a line of {len(line)}"))
            return
        self._take(text, out)

    def _take(self, line: str, out: list[Framed]) -> None:
        raise NotImplementedError

    def _fail(self, what: str, error_class: ErrorClass = "malformed") -> Failed:
        self._dead = True
        self._line.clear()
        return Failed(error_class, clipped(what))


class _Events(_Lined):
    """Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.

    Some things differ from a browser's way. An event without its empty line is given at the end of the body
    if its data is whole JSON, for some servers leave that line out. JSON without ``data:`` before it is an
    event, for some tell an error so. Another line that cannot be a field (a page of HTML) is malformed, where
    a browser would see nothing at all.
    """

    def __init__(self, event_bytes_max: int) -> None:
        super().__init__(event_bytes_max)
        self._event = ""
        self._data: list[str] = []
        self._bare = False
        """Whether the lines are JSON itself."""

    def eof(self) -> Sequence[Framed]:
        """See ``Framer``."""
        out: list[Framed] = []
        self._rest(out)
        if self._dead:
            return out
        self._dead = True
        data = "\n".join(self._data)
        if self._data and (data == "[DONE]" or _is_json(data)):
            out.append(Frame(self._event, data))
        elif self._data or self._event:
            what = f"the body ended within an event, after {len(data)} characters of it"
            out.append(Failed("truncated", what))
        return out

    def _take(self, line: str, out: list[Framed]) -> None:
        if not line:
            if self._data:
                out.append(Frame(self._event, "\n".join(self._data)))
                self._data = []
            elif self._event:
                out.append(Alive(self._event))
            self._event = ""
            self._held = 0
            self._bare = False
            return
        if self._bare or (line[0] in "{[" and not self._data):
            self._bare = True
            self._hold(line)
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._hold(value)
        elif name == "event":
            self._event = value
        elif name == "error":  # llama.cpp's own field, which a browser would pass over
            self._event = name
            self._hold(value)
        elif not name:
            out.append(Alive(clipped(line[1:])))
        elif _FIELD.match(name):
            out.append(Alive(clipped(line)))
        else:
            out.append(self._fail(f"a line of {len(line)} characters that is no server-sent event"))

    def _hold(self, value: str) -> None:
        self._data.append(value)
        self._held += len(value) + 1


class _Lines(_Lined):
    """Newline-delimited JSON; the last line may lack its end."""

    def eof(self) -> Sequence[Framed]:
        """See ``Framer``."""
        out: list[Framed] = []
        self._rest(out)
        self._dead = True
        if out and isinstance(out[0], Frame) and not _is_json(out[0].data):
            what = f"the body ended within a line, after {len(out[0].data)} characters of it"
            return [Failed("truncated", what)]
        return out

    def _take(self, line: str, out: list[Framed]) -> None:
        if line.strip():
            out.append(Frame("", line))


def _is_json(data: str) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
