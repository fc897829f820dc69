"""What an attempt's content becomes: counted for the ledger, kept as the policy says, and sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import orjson

from connectors.llm.attempt import Outcome
from connectors.llm.deltas import Media, Piece

if TYPE_CHECKING:
    from connectors.llm.deltas import Named
    from connectors.llm.emitter import Emitter
    from connectors.llm.ledger import Attempt
    from connectors.llm.plan import Plan
    from connectors.llm.raw import RawKeeper

KEPT_MAX = 200_000
"""Characters of an answer that are kept on the ledger; what is longer is cut there, never in the stream."""


class Shown:
    """One attempt's; satisfies ``attempt.Sink``."""

    def __init__(self, emitter: Emitter, row: Attempt, plan: Plan, raw: RawKeeper | None) -> None:
        self._emitter = emitter
        self._row = row
        self._raw = raw
        self._texts: list[str] = []
        self._kept = 0
        self._keeps = plan.keep_output != "off" or plan.after_content == "continue"
        self.anything = False
        """Whether clients were given content of it."""
        self.size_bytes = 0
        """UTF-8 of all text, reasoning, refusal and arguments that came."""
        self.media = False
        """Whether sound or pictures came."""
        self.outcome = Outcome()

    @property
    def text(self) -> str:
        """The answer's text so far, as far as it is kept."""
        return "".join(self._texts)

    def connected(self, status: int) -> None:
        """See Sink."""
        self._row.connected_us = _now_us()
        self._row.http_status = status

    def named(self, named: Named) -> None:
        """See Sink."""
        if named.request_id and not self._row.provider_request_id:
            self._row.provider_request_id = named.request_id
            self._emitter.named(named.request_id)
        if named.model:
            self._row.model_answered = named.model

    def content(self, delta: Piece | Media) -> None:
        """See Sink."""
        row = self._row
        row.last_content_us = _now_us()
        row.first_content_us = row.first_content_us or row.last_content_us
        row.contents += 1
        self.anything = True
        if isinstance(delta, Media):
            self.media = True
            self._emitter.media(delta)
            return
        row.characters += len(delta.text)
        self.size_bytes += len(delta.text) if delta.text.isascii() else len(delta.text.encode())
        if self._keeps and self._kept < KEPT_MAX and delta.channel == "text":
            self._texts.append(delta.text)
            self._kept += len(delta.text)
        self._emitter.piece(delta)

    def raw(self, event: str, data: str) -> None:
        """See Sink."""
        if self._raw is not None:
            self._raw.take(event, data)

    def finish(self, outcome: Outcome) -> None:
        """Take how it went: send what has gathered, and what the stream's readers should know of it."""
        self.outcome = outcome
        self._emitter.flush()
        if self._raw is not None:
            self._raw.flush()
        if outcome.finish:
            told = {"finish": outcome.finish, "raw": outcome.finish_raw, "attempt": self._row.attempt}
            self._emitter.data("state", {"name": "finish", "value_json": orjson.dumps(told).decode()})


def _now_us() -> int:
    return time.time_ns() // 1_000
