"""Whether a role's code fits what is deployed of it, asked before anything is read, and on record from then.

The record of a role (``connectors/kafka/roster.py``) holds for each store which topic is its changelog now,
and the schema and version of its bytes. Two workers that start at once with different code are decided one
after the other: the second finds the record of the first.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import structlog

from connectors.kafka.admin import topic_ids
from connectors.kafka.lag import committed_offsets
from connectors.kafka.roster import store_of
from pipelines.errors import DeployRefused, PartitionReleased
from pipelines.generations import FIRST, group_of
from schemas.topics import DEPLOYED
from state.errors import StateLost
from state.schema import StoreSchema, differences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.roster import Roster, Row
    from schemas.topics import TopicSpec
    from state.schema import Migration

log = structlog.get_logger(__name__)

Turn = Literal["goes on", "makes way", "is live"]


class Deployment:
    """One role's code, and what is deployed of the role."""

    def __init__(
        self,
        role: str,
        stores: Mapping[TopicSpec, StoreSchema],
        *,
        kafka: KafkaOptions,
        roster: Roster,
        inputs: Mapping[TopicSpec, TopicSpec],
        migrations: Sequence[Migration] = (),
        generation: int = FIRST,
        adopt: bool = False,
    ) -> None:
        """Take the stores by their changelogs, as this generation of the code names them.

        ``inputs``: what the agent behind each changelog reads. ``adopt``: an operator says that this code is
        the one that wrote them, where no record does.
        """
        self.role = role
        self.generation = generation
        self.rebuilds = ""
        """The attempt that this generation is built in, beside the one that runs; empty = it is live."""
        self.stores = stores
        self._kafka = kafka
        self._roster = roster
        self._migrations = migrations
        self._inputs = inputs
        self._adopt = adopt
        self._admitted: object = None
        self.marked: frozenset[TopicSpec] = frozenset()
        """Changelogs, as the code names them, on record to have begun with a mark; set by ``admit``."""

    def admit(self) -> dict[TopicSpec, TopicSpec]:
        """Hold the code against the record and complete it; returns the topic that each changelog is now.

        Raises:
            DeployRefused: it does not fit; says what differs, where, and what to do.
            StateLost: a changelog that deletes is another topic than the one on record.
            KafkaUnavailable, NotAuthorized: it cannot be asked.
        """
        if not self._roster.is_there():
            if self.stores:
                self._check_first_use()
            log.warning("no topic of what is deployed, so no check: `sluicegate topics create` makes it")
            return {changelog: changelog for changelog in self.stores}
        row = self._roster.read().get(self.role)
        if self._completed(row) != row:
            row = self._roster.change(self.role, self._completed)
        self._admitted = self._essence(row)
        if row is not None and row["candidate"] == self.generation:
            self.rebuilds = row["attempt"]
        kept = {changelog: store_of(row, changelog.name) for changelog in self.stores}
        self.marked = frozenset(changelog for changelog, store in kept.items() if store and store["marked"])
        return {changelog: self._now(row, changelog) for changelog in self.stores}

    def problems(self, after: Sequence[Migration] = ()) -> list[str]:
        """Return why the code would be refused; empty = it fits. Changes nothing; raises as ``admit``.

        ``after``: those of the role's migrations that are applied before, in their order.
        """
        try:
            if self.stores and not self._roster.is_there():
                self._check_first_use()
            self._completed(self._migrated(self._roster.read().get(self.role), after))
        except (DeployRefused, StateLost) as refused:
            return [f"{refused}. {refused.remedy}"]
        return []

    def to_apply(self, names: Sequence[str]) -> list[Migration]:
        """Return the migrations of these names that apply now, in their order; raises as ``admit``."""
        row = self._roster.read().get(self.role)
        found = []
        for one in [each for name in names for each in self._migrations if each.name == name]:
            kept = store_of(row, one.changelog.name)
            begun = kept is not None and one.name == kept["migration"]
            if kept is not None and (begun or (kept["version"], kept["migration"]) == (one.from_version, "")):
                found.append(one)
                row = self._migrated(row, [one])
        return found

    def still_holds(self) -> None:
        """See that nothing of it has changed since ``admit``.

        Raises:
            DeployRefused: it has.
            PartitionReleased: it is another generation's turn, or ours.
            KafkaUnavailable: wait.
        """
        if self._admitted is None:
            return
        row = self._roster.read().get(self.role)
        if self._essence(row) != self._admitted:
            if (turn := self._turn(row)) != "goes on":  # which stops this worker in order, within a second
                raise PartitionReleased(f"generation {self.generation} of role {self.role} {turn}")
            self._completed(row)  # which says what is the matter, if this code cannot go on
            raise DeployRefused(
                f"what is deployed of role {self.role} has changed since this worker started",
                remedy="Start it again: it goes on with what holds now.",
            )

    def turn(self) -> Turn:
        """Say whether a worker that runs has to make way, or is live now; blocks for milliseconds.

        Raises:
            DeployRefused: the attempt that it is part of was given up.
            KafkaUnavailable: wait.
        """
        return "goes on" if self._admitted is None else self._turn(self._roster.read().get(self.role))

    def close(self) -> None:
        """Ask no more; the connection of the roster is let go."""
        self._roster.close()

    def _turn(self, row: Row | None) -> Turn:
        if row is None:
            return "goes on"
        if not self.rebuilds:
            stays = row["generation"] == self.generation and not row["switching"]
            return "goes on" if stays else "makes way"
        if row["generation"] == self.generation:
            return "is live"
        if row["attempt"] != self.rebuilds:
            raise DeployRefused(
                f"generation {self.generation} of role {self.role} is not built any more",
                remedy=f"`sluicegate reprocess {self.role} --from TIME` begins anew.",
            )
        return "goes on"

    def _now(self, row: Row | None, changelog: TopicSpec) -> TopicSpec:
        kept = store_of(row, changelog.name)
        return changelog if kept is None else replace(changelog, name=kept["topic"])

    def _completed(self, row: Row | None) -> Row | None:
        """Return the record with all stores of this code; raises DeployRefused if one does not fit."""
        if row is not None:
            self._check_generation(row)
        if not self.stores and self.generation == FIRST:
            return row
        if row is None:
            self._check_first_use()
            row = new_row(self.role, self.generation)
            if self.generation > FIRST and committed_offsets(
                self._kafka, group_of(self._kafka.topic_prefix, self.role, FIRST)
            ):
                row["generation"] = FIRST  # it ran before there were records
                self._check_generation(row)
        stores = {store["changelog"]: store for store in row["stores"]}
        names = [self._named(self._now(row, changelog)) for changelog in self.stores]
        ids = topic_ids(self._kafka, names)
        for changelog, code in self.stores.items():
            topic = self._named(self._now(row, changelog))
            kept = stores.get(changelog.name)
            if kept is not None and kept["topic"] != changelog.name and topic not in ids:
                raise DeployRefused(
                    f"topic {topic}, which holds the state behind {changelog.name}, is not there",
                    remedy="State is gone: see runbooks/checkpoint-failure.md, State that is gone.",
                )
            if kept is None or kept["topic_id"] != ids.get(topic):
                # Of a changelog that was made anew nothing is left to fit; that it is, the restore tells
                # where it must begin with its mark.
                if kept is not None and "delete" in changelog.cleanup:
                    self._check_unhandled(changelog, topic, kept["topic_id"], ids.get(topic, ""))
                stores[changelog.name] = new_store(
                    changelog.name,
                    topic=self._now(row, changelog).name,
                    code=code,
                    marked=self._begins_marked(changelog, kept),
                )
                stores[changelog.name]["topic_id"] = ids.get(topic, "")
            else:
                self._check(changelog, kept, code)
                if code.parts and kept["parts"] == "[]":
                    stores[changelog.name] = {**kept, "parts": code.text()}
        after = {**row, "stores": list(stores.values())}
        return after if after == row else {**after, "by": worker_name(), "reason": "first start of a store"}

    def _migrated(self, row: Row | None, migrations: Sequence[Migration]) -> Row | None:
        """Return the record as it would be after migrations; a store has the form then that its code says."""
        if row is None:
            return None
        by_name = {changelog.name: code for changelog, code in self.stores.items()}
        stores = {store["changelog"]: store for store in row["stores"]}
        for one in migrations:
            name = one.changelog.name
            parts = by_name[name].text() if name in by_name else stores[name]["parts"]
            stores[name] = {**stores[name], "version": one.to_version, "parts": parts, "migration": ""}
        return {**row, "stores": list(stores.values())}

    def _check_first_use(self) -> None:
        """Refuse a role that has handled input where nothing says by which code: it is no first use."""
        prefix = self._kafka.topic_prefix
        group = group_of(prefix, self.role, self.generation)
        if self._adopt or not committed_offsets(self._kafka, group):
            return
        raise DeployRefused(
            f"role {self.role} has state, and {prefix}{DEPLOYED.name} has no record of which code wrote it: "
            "whether this code fits is not known",
            remedy="If the topic is missing, `sluicegate topics create`; if it was lost, restore it. If "
            f"this code ran last, say so once: `sluicegate worker --roles {self.role} --adopt`.",
        )

    def _check_unhandled(self, changelog: TopicSpec, topic: str, was: str, now: str) -> None:
        """Raise StateLost if a changelog is another topic than it was, and its group has an offset."""
        if not was or self._adopt:
            return
        if (handled := self._handled(changelog)) is not None:
            partition, offset = handled
            raise StateLost(
                f"changelog {topic} was deleted or made anew (was {was}, is {now or 'not there'}), but "
                f"its group has handled the input up to offset {offset} of partition {partition}: state "
                "is gone"
            )

    def _begins_marked(self, changelog: TopicSpec, kept: Row | None) -> bool:
        """Say whether a store that is put on record has a mark, or gets one by each partition's first start.

        Where its input was handled, it must have been one of ours that is on record as such: what an operator
        adopts, and what a version before the marks began, may have none.
        """
        if self._handled(changelog) is None:
            return True
        return not self._adopt and (kept is None or bool(kept["marked"]))

    def _handled(self, changelog: TopicSpec) -> tuple[int, int] | None:
        """Return a partition of a store's input that has an offset, and that offset; None = none has."""
        group = group_of(self._kafka.topic_prefix, self.role, self.generation)
        reads = self._named(self._inputs[changelog])
        offsets = committed_offsets(self._kafka, group)
        return next(((part, offset) for (name, part), offset in offsets.items() if name == reads), None)

    def _check_generation(self, row: Row) -> None:
        mine, live, candidate = self.generation, row["generation"], row["candidate"]
        if mine == candidate or (mine == live and not row["switching"]):
            return
        what = f"this code is generation {mine} of role {self.role}"
        if mine == live:
            raise DeployRefused(
                f"{what}, which makes way for generation {candidate}",
                remedy=f"Deploy the code that has GENERATION = {candidate}; to stay with this one, "
                f"`sluicegate reprocess {self.role} --discard --yes`.",
            )
        if mine < live:
            raise DeployRefused(
                f"{what}, and generation {live} has taken its place",
                remedy=f"Deploy the code that has GENERATION = {live}.",
            )
        raise DeployRefused(
            f"{what}, what runs is generation {live}",
            remedy=f"Build it beside: `sluicegate reprocess {self.role} --from TIME`; or set GENERATION = "
            f"{live}, if the state that runs is right for this code.",
        )

    def _check(self, changelog: TopicSpec, kept: Row, code: StoreSchema) -> None:
        where = f"store behind {changelog.name} of role {self.role}"
        if kept["migration"]:
            raise DeployRefused(
                f"{where} is being migrated by {kept['migration']}",
                remedy=f"Let it end, or run it again: `sluicegate worker --roles {self.role} --migrate "
                f"{kept['migration']}`; or give it up: `sluicegate worker --roles {self.role} "
                "--abandon-migration`, with the code that ran before it.",
            )
        found = differences(schema_of(kept), code)
        if found:
            raise DeployRefused(
                f"{where} does not fit this code: {'; '.join(found)}",
                remedy=self._remedy(changelog, kept, code),
            )

    def _remedy(self, changelog: TopicSpec, kept: Row, code: StoreSchema) -> str:
        before = kept["version"]
        run = f"Run the code that has version {before}"
        if code.version == before:
            return (
                f"{run} with the schema that is kept; or give this one another version "
                "(StoreSchema(version=…)) and a migration from one to the other."
            )
        names = [one.name for one in self._migrations if leads(one, changelog.name, before, code.version)]
        if not names:
            return (
                f"{run}, or declare a migration from {before} to {code.version} in MIGRATIONS: "
                "docs/data-engineer.md, When the state changes its form."
            )
        return f"{run}, or `sluicegate worker --roles {self.role} --migrate {' | '.join(names)}`."

    def _essence(self, row: Row | None) -> Any:
        """Return what a running worker relies on."""
        kept = [store_of(row, changelog.name) for changelog in self.stores]
        stores = [one and (one["topic"], one["topic_id"], one["version"], one["migration"]) for one in kept]
        if row is None:
            return [stores, False, self.generation, False]
        candidate = row["candidate"] == self.generation
        turn = (row["attempt"],) if candidate else (row["generation"], row["switching"])
        return [stores, candidate, *turn]

    def _named(self, spec: TopicSpec) -> str:
        return spec.named(self._kafka.topic_prefix)


def leads(migration: Migration, changelog: str, before: int, after: int) -> bool:
    """Say whether a migration leads a store from one version to another."""
    return (migration.changelog.name, migration.from_version, migration.to_version) == (
        changelog,
        before,
        after,
    )


def schema_of(kept: Row) -> StoreSchema:
    """Return the schema that a record holds of a store."""
    return StoreSchema.of(kept["version"], kept["parts"])


def new_row(role: str, generation: int = FIRST) -> Row:
    """Return the record of a role that nothing is known of."""
    return {
        "role": role, "generation": generation, "candidate": 0, "attempt": "", "from_ms": -1,
        "cut": False, "switching": False, "stores": [],
        "by": worker_name(), "reason": "",
    }  # fmt: skip


def new_store(changelog: str, *, topic: str, code: StoreSchema, marked: bool) -> Row:
    """Return the record of a store; its topic's identity is the caller's to add.

    ``marked``: the topic has, or gets, a mark before the first unit of work (``connectors/kafka/birth.py``).
    """
    return {
        "changelog": changelog, "topic": topic, "topic_id": "", "version": code.version, "parts": code.text(),
        "migration": "", "target": "", "marked": marked,
    }  # fmt: skip


def worker_name() -> str:
    """Say who changes a record."""
    return f"worker@{socket.gethostname()}"
