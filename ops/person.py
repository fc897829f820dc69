"""Who acts, as what others keep of it says: for an audit, not a proof of identity."""

from __future__ import annotations

import getpass
import os
import socket


def who() -> str:
    """Return ``user@host``; the user's number where it has no name, as in a container."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
