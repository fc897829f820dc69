"""An issuer of OAuth tokens on this machine: whoever brings its secret is given a token in its name."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

import orjson

_LIFE_S = 30


class TokenIssuer:
    """Serves ``url`` from ``with`` to its end; ``words`` are the clients' secrets."""

    def __init__(self, *clients: str) -> None:
        self.words = {name: secrets.token_hex(12) for name in clients}
        self.asked: list[dict[str, list[str]]] = []
        """What was asked for by those who were let in."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # http.server's name
                issuer._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        form = request.rfile.read(int(request.headers["content-length"])).decode()
        brought = request.headers.get("authorization", "").removeprefix("Basic ")
        name, _, word = base64.b64decode(brought).decode().partition(":")
        if word and self.words.get(name) == word:
            self.asked.append(parse_qs(form))
            status, body = 200, {"access_token": _token(name), "token_type": "Bearer", "expires_in": _LIFE_S}
        else:
            status, body = 401, {"error": "invalid_client"}
        said = orjson.dumps(body)
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)


def _token(name: str) -> str:
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": name, "iat": now, "exp": now + _LIFE_S, "scope": "kafka"})
    return ".".join(base64.urlsafe_b64encode(orjson.dumps(part)).decode().rstrip("=") for part in parts) + "."
