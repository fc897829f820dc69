"""What a command says of an answer: an edge's own reason, or that whoever answered is no edge."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import orjson
import pytest

from ops.client import EdgeClient
from ops.errors import EdgeUnreachable, OpsError, Refused

from .test_cli_app import sluicegate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = b"<!doctype html><title>Something else</title>" * 100
AWAY = {
    "title": "Append failed",
    "status": 503,
    "detail": "append failed: Kafka at 127.0.0.1:9: refused",
    "remedy": "Check that Kafka runs",
}


@contextmanager
def answering(status: int, media: str, body: bytes) -> Iterator[str]:
    """An address whose every answer is this one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-type", media)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  # its name there

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


async def asked(url: str, how: str) -> None:
    async with EdgeClient(url, patience_s=0.2) as client:
        if how == "publish":
            await client.publish("s", [b'{"event_id": "e"}'], kind="log")
        elif how == "knows":
            assert not await client.knows("s")
        else:
            async for _ in client.events("s"):
                pass


@pytest.mark.parametrize("how", ["publish", "knows", "events"])
@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_page_is_no_answer_of_an_edge_and_is_not_shown(status: int, how: str):
    with answering(status, "text/html; charset=utf-8", PAGE) as url, pytest.raises(Refused) as caught:
        asyncio.run(asked(url, how))
    assert str(caught.value) == f"{url}/ does not answer as an edge does: HTTP {status} with text/html"
    assert "SLUICEGATE_EDGE__URL" in caught.value.remedy


@pytest.mark.parametrize("how", ["publish", "knows", "events"])
def test_what_an_edge_cannot_do_now_is_told_with_its_own_reason_and_remedy(how: str):
    with (
        answering(503, "application/problem+json", orjson.dumps(AWAY)) as url,
        pytest.raises(EdgeUnreachable) as caught,
    ):
        asyncio.run(asked(url, how))
    assert str(caught.value) == (
        f"the edge at {url} cannot do it now; tried for 0.2 s "
        "(HTTP 503: append failed: Kafka at 127.0.0.1:9: refused)"
    )
    assert caught.value.remedy == "Check that Kafka runs"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("how", ["publish", "events"])
def test_a_proxy_whose_edge_is_away_is_told_without_its_page(how: str):
    with answering(502, "text/html", PAGE) as url, pytest.raises(OpsError) as caught:
        asyncio.run(asked(url, how))
    assert str(caught.value).endswith("tried for 0.2 s (HTTP 502 with text/html, which no edge answers)")


def test_commands_at_an_address_that_is_no_edges_say_so(tmp_path: Path):
    (tmp_path / "one.ndjson").write_text('{"type": "log", "payload": {"line": "x"}}\n')
    with answering(404, "text/html", PAGE) as url:
        for words in (
            ("exec", "--", "true"),
            ("tail", "s"),
            ("publish", "--stream", "s", "--kind", "log", "one.ndjson"),
        ):
            done = sluicegate(tmp_path, *words, SLUICEGATE_EDGE__URL=url)
            assert done.returncode == 1, words
            assert f"{url}/ does not answer as an edge does: HTTP 404 with text/html" in done.stderr
            assert "<" not in done.stderr
            assert "known yet" not in done.stderr
