"""What was asked for, by environment variables: ``make bench-llm WORKS=streams SECONDS=60``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.asked import is_on, names, number

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKS: Final = ("overhead", "cancel", "streams")
PEERS: Final = ("litellm",)
SECONDS: Final = 15.0


@dataclass(frozen=True)
class Asked:
    """Works, contenders and sizes of one call."""

    works: tuple[str, ...] = WORKS
    peers: frozenset[str] = frozenset(PEERS)
    seconds: float = SECONDS
    """How long a number of streams is held that is told; probes of a search are shorter."""
    runs: int = 1
    """How often each load is held; the median is told."""
    goals: bool = False
    """A goal that is missed is an exit code."""
    as_json: bool = False


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
        runs=int(number("RUNS", env, 1)),
        goals=is_on("GOALS", env),
        as_json=is_on("JSON", env),
    )
