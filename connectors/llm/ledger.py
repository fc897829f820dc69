"""The ledger's rows: one an attempt, on record before the call and again when it is settled."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import structlog

from connectors.llm.deltas import Usage
from schemas.errors import WireError
from schemas.topics import LLM_ATTEMPTS, LLM_CONTENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.deltas import Detail
    from connectors.llm.plan import Why
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

State = Literal["started", "completed", "failed", "cancelled", "abandoned", "refused"]
EndReason = Literal["", "completed", "cancelled", "timed_out", "upstream_error"]

RAW_MAX: Final = 2_000
"""Characters of a provider's own words about an error that are kept."""


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One row; its fields are those of ``sluicegate.LlmAttempt``, which says what each is."""

    tenant: str
    stream_id: str
    kind: str
    attempt: int
    epoch: int
    state: State = "started"
    request_id: str = ""
    task_id: str = ""
    upstream: str = "model"
    provider: str = ""
    model: str = ""
    model_answered: str = ""
    model_named: bool = True
    route: str = ""
    route_version: int = 0
    prompt: str = ""
    prompt_version: int = 0
    why: Why = "first"
    requested_us: int = 0
    started_us: int = 0
    connected_us: int = 0
    first_content_us: int = 0
    last_content_us: int = 0
    ended_us: int = 0
    http_status: int = 0
    provider_request_id: str = ""
    finish: str = ""
    finish_raw: str = ""
    error_class: str = ""
    error_raw: str = ""
    retry_after_ms: int = 0
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_details: dict[str, int] = field(default_factory=dict)
    usage_source: str = "unknown"
    cost_nanos: int | None = None
    cost_source: str = "unknown"
    price_version: str = ""
    reserved_tokens: int = 0
    reserved_nanos: int = 0
    contents: int = 0
    shown: bool | None = None
    characters: int = 0
    chunks: int = 0
    input_json: str | None = None
    output_json: str | None = None
    gate: str = ""
    end_reason: EndReason = ""
    worker: str = ""
    request_partition: int = -1
    request_offset: int = -1

    @property
    def key(self) -> bytes:
        """The row's Kafka key."""
        name = name_of(self.attempt, self.request_partition, self.request_offset)
        return f"{self.tenant}/{self.stream_id}/{name}".encode()

    @property
    def operation(self) -> bytes:
        """The stream's key."""
        return f"{self.tenant}/{self.stream_id}".encode()

    def count(self, usage: Usage) -> None:
        """Take over the provider's figures."""
        self.input_tokens = usage.input_tokens
        self.cached_input_tokens = usage.cached_input_tokens
        self.cache_write_tokens = usage.cache_write_tokens
        self.output_tokens = usage.output_tokens
        self.reasoning_tokens = usage.reasoning_tokens
        self.usage_details = dict(usage.details.items())

    @property
    def usage(self) -> Usage:
        """The provider's figures, as they were taken over."""
        return Usage(
            self.input_tokens,
            self.cached_input_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            cast("Mapping[Detail, int]", self.usage_details),
        )

    def encoded(self, codec: WireCodec) -> bytes:
        """Return the row as it stands on the ledger: what was sent and what came is no part of it."""
        return codec.encode(LLM_ATTEMPTS.subject, asdict(self) | {"input_json": None, "output_json": None})

    def with_contents(self, codec: WireCodec) -> bytes | None:
        """Return the row as it stands on ``llm.contents.v1``; None where nothing of the call is kept."""
        if self.input_json is None and self.output_json is None:
            return None
        return codec.encode(LLM_CONTENTS.subject, asdict(self))


_FIELDS: Final = frozenset(Attempt.__dataclass_fields__)


def attempt_of(record: Mapping[str, Any]) -> Attempt:
    """Make a row of a decoded record; what later versions added is left out."""
    return Attempt(**{name: value for name, value in record.items() if name in _FIELDS})


def name_of(attempt: int, request_partition: int, request_offset: int) -> str:
    """Name an attempt within its stream: two questions for one name may have attempts of one number."""
    return f"{attempt}@{request_partition}.{request_offset}"


def read_row(codec: WireCodec, value: bytes, partition: int, offset: int) -> Attempt | None:
    """Read a row of the ledger; one that cannot be read is logged, and left out."""
    try:
        return attempt_of(codec.decode(value, LLM_ATTEMPTS.subject))
    except WireError as error:
        where = {"partition": partition, "offset": offset}
        log.error("undecodable_row", **where, cause=str(error))  # noqa: TRY400  # the data's fault
        return None


class Known:
    """What the ledger says of one operation: its attempts by number."""

    __slots__ = ("attempts", "unseen")

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.unseen = False
        """Whether it is known that no client was shown anything of it."""

    def take(self, row: Attempt) -> None:
        """Take a row; the latest of each attempt counts."""
        self.attempts[row.attempt] = row

    @property
    def end(self) -> Attempt | None:
        """The row that the operation ended with; None = it has not."""
        return next((row for row in self.attempts.values() if row.end_reason), None)

    def after_end(self) -> Known | None:
        """Give what began after the end: another life of the stream's name; all of it where none ended."""
        if (end := self.end) is None:
            return self
        later = Known()
        later.unseen = self.unseen
        for row in self.attempts.values():
            if row.started_us > end.ended_us:
                later.take(row)
        return later if later.attempts else None

    @property
    def next_attempt(self) -> int:
        """Number of the attempt that would follow."""
        return max(self.attempts, default=0) + 1

    @property
    def next_epoch(self) -> int:
        """Epoch that a new owner's output has: above all that a dead one may still write."""
        return max((row.epoch for row in self.attempts.values()), default=-1) + 1

    @property
    def unsettled(self) -> list[Attempt]:
        """Attempts whose owner died before it settled them."""
        return [row for row in self.attempts.values() if row.state == "started"]
