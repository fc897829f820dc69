"""Finds what a proxy in front of an edge does to its streams: by the edge's self-test, asked through it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import httpx2 as httpx

from edge.selftest import FRAMES
from ops.errors import EdgeUnreachable, Misused
from ops.settings import is_base_url
from schemas.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOGETHER_MS: Final = 20
"""Frames are written 100 ms apart: two that come within this of each other were held back."""
_LAST_EVENT_ID: Final = "selftest"
_BYTES_MAX: Final = 65_536
"""The whole self-test is about 2 KB: what is longer is something else."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    code: str
    problem: str
    remedy: str


@dataclass(slots=True)
class Seen:
    """What one self-test brought."""

    status: int
    headers: Mapping[str, str]
    frames: list[dict[str, Any]] = field(default_factory=list)
    came_ms: list[float] = field(default_factory=list)
    """When each frame came, since the answer's head."""
    whole: bool = False
    """The last frame came, after the silence."""
    ended_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found on the way to an edge."""

    url: str
    findings: tuple[Finding, ...]
    held_ms: int
    """Longest that a frame was held back, beyond the one that was held least."""
    silent_ms: int

    def shown(self) -> dict[str, object]:
        """As ``--json`` prints it."""
        return {
            "url": self.url,
            "ok": not self.findings,
            "held_ms": self.held_ms,
            "silent_ms": self.silent_ms,
            "findings": [asdict(finding) for finding in self.findings],
        }


async def check(url: str, silent_ms: int, *, token: str | None = None) -> Report:
    """Ask the edge at ``url`` for its self-test, with a silence of ``silent_ms`` in it, and judge the answer.

    Raises:
        Misused: that is no address.
        EdgeUnreachable: nothing answers there.
    """
    if not is_base_url(url):
        raise Misused(
            f"{redacted(url)[:200]!r} is no address of an edge",
            "Write it as https://streams.example or http://127.0.0.1:8600",
        )
    base = url.rstrip("/")
    headers = {
        "accept": "text/event-stream",
        "accept-encoding": "gzip",  # as browsers do: to see whether it is made use of
        "last-event-id": _LAST_EVENT_ID,
    }
    if token:
        headers["authorization"] = f"Bearer {token}"
    timeout = httpx.Timeout(10.0, read=silent_ms / 1_000 + 30.0)
    try:
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
            http.stream(
                "GET", f"{base}/v1/selftest", params={"silent_ms": silent_ms}, headers=headers
            ) as response,
        ):
            seen = await _read(response)
    except httpx.TransportError as error:
        raise EdgeUnreachable(
            f"no answer from {redacted(base)}: {type(error).__name__} {error}".strip(),
            "Is the address the proxy's, and does the proxy run?",
        ) from None
    return Report(base, tuple(judge(seen, silent_ms)), held_ms(seen), silent_ms)


async def _read(response: httpx.Response) -> Seen:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    seen = Seen(response.status_code, response.headers)
    left, size = b"", 0
    try:
        async for data in response.aiter_bytes():
            now_ms = (loop.time() - began_s) * 1_000
            size += len(data)
            *blocks, left = (left + data).split(b"\n\n")
            for block in blocks:
                frame = _frame(block)
                if frame is not None:
                    seen.frames.append(frame)
                    seen.came_ms.append(now_ms)
            if size > _BYTES_MAX:
                break
    except httpx.TransportError:
        pass  # it was cut off: the last frame is missing
    seen.ended_ms = (loop.time() - began_s) * 1_000
    numbers = [frame["number"] for frame in seen.frames]
    seen.whole = bool(numbers) and numbers == list(range(FRAMES + 1))
    return seen


def _frame(block: bytes) -> dict[str, Any] | None:
    try:
        frame = json.loads(block.removeprefix(b"data: "))
    except ValueError:
        return None
    is_ours = isinstance(frame, dict) and frame.get("type") == "selftest"
    return frame if is_ours and isinstance(frame.get("number"), int) else None


def judge(seen: Seen, silent_ms: int) -> list[Finding]:
    """Name what is wrong, the gravest first."""
    if seen.status == 200 and not seen.frames and _is_event_stream(seen):
        lasted_s = seen.ended_ms / 1_000
        return [_buffered(f"the stream began, and ended after {lasted_s:.1f} s without one of its frames")]
    if seen.status != 200 or not seen.frames:
        return [_no_stream(seen)]
    found = [*_cut(seen, silent_ms)]
    if is_buffered(seen):
        found.append(_buffered(f"frames are held back, up to {held_ms(seen)} ms, and come together"))
    if encoding := seen.headers.get("content-encoding", ""):
        found.append(
            Finding(
                "compressed",
                f"the stream is compressed ({encoding}): a compressor waits for more before it writes",
                "Compress nothing of text/event-stream (nginx: take it out of `gzip_types`).",
            )
        )
    if seen.frames[0]["http_version"] == "1.0":
        found.append(
            Finding(
                "http_1_0",
                "the proxy asks by HTTP/1.0: a stream that was cut cannot be told from one that ended",
                "nginx: `proxy_http_version 1.1;`, and `Connection` as docs/nginx.md sets it.",
            )
        )
    found += _headers(seen)
    return found


def _buffered(problem: str) -> Finding:
    return Finding(
        "buffered",
        problem,
        "nginx: `proxy_buffering off;`, no `proxy_ignore_headers X-Accel-Buffering`. Others: turn the "
        "buffering of answers off for this path.",
    )


def _no_stream(seen: Seen) -> Finding:
    what = f"status {seen.status}, {seen.headers.get('content-type', 'no content type')}"
    remedies = {
        401: "Set SLUICEGATE_EDGE__TOKEN: the edge asks who comes.",
        403: "Set SLUICEGATE_EDGE__TOKEN to a token that may read.",
        421: "Add the proxy's host name to SLUICEGATE_EDGE__ALLOWED_HOSTS.",
        404: "Pass /v1/ on to the edge, with its path as it is.",
        502: "The proxy does not reach the edge: see whether it runs, and the proxy's address of it.",
        503: "The edge takes no more self-tests now, or the proxy has no edge: ask again.",
        504: "The proxy gave up waiting for the edge.",
    }
    return Finding(
        "no_stream",
        f"the answer is not the edge's stream: {what}",
        remedies.get(seen.status, "Is this the address of an edge, or of a proxy before one?"),
    )


def _cut(seen: Seen, silent_ms: int) -> list[Finding]:
    if seen.whole:
        return []
    if len(seen.frames) == FRAMES:
        after_ms = round(seen.ended_ms - seen.came_ms[-1])
        return [
            Finding(
                "idle_cut_off",
                f"a connection without data was cut after {after_ms / 1_000:.1f} s; asked for was a silence "
                f"of {silent_ms / 1_000:.1f} s",
                "Make it longer than a heartbeat (10 to 15 s), 60 s say (nginx: `proxy_read_timeout`, "
                "`grpc_read_timeout`).",
            )
        ]
    return [
        Finding(
            "cut_short",
            f"the stream ended after {len(seen.frames)} of {FRAMES + 1} frames",
            "Look for a limit on the time or the size of an answer.",
        )
    ]


def _headers(seen: Seen) -> list[Finding]:
    found = []
    if not _is_event_stream(seen):
        content_type = seen.headers.get("content-type", "")
        found.append(
            Finding(
                "content_type",
                f"the content type came as {content_type or 'nothing'}: browsers take text/event-stream",
                "Have the proxy leave Content-Type as it is.",
            )
        )
    control = seen.headers.get("cache-control", "")
    if missing := [word for word in ("no-store", "no-transform") if word not in control]:
        found.append(
            Finding(
                "cache_control",
                f"Cache-Control came without {' and '.join(missing)}: caches may keep or change it",
                "Have the proxy leave Cache-Control as it is (nginx: no `expires`, no `proxy_hide_header`).",
            )
        )
    if seen.frames[0]["last_event_id"] != _LAST_EVENT_ID:
        found.append(
            Finding(
                "last_event_id",
                "Last-Event-ID did not reach the edge: every reconnect begins at the first event",
                "Have the proxy pass the header on.",
            )
        )
    return found


def _is_event_stream(seen: Seen) -> bool:
    return bool(seen.headers.get("content-type", "").partition(";")[0].strip() == "text/event-stream")


def is_buffered(seen: Seen) -> bool:
    """Whether half of the frames or more came with the one before them."""
    flowing = seen.came_ms[:FRAMES]
    together = sum(later - earlier < _TOGETHER_MS for earlier, later in pairwise(flowing))
    return together >= FRAMES // 2


def held_ms(seen: Seen) -> int:
    """How much longer the slowest frame took than the quickest."""
    delays = [
        came - frame["at_ms"]
        for came, frame in zip(seen.came_ms, seen.frames, strict=True)
        if isinstance(frame.get("at_ms"), int)
    ]
    return round(max(delays) - min(delays)) if delays else 0
