"""Fetches an issuer's keys: bounded in bytes and time, never led elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx2 as httpx

from edge.access.keys import KEYS_BYTES_MAX
from edge.errors import KeysRefused
from edge.options import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_TIMEOUT_S: Final = 5.0
"""Of one fetch, from the name's look-up to the last byte."""


def jwks_from(url: str) -> Callable[[], Awaitable[bytes]]:
    """Make what fetches a JWKS. Raises KeysRefused for an address that somebody on the way could answer."""
    parts = urlsplit(url)
    local = is_loopback(parts.hostname or "")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise KeysRefused(
            f"keys are fetched over https, or from this machine, not from {url}",
            remedy="Give an address that begins with https://: on the way to another, somebody could put "
            "keys of their own in place of the issuer's.",
        )

    async def fetch() -> bytes:
        try:
            async with asyncio.timeout(_TIMEOUT_S):  # httpx's own is of each read: a drip would never end
                return await _body_of(url, trust_env=not local)
        except TimeoutError:
            raise KeysRefused(
                f"{url} did not answer in full within {_TIMEOUT_S:g} s",
                remedy="Look why the issuer is slow, or whether something in between holds its answers back.",
            ) from None

    return fetch


async def _body_of(url: str, *, trust_env: bool) -> bytes:
    async with (
        # A redirect could leave https; a proxy of the environment is for the world outside alone.
        httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=trust_env) as client,
        client.stream("GET", url, headers={"accept": "application/json"}) as response,
    ):
        if response.status_code != 200:
            raise KeysRefused(
                f"{url} answered {response.status_code}",
                remedy="Give the issuer's `jwks_uri`, as its /.well-known/openid-configuration names it.",
            )
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > KEYS_BYTES_MAX:
                raise KeysRefused(f"{url} answers with more than {KEYS_BYTES_MAX} bytes")
        return bytes(body)
