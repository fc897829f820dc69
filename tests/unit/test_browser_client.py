"""The browser client's own tests, in Node.js; in a browser it is tested by tests/e2e."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import need_program

TESTS = Path(__file__).with_name("sluicegate_client.test.mjs")


def test_the_browser_client_does_what_it_says():
    need_program("node")
    done = subprocess.run(
        ["node", "--test", str(TESTS)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
