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


QUOTES = """
import logging
from mode.utils.logging import get_logger
from ops.logs import configure_logs
import structlog
configure_logs()
log = structlog.get_logger()
tried, where = ("api_key=hunter22", 3), {"a": ValueError("token=hunter22")}
log.warning("event fails", cause="password=hunter22", tried=tried, where=where)
try:
    raise ValueError("postgresql://me:hunter22@db/x")
except ValueError:
    log.exception("broken")
    logging.getLogger("asyncio").exception("crashed with %s", "secret=hunter22")
    get_logger("faust.worker").exception("told by us")
logging.getLogger("asyncio").info("no news")
"""


def test_what_looks_like_a_secret_is_in_no_line_and_those_of_libraries_are_lines_of_the_same_form():
    done = subprocess.run(
        [sys.executable, "-c", QUOTES], capture_output=True, text=True, timeout=60, check=True
    )
    assert "hunter22" not in done.stderr
    ours, raised, theirs = map(json.loads, done.stderr.splitlines())
    assert (ours["cause"], ours["tried"], ours["where"]) == (
        "password=***",
        ["api_key=***", 3],
        {"a": "token=***"},
    )
    assert raised["exception"].endswith("ValueError: postgresql://me:***@db/x")
    assert theirs["event"] == "crashed with secret=***"
    assert (theirs["level"], theirs["logger"]) == ("error", "asyncio")
    assert "Traceback" in theirs["exception"]
