"""A file of events on its way to the edge: read by line, checked, sent in requests, answered for by line."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from ops.client import REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX
from ops.errors import BadFile, OpsError, Refused
from ops.verdicts import verdicts_of
from schemas.errors import InvalidEvent, UnknownType
from schemas.published import event_from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from ops.client import EdgeClient
    from ops.verdicts import Verdict
    from schemas.payloads import PayloadCodec

# Between an event and its copy on the way lies at most an event_id that it did not carry.
_EVENT_BYTES_MAX: Final = REQUEST_BYTES_MAX - 256
# Stands in when nobody names a kind: the edge knows that of a stream that exists.
_ANY_KIND: Final = "job"
# Verdicts that are shown one by one; the counts are of all.
REJECTED_SHOWN_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class FileEvent:
    """One event of a file: the line that it stands in, its stream, and what is sent."""

    line: int
    stream_id: str
    event_id: str
    body: bytes


@dataclass(slots=True)
class Tally:
    """What became of a file."""

    events: int = 0
    requests: int = 0
    streams: set[str] = field(default_factory=set)
    verdicts: Counter[str] = field(default_factory=Counter)
    rejected: list[dict[str, object]] = field(default_factory=list)


class FileReader:
    """Makes events of lines, with clear words for a line that is none.

    A line is an event as `POST` takes it; it may name its own ``stream_id`` (a CloudEvent: ``subject``)
    beside that. Events without an ``event_id`` get one here, so that a repeated request doubles nothing.
    It follows from ``content``, which stands for what is read, and the line: where that is the digest of a
    file, sending the file again doubles nothing either.
    """

    def __init__(
        self,
        name: str,
        *,
        tenant: str,
        stream_id: str | None,
        kind: str | None,
        payloads: PayloadCodec,
        content: bytes,
    ) -> None:
        self.name = name
        self._tenant = tenant
        self._content = content
        self._stream_id = stream_id
        self._kind = kind
        self._payloads = payloads

    def event(self, number: int, text: bytes) -> FileEvent:
        """The event of one line; raises BadFile."""
        where = f"{self.name}:{number}"
        try:
            fields = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise BadFile(where, f"no JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(fields, dict):
            raise BadFile(where, "an event is a JSON object, this is something else")
        self._check_tenant(where, fields)
        stream_id = self._stream_of(where, fields)
        id_field = "id" if "specversion" in fields else "event_id"
        event_id = fields.setdefault(id_field, self._id_of(number))
        self._check(where, fields, stream_id)
        body = orjson.dumps(fields)
        if len(body) > _EVENT_BYTES_MAX:
            raise BadFile(where, f"an event of {len(body)} bytes; a request takes {_EVENT_BYTES_MAX}")
        return FileEvent(number, stream_id, str(event_id), body)

    def _id_of(self, number: int) -> str:
        return hashlib.blake2b(self._content + b"\0%d" % number, digest_size=16).hexdigest()

    def _check_tenant(self, where: str, fields: dict[str, object]) -> None:
        """Take the tenant out: an event may repeat it, and the request names it."""
        if "specversion" not in fields and fields.get("tenant", self._tenant) != self._tenant:
            raise BadFile(where, f"tenant: is {fields['tenant']!r}, but --tenant says {self._tenant!r}")
        fields.pop("tenant", None)

    def _stream_of(self, where: str, fields: dict[str, object]) -> str:
        named = fields.get("subject") if "specversion" in fields else fields.pop("stream_id", None)
        stream_id = named if named is not None else self._stream_id
        if stream_id is None:
            raise BadFile(where, "the event names no stream_id", "put one into it, or give --stream")
        if not isinstance(stream_id, str):
            raise BadFile(where, "stream_id: must be a string")
        if self._stream_id is not None and stream_id != self._stream_id:
            raise BadFile(where, f"stream_id: is {stream_id!r}, but --stream says {self._stream_id!r}")
        return stream_id

    def _check(self, where: str, fields: dict[str, object], stream_id: str) -> None:
        try:
            event_from_json(
                dict(fields),
                stream_id=stream_id,
                kind=self._kind or _ANY_KIND,
                payloads=self._payloads,
                now_us=time.time_ns() // 1_000,
            )
        except InvalidEvent as error:
            raise BadFile(where, str(error), error.remedy) from None
        except UnknownType:
            return  # a type of the user's own: the edge asks the registry

    def refusal(self, refused: Refused, batch: list[FileEvent]) -> OpsError:
        """The edge's refusal of a request, told by the line of the file that it is about."""
        line = refused.answer.get("line")
        if isinstance(line, int) and 1 <= line <= len(batch):
            problem = str(refused).removeprefix(f"line {line}: ")
            return BadFile(f"{self.name}:{batch[line - 1].line}", problem, refused.remedy)
        return refused


def in_requests(events: Iterable[FileEvent]) -> Iterator[list[FileEvent]]:
    """Put events together as requests: one stream each, in its order, within an edge's bounds."""
    by_stream: dict[str, list[FileEvent]] = {}
    sizes: Counter[str] = Counter()
    for event in events:
        stream_id, size = event.stream_id, len(event.body) + 1
        batch = by_stream.setdefault(stream_id, [])
        if len(batch) == REQUEST_EVENTS_MAX or (batch and sizes[stream_id] + size > REQUEST_BYTES_MAX):
            yield batch
            batch = by_stream[stream_id] = []
            sizes[stream_id] = 0
        batch.append(event)
        sizes[stream_id] += size
    yield from by_stream.values()


class Publication:
    """Sends what a reader gives; counts what became of it."""

    def __init__(
        self,
        client: EdgeClient,
        reader: FileReader,
        *,
        kind: str | None,
        wait: bool,
        note: Callable[[str], None],
    ) -> None:
        self._client = client
        self._note = note
        self._reader = reader
        self._kind = kind
        self._wait = wait
        self.name = reader.name
        self.tally = Tally()

    async def send(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Publish the events of some lines; raises BadFile, and what `EdgeClient.publish` raises."""
        events = [self._reader.event(number, text) for number, text in lines if text.strip()]
        for batch in in_requests(events):
            self._count(batch, await self._decided(batch))

    async def _decided(self, batch: list[FileEvent]) -> list[Verdict]:
        """Publish; ask again for what has no verdict yet, under the same ids, while the patience lasts.

        An edge lets a request wait for ten seconds, and a worker that has just been started needs some.
        """
        deadline = time.monotonic() + self._client.patience_s
        verdicts = verdicts_of(await self._request(batch))
        while pending := {verdict.event_id for verdict in verdicts if verdict.pending}:
            again = [event for event in batch if event.event_id in pending]
            if not again or time.monotonic() > deadline:
                break
            self._note(f"{len(pending)} events have no verdict yet: does a worker with ingest run?")
            decided = {verdict.event_id: verdict for verdict in verdicts_of(await self._request(again))}
            verdicts = [decided.get(verdict.event_id, verdict) for verdict in verdicts]
        return verdicts

    async def _request(self, batch: list[FileEvent]) -> Mapping[str, object]:
        self.tally.requests += 1
        try:
            return await self._client.publish(
                batch[0].stream_id, [event.body for event in batch], kind=self._kind, wait=self._wait
            )
        except Refused as refused:
            raise self._reader.refusal(refused, batch) from None

    def _count(self, batch: list[FileEvent], verdicts: list[Verdict]) -> None:
        self.tally.events += len(batch)
        self.tally.streams.add(batch[0].stream_id)
        lines = {event.event_id: event.line for event in batch}
        for verdict in verdicts:
            self.tally.verdicts[verdict.name] += 1
            if not verdict.accepted and len(self.tally.rejected) < REJECTED_SHOWN_MAX:
                self.tally.rejected.append(
                    {
                        "line": lines.get(verdict.event_id, 0),
                        "event_id": verdict.event_id,
                        "verdict": verdict.name,
                        "detail": verdict.detail,
                    }
                )


class LineReader:
    """Numbered lines of a file or a pipe, in blocks: a pipe's as they come, so that a live one flows."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file
        self._rest = b""
        self._number = 0

    def block(self) -> list[tuple[int, bytes]]:
        """The lines that one read completes; empty at the end. Raises BadFile for a line without end."""
        lines: list[tuple[int, bytes]] = []
        while not lines:
            data = os.read(self._file.fileno(), REQUEST_BYTES_MAX)
            *whole, self._rest = (self._rest + data).split(b"\n")
            if not data and self._rest:
                whole, self._rest = [self._rest], b""
            for line in whole:
                self._number += 1
                lines.append((self._number, line))
            if len(self._rest) > 2 * REQUEST_BYTES_MAX:
                raise BadFile(f"{self._name}:{self._number + 1}", "a line longer than a request may be")
            if not data:
                break
        return lines
