"""By which address a client is known: its connection's own, or what a trusted proxy in front says.

``X-Forwarded-For`` is what a client wrote, and behind it what each proxy added: the address that it was
asked from. So it is read from its end, and no further than the word of a trusted proxy reaches:

1. The address of the connection is taken. 2. While the one that was taken is a trusted proxy's, the one
before it is taken in its place. 3. What is no address, or the beginning, ends it.

Without trusted proxies the header is not looked at: any client could call itself by another's name.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from starlette.types import Scope

_HEADER: Final = b"x-forwarded-for"
_PROXIES_MAX: Final = 10
"""One behind the other: a header of 16 KiB may name 1,600, and a client can write a proxy's address, too."""


class Proxies:
    """Those in front of one edge."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        """``trusted``: addresses, and networks as ``10.0.0.0/8``; raises ValueError for what is neither."""
        self._trusted = tuple(ip_network(one) for one in trusted)

    def peer_of(self, scope: Scope) -> str:
        """The address of who asks over HTTP."""
        client = scope.get("client")
        return self.name(client[0], str(client[1]), scope["headers"]) if client else "unknown"

    def name(self, host: str, port: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The address of who asks: host and port of the connection, or the host that a trusted proxy says.

        ``headers`` have names in small letters: ASGI's, or a call's metadata. Whatever they hold, the answer
        is an address as ``ipaddress`` writes it.
        """
        own = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not self._trusted:
            return own
        taken = first = _address(host)
        said = b",".join(value for name, value in headers if name == _HEADER).decode("latin-1")
        for text in reversed(said.rsplit(",", _PROXIES_MAX)[-_PROXIES_MAX:]):
            if taken is None or not self._trusts(taken) or (told := _address(text)) is None:
                break
            taken = told
        return own if taken is first else str(taken)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address; some proxies put the port behind it (``192.0.2.7:5000``, ``[2001:db8::7]:5000``)."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ip_address(host)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.scope_id is not None:  # any text at all may stand behind a %
            return None
        return found.ipv4_mapped or found  # as a socket of both families says an IPv4 address
    return found
