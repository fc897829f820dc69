"""What a usage window holds: sums of one tenant, kind, provider and model, and its binary form."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from schemas.envelope import LONG_MAX
from state.binary import CorruptValue, pack_texts, unpack_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_VERSION: Final = 1
_STORED: Final = struct.Struct(">BB10q")
SUMS: Final = (
    "calls", "errors", "events", "input_tokens", "output_tokens", "cost_nanos", "cost_unknown",
    "latency_ms_sum",
)  # fmt: skip


class Group(NamedTuple):
    """Whose usage a window counts."""

    tenant: str
    kind: str
    provider: str = ""
    model: str = ""

    def state_key(self) -> bytes:
        """Return the key in a store; none is the beginning of another."""
        return pack_texts(*self)

    def topic_key(self) -> bytes:
        """Return ``tenant/kind/provider/model``; ``/`` and ``%`` within a name are percent-encoded."""
        return "/".join(name.replace("%", "%25").replace("/", "%2F") for name in self).encode()

    @classmethod
    def of_topic_key(cls, key: bytes) -> Group:
        """Return the group of a topic key; raises ValueError."""
        names = key.decode().split("/")
        if len(names) != len(cls._fields):
            raise ValueError(f"{key.decode()!r} is not tenant/kind/provider/model")
        return cls(*(name.replace("%2F", "/").replace("%25", "%") for name in names))

    @classmethod
    def of_state_key(cls, key: bytes) -> Group:
        """Return the group of a store key."""
        names, at = [], 0
        for _ in cls._fields:
            name, at = unpack_text(key, at)
            names.append(name)
        return cls(*names)


@dataclass(slots=True)
class Figures:
    """Sums of a window. They stop at the greatest long, so that no producer's number can break a window."""

    calls: int = 0
    errors: int = 0
    events: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    cost_unknown: int = 0
    latency_ms_sum: int = 0
    latency_ms_max: int = 0
    revision: int = 0
    """Events taken in, and one more for the last word: so it is the same however batches are cut."""
    final: bool = False

    def count(self) -> None:
        """Take in an event that is no usage event."""
        self.events += 1
        self.revision += 1

    def add(self, usage: Mapping[str, Any]) -> None:
        """Take in a usage event's payload; a cost of null is unknown, which is not 0."""
        cost, latency_ms = usage["cost_nanos"], usage["latency_ms"]
        self._sum(
            calls=usage["calls"], errors=usage["errors"], input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"], cost_nanos=cost or 0, cost_unknown=int(cost is None),
            latency_ms_sum=latency_ms,
        )  # fmt: skip
        self.latency_ms_max = max(self.latency_ms_max, latency_ms)
        self.count()

    def fields(self) -> dict[str, Any]:
        """Return the figures by the names that the topics' schemas give them."""
        return {name: getattr(self, name) for name in (*SUMS, "latency_ms_max", "revision", "final")}

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Figures:
        """Return the figures of a partial."""
        names = (*SUMS, "latency_ms_max", "revision", "final")
        return cls(**{name: fields[name] for name in names})

    @classmethod
    def total(cls, parts: Iterable[Figures]) -> Figures:
        """Return the sum of partials; its revision grows with each of theirs, it is final when all are."""
        total = cls(final=True)
        for part in parts:
            total._sum(**{name: getattr(part, name) for name in SUMS})
            total.latency_ms_max = max(total.latency_ms_max, part.latency_ms_max)
            total.revision += part.revision
            total.final = total.final and part.final
        return total

    def write(self) -> bytes:
        """Return the stored form."""
        sums = [getattr(self, name) for name in SUMS]
        return _STORED.pack(_VERSION, self.final, *sums, self.latency_ms_max, self.revision)

    @classmethod
    def read(cls, data: bytes) -> Figures:
        """Return the figures of a stored form, or raise CorruptValue."""
        if len(data) != _STORED.size or data[0] != _VERSION:
            raise CorruptValue(f"usage window of {len(data)} bytes, version {data[:1].hex()}")
        _, final, *numbers = _STORED.unpack(data)
        figures = cls(*numbers)
        figures.final = bool(final)
        return figures

    def _sum(self, **more: int) -> None:
        for name, value in more.items():
            setattr(self, name, min(getattr(self, name) + value, LONG_MAX))
