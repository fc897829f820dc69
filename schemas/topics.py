"""The table of topics: every topic is created, described and checked from here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

Cleanup = Literal["delete", "compact", "compact,delete"]

DAY_MS: Final = 86_400_000
MIB: Final = 1_048_576
TOMBSTONES_MS: Final = 7 * DAY_MS
"""How long a compacted topic keeps tombstones: who begins at a checkpoint this old still sees them."""

# A value of at most 1 MiB, its key of at most 193 bytes, and the batch's own framing (< 200 bytes).
EVENT_BYTES_MAX: Final = MIB + 4_096
# A dead letter holds the whole record that it is about (the broker let it in), with coordinates and a cause.
DEAD_LETTER_BYTES_MAX: Final = EVENT_BYTES_MAX + 65_536


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it must be: what its key and subject are, and how long it keeps what."""

    name: str
    key: str
    subject: str
    """In the schema registry; empty = its values are not in the registry's format."""
    partitions: int
    retention_ms: int
    """-1 = for ever (compacted topics)."""
    cleanup: Cleanup
    doc: str
    max_message_bytes: int = EVENT_BYTES_MAX
    segment_ms: int | None = None
    """A broker deletes whole segments, and begins one after so long: records stay by this much longer.
    None = the broker's default, a week."""
    segment_bytes: int | None = None
    """Or after so many bytes, in each partition; at least a MiB. It compacts whole segments, too, and makes
    one of several that became small; ``compact,delete`` deletes it when the newest record in it is old
    enough. None = the broker's default, a GiB."""
    tombstones_ms: int = TOMBSTONES_MS
    """A compacted topic keeps tombstones and the markers of transactions for so long after it first compacted
    them. A worker's disk that is older and not at the changelog's end is rebuilt; a rebuild that takes longer
    misses deletions."""

    def named(self, prefix: str) -> str:
        """Return the topic's name in a deployment whose names start with ``prefix``."""
        return prefix + self.name

    def config(self) -> dict[str, str]:
        """Return the broker's topic configuration; what is not named here is the broker's default."""
        config = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
            # The watermark trusts the broker's clock, never a producer's.
            "message.timestamp.type": "LogAppendTime",
        }
        if self.cleanup != "delete":
            config["delete.retention.ms"] = str(self.tombstones_ms)
        if self.segment_ms is not None:
            config["segment.ms"] = str(self.segment_ms)
        if self.segment_bytes is not None:
            config["segment.bytes"] = str(self.segment_bytes)
        return config


# Four partitions: one worker a core on the smallest machine that we run on (2), and room to double once.
# The count of a topic version never changes; more partitions is the next version of the topic.
STREAM_PARTITIONS: Final = 4

INPUT: Final = TopicSpec(
    name="streams.input.v1",
    key="tenant/stream_id",
    subject="sluicegate.Event",
    partitions=STREAM_PARTITIONS,
    retention_ms=3 * DAY_MS,  # a weekend without ingest loses nothing
    cleanup="delete",
    doc="What producers publish: events as they came, before ingest has judged them.",
)
OUTPUT: Final = TopicSpec(
    name="streams.output.v1",
    key="tenant/stream_id",
    subject="sluicegate.Event",
    partitions=STREAM_PARTITIONS,
    retention_ms=7 * DAY_MS,  # more than the longest history of a kind (3 days) plus a weekend
    cleanup="delete",
    doc="What ingest accepted, in order, with seq given: the only truth that clients are shown.",
)
INDEX: Final = TopicSpec(
    name="streams.index.v1",
    key="tenant/stream_id",
    subject="sluicegate.StreamIndex",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="Where each stream starts, stands and ends in the output topic, so that nobody scans for it.",
)
RECORDS: Final = TopicSpec(
    name="streams.records.v1",
    key="tenant/stream_id",
    subject="sluicegate.StreamRecord",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="The structured record of each stream, revised as it goes on.",
)
REJECTS: Final = TopicSpec(
    name="streams.rejects.v1",
    key="tenant/stream_id",
    subject="sluicegate.Reject",
    partitions=STREAM_PARTITIONS,
    retention_ms=DAY_MS,  # a producer asks within minutes; a day covers a shift that looks the next morning
    cleanup="delete",
    doc="One verdict for each event that ingest did not accept.",
)
USAGE_PARTIALS: Final = TopicSpec(
    name="usage.partials.v1",
    key="tenant/kind/provider/model",
    subject="sluicegate.UsagePartial",
    partitions=STREAM_PARTITIONS,
    retention_ms=DAY_MS,  # read within seconds; a day is the longest outage that the merge may have
    cleanup="delete",
    doc="Usage windows of one source partition each: the first of the two stages.",
)
USAGE_WINDOWS: Final = TopicSpec(
    name="usage.windows.v1",
    key="window_start_us/tenant/kind/provider/model",
    subject="sluicegate.UsageWindow",
    partitions=STREAM_PARTITIONS,
    retention_ms=30 * DAY_MS,  # PostgreSQL keeps them longer; the topic serves readers that come late
    cleanup="compact,delete",
    doc="Usage windows over all partitions: the latest revision of each.",
)
DEAD_LETTERS: Final = TopicSpec(
    name="dead.letters.v1",
    key="the record's own key",
    subject="sluicegate.DeadLetter",
    partitions=STREAM_PARTITIONS,
    retention_ms=30 * DAY_MS,  # time to notice, mend the producer and replay
    cleanup="delete",
    doc="Records that could not be handled, with their bytes, coordinates and cause.",
    max_message_bytes=DEAD_LETTER_BYTES_MAX,
)
LATE_EVENTS: Final = TopicSpec(
    name="late.events.v1",
    key="the record's own key",
    subject="sluicegate.LateEvent",
    partitions=STREAM_PARTITIONS,
    retention_ms=7 * DAY_MS,  # time to see how late they are, and to widen the grace or to correct by hand
    cleanup="delete",
    doc="Records that came after their window had closed, with their bytes, coordinates and the watermark.",
    max_message_bytes=DEAD_LETTER_BYTES_MAX,
)
DEAD_REPLAYS: Final = TopicSpec(
    name="dead.replays.v1",
    key="the letter's partition:offset",
    subject="sluicegate.DeadLetterReplay",
    partitions=1,  # what people do by hand, read whole before each replay
    retention_ms=90 * DAY_MS,  # far longer than a letter stands: one that does is never replayed unawares
    cleanup="compact,delete",
    doc="Which dead letters' records are to be handled again, by whom, and who said so: each once.",
)
CONTROLS: Final = TopicSpec(
    name="ops.controls.v1",
    key="role or role/partition",
    subject="sluicegate.Control",
    partitions=1,  # some records in all, read whole by each worker at its start
    retention_ms=-1,
    cleanup="compact",
    doc="What operators told the roles, as long as it holds: which partitions are paused.",
)
DEPLOYED: Final = TopicSpec(
    name="ops.roles.v1",
    key="role",
    subject="sluicegate.Role",
    partitions=1,  # a record a role, read whole by each worker at its start
    retention_ms=-1,
    cleanup="compact",
    doc="What is deployed of each role: its generation, and the schema and version of its stores.",
)
AUDIT: Final = TopicSpec(
    name="ops.audit.v1",
    key="role or role/partition",
    subject="sluicegate.Audit",
    partitions=1,  # in the order in which it was done
    retention_ms=365 * DAY_MS,  # a review of the year's incidents still finds who did what
    cleanup="delete",
    doc="Each lever that was moved: who, on what, why, and how it is taken back.",
)
PRESSURE: Final = TopicSpec(
    name="edge.pressure.v1",
    key="tenant/stream_id/edge",
    subject="sluicegate.Pressure",
    partitions=1,  # a record an edge and slow stream, each read by every edge
    retention_ms=DAY_MS,  # what was not said again for seconds counts no more; a day to look at it
    cleanup="compact,delete",
    doc="How many of a stream's clients are behind, by edge, while any is: what slows its producer.",
)
CONNECTIONS: Final = TopicSpec(
    name="edge.connections.v1",
    key="tenant/stream_id",
    subject="sluicegate.ConnectionEvent",
    partitions=STREAM_PARTITIONS,
    retention_ms=7 * DAY_MS,  # as long as the events that were delivered
    cleanup="delete",
    doc="How streams were delivered: opened, resumed, gap, closed, as edges saw it; best effort.",
)
REVOCATIONS: Final = TopicSpec(
    name="edge.revocations.v1",
    key="jti:ID or sub:NAME",
    subject="sluicegate.Revocation",
    partitions=1,  # what people do by hand; read whole by each edge before it lets anybody in
    retention_ms=-1,
    cleanup="compact",
    doc="Tokens that were taken back before they expired.",
)
LLM_REQUESTS: Final = TopicSpec(
    name="llm.requests.v1",
    key="tenant/stream_id",
    subject="sluicegate.LlmRequest",
    partitions=STREAM_PARTITIONS,
    retention_ms=3 * DAY_MS,  # as what producers publish
    cleanup="delete",
    doc="Language models are to be asked; the answer becomes the stream of that name.",
)
LLM_CONTROL: Final = TopicSpec(
    name="llm.control.v1",
    key="tenant/stream_id",
    subject="sluicegate.Event",
    partitions=STREAM_PARTITIONS,
    retention_ms=DAY_MS,  # an operation is over long before
    cleanup="delete",
    doc="Cancels that ingest accepted, its time-outs, and opens that it refused as second ones: what makes a "
    "worker close a provider's connection.",
)
LLM_ATTEMPTS: Final = TopicSpec(
    name="llm.attempts.v1",
    key="tenant/stream_id/attempt@partition.offset",
    subject="sluicegate.LlmAttempt",
    partitions=STREAM_PARTITIONS,
    retention_ms=90 * DAY_MS,  # a quarter's costs can be counted again from it
    cleanup="compact,delete",
    doc="The ledger: each call of a provider, on record before it is made, and as it was settled.",
)
LLM_CONTENTS: Final = TopicSpec(
    name="llm.contents.v1",
    key="tenant/stream_id/attempt@partition.offset",
    subject="sluicegate.LlmAttempt",
    partitions=STREAM_PARTITIONS,
    retention_ms=30 * DAY_MS,  # as `llm.content_days`, after which PostgreSQL has them no more either
    cleanup="delete",
    doc="Rows of the ledger with what was sent and what came, where a route keeps it: the ledger has none.",
    segment_ms=DAY_MS,
)
LLM_RAW: Final = TopicSpec(
    name="llm.raw.v1",
    key="tenant/stream_id",
    subject="sluicegate.LlmRaw",
    partitions=STREAM_PARTITIONS,
    retention_ms=DAY_MS,  # long enough to make a recording of what went wrong; it may hold what people wrote
    cleanup="delete",
    doc="What providers sent, as it came; only where the policy lets it be kept.",
    segment_ms=DAY_MS // 4,
)
LLM_ROUTES: Final = TopicSpec(
    name="llm.routes.v1",
    key="name/version",
    subject="sluicegate.LlmRoute",
    partitions=1,  # what people do by hand; read whole by each worker at its start
    retention_ms=-1,
    cleanup="compact",
    doc="Routes: which providers are tried; every version, so that one can go back.",
)
LLM_PROMPTS: Final = TopicSpec(
    name="llm.prompts.v1",
    key="name/version or name",
    subject="sluicegate.LlmPrompt",
    partitions=1,  # as routes
    retention_ms=-1,
    cleanup="compact",
    doc="Prompts: every version, and what the labels stand for.",
)
LLM_PARTIALS: Final = TopicSpec(
    name="llm.partials.v1",
    key="tenant/kind/provider/model/prompt/prompt_version",
    subject="sluicegate.LlmPartial",
    partitions=STREAM_PARTITIONS,
    retention_ms=DAY_MS,  # as those of usage
    cleanup="delete",
    doc="Windows of the ledger, of one of its partitions each: the first of the two stages.",
)
LLM_WINDOWS: Final = TopicSpec(
    name="llm.windows.v1",
    key="window_start_us/tenant/kind/provider/model/prompt/prompt_version",
    subject="sluicegate.LlmWindow",
    partitions=STREAM_PARTITIONS,
    retention_ms=30 * DAY_MS,  # as those of usage
    cleanup="compact,delete",
    doc="Windows of attempts over all partitions: the latest revision of each.",
)
LLM_TASK_PARTS: Final = TopicSpec(
    name="llm.task.parts.v1",
    key="tenant/task_id",
    subject="sluicegate.LlmTaskPart",
    partitions=STREAM_PARTITIONS,
    retention_ms=DAY_MS,  # read within seconds; a day is the longest outage that the join may have
    cleanup="delete",
    doc="What tasks' costs are made of, brought to the partition of the task.",
)
LLM_TASKS: Final = TopicSpec(
    name="llm.tasks.v1",
    key="tenant/task_id/begun_us",
    subject="sluicegate.LlmTask",
    partitions=STREAM_PARTITIONS,
    retention_ms=90 * DAY_MS,  # as the ledger
    cleanup="compact,delete",
    doc="What each task cost: the latest revision of each.",
)
INGEST_STREAMS_CHANGELOG: Final = TopicSpec(
    name="ingest.streams.changelog.v1",
    key="state key",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="State of ingest: streams, their order and what was seen; the truth of its RocksDB.",
    max_message_bytes=2 * MIB,  # a stream's state may hold reordered events besides its own fields
)
AGGREGATE_PARTIALS_CHANGELOG: Final = TopicSpec(
    name="aggregate.partials.changelog.v1",
    key="state key",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="State of the first stage of usage.",
)
AGGREGATE_WINDOWS_CHANGELOG: Final = TopicSpec(
    name="aggregate.windows.changelog.v1",
    key="state key",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="State of the second stage of usage.",
)
ACCOUNT_ATTEMPTS_CHANGELOG: Final = TopicSpec(
    name="account.attempts.changelog.v1",
    key="state key",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="State of the first stage of the ledger's windows, with the attempts that were counted.",
)
ACCOUNT_WINDOWS_CHANGELOG: Final = TopicSpec(
    name="account.windows.changelog.v1",
    key="state key",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="State of the second stage of the ledger's windows.",
)
ACCOUNT_STREAMS_CHANGELOG: Final = TopicSpec(
    name="account.streams.changelog.v1",
    key="state key",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="State of what finds parts of tasks in the output: the tasks of open streams.",
)
ACCOUNT_TASKS_CHANGELOG: Final = TopicSpec(
    name="account.tasks.changelog.v1",
    key="state key",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",
    doc="State of what adds up tasks: tasks and their parts.",
)

TOPICS: Final[tuple[TopicSpec, ...]] = (
    INPUT,
    OUTPUT,
    INDEX,
    RECORDS,
    REJECTS,
    USAGE_PARTIALS,
    USAGE_WINDOWS,
    DEAD_LETTERS,
    LATE_EVENTS,
    DEAD_REPLAYS,
    CONTROLS,
    DEPLOYED,
    AUDIT,
    REVOCATIONS,
    PRESSURE,
    CONNECTIONS,
    LLM_REQUESTS,
    LLM_CONTROL,
    LLM_ATTEMPTS,
    LLM_CONTENTS,
    LLM_RAW,
    LLM_ROUTES,
    LLM_PROMPTS,
    LLM_PARTIALS,
    LLM_WINDOWS,
    LLM_TASK_PARTS,
    LLM_TASKS,
    INGEST_STREAMS_CHANGELOG,
    AGGREGATE_PARTIALS_CHANGELOG,
    AGGREGATE_WINDOWS_CHANGELOG,
    ACCOUNT_ATTEMPTS_CHANGELOG,
    ACCOUNT_WINDOWS_CHANGELOG,
    ACCOUNT_STREAMS_CHANGELOG,
    ACCOUNT_TASKS_CHANGELOG,
)

TAKES_AGAIN: Final = frozenset({INPUT, USAGE_PARTIALS, LLM_PARTIALS, LLM_TASK_PARTS})
"""Topics of the table that a record may be appended to once more: it is judged anew, superseded or known.
Every other one has a single writer, and readers for whom the record would take place twice."""

_VERSION = re.compile(r"\.v([1-9][0-9]{0,3})$")


def topic_version(name: str) -> int:
    """Return the version at the end of a topic's name, with or without a prefix: ``….v1`` → 1.

    Raises:
        ValueError: the name does not end in ``.v<number>``.
    """
    found = _VERSION.search(name)
    if found is None:
        raise ValueError(f"topic {name!r} does not end in .v<number>")
    return int(found[1])


def stem_of(name: str) -> str:
    """Return a topic's name up to its version, with the dot; raises ValueError as ``topic_version``."""
    topic_version(name)
    return name.rpartition("v")[0]


def beside(spec: TopicSpec, mark: str) -> TopicSpec:
    """Return a topic that stands in for another: of ``a.log.v1`` and the mark ``s2``, ``a.log.s2.v1``.

    The mark stands behind the stem, so who may use all names with that stem may use this one.
    """
    return replace(spec, name=f"{stem_of(spec.name)}{mark}.v{topic_version(spec.name)}")


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's Java client gives a key (murmur2, sign bit dropped, modulo)."""
    return (_murmur2(key) & 0x7FFF_FFFF) % partitions


@lru_cache(maxsize=16_384)  # a stream's key comes once an event: about 4 MiB at worst
def _murmur2(data: bytes) -> int:
    """Hash as ``org.apache.kafka.common.utils.Utils.murmur2``, as an unsigned 32-bit number."""
    factor, mask = 0x5BD1_E995, 0xFFFF_FFFF
    length = len(data)
    value = 0x9747_B28C ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        value = value * factor & mask ^ word
    if whole < length:
        value = (value ^ int.from_bytes(data[whole:], "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15
