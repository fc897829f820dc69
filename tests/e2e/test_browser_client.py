"""`sluicegate.js` in real Chromium, at an edge that asks who comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tokens import ALL, ISSUER, Issuer, keys_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.timeout(120)

FOLLOW = """([streams, token]) => import("/client/sluicegate.js").then(async ({ follow }) => {
    window.seen = [];
    window.tokens = 0;
    const ask = () => { window.tokens += 1; return token ?? window.newToken(); };
    for (const stream of streams) {
        try {
            const end = await follow(`/v1/streams/${stream}/events`, {
                token: ask,
                onEvent: (event) => window.seen.push(event.seq),
                onEnd: (event) => window.seen.push(event.seq),
                onReconnect: ({ reason }) => window.seen.push(reason),
            });
            window.seen.push(end && end.type);
        } catch (error) {
            window.seen.push(`${error.name} ${error.status} ${error.code}`);
        }
    }
})"""


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def page(make_edge, issuer, tmp_path, browser: Browser) -> Any:
    keys = str(keys_file(tmp_path, issuer))
    edge = make_edge(access={"keys_file": keys, "issuer": ISSUER, "leeway_ms": 0}, retry_ms=100)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{edge.url}/healthz")
    yield page
    context.close()


def until(page: Any, what: str) -> None:
    page.wait_for_function(what, timeout=40_000)


def test_a_token_is_renewed_in_the_middle_of_a_stream_without_losing_the_place(page, issuer, twin):
    stream = twin.open("s", kind="llm")
    twin.logs(stream, 3)
    page.expose_function("newToken", lambda: issuer.token(life_s=2.0, **ALL))
    page.evaluate(f"(given) => {{ ({FOLLOW})(given) }}", [["s"], None])
    until(page, "window.seen?.includes(3)")
    deadline = time.monotonic() + 40
    while page.evaluate("window.tokens") < 3:
        assert time.monotonic() < deadline
        twin.logs(stream, 1)
        page.wait_for_timeout(300)
    twin.end(stream)
    until(page, "window.seen.includes('end')")
    seen = page.evaluate("window.seen")
    assert [one for one in seen if isinstance(one, int)] == list(range(stream.next_seq))
    assert "expired" in seen


def test_a_token_without_a_claim_to_the_stream_ends_it_with_the_edges_word(page, issuer, twin):
    twin.open("s")
    token = issuer.token(**ALL | {"streams": ["other"]})
    page.evaluate(FOLLOW, [["s"], token])
    assert page.evaluate("window.seen") == ["StreamRefused 403 forbidden"]
