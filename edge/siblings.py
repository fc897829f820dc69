"""Edges that share one address, a process a core: each has a socket of its own by which the others ask it.

The kernel gives each connection to one of them, so what one process knows of its clients is a share of the
whole. Their sockets are in a folder that only their user may enter.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import httpx2
import structlog
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

log = structlog.get_logger(__name__)
_ASK_S = 2.0
"""A sibling that takes longer is left out, and the answer says so by having no share of its own."""
_SUFFIX = ".sock"


class Siblings:
    """One process among others."""

    def __init__(self, folder: Path, process: int) -> None:
        self._folder = folder
        self.name = str(process)

    def bind(self) -> socket.socket:
        """Take this process's own socket; what a process before it left there is removed."""
        path = self._folder / f"{self.name}{_SUFFIX}"
        path.unlink(missing_ok=True)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own.bind(str(path))
        own.listen()
        own.setblocking(False)  # noqa: FBT003  # the standard library's signature
        return own

    async def ask(self, path: str) -> dict[str, bytes]:
        """What each of the others that is there answers to a request of ``path``; by process."""
        others = sorted(self._folder.glob(f"*{_SUFFIX}"))
        names = [one.stem for one in others if one.stem != self.name]
        answers = await asyncio.gather(*(self._ask(name, path) for name in names))
        return {name: body for name, body in zip(names, answers, strict=True) if body is not None}

    async def is_ready(self, name: str) -> bool:
        """Whether one of the others can take clients."""
        return await self._ask(name, "/readyz", quiet=True) is not None

    async def _ask(self, name: str, path: str, *, quiet: bool = False) -> bytes | None:
        transport = httpx2.AsyncHTTPTransport(uds=str(self._folder / f"{name}{_SUFFIX}"))
        try:
            async with httpx2.AsyncClient(transport=transport, timeout=_ASK_S, trust_env=False) as client:
                response = await client.get(f"http://localhost{path}")
                response.raise_for_status()
                return bytes(response.content)
        except httpx2.HTTPError as error:
            if not quiet:
                log.warning("sibling_silent", process=name, cause=str(error) or type(error).__name__)
            return None


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Give the metrics of several processes as those of one target, each with its ``process`` as a label."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for process, text in self._texts.items():
            for family in text_string_to_metric_families(text.decode()):
                known = families.setdefault(family.name, family)
                labelled = [
                    sample._replace(labels={**sample.labels, "process": process}) for sample in family.samples
                ]
                known.samples = labelled if known is family else known.samples + labelled
        return families.values()
