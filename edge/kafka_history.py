"""The past out of Kafka: spans of the output topic, read and decoded on threads of their own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.spans import SpanBounds, SpanReaders
from edge.errors import HistoryUnavailable
from edge.history import Frames, Span, SpanAsked
from edge.lookup import LookUps
from schemas.errors import RegistryUnavailable, WireError
from schemas.topics import partition_of

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from edge.frame import Frame
    from edge.index import IndexEntry
    from edge.options import EdgeOptions
    from edge.tail import Decoder

_TO_THE_END = 1 << 62
log = structlog.get_logger(__name__)
_LOOKUP_MS_MAX = 10_000
"""Longest that a stream is looked for in the index topic when it is not in memory: some million records."""


class KafkaHistory:
    """Reads spans, as many at a time as it is asked for; ``SharedHistory`` asks for ``history_readers``."""

    def __init__(self, kafka: KafkaOptions, options: EdgeOptions, decoder: Decoder) -> None:
        self._decoder = decoder
        self._kafka = kafka
        self._readers = SpanReaders(kafka, options.history_readers)
        self._index_readers: SpanReaders | None = None
        self._look_ups = LookUps(self._look_up)
        self._threads = ThreadPoolExecutor(options.history_readers, thread_name_prefix="replay")
        self._bounds = SpanBounds(
            options.history_span_events, options.history_span_bytes, options.history_scan_ms_max
        )

    async def read(self, asked: SpanAsked) -> Span:
        """See History."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, asked)

    async def look_up(self, key: bytes, partitions: int) -> IndexEntry | None:
        """Find a stream's latest entry in the index topic itself: slow, and seldom needed."""
        return await self._look_ups.find(key, partitions)

    def close(self) -> None:
        """Close the readers and their threads."""
        self._look_ups.close()
        for readers in (self._readers, self._index_readers):
            if readers is not None:
                readers.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, asked: SpanAsked) -> Span:
        try:
            found = self._readers.read(
                self._decoder.output,
                asked.partition,
                asked.key,
                asked.from_offset,
                asked.stop_offset,
                replace(self._bounds, records_max=min(asked.events_max, self._bounds.records_max)),
            )
        except KafkaUnavailable as error:
            log.warning("history_unavailable", cause=str(error))
            raise HistoryUnavailable(str(error)) from None
        frames: list[Frame] = []
        for record in found.records:
            try:
                frame = self._decoder.frame(record)
            except WireError as error:
                log.error(  # noqa: TRY400  # the cause is the data, not this code
                    "undecodable_record", partition=record.partition, offset=record.offset, cause=str(error)
                )
                continue
            except RegistryUnavailable as error:
                raise HistoryUnavailable(str(error)) from None
            if frame is not None:
                frames.append(frame)
        return Span(Frames(frames), found.next_offset, found.truncated, found.passed)

    def _look_up(self, key: bytes, partitions: int) -> IndexEntry | None:
        """Read a key's partition of the index to its end; runs on the look-ups' one thread."""
        bounds = SpanBounds(1_000_000, 1 << 30, _LOOKUP_MS_MAX, idle_ms_max=_LOOKUP_MS_MAX)
        partition = partition_of(key, partitions)
        try:
            if self._index_readers is None:
                self._index_readers = SpanReaders(self._kafka, 1)
            found = self._index_readers.read(self._decoder.index, partition, key, 0, _TO_THE_END, bounds)
            if found.next_offset < _TO_THE_END:
                # What was not read may hold the stream, or a later word on it: "none" would be a lie.
                raise HistoryUnavailable(
                    f"the index of partition {partition} was not read to its end within {_LOOKUP_MS_MAX} ms"
                )
            return self._decoder.entry(found.records[-1]) if found.records else None
        except (KafkaUnavailable, RegistryUnavailable, WireError) as error:
            raise HistoryUnavailable(str(error)) from None
