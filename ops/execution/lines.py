"""Cut what a command writes into lines: any bytes in, every one of them in exactly one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# A line becomes one event: 64 KiB of text, escaped as JSON to at most six times that, stays well
# under the 1 MiB of a request. Longer ones are cut, and each part but the last says so.
LINE_BYTES_MAX = 64 * 1024

Ending = Literal["newline", "return", "cut", "eof"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its ending, and what ended it.

    ``newline``  it is complete;
    ``return``   a lone carriage return: a terminal would write over it (a progress bar does that);
    ``cut``      it was longer than the bound and goes on in the next one;
    ``eof``      the command stopped in the middle of it.
    """

    text: str
    ending: Ending


class LineCutter:
    r"""Takes chunks of bytes as a pipe gives them, and gives the lines that they complete.

    UTF-8 that is none becomes U+FFFD, as ``errors="replace"`` does it; a character that lies across
    two chunks or a cut is kept whole. ``\r\n`` ends a line as ``\n`` does.
    """

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        if line_bytes_max < 8:
            raise ValueError("line_bytes_max must hold one character at least: 8 or more")
        self._max = line_bytes_max
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[Line]:
        """Lines that are complete with this chunk; at most one incomplete line is kept back."""
        data = bytes(self._rest) + chunk
        lines: list[Line] = []
        start = 0
        while start < len(data):
            end, ending, after = _next_ending(data, start)
            if end < 0:
                break
            self._cut_long(data[start:end], ending, lines)
            start = after
        rest = data[start:]
        # A trailing "\r" may be half of "\r\n": it waits with its line for the next chunk.
        keep = self._cut_overlong_rest(rest, lines)
        self._rest = bytearray(keep)
        return lines

    def finish(self) -> list[Line]:
        """What is left when the command's output ends."""
        rest, self._rest = bytes(self._rest), bytearray()
        lines: list[Line] = []
        if rest.endswith(b"\r"):
            self._cut_long(rest[:-1], "return", lines)
        elif rest:
            self._cut_long(rest, "eof", lines)
        return lines

    def _cut_long(self, body: bytes, ending: Ending, lines: list[Line]) -> None:
        body = self._cut_overlong_rest(body, lines)
        lines.append(Line(body.decode("utf-8", "replace"), ending))

    def _cut_overlong_rest(self, body: bytes, lines: list[Line]) -> bytes:
        while len(body) > self._max:
            at = _character_start(body, self._max)
            lines.append(Line(body[:at].decode("utf-8", "replace"), "cut"))
            body = body[at:]
        return body


def _next_ending(data: bytes, start: int) -> tuple[int, Ending, int]:
    """Where the next line ends, how, and where the one after it starts; -1 if it is not complete."""
    newline = data.find(b"\n", start)
    carriage = data.find(b"\r", start, newline if newline >= 0 else len(data))
    if carriage < 0:
        return newline, "newline", newline + 1
    if carriage + 1 == len(data):
        return -1, "newline", -1
    if carriage + 1 == newline:
        return carriage, "newline", newline + 1
    return carriage, "return", carriage + 1


def _character_start(body: bytes, at: int) -> int:
    """The place at or before ``at`` where a UTF-8 character starts; ``at`` itself in binary garbage."""
    for back in range(4):
        if body[at - back] & 0xC0 != 0x80:
            return at - back
    return at
