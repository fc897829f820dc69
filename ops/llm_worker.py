"""An LLM worker's process: its options out of the settings, then the loop until a signal."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import uvloop

from connectors import heap
from connectors.kafka.needs import have_topics
from connectors.llm.book import Book
from connectors.llm.committer import Row
from connectors.llm.desk import RoutingDesk
from connectors.llm.follow import BookFollower
from connectors.llm.worker import ROLE, TYPES, LlmWorker
from connectors.registry import Registry
from ops import console
from ops.extension import extension_of
from ops.llm import llm_options
from ops.logs import configure_logs
from ops.signals import on_stop_signals
from pipelines.slots import Slot
from pipelines.tools import DeadLetterMaker
from schemas.access import OF_LLM
from schemas.catalog import EVENT
from schemas.payloads import PayloadCodec
from schemas.topics import LLM_ATTEMPTS, LLM_PROMPTS, LLM_RAW, LLM_REQUESTS, LLM_ROUTES, TOPICS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    import signal

    from ops.settings import Settings
    from schemas.record import Record


def run_llm_worker(settings: Settings) -> int:
    """Work until a signal; 0 if it was stopped on purpose.

    Raises:
        NoStack: nothing says where Kafka and the registry are.
        Misused: a provider is not set as it must be.
        RegistryUnavailable, KafkaUnavailable: they do not answer at the start.
        NotAuthorized: an ACL is missing.
        TopicsAbsent: a topic that it reads or writes is, and it may not make any.
        SluicegateError: what made it stop.
    """
    told = llm_options(settings)
    kafka = told.kafka
    configure_logs()
    with (
        closing(Slot(settings.data_dir / "state", ROLE, settings.llm.identity)) as slot,
        closing(Registry(told.registry_url)) as registry,
    ):
        options = replace(told, identity=slot.identity)
        if settings.registry.register_schemas:
            registry.register_all()
        needed = {kafka.topic_prefix + name: what for name, what in OF_LLM.operations().items()}
        have_topics(kafka, TOPICS, needed, create=settings.kafka.create_topics)
        wire, payloads = WireCodec(registry), PayloadCodec(registry)
        wire.warm(
            (
                EVENT,
                *(spec.subject for spec in (LLM_REQUESTS, LLM_ATTEMPTS, LLM_RAW, LLM_ROUTES, LLM_PROMPTS)),
            )
        )
        payloads.warm(TYPES)
        letters = DeadLetterMaker(wire)
        kinds = extension_of(settings).all_kinds()

        def letter(record: Record, error: BaseException) -> Row:
            made = letters.letter(
                record, agent=ROLE, cause=type(error).__name__, detail=str(error), attempts=1
            )
            return Row(made.topic, made.key, made.value, made.partition)

        async def work() -> None:
            book = Book(options.providers, options.prices)
            follower = BookFollower(kafka, wire, book)
            worker = LlmWorker(options, wire, payloads, RoutingDesk(book), letter, kinds, follower)

            def stop(number: signal.Signals) -> None:
                console.note(f"{number.name}: no more requests are taken; {worker.under_way} calls may end")
                worker.stop()

            with on_stop_signals(stop, lambda _: worker.abandon()):
                names = ", ".join(options.providers) or "none: set SLUICEGATE_LLM__PROVIDERS__NAME__API_KEY"
                console.note(f"llm worker {slot.identity}; providers: {names}")
                follower.start()
                try:
                    await worker.run()
                finally:
                    follower.stop()

        heap.freeze(heap.BY_THE_THOUSAND)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
    return 0
