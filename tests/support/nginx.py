"""A real nginx with the configuration of docs/examples/nginx.conf, or with one that is wrong on purpose."""

from __future__ import annotations

import datetime as dt
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import need_program
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nginx.conf"
_FRAME = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{example}
}}
"""


@dataclass
class Nginx:
    """One nginx before one edge; ``changes`` are texts of the example and what stands in their place."""

    folder: Path
    edge_port: int
    changes: Mapping[str, str]
    grpc_port: int = 8601

    def __enter__(self) -> Self:
        need_program("nginx")
        self.folder.mkdir()
        self.port, self.tls_port, self.h2_port = free_port(), free_port(), free_port()
        _make_certificate(self.folder)
        text = EXAMPLE.read_text()
        listens = f"listen 127.0.0.1:{self.tls_port} ssl http2; listen 127.0.0.1:{self.port}; "
        ours = {
            "listen 443 ssl http2;": f"{listens} listen 127.0.0.1:{self.h2_port} http2;",
            "/etc/ssl/streams.example": f"{self.folder}/streams.example",
            "127.0.0.1:8600": f"127.0.0.1:{self.edge_port}",
            "127.0.0.1:8601": f"127.0.0.1:{self.grpc_port}",
        }
        for old, new in (ours | dict(self.changes)).items():
            assert old in text, f"the example has no {old!r}"
            text = text.replace(old, new)
        conf = self.folder / "nginx.conf"
        conf.write_text(_FRAME.format(folder=self.folder, example=text))
        self._process = subprocess.Popen(
            ["nginx", "-p", str(self.folder), "-c", str(conf), "-e", str(self.folder / "error.log")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._until_it_listens()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=20)

    @property
    def url(self) -> str:
        """Its address without TLS."""
        return f"http://127.0.0.1:{self.port}"

    def _until_it_listens(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            assert self._process.poll() is None, self._process.communicate()[1].decode()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "error.log").read_text()
                time.sleep(0.02)
            else:
                return


def _make_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "streams.example")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "streams.example.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "streams.example.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
