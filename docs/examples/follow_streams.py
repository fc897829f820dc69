"""Follow streams over one WebSocket, resuming each where it was: `python follow_streams.py URL STREAM...`."""

import asyncio
import json
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException


async def follow(url: str, streams: list[str]) -> None:
    """Show the lines of streams until all of them have ended."""
    cursors = dict.fromkeys(streams, "")  # of the last event that was shown, by stream
    while cursors:
        retry_s = 1.0
        try:
            async with connect(url, max_size=8 << 20) as socket:  # an event may be 6 MB of JSON
                for stream, cursor in cursors.items():
                    await socket.send(json.dumps({"type": "subscribe", "stream": stream, "cursor": cursor}))
                async for text in socket:
                    message = json.loads(text)
                    if message["type"] in ("reconnect", "error") and "retry_ms" in message:
                        retry_s = message["retry_ms"] / 1_000
                        break  # of one stream or of all: begin all of them anew
                    take(message, cursors)
                    if not cursors:
                        return
        except (OSError, WebSocketException) as error:
            print(f"cut off: {error}", file=sys.stderr)
        await asyncio.sleep(retry_s * (1 + random.random()))  # clients cut off together part ways


def take(message: dict, cursors: dict[str, str]) -> None:
    """Do what a message asks for; those of other types are for whoever knows them."""
    match message:
        case {"type": "event", "stream": stream, "cursor": cursor, "event": event}:
            show(stream, event)
            cursors[stream] = cursor
        case {"type": "ended", "stream": stream}:
            del cursors[stream]
        case {"type": "error" | "refused", "detail": detail, "remedy": remedy}:
            sys.exit(f"{detail}\n{remedy}")


def show(stream: str, event: dict) -> None:
    """Print what is of interest here."""
    match event:
        case {"type": "log", "line": line}:
            print(f"{stream}: {line}", flush=True)
        case {"type": "gap", "count": count, "reason": reason}:
            print(f"{stream}: --- missing: {count} events ({reason}) ---", flush=True)
        case {"type": "end", "reason": reason}:
            print(f"{stream}: --- {reason} ---", flush=True)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], sys.argv[2:]))
