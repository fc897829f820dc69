"""Controls of a role, and the keys under which they stand in the control topic."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

PAUSE: Final = "pause"
SKIP: Final = "skip"
QUARANTINE: Final = "quarantine"

SKIPS_MAX: Final = 100
"""Of a role at a time: what needs more is a fault of the agent, or of its input, and is mended there."""
QUARANTINED_MAX: Final = 1_000
"""Keys of a role at a time: held in memory by each of its workers, and looked up for each record."""


class Target(NamedTuple):
    """What a pause is about: a role, or a partition number of it. Its text is the record's key."""

    role: str
    partition: int | None
    """The number, of each topic that the role reads; None = all of them."""

    def __str__(self) -> str:
        return self.role if self.partition is None else f"{self.role}/{self.partition}"


class RecordTarget(NamedTuple):
    """What a skip is about: one record that a role reads."""

    role: str
    topic: str
    """Without prefix."""
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.role}/{self.topic}/{self.partition}/{self.offset}"


class KeyTarget(NamedTuple):
    """What a quarantine is about: the records of one key, of all topics that a role reads."""

    role: str
    key: bytes

    def __str__(self) -> str:
        return f"{self.role}/key={quote_from_bytes(self.key, safe='')}"


AnyTarget = Target | RecordTarget | KeyTarget


def target_of(key: bytes | None) -> AnyTarget | None:
    """Return what a control's key names, or None if it is no key of ours."""
    role, *rest = (key or b"").decode("utf-8", "replace").split("/")
    if not role:
        return None
    match rest:
        case []:
            return Target(role, None)
        case [number] if _is_number(number):
            return Target(role, int(number))
        case [text] if text.startswith("key="):
            return KeyTarget(role, unquote_to_bytes(text.removeprefix("key=")))
        case [topic, partition, offset] if topic and _is_number(partition) and _is_number(offset):
            return RecordTarget(role, topic, int(partition), int(offset))
        case _:
            return None


def _is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii()
