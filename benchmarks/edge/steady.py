"""A steady load: events at a rate to clients that are there already, and what they were given of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.edge.results import P99_MS_MAX

if TYPE_CHECKING:
    from benchmarks.edge.generator import Clients, Snapshot
    from benchmarks.edge.servers import Server

DRAIN_S: Final = 15.0
"""How long is waited for what was published last; a server that is further behind does not hold the rate."""
SETTLE_S: Final = 60.0
EARLY_S: Final = 0.002
"""An event may be published so much before it is due: to sleep for each of thousands takes a core's tenth."""
KEPT_RATE: Final = 0.95
"""Share of the rate that must have been taken, and delivered in the time itself."""


@dataclass(frozen=True)
class Held:
    """What came of so many events at a rate."""

    rate: float
    """Events a second that were asked for, of each stream."""
    published: int
    seconds: float
    """From the first publication to the last."""
    in_time: int
    """Deliveries until then."""
    found: Snapshot
    """Until all was delivered, or for as long as is waited."""
    complete: bool
    """Each client that was there when it began was given each event, once and in order."""
    cpu_s: float
    writes: int | None
    """Of events, as the server counts them; None if it does not."""
    streams: int
    p99_ms_max: float

    @property
    def taken_per_s(self) -> float:
        """Events a second that the server took."""
        return self.published / self.seconds

    @property
    def delivered_per_s(self) -> float:
        """Deliveries a second while events were published."""
        return self.in_time / self.seconds

    @property
    def kept(self) -> bool:
        """Whether the rate was held: taken and delivered as it was asked for, in time, with nothing lost."""
        return (
            self.complete
            and self.taken_per_s >= KEPT_RATE * self.rate * self.streams
            and self.found.p99_ms <= self.p99_ms_max
        )


class Load:
    """Publishes to streams of a server in turn, and counts what its clients are given."""

    def __init__(
        self,
        server: Server,
        clients: Clients,
        *,
        first: int = 0,
        streams: int = 1,
        p99_ms_max: float = P99_MS_MAX,
    ) -> None:
        self._server = server
        self._first = first
        """Number of the first stream that is published to."""
        self._p99_ms_max = p99_ms_max
        self._clients = clients
        self._streams = streams
        self._next = server.first_seq

    @property
    def next_seq(self) -> int:
        """What each stream gets next."""
        return self._next

    def settle(self, timeout_s: float = SETTLE_S) -> bool:
        """Wait until all clients have all that was published so far; False if they have not in time."""
        return (
            self._clients.until(lambda found: found.next_min >= self._next, timeout_s).next_min >= self._next
        )

    def hold(self, rate: float, seconds: float) -> Held:
        """Publish so many events a second to each stream, for so long; then wait until all were delivered."""
        rounds = max(int(rate * seconds), 1)
        before, wrote = self._server.usage(), self._server.writes()
        cut_off = self._clients.reset().lost
        readers = self._clients.connections - cut_off
        began_s = self._publish(rate, rounds, seconds)
        in_time = self._clients.snapshot()
        took_s = time.perf_counter() - began_s
        self._server.flush()
        published = self._published
        found = self._clients.until(lambda found: found.next_min >= self._next, DRAIN_S)
        after, written = self._server.usage(), self._server.writes()
        wanted = published // self._streams * readers
        whole = found.contiguous and found.lost == cut_off
        complete = found.events == wanted and whole and found.next_min == self._next
        return Held(
            rate,
            published,
            took_s,
            in_time.events,
            found,
            complete,
            cpu_s=after.cpu_s - before.cpu_s,
            writes=written - wrote if written is not None and wrote is not None else None,
            streams=self._streams,
            p99_ms_max=self._p99_ms_max,
        )

    def _publish(self, rate: float, rounds: int, seconds: float) -> float:
        """Publish a round of all streams at a time, spread over it; gives up when it takes twice the time."""
        began_s = time.perf_counter()
        gap_s = 1 / (rate * self._streams)
        number = 0
        for _ in range(rounds):
            for stream in range(self._streams):
                due_s = began_s + number * gap_s
                while (left_s := due_s - time.perf_counter()) > EARLY_S:
                    time.sleep(left_s)
                self._server.send(self._first + stream, self._next)
                number += 1
            self._next += 1
            if time.perf_counter() - began_s > 2 * seconds + 1:
                break
        self._published = number
        while (left_s := began_s + number * gap_s - time.perf_counter()) > 0:
            time.sleep(left_s)  # the last event has its share of the time too
        return began_s
