"""What can go wrong between us and Kafka.

KafkaFailure
├── KafkaUnavailable      no broker answers
│   └── NotAuthenticated  the broker does not take us for who we say we are
├── NotAuthorized         an ACL is missing for our principal
├── ConsumerFailed        a consumer cannot go on
│   └── ConsumerFenced    another process has this member's identity
├── PositionRefused       the broker does not tell where a group or a topic stands
├── RestoreStalled        a changelog cannot be read to its end
├── AppendRefused         one record is too large for its topic
├── AppendFailed          nothing was appended, or nobody knows: repeat it, event ids make that safe
├── ReplayFailed          dead letters were not handed in again, or nobody knows: run it again
├── NoSuchTopic           there is no topic of that name
│   └── TopicUndeclared   an agent writes to a topic that nothing declares
├── TopicsAbsent          topics that a process needs were not made
├── TopicMismatch         an existing topic is not as the table says
├── TransactionAborted    nothing of the transaction took place; it is done again
├── TransactionFenced     another process has this slot; this one must stop
├── HeldBack              an agent whose outputs cannot be held back was to be built beside the one that runs
├── ProducerFailed        a producer cannot keep the order of what it appends any more
├── OutcomeUnknown        whether a commit took place is not known, and is not guessed
└── NotSupported          a part of Faust that is not in use here
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import SluicegateError
from schemas.meant import meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class KafkaFailure(SluicegateError):
    """Base of what Kafka, or the way to it, refuses."""


class KafkaUnavailable(KafkaFailure):
    """No broker answers, or not in time."""

    transient = True

    def __init__(self, bootstrap: str, cause: str) -> None:
        super().__init__(
            f"Kafka at {bootstrap} cannot be reached: {cause}",
            remedy="Check that it runs (`sluicegate status`) and SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS.",
        )


class NotAuthenticated(KafkaUnavailable):
    """A password or a certificate is refused, by the broker or by us."""

    transient = False

    def __init__(self, bootstrap: str, principal: str, cause: str) -> None:
        super().__init__(bootstrap, f"as {principal}: {cause}")
        self.remedy = (
            "Check SLUICEGATE_KAFKA__SECURITY_PROTOCOL, …__SASL_… and …__SSL_…: mechanism, name, password, "
            "and the authority that made the broker's certificate (docs/security.md)."
        )


class NotAuthorized(KafkaFailure):
    """The broker refuses our principal: waiting does not mend it."""

    fatal = True  # never the fault of an event

    def __init__(self, principal: str, what: str) -> None:
        super().__init__(
            f"{principal} may not {what}",
            remedy="`sluicegate topics acls --script` prints what each role needs, as lines for an "
            "administrator to run; docs/security.md says how.",
        )
        self.what = what


class ConsumerFailed(KafkaFailure):
    """A consumer met an error that waiting does not mend."""

    def __init__(self, group: str, cause: str) -> None:
        super().__init__(
            f"consumer of group {group} cannot go on: {cause}",
            remedy="Position outside of the log: runbooks/checkpoint-failure.md. A fenced instance: two "
            "workers share a slot.",
        )


class ConsumerFenced(ConsumerFailed):
    """Another process joined the group under this member's identity."""

    def __init__(self, group: str, instance_id: str) -> None:
        super().__init__(group, f"member {instance_id} is fenced, another process uses its identity")
        self.remedy = (
            "If the worker was replaced on purpose: nothing. Else give each worker a state folder, or a "
            "SLUICEGATE_WORKER__IDENTITY, of its own."
        )


class IdentityHeld(ConsumerFailed):
    """The broker keeps this member's identity for one that has not left (KIP-848 refuses the newcomer)."""

    def __init__(self, group: str, instance_id: str) -> None:
        super().__init__(group, f"member {instance_id} is held for another process, which has not left")
        self.remedy = (
            "If that one was killed: start again once its session is over (the brokers' "
            "group.consumer.session.timeout.ms, 45 s by default). If it runs: give each worker a state "
            "folder, or a SLUICEGATE_WORKER__IDENTITY, of its own."
        )


class PositionRefused(KafkaFailure):
    """The broker answered, and will not say where a group or a topic stands: waiting does not mend it."""

    fatal = True  # asked for the outcome of a commit, too: no answer must not be taken for an abort

    def __init__(self, what: str, cause: str) -> None:
        super().__init__(
            f"the position of {what} is refused: {cause}",
            remedy="An authorisation: `sluicegate topics acls --script` prints what the principal needs. "
            "An authentication: check SLUICEGATE_KAFKA__SECURITY_PROTOCOL and what goes with it.",
        )


class RestoreStalled(KafkaFailure):
    """A changelog's end was not reached."""

    transient = True  # Kafka may be away for as long as it likes: a role that has read before waits

    def __init__(self, topic: str, partition: int, position: int, end: int) -> None:
        super().__init__(
            f"restore of {topic}[{partition}] stands at {position} of {end} and does not move",
            remedy="An open transaction holds the end back, or the broker is slow: see "
            "runbooks/checkpoint-failure.md.",
        )


class AppendRefused(KafkaFailure):
    """One record is larger than its topic takes."""

    def __init__(self, topic: str, key: bytes | None, size_bytes: int) -> None:
        super().__init__(
            f"record {key!r} of {size_bytes} bytes is too large for {topic}",
            remedy="Split it, or publish a reference to it. If it is small, the topic refuses whole batches: "
            "its max.message.bytes was lowered; `sluicegate topics create` tells what differs.",
        )


class AppendFailed(KafkaFailure):
    """An append did not take place, or its outcome is not known; ``overloaded`` = it was not even tried."""

    remedy = "Repeat the request as it is: ingest drops what it has seen, by event_id."

    def __init__(self, problem: str, *, overloaded: bool = False) -> None:
        super().__init__(f"append failed: {problem}")
        self.problem = problem
        self.overloaded = overloaded


class ReplayFailed(KafkaFailure):
    """A batch of dead letters was not handed in again, or its outcome is not known."""

    remedy = (
        "Run the command again: it learns from Kafka what was handed in, and hands nothing in twice. "
        '"Fenced" means that somebody else began to replay meanwhile.'
    )

    def __init__(self, problem: str) -> None:
        super().__init__(f"replay stopped: {problem}")


class NoSuchTopic(KafkaFailure):
    """There is no topic of that name: correct it, or create it."""

    def __init__(self, topic: str, known: Iterable[str] = ()) -> None:
        super().__init__(
            f"there is no topic {topic}{meant(topic, known, '{}')}",
            remedy="`sluicegate topics list` names those of the table; the role that writes it creates it.",
        )


class TopicUndeclared(NoSuchTopic):
    """An agent appends to a topic that nobody made."""

    fatal = True  # never the fault of an event

    remedy = "Add it to TOPICS of the agent's module, or to `topics` of its Extension."

    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.remedy = TopicUndeclared.remedy


class TopicsAbsent(KafkaFailure):
    """Topics that a process reads or writes do not exist, and it does not make them."""

    remedy = "Have an operator run `sluicegate topics create`, or set SLUICEGATE_KAFKA__CREATE_TOPICS=true."

    def __init__(self, topics: Sequence[str], *, undeclared: bool = False) -> None:
        super().__init__(
            f"there is no topic {', '.join(topics)}", remedy=TopicUndeclared.remedy if undeclared else None
        )
        self.topics = tuple(topics)


class TopicMismatch(KafkaFailure):
    """An existing topic differs from the table in what cannot be changed."""

    def __init__(self, topic: str, problem: str, remedy: str) -> None:
        super().__init__(f"topic {topic}: {problem}", remedy=remedy)
        self.topic = topic


class TransactionAborted(KafkaFailure):
    """Nothing of the transaction took place; the caller does it again."""


class TransactionFenced(KafkaFailure):
    """The transactional id belongs to another process now."""

    fatal = True

    remedy = "If a worker was replaced on purpose: nothing. Else two workers share a slot: stop one."


class HeldBack(KafkaFailure):
    """An output of a generation that is not live yet cannot be held back."""

    fatal = True

    remedy = (
        "Say all topics that it writes in app.source(…, writes=…). One that names offsets of its outputs "
        "(on_offset) cannot be built beside: give it a new name and topics of its own."
    )

    def __init__(self, what: str) -> None:
        super().__init__(f"the agent {what}: its outputs cannot be held back")


class ProducerFailed(KafkaFailure):
    """A producer cannot keep the order of what it appends any more: start over from what Kafka has."""

    fatal = True

    remedy = "Start the worker again: it goes on from what is committed. If it repeats: the brokers' logs."

    def __init__(self, cause: str) -> None:
        super().__init__(f"the producer cannot go on: {cause}")


class OutcomeUnknown(KafkaFailure):
    """The worker left while the outcome of a commit was not known."""

    fatal = True

    remedy = "Start the worker again when Kafka is back: it goes on from what Kafka committed."

    def __init__(self, cause: str) -> None:
        super().__init__(f"whether the last unit of work was committed is not known: {cause}")


class NotSupported(KafkaFailure):
    """A part of Faust was called that sluicegate does not run on."""

    fatal = True  # never the fault of an event

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what} is not supported here", remedy=instead)
