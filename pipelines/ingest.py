"""The only writer of a stream's output: judges lifecycle and order, gives seq, owns deadlines.

A record goes: gate (``admission``) → time → deadlines → verdict or acceptance (``ordering``) → output.
Each is counted under exactly one outcome: output, a verdict, dead letter or tick.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from pipelines.admission import Admission, Arrival
from pipelines.listing import Listing
from pipelines.ordering import Ordering
from pipelines.output import Output
from pipelines.queries import Query
from pipelines.streams import STREAM, KnownStreams, Status, Stream, read_stream
from pipelines.turn import DEADLINES, HOLES, SEEN, STORE, Turn
from pipelines.verdicts import DEAD_LETTER, FUTURE_DATED, TICK, Rejects, order_of
from schemas import envelope, topics
from schemas.envelope import Event
from schemas.errors import ContractError, WireError
from state.watermark import AHEAD_US_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.stream import Stream as AgentStream
    from pipelines.options import WorkerOptions
    from pipelines.queries import Span
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from pipelines.turn import Alarms
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec
    from schemas.record import Record
    from schemas.wire import WireCodec
    from state.scope import Scope
    from state.store import StateView

_NOT_OPENED: Final = "the stream was not opened: publish its open first, with seq 0, or -1 to have seq given"


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Bounds that no kind declares; time in event time."""

    disorder_ms: int = 2_000
    """How far the watermark stays behind the latest event: what may come out of order between streams."""
    partitions: int = topics.INPUT.partitions
    reorder_bytes_max: int = 8_388_608
    """Bytes of one stream in the reorder buffer: eight events of the largest size."""
    chores_max: int = 256
    """Deadlines handled and event ids forgotten for each record, so that no record takes for ever."""


class Ingest:
    """The pure step: no Faust, no clock, no I/O; the same records give the same result, however cut.

    What it remembers between calls saves decoding alone: the store's bytes decide (``KnownStreams``).
    """

    def __init__(
        self,
        kinds: KindTable,
        codec: WireCodec,
        payloads: PayloadCodec,
        options: IngestOptions | None = None,
    ) -> None:
        self._options = options or IngestOptions()
        self._kinds = kinds
        self._known = KnownStreams()
        self._admission = Admission(kinds, payloads, self._options.partitions)
        self._output = Output(kinds, codec, payloads, Listing(codec))
        rejects = Rejects(kinds, codec)
        self._ordering = Ordering(
            self._admission, self._output, rejects, codec, self._options.reorder_bytes_max
        )

    def handle(self, scope: Scope, items: Sequence[tuple[Record, Event | WireError | None]]) -> None:
        """Handle records of one partition in offset order.

        Raises:
            RegistryUnavailable: a payload's schema cannot be fetched; nothing may be kept of the call.
        """
        turn = Turn(scope, self._options.disorder_ms * 1000, self._known)
        events = [(item.key, item.event_id) for _, item in items if isinstance(item, Event)]
        turn.prefetch(
            [key for key, _ in events], [SEEN.key(key, event_id.encode()) for key, event_id in events]
        )
        for record, item in items:
            self._one(turn, record, item)
        turn.save()

    def open_deadline(self, state: StateView) -> int | None:
        """Return the broker time, µs, at which a tick would have something to do; None = nothing is open."""
        due_us = [HOLES.earliest_us(state), DEADLINES.earliest_us(state)]
        if due_us[1] is not None:
            due_us[1] += self._options.disorder_ms * 1000
        times_us = [time_us for time_us in due_us if time_us is not None]
        # The broker stamps whole milliseconds: a tick within the last one would come too early.
        return -(-min(times_us) // 1000) * 1000 if times_us else None

    def _one(self, turn: Turn, record: Record, item: Event | WireError | None) -> None:
        turn.arrivals.tick(record.timestamp_us)
        if isinstance(item, Event) and item.type == envelope.TICK:
            turn.clock.tick(record.timestamp_us)
            turn.counts[TICK] += 1
            self._do_chores(turn)
            return
        try:
            fields = self._admission.fields(record, item)
        except (ContractError, WireError) as error:
            turn.counts[DEAD_LETTER] += 1
            turn.scope.dead_letter(record, type(error).__name__, str(error))
            self._do_chores(turn)
            return
        assert isinstance(item, Event)
        if item.time > record.timestamp_us + AHEAD_US_MAX:
            turn.counts[FUTURE_DATED] += 1
        arrival = Arrival(record, item, fields, turn.clock.see(item.time, record.timestamp_us))
        self._do_chores(turn)
        self._judge(turn, arrival)

    def _judge(self, turn: Turn, arrival: Arrival) -> None:
        """Decide about an event of a stream that is unknown, pending, open or ended."""
        stream = self._current(turn, arrival.event.key)
        if stream is None:
            stream = self._begin(turn, arrival)
        elif (seq := turn.note(stream, arrival.event.event_id)) is not None:
            where = "waits for those before it" if seq < 0 else f"is seq {seq}"
            self._ordering.reject(turn, arrival, "duplicate", f"this event id was accepted and {where}")
            return
        elif stream.status is Status.PENDING:
            self._before_open(turn, stream, arrival)
        elif stream.status is Status.OPEN:
            self._in_stream(turn, stream, arrival)
        else:
            self._after_end(turn, stream, arrival)
        if stream is not None:
            self._keep(turn, stream)

    def _current(self, turn: Turn, key: bytes) -> Stream | None:
        """Return the stream as it stands now: its own deadlines count even if the chores are behind."""
        stream = turn.stream(key)
        if stream is not None and stream.status is not Status.ENDED and self._is_due(turn, stream):
            self._expire(turn, stream)
            return turn.stream(key)
        return stream

    def _begin(self, turn: Turn, arrival: Arrival) -> Stream | None:
        event = arrival.event
        stream = Stream(event.key, event.kind)
        if event.type == "open" and event.seq <= 0:
            self._open(turn, stream, arrival)
        elif event.type != "open" and event.seq > 0:
            self._ordering.hold(turn, stream, arrival)
        else:
            self._orphan(turn, arrival)
            return None
        return stream

    def _before_open(self, turn: Turn, stream: Stream, arrival: Arrival) -> None:
        event = arrival.event
        if event.type == "open" and event.seq <= 0:
            if event.seq < 0:
                detail = "seq is the producer's, the stream was opened with seq -1"
                self._ordering.disown(turn, stream, "mixed_seq", detail)
            self._open(turn, stream, arrival)
        elif event.type != "open" and event.seq > 0:
            self._ordering.hold(turn, stream, arrival)
        else:
            self._orphan(turn, arrival)

    def _open(self, turn: Turn, stream: Stream, arrival: Arrival) -> None:
        event, fields = arrival.event, arrival.fields
        policy = self._kinds.named(event.kind).connection
        stream.kind, stream.status, stream.numbered = event.kind, Status.OPEN, event.seq == 0
        stream.started_at_us = stream.revision = arrival.at_us
        stream.idle_timeout_us = _shorter_us(fields["idle_timeout_ms"], policy.idle_timeout_ms)
        stream.total_timeout_us = _shorter_us(fields["total_timeout_ms"], policy.total_timeout_ms)
        self._ordering.accept(turn, stream, arrival)
        self._ordering.drain(turn, stream)

    def _in_stream(self, turn: Turn, stream: Stream, arrival: Arrival) -> None:
        event, ordering = arrival.event, self._ordering
        objection = ordering.objection(stream, event)
        if event.type == "open":
            ordering.reject(turn, arrival, "second_open", "the stream is open already")
        elif objection is not None:
            ordering.reject(turn, arrival, *objection)
        elif stream.numbered != (event.seq >= 0):
            if event.type == "cancel" and event.seq < 0:  # a client asks; it does not know the numbers
                ordering.accept(turn, stream, arrival)
                return
            whose = "the producer's from its open on" if stream.numbered else "given by ingest"
            ordering.reject(turn, arrival, "mixed_seq", f"seq is {event.seq}, the stream's are {whose}")
        elif stream.numbered and event.seq < stream.expected:
            detail = f"seq {event.seq} was passed, {stream.expected} is next"
            ordering.reject(turn, arrival, "out_of_order", detail)
        elif stream.numbered and event.seq > stream.expected:
            ordering.hold(turn, stream, arrival)
        else:
            ordering.accept(turn, stream, arrival)
            ordering.drain(turn, stream)

    def _after_end(self, turn: Turn, stream: Stream, arrival: Arrival) -> None:
        verdict = {"open": "second_open", "end": "second_end"}.get(arrival.event.type, "late")
        detail = f"the stream ended as {stream.end_reason} at {stream.ended_us} µs"
        self._ordering.reject(turn, arrival, verdict, detail)  # type: ignore[arg-type]

    def _orphan(self, turn: Turn, arrival: Arrival) -> None:
        event = arrival.event
        detail = _NOT_OPENED
        if event.type == "open":
            detail = f"open has seq {event.seq}: a stream begins with seq 0, or -1 to have seq given"
        self._ordering.reject(turn, arrival, "orphan", detail)

    def _do_chores(self, turn: Turn) -> None:
        """Handle what has fallen due, a bounded number of things; the next record goes on."""
        left = self._options.chores_max
        for alarms, now_us in ((turn.deadlines, turn.clock.now_us), (turn.holes, turn.arrivals.now_us)):
            if left <= 0 or not alarms.any_due(now_us):
                continue
            entries = alarms.due(now_us, left)
            for due_us, key in entries:
                left = self._do_chore(turn, alarms, due_us, key, left - 1)
                if left <= 0:
                    break
            if entries:
                alarms.look_again()

    def _do_chore(self, turn: Turn, alarms: Alarms, due_us: int, key: bytes, left: int) -> int:
        """Handle one entry of an index of due times; return how much more may be done."""
        stream = turn.stream(key)
        if stream is None or not alarms.owns(stream, due_us):
            alarms.clear(due_us, key)
            return left
        if self._to_forget(turn, stream):
            gone = turn.forget_members(stream, left + 1)
            if gone > left:
                return 0  # there may be more; the entry stands until they are gone
            left -= gone
            stream.members_gone = True
        alarms.drop(stream)
        if self._is_due(turn, stream):
            self._expire(turn, stream)
        else:
            self._keep(turn, stream)
        return left

    def _is_due(self, turn: Turn, stream: Stream) -> bool:
        return self._is_silent(turn, stream) or self._is_hole_due(turn, stream)

    def _is_silent(self, turn: Turn, stream: Stream) -> bool:
        deadline_us = stream.deadline_us()
        return deadline_us is not None and deadline_us <= turn.clock.now_us

    def _is_hole_due(self, turn: Turn, stream: Stream) -> bool:
        if not stream.waiting:  # most: the kind need not be looked up
            return False
        hole_us = stream.hole_us(self._reorder_us(stream))
        return hole_us is not None and hole_us <= turn.arrivals.now_us

    def _to_forget(self, turn: Turn, stream: Stream) -> bool:
        ended = stream.status is Status.ENDED and not stream.members_gone
        return ended and stream.forget_at_us <= turn.clock.now_us

    def _expire(self, turn: Turn, stream: Stream) -> None:
        """Do what has fallen due: stop waiting for a hole or for an open, time out, or forget."""
        ordering = self._ordering
        if stream.status is Status.ENDED:
            self._output.drop(turn, stream)
            return
        if stream.status is Status.PENDING:
            ordering.disown(turn, stream, "orphan", _NOT_OPENED)
            turn.drop(stream)
            return
        silent = self._is_silent(turn, stream)
        while stream.status is Status.OPEN and stream.waiting and (silent or self._is_hole_due(turn, stream)):
            ordering.skip_hole(turn, stream)
        if stream.status is Status.OPEN and silent:
            self._output.time_out(turn, stream)
        self._keep(turn, stream)

    def _keep(self, turn: Turn, stream: Stream) -> None:
        if stream.status is Status.PENDING and not stream.waiting:
            turn.drop(stream)
        else:
            turn.keep(stream, self._reorder_us(stream) if stream.waiting else 0)

    def _reorder_us(self, stream: Stream) -> int:
        return order_of(self._kinds, stream.kind).reorder_ms_max * 1000


def _stream_of(view: StateView, key: bytes, _span: Span) -> dict[str, Any] | None:
    """Answer a query for a stream, ``tenant/stream``: what is remembered of it."""
    stored = view.get(STREAM + key)
    if stored is None:
        return None
    stream = read_stream(key, stored)
    return {**asdict(stream), "key": key.decode(), "status": stream.status.name.lower()}


def _shorter_us(asked_ms: int, kinds_ms: int) -> int:
    """Return a stream's time-out: its ``open`` may shorten the kind's, never lengthen it; 0 = not said."""
    return (min(asked_ms, kinds_ms) if asked_ms > 0 else kinds_ms) * 1000


def register(app: RoleApp, tools: Tools, options: WorkerOptions) -> None:  # noqa: ARG001 - one shape for all
    """Add the agent to the role's app."""
    step = Ingest(tools.kinds, tools.codec, tools.payloads)
    source = app.source(
        topics.INPUT,
        agent="ingest",
        decode=tools.decode_events,
        changelog=topics.INGEST_STREAMS_CHANGELOG,
        open_deadline=step.open_deadline,
        store=STORE,
        writes=(topics.OUTPUT, topics.INDEX, topics.RECORDS, topics.REJECTS, topics.LLM_CONTROL),
        query=Query(_stream_of),
    )

    @app.agent(source)
    async def ingest(stream: AgentStream) -> None:
        async for batch in stream.batches():
            step.handle(batch.scope, batch.items)
