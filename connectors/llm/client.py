"""The HTTP client that all calls of a worker share: it remembers nothing of one that another would send."""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from connectors.llm.transport import AiohttpTransport


def provider_client() -> httpx2.AsyncClient:
    """Make it, without proxies of the environment, redirects, and timers: those are the attempt's own.

    Its jar takes no cookie: it would hand one tenant's to the next, and grow with each answer.
    """
    return httpx2.AsyncClient(
        transport=AiohttpTransport(),
        timeout=None,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        trust_env=False,
        follow_redirects=False,
    )
