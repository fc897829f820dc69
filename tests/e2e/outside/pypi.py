"""One of PyPI's clients follows a stream: ``python pypi.py CLIENT URL``; each line says what it saw.

A client that reads one connection stands in a loop, as its own pages advise: the program keeps the cursor.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx2
import orjson

httpx2.alias_httpx()  # httpx-sse reads an httpx's response; the project has its successor

import httpx_sse  # noqa: E402
import requests  # noqa: E402
import sseclient  # noqa: E402
from ld_eventsource import SSEClient  # noqa: E402
from ld_eventsource.actions import Event, Fault  # noqa: E402
from ld_eventsource.config import ConnectStrategy, ErrorStrategy, RetryDelayStrategy  # noqa: E402

PAUSE_S = 1.0


def say(what: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps({**what, "at_ms": time.time_ns() // 1_000_000}) + b"\n")
    sys.stdout.flush()


def with_cursor(cursor: str) -> dict[str, str]:
    return {"last-event-id": cursor} if cursor else {}


def by_httpx_sse(url: str) -> None:
    cursor, pause_s = "", PAUSE_S
    with httpx2.Client(trust_env=False, timeout=httpx2.Timeout(5.0, read=30.0)) as client:
        while True:
            try:
                with httpx_sse.connect_sse(client, "GET", url, headers=with_cursor(cursor)) as source:
                    if source.response.status_code == 204:
                        say({"state": "over", "why": "204, seen by the program"})
                        return
                    for message in source.iter_sse():
                        if message.data:  # a frame of `retry:` alone is given as a message, too
                            say(orjson.loads(message.data))
                        cursor = message.id or cursor
                        pause_s = message.retry / 1_000 if message.retry else pause_s
                say({"state": "returned"})
            except httpx2.TransportError as error:
                say({"state": "raised", "why": type(error).__name__})
            time.sleep(pause_s)


def by_sseclient(url: str) -> None:
    cursor = ""
    while True:
        try:
            response = requests.get(url, headers=with_cursor(cursor), stream=True, timeout=30)
            if response.status_code == 204:
                say({"state": "over", "why": "204, seen by the program"})
                return
            for message in sseclient.SSEClient(response.iter_content(None)).events():
                say(orjson.loads(message.data))
                cursor = message.id or cursor
            say({"state": "returned"})
        except requests.RequestException as error:
            say({"state": "raised", "why": type(error).__name__})
        time.sleep(PAUSE_S)


def by_launchdarkly(url: str) -> None:
    """It doubles its pauses from one failure to the next; they are kept short for the test's sake."""
    client = SSEClient(
        ConnectStrategy.http(url),
        error_strategy=ErrorStrategy.always_continue(),
        retry_delay_strategy=RetryDelayStrategy.default(max_delay=2.0),
    )
    for action in client.all:
        if isinstance(action, Event):
            say(orjson.loads(action.data))
        elif isinstance(action, Fault):
            say({"state": "again", "why": str(action.error)})


CLIENTS = {
    "httpx-sse": by_httpx_sse,
    "sseclient-py": by_sseclient,
    "launchdarkly-eventsource": by_launchdarkly,
}


if __name__ == "__main__":
    CLIENTS[sys.argv[1]](sys.argv[2])
