"""Plays a scenario: what is written to a stream, who comes and goes, what befalls the edge, who sees what.

A scenario is a YAML file: ``says`` (a sentence), ``kind`` (of the stream), ``options`` (of the edge),
``cross`` (whether it is played with the resuming clients on another transport, too), ``steps``. A step is
one of

- ``write: open | log N | end REASON | reset SEQ | cancel | broken``, with ``ago_days: N`` for old ones
- ``join: {client, after, seq, cursor}``: without a cursor; ``after`` another client's last event, or after
  its event ``seq``; or with a cursor that is made up
- ``sees: {client, events, outcome, detail}``: just these come next; with ``outcome``, nothing more after
- ``leave: CLIENT``
- ``edge: kill | drain | gone | start``: drain asks it to stop, gone waits until it has
- ``retention: {client, seq}``: the topic now begins at the event that a client was shown under this seq

Events are written ``TYPE SEQ``, or ``TYPE FIRST..LAST`` for one after the other, or ``gap FROM..TO REASON``
for one that covers so much; an ``end`` has its reason at its end, too.
"""

from __future__ import annotations

import signal
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from schemas.cursor import Cursor, decode_cursor
from schemas.topics import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.contract.drivers import Driver, Reading, Told
    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import IngestTwin, TwinStream

_NUMBERS = count()
_DAY_US = 86_400_000_000


class Play:
    """One performance of a scenario, in a stream of its own."""

    def __init__(
        self,
        twin: IngestTwin,
        edge: EdgeProcess,
        *,
        kind: str,
        first: Callable[[EdgeProcess], Driver],
        resuming: Callable[[EdgeProcess], Driver],
    ) -> None:
        self._twin = twin
        self._edge = edge
        self._kind = kind
        self._first = first
        self._resuming = resuming
        self._stream_id = f"s{next(_NUMBERS)}"
        self._stream: TwinStream
        self._clients: dict[str, Reading] = {}

    def perform(self, steps: list[dict[str, Any]]) -> None:
        """Do each step; AssertionError names the one that did not go as it must."""
        try:
            for number, step in enumerate(steps, start=1):
                try:
                    self._step(step)
                except AssertionError as error:
                    raise AssertionError(f"step {number} {step}: {error}") from error
        finally:
            for client in self._clients.values():
                client.close()

    def _step(self, step: dict[str, Any]) -> None:
        match step:
            case {"write": str(what), **when}:
                self._write(what, when.get("ago_days", 0))
            case {"join": how}:
                self._join(**how)
            case {"sees": how}:
                self._sees(**how)
            case {"leave": str(client)}:
                self._clients[client].close()
            case {"edge": str(what)}:
                self._change_edge(what)
            case {"retention": {"client": client, "seq": seq}}:
                at = decode_cursor(self._told(client, seq).cursor, "default", self._stream_id)
                self._twin.delete_before(OUTPUT, at.partition, at.offset)
            case _:
                raise AssertionError("no such step")

    def _write(self, what: str, ago_days: int) -> None:
        name, _, rest = what.partition(" ")
        at_us = None if not ago_days else time.time_ns() // 1_000 - ago_days * _DAY_US
        if name == "open":
            self._stream = self._twin.open(self._stream_id, kind=self._kind, at_us=at_us)
        elif name == "log":
            self._twin.logs(self._stream, int(rest), at_us=at_us)
        elif name == "end":
            self._twin.end(self._stream, rest or "completed", at_us=at_us)
        elif name == "reset":
            self._twin.write(self._stream, [("reset", {"from_seq": int(rest)})])
        elif name == "cancel":
            self._twin.write(self._stream, [("cancel", {"reason": "enough", "by": "somebody"})])
        else:
            assert name == "broken"
            self._twin.raw(OUTPUT.name, f"default/{self._stream_id}".encode(), b"\x01no event")
            self._stream.next_seq += 1

    def _join(
        self, client: str, after: str = "", seq: int | None = None, cursor: str | Mapping[str, Any] = ""
    ) -> None:
        driver = (self._resuming if after else self._first)(self._edge)
        text = cursor if isinstance(cursor, str) else self._made_up(**cursor)
        if after:
            text = self._clients[after].cursor if seq is None else self._told(after, seq).cursor
        self._clients[client] = driver.open(self._stream_id, text)

    def _made_up(self, stream: str = "", **place: int) -> str:
        whole = {"topic_version": 1, "partition": 0, "offset": 5, "seq": 5} | place
        return Cursor(**whole).encode("default", stream or self._stream_id)

    def _sees(
        self,
        client: str,
        events: tuple[str, ...] = (),
        outcome: str = "",
        detail: str = "",
    ) -> None:
        expected = [one for text in events for one in _expected(text)]
        reading = self._clients[client]
        came = [_shown(told) for told in reading.read(len(expected))]
        if outcome:
            came += [_shown(told) for told in reading.read_out()]
        assert came == expected, f"came {came} ({reading.outcome} {reading.detail})"
        ended = (reading.outcome, reading.detail if detail else "")
        assert not outcome or ended == (outcome, detail), f"its outcome is {ended}"

    def _told(self, client: str, seq: int) -> Told:
        return next(told for told in self._clients[client].told if told.event["seq"] == seq)

    def _change_edge(self, what: str) -> None:
        process = self._edge.process
        assert process is not None
        if what == "kill":
            self._edge.kill()
        elif what == "drain":
            process.send_signal(signal.SIGTERM)
        elif what == "gone":
            assert process.wait(30) == 0
        else:
            assert what == "start"
            self._edge.start()


def _expected(text: str) -> list[str]:
    """``log 3..5`` as ``log 3``, ``log 4``, ``log 5``; a gap is one."""
    name, numbers, *reason = text.split()
    if name == "gap" or ".." not in numbers:
        return [text]
    first, last = map(int, numbers.split(".."))
    return [" ".join([name, str(number), *reason]) for number in range(first, last + 1)]


def _shown(told: Told) -> str:
    event = told.event
    if event["type"] == "gap":
        known = event["to_seq"] >= 0
        assert event["count"] == (event["to_seq"] - event["from_seq"] + 1 if known else -1)
        where = f"{event['from_seq']}..{event['to_seq']}" if known else "unknown"
        return f"gap {where} {event['reason']}"
    reason = [event["reason"]] if event["type"] == "end" else []
    return " ".join([event["type"], str(event["seq"]), *reason])
