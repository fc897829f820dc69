"""Keys of the control topic: a role, or one partition of a role."""

from __future__ import annotations

from typing import NamedTuple

PAUSE = "pause"


class Target(NamedTuple):
    """What a control is about; its text is the record's key."""

    role: str
    partition: int | None
    """The number, of each topic that the role reads; None = all of them."""

    def __str__(self) -> str:
        return self.role if self.partition is None else f"{self.role}/{self.partition}"


def target_of(key: bytes | None) -> Target | None:
    """Return what a control's key names, or None if it is no key of ours."""
    role, slash, number = (key or b"").decode("utf-8", "replace").partition("/")
    if not role or (slash and not (number.isdecimal() and number.isascii())):
        return None
    return Target(role, int(number) if slash else None)
