"""Run a command as a stream: open it, send what it writes, and end it as the command ended.

1. Open the stream, and hear that it is ours. Nothing was started yet, so a refusal costs nothing.
2. Start the command in a process group of its own.
3. Read its outputs: each chunk goes to the terminal and, as lines, to the outbox; a full outbox
   slows the command down as a full pipe does.
4. Meanwhile hand on signals, obey a cancel that a client asked for, and say that we live.
5. When the command ended and its outputs are read, send the rest, then `end`, and hear its verdict.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ops.errors import OpsError, Refused, StreamNotOurs
from ops.execution.child import Child
from ops.execution.events import OutputEvents
from ops.execution.outbox import Outbox
from ops.signals import on_stop_signals
from ops.verdicts import verdicts_of
from schemas.envelope import new_event_id
from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from ops.client import EdgeClient
    from ops.execution.child import OutputName
    from ops.execution.terminal import Terminal
    from ops.subscription import StreamEvent

Reason = Literal["completed", "cancelled", "upstream_error"]

# An edge that does not answer before anything was started is not worth a long wait.
OPEN_PATIENCE_S: Final = 10.0
# Longer than Kafka and a worker take to confirm a stream where all is well.
CONFIRM_S: Final = 3.0
# A command that was asked to stop by a client gets this long before it is killed.
STOP_GRACE_S: Final = 10.0
# Between two tries to read our own stream, beside the patience that each has.
LISTEN_AGAIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """What to run, and as which stream."""

    argv: tuple[str, ...]
    stream_id: str
    kind: str
    source: str
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    idle_timeout_ms: int = 0  # 0: the kind's
    alive_every_s: float = 600.0
    pty: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: the command's exit code, and what the stream says of it."""

    exit_code: int
    reason: Reason
    lines_undelivered: int
    failure: SluicegateError | None


class Execution:
    """One run of one command."""

    def __init__(self, options: ExecutionOptions, client: EdgeClient, terminal: Terminal) -> None:
        self._options = options
        self._client = client
        self._terminal = terminal
        self._outbox = Outbox(
            self._send, source=options.source, run_id=new_event_id(), on_failure=self._on_failure
        )
        self._child: Child | None = None
        self._cancelled = ""
        self._early_signal: signal.Signals | None = None
        self._asked_early = asyncio.Event()
        self._ending = False
        self._quiet_since = time.monotonic()
        self._background: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()

    async def run(self) -> Outcome:
        """Run the command to its end; raises what step 1 raises, and OSError if it does not start."""
        with on_stop_signals(self._on_signal, self._on_signal_again):
            if not await self._opened():
                return Outcome(128 + (self._early_signal or signal.SIGINT), "cancelled", 0, None)
            sender = asyncio.create_task(self._outbox.run())
            self._in_background(self._obey_cancel())
            self._in_background(self._say_alive())
            try:
                code, reason, message = await self._run_child()
                await self._finish(sender, reason, message, code)
            finally:
                for task in (*self._background, sender):
                    task.cancel()
                await asyncio.gather(*self._background, sender, return_exceptions=True)
        return Outcome(code, reason, self._outbox.lines_undelivered, self._outbox.failure)

    # ------------------------------------------------------------------ the stream

    async def _opened(self) -> bool:
        """Open the stream, unless a signal comes first: then the answer is waited for a moment only."""
        opening = asyncio.create_task(self._open())
        asked = asyncio.create_task(self._asked_early.wait())
        telling = asyncio.get_running_loop().call_later(
            CONFIRM_S,
            self._terminal.warn,
            "the stream is not confirmed yet: its edge, Kafka, or a worker with ingest is waited for",
        )
        try:
            await asyncio.wait({opening, asked}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({opening}, timeout=1.0)
            if opening.done():
                opening.result()
            return opening.done()
        finally:
            asked.cancel()
            telling.cancel()
            opening.cancel()

    async def _open(self) -> None:
        options = self._options
        body = self._outbox.encode(
            "open",
            {
                "title": options.title,
                "labels": dict(options.labels),
                "idle_timeout_ms": options.idle_timeout_ms,
                "total_timeout_ms": 0,
            },
        )
        answer = await self._client.publish(
            options.stream_id, [body], kind=options.kind, wait=True, patience_s=OPEN_PATIENCE_S
        )
        for verdict in verdicts_of(answer):
            if verdict.pending:
                self._terminal.warn(
                    "no worker confirmed the stream yet; what is published waits in Kafka until one does"
                )
            elif not verdict.accepted:
                raise StreamNotOurs(options.stream_id, verdict.name, verdict.detail)

    async def _send(self, batch: list[bytes]) -> None:
        await self._client.publish(self._options.stream_id, batch, kind=self._options.kind)

    async def _finish(self, sender: asyncio.Task[None], reason: Reason, message: str, code: int) -> None:
        self._outbox.close()
        delivery = asyncio.create_task(self._deliver_rest(sender, reason, message, code))
        hurried = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({delivery, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not delivery.done():
            delivery.cancel()
            self._outbox.give_up(OpsError("stopped by a second signal before all was delivered"))
        await asyncio.gather(delivery, hurried, return_exceptions=True)

    async def _deliver_rest(
        self, sender: asyncio.Task[None], reason: Reason, message: str, code: int
    ) -> None:
        await sender
        if self._outbox.failure is not None:
            return
        self._ending = True
        body = self._outbox.encode("end", {"reason": reason, "message": message, "exit_code": code})
        try:
            answer = await self._client.publish(
                self._options.stream_id, [body], kind=self._options.kind, wait=True
            )
        except SluicegateError as error:
            self._outbox.give_up(error)
            return
        for verdict in verdicts_of(answer):
            if not verdict.accepted and not verdict.pending:
                self._outbox.give_up(StreamNotOurs(self._options.stream_id, verdict.name, verdict.detail))

    # ------------------------------------------------------------------ the command

    async def _run_child(self) -> tuple[int, Reason, str]:
        if self._early_signal is not None:
            return 128 + self._early_signal, "cancelled", self._cancelled
        try:
            child = self._child = await Child.start(self._options.argv, pty=self._options.pty)
            if self._early_signal is not None:  # it came while the command was being started
                child.signal(self._early_signal)
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            self._terminal.fail(f"{self._options.argv[0]}: {error.strerror}")
            return code, "upstream_error", f"the command did not start: {error.strerror}"
        await asyncio.gather(*(self._read(child, name) for name in child.outputs))
        code = await child.wait()
        if self._cancelled:
            return code, "cancelled", self._cancelled
        if code > 128 and code - 128 in set(signal.Signals):
            return code, "upstream_error", f"ended by {signal.Signals(code - 128).name}"
        return code, "completed" if code == 0 else "upstream_error", "" if code == 0 else f"exit code {code}"

    async def _read(self, child: Child, name: OutputName) -> None:
        events = OutputEvents(name)
        async for chunk in child.chunks(name):
            self._quiet_since = time.monotonic()
            await self._terminal.write(name, chunk)
            for happening in events.feed(chunk):
                await self._outbox.put(happening.type, happening.payload)
        for happening in events.finish():
            await self._outbox.put(happening.type, happening.payload)

    def _on_failure(self, error: SluicegateError) -> None:
        self._terminal.warn(f"the stream gets nothing more: {error}")
        if self._options.strict:
            self._in_background(self._stop_child())

    def _on_signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.ended:
            self._hurry.set()
            return
        self._cancelled = self._cancelled or f"{number.name} where the command ran"
        self._signal_child(number)

    def _signal_child(self, number: signal.Signals) -> None:
        if self._child is None:
            self._early_signal = number
            self._asked_early.set()
        else:
            self._child.signal(number)

    def _on_signal_again(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.ended:
            self._on_signal(number)
        else:
            self._signal_child(signal.SIGKILL)

    # ------------------------------------------------------------------ meanwhile

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        self._background.add(asyncio.create_task(work))

    async def _obey_cancel(self) -> None:
        """Read our own stream, for as long as the command runs, however long the edge is away."""
        cursor: str | None = None
        while True:
            try:
                async for event in self._client.events(self._options.stream_id, cursor=cursor):
                    cursor = event.cursor or cursor
                    self._obey(event)
            except Refused:
                cursor = None  # too old by now
            except SluicegateError:
                pass  # the command is worth more than its remote control
            else:
                return
            await asyncio.sleep(LISTEN_AGAIN_S)

    def _obey(self, event: StreamEvent) -> None:
        """A client asks in the stream to cancel, and ingest says there that it ended."""
        if event.type == "cancel" and not self._cancelled:
            by = event.fields.get("by") or "a client"
            reason = event.fields.get("reason")
            self._cancelled = f"asked for by {by}" + (f": {reason}" if reason else "")
            self._in_background(self._stop_child())
        elif event.type == "end" and not self._ending:
            problem = f"the stream was ended as {event.fields.get('reason')} while the command ran"
            self._outbox.give_up(OpsError(problem))

    async def _stop_child(self) -> None:
        self._signal_child(signal.SIGTERM)
        await asyncio.sleep(STOP_GRACE_S)
        self._signal_child(signal.SIGKILL)

    async def _say_alive(self) -> None:
        """A silent command is not an abandoned stream: say so before ingest takes it for one."""
        said_at = float("-inf")
        while True:
            due_s = max(self._quiet_since, said_at) + self._options.alive_every_s - time.monotonic()
            if due_s > 0:
                await asyncio.sleep(due_s)
                continue
            said_at = time.monotonic()
            silent_s = int(said_at - self._quiet_since)
            await self._outbox.put("state", {"name": "running", "value_json": f'{{"silent_s":{silent_s}}}'})
