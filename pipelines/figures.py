"""What windows hold: sums of one group, and their binary form; those of usage."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol, Self

from schemas.envelope import LONG_MAX
from schemas.usage import ESTIMATED, UNKNOWN, sorts_of_cost
from state.binary import CorruptValue, pack_texts, unpack_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_COUNTED: Final = struct.Struct(">H")
_COUNT: Final = struct.Struct(">q")


class Grouped(Protocol):
    """Whose figures a window holds: a named tuple whose fields are those of the topics' schemas."""

    def state_key(self) -> bytes:
        """Return the key in a store; none is the beginning of another."""
        ...

    def topic_key(self) -> bytes:
        """Return the names with ``/`` between them, each percent-encoded as ``topic_key`` does."""
        ...

    def _asdict(self) -> dict[str, Any]: ...

    @classmethod
    def of_state_key(cls, key: bytes) -> Self:
        """Return the group of a store key."""
        ...

    @classmethod
    def of_topic_key(cls, key: bytes) -> Self:
        """Return the group of a topic key; raises ValueError."""
        ...

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the group of a partial."""
        ...


def topic_key(names: Iterable[str]) -> bytes:
    """Join names by ``/``; ``/`` and ``%`` within a name are percent-encoded."""
    return "/".join(name.replace("%", "%25").replace("/", "%2F") for name in names).encode()


def names_of_topic_key(key: bytes, fields: tuple[str, ...]) -> list[str]:
    """Return the names of a topic key; raises ValueError if there are not as many as ``fields``."""
    names = key.decode().split("/")
    if len(names) != len(fields):
        raise ValueError(f"{key.decode()!r} is not {'/'.join(fields)}")
    return [name.replace("%2F", "/").replace("%25", "%") for name in names]


def names_of_state_key(key: bytes, count: int) -> list[str]:
    """Return the names of a store key."""
    names, at = [], 0
    for _ in range(count):
        name, at = unpack_text(key, at)
        names.append(name)
    return names


class Group(NamedTuple):
    """Whose usage a window counts."""

    tenant: str
    kind: str
    provider: str = ""
    model: str = ""

    def state_key(self) -> bytes:
        """See ``Grouped``."""
        return pack_texts(*self)

    def topic_key(self) -> bytes:
        """Return ``tenant/kind/provider/model``."""
        return topic_key(self)

    @classmethod
    def of_topic_key(cls, key: bytes) -> Group:
        """See ``Grouped``."""
        return cls(*names_of_topic_key(key, cls._fields))

    @classmethod
    def of_state_key(cls, key: bytes) -> Group:
        """See ``Grouped``."""
        return cls(*names_of_state_key(key, len(cls._fields)))

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Group:
        """See ``Grouped``."""
        return cls(*(fields[name] for name in cls._fields))


@dataclass(slots=True)
class Sums:
    """Figures of a window. They stop at the greatest long, so that no producer's number can break a window.

    A subclass names its fields by what their total over partitions is; all but maps are 64-bit numbers. The
    stored form is its number, final, the numbers (``SUMS``, ``MAXES``, revision), then the maps.
    """

    FORM: ClassVar[int] = 1
    """Of what is stored; another one needs a migration."""
    SUMS: ClassVar[tuple[str, ...]] = ()
    MAXES: ClassVar[tuple[str, ...]] = ()
    MAPS: ClassVar[tuple[str, ...]] = ()
    """Counts by name, of which a subclass bounds the number."""

    revision: int = 0
    """Records taken in, and one more for the last word: so it is the same however batches are cut."""
    final: bool = False

    def fields(self) -> dict[str, Any]:
        """Return the figures by the names that the topics' schemas give them."""
        return {name: getattr(self, name) for name in self._names()}

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the figures of a partial."""
        return cls(**{name: fields[name] for name in cls._names()})

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """Return the sum of partials; its revision grows with each of theirs, it is final when all are."""
        total = cls(final=True)
        for part in parts:
            total.sum_up(**{name: getattr(part, name) for name in cls.SUMS})
            for name in cls.MAXES:
                setattr(total, name, max(getattr(total, name), getattr(part, name)))
            for name in cls.MAPS:
                counts = getattr(total, name)
                for key, count in getattr(part, name).items():
                    counts[key] = min(counts.get(key, 0) + count, LONG_MAX)
            total.revision += part.revision
            total.final = total.final and part.final
        return total

    def write(self) -> bytes:
        """Return the stored form."""
        numbers = [getattr(self, name) for name in self._numbers()]
        head = _layout(len(numbers)).pack(self.FORM, self.final, *numbers)
        return b"".join((head, *(pack_counts(getattr(self, name)) for name in self.MAPS)))

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Return the figures of a stored form, or raise CorruptValue."""
        names = cls._numbers()
        layout = _layout(len(names))
        if len(data) < layout.size or data[0] != cls.FORM:
            raise CorruptValue(f"{cls.__name__} of {len(data)} bytes, form {data[:1].hex()}")
        _, final, *numbers = layout.unpack_from(data)
        figures = cls(**dict(zip(names, numbers, strict=True)))
        figures.final = bool(final)
        at = layout.size
        for name in cls.MAPS:
            counts, at = unpack_counts(data, at)
            setattr(figures, name, counts)
        if at != len(data):
            raise CorruptValue(f"{cls.__name__} of {len(data)} bytes ends at byte {at}")
        return figures

    def sum_up(self, **more: int) -> None:
        """Add to fields by their names."""
        for name, value in more.items():
            setattr(self, name, min(getattr(self, name) + value, LONG_MAX))

    @classmethod
    def _numbers(cls) -> tuple[str, ...]:
        return (*cls.SUMS, *cls.MAXES, "revision")

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return (*cls._numbers(), *cls.MAPS, "final")


@dataclass(slots=True)
class Figures(Sums):
    """Usage in a window."""

    FORM: ClassVar = 2
    SUMS: ClassVar = (
        "calls", "errors", "events", "input_tokens", "output_tokens", "cost_nanos", "cost_unknown",
        "latency_ms_sum", "tokens_estimated", "tokens_unknown", "estimated_nanos",
    )  # fmt: skip
    MAXES: ClassVar = ("latency_ms_max",)

    calls: int = 0
    errors: int = 0
    events: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    cost_unknown: int = 0
    latency_ms_sum: int = 0
    tokens_estimated: int = 0
    tokens_unknown: int = 0
    estimated_nanos: int = 0
    latency_ms_max: int = 0

    def count(self) -> None:
        """Take in an event that is no usage event."""
        self.events += 1
        self.revision += 1

    def add(self, usage: Mapping[str, Any]) -> None:
        """Take in a usage event's payload; a cost that is unknown is not 0."""
        known, estimated, unknown = sorts_of_cost(usage)
        latency_ms, provenance = usage["latency_ms"], usage["provenance"]
        self.sum_up(
            calls=usage["calls"], errors=usage["errors"], input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"], tokens_estimated=int(provenance == ESTIMATED),
            tokens_unknown=int(provenance == UNKNOWN), cost_nanos=known, estimated_nanos=estimated,
            cost_unknown=unknown, latency_ms_sum=latency_ms,
        )  # fmt: skip
        self.latency_ms_max = max(self.latency_ms_max, latency_ms)
        self.count()


@cache
def _layout(numbers: int) -> struct.Struct:
    return struct.Struct(f">BB{numbers}q")


def pack_counts(counts: Mapping[str, int]) -> bytes:
    """Return the stored form of counts by name."""
    pairs = (pack_texts(name) + _COUNT.pack(count) for name, count in sorted(counts.items()))
    return b"".join((_COUNTED.pack(len(counts)), *pairs))


def unpack_counts(data: bytes, at: int) -> tuple[dict[str, int], int]:
    """Return the counts at byte ``at`` and where the next value begins, or raise CorruptValue."""
    counts: dict[str, int] = {}
    try:
        (count,) = _COUNTED.unpack_from(data, at)
        at += _COUNTED.size
        for _ in range(count):
            name, at = unpack_text(data, at)
            (counts[name],) = _COUNT.unpack_from(data, at)
            at += _COUNT.size
    except struct.error as error:
        raise CorruptValue(f"counts are cut short at byte {at} of {len(data)}") from error
    return counts, at
