"""What stands in a store, as its agent declares it: kept with the store, and held against the next deploy.

A changelog holds bytes. Code that reads them otherwise than they were written does not fail, it counts wrong;
so the declaration is compared before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from schemas.topics import TopicSpec
    from state.dedupe import SeenOptions
    from state.keyvalue import KeyValueOptions
    from state.sessions import SessionOptions
    from state.windows import WindowOptions

Kind = Literal["kv", "window", "session", "dedupe"]
VERSION_FIRST: Final = 1


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of entries of a store; times in milliseconds, 0 = it has none."""

    name: str
    """Unique in the store: the prefix of its keys, or what it is called."""
    kind: Kind
    key: str
    """How a key is made, in words or as a struct's format."""
    value: str
    """How a value is made."""
    window_ms: int = 0
    advance_ms: int = 0
    gap_ms: int = 0
    grace_ms: int = 0
    ttl_ms: int = 0

    @property
    def lives_ms(self) -> int:
        """How long an entry is needed after its last write; 0 = until it is deleted, or written again."""
        if self.kind in ("window", "session"):
            return self.window_ms + self.gap_ms + self.grace_ms + self.ttl_ms
        if self.kind == "kv":  # a refresh writes the value alone: its entry in the index is older by a ttl
            return 2 * self.ttl_ms
        return self.ttl_ms


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """The parts of a store, and the version that its agent gives them.

    Without parts nothing is known of the bytes but their version.
    """

    version: int = VERSION_FIRST
    parts: tuple[Part, ...] = field(default=())

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if self.version < VERSION_FIRST or len(set(names)) < len(names):
            raise ValueError(f"a version is at least {VERSION_FIRST}, and each part has its own name: {self}")

    @property
    def lives_ms(self) -> int:
        """How long the entry that expires last is needed after its last write; 0 = none expires."""
        return max((part.lives_ms for part in self.parts), default=0)

    def text(self) -> str:
        """Return the parts as JSON, the same for the same parts in any order; without the version."""
        told = [_told(part) for part in sorted(self.parts, key=lambda part: part.name)]
        return orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def of(cls, version: int, text: str) -> StoreSchema:
        """Return what ``text`` gave; what a later sluicegate added to a part is left out."""
        known = {each.name for each in fields(Part)}
        parts = [
            {name: value for name, value in part.items() if name in known} for part in orjson.loads(text)
        ]
        return cls(version, tuple(Part(**part) for part in parts))


UNDECLARED: Final = StoreSchema()
"""What is assumed of an agent that does not say."""


def kv(name: str, *, key: str, value: str, ttl_ms: int = 0) -> Part:
    """Return a part of plain entries; ``ttl_ms`` if they expire."""
    return Part(name, "kv", key, value, ttl_ms=ttl_ms)


def key_values(name: str, options: KeyValueOptions, *, key: str, value: str) -> Part:
    """Return a part of ``KeyValues``."""
    return kv(name, key=key, value=f"until >q, entry >q, {value}", ttl_ms=options.ttl_ms)


def seen(name: str, options: SeenOptions, *, key: str) -> Part:
    """Return a part of ``Seen``."""
    return Part(name, "dedupe", key, "until >q", ttl_ms=options.ttl_ms)


def windows(name: str, options: WindowOptions, *, key: str, value: str) -> Part:
    """Return a part of tumbling or hopping windows."""
    return Part(
        name,
        "window",
        key,
        value,
        window_ms=options.window_ms,
        advance_ms=options.advance_ms,
        grace_ms=options.grace_ms,
        ttl_ms=options.ttl_ms,
    )


def sessions(name: str, options: SessionOptions, *, key: str, value: str) -> Part:
    """Return a part of session windows."""
    return Part(
        name, "session", key, value, gap_ms=options.gap_ms, grace_ms=options.grace_ms, ttl_ms=options.ttl_ms
    )


def dedupe(name: str, *, key: str, ttl_ms: int) -> Part:
    """Return a part of a ``DedupeSet``: what was seen in groups, each forgotten so long after its end."""
    return Part(name, "dedupe", key, "note >q", ttl_ms=ttl_ms)


def differences(kept: StoreSchema, code: StoreSchema) -> list[str]:
    """Say what differs between a store as it is and as code would read it; empty = it fits.

    A declaration that had no parts, or has none any more, says nothing: then the versions alone are held
    against each other.
    """
    found = []
    if kept.version != code.version:
        found.append(f"its version is {kept.version}, this code's {code.version}")
    if not kept.parts or not code.parts:
        return found
    before = {part.name: _told(part) for part in kept.parts}
    after = {part.name: _told(part) for part in code.parts}
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            found.append(f"{name} ({before[name]['kind']}) is not in this code")
        elif name not in before:
            found.append(f"{name} ({after[name]['kind']}) is not in the store")
        else:
            found += [
                f"{name}: {what} is {before[name][what]!r}, this code's {after[name][what]!r}"
                for what in before[name]
                if before[name][what] != after[name][what]
            ]
    return found


@dataclass(frozen=True, slots=True)
class Migration:
    """How a store of one version becomes one of another; named, so that it is applied on purpose."""

    name: str
    changelog: TopicSpec
    """Of the store."""
    from_version: int
    to_version: int
    change: Callable[[bytes, bytes], Iterable[tuple[bytes, bytes]]] | None = None
    """Given an old key and value, returns what stands in their place: none, one or more pairs.

    Called in the order of the keys, for each entry at least once; it must come to the same for the same pair,
    as a migration that was killed goes on where it stood. None = the bytes stay as they are.
    """

    def __post_init__(self) -> None:
        if not self.name.strip() or self.from_version == self.to_version:
            raise ValueError(f"a migration has a name and leads to another version: {self}")


def drop(_key: bytes, _value: bytes) -> tuple[()]:
    """Leave every entry out: a ``change`` after which the store is empty."""
    return ()


def _told(part: Part) -> dict[str, Any]:
    return {each.name: getattr(part, each.name) for each in fields(part) if each.name != "name"} | {
        "name": part.name
    }
