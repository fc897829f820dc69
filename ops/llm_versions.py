"""Routes and prompts as they are written: every version of them, and how another is added.

A version is made of the latest that stands, by one writer at a time, and only if that is still the one that
was looked at: what a colleague wrote in between is never lost unawares. Its audit record is in the same
transaction.
"""

from __future__ import annotations

import shlex
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from connectors.kafka.admin import ensure_topics
from connectors.kafka.committed import CommittedReader
from connectors.kafka.turn import change
from connectors.llm.budgets import BUDGETS, budgets_config
from connectors.llm.errors import LlmError, PromptRefused, RouteRefused
from connectors.llm.prompts import check_label, check_shares, labels_of, moved, template_of
from connectors.llm.route import DEFAULT, route_config
from connectors.registry import Registry
from ops.addresses import addresses, kafka_options
from ops.errors import OpsError
from ops.person import who
from ops.settings import Settings
from schemas.errors import WireError
from schemas.topics import AUDIT, LLM_PROMPTS, LLM_ROUTES
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.turn import Records
    from connectors.llm.prompts import Labels, Shares
    from schemas.topics import TopicSpec

WRITER: Final = "sluicegate.lever.llm"
"""The transactional id, behind the prefix, of whoever writes a version: one at a time."""


class Overtaken(OpsError):
    """Somebody wrote a version in between: look at it, then do it again on top of it."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version as it stands; of labels, ``number`` is 0."""

    name: str
    number: int
    text: str
    """JSON, as it was written."""
    by: str
    reason: str
    time_us: int


@dataclass(slots=True)
class PromptVersions:
    """A prompt."""

    versions: dict[int, Version] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    labels_at: int = 0
    """Offset behind the record of its labels: what a move of one is made of."""


class Versions:
    """Routes and prompts of one deployment; to be closed."""

    def __init__(self, settings: Settings, kafka: KafkaOptions, registry_url: str) -> None:
        self._settings = settings
        self._kafka = kafka
        self._registry = Registry(registry_url)
        self._codec = WireCodec(self._registry)

    # -- what stands ------------------------------------------------------------------------------------

    def routes(self) -> dict[str, dict[int, Version]]:
        """Return all versions of all routes, by name and number; the budgets stand among them."""
        found: dict[str, dict[int, Version]] = {}
        for record, _ in self._read(LLM_ROUTES):
            version = _version(record, "config_json")
            found.setdefault(version.name, {})[version.number] = version
        return found

    def prompts(self) -> dict[str, PromptVersions]:
        """Return all prompts by name; labels that cannot be read are none."""
        found: dict[str, PromptVersions] = {}
        for record, offset in self._read(LLM_PROMPTS):
            prompt = found.setdefault(record["name"], PromptVersions())
            if record["version"]:
                prompt.versions[record["version"]] = _version(record, "template_json")
                continue
            prompt.labels_at = offset + 1
            try:
                prompt.labels = labels_of(record["labels_json"], record["name"])
            except LlmError:
                prompt.labels = {}
        return found

    def prompt(self, name: str) -> PromptVersions:
        """Return a prompt that has versions; raises PromptRefused for another."""
        found = self.prompts().get(name)
        if found is None or not found.versions:
            raise PromptRefused(
                f"there is no prompt {name!r}", remedy="`sluicegate llm prompts list` shows all."
            )
        return found

    # -- what is written --------------------------------------------------------------------------------

    def add_route(self, name: str, text: str, reason: str, seen: int, action: str = "set") -> int:
        """Write a version of a route (or of the budgets), on top of version ``seen``; returns its number.

        Raises:
            RouteRefused: it is not valid.
            Overtaken: the latest is another one by now.
            KafkaUnavailable, NotAuthorized: nothing is known to be written.
        """
        check_route(name, text)
        fields = self._signed(reason) | {"name": name, "version": seen + 1, "config_json": text}
        undo = f"sluicegate llm routes roll-back {name} --to {seen} --yes" if seen else ""

        def records() -> Records:
            versions = self.routes().get(name, {})
            return self._on_top(
                _latest(versions), seen, versions.get(seen + 1), fields["time_us"],
                lambda: [
                    self._record(LLM_ROUTES, f"{name}/{seen + 1}", fields),
                    self._audit(f"llm routes {action}", name, reason, undo),
                ],
            )  # fmt: skip

        self._change([LLM_ROUTES, AUDIT], records)
        return seen + 1

    def add_prompt(self, name: str, text: str, reason: str, seen: int) -> int:
        """Write a prompt's version on top of version ``seen``; returns its number. Raises as ``add_route``.

        Nobody uses it until a label stands for it.
        """
        template_of(text, name)
        fields = self._signed(reason) | {"name": name, "version": seen + 1, "template_json": text}

        def records() -> Records:
            versions = self.prompts().get(name, PromptVersions()).versions
            return self._on_top(
                _latest(versions), seen, versions.get(seen + 1), fields["time_us"],
                lambda: [
                    self._record(LLM_PROMPTS, f"{name}/{seen + 1}", fields),
                    self._audit("llm prompts set", name, reason, ""),
                ],
            )  # fmt: skip

        self._change([LLM_PROMPTS, AUDIT], records)
        return seen + 1

    def move_label(
        self, name: str, label: str, shares: Shares | None, reason: str, seen: PromptVersions
    ) -> Labels:
        """Have a label stand for other versions, or (None) for what it stood for before; returns all labels.

        Raises:
            PromptRefused: a version that there is not, or nothing before.
            Overtaken: somebody moved a label in between.
            KafkaUnavailable, NotAuthorized: nothing is known to be written.
        """
        labels = check_move(name, label, shares, seen)
        text = orjson.dumps(labels, option=orjson.OPT_NON_STR_KEYS).decode()
        fields = self._signed(reason) | {"name": name, "version": 0, "labels_json": text}
        held = seen.labels.get(label)
        undo = f"sluicegate llm prompts label {name} {label} {words_of(held[0])} --yes" if held else ""
        action = "llm prompts label" if shares is not None else "llm prompts roll-back"

        def records() -> Records:
            now = self.prompts().get(name, PromptVersions())
            if now.labels_at != seen.labels_at:
                if now.labels == labels:
                    return []  # ours, of a try whose outcome was not known
                raise Overtaken(
                    f"somebody moved a label of prompt {name} in between",
                    f"look at it (`sluicegate llm prompts show {name}`), then do it again",
                )
            return [
                self._record(LLM_PROMPTS, name, fields),
                self._audit(action, f"{name} {label}", reason, undo),
            ]

        self._change([LLM_PROMPTS, AUDIT], records)
        return labels

    def close(self) -> None:
        """Let the connections go."""
        self._registry.close()

    # -- inside -----------------------------------------------------------------------------------------

    def _on_top(
        self, latest: int, seen: int, ours: Version | None, time_us: int, make: Callable[[], Records]
    ) -> Records:
        if latest == seen:
            return make()
        if ours is not None and latest == seen + 1 and (ours.by, ours.time_us) == (who(), time_us):
            return []  # of a try whose outcome was not known
        raise Overtaken(
            f"version {latest} was written in between: this was made of version {seen}",
            "look at what it changed, then do it again on top of it",
        )

    def _signed(self, reason: str) -> dict[str, Any]:
        return {"by": who(), "reason": reason, "time_us": time.time_ns() // 1_000}

    def _record(self, spec: TopicSpec, key: str, fields: dict[str, Any]) -> tuple[str, bytes, bytes]:
        return (
            spec.named(self._kafka.topic_prefix),
            key.encode(),
            self._codec.encode(spec.subject, fields),
        )

    def _audit(self, action: str, target: str, reason: str, undo: str) -> tuple[str, bytes, bytes]:
        told = {"action": action, "target": target, "by": who(), "reason": reason, "undo": undo}
        return self._record(AUDIT, f"llm/{target}", told)

    def _change(self, specs: Sequence[TopicSpec], records: Callable[[], Records]) -> None:
        if self._settings.registry.register_schemas:
            self._registry.register_all()
        if self._settings.kafka.create_topics:
            ensure_topics(self._kafka, specs)
        prefix = self._kafka.topic_prefix
        change(self._kafka, prefix + WRITER, [spec.named(prefix) for spec in specs], records)

    def _read(self, spec: TopicSpec) -> Iterator[tuple[dict[str, Any], int]]:
        """Give the records that stand, oldest first, with their offsets; what cannot be read is left out."""
        reader = CommittedReader(self._kafka, spec.named(self._kafka.topic_prefix))
        try:
            for message in reader.present():
                try:
                    record = self._codec.decode(message.value() or b"", spec.subject)
                except WireError:
                    continue  # the worker says so where it matters: in its log
                yield record, int(message.offset() or 0)
        finally:
            reader.close()


@contextmanager
def opened() -> Iterator[Versions]:
    """Open the versions of the deployment that the settings name."""
    settings = Settings()
    where = addresses(settings)
    versions = Versions(settings, kafka_options(settings, where.kafka), where.registry_url)
    try:
        yield versions
    finally:
        versions.close()


def check_route(name: str, text: str) -> None:
    """Check a route, or the budgets, as a worker will; raises RouteRefused."""
    if name == BUDGETS:
        budgets_config(text)
    else:
        route_config(text, name)


def check_move(name: str, label: str, shares: Shares | None, seen: PromptVersions) -> Labels:
    """Return the labels as they would be; raises PromptRefused, as ``Versions.move_label``."""
    check_label(label, name)
    labels = moved(seen.labels, label, shares)
    stands_for = labels[label][0]
    check_shares(stands_for, f"label {label} of prompt {name}")
    if missing := sorted(stands_for.keys() - seen.versions.keys()):
        raise PromptRefused(
            f"prompt {name} has no version {missing[0]}",
            remedy=f"It has {', '.join(map(str, sorted(seen.versions)))}.",
        )
    return labels


def version_of(versions: dict[int, Version], name: str, number: int | None) -> Version:
    """Return a version, by default the latest that is valid. Raises RouteRefused: there is none."""
    if not versions:
        of_settings = name == DEFAULT
        raise RouteRefused(
            f"no route {name!r} is written" + (": the providers of the settings are tried" * of_settings),
            remedy="`sluicegate llm routes get` shows all; `… set` writes one.",
        )
    if number is None:
        return versions[in_force(versions, name)]
    if number not in versions:
        known = ", ".join(map(str, sorted(versions)))
        raise RouteRefused(f"route {name} has no version {number}", remedy=f"It has {known}.")
    return versions[number]


def prompt_version(prompt: PromptVersions, name: str, number: int | None) -> Version:
    """Return a version of a prompt, by default the latest. Raises PromptRefused: there is none."""
    number = _latest(prompt.versions) if number is None else number
    if number not in prompt.versions:
        known = ", ".join(map(str, sorted(prompt.versions)))
        raise PromptRefused(f"prompt {name} has no version {number}", remedy=f"It has {known}.")
    return prompt.versions[number]


def in_force(versions: dict[int, Version], name: str) -> int:
    """Return the number of the version that workers go by: the latest that is valid; else the latest."""
    for number in sorted(versions, reverse=True):
        try:
            check_route(name, versions[number].text)
        except LlmError:
            continue
        return number
    return max(versions)


def words_of(shares: Shares) -> str:
    """Return what a label stands for as a command line has it: ``3=90 4=10``."""
    if len(shares) == 1:
        return str(next(iter(shares)))
    return " ".join(shlex.quote(f"{version}={share}") for version, share in sorted(shares.items()))


def _latest(versions: dict[int, Version]) -> int:
    return max(versions, default=0)


def _version(record: dict[str, Any], text: str) -> Version:
    return Version(
        record["name"],
        record["version"],
        record[text],
        record["by"],
        record["reason"],
        record["time_us"],
    )
