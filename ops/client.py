"""A client of an edge: publish that may be repeated safely, and streams that resume by themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import httpx2 as httpx
import orjson

from ops.answers import (
    AGAIN,
    check_media,
    object_of,
    refusal,
    retry_after_s,
    trouble_in,
    trouble_of,
    unreachable,
)
from ops.errors import Refused
from ops.patience import Patience
from ops.subscription import StreamEvent, Subscription, stream_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

# What an edge takes in one request; it appends each as one Kafka transaction.
REQUEST_EVENTS_MAX: Final = 1_000
REQUEST_BYTES_MAX: Final = 1024 * 1024


class EdgeClient:
    """Talks to one edge for one tenant; ``patience_s`` is how long it goes on without an answer."""

    def __init__(
        self,
        url: str,
        *,
        tenant: str = "default",
        token: str | None = None,
        patience_s: float = 60.0,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.tenant = tenant
        self.patience_s = patience_s
        self._on_trouble = on_trouble or (lambda _: None)
        # A proxy of the environment is for the world outside; an edge is found by its own address.
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(10.0, read=40.0),
            trust_env=False,
            verify=urlsplit(url).scheme != "http",  # the machine's authorities take a command 30 ms to read
            headers={} if token is None else {"authorization": f"Bearer {token}"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections; to be called in the loop that it was used in."""
        await self._http.aclose()

    async def publish(
        self,
        stream_id: str,
        events: Sequence[bytes],
        *,
        kind: str | None = None,
        wait: bool = False,
        patience_s: float | None = None,
    ) -> dict[str, object]:
        """Publish events (JSON texts, each with its own ``event_id``) as one request; give the answer.

        Repeats while the edge is away or cannot append, up to the patience; each repeat is the same
        events under the same ids, so none is doubled. ``wait`` asks for the verdict on each event.
        Raises Refused (the events are wrong; nothing of the request was appended) or EdgeUnreachable
        (unknown whether it was: repeat it).
        """
        query = {"tenant": self.tenant}
        if kind is not None:
            query["kind"] = kind
        if wait:
            query["wait"] = "committed"
        response = await self._until_answered(
            self._http.build_request(
                "POST",
                f"{stream_path(self.tenant, stream_id)}/events",
                params=query,
                content=b"\n".join(events) + b"\n",
                headers={"content-type": "application/x-ndjson"},
            ),
            self.patience_s if patience_s is None else patience_s,
        )
        return object_of(response.content) if response.content else {}

    async def ask(self, stream_id: str, question: Mapping[str, object]) -> None:
        """Ask a language model; the answer is the stream. Repeats as publish does: it is asked once.

        ``question`` has the members of `POST /v1/llm/streams`. Raises Refused or EdgeUnreachable.
        """
        request = self._http.build_request(
            "POST",
            "/v1/llm/streams",
            params={"tenant": self.tenant},
            content=orjson.dumps({**question, "stream_id": stream_id}),
            headers={"content-type": "application/json"},
        )
        await self._until_answered(request, self.patience_s, there=("stream_exists",))

    async def cancel(self, stream_id: str, reason: str = "") -> None:
        """Ask that a stream be stopped; whether its producer obeys is seen in the stream itself."""
        await self._until_answered(
            self._http.build_request(
                "POST",
                f"{stream_path(self.tenant, stream_id)}/cancel",
                params={"tenant": self.tenant},
                content=orjson.dumps({"reason": reason}),
                headers={"content-type": "application/json"},
            ),
            self.patience_s,
        )

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask the edge something; repeats as publish does."""
        request = self._http.build_request("GET", path, params=dict(query or {}))
        return await self._until_answered(request, self.patience_s)

    async def knows(self, stream_id: str) -> bool:
        """Whether the stream was ever opened, and its history is not over yet."""
        try:
            await self.get(stream_path(self.tenant, stream_id), {"tenant": self.tenant})
        except Refused as refused:
            if refused.status == 404 and refused.answer:  # of whoever is no edge it says nothing
                return False
            raise
        return True

    def events(self, stream_id: str, *, cursor: str | None = None) -> AsyncIterator[StreamEvent]:
        """Each event of a stream once, from its first on, or after a cursor, through to its end."""
        subscription = Subscription(self._http, self.tenant, stream_id, cursor)
        return subscription.events(Patience(self.patience_s), self._on_trouble)

    async def _until_answered(
        self, request: httpx.Request, patience_s: float, *, there: Sequence[str] = ()
    ) -> httpx.Response:
        """Give the answer; after a try that nobody knows of, a refusal by a code of ``there`` is one."""
        patience = Patience(patience_s)
        tried = False
        while True:
            try:
                response = await self._http.send(request)
            except httpx.TransportError as error:
                trouble, pause_s = trouble_of(error), 0.0
            else:
                if response.is_success:
                    if response.content:
                        check_media(response, "application/json")
                    return response
                if response.status_code not in AGAIN:
                    refused = refusal(response)
                    if tried and refused.answer.get("code") in there:
                        return response
                    raise refused
                trouble = trouble_in(response)
                pause_s = retry_after_s(response)
            tried = True
            again_s = patience.pause_s(at_least_s=pause_s)
            if again_s is None:
                raise unreachable(self.url, patience_s, trouble)
            self._on_trouble(trouble.said)
            await asyncio.sleep(again_s)
