"""Keeps a book up to date: routes and prompts, read whole before the first request, then as they change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from connectors.kafka.tailer import Followed, Tailer
from connectors.llm.readiness import Readiness
from schemas.errors import WireError
from schemas.topics import LLM_PROMPTS, LLM_ROUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.tailer import Place
    from connectors.llm.book import Book
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)


class _Read(NamedTuple):
    prompt: bool
    key: bytes
    fields: dict[str, Any] | None
    """None = it cannot be read."""


class BookFollower(Readiness):
    """Belongs to the loop that starts it; before it is ready no request can be planned."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec, book: Book) -> None:
        super().__init__("routes and prompts are being read")
        self._kafka = kafka
        self._codec = codec
        self._book = book
        self._routes = LLM_ROUTES.named(kafka.topic_prefix)
        self._prompts = LLM_PROMPTS.named(kafka.topic_prefix)
        self._unread = {self._routes, self._prompts}
        """Topics of one partition each that were not read to their end yet."""
        self._tailer: Tailer[list[_Read]] | None = None

    def start(self) -> None:
        """Begin to follow."""
        followed = [Followed(self._routes, -1), Followed(self._prompts, -1)]
        self._tailer = Tailer(self._kafka, followed, self._decode, self, asyncio.get_running_loop())
        self._tailer.start()

    def stop(self) -> None:
        """Have the thread end, and wait for it a moment."""
        if self._tailer is not None:
            self._tailer.stop()
            self._tailer.join(5.0)

    def _decode(self, records: Sequence[Record]) -> list[_Read]:
        found = []
        for record in records:
            if record.value is None:
                continue  # versions are not taken back, but superseded
            prompt = record.topic == self._prompts
            subject = (LLM_PROMPTS if prompt else LLM_ROUTES).subject
            fields = None
            try:
                fields = self._codec.decode(record.value, subject)
            except WireError as error:
                log.warning("version_cannot_be_read", offset=record.offset, cause=str(error))
            found.append(_Read(prompt, record.key or b"", fields))
        return found

    def tail_batch(self, batch: Sequence[_Read], positions: Mapping[Place, int]) -> None:  # noqa: ARG002
        """See TailListener."""
        for read in batch:
            take = self._book.take_prompt if read.prompt else self._book.take_route
            take(read.key, read.fields)

    def tail_caught_up(self, place: Place) -> None:
        """See TailListener."""
        self._unread.discard(place[0])
        if not self._unread:
            self._ready.set()
