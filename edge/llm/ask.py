"""Asks: the stream's ``open`` and the worker's request stand in Kafka by one transaction, or neither does."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from edge.errors import HistoryUnavailable, RequestError
from edge.publish import PublishRequest
from schemas.envelope import check_stream_name, new_event_id, stream_key
from schemas.errors import RegistryUnavailable, WireError
from schemas.topics import LLM_REQUESTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Mapping

    from edge.access.identity import Identity
    from edge.core import EdgeCore
    from edge.index import IndexEntry
    from edge.llm.asked import Asked
    from edge.publish import Beside, Publisher
    from schemas.wire import WireCodec

_LOOK_S: Final = 0.01
_INDEX_S_MAX: Final = 2.0
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[0-9a-z-]{0,73})?")


@dataclass(frozen=True, slots=True)
class From:
    """Who asks, for whom."""

    tenant: str
    identity: Identity
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream that an answer becomes."""

    tenant: str
    stream_id: str
    kind: str
    verdict: str
    """Ingest's, of its ``open``; ``pending`` if none came in time, empty if none was waited for."""

    def shown(self) -> dict[str, object]:
        """As whoever asked is told of it."""
        return {
            "tenant": self.tenant,
            "stream_id": self.stream_id,
            "kind": self.kind,
            "verdict": self.verdict,
            **addresses(self.tenant, self.stream_id),
        }


class Asker:
    """Writes questions down."""

    def __init__(self, core: EdgeCore, publisher: Publisher, wire: WireCodec, *, topic_prefix: str) -> None:
        self._core = core
        self._publisher = publisher
        self._wire = wire
        self._topic = LLM_REQUESTS.named(topic_prefix)

    def check_may(self, by: From) -> None:
        """Check who asks, before what they ask is read. Raises Forbidden, counted."""
        if (denied := by.identity.may_ask(by.tenant)) is not None:
            self._core.gate.denied(denied)
            raise denied

    async def body(self, chunks: AsyncIterable[bytes], headers: Mapping[str, str], tenant: str) -> bytes:
        """Read a question's body within its bounds. Raises RequestError."""
        return await self._publisher.read(chunks, headers, tenant)

    async def ask(self, asked: Asked, by: From, *, wait: bool, made: str = "") -> Opened:
        """Write a question down. ``wait``: until ingest has opened its stream, so that it can be looked up.

        ``made`` is the name of its stream where the question brings none.

        The same stream is never asked for twice: here it is refused if it is known; where two come at one
        moment, ingest opens it for one alone, and the worker answers that one: each is bound to its ``open``.

        Raises:
            InvalidEvent: a name breaks the contract.
            RequestError: nothing was written (4xx; 404: no such route or model; 409: the stream is there
                already), or it is not known.
        """
        stream_id = asked.stream_id or made or made_name()
        check_stream_name(by.tenant, stream_id)
        publishing = PublishRequest(by.tenant, stream_id, asked.kind, wait, by.identity)
        self._publisher.check_address(publishing)  # before it is told what there is
        self._core.models.check(asked.route, asked.model, by.tenant)
        if asked.stream_id and (entry := await self._known(by.tenant, stream_id)) is not None:
            raise exists(by.tenant, stream_id, entry)
        open_id = new_event_id()
        answer = await self._publisher.publish_beside(
            publishing, _opening(asked, by, open_id), lambda: [self._request(asked, by, stream_id, open_id)]
        )
        verdict = _verdict(answer)
        if verdict in ("second_open", "late", "wrong_kind"):
            raise exists(by.tenant, stream_id, None)
        if verdict == "accepted":
            await self._indexed(stream_key(by.tenant, stream_id))
        return Opened(by.tenant, stream_id, asked.kind, verdict)

    async def _indexed(self, key: bytes) -> None:
        """Wait until the stream can be looked up: its entry comes by another topic than its ``open``."""
        deadline = time.monotonic() + _INDEX_S_MAX
        while time.monotonic() < deadline and self._core.index.get(key) is None:  # noqa: ASYNC110  # one look
            await asyncio.sleep(_LOOK_S)

    async def _known(self, tenant: str, stream_id: str) -> IndexEntry | None:
        try:
            return await self._core.find(stream_key(tenant, stream_id))
        except HistoryUnavailable as error:
            raise RequestError(
                503, "Index unavailable", str(error), remedy=error.remedy, headers={"retry-after": "2"}
            ) from None

    def _request(self, asked: Asked, by: From, stream_id: str, open_id: str) -> Beside:
        record = record_of(asked, by, stream_id, open_id, time.time_ns() // 1_000)
        try:
            value = self._wire.encode(LLM_REQUESTS.subject, record)
        except RegistryUnavailable as error:
            raise RequestError(
                503,
                "Registry unavailable",
                f"{error}; nothing was written",
                remedy="Send the same request again.",
                headers={"retry-after": "1"},
            ) from None
        except WireError as error:
            raise RequestError(413, "Request too large", f"{error}", remedy=error.remedy) from None
        return self._topic, stream_key(by.tenant, stream_id), value


def record_of(asked: Asked, by: From, stream_id: str, open_id: str, time_us: int) -> dict[str, Any]:
    """Give the record of ``sluicegate.LlmRequest``."""
    return {
        "tenant": by.tenant,
        "stream_id": stream_id,
        "kind": asked.kind,
        "request_id": asked.request_id,
        "task_id": asked.task_id,
        "traceparent": by.traceparent,
        "source": _source(by),
        "time_us": time_us,
        "opened": True,
        "open_id": open_id,
        "route": asked.route,
        "model": asked.model,
        "prompt": asked.prompt,
        "prompt_label": asked.prompt_label,
        "variables_json": _json(asked.variables),
        "messages_json": _json([message.shown() for message in asked.messages]),
        "tools_json": _json([tool.model_dump(exclude_defaults=True) for tool in asked.tools]),
        "schema_json": _json(asked.schema_) if asked.schema_ is not None else "",
        "schema_name": asked.schema_name,
        "params_json": _json(asked.params.model_dump(exclude_defaults=True)),
        "deadline_ms": asked.deadline_ms,
        "after_content": asked.after_content or "",
        "side_effects": asked.side_effects,
        "on_invalid": asked.on_invalid or "",
        "no_reset": asked.no_reset,
    }


def made_name() -> str:
    """Make a name for a stream: nobody has it, so nobody is asked whether it is there."""
    return f"llm-{new_event_id()}"


def traceparent_of(header: str) -> str:
    """Give a request's W3C trace context; one that is malformed is none, as its rules say."""
    return header if _TRACEPARENT.fullmatch(header) else ""


def addresses(tenant: str, stream_id: str) -> dict[str, object]:
    """Where a stream is read, looked at and cancelled."""
    path, query = f"/v1/streams/{quote(stream_id, safe=':')}", f"?tenant={quote(tenant)}"
    return {"events": f"{path}/events{query}", "state": f"{path}{query}", "cancel": f"{path}/cancel{query}"}


def exists(tenant: str, stream_id: str, entry: IndexEntry | None) -> RequestError:
    """Refuse to ask again for a stream that is there: its answer can be read instead."""
    how = f"ended as {entry.end_reason}" if entry is not None and entry.ended else "was asked for before"
    return RequestError(
        409,
        "Stream exists",
        f"stream {tenant}/{stream_id} {how}; nobody was asked again",
        remedy="Read its events; or ask under another stream_id, or without one.",
        extra={"code": "stream_exists", "stream_id": stream_id, **addresses(tenant, stream_id)},
    )


def _opening(asked: Asked, by: From, open_id: str) -> dict[str, object]:
    labels = {"route": asked.route, "model": asked.model, "prompt": asked.prompt}
    return {
        "type": "open",
        "event_id": open_id,
        "source": _source(by),
        "request_id": asked.request_id,
        "task_id": asked.task_id,
        "traceparent": by.traceparent,
        "payload": {
            "title": asked.title,
            "labels": {name: value for name, value in labels.items() if value},
        },
    }


def _source(by: From) -> str:
    return by.identity.subject or "edge"


def _verdict(answer: Mapping[str, object]) -> str:
    verdicts = answer.get("verdicts")
    return str(verdicts[0]["verdict"]) if isinstance(verdicts, list) else ""


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
