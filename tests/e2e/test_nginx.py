"""Debian's nginx before a real edge, as docs/nginx.md has it; and the check that finds one set up wrong."""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import httpx2
import pytest

from ops import proxy_check
from schemas.proto.sluicegate.v1.logs_pb2 import LogEvent, LogRequest
from schemas.proto.sluicegate.v1.stream_pb2 import PublishRequest, WatchRequest
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub
from tests.support.edge_process import ROOT
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.shown_edge import ShownEdge
from tests.support.sse_client import Seen, read_stream
from tests.support.ws_client import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def nginx(tmp_path) -> Iterator[Callable[..., Nginx]]:
    running: list[Nginx] = []

    def start(edge_port: int, changes: dict[str, str] | None = None, **more: Any) -> Nginx:
        one = Nginx(tmp_path / f"nginx-{len(running)}", edge_port, changes or {}, **more)
        running.append(one.__enter__())
        return one

    yield start
    for one in running:
        one.__exit__()


def check(url: str, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "ops", "edge", "check", url, "--json", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {"said": done.stderr}


def in_a_thread(scene: Coroutine[Any, Any, Any]) -> Any:
    """Run it: while a browser is open, its own loop runs in the tests' thread."""
    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, scene).result(60)


# -- the configuration ----------------------------------------------------------------------------------


def test_events_come_one_by_one_and_a_stream_survives_the_edge_behind_the_proxy(make_edge, twin, nginx):
    edge = make_edge()
    proxy = nginx(edge.port)
    stream = twin.open("build")
    url = f"{proxy.url}/v1/streams/build/events"

    def write_the_next(seen: Seen) -> bool:
        """An event is written when the one before it was seen: nothing is held back."""
        twin.logs(stream, 1)
        return len(seen.events) == 5

    seen = read_stream(url, until=write_the_next)
    assert seen.seqs == list(range(5))
    assert seen.headers["cache-control"] == "no-store, no-transform"

    edge.kill()
    away = httpx2.get(url, headers={"last-event-id": seen.last_id}, trust_env=False, verify=False)
    assert away.status_code == 502
    edge.start()
    twin.end(stream)
    rest = read_stream(url, last_id=seen.last_id)
    assert rest.seqs == list(range(5, stream.next_seq))
    assert (rest.closed, rest.broken) == (True, False)
    answer = httpx2.post(
        f"{proxy.url}/v1/streams/other/events?kind=log", json={"type": "open"}, trust_env=False, verify=False
    )
    assert answer.status_code == 202


def test_a_page_of_the_proxys_own_address_may_publish_whatever_port_that_is_and_another_not(make_edge, nginx):
    proxy = nginx(make_edge().port)
    asks = f"{proxy.url}/v1/streams/form/events?kind=log"
    for origin, status in ((proxy.url, 202), ("http://127.0.0.1", 403), ("https://elsewhere.example", 403)):
        answer = httpx2.post(
            asks, json={"type": "open"}, headers={"origin": origin}, trust_env=False, verify=False
        )
        assert answer.status_code == status, (origin, answer.text)


def test_a_connection_that_is_cut_behind_the_proxy_is_told_from_one_that_ended(make_edge, twin, nginx):
    edge = make_edge()
    proxy = nginx(edge.port)
    twin.open("build")

    def kill(_: Seen) -> bool:
        edge.kill()
        return False

    seen = read_stream(f"{proxy.url}/v1/streams/build/events", until=kill)
    assert (seen.broken, seen.closed) == (True, False)


def test_the_documented_client_of_grpc_comes_back_though_the_proxy_says_it_in_its_own_way(
    make_edge, twin, nginx
):
    """An edge that dies is no UNAVAILABLE behind a proxy, which has begun to answer or has none to ask."""
    edge = make_edge()
    proxy = nginx(edge.port, grpc_port=edge.grpc_port)
    stream = twin.open("build")
    twin.logs(stream, 2)
    words = [sys.executable, ROOT / "docs/examples/grpc_watch.py", f"127.0.0.1:{proxy.h2_port}", "build"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        seen = [client.stdout.readline() for _ in range(2)]
        edge.kill()
        time.sleep(1)  # it asks the proxy, which has nobody
        edge.start()
        twin.logs(stream, 2)
        twin.end(stream)
        rest, complaint = client.communicate(timeout=60)
    assert (client.returncode, complaint) == (0, "")
    assert "".join(seen) + rest == "line 1\nline 2\nline 3\nline 4\n--- ended: completed\n"


def test_a_browser_follows_more_streams_at_once_than_six_over_http_2(
    make_edge, twin, nginx, browser: Browser
):
    edge = make_edge()
    proxy = nginx(edge.port, {"server_name streams.example;": "server_name 127.0.0.1;"})
    for number in range(10):
        twin.open(f"s-{number}")
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"https://127.0.0.1:{proxy.tls_port}/healthz")
    page.evaluate(
        """() => {
            window.seen = [];
            for (let n = 0; n < 10; n++) {
                new EventSource(`/v1/streams/s-${n}/events`).onmessage = () => window.seen.push(n);
            }
        }"""
    )
    page.wait_for_function("window.seen.length === 10", timeout=30_000)
    context.close()


def test_a_websocket_is_upgraded_and_grpc_is_passed_on_and_their_events_come_one_by_one(
    make_edge, twin, nginx
):
    edge = make_edge()
    proxy = nginx(edge.port, grpc_port=edge.grpc_port)
    stream = twin.open("talk")
    with Talk(proxy.url) as talk:
        talk.say("subscribe", id=1, stream="talk")
        for seq in range(4):  # each is written when the one before it was seen
            assert talk.until_type("event")["event"]["seq"] == seq
            twin.logs(stream, 1)

    stream = twin.open("watched")
    with grpc.insecure_channel(f"127.0.0.1:{proxy.h2_port}") as channel:
        watch = StreamServiceStub(channel).Watch(WatchRequest(stream_id="watched"), timeout=60)
        seen: list[int] = []
        for response in watch:  # each is written when the one before it was seen
            seen += [event.seq for event in response.events]
            if len(seen) == 4:
                watch.cancel()
                break
            twin.logs(stream, 1)
        assert seen == list(range(4))
        for service in ("sluicegate.v1.LogStream", "LogStream", "acme.logs.LogStream"):
            watch_logs = channel.unary_stream(
                f"/{service}/WatchLogs",
                request_serializer=LogRequest.SerializeToString,
                response_deserializer=LogEvent.FromString,
            )
            lines = watch_logs(LogRequest(job_id="watched"), timeout=60)
            assert next(lines).line == "line 1", service
            lines.cancel()


def test_a_client_is_known_by_the_address_that_the_proxy_saw_whatever_it_calls_itself(tmp_path, nginx):
    """The proxy asks from an address of its own, by which it is told from a client of this machine."""
    options = {"trusted_proxies": ["127.0.0.3"], "grpc_port": free_port()}
    from_its_own = {
        "gzip off;": "gzip off; proxy_bind 127.0.0.3;",
        "grpc_read_timeout 60s;": "grpc_read_timeout 60s; grpc_bind 127.0.0.3;",
    }
    forged = {"x-forwarded-for": "I am <b>somebody else</b>, 198.51.100.7"}
    with ShownEdge(tmp_path / "edge.log", options) as edge:
        proxy = nginx(edge.port, from_its_own, grpc_port=options["grpc_port"])

        def peers(transport: str) -> list[str]:
            answer = httpx2.get(f"{edge.url}/v1/connections", trust_env=False).json()
            return [one["peer"] for one in answer["connections"] if one["transport"] == transport]

        found: dict[str, list[str]] = {}

        def look(_: Seen) -> bool:
            found["sse"] = peers("sse")
            return True

        path = "/v1/streams/one/events"
        read_stream(proxy.url + path, headers=forged, until=look)
        with Talk(proxy.url, additional_headers=forged) as talk:
            talk.say("subscribe", id=1, stream="one")
            talk.until_type("event")
            found["websocket"] = peers("websocket")
        with grpc.insecure_channel(f"127.0.0.1:{proxy.h2_port}") as channel:
            asked = WatchRequest(stream_id="one")
            watch = StreamServiceStub(channel).Watch(asked, timeout=60, metadata=tuple(forged.items()))
            next(watch)
            found["grpc"] = peers("grpc")
            watch.cancel()
        assert found == {transport: ["127.0.0.1"] for transport in ("sse", "websocket", "grpc")}

        read_stream(edge.url + path, headers=forged, until=look)  # past the proxy its word is nobody's
        assert {name.partition(":")[0] for name in found["sse"]} == {"127.0.0.1"}


# -- two edges ------------------------------------------------------------------------------------------


def second(http_port: int, grpc_port: int) -> dict[str, str]:
    """Have the second edge of the example, too."""
    return {
        "# server 10.0.7.12:8600 ": f"server 127.0.0.1:{http_port} ",
        "# server 10.0.7.12:8601 ": f"server 127.0.0.1:{grpc_port} ",
    }


def test_of_two_edges_one_may_be_away_and_no_client_notices(tmp_path: Path, nginx):
    grpc_port = free_port()
    with ShownEdge(tmp_path / "edge.log", {"grpc_port": grpc_port}) as edge:
        proxy = nginx(edge.port, second(free_port(), free_port()), grpc_port=grpc_port)
        for _ in range(4):  # each other one meets the one that is away
            first = read_stream(f"{proxy.url}/v1/streams/one/events", until=lambda seen: bool(seen.events))
            assert first.seqs == [0]
            with Talk(proxy.url) as talk:
                talk.say("subscribe", id=1, stream="one")
                talk.until_type("event")
            with grpc.insecure_channel(f"127.0.0.1:{proxy.h2_port}") as channel:
                watch = StreamServiceStub(channel).Watch(WatchRequest(stream_id="one"), timeout=60)
                assert next(watch).events[0].seq == 0
                watch.cancel()
            told = httpx2.post(f"{proxy.url}/v1/streams/one/events", json={"type": "open"}, trust_env=False)
            assert told.status_code == 405, "of the edge: one that plays a recording takes nothing"


def test_edges_that_are_restarted_one_after_the_other_leave_no_client_without_one(tmp_path: Path, nginx):
    """Each failed a moment ago: an edge that is there is asked all the same, and not by one client alone."""
    ports, grpc_ports = (free_port(), free_port()), (free_port(), free_port())
    proxy = nginx(ports[0], second(ports[1], grpc_ports[1]), grpc_port=grpc_ports[0])
    held: list[socket.socket] = []
    for round_, (port, grpc_port) in enumerate(zip(ports, grpc_ports, strict=True)):
        with ShownEdge(tmp_path / f"edge-{round_}.log", {"grpc_port": grpc_port}, port):
            for _ in range(4):
                held.append(client := socket.create_connection(("127.0.0.1", proxy.port), 30))
                client.sendall(b"GET /v1/streams/one/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"  # and it goes on
                with grpc.insecure_channel(f"127.0.0.1:{proxy.h2_port}") as channel:
                    watch = StreamServiceStub(channel).Watch(WatchRequest(stream_id="one"), timeout=60)
                    assert next(watch).events[0].seq == 0
                    watch.cancel()
    for client in held:
        client.close()


@contextmanager
def dies_when_asked(heard: list[bytes]) -> Iterator[int]:
    """What dies with each request that it was sent; the first bytes of each are in ``heard``."""

    class Asked(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if said := self.request.recv(65_536):
                heard.append(said)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_publish_that_was_sent_to_an_edge_that_died_of_it_is_not_sent_to_another(nginx):
    """It may have been appended: who has an `event_id` of its own repeats it by itself."""
    heard: list[bytes] = []
    with dies_when_asked(heard) as one, dies_when_asked(heard) as other, dies_when_asked(heard) as by_grpc:
        proxy = nginx(one, second(other, other), grpc_port=by_grpc)
        url = f"{proxy.url}/v1/streams/one/events"
        assert httpx2.get(url, trust_env=False).status_code == 502
        assert [said.split()[0] for said in heard] == [b"GET", b"GET"], "what changes nothing is asked again"
        heard.clear()
        assert httpx2.post(url, json={"type": "open"}, trust_env=False).status_code == 502
        assert [said.split()[0] for said in heard] == [b"POST"]
        heard.clear()
        with grpc.insecure_channel(f"127.0.0.1:{proxy.h2_port}") as channel:
            with pytest.raises(grpc.RpcError) as refused:
                StreamServiceStub(channel).Publish(PublishRequest(stream_id="one"), timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(heard) == 1


# -- the check ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown_edge(tmp_path_factory) -> Iterator[int]:
    with ShownEdge(tmp_path_factory.mktemp("shown") / "edge.log") as edge:
        yield edge.port


def test_the_documented_proxy_is_found_fine(nginx, shown_edge):
    code, said = check(nginx(shown_edge).url, "--silent-s", "0.2")
    assert (code, said["ok"], said["findings"]) == (0, True, [])


_IGNORED = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
_BY_HTTP_1_0 = {"proxy_http_version 1.1;": "", "proxy_set_header Connection $connection_to_edge;": ""}
_BUFFERED = {"proxy_buffering off;": _IGNORED, **_BY_HTTP_1_0}
# What of the example is changed to what, and what is found then. nginx 1.22 passes the chunks of HTTP/1.1 on
# as they come though it buffers; an answer without chunks it holds until 4 KiB are together.
WRONG = [
    (_BUFFERED, ["buffered", "http_1_0"]),
    (
        {"proxy_buffering off;": _IGNORED, "gzip off;": "gzip on; gzip_types text/event-stream;"
         " gzip_proxied any; gzip_http_version 1.0;"},
        ["buffered", "compressed"],
    ),
    ({**_BUFFERED, "proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}, ["buffered"]),  # the cut takes all
    (_BY_HTTP_1_0, ["http_1_0"]),
    ({"gzip off;": "gzip on; gzip_types text/event-stream; gzip_proxied any;"}, ["compressed"]),
    ({"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}, ["idle_cut_off"]),
    ({"gzip off;": "gzip off; proxy_hide_header Cache-Control;"}, ["cache_control"]),
    (
        {"gzip off;": "gzip off; proxy_hide_header Content-Type; add_header Content-Type text/plain;"},
        ["content_type"],
    ),
    ({"gzip off;": 'gzip off; proxy_set_header Last-Event-ID "";'}, ["last_event_id"]),
]  # fmt: skip


def test_a_proxy_that_is_set_up_wrong_is_found_with_what_to_do(nginx, shown_edge):
    async def scene() -> list[proxy_check.Report]:
        urls = [nginx(shown_edge, changes).url for changes, _ in WRONG]
        silences = [3_000 if "proxy_read_timeout 60s;" in changes else 0 for changes, _ in WRONG]
        places = asyncio.Semaphore(8)  # an edge takes no more self-tests at once

        async def one_check(url: str, silent_ms: int) -> proxy_check.Report:
            async with places:
                return await proxy_check.check(url, silent_ms)

        return await asyncio.gather(*(one_check(*one) for one in zip(urls, silences, strict=True)))

    reports = in_a_thread(scene())
    found = [[finding.code for finding in report.findings] for report in reports]
    assert found == [codes for _, codes in WRONG]
    assert all(finding.remedy for report in reports for finding in report.findings)


def test_what_is_wrong_is_an_exit_code_and_words(nginx, shown_edge):
    url = nginx(shown_edge, _BY_HTTP_1_0).url
    exit_code, said = check(url, "--silent-s", "0")
    assert (exit_code, said["ok"], said["findings"][0]["code"]) == (1, False, "http_1_0")


def test_an_edge_that_is_away_and_an_address_where_nothing_is_are_told_apart(nginx):
    exit_code, said = check(nginx(free_port()).url)
    assert (exit_code, [finding["code"] for finding in said["findings"]]) == (1, ["no_stream"])
    assert "502" in said["findings"][0]["problem"]
    exit_code, said = check(f"http://127.0.0.1:{free_port()}")
    assert (exit_code, "no answer from" in said["said"], "→" in said["said"]) == (3, True, True)
