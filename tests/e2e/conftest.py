"""A real browser, and a real edge process that tests may kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.conftest import unavailable
from tests.support.edge_fixtures import make_edge, twin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

__all__ = ["browser", "make_edge", "twin"]

BROWSERS = Path(__file__).with_name("browsers.txt")
"""Names that one may have; `.ci/run` reads the same."""
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or whatever Chromium is installed.

    Not for the whole session: while it is open, Playwright's loop runs in this thread, and every later test
    that calls asyncio.run would be refused.
    """
    path = next(filter(None, map(shutil.which, BROWSERS.read_text().split())), None)
    if path is None:
        unavailable("Chromium", "no chromium on the path (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()
