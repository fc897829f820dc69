"""Short finished streams among a million events of others: how soon the first byte of each comes."""

from __future__ import annotations

import json
import math
import re
import socket
import time
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Final

from benchmarks.edge.writing import SHORT_EVENTS, TENANT, stream_id
from schemas.envelope import stream_key
from schemas.topics import STREAM_PARTITIONS, partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

STREAMS: Final = 40
"""Each is asked for once: one that was read before would come out of memory."""
TIMEOUT_S: Final = 30.0
_DATA: Final = re.compile(rb"^data: (.*)$", re.MULTILINE)


def beside(stream: int, streams: int) -> list[int]:
    """Return so many numbers of streams that share a partition with one."""
    partition = partition_of(stream_key(TENANT, stream_id(stream)), STREAM_PARTITIONS)
    same = (
        other
        for other in count(stream + 1)
        if partition_of(stream_key(TENANT, stream_id(other)), STREAM_PARTITIONS) == partition
    )
    return list(islice(same, streams))


@dataclass(frozen=True, slots=True)
class Answered:
    """How long the first bytes of events took, from before each connect; and whether all came, to the end."""

    took_ms: tuple[float, ...]
    whole: bool

    def at(self, share: float) -> float:
        """Return the time within which a share of them came."""
        ordered = sorted(self.took_ms)
        return round(ordered[max(math.ceil(share * len(ordered)) - 1, 0)], 1)


def ask(port: int, path: str, streams: Sequence[int]) -> Answered:
    """Ask for each stream, one after the other, as a client that comes late and without a cursor."""
    answers = [_ask(port, path.format(stream=stream)) for stream in streams]
    return Answered(tuple(took_ms for took_ms, _ in answers), all(whole for _, whole in answers))


def _ask(port: int, path: str) -> tuple[float, bool]:
    """Return milliseconds to the first byte of the first event, and whether each event came once."""
    request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
    took_ms, came = math.inf, b""
    began_s = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as client:
        client.sendall(request.encode())
        while data := client.recv(65_536):
            came += data
            if took_ms == math.inf and b"\ndata: " in came:
                took_ms = (time.perf_counter() - began_s) * 1_000
    events = [json.loads(text) for text in _DATA.findall(came)]
    seqs = [event["seq"] for event in events]
    return took_ms, seqs == list(range(SHORT_EVENTS)) and events[-1]["type"] == "end"
