"""What was asked for, by environment variables: ``make bench-engine WORKS=state,restore KEYS=1000000``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.contenders import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EVENTS: Final = 1_000_000
KEYS: Final = 10_000_000
MINUTES: Final = 30
RATE: Final = 20_000
BY_DEFAULT: Final = ("windows", "ingest", "latency", "skew", "state", "restore")
ON_DEMAND: Final = ("growth", "soak")
"""Those that run only when named: each takes longer than all of the others."""


class Misspelt(ValueError):
    """A setting that cannot be what was meant; its text says what can."""


@dataclass(frozen=True)
class Asked:
    """Works, contenders and sizes of one call."""

    works: tuple[str, ...] = BY_DEFAULT
    """In the order of the table, however they were named: ``restore`` uses what ``state`` made."""
    peers: frozenset[str] = frozenset(PEERS)
    events: int = EVENTS
    """Of each load but the ones of keys."""
    runs: int = 1
    """How often each contender does a work; the median is told."""
    keys: int = KEYS
    """Keys of 32-byte values of the works ``state`` and ``restore``; of 1 KB a tenth as many."""
    minutes: float = MINUTES
    """How long ``soak`` takes."""
    rate: int = RATE
    """Events a second of ``soak``."""
    seed: int = 0
    """What ``soak`` kills, and when; told at its start."""
    goals: bool = False
    """A goal that is missed is an exit code."""
    as_json: bool = False


def asked(env: Mapping[str, str]) -> Asked:
    """Return what ``env`` asks for.

    Raises:
        Misspelt: a name that is in no table, or a number that is none.
    """
    works = names("WORKS", env, (*BY_DEFAULT, *ON_DEMAND)) or set(BY_DEFAULT)
    peers = names("PEERS", env, (*PEERS, "none")) or set(PEERS)
    return Asked(
        works=tuple(work for work in (*BY_DEFAULT, *ON_DEMAND) if work in works),
        peers=frozenset(peers - {"none"}),
        events=int(number("EVENTS", env, EVENTS)),
        runs=int(number("RUNS", env, 1)),
        keys=int(number("KEYS", env, KEYS)),
        minutes=number("MINUTES", env, MINUTES, least=0.1),
        rate=int(number("RATE", env, RATE)),
        seed=int(number("SEED", env, 0, least=0)),
        goals=is_on("GOALS", env),
        as_json=is_on("JSON", env),
    )


def names(name: str, env: Mapping[str, str], known: Iterable[str]) -> set[str]:
    """Return the names that a variable has, with commas; raises Misspelt for one that is not known."""
    named = set(filter(None, env.get(name, "").replace(" ", "").split(",")))
    if unknown := named - set(known):
        raise Misspelt(f"{name}={','.join(sorted(unknown))}: there are {', '.join(known)}")
    return named


def is_on(name: str, env: Mapping[str, str]) -> bool:
    """Say whether a variable switches something on."""
    return env.get(name, "") not in ("", "0", "no", "false")


def number(name: str, env: Mapping[str, str], default: float, *, least: float = 1) -> float:
    """Return the number that a variable has, else the default; raises Misspelt for any other text."""
    text = env.get(name, "").replace("_", "")
    try:
        number = float(text) if text else default
    except ValueError:
        raise Misspelt(f"{name}={text} is no number") from None
    if not least <= number <= sys.maxsize:
        raise Misspelt(f"{name}={text} must be at least {least:g}")
    return number
