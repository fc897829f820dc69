"""An agent's committed state as a test reads it: a ``StateView`` that takes no writes."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from state.store import Backend

_PAIRS_MAX = 1 << 30


class StateReader:
    """The stores of some partitions, read as one; windows and sessions take it for their ``view``."""

    def __init__(self, backends: Mapping[int, Backend]) -> None:
        self._backends = backends

    def get(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, or None.

        Raises:
            LookupError: several partitions have one: say which partition is meant.
        """
        found = {
            partition: value
            for partition, backend in self._backends.items()
            if (value := backend.get(key)) is not None
        }
        if len(found) > 1:
            raise LookupError(f"{key!r} stands in partitions {sorted(found)}: give state(partition=…)")
        return next(iter(found.values()), None)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of ``keys``, in their order; raises as ``get``."""
        return [self.get(key) for key in keys]

    def scan(self, start: bytes, end: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        """Give at most ``limit`` pairs with ``start <= key < end`` in byte order."""
        return islice(merge(*(backend.scan(start, end, limit) for backend in self._backends.values())), limit)

    def last(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the last pairs of such a range, at most ``limit``, the last first."""
        found = merge(*(backend.last(start, end, limit) for backend in self._backends.values()), reverse=True)
        return list(islice(found, limit))

    def first(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the first pairs of such a range, at most ``limit``."""
        return list(self.scan(start, end, limit))

    def items(self, prefix: bytes = b"") -> dict[bytes, bytes]:
        """Return all pairs whose key begins with ``prefix``; raises LookupError as ``get``."""
        keys = [key for key, _ in self.scan(prefix, prefix + b"\xff" * 64, _PAIRS_MAX)]
        return {key: value for key in keys if (value := self.get(key)) is not None}

    def put(self, key: bytes, value: bytes) -> NoReturn:  # noqa: ARG002 - as a view has it
        """Refuse: what an agent did not write would stand in no changelog."""
        raise TypeError("a test reads state, the agent alone writes it")

    def delete(self, key: bytes) -> NoReturn:  # noqa: ARG002 - as a view has it
        """Refuse, as ``put``."""
        raise TypeError("a test reads state, the agent alone writes it")
