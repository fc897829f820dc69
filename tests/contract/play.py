"""Plays a scenario: what is written to a stream, who comes and goes, what befalls the edge, who sees what.

A scenario is a YAML file: ``says`` (a sentence), ``kind`` (of the stream), ``options`` (of the edge; or a
list of them, to be played with each), ``access`` (whether its clients bring tokens), ``steps``. Each of its
clients is several, one on each transport, and they must see the same, with the same cursors; one that
resumes does so with a cursor of another transport. A step is one of

- ``write: open | log N | lines N of BYTES | end REASON | reset SEQ | cancel | broken``, with ``ago_days: N``
  for old ones, ``padded: N`` for log lines that are so many bytes longer
- ``join: {client, after, seq, cursor, token_ms, slow}``: without a cursor; ``after`` another client's last
  event, or after its event ``seq``; or with a cursor that is made up. Its token ends in so long; ``slow``: it
  reads nothing until a step says so
- ``sees: {client, events, outcome, detail, expiring}``: just these come next; with ``outcome``, nothing more
  after; ``expiring``: it was told that its token ends
- ``follows: {client, to, gap, outcome, detail}``: events come up to one, or until nothing more comes, each
  after the one before, or after a gap for a reason that begins there; without ``gap`` there is none
- ``stuck: CLIENT``: wait until the edge has found that it takes nothing, with all that was written ahead
- ``leave: CLIENT``
- ``edge: kill | drain | gone | start | empty | letting-go | slowing``: drain asks it to stop, gone waits
  until it has, empty until it has no connections, letting-go until it has ended a client's deliveries for
  being behind, slowing until it holds back the stream's producer
- ``history: over``: the index no longer has the stream, as ingest does when its history is over, and the
  edge knows
- ``retention: {client, seq}``: the topic now begins at the event that a client was shown under this seq

Events are written ``TYPE SEQ``, or ``TYPE FIRST..LAST`` for one after the other, or ``gap FROM..TO REASON``
for one that covers so much; an ``end`` has its reason at its end, too.
"""

from __future__ import annotations

import signal
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx2

from schemas.cursor import Cursor, decode_cursor
from schemas.topics import OUTPUT
from tests.support.tokens import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.contract.drivers import Driver, Reading, Told
    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import IngestTwin, TwinStream
    from tests.support.tokens import Issuer

_NUMBERS = count()
_DAY_US = 86_400_000_000
_DEADLINE_S = 60.0
"""For the edge to come to something: generous, for the machine may be busy."""


class Play:
    """One performance of a scenario, in a stream of its own."""

    def __init__(
        self,
        twin: IngestTwin,
        edge: EdgeProcess,
        *,
        kind: str,
        drivers: Sequence[Callable[[EdgeProcess], Driver]],
        issuer: Issuer | None = None,
    ) -> None:
        self._twin = twin
        self._edge = edge
        self._kind = kind
        self._drivers = drivers
        self._issuer = issuer
        """Whose tokens the clients bring, if any."""
        self._stream_id = f"s{next(_NUMBERS)}"
        self._stream: TwinStream
        self._clients: dict[str, dict[str, Reading]] = {}
        """By name, and by transport."""

    def perform(self, steps: list[dict[str, Any]]) -> None:
        """Do each step; AssertionError names the one that did not go as it must."""
        try:
            for number, step in enumerate(steps, start=1):
                try:
                    self._step(step)
                except AssertionError as error:
                    raise AssertionError(f"step {number} {step}: {error}") from error
        finally:
            for client in self._clients:
                self._leave(client)

    def _step(self, step: dict[str, Any]) -> None:
        match step:
            case {"write": str(what), **how}:
                self._write(what, **how)
            case {"join": how}:
                self._join(**how)
            case {"sees": {"client": client, **what}}:
                self._each(client, self._sees, what)
                self._check_cursors(client)
            case {"follows": {"client": client, **what}}:
                self._each(client, self._follows, what)
            case {"stuck": str(client)}:
                self._until(self._are_stuck, f"{client} is found to take nothing")
            case {"leave": str(client)}:
                self._leave(client)
            case {"edge": str(what)}:
                self._change_edge(what)
            case {"history": "over"}:
                self._twin.tombstone(self._stream)
                self._until(self._is_unknown, "the edge knows nothing of the stream")
            case {"retention": {"client": client, "seq": seq}}:
                told = self._told(next(iter(self._clients[client].values())), seq)
                at = decode_cursor(told.cursor, "default", self._stream_id)
                self._twin.delete_before(OUTPUT, at.partition, at.offset)
            case _:
                raise AssertionError("no such step")

    def _write(self, what: str, ago_days: int = 0, padded: int = 0) -> None:
        name, _, rest = what.partition(" ")
        at_us = None if not ago_days else time.time_ns() // 1_000 - ago_days * _DAY_US
        if name == "open":
            self._stream = self._twin.open(self._stream_id, kind=self._kind, at_us=at_us)
        elif name == "log":
            self._twin.logs(self._stream, int(rest), at_us=at_us, padding="x" * padded)
        elif name == "lines":
            lines, size_bytes = map(int, rest.split(" of "))
            for _ in range(0, lines, 50):
                self._twin.write(self._stream, [("log", {"line": "x" * size_bytes})] * 50)
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

    # -- clients ----------------------------------------------------------------------------------------

    def _join(
        self,
        client: str,
        after: str = "",
        seq: int | None = None,
        cursor: str | Mapping[str, Any] = "",
        *,
        token_ms: int = 600_000,
        slow: bool = False,
    ) -> None:
        text = cursor if isinstance(cursor, str) else self._made_up(**cursor)
        places = [(text, -1)] * len(self._drivers)
        if after:
            others = self._clients[after].values()
            told = [one.told[-1] if seq is None else self._told(one, seq) for one in others]
            places = [(one.cursor, one.event["seq"]) for one in told[1:] + told[:1]]  # of another transport
        self._clients[client] = {}
        for make, (text, after_seq) in zip(self._drivers, places, strict=True):
            driver = make(self._edge)
            token = self._issuer.token(life_s=token_ms / 1_000, **ALL) if self._issuer else ""
            reading = driver.open(self._stream_id, text, token=token, slow=slow)
            reading.after_seq = after_seq
            self._clients[client][driver.name] = reading

    def _made_up(self, stream: str = "", **place: int) -> str:
        whole = {"topic_version": 1, "partition": 0, "offset": 5, "seq": 5} | place
        return Cursor(**whole).encode("default", stream or self._stream_id)

    def _each(self, client: str, check: Callable[..., None], what: dict[str, Any]) -> None:
        for transport, reading in self._clients[client].items():
            try:
                check(reading, **what)
            except AssertionError as error:
                raise AssertionError(f"{transport}: {error}") from error

    def _sees(
        self,
        reading: Reading,
        events: tuple[str, ...] = (),
        outcome: str = "",
        detail: str = "",
        *,
        expiring: bool = False,
    ) -> None:
        expected = [one for text in events for one in _expected(text)]
        came = [_shown(told) for told in reading.read(len(expected))]
        if outcome:
            came += [_shown(told) for told in reading.read_out()]
        assert came == expected, f"came {came} ({reading.outcome} {reading.detail})"
        _check_outcome(reading, outcome, detail)
        assert reading.expiring or not expiring, "it was not told that its token ends"

    def _follows(
        self, reading: Reading, to: int = -1, gap: str = "", outcome: str = "", detail: str = ""
    ) -> None:
        assert to >= 0 or outcome, "it follows up to an event, or to an outcome"
        expected = reading.last_seq + 1
        gaps = set()
        while expected <= to or (outcome and not reading.outcome):
            told = reading.read(1)
            if not told:
                assert outcome, f"nothing came after {expected - 1}: {reading.outcome} {reading.detail}"
                break
            event = told[0].event
            first = event["from_seq"] if event["type"] == "gap" else event["seq"]
            assert first == expected, f"{_shown(told[0])} came after {expected - 1}"
            if event["type"] == "gap":
                gaps.add(event["reason"])
            expected = event["seq"] + 1
        assert gaps == ({gap} if gap else set())
        assert to < 0 or expected == to + 1
        _check_outcome(reading, outcome, detail)

    def _check_cursors(self, client: str) -> None:
        """Whatever the transport, an event has one cursor; a gap's is of when it was declared."""
        cursors: dict[str, set[str]] = {}
        for reading in self._clients[client].values():
            for told in reading.told:
                if told.event["type"] != "gap":
                    cursors.setdefault(_shown(told), set()).add(told.cursor)
        differ = [event for event, found in cursors.items() if len(found) > 1]
        assert not differ, f"cursors differ: {differ[:5]}"

    @staticmethod
    def _told(reading: Reading, seq: int) -> Told:
        return next(told for told in reading.told if told.event["seq"] == seq)

    def _leave(self, client: str) -> None:
        for reading in self._clients[client].values():
            reading.close()

    # -- the edge ---------------------------------------------------------------------------------------

    def _change_edge(self, what: str) -> None:
        process = self._edge.process
        assert process is not None
        if what == "kill":
            self._edge.kill()
        elif what == "drain":
            process.send_signal(signal.SIGTERM)
        elif what == "gone":
            assert process.wait(30) == 0
        elif what == "empty":
            self._until(lambda: self._edge.metric("sluicegate_edge_connections") == 0, "nobody is connected")
        elif what == "letting-go":
            self._until(lambda: self._let_go() >= len(self._drivers), "all are let go")
        elif what == "slowing":
            self._until(
                lambda: self._edge.metric("sluicegate_edge_slowed_producers") == 1,
                "the producer is held back",
            )
        else:
            assert what == "start"
            self._edge.start()

    def _are_stuck(self) -> bool:
        """Whether the edge names a client of each transport that takes nothing, and has read all itself."""
        shown = self._edge.wait_for("/v1/connections?slow=true&limit=1000").json()
        own = [one for one in shown["connections"] if one["stream_id"] == self._stream_id]
        last = self._stream.next_seq - 1
        return len(own) == len(self._drivers) and all(
            one["paused_ms"] > 0 and one["seq"] + one["events_behind"] == last for one in own
        )

    def _is_unknown(self) -> bool:
        return (
            httpx2.get(f"{self._edge.url}/v1/streams/{self._stream_id}", trust_env=False).status_code == 404
        )

    def _let_go(self) -> float:
        text = self._edge.wait_for("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("sluicegate_edge_slow_closed_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)  # none until the first

    @staticmethod
    def _until(holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, f"not within {_DEADLINE_S:.0f} s: {what}"
            time.sleep(0.05)


def _check_outcome(reading: Reading, outcome: str, detail: str) -> None:
    ended = (reading.outcome, reading.detail if detail else "")
    assert not outcome or ended == (outcome, detail), f"its outcome is {ended}"
    assert outcome != "reconnect" or reading.retry_ms > 0, "it was not told when to come back"


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
