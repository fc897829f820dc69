"""A client of HTTP/2 that says what it likes, as far as the windows go that it is granted (RFC 9113)."""

from __future__ import annotations

import select
import socket
import time
from itertools import count
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x8, 0x9
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_INITIAL_WINDOW_SIZE = 0x4
_FRAME_BYTES_MAX = 16_384


def http2(kind: int, data: bytes, *, stream: int = 0, flags: int = 0) -> bytes:
    """A frame (section 4.1)."""
    return len(data).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + data


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


def message(data: bytes, *, size: int | None = None) -> bytes:
    """A message of gRPC, or the beginning of one that is to have another size."""
    return b"\x00" + (len(data) if size is None else size).to_bytes(4) + data


def _text(value: bytes) -> bytes:
    assert len(value) < 0x7F
    return bytes([len(value)]) + value


class Http2Client:
    """One connection, and calls of gRPC over it, which read nothing beyond ``window`` bytes each."""

    def __init__(self, port: int, *, window: int = 65_535) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.sendall(PREFACE + http2(SETTINGS, setting(_INITIAL_WINDOW_SIZE, window)))
        self._numbers = count(1, 2)
        self._came = b""
        self._initial = self._connection = 65_535
        self._windows: dict[int, int] = {}
        self._unsent: dict[int, bytes] = {}
        self.sent = 0
        """Bytes of messages."""

    def call(self, path: str, data: bytes, *, whole: bool = False) -> None:
        """Begin a call; ``data`` goes when ``send`` is called, or at once if nothing comes after it."""
        stream = next(self._numbers)
        head = b"\x83\x86\x04" + _text(path.encode()) + b"\x01" + _text(b"localhost")
        head += b"\x00" + _text(b"te") + _text(b"trailers")
        head += b"\x00" + _text(b"content-type") + _text(b"application/grpc")
        self._socket.sendall(http2(HEADERS, head, stream=stream, flags=_END_HEADERS))
        self._windows[stream] = self._initial
        if whole:  # it is short
            self._socket.sendall(http2(DATA, data, stream=stream, flags=_END_STREAM))
            self._connection -= len(data)
        else:
            self._unsent[stream] = data

    def send(self, quiet_s: float = 0.5, most_s: float = 10.0) -> None:
        """Send what there is until no more of it was allowed for a while."""
        ends_s = moved_s = time.monotonic()
        ends_s += most_s
        while (now_s := time.monotonic()) < min(moved_s + quiet_s, ends_s):
            self._hear(0.02)
            for stream, data in tuple(self._unsent.items()):
                part = data[: min(self._windows.get(stream, 0), self._connection, _FRAME_BYTES_MAX)]
                if not part or not self._may_write():
                    continue
                self._socket.sendall(http2(DATA, part, stream=stream))
                self._unsent[stream] = data[len(part) :]
                self._windows[stream] -= len(part)
                self._connection -= len(part)
                self.sent += len(part)
                moved_s = now_s

    def close(self) -> None:
        self._socket.close()

    def _may_write(self) -> bool:
        return bool(select.select([], [self._socket], [], 0)[1])

    def _hear(self, wait_s: float) -> None:
        while select.select([self._socket], [], [], wait_s)[0]:
            data = self._socket.recv(1 << 16)
            assert data, "the edge has closed the connection"
            self._came += data
            wait_s = 0
        while len(self._came) >= 9 + (size := int.from_bytes(self._came[:3])):
            kind, flags = self._came[3], self._came[4]
            stream, frame = int.from_bytes(self._came[5:9]), self._came[9 : 9 + size]
            self._came = self._came[9 + size :]
            self._take(kind, flags, stream, frame)

    def _take(self, kind: int, flags: int, stream: int, frame: bytes) -> None:
        if kind == WINDOW_UPDATE:
            if stream == 0:
                self._connection += int.from_bytes(frame)
            elif stream in self._windows:
                self._windows[stream] += int.from_bytes(frame)
        elif kind == SETTINGS and not flags & _ACK:
            for at in range(0, len(frame), 6):
                if int.from_bytes(frame[at : at + 2]) == _INITIAL_WINDOW_SIZE:
                    grown = int.from_bytes(frame[at + 2 : at + 6]) - self._initial
                    self._initial += grown
                    self._windows = {each: window + grown for each, window in self._windows.items()}
            self._socket.sendall(http2(SETTINGS, b"", flags=_ACK))
        elif kind == PING and not flags & _ACK:
            self._socket.sendall(http2(PING, frame, flags=_ACK))
        elif kind == RST_STREAM or (kind == HEADERS and flags & _END_STREAM):
            self._unsent.pop(stream, None)
