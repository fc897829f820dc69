"""What can go wrong with state.

StateError
├── StoreUnreadable       the files on disk cannot be opened or read
├── StoreLocked           another process has the folder
├── StoreUnwritable       the disk does not take what Kafka has: a unit, or what is restored
├── StateWithoutOffset    state exists, the group's offset does not
├── StateLost             the group's offset exists, the state does not, or not all of it
├── PositionLost          the committed offset is not in the log any more
├── BudgetRefused         more memory or files are asked for than the process may have
└── EffectTooLarge        an agent made a record or a state value that its topic does not take
"""

from __future__ import annotations

from schemas.errors import SluicegateError


class StateError(SluicegateError):
    """State cannot be kept as promised."""


class StoreUnreadable(StateError):
    """The store's files cannot be read."""

    fatal = True
    remedy = "Check the disk, then start the worker again: it sets broken files aside and rebuilds them."


class StoreLocked(StateError):
    """Another process has the store's folder. Operator: stop that process or give this one another slot."""


class StoreUnwritable(StateError):
    """The disk does not take what Kafka has committed, of a unit or at a restore: full, read only, broken."""

    fatal = True
    remedy = "Free space or mend the disk, then start the worker again: the changelog restores the state."


class StateWithoutOffset(StateError):
    """State without a committed offset. Operator: see the runbook checkpoint-failure."""


class StateLost(StateError):
    """A changelog was deleted, made anew or cut. Operator: see the runbook checkpoint-failure."""

    remedy = (
        "The changelog was deleted, made anew or cut. Nothing is started over by itself: see "
        "runbooks/checkpoint-failure.md, State that is gone."
    )


class PositionLost(StateError):
    """The committed offset is outside of the log. Operator: records are gone; see the runbook lag-growth."""


class BudgetRefused(StateError):
    """The stores would be given more than there is. Operator: lower the setting that it names."""


class EffectTooLarge(StateError):
    """A record or a state value is over its topic's limit. Operator: the input event is a dead letter."""

    remedy = "Have the agent split it, or emit a reference to it."

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{what} of {size_bytes} bytes is over the limit of {limit_bytes} bytes")
