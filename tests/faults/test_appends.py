"""Appends while the broker is killed or stands still: a request is whole or absent, and a repeat heals it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.errors import AppendFailed
from connectors.kafka.options import KafkaOptions
from connectors.kafka.producer import Appender, AppenderOptions
from ops.settings import KafkaSettings, PostgresSettings, RegistrySettings, Settings, StackSettings
from ops.stack.down import down
from ops.stack.state import read_state
from ops.stack.up import ensure_up
from schemas.topics import INPUT
from tests.integration.test_appender import committed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(180)

RECORDS = 3
SECONDS = 8.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A broker of this module's own, that may be harmed; its port stays over a restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("own-kafka"),
        kafka=KafkaSettings(),
        registry=RegistrySettings(url="http://127.0.0.1:1/not-needed"),
        postgres=PostgresSettings(dsn="postgresql://not-needed"),
        stack=StackSettings(kafka_port=port),
    )
    yield settings
    down(settings)


def kill_and_restart(settings: Settings) -> None:
    os.kill(read_state(settings.data_dir)["kafka"].process.pid, signal.SIGKILL)
    ensure_up(settings)


def stand_still(settings: Settings) -> None:
    pid = read_state(settings.data_dir)["kafka"].process.pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(6)  # longer than the transactions' time-out of 3 s, and than the broker's session of 4 s
    os.kill(pid, signal.SIGCONT)


class Load:
    """Callers that append, and repeat what failed with the same id until it is in."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.done: set[bytes] = set()
        self.failures: Counter[str] = Counter()
        self.began = asyncio.Event()
        self.stopping = False

    async def caller(self, appender: Appender, number: int) -> None:
        turn = 0
        while not self.stopping:
            name = b"%d.%d" % (number, turn)
            values = [b"%b/%d" % (name, part) for part in range(RECORDS)]
            records = [(self.topic, b"default/%d" % part, value, None) for part, value in enumerate(values)]
            while True:
                try:
                    offsets = await appender.append_transaction(records)
                except AppendFailed as error:
                    self.failures["overloaded" if error.overloaded else "failed"] += 1
                    await asyncio.sleep(0.05)
                    continue
                assert len(offsets) == RECORDS
                break
            self.done.add(name)
            self.began.set()
            turn += 1


async def under_load(load: Load, options: KafkaOptions, harm: Callable[[], None]) -> None:
    bounds = AppenderOptions(transaction_timeout_ms=3_000, wait_ms_max=1_000)
    appender = Appender(options, bounds)
    callers = [asyncio.create_task(load.caller(appender, number)) for number in range(8)]
    async with asyncio.timeout(60):
        await load.began.wait()  # a broker that has just started takes its time
    await asyncio.sleep(SECONDS / 4)
    before = len(load.done)
    await asyncio.to_thread(harm)
    await asyncio.sleep(SECONDS / 2)
    load.stopping = True
    async with asyncio.timeout(60):
        await asyncio.gather(*callers)
    assert len(load.done) > before
    await appender.close()


@pytest.mark.parametrize("harm", [kill_and_restart, stand_still])
def test_requests_are_whole_or_absent_and_a_repeat_heals_them(
    settings: Settings, topic_prefix: str, harm
) -> None:
    options = KafkaOptions(ensure_up(settings).kafka, topic_prefix)
    ensure_topics(options, [INPUT])
    load = Load(INPUT.named(topic_prefix))
    asyncio.run(under_load(load, options, lambda: harm(settings)))

    seen = Counter(message.value() for message in committed(options, load.topic))
    whole = {name: {seen[b"%b/%d" % (name, part)] for part in range(RECORDS)} for name in names_of(seen)}
    torn = {name: counts for name, counts in whole.items() if len(counts) != 1}
    assert torn == {}
    assert load.done <= set(whole)
    assert load.failures["failed"] > 0, "the fault did not land"
    doubled = sum(counts != {1} for counts in whole.values())
    assert doubled <= load.failures["failed"]


def names_of(seen: Counter[bytes]) -> set[bytes]:
    return {value.rpartition(b"/")[0] for value in seen}
