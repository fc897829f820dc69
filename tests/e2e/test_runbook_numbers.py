"""A block that looks whether a number rests fails where nobody tells it: needs nothing that runs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.runbook_page import pasted
from tests.support.ports import free_port

NUMBERS_THAT_REST = [
    ("reconnect-storm", "joins-a-second"),
    ("reconnect-storm", "all-are-back"),
    ("provider-down", "no-more-failures"),
    ("cost-spike", "what-it-costs-now"),
]


def test_numbers_of_nobody_are_not_taken_for_numbers_that_rest():
    nobody = f"http://127.0.0.1:{free_port()}"
    environment = dict(os.environ) | {"EDGE": nobody, "LLM": nobody}
    with ThreadPoolExecutor(len(NUMBERS_THAT_REST)) as beside:  # most of it is silence
        found = list(beside.map(lambda block: pasted(*block, environment), NUMBERS_THAT_REST))
    assert [code != 0 for code, _ in found] == [True] * len(NUMBERS_THAT_REST), found
