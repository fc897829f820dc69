"""An agent of a user's, in two versions of its state, for tests of what a deploy does.

It counts what each key of the output topic had and says each count: 1, 2, 3, … if, and only if, each event
had one effect. Version 2 keeps the bytes, too; ``wider`` leads from 1 to 2. For tests of a kill, ``wider``
notes each call in a file and kills its process at the call that another file names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.envelope import Event
from schemas.topics import OUTPUT, STREAM_PARTITIONS, TopicSpec

if TYPE_CHECKING:
    from pathlib import Path

RESULTS = TopicSpec("totals.results.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Each count.")
SEEN = TopicSpec("totals.seen.v1", "key", "", STREAM_PARTITIONS, -1, "delete", "Each event's id.")
CHANGELOG = TopicSpec("totals.changelog.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Counts.")

_CODE = """
import os, signal, struct
from pathlib import Path
from schemas.envelope import TICK
from schemas.topics import OUTPUT, STREAM_PARTITIONS, TopicSpec
from state.schema import Migration, StoreSchema, kv

VERSION = {version}
FORM = {{1: ">q", 2: ">qq"}}[VERSION]
RESULTS = TopicSpec("totals.results.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Each count.")
SEEN = TopicSpec("totals.seen.v1", "key", "", STREAM_PARTITIONS, -1, "delete", "Each event's id.")
CHANGELOG = TopicSpec("totals.changelog.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Counts.")
TOPICS = (RESULTS, SEEN, CHANGELOG)
TOTALS = struct.Struct(FORM)
HERE = Path(__file__).parent


def wider(key, value):
    with (HERE / "calls.txt").open("ab", buffering=0) as calls:
        calls.write(b".")
        if (HERE / "kill.txt").exists() and calls.tell() == int((HERE / "kill.txt").read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
    yield key, value + bytes(8)


MIGRATIONS = (Migration("wider", CHANGELOG, 1, 2, wider),)


def register(app, tools, options):
    source = app.source(
        OUTPUT, agent="totals", decode=tools.decode_events, changelog=CHANGELOG, writes=(RESULTS, SEEN),
        store=StoreSchema(VERSION, (kv("totals", key="tenant/stream_id", value=FORM),)),
    )

    @app.agent(source)
    async def totals(stream):
        async for event in stream:
            scope = stream.scope
            if event.type == TICK:
                continue
            count, *rest = TOTALS.unpack(scope.state.get(event.key) or bytes(TOTALS.size))
            count += {step}
            scope.state.put(event.key, TOTALS.pack(count, *(size + len(event.payload) for size in rest)))
            scope.emit(RESULTS, event.key, b"%d" % count, partition=scope.partition)
            scope.emit(SEEN, event.key, event.event_id.encode(), partition=scope.partition)
"""

STAGED_SUMS = TopicSpec("staged.sums.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Each sum.")
_STAGED = """
from schemas.envelope import TICK
from schemas.topics import OUTPUT, STREAM_PARTITIONS, TopicSpec

GENERATION = {generation}
PARTS = TopicSpec("staged.parts.v{generation}", "key", "", STREAM_PARTITIONS, -1, "delete", "Counted.")
SUMS = TopicSpec("staged.sums.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Each sum.")
ONE = TopicSpec("staged.one.changelog.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "How many of a key.")
TWO = TopicSpec("staged.two.changelog.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "The sum of a key.")
TOPICS = (PARTS, SUMS, ONE, TWO)


def register(app, tools, options):
    first = app.source(OUTPUT, agent="one", decode=tools.decode_events, changelog=ONE, writes=(PARTS,))
    second = app.source(
        PARTS, agent="two", decode=lambda records: [record.value for record in records], changelog=TWO,
        writes=(SUMS,),
    )

    @app.agent(first)
    async def one(stream):
        async for event in stream:
            if event.type != TICK:
                count = int(stream.scope.state.get(event.key) or 0) + {step}
                stream.scope.state.put(event.key, b"%d" % count)
                stream.scope.emit(PARTS, event.key, b"%d" % count)

    @app.agent(second)
    async def two(stream):
        async for value in stream:
            key = stream.record.key
            stream.scope.state.put(key, value)
            stream.scope.emit(SUMS, key, value)
"""


QUIET = TopicSpec("quiet.keys.v1", "key", "", STREAM_PARTITIONS, -1, "delete", "A key that fell silent.")
_QUIET = """
from schemas.envelope import TICK
from schemas.topics import OUTPUT, STREAM_PARTITIONS, TopicSpec
from state.keyvalue import KeyValueOptions, KeyValues
from state.watermark import Watermark

GENERATION = {generation}
KEYS = TopicSpec("quiet.keys.v1", "key", "", STREAM_PARTITIONS, -1, "delete", "A key that fell silent.")
CHANGELOG = TopicSpec("quiet.changelog.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Open keys.")
TOPICS = (KEYS, CHANGELOG)
OPEN = KeyValues(b"v", KeyValueOptions(ttl_ms=2_000))


def clock_of(scope):
    clock = Watermark(0)
    clock.load(scope.state, b"c")
    return clock


def close(scope, clock):
    for key, count in OPEN.expire(scope.state, clock.now_us, 1_000):
        scope.emit(KEYS, key, count, partition=scope.partition)
    clock.save(scope.state, b"c")


def add_up(scope, event, record):
    if GENERATION == 1 and event.event_id == "id-0":
        raise ValueError("the first event of all")
    clock = clock_of(scope)
    time_us = clock.see(event.time, record.timestamp_us)
    OPEN.add(scope.state, time_us, event.key, clock.now_us, lambda value: b"%d" % (int(value or 0) + 1))
    close(scope, clock)


def on_idle(scope, silent_us):
    if OPEN.next_expiry_us(scope.state) is not None:
        clock = clock_of(scope)
        clock.idle(silent_us)
        close(scope, clock)


def register(app, tools, options):
    source = app.source(
        OUTPUT, agent="quiet", decode=tools.decode_events, changelog=CHANGELOG, writes=(KEYS,),
        on_idle=on_idle, idle_ms=500,
    )

    @app.agent(source)
    async def quiet(stream):
        async for event in stream:
            if event.type != TICK:
                add_up(stream.scope, event, stream.record)
"""


def write_quiet(folder: Path, *, generation: int = 1) -> Path:
    """Write a role that says how often a key came before all of its partition fell silent for two seconds.

    Its first generation cannot handle the first event.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quiet.py").write_text(_QUIET.format(generation=generation))
    return folder


def write_staged(folder: Path, *, generation: int = 1, step: int = 1) -> Path:
    """Write a role of two agents; the second reads what the first says, and sums of keys come out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "staged.py").write_text(_STAGED.format(generation=generation, step=step))
    return folder


def write_agent(folder: Path, version: int = 1, *, step: int = 1, more: str = "") -> Path:
    """Write the agent with its state in a version; ``step`` is what an event counts as."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "totals.py").write_text(_CODE.format(version=version, step=step) + more)
    return folder


def event(number: int, stream: str) -> Event:
    """Return an event of a stream, as ingest would write it."""
    return Event(
        f"id-{number}", "default", stream, number, "log", "log", 1_700_000_000_000_000 + number, "", "", "",
        "", "", 0, 0, b"x", 1,
    )  # fmt: skip


__all__ = [
    "CHANGELOG", "OUTPUT", "QUIET", "RESULTS", "SEEN", "STAGED_SUMS", "event", "write_agent", "write_quiet",
    "write_staged",
]  # fmt: skip
