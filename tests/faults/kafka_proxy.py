"""A TCP proxy before real brokers that understands Kafka's frames: it can hold one request or one answer.

Clients are told of the proxy's addresses where brokers tell of their own: an address is host and port side by
side in every answer, and both hosts are written in nine characters, so that each frame keeps its length.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PRODUCE: Final = 0
ADD_PARTITIONS_TO_TXN: Final = 24
ADD_OFFSETS_TO_TXN: Final = 25
END_TXN: Final = 26
TXN_OFFSET_COMMIT: Final = 28

UNKNOWN_SERVER_ERROR: Final = -1

Way = Literal["request", "answer"]
_HOST: Final = b"127.0.0.1"
_HELD_S_MAX: Final = 120.0
_ANSWER_S: Final = 5.0


@dataclass
class Hold:
    """One frame that is kept back: wait for ``landed``, do harm, then ``release`` it or let it be lost."""

    api: int
    way: Way
    on_released: Callable[[str], None]
    landed: threading.Event = field(default_factory=threading.Event)
    _decided: threading.Event = field(default_factory=threading.Event)
    _forward: bool = False

    def release(self, *, forward: bool) -> None:
        """Let the frame go on its way, or lose it, and with it the connection."""
        self._forward = forward
        self._decided.set()
        self.on_released(f"a held {self.way} was {'let go' if forward else 'lost'}")

    def lose(self) -> None:
        """Lose what is still held: nobody waits for it any more."""
        self._decided.set()

    def keep(self) -> bool:
        """Called on the connection's thread; tells whether the frame goes on."""
        self.landed.set()
        self._decided.wait(_HELD_S_MAX)
        return self._forward


@dataclass
class Spoilt:
    """An answer to EndTxn that will tell of an error, whatever became of the transaction."""

    code: int
    landed: threading.Event = field(default_factory=threading.Event)
    said: int = 0
    """What the broker had answered."""


class KafkaProxy:
    """Listens for each broker on a port of its own, on ``host``; ``on_healed`` is told what harm is over."""

    def __init__(
        self,
        brokers: Iterable[str],
        host: str = "127.0.0.1",
        on_healed: Callable[[str], None] = lambda _what: None,
    ) -> None:
        assert len(host) == len(_HOST)
        self._on_healed = on_healed
        self._host = host
        self._listeners: dict[int, socket.socket] = {}
        self._holds: list[Hold] = []
        self._spoils: list[Spoilt] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.requests: Counter[int] = Counter()
        """How many requests of each API came by."""
        self.answers: dict[int, list[bytes]] = defaultdict(list)
        """Bodies of the answers of the APIs of transactions, without the frame's header."""
        for broker in brokers:
            port = int(broker.rpartition(":")[2])
            self._listeners[port] = socket.create_server((host, 0))
        for port, listener in self._listeners.items():
            threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()

    @property
    def bootstrap(self) -> str:
        """Where clients come in."""
        ports = [listener.getsockname()[1] for listener in self._listeners.values()]
        return ",".join(f"{self._host}:{port}" for port in ports)

    def hold(self, api: int, way: Way) -> Hold:
        """Keep back the next such frame of whichever client."""
        held = Hold(api, way, self._on_healed)
        with self._lock:
            self._holds.append(held)
        return held

    def spoil(self, code: int = UNKNOWN_SERVER_ERROR) -> Spoilt:
        """Put an error into the next answer to EndTxn."""
        spoilt = Spoilt(code)
        with self._lock:
            self._spoils.append(spoilt)
        return spoilt

    def reset(self) -> int:
        """Cut every line by a reset; tells how many."""
        lines, self._sockets = self._sockets, []
        for line in lines:
            with contextlib.suppress(OSError):
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                line.shutdown(socket.SHUT_RD)  # wakes its thread, which closes it
                line.close()
        self._on_healed("all connections were reset")
        return len(lines)

    def close(self) -> None:
        """Stop listening, lose what is held and cut every line."""
        for listener in self._listeners.values():
            listener.close()
        for held in self._holds:
            held.lose()
        for line in self._sockets:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- a connection ---------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", port))
                except OSError:  # the broker is away, as the client would have found, too
                    client.close()
                    continue
                for line in (client, server):
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(line)
                asked: dict[int, int] = {}
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(client, server, asked), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, asked: dict[int, int]) -> None:
        """From client to server; this side ends the connection: a held frame may outlive its client."""
        with contextlib.suppress(OSError):
            while (frame := _frame(client)) is not None:
                api, _version, correlation = struct.unpack_from(">hhi", frame, 4)
                asked[correlation] = api
                self.requests[api] += 1
                if not self._passes(api, "request"):
                    break
                server.sendall(frame)
        deadline = time.monotonic() + _ANSWER_S
        while asked and time.monotonic() < deadline:  # the client is gone; what it asked still has an answer
            time.sleep(0.01)
        for line in (client, server):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _answers(self, client: socket.socket, server: socket.socket, asked: dict[int, int]) -> None:
        with contextlib.suppress(OSError):
            while (frame := _frame(server)) is not None:
                (correlation,) = struct.unpack_from(">i", frame, 4)
                api = asked.pop(correlation, -1)
                if api in (ADD_OFFSETS_TO_TXN, TXN_OFFSET_COMMIT, END_TXN):
                    self.answers[api].append(frame[8:])
                if not self._passes(api, "answer"):
                    break
                if api == END_TXN:
                    frame = self._spoilt(frame)
                with contextlib.suppress(OSError):
                    client.sendall(self._our_addresses(frame))
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _passes(self, api: int, way: Way) -> bool:
        with self._lock:
            for held in self._holds:
                if (held.api, held.way) == (api, way) and not held.landed.is_set():
                    held.landed.set()
                    break
            else:
                return True
        return held.keep()

    def _spoilt(self, frame: bytes) -> bytes:
        with self._lock:
            spoilt = self._spoils.pop(0) if self._spoils else None
        if spoilt is None:
            return frame
        spoilt.said, at = end_txn_error(frame[8:]), 8 + _error_at(frame[8:])
        spoilt.landed.set()
        return frame[:at] + struct.pack(">h", spoilt.code) + frame[at + 2 :]

    def _our_addresses(self, frame: bytes) -> bytes:
        for port, listener in self._listeners.items():
            ours = self._host.encode() + struct.pack(">i", listener.getsockname()[1])
            frame = frame.replace(_HOST + struct.pack(">i", port), ours)
        return frame


def end_txn_error(body: bytes) -> int:
    """The error code in the body of an answer to EndTxn: behind the throttle, and an empty set of tags."""
    (code,) = struct.unpack_from(">h", body, _error_at(body))
    return int(code)


def _error_at(body: bytes) -> int:
    flexible = len(body) % 2 == 1  # one byte of tags before, from version 3 on
    return 5 if flexible else 4


def _frame(line: socket.socket) -> bytes | None:
    """Read one frame, its length included; None at the end of the connection."""
    head = _exactly(line, 4)
    if head is None:
        return None
    body = _exactly(line, struct.unpack(">i", head)[0])
    return None if body is None else head + body


def _exactly(line: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        data = line.recv(min(size - len(parts), 1 << 20))
        if not data:
            return None
        parts += data
    return bytes(parts)
