"""The kinds of the work ``stalled``: one for each policy of backpressure, its bound passed within seconds.

The edge loads them as a user's own (``SLUICEGATE_PIPELINES``); there is no agent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from schemas.kinds import LOG, BackpressurePolicy

if TYPE_CHECKING:
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.kinds import Kind

BEHIND_EVENTS_MAX: Final = 300
BEHIND_BYTES_MAX: Final = 16 * 1_048_576
"""As ``log`` has it: events of 300 bytes come to the other bound first."""
BEHIND_SHARE: Final = 0.4
"""Half of a stream's clients stop reading: that must be enough, without each of them."""
STALL_MS_MAX: Final = 4_000


def _kind(bound: BackpressurePolicy) -> Kind:
    doc = f"As log, but {bound.policy} at a bound that is passed within seconds."
    return replace(LOG, name=bound.policy, doc=doc, backpressure=bound)


KINDS: Final = (
    _kind(BackpressurePolicy("drop_old", BEHIND_EVENTS_MAX, BEHIND_BYTES_MAX, 1.0, 0, "drop_old")),
    _kind(BackpressurePolicy("drop_new", BEHIND_EVENTS_MAX, BEHIND_BYTES_MAX, 1.0, 0, "drop_new")),
    _kind(BackpressurePolicy("terminate", BEHIND_EVENTS_MAX, BEHIND_BYTES_MAX, 1.0, 0, "terminate")),
    _kind(
        BackpressurePolicy(
            "slow_producer", BEHIND_EVENTS_MAX, BEHIND_BYTES_MAX, BEHIND_SHARE, STALL_MS_MAX, "drop_old"
        )
    ),
)


def register(app: RoleApp, tools: Tools, options: WorkerOptions) -> None:
    """See ``pipelines/extension.py``; no agent."""
