"""The outcome of a commit is known or waited for, never guessed; an abort never holds the worker up."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from connectors.kafka import appends
from connectors.kafka import transaction as module
from connectors.kafka.chunk import SourcePartition
from connectors.kafka.clients import Clients
from connectors.kafka.errors import (
    AppendRefused,
    KafkaUnavailable,
    OutcomeUnknown,
    TopicUndeclared,
    TransactionAborted,
    TransactionFenced,
)
from connectors.kafka.options import KafkaOptions
from connectors.kafka.transaction import KafkaTransaction
from schemas.topics import OUTPUT
from state.effects import Append

SOURCE = SourcePartition("streams.input.v1", 0)
UNIT = 7

pytestmark = pytest.mark.timeout(20)


def away(code=KafkaError._TIMED_OUT):
    return KafkaException(
        KafkaError(code, "no broker", fatal=False, retriable=True, txn_requires_abort=False)
    )


def refused(code=KafkaError._STATE):
    return KafkaException(KafkaError(code, "refused", fatal=False, retriable=False, txn_requires_abort=False))


UNANSWERED = itertools.repeat(away())


class Producers:
    """Stands where librdkafka's producer stands; ``answers`` maps a call to what it raises, in turn.

    An answer may also be an event, which is waited for as long as it takes.
    """

    def __init__(self, **answers):
        self.answers = {name: iter(errors) for name, errors in answers.items()}
        self.calls = []
        self.absent = 0  # so often is a topic not there when it is asked for

    def __call__(self, _config):
        self.calls.append("made")
        return self

    def list_topics(self, topic, *, timeout):
        self.calls.append("list_topics")
        absent, self.absent = self.absent > 0, self.absent - 1
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if absent else None
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error)})

    def __getattr__(self, name):
        def call(*_args, **_how):
            self.calls.append(name)
            answer = next(self.answers.get(name, iter(())), None)
            if isinstance(answer, threading.Event):
                assert answer.wait(10)
            elif answer is not None:
                raise answer
            return 0

        return call


@pytest.fixture
def leaving():
    return threading.Event()


@pytest.fixture
def begun(monkeypatch, leaving):
    """Make a transaction whose offsets are sent and whose commit is next."""

    def make(committed_unit=lambda _source: UNIT, **answers):
        producers = Producers(**answers)
        for waits in (module, appends):
            monkeypatch.setattr(waits, "ASK_S", 0.01)
        transaction = KafkaTransaction(
            KafkaOptions("kafka:9092", clients=Clients(producer=producers)),
            transactional_id="id",
            group_metadata=lambda: None,
            committed_unit=committed_unit,
            timeout_ms=50,
            leaving=leaving,
        )
        transaction.open()
        transaction.begin()
        if "send_offsets_to_transaction" not in answers:
            transaction.send_offsets({SOURCE: 3}, UNIT, {})
        return SimpleNamespace(transaction=transaction, producers=producers)

    return make


def test_an_unanswered_commit_that_took_place_is_a_commit(begun):
    bench = begun(commit_transaction=UNANSWERED)
    bench.transaction.commit()
    assert bench.producers.calls.count("made") == 2


def test_an_unanswered_commit_that_did_not_take_place_is_aborted(begun):
    bench = begun(committed_unit=lambda _source: UNIT - 1, commit_transaction=UNANSWERED)
    with pytest.raises(TransactionAborted):
        bench.transaction.commit()


UNKNOWN = KafkaError(
    KafkaError.UNKNOWN, "EndTxn commit failed: Unknown broker error", fatal=False, retriable=False,
    txn_requires_abort=True,
)  # fmt: skip
"""As librdkafka says that a broker answered by an error that it does not know: abort, whatever took place."""


def test_a_commit_that_took_place_and_was_answered_by_an_unknown_error_is_a_commit(begun):
    bench = begun(commit_transaction=[KafkaException(UNKNOWN)])
    bench.transaction.commit()
    assert bench.producers.calls.count("made") == 2
    assert "abort_transaction" not in bench.producers.calls, "the broker would refuse it, and say nothing"


def test_a_commit_of_an_unknown_error_that_did_not_take_place_is_aborted_and_the_next_unit_begins(begun):
    bench = begun(committed_unit=lambda _source: UNIT - 1, commit_transaction=[KafkaException(UNKNOWN)])
    with pytest.raises(TransactionAborted, match="Unknown broker error"):
        bench.transaction.commit()
    bench.transaction.abort()
    bench.transaction.begin()
    assert bench.producers.calls.count("made") == 2, "the producer that settled it is the next unit's"
    assert "abort_transaction" not in bench.producers.calls


def under_a_callback(cause: Exception | None) -> SystemError:
    """As confluent-kafka raises what it met while a callback of ours ran."""
    error = SystemError("<method 'commit_transaction'> returned a result with an exception set")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("cause", [None, refused(KafkaError._FENCED), ValueError("of a callback")])
@pytest.mark.parametrize("committed", [True, False])
def test_the_outcome_of_a_commit_that_raised_under_a_callback_is_asked_for(begun, cause, committed):
    told = UNIT if committed else UNIT - 1
    bench = begun(committed_unit=lambda _source: told, commit_transaction=[under_a_callback(cause)])
    if committed:
        bench.transaction.commit()
    else:
        with pytest.raises(TransactionAborted):
            bench.transaction.commit()
    assert bench.producers.calls.count("made") == 2


def test_a_commit_that_the_broker_was_never_asked_for_is_aborted_at_once(begun):
    lost = KafkaError(
        KafkaError._INCONSISTENT, "1 message(s) failed delivery", fatal=False, retriable=False,
        txn_requires_abort=True,
    )  # fmt: skip
    bench = begun(commit_transaction=[KafkaException(lost)])
    with pytest.raises(TransactionAborted, match="failed delivery"):
        bench.transaction.commit()
    assert bench.producers.calls.count("made") == 1


def test_while_kafka_is_away_an_unanswered_commit_is_neither_done_nor_aborted(begun):
    told = [KafkaUnavailable("kafka:9092", "away"), UNIT]

    def committed_unit(_source):
        answer = told.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    refusals = [None, *[refused()] * 3]  # the first producer's opening succeeds
    bench = begun(committed_unit, commit_transaction=UNANSWERED, init_transactions=refusals)
    bench.transaction.commit()
    assert bench.producers.calls.count("init_transactions") == 1 + 3 + 2
    assert told == []


def test_a_worker_that_leaves_meanwhile_says_that_it_does_not_know(begun, leaving):
    def committed_unit(_source):
        leaving.set()
        raise KafkaUnavailable("kafka:9092", "away")

    bench = begun(committed_unit, commit_transaction=UNANSWERED)
    with pytest.raises(OutcomeUnknown) as caught:
        bench.transaction.commit()
    assert caught.value.fatal
    bench.transaction.abort()  # nothing is left that could be


def test_an_abort_without_an_answer_is_left_to_the_next_producer(begun):
    bench = begun(abort_transaction=UNANSWERED)
    bench.transaction.abort()
    assert bench.producers.calls.count("made") == 1
    bench.transaction.settle()
    bench.transaction.settle()
    bench.transaction.begin()
    calls = [call for call in bench.producers.calls if call != "poll"]
    assert calls[-3:] == ["made", "init_transactions", "begin_transaction"]


def test_a_producer_that_is_fenced_twice_has_been_replaced(begun):
    bench = begun(abort_transaction=[refused(KafkaError._FENCED)] * 2)
    bench.transaction.abort()
    bench.transaction.begin()
    with pytest.raises(TransactionFenced):
        bench.transaction.abort()


def test_a_full_queue_is_waited_for_and_not_taken_for_a_failure(begun):
    bench = begun(produce=[BufferError(), BufferError()])
    bench.transaction.append([Append(OUTPUT, b"key", b"value", 0)])
    assert bench.producers.calls.count("produce") == 3


def test_a_topic_is_asked_for_once_and_one_that_was_just_made_again(begun, monkeypatch):
    monkeypatch.setattr(appends, "_FIND_PAUSE_S", 0.001)
    bench = begun()
    bench.producers.absent = 2
    bench.transaction.append([Append(OUTPUT, b"key", b"value", 0)] * 2)
    bench.transaction.append([Append(OUTPUT, b"key", b"value", 0)])
    assert (bench.producers.calls.count("list_topics"), bench.producers.calls.count("produce")) == (3, 3)


def test_a_topic_that_is_not_there_stops_the_worker_before_anything_is_appended(begun, monkeypatch):
    monkeypatch.setattr(appends, "_FIND_PAUSE_S", 0.001)
    bench = begun()
    bench.producers.absent = 1_000_000
    with pytest.raises(TopicUndeclared, match=r"there is no topic streams\.output\.v1") as stopped:
        bench.transaction.append([Append(OUTPUT, b"key", b"value", 0)])
    assert stopped.value.fatal
    assert "produce" not in bench.producers.calls


def test_offsets_that_are_never_answered_abort_the_unit_and_the_producer_is_made_anew(begun):
    never = threading.Event()
    bench = begun(send_offsets_to_transaction=[never])
    try:
        with pytest.raises(TransactionAborted, match="coordinator"):
            bench.transaction.send_offsets({SOURCE: 3}, UNIT, {})
        bench.transaction.abort()
        assert "abort_transaction" not in bench.producers.calls, "the producer that is at it is given up"
        bench.transaction.begin()
        bench.transaction.send_offsets({SOURCE: 3}, UNIT, {})
        bench.transaction.commit()
        assert bench.producers.calls.count("made") == 2
    finally:
        never.set()


@pytest.mark.parametrize(
    "call", ["flush", "send_offsets_to_transaction", "commit_transaction", "abort_transaction"]
)
def test_a_worker_that_leaves_waits_for_no_call_to_its_end(begun, leaving, call):
    bench = begun(**{call: UNANSWERED if call != "send_offsets_to_transaction" else [threading.Event()]})
    bench.transaction._timeout_s = 3_600.0
    bench.transaction._live.flush = lambda _timeout_s: 1 if call == "flush" else 0
    steps = {
        "flush": bench.transaction.flush,
        "send_offsets_to_transaction": lambda: bench.transaction.send_offsets({SOURCE: 3}, UNIT, {}),
        "commit_transaction": bench.transaction.commit,
        "abort_transaction": bench.transaction.abort,
    }
    threading.Timer(0.05, leaving.set).start()
    try:
        steps[call]()
    except (TransactionAborted, OutcomeUnknown):
        assert call != "abort_transaction"


def test_a_producer_that_the_broker_fenced_for_an_old_transaction_has_not_been_replaced(begun):
    bench = begun(abort_transaction=[refused(KafkaError._FENCED)] * 3)
    for _ in range(3):
        bench.transaction.begin()
        bench.transaction._began_at -= 0.05  # the broker ended it by its time-out
        bench.transaction.abort()


def test_a_record_that_the_broker_finds_too_large_is_named(begun):
    bench = begun()
    message = SimpleNamespace(topic=lambda: "streams.output.v1", key=lambda: b"key", value=lambda: bytes(99))
    bench.transaction._delivered(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), message)
    with pytest.raises(AppendRefused, match=r"99 bytes is too large for streams\.output\.v1"):
        bench.transaction.flush()


@pytest.mark.parametrize(
    ("facility", "text", "made"),
    [
        ("REQTMOUT", "Timed out 1 in-flight", 2),
        ("FAIL", "Disconnected (after 3ms in state UP)", 2),
        ("FAIL", "Connect to b failed (after 3ms in state CONNECT, 1 identical error(s) suppressed)", 1),
        ("TXNERR", "said by librdkafka", 1),
    ],
)
def test_after_a_disturbed_connection_the_next_transaction_has_a_producer_of_its_own(
    begun, facility, text, made
):
    bench = begun()
    bench.transaction.log(30, "%s [%s] %s", facility, "producer-1", text)
    bench.transaction.commit()
    bench.transaction.begin()
    bench.transaction.commit()
    bench.transaction.begin()
    assert bench.producers.calls.count("made") == made


def test_after_a_silence_in_which_librdkafka_tells_of_no_connection_the_producer_is_made_anew(begun):
    bench = begun()
    bench.transaction.commit()
    bench.transaction._used_at -= 59
    bench.transaction.begin()
    bench.transaction.commit()
    assert bench.producers.calls.count("made") == 1
    bench.transaction._used_at -= 61
    bench.transaction.begin()
    assert bench.producers.calls.count("made") == 2


def test_before_a_silence_is_that_long_the_producer_is_made_anew_while_no_event_waits(begun):
    bench = begun()
    bench.transaction.commit()
    bench.transaction._used_at -= 40
    bench.transaction.renew()
    assert bench.producers.calls.count("made") == 1
    bench.transaction._used_at -= 10
    bench.transaction.renew()
    bench.transaction._used_at -= 40
    bench.transaction.begin()
    assert bench.producers.calls.count("made") == 2, "and not once more by the next unit"
