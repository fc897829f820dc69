"""The pages of docs/examples in real Chromium, served from the edge's own address as a proxy would."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from schemas.topics import INPUT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def page(browser: Browser) -> Any:
    context = browser.new_context()
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    assert page.problems == []
    context.close()


def show(page: Page, edge: Any, name: str) -> None:
    """Open an example at the edge's address; all that it asks for goes to the real edge."""
    address = f"{edge.url}/page-of-a-reader"
    page.route(address, lambda route: route.fulfill(path=EXAMPLES / name, content_type="text/html"))
    page.goto(address)


def until_shown(page: Page, text: str, where: str = "#out") -> None:
    deadline = time.monotonic() + 30
    while text not in (page.text_content(where) or ""):
        assert time.monotonic() < deadline, f"never shown: {text}\n{page.text_content(where)[-500:]}"
        page.wait_for_timeout(30)


@pytest.mark.parametrize("name", ["page.html", "page_whole.html", "page_client.html"])
def test_every_line_is_shown_once_though_the_edge_is_killed(make_edge, twin, page, name):
    edge = make_edge()
    stream = twin.open("build-42")
    twin.logs(stream, 30)
    show(page, edge, name)
    until_shown(page, "line 30\n")
    edge.kill()
    twin.logs(stream, 30)  # while no edge is there
    edge.start()
    until_shown(page, "line 60\n")
    twin.end(stream)
    if name == "page_whole.html":
        until_shown(page, "ended: completed", "#state")
    lines = "".join(f"line {n}\n" for n in range(1, 61))
    if name == "page_client.html":
        lines += "--- ended: completed ---\n"
        until_shown(page, "ended: completed")
    assert page.text_content("#out") == lines


def test_the_room_shows_who_said_what_and_says_again_what_was_not_acknowledged(make_edge, twin, page):
    edge = make_edge()
    room = twin.open("room-1", kind="chat")
    twin.write(room, [("message", {"from": "ann", "text": "hello"})])
    # A page that a test fulfils is of no address that Chromium knows, and may open no WebSocket to loopback.
    page.goto(f"{edge.url}/healthz")
    page.set_content((EXAMPLES / "page_chat.html").read_text())
    until_shown(page, "ann: hello\n")
    edge.kill()
    page.fill("#text", "is anybody there?")
    page.press("#text", "Enter")  # while no edge is there
    edge.start()
    deadline = time.monotonic() + 60
    while not (said := [event for event in twin.records(INPUT) if event.stream_id == "room-1"]):
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)
    assert twin.payload(said[0]) == {"from": "me", "text": "is anybody there?"}
    twin.write(room, [("message", twin.payload(said[0]))])
    until_shown(page, "ann: hello\nme: is anybody there?\n")


def test_the_page_with_a_client_sends_its_token_shows_what_is_missing_and_is_served_its_module(
    make_edge, twin, page
):
    edge = make_edge()
    stream = twin.open("build-42")
    twin.write(stream, [("gap", {"from_seq": 1, "to_seq": 3, "count": 3, "reason": "missing_input"})])
    twin.end(stream)
    tokens: list[str | None] = []
    page.on("request", lambda request: tokens.append(request.headers.get("authorization")))
    page.add_init_script("localStorage.setItem('token', 'abc.def')")
    with page.expect_response("**/client/sluicegate.js") as served:
        show(page, edge, "page_client.html")
    assert served.value.headers["content-type"] == "text/javascript; charset=utf-8"
    until_shown(page, "--- missing: 3 events (missing_input) ---\n--- ended: completed ---\n")
    assert [token for token in tokens if token] == ["Bearer abc.def"]


def test_the_whole_page_comes_back_from_an_error_that_ends_a_native_client(make_edge, twin, page):
    edge = make_edge()
    stream = twin.open("build-42")
    twin.logs(stream, 3)
    answers: list[int] = []

    def proxy(route: Any) -> None:
        """A proxy whose backend is away for the first two requests."""
        answers.append(502 if len(answers) < 2 else 200)
        if answers[-1] == 502:
            route.fulfill(status=502)
        else:
            route.continue_()

    page.route("**/v1/streams/**", proxy)
    show(page, edge, "page_whole.html")
    until_shown(page, "line 3\n")
    twin.end(stream)
    until_shown(page, "ended: completed", "#state")
    assert answers == [502, 502, 200]
    assert page.text_content("#out") == "line 1\nline 2\nline 3\n"


def test_the_whole_page_shows_what_is_missing_and_what_is_superseded(make_edge, twin, page):
    edge = make_edge()
    stream = twin.open("build-42")
    twin.logs(stream, 2)
    twin.write(
        stream,
        [
            ("gap", {"from_seq": 3, "to_seq": 5, "count": 3, "reason": "missing_input"}),
            ("reset", {"from_seq": 1, "reason": "retry"}),
        ],
    )
    twin.end(stream)
    show(page, edge, "page_whole.html")
    until_shown(page, "ended: completed", "#state")
    shown = page.text_content("#out")
    assert "--- missing: 3 events (missing_input) ---\n" in shown
    assert "--- what came from 1 on is superseded ---\n" in shown
