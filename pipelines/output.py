"""The only writer of a stream's output: gives seq, keeps the figures, adds gaps and time-outs."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from pipelines.listing import MARK_EVERY, Listing
from pipelines.streams import Status
from pipelines.verdicts import MADE, order_of
from schemas import topics
from schemas.envelope import CONTROL_TYPES, LONG_MAX, Event, split_key
from schemas.usage import cost_of_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipelines.streams import Stream
    from pipelines.turn import Turn
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec
    from schemas.wire import WireCodec

SOURCE: Final = "sluicegate/ingest"
MISSING_INPUT: Final = "missing_input"
"""Reason of a gap in the producer's own numbers; a gap for one client only has other reasons."""
TIMED_OUT: Final = "timed_out"

_CONTROL: Final = frozenset(CONTROL_TYPES)


@dataclass(frozen=True, slots=True)
class Output:
    """Appends to streams' outputs; each append takes one seq of ingest's own count."""

    kinds: KindTable
    codec: WireCodec
    payloads: PayloadCodec
    listing: Listing

    def append(
        self, turn: Turn, stream: Stream, event: Event, fields: Mapping[str, Any], value: bytes | None = None
    ) -> int:
        """Append an accepted event; return the seq that it was given.

        ``fields`` is its payload, ``value`` what it was decoded from, if it was.
        """
        seq = stream.next_seq
        if event.type == "end":
            totals = {**fields, "events": seq, "bytes": stream.total_bytes}
            payload, schema = self.payloads.encode("end", totals)
            event, value = event._replace(payload=payload, payload_schema=schema), None
        if value is None:
            framed = self.codec.encode_event(event._replace(seq=seq))
        else:
            framed = self.codec.renumber(value, event, seq)
        _figure(stream, event, fields)
        on_offset = None
        if event.type in _CONTROL:
            on_offset = self._control(turn, stream, event._replace(seq=seq), fields)
        if on_offset is None and seq and seq % MARK_EVERY == 0:
            on_offset = self.listing.marked(turn.scope, stream, event._replace(seq=seq))
            self.record(turn, stream)
        turn.scope.emit(
            topics.OUTPUT, stream.key, framed, partition=turn.scope.partition, on_offset=on_offset
        )
        # Whoever asks a language model for it hears of it there, and pays for no answer that nobody takes.
        if event.type == "cancel" or (event.type == "end" and event.source == SOURCE):
            turn.scope.emit(topics.LLM_CONTROL, stream.key, framed, partition=turn.scope.partition)
        return seq

    def gap(self, turn: Turn, stream: Stream, to_seq: int, at_us: int) -> None:
        """Declare the producer's numbers from the expected one to ``to_seq`` missing; go on after them."""
        first = stream.expected
        fields = {"from_seq": first, "to_seq": to_seq, "count": to_seq - first + 1, "reason": MISSING_INPUT}
        stream.expected = to_seq + 1
        self._made(turn, stream, "gap", at_us, fields)

    def time_out(self, turn: Turn, stream: Stream) -> None:
        """End a stream whose idle or total deadline has passed, at that deadline."""
        idle_us = stream.active_at_us + stream.idle_timeout_us
        total_us = stream.started_at_us + stream.total_timeout_us
        if idle_us <= total_us:
            message = f"no event for {stream.idle_timeout_us // 1000} ms (idle time-out)"
        else:
            message = f"open for {stream.total_timeout_us // 1000} ms (total time-out)"
        fields = {"reason": TIMED_OUT, "message": message, "exit_code": None, "events": 0, "bytes": 0}
        self._made(turn, stream, "end", min(idle_us, total_us), fields)

    def record(self, turn: Turn, stream: Stream) -> None:
        """Write the structured record of a stream: at open, at each mark and at the end."""
        stream.revision += 1
        tenant, stream_id = split_key(stream.key)
        first_us = stream.first_data_us
        record = {
            "request_id": stream.request_id, "task_id": stream.task_id, "stream_id": stream_id,
            "tenant": tenant, "kind": stream.kind, "first_seq": 0, "last_seq": stream.next_seq - 1,
            "events_by_type": {name: events for name, (events, _) in stream.by_type.items()},
            "bytes_by_type": {name: size for name, (_, size) in stream.by_type.items()},
            "opened_us": stream.opened_us, "first_data_us": first_us, "last_data_us": stream.last_data_us,
            "ended_us": stream.ended_us,
            "time_to_first_data_us": max(first_us - stream.opened_us, 0) if first_us else -1,
            "longest_silence_us": stream.longest_silence_us, "end_reason": stream.end_reason,
            "upstream_ids": stream.upstream_ids, "attempts": stream.attempt + 1,
            "cost_nanos": stream.cost_nanos if stream.cost_known_events else None,
            "cost_unknown_events": stream.cost_unknown_events, "revision": stream.revision,
        }  # fmt: skip
        value = self.codec.encode(topics.RECORDS.subject, record)
        turn.scope.emit(topics.RECORDS, stream.key, value, partition=turn.scope.partition)

    def drop(self, turn: Turn, stream: Stream) -> None:
        """Take a stream whose history is over out of the compacted topics, and forget it."""
        self.listing.drop(turn.scope, stream.key)
        turn.scope.emit(topics.RECORDS, stream.key, None, partition=turn.scope.partition)
        turn.drop(stream)

    def _control(
        self, turn: Turn, stream: Stream, event: Event, fields: Mapping[str, Any]
    ) -> Callable[[int], None] | None:
        if event.type == "open":
            self.record(turn, stream)
            return self.listing.opened(turn.scope, stream, event, fields)
        if event.type == "end":
            self._end(turn, stream, event, fields["reason"])
            return self.listing.ended(turn.scope, stream, event)
        return None

    def _end(self, turn: Turn, stream: Stream, event: Event, reason: str) -> None:
        stream.status, stream.end_reason, stream.ended_us = Status.ENDED, reason, event.time
        ttl_us = order_of(self.kinds, stream.kind).dedupe_ttl_ms * 1000
        history_ms = self.kinds.named(stream.kind).replay.history_ms if stream.kind in self.kinds else 0
        at_us = max(stream.active_at_us, turn.clock.now_us)
        stream.forget_at_us = at_us + ttl_us
        stream.unlist_at_us = at_us + max(ttl_us, history_ms * 1000)
        self.record(turn, stream)
        stream.shrink()

    def _made(self, turn: Turn, stream: Stream, kind: str, at_us: int, fields: Mapping[str, Any]) -> None:
        """Append an event of ingest's own. Its id follows from its place: a replay makes the same."""
        tenant, stream_id = split_key(stream.key)
        place = b"%s\x00%d\x00%d" % (stream.key, stream.opened_us, stream.next_seq)
        event_id = "ingest-" + blake2b(place, digest_size=16).hexdigest()
        payload, schema = self.payloads.encode(kind, fields)
        event = Event(
            event_id, tenant, stream_id, -1, stream.kind, kind, max(at_us, 0), SOURCE, stream.request_id,
            stream.task_id, "", "", stream.epoch, stream.attempt, payload, schema,
        )  # fmt: skip
        turn.counts[MADE] += 1
        self.append(turn, stream, event, fields)


def _figure(stream: Stream, event: Event, fields: Mapping[str, Any]) -> None:
    """Take an event of the output into the figures of its stream."""
    stream.next_seq += 1
    stream.epoch = max(stream.epoch, event.epoch)
    stream.attempt = max(stream.attempt, event.attempt)
    stream.tally(event.type, len(event.payload))
    if event.type == "open":
        stream.opened_us, stream.request_id, stream.task_id = event.time, event.request_id, event.task_id
    else:
        stream.longest_silence_us = max(stream.longest_silence_us, event.time - stream.last_event_us)
    stream.last_event_us = max(stream.last_event_us, event.time)
    if event.upstream_id:
        stream.name_upstream(event.upstream_id)
    if event.type not in _CONTROL:
        stream.first_data_us = stream.first_data_us or event.time
        stream.last_data_us = max(stream.last_data_us, event.time)
    if event.type == "usage":
        cost = cost_of_usage(fields)
        if cost is None:
            stream.cost_unknown_events += 1
        else:
            stream.cost_known_events += 1
            stream.cost_nanos = min(stream.cost_nanos + cost, LONG_MAX)
