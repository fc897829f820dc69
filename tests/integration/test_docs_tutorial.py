"""The tutorial, block by block, as a reader follows it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.runbook_page import Page

from .test_docs_pages import DOCS, reader, run

__all__ = ["reader"]  # the fixture

pytestmark = pytest.mark.timeout(480)


def test_an_agent_of_ones_own_from_nothing_to_results_over_a_kill(reader):  # the fixture
    reader.environment["SLUICEGATE_WORKER__WEB_PORT"] = "0"  # the worker that runs has its ports
    page = Page("tutorial", (DOCS / "tutorial.md").read_text())
    assert list(page.blocks) == [
        "environment", "write", "test", "test-stack", "run", "topology", "check", "feed", "see", "lag",
        "kill",
    ]  # fmt: skip
    enter_environment(reader, page.blocks["environment"])
    for block in page.blocks.values():
        run(reader, block)


def enter_environment(reader, block):
    """Have all terminals from now on be as the first block leaves one that finds none of our programs."""
    (reader.folder / ".venv").symlink_to(sys.prefix)
    folders = reader.environment["PATH"].split(os.pathsep)
    elsewhere = [folder for folder in folders if not (Path(folder) / "sluicegate").exists()]
    reader.environment["PATH"] = os.pathsep.join(elsewhere)
    told = replace(block, script=f'{block.script}printf %s "$PATH"')
    reader.environment["PATH"] = run(reader, told)
