"""The console and language models, in real Chromium: a question goes out, its answer is read as it comes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.support.edge_llm_world import world
from tests.support.llm_twin import end, failed, finish, piece, reset, text, usage
from tests.support.tokens import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.support.edge_llm_world import LlmWorld

__all__ = ["world"]
pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def page(browser: Browser) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    assert problems == []
    context.close()


@pytest.fixture(autouse=True)
def _patient() -> Iterator[None]:
    expect.set_options(timeout=30_000)
    yield
    expect.set_options(timeout=5_000)


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")


def test_a_question_is_asked_and_its_answer_flows_with_thoughts_folded_and_its_cost(world: LlmWorld, page):
    go_on = threading.Event()
    world.twin.answers["default"] = [
        piece("Let me ", channel="reasoning"), piece("think.", channel="reasoning"),
        *text("Because of ", "<b>light"), go_on, *text(", it is."),
        piece('{"a":', channel="tool", call_id="c-1", tool="look"),
        piece("1}", channel="tool", call_id="c-1", tool="look"),
        finish("stop"), usage(cost_nanos=1_500_000), usage(cost_nanos=None, provenance="estimated"),
        usage(cost_nanos=7, input_tokens=0, output_tokens=0, provenance="unknown"), end(),
    ]  # fmt: skip
    page.goto(f"{world.edge.url}/console")
    ask(page, "Why is the\nsky blue?")
    expect(page.locator("#title")).to_have_text("Why is the sky blue?")
    said = page.locator("#rows .row.text:not(.reasoning, .tool) .body")
    expect(said).to_have_text("Because of <b>light")
    expect(page.locator("#state")).to_have_text("live")
    thought = page.locator("#rows .reasoning .body")
    expect(thought).to_be_hidden()
    page.get_by_text("assistant, reasoning").click()
    expect(thought).to_have_text("Let me think.")
    go_on.set()
    expect(said).to_have_text("Because of <b>light, it is.")
    expect(page.locator("#rows .tool")).to_contain_text("calls look")
    expect(page.locator("#rows .tool .body")).to_have_text('{"a":1}')
    expect(page.locator("#state")).to_have_text("ended: completed")
    expect(page.locator("#spent")).to_have_text(
        "$0.001500 + 2 unknown · 14 in, 10 out + tokens of 1 unknown · 3 calls"
    )
    expect(page.locator("#rows")).to_contain_text("unknown tokens in, unknown out, cost unknown")
    expect(page.locator("#rows")).to_contain_text("finished stop")
    expect(page.locator("#rows")).to_contain_text("5 out (estimated), cost unknown")
    (request,) = [each for each in world.twin.requests if each["messages"][0]["content"].startswith("Why")]
    assert request["messages"] == [{"role": "user", "content": "Why is the\nsky blue?"}]
    assert (request["route"], request["model"]) == ("default", "")


def test_what_a_reset_supersedes_is_struck_out_and_the_new_text_is_a_row_of_its_own(world: LlmWorld, page):
    world.twin.answers["other"] = [
        *text("wrong "), reset(), *text("right"), failed("server"), end("upstream_error", "broke"),
    ]  # fmt: skip
    world.twin.route("other", {"candidates": []})
    page.goto(f"{world.edge.url}/console")
    expect(page.get_by_label("Model").locator("option", has_text="default")).to_be_attached()
    for _ in range(50):
        if page.get_by_label("Model").locator("option", has_text="other").count():
            break
        page.wait_for_timeout(200)
        page.reload()
    page.get_by_label("Model").select_option("other")
    ask(page, "again")
    expect(page.locator("#state")).to_have_text("ended: upstream error")
    expect(page.locator("#rows .row.text.void .body")).to_have_text("wrong ")
    expect(page.locator("#rows .row.text:not(.void) .body")).to_have_text("right")
    expect(page.locator("#rows")).to_contain_text("failed server")
    assert [each["route"] for each in world.twin.requests][-1] == "other"


def test_a_question_that_is_refused_stays_and_says_why(world: LlmWorld, page):
    page.goto(f"{world.edge.url}/console")
    ask(page, "x" * 1_100_000)
    expect(page.locator("#unasked")).to_contain_text("Not asked: ")
    assert len(page.get_by_label("Question").input_value()) == 1_100_000


@pytest.mark.parametrize(
    ("scope", "shown"), [("subscribe operate", False), ("subscribe operate publish", True)]
)
def test_the_form_is_there_for_whoever_may_ask(world: LlmWorld, browser: Browser, scope, shown):
    token = world.issuer.token(**{**ALL, "scope": f"{scope} operate"})
    context = browser.new_context(extra_http_headers={"authorization": f"Bearer {token}"})
    page = context.new_page()
    with page.expect_response("**/v1/models"):
        page.goto(f"{world.guarded.url}/console")
    expect(page.locator("#edge")).to_have_text("edge ready")
    expect(page.locator("#ask")).to_be_visible(visible=shown)
    context.close()


def test_the_page_of_the_documentation_shows_an_answer_without_what_was_superseded(world: LlmWorld, page):
    world.twin.answers["shown"] = [
        piece("Hm.", channel="reasoning"), *text("wrong"), reset(), *text("Hel", "lo"), end(),
    ]  # fmt: skip
    world.ask(world.asking(model="shown", stream_id="answer-7"))
    address, file = (
        f"{world.edge.url}/page-of-a-reader",
        Path(__file__).parents[2] / "docs/examples/page_tokens.html",
    )
    page.route(address, lambda route: route.fulfill(path=file, content_type="text/html"))
    page.goto(address)
    expect(page.locator("#state")).to_have_text("completed ")
    expect(page.locator("#out")).to_have_text("Hello")
    expect(page.locator("#thoughts")).to_have_text("")
