"""``POST /v1/streams/{id}/events``: shape is checked before anything is appended, then all is or nothing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from connectors.kafka.errors import AppendFailed, AppendRefused
from edge.bodies import check_count, read_body, split_body
from edge.errors import RequestError
from edge.shares import Shares
from schemas.envelope import check_stream_name
from schemas.errors import ContractError, InvalidEvent, RegistryUnavailable, SluicegateError, WireError
from schemas.published import event_from_json
from schemas.topics import INPUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from edge.access.identity import Identity
    from edge.access.quotas import Quotas
    from edge.bodies import Placed
    from edge.metrics import EdgeMetrics
    from edge.options import EdgeOptions
    from edge.slowing import Slowing
    from edge.waiters import Wait, Waiters
    from schemas.envelope import Event
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)
_KIND_REMEDY = (
    "A stream's first event says its kind, in itself or beside it (?kind= of the address; `sluicegate "
    "publish --kind`): one of {}. Once the stream is known, that is its own."
)
Answer = dict[str, object]
Beside = tuple[str, bytes, bytes]
"""A record of another topic: its full name, key, value."""


class AppendedAt(Protocol):
    """Where a record stands."""

    @property
    def partition(self) -> int:
        """Its partition."""
        ...

    @property
    def offset(self) -> int:
        """Its offset."""
        ...


class Append(Protocol):
    """What appends records as one transaction: Kafka, or a twin."""

    async def append_transaction(
        self, records: Sequence[tuple[str, bytes, bytes, int | None]]
    ) -> Sequence[AppendedAt]:
        """Append (topic, key, value, partition) all or nothing. Raises SluicegateError."""
        ...


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What a producer asks, as far as the address says it."""

    tenant: str
    stream_id: str
    kind: str | None
    wait: bool
    identity: Identity
    transport: Literal["http", "websocket", "grpc"] = "http"


class Publisher:
    """Checks, appends, and waits for verdicts if asked to."""

    def __init__(
        self,
        append: Append,
        wire: WireCodec,
        payloads: PayloadCodec,
        kinds: KindTable,
        waiters: Waiters,
        metrics: EdgeMetrics,
        options: EdgeOptions,
        quotas: Quotas,
        threads: Executor,
        *,
        topic_prefix: str,
        pressure: Slowing,
    ) -> None:
        self._append = append
        self._wire = wire
        self._payloads = payloads
        self._kinds = kinds
        self._waiters = waiters
        self._metrics = metrics
        self._options = options
        self._quotas = quotas
        self._threads = threads
        self._topic = INPUT.named(topic_prefix)
        self.pressure = pressure
        """Which streams' producers are held back."""
        most = options.publishing_max
        self._places = Shares(most, most - most // 4, _no_place)
        """For requests that are read and checked; a tenant has three quarters at most. Beyond them nothing is
        read: while the registry hangs, bodies would pile up without a bound."""

    async def publish(
        self, request: PublishRequest, chunks: AsyncIterable[bytes], headers: Mapping[str, str]
    ) -> Answer:
        """Publish a body's events; give the answer (status 202).

        Raises:
            InvalidEvent: a name in the address breaks the contract.
            RequestError: nothing was appended (4xx), or it is not known and may be repeated (503).
        """
        self.check_address(request)
        with self._places.one_of(request.tenant):
            body = await self._read(chunks, headers, self._options.request_bytes_max, "a request")
            placed = split_body(body, headers.get("content-type", ""), self._options.request_events_max)
            events, records = await self._checked(request, placed)
        return await self.append(request, events, records)

    async def publish_values(self, request: PublishRequest, values: Sequence[object]) -> Answer:
        """Publish events that are JSON values already; raises as ``publish``."""
        self.check_address(request)
        check_count(values, self._options.request_events_max)
        placed: Placed = [({"index": index}, value) for index, value in enumerate(values)]
        with self._places.one_of(request.tenant):
            events, records = await self._checked(request, placed)
        return await self.append(request, events, records)

    async def publish_one(
        self, request: PublishRequest, type_name: str, fields: Mapping[str, object]
    ) -> Answer:
        """Publish one event that the edge makes itself, for somebody who may; raises as ``publish``."""
        self._count(request.tenant, 1)
        placed: Placed = [({"index": 0}, {"type": type_name, "source": "edge", "payload": dict(fields)})]
        with self._places.one_of(request.tenant):
            events, records = await self._build_on_thread(request, placed)
        return await self.append(request, events, records)

    async def publish_beside(
        self, request: PublishRequest, value: object, make_beside: Callable[[], Sequence[Beside]]
    ) -> Answer:
        """Publish one event, and records of other topics in the same transaction; raises as ``publish``.

        ``make_beside`` is called on a thread, and may raise RequestError.
        """
        self.check_address(request)
        with self._places.one_of(request.tenant):
            events, records = await self._checked(request, [({"index": 0}, value)])
            beside = await asyncio.get_running_loop().run_in_executor(self._threads, make_beside)
        return await self.append(request, events, records, beside)

    async def read(
        self,
        chunks: AsyncIterable[bytes],
        headers: Mapping[str, str],
        tenant: str,
        *,
        bytes_max: int | None = None,
        what: str = "a request",
    ) -> bytes:
        """Read a body for a tenant, of ``bytes_max`` if not the options'. Raises RequestError."""
        with self._places.one_of(tenant):
            limit_bytes = self._options.request_bytes_max if bytes_max is None else bytes_max
            return await self._read(chunks, headers, limit_bytes, what)

    async def append(
        self,
        request: PublishRequest,
        events: Sequence[Event],
        records: Sequence[tuple[bytes, bytes]],
        beside: Sequence[Beside] = (),
    ) -> Answer:
        """Append events that were checked; raises as ``publish``."""
        key, ids = records[0][0], [event.event_id for event in events]
        self._refuse_if_slowed(key, events, request.transport)
        if request.wait and not self._waiters.room_for(len(events)):
            raise _overloaded("Too many wait", "too many events are waited for already")
        wait = self._waiters.add(key, ids) if request.wait else None
        try:
            started = time.perf_counter()
            offsets = await self._append_records(records, beside)
            self._metrics.append_seconds.observe(time.perf_counter() - started)
            self._metrics.published.inc(len(events))
            answer: Answer = {
                "tenant": request.tenant,
                "stream_id": request.stream_id,
                "appended": len(events),
                "offsets": [
                    {"event_id": event_id, "partition": at.partition, "offset": at.offset}
                    for event_id, at in zip(ids, offsets[: len(ids)], strict=True)
                ],
            }
            if wait is not None:
                answer["verdicts"] = await self._verdicts(wait, ids)
        finally:
            if wait is not None:
                self._waiters.remove(key, wait, ids)
        return answer

    async def _read(
        self, chunks: AsyncIterable[bytes], headers: Mapping[str, str], bytes_max: int, what: str
    ) -> bytes:
        try:
            async with asyncio.timeout(self._options.request_read_ms_max / 1_000):
                return await read_body(chunks, headers, bytes_max, what=what)
        except TimeoutError:
            raise RequestError(
                408,
                "Request too slow",
                f"the body did not come within {self._options.request_read_ms_max} ms; nothing was appended",
                remedy="Send the same request again, or split it over several.",
                headers={"connection": "close"},
            ) from None

    async def _checked(
        self, request: PublishRequest, placed: Placed
    ) -> tuple[list[Event], list[tuple[bytes, bytes]]]:
        self._count(request.tenant, len(placed))
        events, records = await self._build_on_thread(request, placed)
        for kind in {event.kind for event in events}:
            self._check_may(request, kind)
        return events, records

    async def _build_on_thread(
        self, request: PublishRequest, placed: Placed
    ) -> tuple[list[Event], list[tuple[bytes, bytes]]]:
        # A type that is met for the first time asks the registry, and the loop must not wait.
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._build, request, placed)

    def _build(
        self, request: PublishRequest, placed: Placed
    ) -> tuple[list[Event], list[tuple[bytes, bytes]]]:
        events: list[Event] = []
        records: list[tuple[bytes, bytes]] = []
        now_us = time.time_ns() // 1_000
        for place, value in placed:
            try:
                event = event_from_json(
                    _addressed(value, request),
                    tenant=request.tenant,
                    stream_id=request.stream_id,
                    kind=request.kind,
                    payloads=self._payloads,
                    now_us=now_us,
                )
                self._kinds.named(event.kind)
                records.append((event.key, self._wire.encode_event(event)))
            except (ContractError, WireError) as error:
                if request.kind is None and isinstance(error, InvalidEvent) and error.field == "kind":
                    error.remedy = _KIND_REMEDY.format(", ".join(sorted(self._kinds.mapping())))
                raise _refusal(error, place) from None
            except RegistryUnavailable as error:
                raise _later("Registry unavailable", f"{error}; nothing was appended") from None
            events.append(event)
        return events, records

    async def _append_records(
        self, records: Sequence[tuple[bytes, bytes]], beside: Sequence[Beside]
    ) -> Sequence[AppendedAt]:
        try:
            return await self._append.append_transaction(
                [(self._topic, key, value, None) for key, value in records]
                + [(topic, key, value, None) for topic, key, value in beside]
            )
        except AppendRefused as error:
            raise RequestError(
                413, "Event too large", f"{error}; nothing was appended", remedy=error.remedy
            ) from None
        except SluicegateError as error:
            log.warning("append_failed", cause=str(error))
            if isinstance(error, AppendFailed) and error.overloaded:
                raise _overloaded("Overloaded", str(error)) from None
            raise _later(
                "Append failed",
                f"{error}; whether the events were appended is not known",
                "Send the same request again once Kafka answers (`sluicegate status`): events are "
                "told apart by event_id, so none is doubled if each carries its own.",
            ) from None

    def _refuse_if_slowed(self, key: bytes, events: Sequence[Event], transport: str) -> None:
        slowed = self.pressure.of(key)
        # Who asks that a stream be stopped helps; all else would only be more to fall behind with.
        if slowed is None or all(event.type == "cancel" for event in events):
            return
        self._metrics.slowed_publishes.labels(slowed.kind, transport).inc(1)
        raise RequestError(
            429,
            "Stream is slowed",
            f"the clients of {key.decode()} cannot follow, and kind {slowed.kind} slows its producer then; "
            "nothing was appended",
            remedy=f"Send the same request again in {slowed.retry_after_s} s.",
            extra={"code": "slowed"},
            headers={"retry-after": str(slowed.retry_after_s)},
        )

    async def _verdicts(self, wait: Wait, ids: Sequence[str]) -> list[Answer]:
        """One verdict an event, in the order of the request; ``pending`` for what was not heard of."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._options.wait_timeout_ms / 1_000):
                await wait.done
            self._metrics.verdict_seconds.observe(time.perf_counter() - started)
        except TimeoutError:
            pass
        waited_ms = self._options.wait_timeout_ms
        pending: Answer = {"verdict": "pending", "detail": f"no verdict within {waited_ms} ms"}
        return [{"event_id": each, **wait.answers.get(each, pending)} for each in ids]

    def _check_may(self, request: PublishRequest, kind: str) -> None:
        denied = request.identity.may_publish(request.tenant, request.stream_id, kind)
        if denied is not None:
            self._metrics.denied.labels(denied.code).inc()
            raise denied

    def _count(self, tenant: str, events: int) -> None:
        wait_s = self._quotas.take(tenant, events, time.monotonic())
        if wait_s > 0:
            rate = self._options.tenant_events_per_s_max
            raise RequestError(
                429,
                "Too many events",
                f"tenant {tenant} may publish {rate} events a second through this process",
                remedy="Nothing was appended. Send the same request again after Retry-After.",
                headers={"retry-after": str(ceil(wait_s))},
            )

    def check_address(self, request: PublishRequest) -> None:
        """Check names and claims alone. Raises InvalidEvent, or RequestError: 403, 422."""
        check_stream_name(request.tenant, request.stream_id)
        self._check_may(request, request.kind or "")
        if request.kind is None:
            return
        try:
            self._kinds.named(request.kind)
        except ContractError as error:
            raise RequestError(422, "Kind unknown", str(error), remedy=error.remedy) from None


def _addressed(value: object, request: PublishRequest) -> object:
    """Check an event's own address, if it carries one, against the request's."""
    if not isinstance(value, dict) or "specversion" in value:
        return value
    for name, expected in (("stream_id", request.stream_id), ("tenant", request.tenant)):
        if name in value and value[name] != expected:
            shown = str(value[name])[:80]
            raise InvalidEvent(name, f"is {shown!r}, but the request is addressed to {expected!r}")
    return {name: part for name, part in value.items() if name not in ("stream_id", "tenant")}


def _refusal(error: SluicegateError, place: Mapping[str, int]) -> RequestError:
    where = " ".join(f"{name} {number}" for name, number in place.items())
    extra: dict[str, object] = dict(place)
    if isinstance(error, InvalidEvent):
        extra["field"] = error.field
    return RequestError(
        422,
        "Event refused",
        f"{where}: {error}",
        remedy=f"Nothing of this request was appended. {error.remedy}",
        extra=extra,
    )


def _later(title: str, detail: str, remedy: str = "Send the same request again.") -> RequestError:
    return RequestError(503, title, detail, remedy=remedy, headers={"retry-after": "1"})


def _no_place(held: int, own: int) -> RequestError:
    return _overloaded("Overloaded", f"{held} requests are under way already, {own} of them this tenant's")


def _overloaded(title: str, detail: str) -> RequestError:
    """As ``_later``, and nothing was appended: the edge has too much to do."""
    return RequestError(
        503,
        title,
        f"{detail}; nothing was appended",
        remedy="Send the same request again.",
        extra={"code": "overloaded"},
        headers={"retry-after": "1"},
    )
