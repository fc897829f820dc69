"""What a process of ours writes of itself: nothing that is no news to who runs it."""

from __future__ import annotations

import json
import subprocess
import sys

SAYS = """
import structlog
from ops.logs import configure_logs
log = structlog.get_logger("made before, as a module's is")
configure_logs()
log.debug("lag is not known")
log.info("partition ready")
"""


def test_a_line_for_developers_is_not_written():
    done = subprocess.run(
        [sys.executable, "-c", SAYS], capture_output=True, text=True, timeout=60, check=True
    )
    assert "partition ready" in done.stderr
    assert "lag is not known" not in done.stderr


LIBRARY = """
import logging
from ops.logs import configure_logs
configure_logs()
logging.getLogger("asyncio").info("no news")
try:
    raise ValueError("it broke")
except ValueError:
    logging.getLogger("asyncio").exception("Task exception was never %s", "retrieved")
"""


def test_what_a_library_says_is_a_line_as_ours_are_with_its_traceback():
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], capture_output=True, text=True, timeout=60, check=True
    )
    (said,) = map(json.loads, done.stderr.splitlines())
    assert (said["level"], said["logger"]) == ("error", "asyncio")
    assert said["event"] == "Task exception was never retrieved"
    assert said["exception"].endswith("ValueError: it broke")
