"""What an outcome says about an input: the terms of invariant I1, that no record goes missing uncounted.

Records handled = output + duplicate + late + filtered + dead_letter + held - released, for each agent and
partition, in each unit of work. ``docs/on-call.md`` has the query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pipelines import verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping

Fate = Literal["output", "duplicate", "late", "filtered", "dead_letter", "held", "released", "beside"]
"""``held``: it waits for others, and is counted once more when it is ``released``. ``beside``: no input."""

FATES: Final[Mapping[str, Fate]] = {
    "duplicate": "duplicate",
    "superseded": "duplicate",
    "late": "late",
    "late_for_window": "late",
    "window_forgotten": "late",
    verdicts.TICK: "filtered",
    "ignored": "filtered",
    "filtered": "filtered",
    "out_of_order": "filtered",
    "orphan": "filtered",
    "second_open": "filtered",
    "second_end": "filtered",
    "mixed_seq": "filtered",
    "stale_epoch": "filtered",
    "wrong_kind": "filtered",
    verdicts.DEAD_LETTER: "dead_letter",
    verdicts.HELD: "held",
    verdicts.RELEASED: "released",
    verdicts.MADE: "beside",
    verdicts.FUTURE_DATED: "beside",
}


def fate_of(outcome: str) -> Fate:
    """Return the fate of an outcome; one that is not in the table is an agent's own word for an output."""
    return FATES.get(outcome, "output")
