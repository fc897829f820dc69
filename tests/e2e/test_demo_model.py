"""`sluicegate demo --model`: a real model's answer, token by token, from its server to a page in Chromium."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from ops.stack.model import INSTALL, NAME, is_installed
from tests.e2e.test_demo import left_behind, wait_for_page
from tests.support.command_line import CommandLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

ENDED_MS = 180_000  # a loaded machine takes a second a token
# Samples the answer's length on the page until the stream ended: how it grew.
GROWTH = """
async () => {
  const lengths = new Set();
  const now = () => document.querySelector('#rows .row.text')?.textContent.length ?? 0;
  while (!document.querySelector('#state').textContent.startsWith('ended')) {
    lengths.add(now());
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  return [...lengths].sort((a, b) => a - b);
}
"""


@pytest.fixture
def line(tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, kafka_options) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def shown(page: Page) -> str:
    """The answer's text on the page, without who says it."""
    return "".join(page.locator("#rows .row.text .what").all_text_contents()).removeprefix("assistant")


@pytest.mark.timeout(600)
def test_the_real_models_answer_comes_to_the_page_token_by_token(line: CommandLine, page: Page) -> None:
    if not is_installed():
        pytest.skip(f"the extra local-model is not installed: {INSTALL}")
    demo = line.start("demo", "--model")
    address = wait_for_page(line, demo, within_s=240)
    page.goto(address)
    expect(page.locator("#title")).to_have_text("Why is the sky blue?", timeout=ENDED_MS)
    expect(page.locator("#state")).to_have_text("ended: completed", timeout=ENDED_MS)
    assert shown(page).strip()

    # Somebody asks another one in a second terminal, and watches it in the page.
    page.goto(f"{address.partition('#')[0]}?")
    words = ("--model", f"local/{NAME}", "--max-tokens", "16", "--json")
    ask = line.start("llm", "ask", "Why is the sea blue?", *words)
    page.get_by_role("link", name="Why is the sea blue?").click(timeout=ENDED_MS)
    lengths = page.evaluate(GROWTH)
    out, _ = ask.communicate(timeout=60)

    told = [json.loads(text) for text in out.splitlines()]
    assert ask.returncode == 0
    assert (told[0]["type"], told[-1]["type"], told[-1]["reason"]) == ("open", "end", "completed")
    tokens = [event["text"] for event in told if event["type"] == "token"]
    assert "".join(tokens).strip()
    assert shown(page) == "".join(tokens)
    assert len(lengths) >= 3, "it grew while it came"
    (usage,) = (event for event in told if event["type"] == "usage")
    assert (usage["provider"], usage["provenance"], usage["cost_nanos"]) == ("local", "provider", 0)
    assert 1 <= usage["output_tokens"] <= 16

    demo.send_signal(signal.SIGINT)
    assert demo.wait(90) == 0
    assert left_behind(line.folder) == [], "the model's server is stopped, too"


@pytest.mark.timeout(240)
def test_without_the_extra_a_recording_is_replayed_and_that_is_said(line: CommandLine) -> None:
    hidden = line.folder / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['xllamacpp'] = None\n")
    line.environment["PYTHONPATH"] = str(hidden)

    code, out, err = line.run("demo", "--model", "--once", timeout_s=220)

    assert code == 0, out + err
    assert "the local model is not installed (`make environment MODEL=1` gets it)" in err
    assert "a recording is replayed in its place" in err
    assert out.startswith("open Why is the sky blue?")
    assert "A sluice gate is a small door with a large responsibility." in out
    assert re.search(r"^usage replay/.* cost unknown$", out, re.MULTILINE)
    assert out.endswith("end completed\n")
    assert left_behind(line.folder) == []
