"""Chooses what an agent is given next: partitions in turn, some records set aside, suspects alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.aside import ProcessDied
from connectors.kafka.handbacks import noted_as, span_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from connectors.kafka.aside import Judge
    from connectors.kafka.backlog import Backlog
    from connectors.kafka.chunk import Chunk, SourcePartition
    from connectors.kafka.inflight import InFlight

log = structlog.get_logger(__name__)

_CRASHES_MAX: Final = 3  # each is a restart of all roles and a rebalance, where an attempt is a pause


class HandOut:
    """Between the backlog and the agents; whoever takes a chunk from here gives it to the topic's agent.

    Args:
        attempts_max: by topic, how often an event is tried; the process may end with one as often, at most
            three times, before it is given up.
    """

    def __init__(self, backlog: Backlog, in_flight: InFlight, attempts_max: Mapping[str, int]) -> None:
        self._backlog = backlog
        self._in_flight = in_flight
        self._attempts_max = attempts_max
        self._alone: str | None = None  # topic of a suspect in an agent's hands: nothing else is, meanwhile
        self.judges: Callable[[Chunk], Judge | None] = lambda _chunk: None
        """Gives what says of a chunk's records which are set aside; None = none is."""

    def next(self, topic: str, stopped: Container[SourcePartition], *, at_work: bool) -> Chunk | None:
        """Return the next chunk of a topic; None if there is none, or it must wait for agents ``at_work``."""
        if self._alone is not None:
            return None
        chunk = self._backlog.take(topic, stopped)
        if chunk is None:
            return None
        judge = self.judges(chunk)
        if judge is not None:
            chunk = chunk.screened(judge)
        if self._in_flight.is_suspect(span_of(chunk)):
            if at_work:
                self._backlog.put_back(chunk)
                return None
            chunk = self._single(chunk)
            self._alone = topic
        self._in_flight.handed_out(span_of(chunk))
        return chunk

    def returned(self, topic: str) -> None:
        """Note that the topic's agent has nothing in hand any more."""
        self._in_flight.taken_back(topic)
        self._in_flight.taken_back(noted_as(topic))
        if self._alone == topic:
            self._alone = None

    def _single(self, chunk: Chunk) -> Chunk:
        """Cut the first record off, put the others back; it is set aside if it ended the process so often."""
        while len(chunk) > 1:
            chunk, rest = chunk.split(1)
            self._backlog.put_back(rest)
        crashes = self._in_flight.crashes_alone(span_of(chunk))
        if crashes < min(self._attempts_max[chunk.source.topic], _CRASHES_MAX):
            return chunk
        where = {**chunk.source._asdict(), "offset": chunk.first.offset}
        log.error("event is given up, the process ended with it", **where, crashes=crashes)
        return chunk.screened(lambda _record: ProcessDied(crashes))
