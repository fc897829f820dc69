"""Bounds and addresses of one edge process; every default has its arithmetic beside it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from edge.errors import NetworkRefused

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1_048_576


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """What an edge is told at its start; nothing here changes while it runs."""

    host: str = "127.0.0.1"
    port: int = 8600
    """0 takes a free port."""
    allow_network: bool = False
    """Bind an address that is not loopback: right only where something else keeps strangers out."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names besides the loopback ones that a request may be addressed to (without port)."""

    siblings: Path | None = None
    """Folder of the sockets of all processes that share the address; none = it is the only one."""
    process: int = 0
    """Which of them this is."""

    ring_events_max: int = 10_000
    """Recent events that one stream keeps in memory: ten seconds at a thousand a second."""
    ring_bytes_max: int = 8 * MIB
    ring_age_ms_max: int = 600_000
    rings_bytes_max: int = 256 * MIB
    """All rings together; the streams that were silent longest give way first."""

    index_entries_max: int = 200_000
    """Streams whose place is known without asking Kafka: about 1 KiB each, so 200 MB at worst."""
    rejects_per_stream_max: int = 1_000
    rejects_max: int = 100_000
    """Verdicts held for reading back, over all streams: about 0.5 KiB each."""
    rejects_ttl_ms: int = 3_600_000

    request_bytes_max: int = MIB
    request_events_max: int = 1_000
    publishing_max: int = 64
    """Requests that are read and checked at a time: 64 MiB of bodies, several times as much once parsed."""
    request_read_ms_max: int = 30_000
    """Longest that one body may take to come, as it holds one of those places meanwhile."""
    wait_timeout_ms: int = 10_000
    """How long ``?wait=committed`` waits for the verdicts."""
    waiting_events_max: int = 20_000
    """Events over all requests that may be waited for at a time: twenty full requests."""

    history_readers: int = 2
    """Kafka reads at a time: each holds up to 16 MiB of fetched records."""
    history_span_events: int = 1_000
    history_span_bytes: int = MIB
    history_scan_ms_max: int = 500
    """Longest one read scans over other streams' records before it hands back what it has."""
    history_cache_bytes_max: int = 64 * MIB
    """Spans kept for the next client of the same stream: a reconnect storm asks for the same few."""

    tail_recent_records: int = 5_000
    """Records a partition that are read again at start: clients of a killed edge resume from memory."""
    rejects_recent_records: int = 25_000
    pressure_recent_records: int = 20_000

    header_bytes_max: int = 16_384
    """Of a request's head: its address, names and values. Browsers and proxies keep under 8 KiB."""
    header_read_ms_max: int = 10_000
    """Longest that a request's head may take to come."""
    write_bytes_max: int = 262_144
    """Most that is joined for one write: it is what a client that stops reading pins."""
    write_stall_ms_max: int = 30_000
    """A client that takes nothing for so long is gone."""
    idle_heartbeat_ms: int = 15_000
    """For a stream of which nothing is known yet, and so no kind; under the 30 s of common proxies."""
    retry_ms: int = 1_000
    connections_max: int = 10_000
    drain_ms: int = 5_000
    """Over how long the connections are sent away at a stop, so that they do not all come back at once."""
    unready_wait_ms: int = 5_000
    """How long a new client waits for an edge that is still reading its way in."""
    ahead_wait_ms: int = 3_000
    """How long a client waits whose cursor is ahead of this edge, before it is of a log that is no more:
    Kafka tells its end once a second, so it was told after the client came, twice."""

    def checked(self) -> EdgeOptions:
        """Return self, or raise NetworkRefused for an address that is not loopback and not allowed."""
        if not self.allow_network and not is_loopback(self.host):
            raise NetworkRefused(self.host)
        return self


def is_loopback(host: str) -> bool:
    """Say whether only programs of this machine reach the address; a name counts only if it is localhost."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
