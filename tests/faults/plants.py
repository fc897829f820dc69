"""Defects planted into a real engine, and points at which a worker kills itself.

Each defect is one that an engine can really have; it is planted into one partition, whose number is given,
of the ledger, or of the tally where it says so.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from confluent_kafka import Producer

from connectors.kafka.errors import TransactionAborted
from state.errors import PositionLost
from tests.faults.ledger import INPUT
from tests.faults.tally import AGENT, CLOSED_UP_TO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.kafka.chunk import SourcePartition
    from pipelines.role import RoleApp

log = structlog.get_logger(__name__)

SKIPPED = 5
LATE_S = 30.0


def install(app: RoleApp, planted: Mapping[str, int]) -> None:
    """Plant what ``planted`` names; its numbers are partitions, or of ``kill`` how many units are spared."""
    for name, number in planted.items():
        PLANTS[name](app, number)


def _scope(app: RoleApp, partition: int, agent: str = "") -> Any:
    return app.engine.unit._scopes.get((agent or app.role, partition))


def _is_of_ledger(source: SourcePartition, partition: int) -> bool:
    return source.topic.endswith(INPUT.name) and source.partition == partition


def _before_append(app: RoleApp, partition: int, harm: Callable[[Any], None], agent: str = "") -> None:
    """Have ``harm`` be done to an agent's part of each unit before its outputs are appended."""
    unit = app.engine.unit
    append = unit._append

    def planted(result: Any) -> None:
        if (scope := _scope(app, partition, agent)) is not None:
            harm(scope)
        append(result)

    unit._append = planted  # type: ignore[method-assign]


def commits_without_outputs(app: RoleApp, partition: int) -> None:
    """Offsets and changelog of a unit commit, its outputs do not."""
    _before_append(app, partition, lambda scope: scope.appends.clear())


def outputs_twice(app: RoleApp, partition: int) -> None:
    """What was appended before a failure is appended again, in the same transaction."""
    _before_append(app, partition, lambda scope: scope.appends.extend(list(scope.appends)))


def _at_open(app: RoleApp, partition: int, harm: Callable[[Callable[[], int]], int]) -> None:
    """Have ``harm`` open the partition: given what says where it begins, it says so itself."""
    engine = app.engine
    open_engine = engine.open

    def opened(sources: Any) -> None:
        open_engine(sources)
        begin = engine.partitions.open

        def planted(where: Any, cancelled: Any) -> int:
            if _is_of_ledger(where, partition):
                return harm(lambda: begin(where, cancelled))
            return begin(where, cancelled)

        engine.partitions.open = planted  # type: ignore[method-assign]

    engine.open = opened  # type: ignore[method-assign]


def seeks_past(app: RoleApp, partition: int) -> None:
    """A partition is begun a few records behind where it stands."""
    _at_open(app, partition, lambda begin: begin() + SKIPPED)


def begins_late(app: RoleApp, partition: int) -> None:
    """A partition that was assigned is not read for a while."""

    def sleep(begin: Callable[[], int]) -> int:
        start = begin()
        time.sleep(LATE_S)
        return start

    _at_open(app, partition, sleep)


def passes_over_what_is_gone(app: RoleApp, partition: int) -> None:
    """A partition of which retention took what was not handled is begun behind it, and nobody is told."""

    def earliest(begin: Callable[[], int]) -> int:
        try:
            return begin()
        except PositionLost:
            topic = INPUT.named(app.engine.options.kafka.topic_prefix)
            return app.engine.partitions._reader.ends(topic, partition)[0]

    _at_open(app, partition, earliest)


def swaps_events(app: RoleApp, partition: int) -> None:
    """A chunk's events are handed out the wrong way round."""

    def turned(chunker: Callable[..., Any]) -> Callable[..., Any]:
        def chunk(epoch: int, records: Any, guard: Any) -> Any:
            made = chunker(epoch, records, guard)
            return replace(made, items=made.items[::-1]) if _is_of_ledger(made.source, partition) else made

        return chunk

    for name, source in app.sources.items():
        app.sources[name] = replace(source, chunker=turned(source.chunker))


def forgets_changes(app: RoleApp, partition: int) -> None:
    """The changelog of a unit is not written, its state is."""
    unit = app.engine.unit
    append = unit._append_changelog

    def planted(result: Any) -> Any:
        scope = _scope(app, partition)
        if scope is None:
            return append(result)
        changelog, scope.changelog = scope.changelog, None
        try:
            return append(result)
        finally:
            scope.changelog = changelog

    unit._append_changelog = planted  # type: ignore[method-assign]


def commits_go_back(app: RoleApp, partition: int) -> None:
    """One unit commits an offset that lies behind it."""
    transaction = app.engine.transaction
    send = transaction.send_offsets
    reached, done = 0, False

    def planted(positions: Mapping[Any, int], *what_else: Any) -> None:
        nonlocal reached, done
        sent = dict(positions)
        for source, offset in positions.items():
            if _is_of_ledger(source, partition) and not done:
                if reached > 1:
                    sent[source], done = reached - 1, True
                    log.warning("planted", plant="commits_go_back")
                reached = offset
        send(sent, *what_else)

    transaction.send_offsets = planted  # type: ignore[method-assign]


def shows_what_was_aborted(app: RoleApp, partition: int) -> None:
    """The first unit's outputs are written outside of its transaction, which then aborts."""
    unit = app.engine.unit
    append, done = unit._append, False

    def planted(result: Any) -> None:
        nonlocal done
        scope = _scope(app, partition)
        if done or scope is None or not scope.appends:
            append(result)
            return
        done = True
        log.warning("planted", plant="shows_what_was_aborted")
        producer = Producer(app.engine.options.kafka.client_config())
        for each in scope.appends:
            topic = each.topic.named(app.engine.options.kafka.topic_prefix)
            producer.produce(topic, each.value, each.key, partition=each.partition)
        assert producer.flush(20) == 0
        raise TransactionAborted("planted")

    unit._append = planted  # type: ignore[method-assign]


def leaves_an_agent_out(app: RoleApp, partition: int) -> None:
    """The tally's part of each unit is left out, its offsets are committed."""
    _before_append(app, partition, lambda scope: scope.drop(), AGENT)


def closes_again(app: RoleApp, partition: int) -> None:
    """Windows of the tally that have closed are not known to have, after a unit of work."""
    unit = app.engine.unit
    append_changelog = unit._append_changelog

    def planted(result: Any) -> Any:
        if (scope := _scope(app, partition, AGENT)) is not None:
            scope.view.staged.pop(CLOSED_UP_TO, None)
        return append_changelog(result)

    unit._append_changelog = planted  # type: ignore[method-assign]


def tells_each_total(app: RoleApp, partition: int) -> None:
    """Results of the tally that supersede each other are all appended."""
    add = app.engine.unit.add_scope

    def planted(agent: str, scope: Any) -> None:
        if (agent, scope.partition) == (AGENT, partition):
            scope.update = scope.emit
        add(agent, scope)

    app.engine.unit.add_scope = planted  # type: ignore[method-assign]


def kills_before_the_store(app: RoleApp, spared: int) -> None:
    """SIGKILL after the commit of a unit, before its state is on the disk."""
    unit = app.engine.unit
    store, left = unit._store, spared

    def planted(offsets: Any, result: Any) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        store(offsets, result)

    unit._store = planted  # type: ignore[method-assign]


def stores_before_the_commit(app: RoleApp, spared: int) -> None:
    """State is on the disk before its unit commits, and the worker is killed in between."""
    transaction, unit = app.engine.transaction, app.engine.unit
    commit, left = transaction.commit, spared

    def planted() -> None:
        nonlocal left
        if left == 0:
            for scope in unit._scopes.values():
                position = scope.backend.position()
                if position is not None and scope.view.staged:
                    scope.backend.write(scope.view.staged, position)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        commit()

    transaction.commit = planted  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[RoleApp, int], None]] = {
    plant.__name__: plant
    for plant in (
        commits_without_outputs,
        outputs_twice,
        seeks_past,
        begins_late,
        passes_over_what_is_gone,
        swaps_events,
        forgets_changes,
        commits_go_back,
        shows_what_was_aborted,
        leaves_an_agent_out,
        closes_again,
        tells_each_total,
        kills_before_the_store,
        stores_before_the_commit,
    )
}
