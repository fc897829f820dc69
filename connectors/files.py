"""Open files of this process: each connection takes one, and so does each table of a store."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

_FILES_MAX: Final = 1_048_576
"""Linux gives one process no more (``fs.nr_open``), whatever its hard limit says."""


def files_max() -> int:
    """Raise this process's limit of open files to the most that it may have, and return that.

    The usual soft limit, 1,024, is for programs that wait with ``select``; Go's runtime raises its own, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_finite(hard), _FILES_MAX)
    if _finite(soft) < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower bound that the limit does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return min(_finite(soft), _FILES_MAX)


def _finite(limit: int) -> int:
    return _FILES_MAX if limit == resource.RLIM_INFINITY else limit
