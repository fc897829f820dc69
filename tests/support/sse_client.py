"""A plain Server-Sent Events client that shows everything: bytes, ids, comments, status."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Seen:
    """What one connection brought."""

    status: int
    headers: dict[str, str]
    events: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """One an event; empty where an event had none."""
    comments: int = 0
    retries: list[int] = field(default_factory=list)
    closed: bool = False
    """The server ended it."""
    broken: bool = False
    """It ended without a proper end."""
    first_byte_s: float = 0.0
    body: bytes = b""

    @property
    def seqs(self) -> list[int]:
        """Seq of each event that has one."""
        return [event["seq"] for event in self.events if "seq" in event]

    @property
    def last_id(self) -> str:
        """What an EventSource would send as Last-Event-ID."""
        return next((one for one in reversed(self.ids) if one), "")


def read_stream(
    url: str,
    *,
    last_id: str = "",
    until: Callable[[Seen], bool] = lambda _: False,
    timeout_s: float = 20.0,
    headers: dict[str, str] | None = None,
) -> Seen:
    """Read one connection until ``until`` holds after a frame, the server ends it, or time is over."""
    sent = {"accept": "text/event-stream", **(headers or {})}
    if last_id:
        sent["last-event-id"] = last_id
    started = time.monotonic()
    with (
        httpx2.Client(trust_env=False, verify=False, timeout=httpx2.Timeout(10.0, read=timeout_s)) as client,
        client.stream("GET", url, headers=sent) as response,
    ):
        seen = Seen(response.status_code, dict(response.headers))
        if response.headers.get("content-type", "").partition(";")[0] != "text/event-stream":
            seen.body = response.read()
            seen.closed = True
            return seen
        left = b""
        try:
            for chunk in response.iter_raw():
                seen.first_byte_s = seen.first_byte_s or time.monotonic() - started
                *blocks, left = (left + chunk).split(b"\n\n")
                for block in blocks:
                    _take(seen, block)
                    if until(seen):
                        return seen
                if time.monotonic() - started > timeout_s:
                    raise AssertionError(f"{timeout_s} s are over; saw {len(seen.events)} events")
        except httpx2.RemoteProtocolError:
            seen.broken = True
            return seen
        seen.closed = True
    return seen


def _take(seen: Seen, block: bytes) -> None:
    data, last_id = b"", ""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"":
            seen.comments += 1
        elif name == b"data":
            data += value
        elif name == b"id":
            last_id = value.decode()
        elif name == b"retry":
            seen.retries.append(int(value))
        else:
            raise AssertionError(f"unexpected line {line!r}")
    if data:
        seen.events.append(orjson.loads(data))
        seen.ids.append(last_id)
