"""The tutorial, block by block, as a reader follows it."""

from __future__ import annotations

import pytest

from tests.e2e.runbook_page import Page

from .test_docs_pages import DOCS, reader, run

__all__ = ["reader"]  # the fixture

pytestmark = pytest.mark.timeout(240)


def test_an_agent_of_ones_own_from_nothing_to_results_over_a_kill(reader):  # the fixture
    reader.environment["SLUICEGATE_WORKER__WEB_PORT"] = "0"  # the worker that runs has its ports
    page = Page("tutorial", (DOCS / "tutorial.md").read_text())
    assert list(page.blocks) == [
        "write", "test", "test-stack", "run", "topology", "check", "feed", "see", "lag", "kill",
    ]  # fmt: skip
    for block in page.blocks.values():
        run(reader, block)
