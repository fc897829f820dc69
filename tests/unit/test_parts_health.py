"""The health check of our images, run as a container runs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def check(*urls: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ops.health", *urls]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=20, check=False)


def test_all_that_answer_with_success_are_well(server):
    assert check(f"{server}/readyz", f"{server}/readyz").returncode == 0


def test_a_proxy_of_the_environment_is_not_asked_about_the_own_container(server):
    assert check(f"{server}/readyz", http_proxy="http://127.0.0.1:1").returncode == 0


def test_one_that_is_not_ready_is_named(server):
    told = check(f"{server}/readyz", f"{server}/other")

    assert told.returncode == 1
    assert f"{server}/other: HTTP Error 503" in told.stderr


def test_one_that_does_not_listen_is_named():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/readyz"

    told = check(url)
    assert told.returncode == 1
    assert url in told.stderr


def test_nothing_to_ask_is_not_well():
    assert check().returncode == 1
