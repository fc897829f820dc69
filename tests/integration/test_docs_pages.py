"""Each command block of the pages for producers, clients and on-call, run and held to what it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import need_program
from tests.e2e.runbook_page import Page
from tests.support.command_line import CommandLine
from tests.support.ports import consecutive_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.runbook_page import Block

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("producer", "client-developer", "on-call")

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def reader(stack, kafka_options, registered_schemas, tmp_path) -> Iterator[CommandLine]:
    """A reader with a worker that archives and shows its numbers, and an edge."""
    need_program("curl")
    with CommandLine(tmp_path, stack, kafka_options) as reader:
        reader.environment |= {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "SLUICEGATE_DATA_DIR": ".sluicegate",  # as it is for who follows the pages
            "SLUICEGATE_WORKER__WEB_PORT": str(consecutive_ports(3)),
            "WORKER_LOG": str(tmp_path / "worker.log"),
        }
        (tmp_path / "data").symlink_to(tmp_path / ".sluicegate")  # where CommandLine looks
        reader.environment["WORKER"] = f"http://127.0.0.1:{reader.environment['SLUICEGATE_WORKER__WEB_PORT']}"
        reader.worker("ingest,aggregate,archive")
        reader.edge()
        found = json.loads((tmp_path / ".sluicegate" / "edge.json").read_bytes())
        reader.environment["EDGE"] = found["url"]
        log = tmp_path / "worker.log"
        reader.until(lambda: log.read_text().count("partition ready") >= 20, "all roles read", log="worker")
        yield reader


def run(reader: CommandLine, block: Block) -> str:
    """Run a block as a reader of the page would; hold it to its exit code and its output."""
    done = subprocess.run(
        ["bash", "-u", "-o", "pipefail", "-c", block.script],
        check=False,
        cwd=reader.folder,
        env=reader.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )
    shown = f"block {block.name}\n{block.script}\nexit code {done.returncode}\n{done.stdout}"
    assert done.returncode == block.exit_code, shown
    missing = block.missing_from(done.stdout)
    assert missing is None, f"not shown: {missing}\n{shown}"
    return done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_each_block_does_what_its_page_says(reader, name):
    page = Page(name, (DOCS / f"{name}.md").read_text())
    assert page.blocks
    for block in page.blocks.values():
        run(reader, block)
