"""Faust's transport seam: its App, agents and worker run on our coordinator and poll thread.

Faust's own consumer, conductor queues, tables and transactions are not in the way of an event. Each
private hook of Faust that is used here has a test in ``tests/contract/test_faust_hooks.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from faust.transport.base import Transport as FaustTransport
from faust.transport.conductor import Conductor as FaustConductor
from faust.types import TP
from faust.types.transports import ConsumerT, ProducerT
from mode import Service

from connectors.kafka.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterable


class Conductor(FaustConductor):
    """Keeps the set of topics to subscribe to; chunks go past it, straight to the streams."""

    def _update_callback_map(self) -> None:
        """No callbacks: nothing is delivered through the conductor."""


class Consumer(Service, ConsumerT):
    """The face that Faust sees; the work is done by the coordinator that the app starts."""

    randomly_assigned_topics: ClassVar[set[str]] = set()

    def __init__(self, transport: Transport, callback: Any = None, **kwargs: Any) -> None:
        self.transport = transport
        self.app = transport.app
        for name in ("on_partitions_revoked", "on_partitions_assigned", "commit_interval"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Start to poll: all agents of the role are up."""
        self.app.start_polling(frozenset(topics))

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002
        """Offsets commit with their unit of work, never on their own."""
        return True

    def assignment(self) -> set[TP]:
        """Partitions that are being read."""
        coordinator = self.app.coordinator_or_none
        return set() if coordinator is None else {TP(*source) for source in coordinator.assignment}

    async def on_task_error(self, exc: BaseException) -> None:
        """Told with its agent by ``App._on_agent_error``; see there."""

    async def wait_empty(self) -> None:
        """The coordinator's own barrier stands for it."""

    def close(self) -> None:
        """The coordinator's ``stop`` stands for it."""

    def stop_flow(self) -> None:
        """The coordinator regulates intake."""

    def resume_flow(self) -> None:
        """The coordinator regulates intake."""

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """The poll thread pauses and resumes."""

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """The poll thread pauses and resumes."""

    def track_message(self, message: Any) -> None:
        """No message is tracked: a chunk is done or it is not."""

    def ack(self, message: Any) -> bool:
        """A chunk is done when its agent asks for the next."""
        return True

    @property
    def unacked(self) -> set[Any]:
        """No message is tracked."""
        return set()

    def topic_partitions(self, topic: str) -> int | None:
        """Unknown here: the topic table says it."""
        return None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        """Unknown here: ``schemas.topics.partition_of`` says it."""
        return partition

    def on_buffer_full(self, tp: TP) -> None:
        """No queue of Faust's is in use."""

    def on_buffer_drop(self, tp: TP) -> None:
        """No queue of Faust's is in use."""

    def verify_recovery_event_path(self, now: float, tp: TP) -> None:
        """State is restored by ``connectors.kafka.restore``."""

    async def create_topic(self, topic: str, *_args: Any, **_kwargs: Any) -> None:
        """Topics are made from the table in ``schemas/topics.py``."""
        raise NotSupported(f"topic {topic} made by Faust", "add it to schemas/topics.py")

    async def getmany(self, timeout: float) -> Any:  # noqa: ASYNC109
        """Not in use: the poll thread fetches."""
        raise NotSupported("Consumer.getmany", "iterate over the agent's stream")

    async def perform_seek(self) -> None:
        """Not in use: a rewind is the coordinator's."""
        raise NotSupported("Consumer.perform_seek", "raise in the agent: its step is undone and retried")

    async def seek(self, partition: TP, offset: int) -> None:
        """Not in use: a rewind is the coordinator's."""
        raise NotSupported("Consumer.seek", "raise in the agent: its step is undone and retried")

    async def seek_wait(self, partitions: Any) -> None:
        """Not in use: a rewind is the coordinator's."""
        raise NotSupported("Consumer.seek_wait", "raise in the agent: its step is undone and retried")

    async def position(self, tp: TP) -> int | None:
        """Not in use."""
        raise NotSupported("Consumer.position", "read it with `sluicegate lag`")

    def highwater(self, tp: TP) -> int:
        """Not in use."""
        raise NotSupported("Consumer.highwater", "read it with `sluicegate lag`")

    async def highwaters(self, *partitions: TP) -> Any:
        """Not in use."""
        raise NotSupported("Consumer.highwaters", "read it with `sluicegate lag`")

    async def earliest_offsets(self, *partitions: TP) -> Any:
        """Not in use."""
        raise NotSupported("Consumer.earliest_offsets", "read it with `sluicegate lag`")


class Producer(Service, ProducerT):
    """Refuses to send outside of a unit of work: an agent emits through its scope."""

    def __init__(self, transport: Transport, **kwargs: Any) -> None:
        self.transport = transport
        super().__init__(**kwargs)
        self.threaded_producer = None

    async def flush(self) -> None:
        """Nothing is buffered here."""

    def supports_headers(self) -> bool:
        """Say that nothing of ours stands in headers."""
        return False

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Not in use."""
        raise NotSupported("Producer.key_partition", "use schemas.topics.partition_of")

    async def create_topic(self, topic: str, *_args: Any, **_kwargs: Any) -> None:
        """Topics are made from the table in ``schemas/topics.py``."""
        raise NotSupported(f"topic {topic} made by Faust", "add it to schemas/topics.py")

    async def send(self, topic: str, *_args: Any, **_kwargs: Any) -> Any:
        """Not in a unit of work: refused."""
        raise NotSupported(f"topic.send to {topic}", "use scope.emit: it commits with the event's offset")

    async def send_and_wait(self, topic: str, *_args: Any, **_kwargs: Any) -> Any:
        """Not in a unit of work: refused."""
        raise NotSupported(f"topic.send to {topic}", "use scope.emit: it commits with the event's offset")

    def send_soon(self, fut: Any) -> None:
        """Not in a unit of work: refused."""
        raise NotSupported("send_soon", "use scope.emit: it commits with the event's offset")

    async def begin_transaction(self, transactional_id: str) -> None:
        """Transactions are the unit of work's."""
        raise NotSupported("begin_transaction", "the unit of work does it")

    async def commit_transaction(self, transactional_id: str) -> None:
        """Transactions are the unit of work's."""
        raise NotSupported("commit_transaction", "the unit of work does it")

    async def abort_transaction(self, transactional_id: str) -> None:
        """Transactions are the unit of work's."""
        raise NotSupported("abort_transaction", "the unit of work does it")

    async def stop_transaction(self, transactional_id: str) -> None:
        """Transactions are the unit of work's."""
        raise NotSupported("stop_transaction", "the unit of work does it")

    async def maybe_begin_transaction(self, transactional_id: str) -> None:
        """Transactions are the unit of work's."""
        raise NotSupported("maybe_begin_transaction", "the unit of work does it")

    async def commit_transactions(self, *_args: Any, **_kwargs: Any) -> None:
        """Transactions are the unit of work's."""
        raise NotSupported("commit_transactions", "the unit of work does it")


class Transport(FaustTransport):
    """Found by the entry point ``faust.transports``: ``broker="sluicegate://…"`` selects it."""

    Consumer = Consumer
    Producer = Producer
    Conductor = Conductor
    driver_version = "sluicegate"
