"""Tokens and pages of other sites in real Chromium: its own preflights, its cookies, its EventSource."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.support.tokens import ALL, ISSUER, Issuer, keys_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.support.edge_process import EdgeProcess

pytestmark = pytest.mark.timeout(150)

FOLLOW = """
async ([edge, token]) => {
  const { follow } = await import(`${edge}/client/sluicegate.js`);
  window.lines = [];
  const onEvent = event => { if (event.type === "log") lines.push(event.line); };
  follow(`${edge}/v1/streams/s/events`, { token, onEvent }).then(end => { window.ended = end.reason; });
}
"""
LISTEN = """
url => {
  window.seen = [];
  window.source = new EventSource(url);
  source.onmessage = message => seen.push(JSON.parse(message.data).type);
}
"""
TRY = """
async ([url, token]) => {
  try { return (await fetch(url, { headers: { authorization: `Bearer ${token}` } })).status; }
  catch (error) { return error.name; }
}
"""


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def guarded(
    make_edge: Callable[..., EdgeProcess], issuer: Issuer, tmp_path: Path
) -> Callable[..., EdgeProcess]:
    def make(*, access: dict[str, Any] | None = None, **options: Any) -> EdgeProcess:
        told = {"keys_file": str(keys_file(tmp_path, issuer)), "issuer": ISSUER, **(access or {})}
        return make_edge(access=told, **options)

    return make


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


@contextmanager
def site() -> Iterator[str]:
    """Another site: an origin of its own, with an empty page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>app</title>")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def cookie(edge: EdgeProcess, token: str) -> Any:
    return {"name": "sluice", "value": token, "url": edge.url, "httpOnly": True, "sameSite": "Strict"}


def wait_for(page: Page, what: str) -> None:
    page.wait_for_function(what, timeout=60_000)


def test_a_page_of_a_site_that_is_named_follows_a_stream_over_a_kill_and_another_sites_page_may_not(
    guarded, twin, issuer, context
):
    with site() as app, site() as stranger:
        edge, token = guarded(cors_origins=[app]), issuer.token(**ALL)
        stream = twin.open("s")
        twin.logs(stream, 20)
        page = context.new_page()
        page.goto(app)
        page.evaluate(FOLLOW, [edge.url, token])
        wait_for(page, "lines.length === 20")
        edge.kill()
        twin.logs(stream, 20)
        edge.start()  # it comes back with its cursor in a header, for which the browser asks first
        wait_for(page, "lines.length === 40")
        twin.end(stream)
        wait_for(page, "window.ended === 'completed'")
        assert page.evaluate("lines") == [f"line {n}" for n in range(1, 41)]
        assert page.evaluate(TRY, [f"{edge.url}/v1/streams", "wrong"]) == 401  # it may read why

        page.goto(stranger)
        assert page.evaluate(TRY, [f"{edge.url}/v1/streams", token]) == "TypeError"


def test_the_console_works_by_cookie_and_shows_what_the_token_allows(guarded, twin, issuer, context):
    for name in ("mine", "other"):
        twin.end(twin.open(name, kind="job"))
    edge = guarded(access={"cookie": "sluice"})
    page = context.new_page()
    answer = page.goto(f"{edge.url}/console")
    assert answer is not None
    assert answer.status == 401
    token = issuer.token(**{**ALL, "streams": ["mine"]})
    context.add_cookies([cookie(edge, token)])
    page = context.new_page()  # the same page with another # would not be loaded anew
    page.goto(f"{edge.url}/console#default/mine")
    expect(page.locator("#state")).to_contain_text("ended", timeout=30_000)
    expect(page.locator("body")).to_contain_text("mine")
    expect(page.locator("body")).not_to_contain_text("other")
    page.get_by_role("link", name="clients", exact=True).click()
    expect(page.locator("#howmany")).to_have_text("0 behind or taking nothing.")


def test_a_native_event_source_goes_on_if_its_cookie_is_renewed_when_it_is_warned_and_stops_if_not(
    guarded, twin, issuer, context
):
    edge = guarded(access={"cookie": "sluice", "leeway_ms": 0, "expiry_warning_ms": 3_000})
    stream = twin.open("s", kind="job")
    page = context.new_page()
    page.route(
        f"{edge.url}/page", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
    )
    page.goto(f"{edge.url}/page")
    context.add_cookies([cookie(edge, issuer.token(life_s=6, **ALL))])
    page.evaluate(LISTEN, f"{edge.url}/v1/streams/s/events")
    wait_for(page, "seen.includes('expiring')")
    context.add_cookies([cookie(edge, issuer.token(life_s=8, **ALL))])
    wait_for(page, "seen.includes('reconnect')")
    twin.logs(stream, 1)
    wait_for(page, "seen.includes('log')")  # by the new cookie, from where it was
    wait_for(page, "source.readyState === EventSource.CLOSED")  # that ended too, and nobody renewed it
    types = [name for name in page.evaluate("seen") if name in ("open", "log")]
    assert types == ["open", "log"]
    edge.token = issuer.token(**ALL)
    assert edge.metric('sluicegate_edge_denied_total{code="token_expired"}') == 1
