"""What makes streams and calls one task, for those who produce them and those who add up what it cost.

A stream's task is what its ``open`` says (``task_id``), else the stream itself. The task's *root stream* is
the one of the task's own id, or one whose ``open`` has the label ``task: root``; the task is over when that
ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

TASK_LABEL: Final = "task"
ROOT: Final = "root"


def upstream_of(upstream_id: str, provider: str) -> str:
    """Return what was called: ``retrieval`` of ``retrieval:docs-7``; without such an id, the provider."""
    name, colon, _ = upstream_id.partition(":")
    return (name if colon else "") or provider


def is_root(stream_id: str, task_id: str, labels: Mapping[str, str]) -> bool:
    """Tell whether a stream is its task's root, by its ``open``."""
    return task_id in ("", stream_id) or labels.get(TASK_LABEL) == ROOT
