"""What a process of ours writes of itself: nothing that is no news to who runs it."""

from __future__ import annotations

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
