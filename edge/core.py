"""What one edge is made of, whatever it takes its events from; transports and pages are built upon it."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import TYPE_CHECKING, Protocol

import structlog

from edge.access.gate import Gate
from edge.access.quotas import Quotas
from edge.encode import FrameJson
from edge.errors import HistoryUnavailable
from edge.flush import Flusher
from edge.hub import Hub, HubBounds
from edge.index import IndexEntry, StreamIndex
from edge.join import Joiner
from edge.journal import Journal, NoNotices
from edge.llm.models import Models
from edge.metrics import EdgeMetrics, LevelCollector
from edge.pressure import Pressure
from edge.proxies import Proxies
from edge.rejects import RejectBook
from edge.replay import Replay
from edge.siblings import Siblings
from edge.slowing import Slowing
from edge.sse import SseEncoder
from edge.waiters import Waiters
from edge.wheel import TimingWheel
from schemas.kinds import BUILTIN_KINDS
from schemas.topics import STREAM_PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.access.revocations import Revocation
    from edge.connection import Connection, Leaving
    from edge.history import SharedHistory
    from edge.journal import Notices
    from edge.options import EdgeOptions
    from schemas.cursor import Cursor
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec

log = structlog.get_logger(__name__)
_SWEEP_S = 1.0
_LOOK_S = 0.05
LookUp = Callable[[bytes, int], Awaitable[IndexEntry | None]]
"""Finds a stream's entry where the index in memory has none: (key, partitions)."""


class Source(Protocol):
    """Where an edge's events come from: Kafka's tail, or a recording."""

    @property
    def caught_up(self) -> bool:
        """Whether clients can be told where they stand."""
        ...

    @property
    def problem(self) -> str:
        """Why nothing comes; empty while all is well."""
        ...

    @property
    def behind(self) -> Mapping[tuple[str, int], int]:
        """Records that each partition is behind."""
        ...

    def position(self, partition: int) -> int:
        """The offset that is read next."""
        ...

    def index_is_read(self, partition: int) -> bool:
        """Whether a partition of the index was read to where it ended a moment ago."""
        ...

    def low_offset(self, partition: int) -> int:
        """The oldest offset that can still be read."""
        ...

    def end_offset(self, partition: int) -> int:
        """The last stable offset, as of a moment ago: no committed event stands there yet; -1 = not known."""
        ...


class EdgeCore:
    """Hub, index, replay and counters of one edge process."""

    def __init__(
        self,
        options: EdgeOptions,
        payloads: PayloadCodec,
        *,
        topic_version: int,
        kinds: KindTable = BUILTIN_KINDS,
        partitions: int = STREAM_PARTITIONS,
    ) -> None:
        self.options = options
        self.kinds = kinds
        self.metrics = EdgeMetrics(kinds)
        self.gate = Gate(options.access, self.metrics, cors_origins=options.cors_origins)
        self.proxies = Proxies(options.trusted_proxies)
        self.quotas = Quotas(
            self.metrics,
            connections_max=options.tenant_connections_max,
            events_per_s_max=options.tenant_events_per_s_max,
            burst_events=options.request_events_max,
        )
        self.wheel = TimingWheel()
        self.payloads = payloads
        self.json = FrameJson(payloads)
        self.flusher = Flusher(self.metrics, self.json, options.write_bytes_max)
        self.clients: set[Connection] = set()
        """All open connections of the data plane."""
        self.held = 0
        """Places that none of them has: of clients that wait for this edge to be ready, and of calls that are
        over and whose clients do not read what they were written."""
        self.hub = Hub(
            HubBounds(
                options.ring_events_max,
                options.ring_bytes_max,
                options.ring_age_ms_max,
                options.rings_bytes_max,
            ),
            self.flusher,
        )
        self.index = StreamIndex(options.index_entries_max, options.index_bytes_max)
        self.rejects = RejectBook(
            per_stream_max=options.rejects_per_stream_max,
            total_max=options.rejects_max,
            ttl_ms=options.rejects_ttl_ms,
        )
        self.waiters = Waiters(options.waiting_events_max)
        self.models = Models()
        self.edge_id = f"{socket.gethostname()[:64]}-{token_hex(4)}"
        """This run of this process, in what it tells others."""
        self.notices: Notices = NoNotices()
        self.journal = Journal(self)
        self.slowing = Slowing(self)
        self.pressure = Pressure(self, self.slowing)
        self.hub.look = self.pressure.look
        self.sse = SseEncoder(self.json)
        self.sse_chunked = SseEncoder(self.json, chunked=True)
        self.siblings = Siblings(options.siblings, options.process) if options.siblings else None
        """The other processes of this address, if there may be any."""
        self.draining = False
        self.cold = ""
        """Why events cannot be read or written yet, if so."""
        self._topic_version = topic_version
        self._partitions = partitions
        self._sweeper: asyncio.Task[None] | None = None

    def feed_from(self, source: Source, history: SharedHistory, look_up: LookUp | None = None) -> None:
        """Wire in where events come from; once, before the first client."""
        self.source = source
        self._look_up = look_up
        self.history = history
        self.replay = Replay(
            history, self.index, source, topic_version=self._topic_version, partitions=self._partitions
        )
        self.joiner = Joiner(self.hub, self.index, self.replay, self.kinds)
        self.metrics.registry.register(LevelCollector(self))

    def start(self) -> None:
        """Begin to let go of what is too old, and to look after connections."""
        loop = asyncio.get_running_loop()
        self.gate.start()
        self.wheel.start(loop)
        self.flusher.start(loop)
        self.slowing.start(loop)
        self._sweeper = loop.create_task(self._sweep())

    async def stop(self) -> None:
        """End the sweeping, and what connections are left."""
        for client in tuple(self.clients):
            client.abort("drain")
        self.wheel.stop()
        self.slowing.stop()
        await self.gate.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    @property
    def caught_up(self) -> bool:
        """See Source."""
        return self.source.caught_up

    @property
    def connections(self) -> int:
        """Open connections that stream."""
        return len(self.clients)

    @staticmethod
    def now_s() -> float:
        """The clock of the event loop, by which all waits are counted."""
        return asyncio.get_running_loop().time()

    def opened(self, client: Connection) -> None:
        """Take note of a connection that begins to stream."""
        self.clients.add(client)
        self.quotas.opened(client.tenant)
        self.metrics.connections.labels(client.transport_name).inc()
        if self.draining:  # it came before the drain, and its place was looked for until now
            asyncio.get_running_loop().call_soon(client.send_away, "drain")

    def closed(self, client: Connection, reason: str) -> None:
        """Take note of its end."""
        self.clients.discard(client)
        self.quotas.closed(client.tenant)
        self.metrics.connections.labels(client.transport_name).dec()
        self.metrics.closed.labels(client.transport_name, reason).inc()

    def revoked(self, found: Sequence[tuple[bytes, Revocation | None]]) -> None:
        """Take revocations, and close at once what is open under the tokens that they are about."""
        revocations = self.gate.revocations
        for key, revocation in found:
            revocations.put(key, revocation)
        for client in tuple(self.clients):
            if revocations.holds(client.identity):
                client.send_away("revoked")

    def all_revoked(self) -> None:
        """See Revoked."""
        self.gate.revocations.complete = True

    async def find(self, key: bytes) -> IndexEntry | None:
        """The entry of a stream, from memory, or from the index topic if not all fit there.

        Raises:
            HistoryUnavailable: the topic cannot be read now.
        """
        entry = self.index.get(key)
        if entry is None and not self.index.complete and self._look_up is not None:
            found = await self._look_up(key, self._partitions)
            entry = self.index.get(key)  # what the tail brought meanwhile is newer
            if entry is None and found is not None:
                self.index.put(key, entry := found)
        return entry

    def low_offset(self, partition: int) -> int:
        """See Source."""
        return self.source.low_offset(partition)

    async def is_beyond_the_log(self, cursor: Cursor) -> bool:
        """Whether a cursor names a place that the log has not come to: it is of a log that was thrown away.

        Another edge may have read further than this one, so this one is waited for, and then Kafka's word
        counts: what it says of the log's end is of after the client came by then.

        Raises:
            HistoryUnavailable: nobody can say now where the log ends.
        """
        if cursor.seq < 0 or cursor.topic_version != self._topic_version:
            return False  # it asks for all there is, or is of another log anyhow
        if cursor.partition >= self._partitions:
            return True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.ahead_wait_ms / 1_000
        while self.source.position(cursor.partition) <= cursor.offset:
            if loop.time() >= deadline:
                end_offset = self.source.end_offset(cursor.partition)
                if self.source.problem or end_offset < 0:
                    raise HistoryUnavailable(self.source.problem or "where the log ends is not known yet")
                return end_offset <= cursor.offset
            await asyncio.sleep(_LOOK_S)
        return False

    @property
    def unready(self) -> list[tuple[str, str]]:
        """Why no traffic should come here: (cause, detail); empty when it may."""
        causes = []
        if self.draining:
            causes.append(("draining", "this edge is about to stop"))
        if self.cold:
            causes.append(("registry", self.cold))
        if self.source.problem:
            causes.append(("source", self.source.problem))
        if not self.source.caught_up:
            causes.append(("catching_up", "the topics have not been read to their present yet"))
        return causes + self.gate.unready

    async def drain(self, reason: Leaving = "drain") -> None:
        """Send all clients away; they come back with their cursors.

        They are spread over their kind's ``drain_ms``, or the edge's own where that is shorter.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.drain_ms / 1_000
        for client in self.clients:
            window_ms = min(self.options.drain_ms, client.drain_ms)
            # The rest of the time is for those that are slow to take it.
            after_s = random.random() * window_ms / 1_000 * 0.6  # noqa: S311
            loop.call_later(after_s, client.send_away, reason)
        while self.clients and loop.time() < deadline:  # noqa: ASYNC110  # it happens once, at the end
            await asyncio.sleep(0.02)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = time.monotonic()
            try:
                while self.hub.sweep(int(now_s * 1_000)):  # noqa: ASYNC110  # it is the work, not a wait for it
                    await asyncio.sleep(0)
                self.rejects.sweep(now_s)
            except Exception as error:  # what is left is swept the next time
                log.exception("sweep_broke", cause=str(error))

    # -- read at each scrape ----------------------------------------------------------------------------

    def levels(self) -> dict[str, tuple[str, float]]:
        """See Levels."""
        return {
            "streams": ("Streams with recent events or followers.", len(self.hub)),
            "ring_bytes": ("Memory of all rings, estimated.", self.hub.bytes),
            "ring_evicted_events_total": ("Events that left a ring.", self.hub.evicted_events),
            "index_entries": ("Streams in the index held in memory.", len(self.index)),
            "index_complete": ("1 while every stream of the index fits.", self.index.complete),
            "rejects": ("Verdicts held for reading back.", len(self.rejects)),
            "history_reads_total": ("Spans read from Kafka.", self.history.reads),
            "history_shared_total": ("Spans that were had without a read of their own.", self.history.shared),
            "history_reads_waiting": ("Spans that wait for their turn to be read.", self.history.waiting),
            "history_passed_records_total": (
                "Records of other streams that were read for a span and passed over.",
                self.history.passed,
            ),
            "history_bytes": ("Memory of spans kept, estimated.", self.history.bytes),
            "unreadable_events_total": ("Payloads that could not be read.", self.json.unreadable),
            "tail_low_offset": (
                "Sum of the oldest offsets that the output topic still has.",
                sum(self.source.low_offset(partition) for partition in range(self._partitions)),
            ),
            "slowed_producers": ("Streams whose producers are held back now.", self.slowing.slowed),
            "notices_told_total": ("Records about connections and slow streams.", self.notices.told),
            "notices_dropped_total": (
                "Records about connections and slow streams that were never told.",
                self.notices.dropped,
            ),
            "slow_connections": (
                "Connections that take nothing now.",
                sum(client.paused for client in self.clients),
            ),
            "revocations": ("Revoked tokens and subjects held.", len(self.gate.revocations)),
            "token_keys": ("Keys that tokens are checked with.", self.gate.keys),
            "token_keys_stale": (
                "1 while keys could not be fetched, or read from their file; those that are known are used.",
                self.gate.keys_stale,
            ),
            "ready": ("1 while traffic may come here.", not self.unready),
        }

    def tail_lag(self) -> dict[tuple[str, int], int]:
        """See Levels."""
        return dict(self.source.behind)
