"""The effects of one agent on one partition, in the open unit of work: kept, undone, and taken at its end."""

from __future__ import annotations

from collections import Counter
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from schemas.record import headers_bytes
from state.errors import EffectTooLarge
from state.journal import Journaled
from state.store import RECORD_OVERHEAD_BYTES, StagedView, sizes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.record import Headers, Record
    from schemas.topics import TopicSpec
    from state.store import Backend, StateView


class Append(NamedTuple):
    """One record to append; ``partition`` None = by key."""

    topic: TopicSpec
    key: bytes | None
    value: bytes | None
    partition: int | None
    on_offset: Callable[[int], None] | None = None
    headers: Headers = ()


_Which = tuple[str, bytes, "int | None"]
"""Topic, key and partition: of the updates under one, a unit of work appends the last."""
_Update = tuple["TopicSpec", "bytes | None"]
_OUTCOME, _LETTER = "outcome", "letter"  # what a scope counts


class DeadLetters(Protocol):
    """Makes the record of the dead letter topic."""

    def letter(
        self, record: Record, *, agent: str, cause: str, detail: str, attempts: int, raised_at: str = ""
    ) -> Append:
        """Return what to append for ``record``."""


class LateEvents(Protocol):
    """Makes the record of a topic of late events."""

    def event(self, record: Record, *, agent: str, time_us: int, watermark_us: int, detail: str) -> Append:
        """Return what to append for ``record``."""


class PartitionScope:
    """A ``state.scope.Scope``: the effects of one agent on one partition in the open unit of work."""

    def __init__(
        self,
        agent: str,
        partition: int,
        backend: Backend,
        changelog: TopicSpec | None,
        letters: DeadLetters,
        late: LateEvents | None = None,
    ) -> None:
        self.agent = agent
        self._late = late
        self._partition = partition
        self._letters = letters
        self.backend = backend
        self.changelog = changelog
        limit_bytes = changelog.max_message_bytes if changelog is not None else None
        self.view = StagedView(backend, limit_bytes)
        self.appends: list[Append] = []
        self.append_bytes = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._counted: list[tuple[str, str, int]] = []  # since the outermost savepoint
        self._updates: Journaled[_Which, _Update] = Journaled()
        self._marks: list[tuple[int, int, int]] = []

    @property
    def partition(self) -> int:
        """See ``Scope``."""
        return self._partition

    @property
    def state(self) -> StateView:
        """See ``Scope``."""
        return self.view

    def emit(
        self,
        topic: TopicSpec,
        key: bytes,
        value: bytes | None,
        *,
        partition: int | None = None,
        on_offset: Callable[[int], None] | None = None,
        headers: Headers = (),
    ) -> None:
        """See ``Scope``. Raises EffectTooLarge here, as the broker would refuse the whole unit."""
        size_bytes = len(key) + len(value or b"") + RECORD_OVERHEAD_BYTES
        if headers:
            size_bytes += headers_bytes(headers)
        if size_bytes > topic.max_message_bytes:
            raise EffectTooLarge(f"record for {topic.name}", size_bytes, topic.max_message_bytes)
        self._append(Append(topic, key, value, partition, on_offset, headers), size_bytes)

    def update(
        self, topic: TopicSpec, key: bytes, value: bytes | None, *, partition: int | None = None
    ) -> None:
        """See ``Scope``. Raises EffectTooLarge as ``emit``."""
        size_bytes = len(key) + len(value or b"") + RECORD_OVERHEAD_BYTES
        if size_bytes > topic.max_message_bytes:
            raise EffectTooLarge(f"record for {topic.name}", size_bytes, topic.max_message_bytes)
        self.append_bytes += size_bytes - RECORD_OVERHEAD_BYTES
        self._updates.put((topic.name, key, partition), (topic, value))

    def update_many(
        self,
        topic: TopicSpec,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        *,
        partition: int | None = None,
    ) -> None:
        """See ``Scope``. Raises EffectTooLarge as ``emit``, before anything of it is staged."""
        name = topic.name
        which = zip(repeat(name), keys, repeat(partition), strict=False)
        updates = dict(zip(which, zip(repeat(topic), values, strict=False), strict=True))
        sizes = sizes_of(keys, values)
        largest_bytes = max(sizes, default=0) + RECORD_OVERHEAD_BYTES
        if largest_bytes > topic.max_message_bytes:
            raise EffectTooLarge(f"record for {name}", largest_bytes, topic.max_message_bytes)
        self.append_bytes += sum(sizes)
        self._updates.put_many(updates)

    def dead_letter(
        self, record: Record, cause: str, detail: str, attempts: int = 1, raised_at: str = ""
    ) -> None:
        """See ``Scope``; ``raised_at`` is where in the agent's code, if an error of its own is the cause."""
        letter = self._letters.letter(
            record, agent=self.agent, cause=cause, detail=detail, attempts=attempts, raised_at=raised_at
        )
        self._append(letter, len(letter.value or b"") + RECORD_OVERHEAD_BYTES)
        self._counted.append((_LETTER, cause, 1))

    def late(
        self,
        record: Record,
        *,
        time_us: int,
        watermark_us: int,
        outcome: str = "late",
        detail: str = "",
    ) -> None:
        """See ``Scope``."""
        self.count(outcome)
        if self._late is not None:
            late = self._late.event(
                record, agent=self.agent, time_us=time_us, watermark_us=watermark_us, detail=detail
            )
            self._append(late, len(late.value or b"") + RECORD_OVERHEAD_BYTES)

    def _append(self, append: Append, size_bytes: int) -> None:
        self.appends.append(append)
        self.append_bytes += size_bytes

    def count(self, outcome: str, n: int = 1) -> None:
        """See ``Scope``."""
        self._counted.append((_OUTCOME, outcome, n))

    @property
    def counts(self) -> Counter[str]:
        """What was counted and not undone, by outcome."""
        return self._of(_OUTCOME)

    @property
    def letters(self) -> Counter[str]:
        """Dead letters that were made and not undone, by cause."""
        return self._of(_LETTER)

    def _of(self, kind: str) -> Counter[str]:
        found = Counter({name: n for (of, name), n in self._counts.items() if of == kind})
        for of, name, n in self._counted:
            if of == kind:
                found[name] += n
        return found

    def savepoint(self) -> None:
        """Begin a step that can be undone alone."""
        self.view.savepoint()
        self._updates.savepoint()
        self._marks.append((len(self.appends), self.append_bytes, len(self._counted)))

    def keep(self) -> None:
        """Keep the step's effects."""
        self.view.keep()
        self._updates.keep()
        self._marks.pop()
        if not self._marks:
            self._count_up()

    def next_step(self) -> None:
        """Keep the one step that there is and begin another: ``keep`` and ``savepoint`` in one."""
        self.view.next_step()
        self._updates.forget()
        self._count_up()
        self._marks[0] = (len(self.appends), self.append_bytes, 0)

    def _count_up(self) -> None:
        for kind, name, n in self._counted:
            self._counts[kind, name] += n
        self._counted.clear()

    def undo(self) -> None:
        """Take the step's effects back."""
        self.view.undo()
        self._updates.undo()
        appended, self.append_bytes, counted = self._marks.pop()
        del self.appends[appended:]
        del self._counted[counted:]

    @property
    def effect_records(self) -> int:
        """How many records the unit would append for this scope, the changelog's included."""
        return len(self.appends) + len(self._updates.data) + len(self.view.staged)

    @property
    def effect_bytes(self) -> int:
        """Their bytes, or more: those of values that later ones replaced are counted, too."""
        return self.append_bytes + self.view.written_bytes

    def take_appends(self) -> list[Append]:
        """Return what is to be appended and begin anew (what an ``on_offset`` adds comes next)."""
        taken, self.appends = self.appends, []
        for (_, key, partition), (topic, value) in self._updates.data.items():
            taken.append(Append(topic, key, value, partition))
        self._updates.clear()
        self.append_bytes = 0
        return taken

    def drop(self) -> None:
        """Forget all effects."""
        self.view.drop()
        self.appends.clear()
        self.append_bytes = 0
        self._counts.clear()
        self._counted.clear()
        self._marks.clear()
        self._updates.clear()
