"""A TCP proxy before a real PostgreSQL that cuts or freezes the line at a chosen moment of the protocol."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

Fault = Literal["lose question", "lose answer", "freeze"]


class PostgresProxy:
    """Passes bytes on until a message that holds `trigger` comes by; `landed` proves that it did."""

    def __init__(self, dsn: str) -> None:
        self._upstream = conninfo_to_dict(dsn)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._fault: tuple[Fault, bytes] | None = None
        self._sockets: list[socket.socket] = []
        self.landed = threading.Event()
        self.dsn = make_conninfo(
            dsn,
            host="127.0.0.1",
            port=self._listener.getsockname()[1],
            sslmode="disable",
            gssencmode="disable",
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, fault: Fault, trigger: bytes = b"COMMIT\x00") -> None:
        """The next message from the client (for a lost answer: from the server) with `trigger` is the one."""
        self.landed.clear()
        self._fault = (fault, trigger)

    def _connect(self) -> socket.socket:
        host, port = str(self._upstream.get("host") or "127.0.0.1"), int(self._upstream.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        line = socket.socket(socket.AF_UNIX)
        line.connect(f"{host}/.s.PGSQL.{port}")
        return line

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                self._sockets += [client, server]
                for source, target, side in ((client, server, "client"), (server, client, "server")):
                    threading.Thread(target=self._pass_on, args=(source, target, side), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, side: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._is_frozen():
                    return
                if not self._strikes(data, side):
                    target.sendall(data)
                    continue
                self.landed.set()
                if self._fault is not None and self._fault[0] == "freeze":
                    return  # both ends stay open; nothing passes in either direction any more
                break
        for line in (source, target):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _strikes(self, data: bytes, side: str) -> bool:
        if self._fault is None or self.landed.is_set():
            return False
        fault, trigger = self._fault
        return trigger in data and side == ("server" if fault == "lose answer" else "client")

    def _is_frozen(self) -> bool:
        return self._fault is not None and self._fault[0] == "freeze" and self.landed.is_set()

    def close(self) -> None:
        """Stop listening and cut every line."""
        self._listener.close()
        for line in self._sockets:
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
