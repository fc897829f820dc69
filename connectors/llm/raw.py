"""What a provider sent, as it came and when, on its way to a topic of its own: where the policy says so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from connectors.llm.kept import kept_raw
from connectors.llm.masking import Mask
from connectors.llm.recorder import kept_headers
from schemas.topics import LLM_RAW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.calls import Target
    from connectors.llm.ledger import Attempt
    from connectors.llm.outlet import KafkaOutlet
    from connectors.llm.plan import Keep
    from schemas.wire import WireCodec

_CHUNKS: Final = 64
_BYTES: Final = 128 * 1_024
_CHUNK_BYTES_MAX: Final = 700 * 1_024
"""So that one of them fits a record; what is larger (a picture) is kept as a note of its size."""
_RECORD_BYTES_MAX: Final = 720 * 1_024
"""Of UTF-8, names of events included."""
_NAME_CHARACTERS_MAX: Final = 256
"""Of an event's name; the longest that a shape has is of 45."""


class RawKeeper:
    """Keeps one attempt's, many chunks a record: a stream of tokens must not become two of records."""

    def __init__(
        self, row: Attempt, target: Target, keep: Keep, wire: WireCodec, outlet: KafkaOutlet, partition: int
    ) -> None:
        self._row = row
        self._epoch = row.epoch
        self._shape = target.shape
        self._masked = Mask.of(target)
        self._keep = keep
        self._wire = wire
        self._outlet = outlet
        self._partition = partition
        self._began_ns = time.monotonic_ns()
        self._at_us: list[int] = []
        self._events: list[str] = []
        self._chunks: list[str] = []
        self._comments: list[int] = []
        """Which of the chunks are comments."""
        self._size = 0
        self._index = 0
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._body: tuple[int, int, Mapping[str, str], str] | None = None
        """Of an answer that is no events, as long as no other connection gave any."""

    def take(self, event: str, data: str, *, comment: bool = False) -> None:
        """Take one event, with its name where its framing has one; or a comment."""
        if not comment:
            self._body = None
        self._add(event, data, self._now_us(), comment=comment)

    def _now_us(self) -> int:
        return (time.monotonic_ns() - self._began_ns) // 1_000

    def _add(self, event: str, data: str, at_us: int, *, comment: bool = False) -> None:
        kept = self._masked(kept_raw(data, self._keep))
        event = self._masked(event[:_NAME_CHARACTERS_MAX])
        size = len(kept) if kept.isascii() else len(kept.encode())
        if size > _CHUNK_BYTES_MAX:
            kept = f'{{"cut": true, "characters": {len(kept)}}}'
            size = len(kept)
        size += len(event.encode())
        if self._size + size > _RECORD_BYTES_MAX:
            self._send()
        if comment:
            self._comments.append(len(self._chunks))
        self._at_us.append(at_us)
        self._events.append(event)
        self._chunks.append(kept)
        self._size += size
        if len(self._chunks) >= _CHUNKS or self._size >= _BYTES:
            self._send()

    def body(self, status: int, headers: Mapping[str, str], text: str) -> None:
        """Take an answer that is no events; one beside events (it cannot be gone on with) is not kept."""
        if self._body is None and not self._index and len(self._chunks) == len(self._comments):
            self._body = self._now_us(), status, kept_headers(headers, self._masked), text

    def flush(self) -> None:
        """Send what has gathered: the answer is over."""
        if self._body is not None:
            self._forget()  # comments stand in the body, too
            at_us, self._status, self._headers, text = self._body
            self._body = None
            self._add("", text, at_us)
        self._send()

    def _send(self) -> None:
        if not self._chunks:
            return
        row = self._row
        record = {
            "tenant": row.tenant,
            "stream_id": row.stream_id,
            "attempt": row.attempt,
            "shape": self._shape,
            "first_index": self._index,
            "at_us": self._at_us,
            "events": self._events,
            "chunks": self._chunks,
            "status": self._status,
            "headers": self._headers,
            "comments": self._comments,
            "epoch": self._epoch,
        }
        self._index += len(self._chunks)
        self._forget()
        self._outlet.send(row.operation, self._wire.encode(LLM_RAW.subject, record), self._partition, LLM_RAW)

    def _forget(self) -> None:
        self._at_us, self._events, self._chunks, self._comments, self._size = [], [], [], [], 0
