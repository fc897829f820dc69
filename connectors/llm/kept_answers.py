"""An attempt's answer as a recording, made of what its worker kept on ``llm.raw.v1``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from connectors.kafka.committed import CommittedReader
from connectors.llm.errors import RecordingRefused
from connectors.llm.recording import BYTES_MAX, Recorded, Recording
from schemas.topics import LLM_RAW

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from connectors.kafka.options import KafkaOptions
    from connectors.llm.calls import Shape
    from schemas.wire import WireCodec

_REMEDY = "It is kept for a day, if anything came, and only of routes whose keep.raw is redacted or full."


@dataclass(slots=True)
class Gathered:
    """One attempt's events so far; records may come twice, and are taken by their index once.

    Of several workers that read the answer, each from its beginning, it has what the last of them read.
    """

    shape: str
    events: list[Recorded] = field(default_factory=list)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    missing: bool = False
    epoch: int = 0

    def take(self, record: Mapping[str, Any]) -> None:
        """Take one record. Raises RecordingRefused when it is too much."""
        is_body = bool(record.get("status"))  # records of an earlier version are of events alone
        epoch = int(record.get("epoch") or 0)
        if epoch < self.epoch:
            return  # of a worker that is given up
        if epoch > self.epoch:
            if is_body and self._has_events:
                return  # it cannot be gone on with, which says nothing of it
            self.events, self.status, self.headers = [], 200, {}
            self.size, self.missing, self.epoch = 0, False, epoch
        have = len(self.events)
        skip = have - int(record["first_index"])
        if skip < 0:
            self.missing = True
            skip = 0
        names = record.get("events") or [""] * len(record["chunks"])
        if is_body:
            self.status, self.headers = record["status"], record["headers"]
        comments = frozenset(record.get("comments") or ())
        chunks = list(enumerate(zip(record["at_us"], names, record["chunks"], strict=True)))
        for place, (at_us, name, data) in chunks[skip:]:
            last_us = self.events[-1].at_us if self.events else 0
            came_us = max(int(at_us), last_us)
            if is_body:
                self.events.append(Recorded(came_us, body=data))
            elif place in comments:
                self.events.append(Recorded(came_us, comment=data))
            else:
                self.events.append(Recorded(came_us, data, name))
            self.size += len(data)
        if self.size > BYTES_MAX:
            raise RecordingRefused(f"the answer is larger than {BYTES_MAX} characters")

    @property
    def _has_events(self) -> bool:
        return any(each.body is None and each.comment is None for each in self.events)

    def recording(self, note: str) -> Recording:
        """Give what was taken."""
        return Recording(cast("Shape", self.shape), self.events, self.status, self.headers, note)


def kept_answer(
    kafka: KafkaOptions, wire: WireCodec, tenant: str, stream_id: str, attempt: int | None
) -> Recording:
    """Read an attempt's answer; None = of the last attempt of which something was kept.

    It reads the topic from its start to its end as of now.

    Raises:
        RecordingRefused: nothing was kept of it, or not its beginning.
        KafkaUnavailable, NotAuthorized, RegistryUnavailable: as their names say.
    """
    key = f"{tenant}/{stream_id}".encode()
    attempts: dict[int, Gathered] = {}
    with closing(CommittedReader(kafka, kafka.topic_prefix + LLM_RAW.name)) as reader:
        for message in reader.present():
            value = message.value()
            if message.key() != key or value is None:
                continue
            record = wire.decode(value, LLM_RAW.subject)
            number = int(record["attempt"])
            if attempt is None or number == attempt:
                attempts.setdefault(number, Gathered(record["shape"])).take(record)
    number = max(attempts, default=0) if attempt is None else attempt
    gathered = attempts.get(number)
    what = f"{tenant}/{stream_id}" + (f", attempt {attempt}" if attempt is not None else "")
    if gathered is None:
        raise RecordingRefused(f"nothing was kept of {what}", remedy=_REMEDY)
    if gathered.missing:
        raise RecordingRefused(f"a part of what was kept of {what} is gone", remedy=_REMEDY)
    return gathered.recording(f"{tenant}/{stream_id}, attempt {number}")
