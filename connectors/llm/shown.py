"""What an attempt's content becomes: counted for the ledger, judged by the gate, kept, and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from connectors.llm.attempt import Ended, Outcome
from connectors.llm.clock import now_us
from connectors.llm.contents import Contents
from connectors.llm.deltas import Failed, Media
from connectors.llm.route import is_model_name
from connectors.llm.structured import StructuredAnswer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from connectors.llm.answer_schemas import AnswerSchema
    from connectors.llm.deltas import Named, Piece
    from connectors.llm.emitter import Emitter
    from connectors.llm.gates import Gate, Shows
    from connectors.llm.ledger import Attempt
    from connectors.llm.plan import Plan
    from connectors.llm.raw import RawKeeper
    from connectors.llm.structured import Structured


class Shown:
    """One attempt's; satisfies ``attempt.Sink``.

    ``known`` is called once the provider's name of it is known, ``first`` before anything is shown, and
    ``stop`` ends the attempt from a timer of the gate's.
    """

    def __init__(
        self,
        emitter: Emitter,
        row: Attempt,
        plan: Plan,
        loop: asyncio.AbstractEventLoop,
        *,
        raw: RawKeeper | None,
        gate: Gate | None,
        schema: AnswerSchema | None,
        known: Callable[[], None],
        first: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._emitter = emitter
        self._row = row
        self._loop = loop
        self._raw = raw
        self._gate = gate
        self._structured = None if schema is None else StructuredAnswer(schema)
        self._known = known
        self._first = first
        self._stop = stop
        self._due: asyncio.TimerHandle | None = None
        self._must_follow = schema is not None and plan.on_invalid == "fail"
        self._keeps = plan.keep_output != "off" or plan.after_content == "continue"
        self.contents = Contents(text_alone=plan.keep_output == "off")
        """What clients were given, as far as it is kept."""
        self.anything = False
        """Whether clients were given content of it."""
        self.size_bytes = 0
        """UTF-8 of all text, reasoning, refusal and arguments that came."""
        self.media = False
        """Whether sound or pictures came."""
        self.sent = True
        """Whether the provider may have been given anything."""
        self.refused = ""
        """Why the gate ended it; empty = it did not."""
        self.invalid = ""
        """Where the answer breaks a schema that it must follow, and by what; empty = it does not."""
        self.outcome = Outcome()

    @property
    def text(self) -> str:
        """The answer's text as clients were given it, as far as it is kept."""
        return self.contents.text

    def connected(self, status: int) -> None:
        """See Sink."""
        self._row.connected_us = self._row.connected_us or now_us()
        self._row.http_status = status

    def named(self, named: Named) -> None:
        """See Sink."""
        if named.request_id and not self._row.provider_request_id:
            self._row.provider_request_id = named.request_id
            self._emitter.named(named.request_id)
            self._known()
        if named.model and is_model_name(
            named.model
        ):  # another is the provider's slip: what was asked stands
            self._row.model_answered = named.model

    def failed(self) -> None:
        """See Sink. What is held back of a broken answer must not go out because its time has come."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def content(self, delta: Piece | Media) -> None:
        """See Sink."""
        row = self._row
        row.last_content_us = now_us()
        row.first_content_us = row.first_content_us or row.last_content_us
        row.contents += 1
        if isinstance(delta, Media):
            self.media = True
        else:
            row.characters += len(delta.text)
            self.size_bytes += len(delta.text) if delta.text.isascii() else len(delta.text.encode())
        if self._gate is None:
            self._show(delta)
        else:
            self._pass(self._gate.take(delta, self._loop.time()))
            self._watch_gate()
        if self.refused:
            raise Ended("gate", self.refused)
        if self.invalid:
            raise Ended("invalid_answer", self.invalid)

    def raw(self, event: str, data: str) -> None:
        """See Sink."""
        if self._raw is not None:
            self._raw.take(event, data)

    def comment(self, text: str) -> None:
        """See Sink."""
        if self._raw is not None:
            self._raw.take("", text, comment=True)

    def body(self, status: int, headers: Mapping[str, str], text: str) -> None:
        """See Sink."""
        if self._raw is not None:
            self._raw.body(status, headers, text)

    def finish(self, outcome: Outcome) -> None:
        """Take how it went: send what waits, and what the stream's readers should know of it."""
        self.outcome, self.sent = outcome, outcome.sent
        self.failed()  # no timer asks the gate any more
        if self._gate is not None:
            whole = outcome.error_class is None
            self._pass(self._gate.finish(whole=whole, refusal=outcome.declined))
            self._row.gate = self._gate.summary()
            if self.refused:
                outcome.error_class, outcome.error_raw = "gate", self.refused
        self._emitter.flush()
        if outcome.error_class is None:  # whole, be it empty: nothing of another attempt stays beside it
            self._emitter.supersede_now()
        if self._structured is not None and outcome.error_class is None:
            self._send(self._structured.finish())
            # An answer that is a call of a tool alone has nothing that could follow the schema yet.
            if self._must_follow and not (outcome.had_tool_call and self._structured.is_empty):
                self._judge(self._structured)
        if self.invalid and not self.refused and outcome.error_class != "cancelled":
            outcome.error_class, outcome.error_raw = "invalid_answer", self.invalid
        if self._raw is not None:
            self._raw.flush()
        if outcome.finish:
            told = {"finish": outcome.finish, "raw": outcome.finish_raw, "attempt": self._row.attempt}
            told |= {"stop_sequence": outcome.stop_sequence} if outcome.stop_sequence else {}
            self._emitter.data("state", {"name": "finish", "value_json": orjson.dumps(told).decode()})

    def _pass(self, deltas: Sequence[Shows]) -> None:
        for delta in deltas:
            if isinstance(delta, Failed):
                self.refused = delta.raw or "the gate ended it"
            else:
                self._show(delta)

    def _watch_gate(self) -> None:
        """Have the gate asked again when what it holds back has waited for long enough."""
        assert self._gate is not None
        due_s = self._gate.due_s
        if self._due is None and due_s is not None:
            self._due = self._loop.call_at(due_s, self._tick)

    def _tick(self) -> None:
        assert self._gate is not None
        self._due = None
        self._pass(self._gate.tick(self._loop.time()))
        self._watch_gate()
        if self.refused or self.invalid:
            self._stop()

    def _show(self, delta: Piece | Media) -> None:
        if not self.anything:
            self.anything = self._row.shown = True
            self._first()
        if self._keeps:
            self.contents.take(delta)
        if isinstance(delta, Media):
            self._emitter.media(delta)
            return
        if delta.channel == "text" and self._structured is not None:
            for shown in self._structured.take(delta.text, self._loop.time()):
                self._send(shown)
            if self._must_follow:
                self._judge(self._structured)
        self._emitter.piece(delta)

    def _judge(self, answer: StructuredAnswer) -> None:
        """Note how the answer breaks its schema; what it says there is kept as the answer is."""
        self.invalid = answer.breach
        if answer.problem and self._keeps:
            self.contents.problem = answer.problem

    def _send(self, shown: Structured) -> None:
        self._emitter.data(
            "structured",
            {
                "schema_name": shown.schema_name,
                "json": shown.json,
                "complete": shown.complete,
                "problem": shown.problem,
            },
        )
