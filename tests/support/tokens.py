"""An issuer of tokens: good ones, and each way to forge one; and the server where it publishes its keys."""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ISSUER = "https://issuer.test"
ALL: dict[str, Any] = {
    "tenants": ["*"],
    "streams": ["*"],
    "kinds": ["*"],
    "scope": "subscribe publish operate",
}


@dataclass
class Issuer:
    """Signs with ES256 under one key id."""

    kid: str = "k1"
    private: Any = field(default_factory=lambda: generate_private_key(SECP256R1()))
    made: list[str] = field(default_factory=list)
    """All tokens, for whoever looks where they must not be."""

    @property
    def pem(self) -> bytes:
        """Its public key."""
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    @property
    def jwk(self) -> dict[str, Any]:
        """Its public key as a member of a JWKS."""
        public = jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig"}

    def claims(self, *, life_s: float = 600, **claims: Any) -> dict[str, Any]:
        """All that a token needs; None takes a claim out."""
        now_s = time.time()
        usual = {"iss": ISSUER, "aud": "sluicegate", "sub": "ann", "iat": now_s, "exp": now_s + life_s}
        return {name: value for name, value in {**usual, **claims}.items() if value is not None}

    def token(self, *, life_s: float = 600, **claims: Any) -> str:
        """A token."""
        claims = self.claims(life_s=life_s, **claims)
        self.made.append(jwt.encode(claims, self.private, algorithm="ES256", headers={"kid": self.kid}))
        return self.made[-1]


def unsigned(claims: dict[str, Any], alg: str = "none") -> str:
    """A token that says that it needs no signature."""
    parts = ({"alg": alg, "typ": "JWT"}, claims)
    return ".".join(_base64(json.dumps(part).encode()) for part in parts) + "."


def confused(issuer: Issuer, claims: dict[str, Any]) -> str:
    """A token signed with the public key, which everybody has, as if it were a secret of HS256."""
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    head = {"alg": "HS256", "typ": "JWT", "kid": issuer.kid}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{_base64(hmac.new(issuer.pem, signed.encode(), hashlib.sha256).digest())}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class JwksServer:
    """Publishes the keys of issuers over HTTP, counts who asks, and is away when told to."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.away = False
        self.body: bytes | None = None
        self.url = ""


@contextmanager
def jwks_server(*issuers: Issuer) -> Iterator[JwksServer]:
    """Serve on a free port of the loopback address."""
    served = JwksServer()
    served.keys = [issuer.jwk for issuer in issuers]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked += 1
            body = served.body if served.body is not None else json.dumps({"keys": served.keys}).encode()
            self.send_response(503 if served.away else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}/jwks.json"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def keys_file(folder: Path, *issuers: Issuer) -> Path:
    """Write the public keys of issuers as a JWKS."""
    file = folder / "keys.json"
    file.write_text(json.dumps({"keys": [issuer.jwk for issuer in issuers]}))
    return file
