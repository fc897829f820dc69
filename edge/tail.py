"""The topics as this edge follows them: output to the hub, index to the index, rejects to their book."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from connectors.kafka.tailer import Followed, Place, Tailer, TailState
from edge.access.revocations import Revocation, revocation_of, unreadable
from edge.frame import Frame, frame_of
from edge.index import IndexEntry, entry_of
from edge.rejects import Verdict, verdict_of
from edge.slowing import SILENT_S, Counts, Said
from schemas.envelope import TICK
from schemas.errors import WireError
from schemas.topics import INDEX, LLM_ROUTES, OUTPUT, PRESSURE, REJECTS, REVOCATIONS, topic_version

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from connectors.kafka.options import KafkaOptions
    from edge.hub import Hub
    from edge.index import StreamIndex
    from edge.llm.models import Models
    from edge.options import EdgeOptions
    from edge.rejects import RejectBook
    from edge.slowing import Slowing
    from edge.waiters import Waiters
    from schemas.payloads import PayloadCodec
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)
_STALE_S = 5.0
"""No state for so long: the tail's thread is dead or stuck."""


@dataclass(slots=True)
class TailBatch:
    """Records of one hand-over, decoded."""

    frames: list[tuple[bytes, int, Frame]] = field(default_factory=list)
    """Stream key, partition, frame; in the order of the log."""
    entries: list[tuple[bytes, IndexEntry | None]] = field(default_factory=list)
    """None: the stream's history is over."""
    verdicts: list[tuple[bytes, Verdict]] = field(default_factory=list)
    words: list[tuple[bytes, str, Said | None]] = field(default_factory=list)
    """Stream key, edge, and what it says of its clients there; None: nothing any more."""
    revocations: list[tuple[bytes, Revocation | None]] = field(default_factory=list)
    """None: a token is good again."""
    routes: list[Mapping[str, Any]] = field(default_factory=list)
    """Versions of routes to language models."""
    undecodable: int = 0


class Decoder:
    """Makes frames, entries and verdicts of records; runs on the threads that fetch them."""

    def __init__(self, wire: WireCodec, payloads: PayloadCodec, topic_prefix: str) -> None:
        self._wire = wire
        self._payloads = payloads
        self._warm: set[int] = set()
        self.output = OUTPUT.named(topic_prefix)
        self.index = INDEX.named(topic_prefix)
        self.rejects = REJECTS.named(topic_prefix)
        self.pressure = PRESSURE.named(topic_prefix)
        self.revocations = REVOCATIONS.named(topic_prefix)
        self.routes = LLM_ROUTES.named(topic_prefix)
        self.topic_version = topic_version(self.output)

    def batch(self, records: Sequence[Record]) -> TailBatch:
        """Decode records of the topics. Raises RegistryUnavailable: do it again, nothing is lost."""
        batch = TailBatch()
        for record in records:
            try:
                self._add(batch, record)
            except WireError as error:
                # Its seq is missing then, which each client is told of as a gap.
                batch.undecodable += 1
                log.error(  # noqa: TRY400  # the cause is the data, not this code
                    "undecodable_record",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    cause=str(error),
                )
        return batch

    def frame(self, record: Record) -> Frame | None:
        """Decode one record of the output topic; None for one that is no client's business."""
        event = self._wire.decode_event(record.value or b"")
        if event.type == TICK or event.seq < 0:
            return None
        self._warm_up(event.payload_schema)
        return frame_of(
            event,
            topic_version=self.topic_version,
            partition=record.partition,
            offset=record.offset,
            read_ms=int(time.monotonic() * 1_000),
        )

    def entry(self, record: Record) -> IndexEntry | None:
        """Decode one record of the index; None for a tombstone."""
        if record.value is None:
            return None
        return entry_of(self._wire.decode(record.value, INDEX.subject))

    def _add(self, batch: TailBatch, record: Record) -> None:
        key = record.key or b""
        if record.topic == self.output:
            frame = self.frame(record)
            if frame is not None:
                batch.frames.append((key, record.partition, frame))
        elif record.topic == self.index:
            batch.entries.append((key, self.entry(record)))
        elif record.topic == self.rejects:
            verdict = verdict_of(
                self._wire.decode(record.value or b"", REJECTS.subject), read_s=time.monotonic()
            )
            batch.verdicts.append((key, verdict))
        elif record.topic == self.pressure:
            self._add_words(batch, key, record)
        elif record.topic == self.revocations:
            batch.revocations.append((key, self._revocation(key, record)))
        elif record.topic == self.routes and record.value is not None:
            batch.routes.append(self._wire.decode(record.value, LLM_ROUTES.subject))

    def _add_words(self, batch: TailBatch, key: bytes, record: Record) -> None:
        stream_key, _, edge = key.rpartition(b"/")
        if record.value is None:
            batch.words.append((stream_key, edge.decode("utf-8", "replace"), None))
            return
        if time.time() - record.timestamp_us / 1_000_000 > SILENT_S:
            return  # read again at a start; whoever said so has said it anew, or is gone
        said = self._wire.decode(record.value, PRESSURE.subject)
        counts = Counts(said["subscribers"], said["behind"])
        batch.words.append((stream_key, said["edge"], Said(said["edge"], said["kind"], counts)))

    def _revocation(self, key: bytes, record: Record) -> Revocation | None:
        if record.value is None:
            return None
        try:
            return revocation_of(self._wire.decode(record.value, REVOCATIONS.subject))
        except WireError as error:
            # Passed over, it would leave a token good that somebody has taken back.
            log.error("unreadable_revocation", offset=record.offset, cause=str(error))  # noqa: TRY400  # data
            return unreadable(key)

    def _warm_up(self, schema_id: int) -> None:
        """Have a payload's schema at hand: the event loop must never wait for the registry."""
        if schema_id in self._warm:
            return
        try:
            self._payloads.subject_of(schema_id)
        except WireError:
            return  # a payload that nobody can read is told to its clients as a gap when it is encoded
        if len(self._warm) >= 10_000:
            self._warm.clear()
        self._warm.add(schema_id)


class Revoked(Protocol):
    """Who is told of tokens that were taken back."""

    def revoked(self, found: Sequence[tuple[bytes, Revocation | None]]) -> None:
        """Take revocations, and None for what is good again, in the order of the log."""
        ...

    def all_revoked(self) -> None:
        """All that stood in the topic was told."""
        ...


class Tail:
    """Runs the tailer and hands what it brings to those whom it concerns; lives on the event loop."""

    def __init__(
        self,
        hub: Hub,
        index: StreamIndex,
        rejects: RejectBook,
        waiters: Waiters,
        decoder: Decoder,
        *,
        revoked: Revoked,
        slowing: Slowing,
        models: Models,
    ) -> None:
        self._hub = hub
        self._index = index
        self._rejects = rejects
        self._waiters = waiters
        self._decoder = decoder
        self._revoked = revoked
        self._slowing = slowing
        self._models = models
        self._positions: dict[Place, int] = {}
        self._caught_up: set[Place] = set()
        self._state = TailState()
        self._state_at = time.monotonic()
        self._tailer: Tailer[TailBatch] | None = None
        self.events = 0
        self.undecodable = 0

    def start(self, kafka: KafkaOptions, options: EdgeOptions, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to follow: index and routes from their beginning, the others from their recent past."""
        followed = [
            Followed(self._decoder.index, -1),
            Followed(self._decoder.output, options.tail_recent_records),
            Followed(self._decoder.rejects, options.rejects_recent_records),
            Followed(self._decoder.pressure, options.pressure_recent_records),
            Followed(self._decoder.routes, -1),
        ]
        if options.access.configured:
            followed.append(Followed(self._decoder.revocations, -1))
        self._tailer = Tailer(kafka, followed, self._decoder.batch, self, loop)
        self._tailer.start()

    def stop(self) -> None:
        """Have the thread end and wait for it (a fraction of a second)."""
        if self._tailer is not None:
            self._tailer.stop()
            self._tailer.join(timeout=10.0)

    # -- the tailer's listener --------------------------------------------------------------------------

    def tail_batch(self, batch: TailBatch, positions: Mapping[Place, int]) -> None:
        """Take a batch: index before frames, so that whoever is woken finds it; revocations first."""
        if batch.revocations:
            self._revoked.revoked(batch.revocations)
        for route in batch.routes:
            self._models.take(route)
        for key, entry in batch.entries:
            if entry is None:
                over = self._index.remove(key)
                self._hub.forget(key, over, self.position(over.partition) if over is not None else -1)
            else:
                self._index.put(key, entry)
                self._hub.listed(key, entry, self.position(entry.partition))
        self._positions.update(positions)
        for key, partition, frame in batch.frames:
            self._index.saw(key, frame, partition)
        self._hub.publish((key, frame) for key, _, frame in batch.frames)
        for key, verdict in batch.verdicts:
            self._rejects.add(key, verdict)
            self._waiters.rejected(key, verdict)
        if batch.words:
            self._slowing.heard(batch.words)
        if self._waiters.any:
            for key, partition, frame in batch.frames:
                self._waiters.accepted(key, partition, frame)
        self.events += len(batch.frames)
        self.undecodable += batch.undecodable

    def tail_caught_up(self, place: Place) -> None:
        """Note that a partition was read to its end once."""
        self._caught_up.add(place)
        if place[0] == self._decoder.revocations:
            self._revoked.all_revoked()

    def tail_state(self, state: TailState) -> None:
        """Take the state of the connection; what only the statistics know is kept when they are missing."""
        state.behind = state.behind or self._state.behind
        state.low_offsets = state.low_offsets or self._state.low_offsets
        state.end_offsets = state.end_offsets or self._state.end_offsets
        if not state.problem and state.problem != self._state.problem:
            log.info("tail_connected", behind=sum(state.behind.values()))
        self._state = state
        self._state_at = time.monotonic()

    # -- what others ask --------------------------------------------------------------------------------

    def position(self, partition: int) -> int:
        """See Position."""
        return self._positions.get((self._decoder.output, partition), -1)

    def index_is_read(self, partition: int) -> bool:
        """See Position: the last look at where it ends is about a second old."""
        index = (self._decoder.index, partition)
        end_offset = self._state.end_offsets.get(index, -1)
        return 0 <= end_offset <= self._positions.get(index, -1)

    def low_offset(self, partition: int) -> int:
        """The oldest offset that the output topic still has, as of about a second ago; 0 if not known."""
        return self._state.low_offsets.get((self._decoder.output, partition), 0)

    def end_offset(self, partition: int) -> int:
        """The output topic's last stable offset, as of about a second ago; -1 if not known."""
        return self._state.end_offsets.get((self._decoder.output, partition), -1)

    @property
    def caught_up(self) -> bool:
        """Whether all that was there at the start has been read: clients can be told where they stand."""
        return bool(self._positions) and self._caught_up >= self._positions.keys()

    @property
    def behind(self) -> Mapping[Place, int]:
        """Records that each partition is behind the last stable offset, as of about a second ago."""
        return self._state.behind

    @property
    def problem(self) -> str:
        """Why the tail does not move; empty while it does."""
        if self._state.problem:
            return self._state.problem
        silent_s = time.monotonic() - self._state_at
        return f"the tail has not been heard of for {silent_s:.0f} s" if silent_s > _STALE_S else ""
