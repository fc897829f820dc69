"""Read a model's answer as it comes: `python read_tokens.py http://127.0.0.1:8600/v1/streams/ID/events`."""

import json
import sys
import time
from collections.abc import Iterator

import httpx2


def events(url: str) -> Iterator[dict]:
    """Give a stream's events to its end, over as many connections as that takes."""
    cursor = came = ""  # of the last event that was dealt with; of the one that comes now
    while True:
        headers = {"Last-Event-ID": cursor} if cursor else {}
        try:
            with httpx2.stream("GET", url, headers=headers, timeout=60) as answer:
                answer.raise_for_status()
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "id":
                        came = value
                    elif name == "data":
                        event = json.loads(value)
                        yield event
                        if event["type"] == "end":
                            return
                        cursor = came
        except httpx2.TransportError as error:
            print(f"[cut off: {error}]", file=sys.stderr)
        time.sleep(1)


def show(url: str) -> str:
    """Print the text, and return it: what a failed attempt had said is superseded by a reset."""
    pieces: list[tuple[int, str]] = []
    for event in events(url):
        match event:
            case {"type": "token", "channel": "text", "seq": seq, "text": text}:
                pieces.append((seq, text))
                print(text, end="", flush=True)
            case {"type": "reset", "from_seq": from_seq, "reason": reason}:
                pieces = [piece for piece in pieces if piece[0] < from_seq]
                print(f"\n[begun anew: {reason}]")
            case {"type": "end", "reason": reason, "message": message}:
                print(f"\n[{reason}] {message}")
    return "".join(text for _, text in pieces)


if __name__ == "__main__":
    print(len(show(sys.argv[1])), "characters")
