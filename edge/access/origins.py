"""Which pages of a browser may use the edge: its own, and those that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SAFE: Final = ("GET", "HEAD", "OPTIONS")


class Origins:
    """Judges where a request comes from."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)

    def admits(self, origin: str, host: str) -> bool:
        """Whether a page of an origin may use the edge that was addressed as ``host``."""
        if origin in self._allowed or ("*" in self._allowed and origin != "null"):
            return True
        try:
            return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:  # a bracket that is not closed, say
            return False

    def admits_cookie(self, method: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a cookie of a request counts: browsers send it along whoever's page makes them ask.

        A request without ``Origin`` counts only if it changes nothing and the browser itself says that it
        is of this site, or was typed in.
        """
        origin = headers.get(b"origin")
        if origin is not None:
            text = origin.decode("latin-1")
            # Never by a star: with it, any page would act for whoever is logged in.
            return text in self._allowed or Origins(()).admits(
                text, headers.get(b"host", b"").decode("latin-1")
            )
        return method in SAFE and headers.get(b"sec-fetch-site") in (b"same-origin", b"none")
