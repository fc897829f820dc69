"""THE table of contenders: who does which work, how it is started, and what it promises."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.peers import environments, kafka_streams
from benchmarks.results import KAFKA_STREAMS

if TYPE_CHECKING:
    from ops.settings import Settings

MIB: Final = 1_048_576
_PEERS: Final = Path(__file__).parent / "peers"

Command = Callable[["Settings"], Sequence[str]]
"""Gets ready what a contender needs (fetched, compiled), and says what starts it."""


@dataclass(frozen=True)
class Contender:
    """One line of the table."""

    slug: str
    """Names its topics, its group and its folder; of ours, also the mode of ``benchmarks/windows.py``."""
    name: str
    guarantee: str
    command: Command
    peer: str = ""
    """By which ``PEERS=`` selects it; empty = ours, which always runs."""
    events_max: int = sys.maxsize
    """Slow ones read the beginning of the load: the rate is what is compared."""
    workers: int = 1
    """Processes that share the work, a slot each: a Python process is busy on one core, a JVM on all."""
    rate_min: int = 5_000
    """Events a second below which it is given up, after its start."""
    env: Mapping[str, str] = field(default_factory=dict)


def _ours(mode: str, _settings: Settings) -> Sequence[str]:
    return (sys.executable, "-m", "benchmarks.windows", mode)  # the race adds partitions and its tag


def _worker(module: str, _settings: Settings) -> Sequence[str]:
    return (sys.executable, "-m", f"benchmarks.{module}")


def _faust(settings: Settings) -> Sequence[str]:
    return (environments.python(settings, "faust"), str(_PEERS / "faust_windows.py"), "worker", "-l", "warn")


def _quix(settings: Settings) -> Sequence[str]:
    return (environments.python(settings, "quix"), str(_PEERS / "quix_windows.py"))


CONTENDERS: Final = (
    Contender("columns", "sluicegate batch agent", "exactly once", partial(_ours, "columns")),
    Contender("events", "sluicegate event agent", "exactly once", partial(_ours, "events")),
    Contender("each", "sluicegate event agent, an output each", "exactly once", partial(_ours, "each")),
    *(
        Contender(f"{slug}-two", f"{name}, two workers", "exactly once", partial(_ours, slug), workers=2)
        for slug, name in (
            ("columns", "sluicegate batch agent"),
            ("events", "sluicegate event agent"),
            ("each", "sluicegate event agent, an output each"),
        )
    ),
    Contender(
        slug="streams",
        name=KAFKA_STREAMS,
        guarantee="exactly once v2",
        command=partial(kafka_streams.command, program=kafka_streams.WINDOWS),
        peer="kafka-streams",
        env={"BENCH_CACHE_BYTES": str(50 * MIB)},
    ),
    Contender(
        slug="streams-each",
        name="Kafka Streams, no cache, an output each",
        guarantee="exactly once v2",
        command=partial(kafka_streams.command, program=kafka_streams.WINDOWS),
        peer="kafka-streams",
        rate_min=3_000,
        env={"BENCH_CACHE_BYTES": "0"},
    ),
    Contender(
        slug="quix",
        name="Quix Streams, an output each",
        guarantee="exactly once",
        command=_quix,
        peer="quix",
        events_max=200_000,
        rate_min=1_000,
    ),
    Contender(
        slug="faust",
        name="stock Faust",
        guarantee="at least once",
        command=_faust,
        peer="faust",
        events_max=20_000,
        rate_min=150,
        env={"BENCH_GUARANTEE": "at_least_once"},
    ),
    Contender(
        slug="faust-once",
        name='stock Faust, "exactly once"',
        guarantee="claimed",
        command=_faust,
        peer="faust",
        events_max=20_000,
        rate_min=150,
        env={"BENCH_GUARANTEE": "exactly_once"},
    ),
)
"""Who does the work of the windows."""
KEYED: Final = (
    Contender("keyed", "sluicegate batch agent", "exactly once", partial(_worker, "keyed")),
    Contender(
        slug="keyed-streams",
        name=KAFKA_STREAMS,
        guarantee="exactly once v2",
        command=partial(kafka_streams.command, program=kafka_streams.KEYED),
        peer="kafka-streams",
        env={"BENCH_CACHE_BYTES": str(50 * MIB)},
    ),
)
"""Who does the works ``state`` and ``restore``."""
CLOSING: Final = Contender(
    "closing", "sluicegate batch agent, windows with a TTL", "exactly once", partial(_worker, "closing")
)
"""Who does the work ``soak``."""
PEERS: Final = tuple(dict.fromkeys(contender.peer for contender in CONTENDERS if contender.peer))


def among(contenders: Sequence[Contender], peers: Collection[str]) -> list[Contender]:
    """Return ours, and of the others those that are wanted."""
    return [contender for contender in contenders if not contender.peer or contender.peer in peers]
