"""The topics that a process needs, seen to at its start: made where it may, then asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.access import check_topics
from connectors.kafka.admin import ensure_topics
from connectors.kafka.errors import TopicsAbsent

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

log = structlog.get_logger(__name__)

SPREAD_S: Final = 3.0
"""How long a topic that was just made may be unknown to one of the brokers."""


def have_topics(
    options: KafkaOptions,
    specs: Sequence[TopicSpec],
    needed: Mapping[str, Sequence[str]],
    *,
    create: bool,
    kept: Container[str] = (),
) -> tuple[str, ...]:
    """Have what a process reads and writes be there, and be allowed to it, before its first record fails.

    Without it, a topic that is missing is met by whoever comes first, again and again. Blocks for some
    milliseconds, or seconds where topics are made.

    Args:
        options: where Kafka is.
        specs: the table, of which what is missing is made; differences are told.
        needed: what is done with each topic, by its full name.
        create: whether topics are made here; else an operator makes them.
        kept: full names of topics whose absence the caller judges.

    Returns:
        Those of ``kept`` that do not exist.

    Raises:
        TopicsAbsent: others do not: none is made here, or the table does not have them.
        TopicMismatch: a topic that exists cannot serve; names the remedy.
        NotAuthorized: an ACL is missing; names all that is.
        KafkaUnavailable: no answer.
    """
    if create:
        for warning in ensure_topics(options, specs).warnings:
            log.warning("topic differs from its declaration", what=warning)
    deadline = time.monotonic() + (SPREAD_S if create else 0)
    while True:
        absent = check_topics(options, needed)
        missing = [name for name in absent if name not in kept]
        if not missing:
            return absent
        if time.monotonic() >= deadline:
            raise TopicsAbsent(missing, undeclared=create)
        time.sleep(0.1)
