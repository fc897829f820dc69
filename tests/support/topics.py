"""Topics of a test, taken away when it is over."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from connectors.kafka.admin import delete_topics, list_topics
from connectors.kafka.errors import KafkaFailure

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions


def drop_topics(kafka: KafkaOptions) -> None:
    """Delete all topics under a test's prefix: a run's thousands would slow each start of what comes after.

    A process asks at its start which topics there are, and a broker holds a file open for each partition.
    """
    assert kafka.topic_prefix, "without one, it would be everybody's"
    with suppress(KafkaFailure):  # what cannot be tidied up is no defect of the code under test
        delete_topics(kafka, list_topics(kafka))
