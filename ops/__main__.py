"""`python -m ops` is `sluicegate`: how one of its processes starts another of the same environment."""

from __future__ import annotations

from ops.cli import main

main()
