"""What of an agent's state can be read from outside, and what is answered: committed values of one key.

A store is closed unless its source declares a ``Query``. What is read is what the last unit of work of the
key's partition committed, on the worker that owns it; any other one says where that is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from connectors.kafka.chunk import SourcePartition
from schemas.envelope import LONG_MAX
from schemas.topics import partition_of
from state.store import StagedView
from state.watermark import BEGINNING_US

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.kafka.restore import Progress
    from pipelines.partitions import Source
    from state.keyvalue import KeyValues
    from state.store import Backend, StateView
    from state.windows import TimeWindows

REDIRECTED: Final = "redirected"
"""Query parameter of an address that a worker sent the reader to: it is not sent on once more."""
WINDOWS_MAX: Final = 1_000
_HOUR_US: Final = 3_600_000_000
_DIGITS_MAX: Final = 19  # of a number of 63 bits
_RETRY_S_MAX: Final = 60


class Span(NamedTuple):
    """From when to when, microseconds, the end not included."""

    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class Query:
    """How a store answers; give it to ``app.source(…, query=…)``."""

    answer: Callable[[StateView, bytes, Span], Any]
    """Given the partition's committed state, a key and a span: what JSON can hold, None = there is none.

    A ValueError says that the key or the span cannot be.
    """
    key: Callable[[str], bytes] = str.encode
    """Makes the input's record key, which decides about the partition, of the text in the address."""


def value_query(read: Callable[[bytes], Any], stored: Callable[[bytes], bytes] = lambda key: key) -> Query:
    """Return a query of plain values; ``stored`` makes the state key of the record key."""

    def answer(view: StateView, key: bytes, _span: Span) -> Any:
        value = view.get(stored(key))
        return None if value is None else read(value)

    return Query(answer)


def key_value_query(
    values: KeyValues,
    read: Callable[[bytes], Any],
    stored: Callable[[bytes], bytes] = lambda key: key,
    *,
    now_us: Callable[[StateView], int] = lambda _view: BEGINNING_US,
) -> Query:
    """Return a query of values that expire.

    ``now_us`` reads the watermark that the agent saved, microseconds: what has expired by it is not answered.
    Without one, a value is answered until ``expire`` deletes it.
    """

    def answer(view: StateView, key: bytes, _span: Span) -> Any:
        value = values.get(view, stored(key), now_us(view))
        return None if value is None else read(value)

    return Query(answer)


def window_query(
    windows: TimeWindows, read: Callable[[bytes], Any], stored: Callable[[bytes], bytes] = lambda key: key
) -> Query:
    """Return a query of a key's windows that begin within the span, earliest first; None = there is none."""

    def answer(view: StateView, key: bytes, span: Span) -> Any:
        starts = starts_in(windows, span)
        values = windows.get_many(view, starts, stored(key))
        found = [
            {"start_us": start, "end_us": start + windows.size_us, "value": read(value)}
            for start, value in zip(starts, values, strict=True)
            if value is not None
        ]
        return found or None

    return Query(answer)


def starts_in(windows: TimeWindows, span: Span) -> range:
    """Return the starts of the windows that begin within a span; ValueError if there are over 1,000."""
    first = -(-max(span.from_us, 0) // windows.step_us) * windows.step_us
    count = -(-(span.to_us - first) // windows.step_us)
    if count > WINDOWS_MAX:
        raise ValueError(f"from {span.from_us} to {span.to_us} are {count} windows, at most {WINDOWS_MAX}")
    return range(first, span.to_us, windows.step_us)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: a status, a body for JSON, and headers."""

    status: HTTPStatus
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class Held(NamedTuple):
    """What this worker has of a partition: its data once that is ready, else how far its restore is."""

    backend: Backend | None
    restore: Progress | None


class StateReader:
    """Answers queries of one role.

    ``held`` gives what this worker has of a partition, None = it is not its own; ``owner`` where another one
    answers for it (see ``connectors.kafka.owners.Owners.of``).
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        held: Callable[[SourcePartition], Held | None],
        owner: Callable[[SourcePartition], str | None],
    ) -> None:
        self._sources = sources
        self._held = held
        self._owner = owner

    def here(self, store: str, text: str, span: Span) -> Answer | SourcePartition:
        """Answer from this worker's own state; a partition that is another's is returned, to be asked for.

        Called on the loop: a read takes some microseconds, and there are at most ``WINDOWS_MAX``.
        """
        open_stores = {source.agent: topic for topic, source in self._sources.items() if source.query}
        if store not in open_stores:
            problem = f"no store {store!r} can be read here"
            return _error(HTTPStatus.NOT_FOUND, problem, stores=sorted(open_stores))
        topic = open_stores[store]
        try:
            return self._read(topic, self._sources[topic], text, span)
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))

    def _read(self, topic: str, source: Source, text: str, span: Span) -> Answer | SourcePartition:
        query = source.query
        assert query is not None
        key = query.key(text)
        where = SourcePartition(topic, partition_of(key, source.spec.partitions))
        held = self._held(where)
        if held is None:
            return where
        if held.backend is None:
            return _restoring(where, held.restore)
        value = query.answer(StagedView(held.backend), key, span)
        said = {"store": source.agent, "key": text, "partition": where.partition}
        if value is None:
            # A producer with another partitioner than Kafka's own (librdkafka's default) put it elsewhere.
            return _error(HTTPStatus.NOT_FOUND, "nothing is stored under that key", by="murmur2", **said)
        return Answer(HTTPStatus.OK, {**said, "value": value})

    def elsewhere(self, where: SourcePartition, store: str, text: str, query: Mapping[str, str]) -> Answer:
        """Say where the owner answers; blocks for some seconds at most, so call it off the loop.

        Raises what ``owner`` raises.
        """
        if REDIRECTED in query:
            return _away(where, "this worker has it no more, or not yet: the group is being rebalanced")
        owner = self._owner(where)
        if owner is None:
            return _away(where, "no worker has that partition")
        if not owner:
            return _away(where, "the worker that has it has no web (SLUICEGATE_WORKER__WEB_PORT)")
        asked = urlencode({**query, REDIRECTED: "1"})
        location = f"http://{owner}/state/{quote(store, safe='')}/{quote(text, safe='')}?{asked}"
        body = {"owner": owner, "partition": where.partition}
        return Answer(HTTPStatus.TEMPORARY_REDIRECT, body, {"Location": location})


def span_of(query: Mapping[str, str], now_us: int) -> Span:
    """Return what ``from`` and ``to`` say, µs since 1970; without them the last hour. Raises ValueError."""
    to_us = _time_us(query, "to", now_us)
    from_us = _time_us(query, "from", to_us - _HOUR_US)
    if not 0 <= from_us <= to_us <= LONG_MAX:
        raise ValueError(f"from {from_us} must be at least 0 and not after to {to_us}, of 63 bits at most")
    return Span(from_us, to_us)


def _time_us(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise ValueError(f"{name} must be microseconds since 1970, a whole number of 63 bits at most")
    return int(text)


def _error(status: HTTPStatus, problem: str, **more: Any) -> Answer:
    return Answer(status, {"error": problem, **more})


def _away(where: SourcePartition, problem: str) -> Answer:
    body = {"error": problem, "partition": where.partition}
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, body, {"Retry-After": "1"})


def _restoring(where: SourcePartition, restore: Progress | None) -> Answer:
    """Say when to come again: by the pace of the restore so far."""
    remaining = 0 if restore is None else restore.remaining
    wait_s = 1
    if restore is not None and restore.records and restore.seconds:
        wait_s = min(max(round(remaining * restore.seconds / restore.records), 1), _RETRY_S_MAX)
    body = {"error": "the partition is being restored", "partition": where.partition, "remaining": remaining}
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, body, {"Retry-After": str(wait_s)})
