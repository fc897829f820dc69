"""Puts the events of producer-numbered streams in order: holds, releases, declares what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipelines.admission import Arrival
from pipelines.reorder import ReorderBuffer, Waiting
from pipelines.streams import Status
from pipelines.verdicts import HELD, OUTPUT, RELEASED, order_of

if TYPE_CHECKING:
    from pipelines.admission import Admission
    from pipelines.output import Output
    from pipelines.streams import Stream
    from pipelines.turn import Turn
    from pipelines.verdicts import Rejects, Verdict
    from schemas.envelope import Event
    from schemas.wire import WireCodec

BUFFER: Final = ReorderBuffer(b"b")
WAITS: Final = -1
"""Noted as the seq of an event that waits in the buffer."""


@dataclass(frozen=True, slots=True)
class Ordering:
    """Accepts what is next, holds what comes early within the kind's bounds, and goes on after them.

    The producer's seq orders; the output's seq is given at acceptance, so it is contiguous whatever is
    missing: a gap takes one.
    """

    admission: Admission
    output: Output
    rejects: Rejects
    codec: WireCodec
    bytes_max: int

    def accept(self, turn: Turn, stream: Stream, arrival: Arrival) -> None:
        """Append an event whose turn it is."""
        event = arrival.event
        if event.seq >= 0:
            stream.expected = event.seq + 1
        if event.type != "cancel":  # a client's wish is no sign of life of the producer
            stream.active_at_us = max(stream.active_at_us, arrival.at_us)
        turn.mark(stream, event.event_id, stream.next_seq)
        self.output.append(turn, stream, event, arrival.fields, arrival.record.value)
        turn.counts[OUTPUT] += 1

    def hold(self, turn: Turn, stream: Stream, arrival: Arrival) -> None:
        """Have an event wait for those before it; past the bounds, stop waiting for the first hole."""
        event, record = arrival.event, arrival.record
        rival = BUFFER.get(turn.view, turn.scope.partition, stream.key, event.seq)
        if rival is not None and rival.epoch >= event.epoch:
            verdict: Verdict = "stale_epoch" if rival.epoch > event.epoch else "out_of_order"
            self.reject(turn, arrival, verdict, f"another event with seq {event.seq} is waiting already")
            return
        if rival is not None:
            self._take(turn, stream, rival)
            self._reject_waiting(turn, stream, rival, "stale_epoch", f"epoch {event.epoch} superseded it")
        waiting = Waiting(event.seq, record, arrival.at_us, turn.arrivals.now_us, event.epoch)
        BUFFER.put(turn.view, stream.key, waiting)
        turn.mark(stream, event.event_id, WAITS)
        turn.counts[HELD] += 1
        if not stream.waiting:
            stream.waiting_since_us = waiting.arrived_us
        stream.waiting += 1
        stream.waiting_bytes += waiting.size_bytes
        stream.active_at_us = max(stream.active_at_us, arrival.at_us)
        self._keep_bounds(turn, stream)

    def drain(self, turn: Turn, stream: Stream) -> None:
        """Release what is in order now; reject all of it if the stream has ended."""
        while stream.waiting and stream.status is not Status.ENDED:
            waiting = BUFFER.get(turn.view, turn.scope.partition, stream.key, stream.expected)
            if waiting is None:
                first = BUFFER.first(turn.view, turn.scope.partition, stream.key)
                assert first is not None, "the count of waiting events is wrong"
                stream.waiting_since_us = first.arrived_us
                return
            self._release(turn, stream, waiting)
        for waiting in self._take_all(turn, stream):
            verdict: Verdict = "second_end" if self._event(waiting).type == "end" else "late"
            self._reject_waiting(turn, stream, waiting, verdict, _ended(stream))

    def skip_hole(self, turn: Turn, stream: Stream) -> None:
        """Declare the first hole missing and release what stands behind it.

        The gap is dated as the event behind it, so that a hostile clock dates no gap either.
        """
        first = BUFFER.first(turn.view, turn.scope.partition, stream.key)
        assert first is not None, "there is no hole without an event behind it"
        if first.seq > stream.expected:
            self.output.gap(turn, stream, first.seq - 1, first.at_us)
        self.drain(turn, stream)

    def disown(self, turn: Turn, stream: Stream, verdict: Verdict, detail: str) -> None:
        """Reject all that waits for an ``open`` that does not come, or comes without numbers."""
        for waiting in self._take_all(turn, stream):
            self._reject_waiting(turn, stream, waiting, verdict, detail)

    def objection(self, stream: Stream, event: Event) -> tuple[Verdict, str] | None:
        """Say what speaks against an event of an open stream but its seq."""
        if event.kind != stream.kind:
            return "wrong_kind", f"kind is {event.kind!r}, the stream was opened as {stream.kind!r}"
        if event.epoch < stream.epoch:
            return "stale_epoch", f"epoch is {event.epoch}, the stream's is {stream.epoch}"
        if event.type == "reset" and event.epoch == stream.epoch:
            return "stale_epoch", f"reset must raise the epoch, which is {stream.epoch} already"
        return None

    def reject(self, turn: Turn, arrival: Arrival, verdict: Verdict, detail: str) -> None:
        """Say and count a verdict."""
        turn.counts[verdict] += 1
        self.rejects.say(turn.scope, arrival.record, arrival.event, verdict, detail)

    def _keep_bounds(self, turn: Turn, stream: Stream) -> None:
        events_max = order_of(self.rejects.kinds, stream.kind).reorder_events_max
        while stream.waiting > events_max or stream.waiting_bytes > self.bytes_max:
            if stream.status is Status.PENDING:
                self.disown(turn, stream, "orphan", f"{stream.waiting} events came and none was open")
            else:
                self.skip_hole(turn, stream)

    def _release(self, turn: Turn, stream: Stream, waiting: Waiting) -> None:
        self._take(turn, stream, waiting)
        event = self._event(waiting)
        arrival = Arrival(waiting.record, event, self.admission.payload(event), waiting.at_us)
        objection = self.objection(stream, event)
        if objection is None:
            self.accept(turn, stream, arrival)
            return
        turn.unmark(stream, event.event_id)
        self.reject(turn, arrival, *objection)

    def _take(self, turn: Turn, stream: Stream, waiting: Waiting) -> None:
        BUFFER.delete(turn.view, stream.key, waiting.seq)
        stream.waiting -= 1
        stream.waiting_bytes -= waiting.size_bytes
        turn.counts[RELEASED] += 1

    def _take_all(self, turn: Turn, stream: Stream) -> list[Waiting]:
        if not stream.waiting:
            return []
        taken = list(BUFFER.take_all(turn.view, turn.scope.partition, stream.key))
        turn.counts[RELEASED] += len(taken)
        stream.waiting = stream.waiting_bytes = 0
        return taken

    def _reject_waiting(
        self, turn: Turn, stream: Stream, waiting: Waiting, verdict: Verdict, detail: str
    ) -> None:
        event = self._event(waiting)
        turn.unmark(stream, event.event_id)
        self.reject(turn, Arrival(waiting.record, event, {}, waiting.at_us), verdict, detail)

    def _event(self, waiting: Waiting) -> Event:
        assert waiting.record.value is not None
        return self.codec.decode_event(waiting.record.value)


def _ended(stream: Stream) -> str:
    return f"the stream ended as {stream.end_reason} at {stream.ended_us} µs"
