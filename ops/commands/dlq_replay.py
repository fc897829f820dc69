"""`sluicegate dlq replay`: have the records of dead letters handled again, once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from connectors.kafka.deadletters import DeadLetter, DeadLetterReader
    from connectors.kafka.options import KafkaOptions
    from ops.handback import Judge, Readers, Verdict
    from ops.settings import Settings
    from schemas.wire import WireCodec

Flag = Annotated[bool, Parameter(negative=())]


@dataclass(slots=True)
class _Tally:
    """How many letters had which outcome, and which roles have a record back."""

    goes_in: int = 0
    before: int = 0
    cannot: int = 0
    back_to: set[str] = field(default_factory=set)

    def add(self, verdict: Verdict) -> None:
        self.goes_in += verdict.outcome == "goes in"
        self.before += verdict.outcome == "was replayed"
        self.cannot += verdict.outcome == "cannot"
        if verdict.role and verdict.outcome == "goes in":
            self.back_to.add(verdict.role)


def replay_command(
    *letter_ids: Annotated[str, Parameter(name="ID")],
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    cause: str | None = None,
    to: str | None = None,
    reason: str = "",
    again: Flag = False,
    also_to_others: Flag = False,
    yes: Flag = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Have the records of dead letters handled again: handed back to their agents, or appended once more.

    A record goes back to the agent that could not handle it, and to nobody else: between two others of its
    partition, with its own coordinates, time and headers. What producers write, which ingest judges anyway,
    and what goes to another topic by `--to`, is appended again.

    Without `--yes` nothing is done: it prints what would go where, and what cannot go and why. A letter
    that was replayed is not replayed again, whoever asks; one that fails again is a new letter. That it was
    done is in topic `dead.replays.v1`, in one transaction with what is appended; that an agent had a record
    back, beside its role's offsets. So a replay that was cut off is simply run again, and none is done twice.

    Known are the agents of our roles and of SLUICEGATE_PIPELINES. A record of an agent that is not known is
    appended, where its topic takes it and no known role reads that, or with `--also-to-others`.

    Exit code 1 if a letter that was asked for is not there or cannot go in.

    Example: `sluicegate dlq replay --all --cause UnknownSchemaId --yes`

    Parameters
    ----------
    letter_ids
        PARTITION:OFFSET of letters, as `dlq list` gives them.
    every
        All letters that there are now.
    cause
        Only those with this cause.
    to
        Another topic, with or without the deployment's prefix; the key chooses its partition.
    reason
        Kept with who did it.
    again
        Replay those, too, that were replayed before, or that an earlier generation of a role made.
    also_to_others
        Append those, too, that other roles have again; their line names the roles.
    yes
        Do it.
    as_json
        Print a JSON object a letter and line, and at last one with the sums.
    """
    from connectors.kafka.admin import partition_counts
    from connectors.kafka.replays import Replays
    from ops.deployed import deployed, running
    from ops.errors import Misused
    from ops.handback import Judge

    if bool(letter_ids) == every:
        raise Misused("give the ids of letters, or --all", "`sluicegate dlq list` shows both ids and causes")
    wanted = [_coordinates(letter_id) for letter_id in letter_ids]
    with ExitStack() as open_now:
        reader, codec, options, settings = _connected(open_now, write=yes)
        readers = readers_known(options, users_may_be_unknown=also_to_others)
        runs = running(options, settings, deployed(options, settings))

        def judge() -> Judge:
            done = Replays(options, codec).done()
            return Judge(
                partition_counts(options), done, prefix=options.topic_prefix, to=to, again=again,
                readers=readers, running=runs, also_to_others=also_to_others,
            )  # fmt: skip

        missing: list[str] = []
        letters = reader.present() if every else _named(reader, wanted, missing)
        chosen = (letter for letter in letters if cause in (None, letter.cause))
        tally = _replay(chosen, codec, options, judge, reason=reason, yes=yes, as_json=as_json)
    return _sum_up(tally, missing, yes=yes, as_json=as_json)


def readers_known(options: KafkaOptions, *, users_may_be_unknown: bool) -> Readers:
    """Return who reads each topic, of sluicegate's roles and the user's.

    Raises:
        OpsError: a module of the user's cannot be used. With ``users_may_be_unknown`` that is a warning, and
            the user's roles are left out.
    """
    from ops import console
    from ops.errors import OpsError
    from ops.extension import extension_of
    from ops.handback import readers_of
    from ops.settings import Settings
    from pipelines.blueprint import blueprints
    from pipelines.errors import AgentRefused
    from pipelines.extension import Extension

    try:
        return readers_of(blueprints(extension_of(Settings()), options))
    except AgentRefused as error:
        if not users_may_be_unknown:
            raise OpsError(
                f"which agents of yours read a topic is not known: {error}",
                "correct that file; `--also-to-others` goes on without SLUICEGATE_PIPELINES, and appends "
                "what another role may have handled",
            ) from None
        console.warn(f"agents of SLUICEGATE_PIPELINES are not known as readers: {error}")
        return readers_of(blueprints(Extension(), options))


def _coordinates(letter_id: str) -> tuple[int, int]:
    from ops.errors import Misused

    partition, _, offset = letter_id.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise Misused(f"{letter_id!r} is no dead letter's id", "give PARTITION:OFFSET, as `dlq list` does")
    return int(partition), int(offset)


def _named(
    reader: DeadLetterReader, wanted: Sequence[tuple[int, int]], missing: list[str]
) -> Iterator[DeadLetter]:
    for partition, offset in wanted:
        letter = reader.at(partition, offset)
        if letter is None:
            missing.append(f"{partition}:{offset}")
        else:
            yield letter


def _connected(
    open_now: ExitStack, *, write: bool
) -> tuple[DeadLetterReader, WireCodec, KafkaOptions, Settings]:
    """Connect; before something is written, see to it that its topic and schema are there."""
    from connectors.kafka.admin import ensure_topics
    from connectors.kafka.deadletters import DeadLetterReader
    from connectors.registry import Registry
    from ops.addresses import addresses, kafka_options
    from ops.settings import Settings
    from schemas.topics import DEAD_LETTERS, DEAD_REPLAYS
    from schemas.wire import WireCodec

    settings = Settings()
    where = addresses(settings)
    options = kafka_options(settings, where.kafka)
    registry = Registry(where.registry_url)
    open_now.callback(registry.close)
    if write and settings.registry.register_schemas:
        registry.register_all()
    if write and settings.kafka.create_topics:
        ensure_topics(options, [DEAD_REPLAYS])
    codec = WireCodec(registry, value_bytes_max=DEAD_LETTERS.max_message_bytes)
    reader = DeadLetterReader(options, codec)
    open_now.callback(reader.close)
    return reader, codec, options, settings


def _replay(
    letters: Iterator[DeadLetter],
    codec: WireCodec,
    options: KafkaOptions,
    judged_by: Callable[[], Judge],
    *,
    reason: str,
    yes: bool,
    as_json: bool,
) -> _Tally:
    """Judge each letter, hand in those that go, and print each; returns how many had which outcome."""
    from connectors.kafka.replays import Replayer
    from ops import console
    from ops.handback import in_batches
    from ops.person import who

    replayer = Replayer(options, codec, by=who(), reason=reason)
    if yes:
        replayer.open()  # before it is read what was replayed: from here on nobody else replays
    judge = judged_by()
    say = _json_line if as_json else _line
    tally = _Tally()
    for batch in in_batches(judge.judge(letter) for letter in letters):
        going = [verdict for verdict in batch if verdict.outcome == "goes in"]
        placed: Mapping[str, tuple[int, int]] = {}
        if yes and going:
            offsets = replayer.hand_in([verdict.handover for verdict in going])
            placed = {verdict.letter.id: at for verdict, at in zip(going, offsets, strict=True)}
        for verdict in batch:
            tally.add(verdict)
            say(verdict, placed.get(verdict.letter.id))
        if yes:
            console.note(f"{tally.goes_in} replayed, {tally.before} before, {tally.cannot} cannot")
    return tally


def _line(verdict: Verdict, at: tuple[int, int] | None) -> None:
    from ops import console
    from ops.redaction import escaped

    letter = verdict.letter
    partition = "by key" if verdict.partition is None else verdict.partition
    where = f"{verdict.topic}[{partition}]"
    if verdict.role and verdict.outcome == "goes in":
        done = "handed back" if at is not None else "would go back"
        said = f"{done} to {verdict.role}, {where}@{letter.from_offset}, {len(letter.value)} bytes"
    elif at is not None:
        said = f"replayed to {verdict.topic}[{at[0]}]@{at[1]}"
    elif verdict.outcome == "goes in":
        said = f"would go to {where}, {len(letter.value)} bytes"
    else:
        said = f"{verdict.outcome}: {verdict.why}" if verdict.why else verdict.outcome
    if verdict.others and verdict.outcome == "goes in":
        said += f"; also to {', '.join(verdict.others)}, once more"
    key = "" if letter.key is None else escaped(letter.key, 200)
    console.out().print(f"{letter.id}  {letter.cause}  {key}  {said}")


def _json_line(verdict: Verdict, at: tuple[int, int] | None) -> None:
    from ops import console
    from ops.redaction import escaped

    letter = verdict.letter
    console.print_json(
        {
            "id": letter.id,
            "cause": letter.cause,
            "key": None if letter.key is None else escaped(letter.key, 200),
            "size_bytes": len(letter.value),
            "outcome": "replayed" if at is not None else _JSON_OUTCOMES[verdict.outcome],
            "why": verdict.why,
            "also_to": list(verdict.others),
            "back_to": verdict.role or None,
            "to": {
                "topic": verdict.topic,
                "partition": verdict.partition if at is None else at[0],
                "offset": None if at is None else at[1],
            },
        }
    )


_JSON_OUTCOMES: Mapping[str, str] = {
    "goes in": "would_replay",
    "was replayed": "replayed_before",
    "cannot": "cannot",
}


def _sum_up(tally: _Tally, missing: list[str], *, yes: bool, as_json: bool) -> int:
    from ops import console

    tell: Callable[[str], None] = console.note
    if as_json:
        console.print_json(
            {
                "dry_run": not yes,
                "replayed" if yes else "would_replay": tally.goes_in,
                "replayed_before": tally.before,
                "cannot": tally.cannot,
                "missing": list(missing),
            }
        )
    for letter_id in missing:
        console.fail(f"no dead letter stands at {letter_id}", "`sluicegate dlq list` gives those there are")
    if not (tally.goes_in or tally.before or tally.cannot or missing):
        tell("no such dead letters")
    elif yes and tally.back_to:
        roles = " and ".join(sorted(tally.back_to))
        tell(f"{roles} handles it where it runs; `sluicegate dlq show ID` says whether it has")
    elif not yes:
        tell(
            f"dry run: {tally.goes_in} would go in, {tally.before} were replayed before, "
            f"{tally.cannot} cannot; --yes does it"
        )
    return 1 if missing or tally.cannot else 0
