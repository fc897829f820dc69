"""The Kafka half of a unit of work: one transactional producer a role and slot."""

from __future__ import annotations

import re
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException

from connectors.kafka.access import REFUSALS, refusal
from connectors.kafka.appends import ASK_S, Appends, offsets_of, producer_config
from connectors.kafka.commits import was_not_asked
from connectors.kafka.errors import (
    KafkaUnavailable,
    NotAuthorized,
    OutcomeUnknown,
    TransactionAborted,
    TransactionFenced,
)
from connectors.threads import DaemonExecutor

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)

_FENCED = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}  # noqa: SLF001
_COMMIT_S = 3  # times the transaction's time-out: after it the broker has ended the transaction
_OPEN_S = 20.0  # a predecessor's open transaction is ended by the broker meanwhile
_TWIN_S = 60.0  # two processes with one id fence each other within seconds; an outage fences once
_DISTURBED = {"FAIL", "REQTMOUT"}  # librdkafka's names for a broken connection, for a request unanswered
_UNSENT = re.compile(r" in state (TRY_)?CONNECT[,)]")  # nothing was on its way: not connected yet
_QUIET_S = 60.0  # from then on librdkafka says nothing of a connection that is closed
_RENEW_S = 45.0  # makes one anew before that: it is looked at every five seconds (pipelines/role.py)
_OVERDUE = 0.9  # of the transaction's time-out: from then on it may be the broker that ended it


class SourcePartition(Protocol):
    """See ``state.checkpoint.SourcePartition``."""

    @property
    def topic(self) -> str:
        """The topic's name as it stands in Kafka."""

    @property
    def partition(self) -> int:
        """Its number."""


class KafkaTransaction(Appends):
    """Satisfies ``state.checkpoint.Transaction``.

    A transactional id is stable for a role and slot, so that a restart settles what its predecessor
    left open at once instead of waiting for the transaction's time-out.

    Args:
        options: where Kafka is.
        transactional_id: stable for the role and slot.
        group_metadata: gives the consumer's cached metadata; it carries member and generation, by which
            the broker refuses offsets of a member that was replaced (KIP-447).
        committed_unit: reads the unit number in the committed metadata of a source partition, which is how
            the outcome of a commit that was not answered is learnt.
        timeout_ms: transaction time-out.
        leaving: set when the worker must end soon: what is waited for is given up within two seconds then.
    """

    def __init__(
        self,
        options: KafkaOptions,
        *,
        transactional_id: str,
        group_metadata: Callable[[], Any],
        committed_unit: Callable[[SourcePartition], int | None],
        timeout_ms: int,
        leaving: threading.Event,
    ) -> None:
        super().__init__(options, timeout_s=timeout_ms / 1_000, leaving=leaving)
        self._transactional_id = transactional_id
        self._group_metadata = group_metadata
        self._committed_unit = committed_unit
        self._config = producer_config(options) | {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
        }
        self._config |= options.said.config() | {"logger": self}  # which hears more of it
        self._last: tuple[SourcePartition, int] | None = None
        self._fenced_at = -_TWIN_S
        self._began_at = self._used_at = 0.0
        self._sender = DaemonExecutor(1, "send-offsets")
        # To hear of each record costs as much as to append it. One that is refused makes the commit fail;
        # then the unit that is tried next hears of all, and names it.
        self._hears_all = False
        self._disturbed = False
        self._is_open = False

    def open(self) -> None:
        """Make the producer and fence whoever used the id before.

        Raises:
            KafkaUnavailable: Kafka cannot be reached.
            NotAuthorized: the principal may not use the id.
        """
        self._producer = None
        self._disturbed = self._is_open = False
        producer = self._kafka.clients.producer(self._config)
        try:
            self._patiently(producer.init_transactions, self._timeout_s + _OPEN_S)
        except KafkaException as error:
            what = f"Write transactional id {self._transactional_id}"
            raise refusal(self._kafka, what, error.args[0]) from error
        producer.poll(0)  # serves ``log``: see ``_be_undisturbed`` on what was disturbed as it was opened
        self._used_at = time.monotonic()
        self._producer = producer

    def log(self, level: int, _format: str, facility: str, _name: str, text: str) -> None:
        """Take what librdkafka logs: when a connection breaks or falls silent, it says so here alone."""
        self._disturbed = self._disturbed or (facility in _DISTURBED and _UNSENT.search(text) is None)
        self._kafka.said.log(level, _format, facility, _name, text)

    def _be_undisturbed(self) -> None:
        """Make the producer anew where it may have asked for something twice.

        librdkafka repeats by itself a request whose connection broke or fell silent, an EndTxn too, and says
        nothing when the repeat succeeds. The first one may still reach the broker, in the next transaction,
        which has the same epoch (see ``_settle``): it would commit outputs without their offsets. A new epoch
        shuts it out (tests/faults/test_torn.py).

        What a broken connection has said twice it keeps to itself for 30 s (``rd_kafka_broker_set_error``).
        So a producer serves no transaction more once anything was said, as it was opened too; and none after
        a silence in which nothing would have been said. An event would wait for the one that is
        made then, a quarter or half of a second as librdkafka has it: ``renew`` makes it before one comes.
        """
        if self._producer is not None:
            self._producer.poll(0)  # serves ``log``
            if self._disturbed:
                log.info("producer is made anew, as a connection was disturbed")
                self._producer = None
            elif time.monotonic() - self._used_at > _QUIET_S:
                self._producer = None

    def renew(self) -> None:
        """Make the producer anew that has been silent for so long that ``begin`` would soon.

        On the unit's thread, between two units. While none is left, as of an outage, it is made by the next
        unit. Raises as ``open``.
        """
        if self._producer is not None and time.monotonic() - self._used_at > _RENEW_S:
            self.open()

    def _patiently(self, call: Callable[[float], Any], limit_s: float) -> None:
        """Call with short time-outs until it is done; each goes on where the last one was.

        One long time-out would not hear of a worker that must leave meanwhile.
        """
        deadline = time.monotonic() + limit_s
        while True:
            try:
                call(min(ASK_S, limit_s))
            except KafkaException as error:
                again = error.args[0].retriable() and time.monotonic() < deadline
                if not again or self._leaving.is_set():
                    raise
            else:
                return

    def begin(self) -> None:
        """Open a transaction; see ``state.checkpoint.Transaction``."""
        self._last = None
        self._forget()
        self._be_undisturbed()
        try:
            producer, self._is_open = self._live, True
            producer.begin_transaction()
            self._began_at = self._used_at = time.monotonic()
        except KafkaException as error:
            raise self._named(error) from error

    def send_offsets(
        self,
        positions: Mapping[Any, int],
        unit: int,
        notes: Mapping[Any, str],
        handbacks: Mapping[Any, int] = MappingProxyType({}),
    ) -> None:
        """Add the source offsets with the unit's number as metadata; see the protocol."""
        parts = offsets_of(positions, unit, notes, handbacks)
        source = next(iter(positions), None)
        self._last = None if source is None else (source, unit)
        sent = self._sender.submit(
            self._live.send_offsets_to_transaction, parts, self._group_metadata(), self._timeout_s
        )
        try:
            self._await(sent, self._timeout_s + ASK_S)
        except KafkaException as error:
            raise self._named(error) from error

    def _await(self, sent: Future[Any], limit_s: float) -> None:
        """Wait for offsets to be taken; the call is left behind if it does not keep its own time-out.

        While the group's coordinator is away librdkafka waits without an end (its issue 5456, in 2.16 too).
        The commit was not asked for yet, and the next producer fences this one: nothing can take place.
        """
        if self._is_answered(sent, limit_s):
            return
        self._producer = None
        self._sender.shutdown()
        self._sender = DaemonExecutor(1, "send-offsets")
        raise TransactionAborted("the group's coordinator does not take the offsets")

    def commit(self) -> None:
        """Commit, and find out what happened when the answer is missing; see the protocol."""
        try:
            self._patiently(self._live.commit_transaction, _COMMIT_S * self._timeout_s)
        except KafkaException as error:
            if was_not_asked(error.args[0]):
                raise self._named(error) from error
            self._settle(error)
        except SystemError as error:
            # confluent-kafka raises what it met under a callback, "fenced" say, in place of the outcome.
            self._settle(_met_under(error))
        self._hears_all = False

    def abort(self) -> None:
        """Abort; what cannot be aborted now is ended by the producer that is made anew next.

        Raises:
            TransactionFenced: another process uses the id.
        """
        self._hears_all = True
        if self._producer is None or not self._is_open:
            return  # or its successor, which has ended it, stands there already
        try:
            self._patiently(self._producer.abort_transaction, self._timeout_s)
            self._producer.flush(ASK_S)  # its delivery reports must not fail the next transaction
        except KafkaException as error:
            self._give_up(error)

    def _settle(self, error: KafkaException) -> None:
        """Learn the outcome of a commit that nobody knows: init_transactions ends it, the metadata tells how.

        librdkafka does not raise the producer's epoch for each transaction (KIP-890 on the client's side),
        so a commit that comes late could tear the next transaction: the producer is always made anew. As
        long as Kafka is away nobody knows, and whoever guesses loses or doubles the unit: it is waited for.

        Raises:
            OutcomeUnknown: the worker leaves before Kafka is back.
        """
        log.warning("outcome of a commit unknown, asking the broker", cause=str(error))
        self._give_up(error)
        while True:
            try:
                self.open()
                settled = self._last is None or self._committed_unit(self._last[0]) == self._last[1]
            except KafkaUnavailable as away:
                if self._leaving.wait(ASK_S):
                    raise OutcomeUnknown(str(away)) from error
                log.warning("outcome of a commit still unknown", cause=str(away))
            else:
                break
        if not settled:
            raise TransactionAborted(f"the unit was not committed: {error}") from error

    def _give_up(self, error: KafkaException) -> None:
        """Give the producer up; the next one has the same id, which ends what this one had open.

        The broker fences a producer whose transaction it timed out, in an outage say, as it fences one that
        was replaced. One that was replaced is fenced again soon, with a transaction that is still young.
        """
        self._producer = None
        now = time.monotonic()
        if error.args[0].code() in _FENCED and now - self._began_at < _OVERDUE * self._timeout_s:
            if now - self._fenced_at < _TWIN_S:
                raise TransactionFenced(
                    f"transactional id {self._transactional_id} is used by another process: {error}"
                ) from error
            self._fenced_at = now
        log.warning("producer is made anew", cause=str(error))

    def _named(
        self, error: KafkaException, what: str = "Write a topic of its unit of work, or Read its group"
    ) -> TransactionAborted | NotAuthorized:
        if error.args[0].code() in REFUSALS:
            return NotAuthorized(self._kafka.principal, what)
        return TransactionAborted(f"transaction of {self._transactional_id} failed: {error.args[0].str()}")


def _met_under(error: SystemError) -> KafkaException:
    """Return what Kafka's client met when it raised a SystemError: the cause, if it says one."""
    if isinstance(error.__cause__, KafkaException):
        return error.__cause__
    return KafkaException(KafkaError(KafkaError._FAIL, str(error)))  # noqa: SLF001  # librdkafka's name
