"""Bounds and addresses of one edge process; every default has its arithmetic beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from edge.access.options import AccessOptions
from edge.errors import NetworkRefused, OriginsRefused
from schemas.topics import MIB

if TYPE_CHECKING:
    from pathlib import Path

TCP_USER_TIMEOUT_MS_MIN: Final = 45_000
"""Half as long again as ``write_stall_ms_max``, whose word goes before the kernel's."""


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """What an edge is told at its start; nothing here changes while it runs."""

    host: str = "127.0.0.1"
    port: int = 8600
    """0 takes a free port."""
    allow_network: bool = False
    """Bind an address that is not loopback without keys: right only where something in front keeps
    strangers out."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names besides the loopback ones that a request may be addressed to (without port)."""
    access: AccessOptions = field(default_factory=AccessOptions)
    trusted_proxies: tuple[str, ...] = ()
    """Addresses, or networks, of proxies whose ``X-Forwarded-For`` says where a client is."""
    cors_origins: tuple[str, ...] = ()
    """Other sites whose pages may use the edge, as ``https://app.example``; ``*`` = all, without cookies."""

    grpc_port: int = -1
    """0 takes a free port; -1 = no gRPC."""
    grpc_streams_max: int = 1_000
    """Calls that one connection may have open; further ones wait at the client."""
    grpc_publishers_max: int = 256
    """Calls of ``PublishMany`` in this process, of one token's subject a quarter of them: each may have
    1 MiB on its way that nobody can count."""
    grpc_publisher_idle_ms: int = 300_000
    """So long a call of ``PublishMany`` that brings nothing keeps its place."""
    grpc_keepalive_ms: int = 30_000
    """How often a silent connection is asked whether it still is there."""
    grpc_keepalive_timeout_ms: int = 10_000
    grpc_connection_idle_ms: int = 300_000
    """A connection without a call for so long is closed, however well its peer answers pings: clients
    connect again with their next call."""
    grpc_connection_age_ms: int = 3_600_000
    """How old a connection grows before its client is told to make new calls over another; after as long
    again it is closed, for a call whose client never reads lasts as long as its connection does."""

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
    """Streams whose place is known without asking Kafka: 1.3 KB each, and 120 bytes for a thousand events."""
    index_bytes_max: int = 320 * MIB
    """The same in memory: two hundred thousand with labels, or of a million events each, would be 24 GB."""
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
    """Kafka reads at a time: each holds up to 16 MiB of fetched records. Others wait (``edge/turns.py``)."""
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
    headers_max: int = 100
    """Headers of a request: browsers send some twenty, a chain of proxies some more."""
    header_read_ms_max: int = 10_000
    """Longest that a request's head may take to come."""
    write_bytes_max: int = 262_144
    """Most that is joined for one write: it is what a client that stops reading pins."""
    write_stall_ms_max: int = 30_000
    """A client that takes nothing for so long is gone."""
    tcp_user_timeout_ms: int = TCP_USER_TIMEOUT_MS_MIN
    """How long what was sent to a client may go without a sign that it came: then the kernel ends the
    connection. Its own choice (``tcp_retries2``) is 15 minutes and more, in which heartbeats pile up for a
    peer that is gone. Longer than ``write_stall_ms_max``, as a client that lives and reads nothing is told
    why it is sent away; 0 = the kernel's choice."""
    idle_heartbeat_ms: int = 15_000
    """For a stream of which nothing is known yet, and so no kind; under the 30 s of common proxies."""
    websocket_subscriptions_max: int = 100
    """Streams that one connection follows: each costs what an SSE connection costs, less its socket."""
    websocket_streams_max: int = 100_000
    """Streams that all of them together follow: ten thousand connections could follow a million."""
    websocket_requests_max: int = 16
    """Requests of one connection that are under way; more are not read until one is answered."""
    websocket_messages_per_s_max: int = 100
    """Messages and pings of one connection; more are not read until their time. Events go many in one."""
    websocket_held_bytes_max: int = 64 * MIB
    """What all clients together may have sent that is not dealt with, beside 16 KiB each."""
    websocket_pong_ms_max: int = 45_000
    """How long a ping may go unanswered: it waits behind what the network still holds for a slow client."""
    retry_ms: int = 1_000
    connections_max: int = 10_000
    grpc_connections_max: int = 11_000
    """Of HTTP/2, each of which holds many calls or none; ``within_files`` settles it. Beyond what may stream:
    who is too many is to be told so, and when to come back."""
    tenant_connections_max: int = 0
    """Of one tenant in this process; 0 = as many as there are at all."""
    tenant_events_per_s_max: int = 0
    """Events that one tenant may publish through this process; 0 = as many as it takes."""
    drain_ms: int = 5_000
    """Over how long the connections are sent away at a stop, so that they do not all come back at once."""
    unready_wait_ms: int = 5_000
    """How long a new client waits for an edge that is still reading its way in."""
    ahead_wait_ms: int = 3_000
    """How long a client waits whose cursor is ahead of this edge, before it is of a log that is no more:
    Kafka tells its end once a second, so it was told after the client came, twice."""

    def checked(self) -> EdgeOptions:
        """Return self.

        Raises:
            NetworkRefused: an address that is not loopback, and no keys.
            OriginsRefused: every page is let in where nobody is asked who they are, or is by cookie.
        """
        if not self.allow_network and not self.access.configured and not is_loopback(self.host):
            raise NetworkRefused(self.host)
        if "*" in self.cors_origins and (self.access.cookie or not self.access.configured):
            raise OriginsRefused
        return self


def is_loopback(host: str) -> bool:
    """Say whether only programs of this machine reach the address; a name counts only if it is localhost."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
