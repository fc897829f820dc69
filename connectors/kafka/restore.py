"""Brings partitions' state up to their changelogs: raw batches, never through the agents.

All partitions that are being restored share one consumer and one thread. A small one does not wait for a
large one, as the broker's answers bring some of each; and sixty of them cost one set of connections and one
bound of memory. More threads would win nothing: what a record costs here is Python's, one at a time.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import structlog
from confluent_kafka import KafkaException, Message, TopicPartition

from connectors.kafka.access import REFUSALS, refusal
from connectors.kafka.errors import KafkaUnavailable, RestoreStalled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from confluent_kafka import Consumer, KafkaError

    from connectors.kafka.errors import KafkaFailure
    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)

_BATCH = 10_000
_STALL_S_MAX = 120.0
_ANEW_S = 25.0  # a transaction that was left open is over by then: its time-out, and the broker's look for it
_PROGRESS_S = 5.0
_WAIT_S = 0.1
_ASK_S = 2.0
_ENDS_IT = ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE")  # the changelog was cut meanwhile
_At = tuple[str, int]
_Changes = dict[bytes, "bytes | None"]


class Apply(Protocol):
    """Takes one batch of changes (None deletes) and the next changelog offset."""

    def __call__(self, changes: _Changes, next_offset: int) -> None:
        """Write them, atomically."""


@dataclass(slots=True)
class Progress:
    """What the restores of one changelog partition did and have to do; written by one thread, read by any."""

    position: int = 0
    end: int = 0
    records: int = 0
    """Of all its restores since the process began, as are the next two."""
    size_bytes: int = 0
    ended_s: float = 0.0
    began: float | None = None
    """By the monotonic clock; None = no restore is under way."""

    @property
    def remaining(self) -> int:
        """Offsets that are left; markers of transactions are among them."""
        return max(self.end - self.position, 0) if self.began is not None else 0

    @property
    def seconds(self) -> float:
        """How long its restores took, this one included."""
        began = self.began
        return self.ended_s + (0.0 if began is None else time.monotonic() - began)


@dataclass(slots=True)
class _Task:
    """One partition on its way from ``start`` to ``high``."""

    at: _At
    start: int
    high: int
    apply: Apply
    cancelled: threading.Event
    progress: Progress
    done: Future[int] = field(default_factory=Future)
    applied: int = 0
    refused: KafkaError | None = None
    moved: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    _changes: _Changes = field(default_factory=dict)
    _seen: int = 0

    @property
    def where(self) -> TopicPartition:
        return TopicPartition(*self.at, self.progress.position)

    def begin(self) -> None:
        """Show its progress; one at a time does so for a partition."""
        progress = self.progress
        progress.position, progress.end, progress.began = self.start, self.high, time.monotonic()

    def see(self, messages: Sequence[Message]) -> None:
        """Take messages in, in the order of their offsets; of the changes of a key the last one counts."""
        known = max(self._seen, self.progress.position)
        if (messages[0].offset() or 0) < known:  # fetched for a restore that was let go of
            messages = [message for message in messages if (message.offset() or 0) >= known]
            if not messages:
                return
        keys = [key or b"" for key in map(Message.key, messages)]
        self._changes.update(zip(keys, map(Message.value, messages), strict=True))
        self._seen = (messages[-1].offset() or 0) + 1
        self.progress.records += len(messages)
        self.progress.size_bytes += sum(map(len, keys)) + sum(map(len, messages))

    def see_error(self, offset: int, error: KafkaError) -> None:
        """Take in what is no record."""
        if error.name() == "_PARTITION_EOF":
            self._seen = max(self._seen, offset)  # over markers of transactions, which bring no change
        elif error.name() in _ENDS_IT or error.code() in REFUSALS:
            self.refused = error

    def take(self) -> None:
        """Apply what was seen; what the applying raises goes through."""
        if self._seen <= self.progress.position:
            return
        if self._changes:
            changes, self._changes = self._changes, {}
            self.apply(changes, self._seen)
            self.applied += len(changes)
        self.progress.position = self._seen
        self.moved = time.monotonic()

    def check(self) -> bool:
        """Tell whether it is over; raises RestoreStalled."""
        progress, now = self.progress, time.monotonic()
        if progress.position >= progress.end or self.cancelled.is_set():
            return True
        topic, partition = self.at
        if now - self.moved > _STALL_S_MAX:
            raise RestoreStalled(topic, partition, progress.position, progress.end)
        if now - self.told > _PROGRESS_S:
            self.told = now
            log.info(
                "restoring", topic=topic, partition=partition, position=progress.position, end=progress.end,
                remaining=progress.remaining,
            )  # fmt: skip
        return False

    def end(self, error: Exception | None = None) -> None:
        """Have who asked go on."""
        progress = self.progress
        seconds = 0.0 if progress.began is None else time.monotonic() - progress.began
        progress.ended_s, progress.began = progress.ended_s + seconds, None
        if error is not None:
            self.done.set_exception(error)
            return
        if self.applied:
            topic, partition = self.at
            log.info(
                "state restored", topic=topic, partition=partition, changes=self.applied,
                seconds=round(seconds, 3),
            )  # fmt: skip
        self.done.set_result(self.applied)


class Restorer:
    """Restores changelog partitions for all threads that ask; its own thread ends when none is left."""

    def __init__(self, kafka: KafkaOptions) -> None:
        self._kafka = kafka
        self._asked: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = False
        self._progress: dict[_At, Progress] = {}

    @property
    def progress(self) -> Mapping[_At, Progress]:
        """By topic and partition; of all that this process ever restored."""
        return dict(self._progress)

    def restore(
        self, topic: str, partition: int, *, start: int, high: int, apply: Apply, cancelled: threading.Event
    ) -> int:
        """Apply the changelog from ``start`` up to the high watermark ``high``; returns how many changes.

        Blocks; ``apply`` is called on another thread meanwhile, and what it raises goes through. Up to the
        high watermark, not the last stable offset: an old open transaction can hide newer committed records,
        so it is waited for. The end is told by the position: commit markers take offsets.

        Raises:
            KafkaUnavailable: the consumer failed.
            NotAuthorized: an ACL is missing.
            RestoreStalled: no progress for two minutes.
        """
        if start >= high:
            return 0
        progress = self._progress.setdefault((topic, partition), Progress())
        task = _Task((topic, partition), start, high, apply, cancelled, progress)
        with self._lock:
            self._asked.put(task)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="restore", daemon=True).start()
        return task.done.result()

    def _run(self) -> None:
        while True:
            tasks: dict[_At, _Task] = {}
            try:
                self._restore_all(tasks)
            except Exception as error:  # noqa: BLE001  whatever it is, all who wait must hear of it
                for task in (*tasks.values(), *self._waiting()):
                    task.end(error)
            with self._lock:
                if self._asked.empty():
                    self._running = False
                    return

    def _restore_all(self, tasks: dict[_At, _Task]) -> None:
        """Restore what was asked for until there is nothing left; ends the tasks that it takes out."""
        while self._restore_by_one(tasks):
            pass

    def _restore_by_one(self, tasks: dict[_At, _Task]) -> bool:
        """Restore by one consumer; True = it brings nothing more, and another one is to go on from here."""
        consumer = self._consumer()
        made = time.monotonic()
        try:
            consumer.incremental_assign([task.where for task in tasks.values()])
            while True:
                self._take_up(consumer, tasks)
                if not tasks:
                    return False
                first = consumer.poll(_WAIT_S)
                messages = [] if first is None else [first, *consumer.consume(_BATCH - 1, 0)]
                self._hand(messages, tasks)
                for task in list(tasks.values()):
                    self._go_on(consumer, task, tasks)
                if tasks and time.monotonic() - max(made, *(task.moved for task in tasks.values())) > _ANEW_S:
                    _tell_of_standstill(consumer, tasks.values())
                    return True
        except KafkaException as error:
            raise KafkaUnavailable(self._kafka.bootstrap_servers, error.args[0].str()) from error
        finally:
            consumer.close()

    def _waiting(self) -> Iterator[_Task]:
        with suppress(queue.Empty):
            while True:
                yield self._asked.get_nowait()

    def _take_up(self, consumer: Consumer, tasks: dict[_At, _Task]) -> None:
        for task in self._waiting():
            if task.at in tasks:  # let go of and assigned again at once: the older one was cancelled
                consumer.incremental_unassign([task.where])
                tasks.pop(task.at).end()
            tasks[task.at] = task
            task.begin()
            consumer.incremental_assign([task.where])

    def _hand(self, messages: Sequence[Message], tasks: Mapping[_At, _Task]) -> None:
        """Give each task its messages, run by run: what is done for each of millions is done in C."""
        wheres = list(zip(map(Message.topic, messages), map(Message.partition, messages), strict=True))
        errors = list(map(Message.error, messages))
        first = 0
        for where, group in groupby(wheres):
            last = first + sum(1 for _ in group)
            task = tasks.get(where)
            if not any(errors[first:last]):
                if task is not None:
                    task.see(messages[first:last])
            else:
                for message in messages[first:last]:
                    self._hand_one(where, message, task)
            first = last

    def _hand_one(self, at: _At, message: Message, task: _Task | None) -> None:
        error = message.error()
        if error is not None and error.fatal():
            raise self._refusal(at, error)
        if task is None:
            return
        if error is None:
            task.see([message])
        else:
            task.see_error(message.offset() or 0, error)

    def _go_on(self, consumer: Consumer, task: _Task, tasks: dict[_At, _Task]) -> None:
        """Apply what came for a task; take it out if it is over, and tell who asked."""
        failed: Exception | None = None
        if task.refused is not None:
            failed = self._refusal(task.at, task.refused)
        try:
            task.take()
            if failed is None and not task.check():
                return
        except Exception as error:  # noqa: BLE001  it is this partition's alone
            failed = error
        consumer.incremental_unassign([task.where])
        del tasks[task.at]
        task.end(failed)

    def _refusal(self, at: _At, error: KafkaError) -> KafkaFailure:
        return refusal(self._kafka, f"Read {at[0]}[{at[1]}]", error)

    def _consumer(self) -> Consumer:
        """Make one; raises KafkaUnavailable, of a file of certificates that is away for a moment, say."""
        try:
            return self._kafka.clients.consumer(self._config())
        except KafkaException as error:
            raise KafkaUnavailable(self._kafka.bootstrap_servers, error.args[0].str()) from error

    def _config(self) -> dict[str, object]:
        return self._kafka.client_config() | {
            "group.id": f"{self._kafka.topic_prefix}{self._kafka.client_id}-restore",  # never joined
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,  # moves the position over trailing markers
            "fetch.wait.max.ms": 20,
            # Without it librdkafka asks for no more of a partition for a second when its part of the
            # queue is full: 2.5 times as long when measured.
            "fetch.queue.backoff.ms": 10,
            # What is fetched ahead of one partition, the next one waits behind.
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 32 * 1024,
        }


def _tell_of_standstill(consumer: Consumer, tasks: Iterable[_Task]) -> None:
    """Log what each partition waits for: a transaction that is open at the broker, or the consumer itself."""
    for task in tasks:
        stable = None
        with suppress(KafkaException):  # it reads what is committed alone, so this is the last stable offset
            _, stable = consumer.get_watermark_offsets(task.where, _ASK_S)
        log.warning(
            "a restore stands still, its consumer is made anew", topic=task.at[0], partition=task.at[1],
            position=task.progress.position, end=task.progress.end, last_stable=stable,
        )  # fmt: skip
