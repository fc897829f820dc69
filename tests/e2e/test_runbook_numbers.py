"""What blocks do where nothing is to be seen, and what they leave behind: needs nothing that runs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.runbook_page import page, pages, pasted
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


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("../docs/on-call", "logs"),
        ("lag-growth", "what-the-worker-says"),
        ("reconnect-storm", "what-the-edge-says"),
    ],
)
def test_a_log_that_tells_of_no_trouble_is_said_to_have_nothing(name, block, tmp_path):
    log = tmp_path / "log"
    environment = dict(os.environ) | {"WORKER_LOG": str(log), "EDGE_LOG": str(log)}
    log.write_text('{"event":"tail_connected","level":"info"}\n')
    assert pasted(name, block, environment) == (0, "nothing\n")
    log.write_text(trouble := '{"event":"client_stalled","level":"warning"}\n')
    assert pasted(name, block, environment) == (0, trouble)


@pytest.mark.parametrize("name", pages())
def test_no_block_leaves_a_setting_to_the_blocks_that_are_pasted_after_it(name):
    """A bound for the worst hour would hold for good."""
    scripts = [block.script for block in page(name).blocks.values()]
    assert not any("export SLUICEGATE_" in script for script in scripts)
