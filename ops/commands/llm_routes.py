"""`sluicegate llm routes`: which providers are tried, changed while workers run; each version is kept."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # cyclopts reads it
from typing import Annotated

from cyclopts import App, Parameter

Flag = Annotated[bool, Parameter(negative=())]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Add the commands to the group `llm`."""
    routes = App(
        name="routes", help="Routes: which providers are tried for a call; and `budgets`, of tenants."
    )
    routes.command(get_command, name="get")
    routes.command(set_command, name="set")
    routes.command(history_command, name="history")
    routes.command(roll_back_command, name="roll-back")
    app.command(routes)


def get_command(name: str = "", *, version: int | None = None, as_json: AsJson = False) -> int:
    """Show the routes that are in force, or one of them as it was written.

    Where no `default` is written, the providers of the settings are tried in their order.

    Example: `sluicegate llm routes get default > route.json`

    Parameters
    ----------
    name
        Of a route, or `budgets`; by default a list of all.
    version
        An earlier one.
    as_json
        Print a JSON document.
    """
    from ops import console
    from ops.llm_shown import row_of, show, table
    from ops.llm_versions import in_force, opened, version_of

    with opened() as versions:
        routes = versions.routes()
    if name:
        return show(version_of(routes.get(name, {}), name, version), as_json=as_json)
    rows = [row_of(routes[each][in_force(routes[each], each)]) for each in sorted(routes)]
    if as_json:
        console.print_json({"routes": list[object](rows)})
    elif rows:
        table(rows)
    else:
        console.note("no route is written: the providers of the settings are tried in their order")
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
    """Write a version of a route; workers go by it within a second, and calls under way end as they began.

    The file is checked first, and what would change is shown; without `--yes` nothing is written.

    Example: `sluicegate llm routes set default route.json --reason "add a second provider" --yes`

    Parameters
    ----------
    name
        Of the route: `default` is for requests that name none, `budgets` are those of tenants.
    file
        JSON, as docs/llm.md describes it; `-` = standard input. Under `budgets` that limit tokens or money an
        answer gets 4,096 tokens, unless its route or request says `max_output_tokens`.
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
    from ops.commands.levers import need_reason
    from ops.llm_shown import tell, text_of
    from ops.llm_versions import check_route, opened

    need_reason(reason, yes=yes)
    text = text_of(file)
    check_route(name, text)
    _warn(name, text)
    with opened() as versions:
        held = versions.routes().get(name, {})
        seen = on if on is not None else max(held, default=0)
        before = held[seen].text if seen in held else ""
        if yes:
            versions.add_route(name, text, reason, seen)
    return tell(f"route {name}", seen, before, text, yes=yes, as_json=as_json)


def history_command(name: str, *, as_json: AsJson = False) -> int:
    """List the versions of a route, latest first: who wrote each, when and why.

    Example: `sluicegate llm routes history default`

    Parameters
    ----------
    name
        Of the route, or `budgets`.
    as_json
        Print a JSON document.
    """
    from ops import console
    from ops.llm_shown import row_of, table
    from ops.llm_versions import in_force, opened, version_of

    with opened() as versions:
        held = versions.routes().get(name, {})
    version_of(held, name, None)
    number = in_force(held, name)
    rows = [row_of(held[each]) | {"in_force": each == number} for each in sorted(held, reverse=True)]
    if as_json:
        console.print_json({"route": name, "versions": list[object](rows)})
    else:
        table([row | {"in_force": "*" if row["in_force"] else ""} for row in rows])
    return 0


def roll_back_command(
    name: str, *, to: int, reason: str = "", yes: Flag = False, as_json: AsJson = False
) -> int:
    """Have an earlier version of a route in force again: as a new version, so that nothing is lost.

    Example: `sluicegate llm routes roll-back default --to 3 --reason "it was slower" --yes`

    Parameters
    ----------
    name
        Of the route, or `budgets`.
    to
        Number of the version.
    reason
        Kept with who did it.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.llm_shown import tell
    from ops.llm_versions import opened, version_of

    with opened() as versions:
        held = versions.routes().get(name, {})
        version = version_of(held, name, to)
        seen = max(held)
        if yes:
            said = reason or f"back to version {to}"
            versions.add_route(name, version.text, said, seen, action="roll-back")
    return tell(f"route {name}", seen, held[seen].text, version.text, yes=yes, as_json=as_json)


def _warn(name: str, text: str) -> None:
    """Say what of a route, or of budgets, is valid and may yet surprise."""
    from connectors.llm.budgets import BUDGETS

    if name == BUDGETS:
        _note_the_bound(text)
    else:
        _warn_of_unknown(name, text)


def _note_the_bound(text: str) -> None:
    """Say how long answers get by budgets that limit tokens or money."""
    from connectors.llm.budgets import budgets_config
    from connectors.llm.calls import OUTPUT_TOKENS_ASSUMED
    from ops import console

    config = budgets_config(text)
    if any(limits.bind_answers for limits in (config.default, *config.tenants.values())):
        console.note(
            f"by a limit of tokens or money an answer gets {OUTPUT_TOKENS_ASSUMED:,} tokens, and ends there "
            "by `length`, unless its route or request says max_output_tokens"
        )


def _warn_of_unknown(name: str, text: str) -> None:
    """Say which providers are not set where this command runs: workers may have them, or may not."""
    from connectors.llm.route import route_config
    from ops import console
    from ops.llm import providers
    from ops.settings import Settings

    known = providers(Settings())
    named = dict.fromkeys(one.target for one in route_config(text, name).candidates)
    if unknown := [one for one in named if one not in known]:
        console.warn(f"not set here, so see that workers have them: providers {', '.join(unknown)}")
