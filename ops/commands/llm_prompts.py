"""`sluicegate llm prompts`: prompts that are kept, in versions that never change, and their labels."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # cyclopts reads it
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from connectors.llm.prompts import Labels, Shares

Flag = Annotated[bool, Parameter(negative=())]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Add the commands to the group `llm`."""
    prompts = App(name="prompts", help="Prompts: versions that never change, and labels that stand for them.")
    prompts.command(list_command, name="list")
    prompts.command(show_command, name="show")
    prompts.command(set_command, name="set")
    prompts.command(label_command, name="label")
    prompts.command(roll_back_command, name="roll-back")
    app.command(prompts)


def list_command(*, as_json: AsJson = False) -> int:
    """List the prompts, with what their labels stand for.

    Example: `sluicegate llm prompts list`

    Parameters
    ----------
    as_json
        Print a JSON document.
    """
    from ops import console
    from ops.llm_shown import table
    from ops.llm_versions import opened

    with opened() as versions:
        prompts = sorted(versions.prompts().items())
    if as_json:
        rows = [
            {"name": name, "versions": sorted(one.versions), "labels": _labels_json(one.labels)}
            for name, one in prompts
        ]
        console.print_json({"prompts": list[object](rows)})
    elif prompts:
        table(
            [
                {"name": name, "latest": max(one.versions, default=0), "labels": _labels_text(one.labels)}
                for name, one in prompts
            ]
        )
    else:
        console.note("no prompt is kept: `sluicegate llm prompts set NAME FILE` writes one")
    return 0


def show_command(name: str, version: int | None = None, *, as_json: AsJson = False) -> int:
    """Show a prompt: the text of a version, then all versions and what labels stand for.

    Example: `sluicegate llm prompts show support 3`

    Parameters
    ----------
    name
        Of the prompt.
    version
        By default the latest.
    as_json
        Print a JSON document.
    """
    from ops import console
    from ops.llm_shown import json_of, print_lines, row_of, table
    from ops.llm_versions import opened, prompt_version

    with opened() as versions:
        prompt = versions.prompt(name)
    found = prompt_version(prompt, name, version)
    rows = [row_of(prompt.versions[number]) for number in sorted(prompt.versions, reverse=True)]
    if as_json:
        console.print_json(
            {
                "name": name,
                "version": found.number,
                "template": json_of(found.text),
                "labels": _labels_json(prompt.labels),
                "versions": list[object](rows),
            }
        )
        return 0
    print_lines(found.text)
    table(rows)
    console.out().print(f"labels: {_labels_text(prompt.labels) or 'none'}")
    return 0


def set_command(
    name: str,
    file: Path,
    *,
    reason: str = "",
    on: int | None = None,
    yes: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Write a version of a prompt. Nobody uses it until a label stands for it.

    The file is checked first, and what differs is shown; without `--yes` nothing is written.

    Example: `sluicegate llm prompts set support support.json --reason "shorter answers" --yes`

    Parameters
    ----------
    name
        Of the prompt.
    file
        JSON, as docs/llm.md describes it; `-` = standard input.
    reason
        Kept with who did it; needed with --yes.
    on
        Version that the file was made of: refused if another one is the latest. By default the one that is
        the latest when the command begins.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from connectors.llm.prompts import template_of
    from ops import console
    from ops.commands.levers import need_reason
    from ops.llm_shown import tell, text_of
    from ops.llm_versions import PromptVersions, opened

    need_reason(reason, yes=yes)
    text = text_of(file)
    template_of(text, name)
    with opened() as versions:
        held = versions.prompts().get(name, PromptVersions())
        seen = on if on is not None else max(held.versions, default=0)
        before = held.versions[seen].text if seen in held.versions else ""
        if yes:
            versions.add_prompt(name, text, reason, seen)
    tell(f"prompt {name}", seen, before, text, yes=yes, as_json=as_json)
    if yes and not as_json:
        console.note(f"to use it: sluicegate llm prompts label {name} production {seen + 1} --reason … --yes")
    return 0


def label_command(
    name: str,
    label: str,
    *versions: str,
    reason: str = "",
    yes: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Have a label stand for a version, or for several by their shares of all streams, in percent.

    A stream keeps the version that it began with. Without `--yes` nothing is written.

    Example: `sluicegate llm prompts label support production 3=90 4=10 --reason "try 4" --yes`

    Parameters
    ----------
    name
        Of the prompt.
    label
        As requests name it; `production` is what they mean if they name none.
    versions
        VERSION, or VERSION=SHARE of several, which make 100 together.
    reason
        Kept with who did it; needed with --yes.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.commands.levers import need_reason

    need_reason(reason, yes=yes)
    return _move(name, label, _shares_of(versions), reason, yes=yes, as_json=as_json)


def roll_back_command(
    name: str, label: str = "production", *, reason: str = "", yes: Flag = False, as_json: AsJson = False
) -> int:
    """Have a label stand for what it stood for before; once more, and it is what was before that.

    Example: `sluicegate llm prompts roll-back support --yes`

    Parameters
    ----------
    name
        Of the prompt.
    label
        Which one.
    reason
        Kept with who did it.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    return _move(name, label, None, reason or "rolled back", yes=yes, as_json=as_json)


def _move(name: str, label: str, shares: Shares | None, reason: str, *, yes: bool, as_json: bool) -> int:
    from ops import console
    from ops.llm_versions import check_move, opened, words_of

    with opened() as versions:
        prompt = versions.prompt(name)
        labels = check_move(name, label, shares, prompt)
        if yes:
            versions.move_label(name, label, shares, reason, prompt)
    held = prompt.labels.get(label)
    before = words_of(held[0]) if held else ""
    after = words_of(labels[label][0])
    if as_json:
        console.print_json(
            {"dry_run": not yes, "prompt": name, "label": label, "before": before, "after": after}
        )
        return 0
    stands = "stands" if yes else "would stand"
    console.out().print(f"prompt {name}: {label} {stands} for {after}, after {before or 'nothing'}")
    if before and yes:
        undo = f"sluicegate llm prompts label {name} {label} {before} --reason … --yes"
        console.out().print(f"undo: {undo}")
    if not yes:
        console.note("dry run: --yes does it")
    return 0


def _shares_of(words: tuple[str, ...]) -> Shares:
    from ops.errors import Misused

    shares: Shares = {}
    for word in words:
        version, equals, share = word.partition("=")
        given = share if equals else "100"
        if not all(one.isascii() and one.isdigit() and len(one) < 10 for one in (version, given)):
            raise Misused(f"{word!r} is not VERSION or VERSION=SHARE", "as 3, or 3=90 4=10")
        if int(version) in shares:
            raise Misused(f"version {version} is named twice", "name each once, with its share")
        shares[int(version)] = int(given)
    if not shares:
        raise Misused("no version is named", "as 3, or 3=90 4=10")
    return shares


def _labels_json(labels: Labels) -> dict[str, object]:
    return {
        label: {str(version): share for version, share in kept[0].items()}
        for label, kept in sorted(labels.items())
        if kept
    }


def _labels_text(labels: Labels) -> str:
    from ops.llm_versions import words_of

    return ", ".join(f"{label}: {words_of(kept[0])}" for label, kept in sorted(labels.items()) if kept)
