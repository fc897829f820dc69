"""Whether this machine's clock and the brokers' agree, found out before a start."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from connectors.kafka.admin import describe_topics
from connectors.kafka.errors import NotAuthorized
from connectors.kafka.stamps import ask_stamp
from connectors.llm.broker_clock import SKEW_S, BrokerClock
from connectors.llm.clock import now_us
from pipelines.checks import Finding
from schemas.topics import DEPLOYED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connectors.kafka.options import KafkaOptions

APART_S_MAX: Final = 5.0
"""What an edge allows the clock of whoever issues tokens, by default (``edge.access.leeway_ms``): beyond it
tokens are refused, live events count as stale, and windows close over events that are dated here."""
_ASK_S: Final = 10.0
_REMEDY: Final = (
    "Mend this machine's time service (`timedatectl`, `chronyc tracking`); if other machines say the same, "
    "the brokers'"
)


def check_clocks(kafka: KafkaOptions, wall_us: Callable[[], int] = now_us) -> Iterator[Finding]:
    """Have a broker stamp a record that nobody sees, and compare it with ``wall_us``, this machine's clock.

    The topic is one that every role may write to, and in which nobody's records wait behind it.

    Raises:
        KafkaUnavailable: no answer.
    """
    name = DEPLOYED.named(kafka.topic_prefix)
    if not describe_topics(kafka, [DEPLOYED]):
        yield Finding("clocks", "", "", f"not compared: there is no {name} yet; the first start makes it")
        return
    clock = BrokerClock(wall_us)
    asker = f"{kafka.topic_prefix}sluicegate.ingest.clock-{os.getpid()}"  # two do not fence each other
    try:
        ask_stamp(kafka, name, asker, clock.acknowledged, _ASK_S)
    except NotAuthorized as error:
        yield Finding("clocks", "", f"{error}. {error.remedy}")
        return
    if clock.compared:
        yield finding_of(clock.skew_s)
    else:
        yield Finding("clocks", "", "", f"not compared: no broker stamped a record of {name}")


def finding_of(skew_s: float) -> Finding:
    """Judge by how much this machine's clock is ahead of the brokers', in seconds."""
    apart_s = abs(skew_s)
    if apart_s <= SKEW_S:
        return Finding("clocks", "", "")
    way = "ahead of" if skew_s > 0 else "behind"
    told = f"this machine's clock is {apart_s:.1f} s {way} the brokers'. {_REMEDY}"
    return Finding("clocks", "", told) if apart_s > APART_S_MAX else Finding("clocks", "", "", told)
