"""What librdkafka says, in lines of our own log: that brokers are away is said once, and not with each try.

A process has a handful of clients, each of which tries to connect twice a second and says each time that it
could not. So a client is silent (``KafkaOptions.client_config``), unless whoever made it listens here: what
goes wrong with the others is raised by the calls that they are asked.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from confluent_kafka import KafkaError

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

OUTAGE_S: Final = 60.0
"""What comes so soon after the last trouble is of the same outage: far longer than a rejoin takes, and far
shorter than an operator who replaces a worker."""
_AWAY: Final = frozenset(
    (
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001  # librdkafka's names
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._SSL,  # noqa: SLF001
    )
)
_OF_CONNECTIONS: Final = frozenset(("FAIL", "ERROR", "REQTMOUT", "GETPID", "SESSTMOUT"))
"""librdkafka's names for lines about connections, and about answers that no broker gives."""


class Said:
    """Listens to the clients of a process; one for all of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._away_at = float("-inf")

    def config(self) -> dict[str, object]:
        """Return what has a client be heard: one that is polled, as lines wait for that without a bound."""
        return {"log_level": 6, "logger": self}  # librdkafka's own default

    def log(self, level: int, _format: str, facility: str, _name: str, text: str) -> None:
        """Take a line, as a ``logging.Logger`` does."""
        if level < logging.WARNING:
            return
        if facility in _OF_CONNECTIONS:
            self._away(text)
        else:
            log.warning("librdkafka", said=text)

    def error(self, error: KafkaError, **where: Any) -> bool:
        """Take what an ``error_cb`` is told; give whether it is that brokers are away."""
        is_away = error.code() in _AWAY
        if is_away:
            self._away(str(error.str()), **where)
        return is_away

    def _away(self, cause: str, **where: Any) -> None:
        now = self._clock()
        if now - self._away_at > OUTAGE_S:
            log.warning("brokers away, waiting for them", cause=cause, **where)
        self._away_at = now
