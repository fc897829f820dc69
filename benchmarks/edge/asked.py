"""What was asked for, by environment variables: ``make bench-edge WORKS=fanout,resume SECONDS=60``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.asked import is_on, names, number
from benchmarks.edge.servers import PEERS

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKS: Final = ("fanout", "crowd", "streams", "idle", "stalled", "resume", "latency")
SECONDS: Final = 60.0


@dataclass(frozen=True)
class Asked:
    """Works, contenders and sizes of one call."""

    works: tuple[str, ...] = WORKS
    peers: frozenset[str] = frozenset(PEERS)
    seconds: float = SECONDS
    """How long a rate is held that is told; probes of a search, and clients that stop reading, take less."""
    size: float = 1.0
    """Share of the clients, streams and history that the works have by themselves: to try them out."""
    goals: bool = False
    """A goal that is missed is an exit code."""
    as_json: bool = False

    def sized(self, count: int) -> int:
        """Return a number of clients, streams or events as asked for, two at least."""
        return max(int(count * self.size), 2)


def asked(env: Mapping[str, str]) -> Asked:
    """Return what ``env`` asks for.

    Raises:
        Misspelt: a name that is in no table, or a number that is none.
    """
    works = names("WORKS", env, WORKS) or set(WORKS)
    peers = names("PEERS", env, (*PEERS, "none")) or set(PEERS)
    return Asked(
        works=tuple(work for work in WORKS if work in works),
        peers=frozenset(peers - {"none"}),
        seconds=number("SECONDS", env, SECONDS, least=1),
        size=number("SIZE", env, 1.0, least=0.001),
        goals=is_on("GOALS", env),
        as_json=is_on("JSON", env),
    )
