"""`sluicegate worker`: the agents, a process a role, under one parent that restarts none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from schemas.access import ROLES as OURS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cyclopts import App

    from ops.settings import Settings

ROLES = tuple(OURS)
Flag = Annotated[bool, Parameter(negative=())]


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(worker_command, name="worker")


def worker_command(
    *,
    roles: str = ",".join(ROLES),
    check: Flag = False,
    migrate: str = "",
    abandon_migration: Flag = False,
    adopt: Flag = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    role_process: Annotated[str, Parameter(show=False)] = "",
    web_port: Annotated[int | None, Parameter(show=False)] = None,
) -> int:
    """Run the agents: a Faust app and a process for each role.

    More workers share the partitions. A role whose process ends by itself takes the others down with
    it, and the exit code is not 0: whatever runs the worker (systemd, Kubernetes, you) restarts it as a
    whole and sees that it did. SIGTERM and Ctrl-C stop it after the unit of work at hand, with exit
    code 0 (a `--migrate` that has not come to its end: 143 and 130).

    A role whose code does not fit the state or the schemas of what runs is refused before it reads anything,
    with exit code 4: starting it again changes nothing. `--check` says so beforehand.

    Example: `sluicegate worker --roles ingest,aggregate`

    Parameters
    ----------
    roles
        Which agents, by role: ingest (validates, orders, numbers), aggregate (windows of usage),
        archive (PostgreSQL), account (what language models cost), and those of the folder
        SLUICEGATE_PIPELINES.
    check
        Look at kinds, schemas, topics, access and state, say what does not fit, and run nothing.
    migrate
        Migrations of state to apply before a role runs, by name and in order; those that were applied are
        passed over. With --check it is said what fits after them.
    abandon_migration
        Give up what a migration has begun: the state as it was before holds.
    adopt
        Say once that this is the code that ran last, where no record says what was deployed of a role with
        state.
    as_json
        With --check, print a JSON document.
    role_process
        The one role that this process is; set by the parent.
    web_port
        The port of this role's pages, 0 = none; set by the parent.
    """
    import asyncio

    from ops.errors import Misused
    from ops.settings import Settings
    from ops.supervisor import supervise
    from ops.worker import run_role_process

    if as_json and not check:
        raise Misused("--json goes with --check", "leave it out: the log of a worker is JSON as it is")
    if check and (adopt or abandon_migration):
        raise Misused("--check changes nothing: --adopt and --abandon-migration do", "leave one of them out")
    settings = Settings()
    if role_process:
        settings.worker.web_port = settings.worker.web_port if web_port is None else web_port
        return run_role_process(
            role_process, settings, migrate=migrate, abandon_migration=abandon_migration, adopt=adopt
        )
    chosen = _chosen(roles, settings)
    names = _migrations(migrate, settings)
    if check:
        return _check(chosen, settings, migrate=names, as_json=as_json)
    _check_budget(chosen, settings)
    given = {"--abandon-migration": abandon_migration, "--adopt": adopt}
    words = [flag for flag, is_given in given.items() if is_given]
    words += ["--migrate", names] if names else []
    first = settings.worker.web_port
    ports = {role: first + place if first else 0 for role, place in chosen.items()}
    return asyncio.run(supervise({role: ["--web-port", str(port), *words] for role, port in ports.items()}))


def _check(chosen: Iterable[str], settings: Settings, *, migrate: str, as_json: bool) -> int:
    from ops.checking import told
    from ops.extension import extension_of
    from ops.worker import worker_options
    from pipelines.blueprint import blueprint
    from pipelines.checks import check

    options, extension = worker_options(settings, migrate=migrate), extension_of(settings)
    plans = [blueprint(role, extension, options.kafka) for role in chosen]
    return told(check(plans, extension, options), as_json=as_json)


def _check_budget(chosen: Iterable[str], settings: Settings) -> None:
    """Hold what the roles of this worker use together against the machine: each checks itself alone."""
    from connectors.files import files_max
    from ops.extension import extension_of
    from schemas.access import ROLES as ACCESS
    from state.budget import StateOptions, check_machine

    access = {**ACCESS, **extension_of(settings).access}
    state = settings.state
    check_machine(
        StateOptions(state.block_cache_mb, state.write_buffer_mb, state.open_files_max),
        files_max(),  # raised once: the roles' processes inherit it
        processes=sum(bool(access[role].changelogs) for role in chosen),
    )


def _migrations(names: str, settings: Settings) -> str:
    """Return the names with nothing but commas between them; raises Misused for one that there is not."""
    from ops.errors import Misused
    from ops.extension import extension_of

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = dict.fromkeys(migration.name for migration in extension_of(settings).all_migrations())
    if unknown := [name for name in wanted if name not in known]:
        raise Misused(
            f"--migrate: there is no migration {', '.join(unknown)}",
            f"name any of {', '.join(known)}; a module of yours declares its own in MIGRATIONS",
        )
    return ",".join(wanted)


def _chosen(roles: str, settings: Settings) -> dict[str, int]:
    """Return the roles to run, and the place of each among those that were named: its port."""
    from ops import console
    from ops.addresses import addresses
    from ops.errors import Misused
    from ops.extension import extension_of
    from ops.naming import instead_of
    from pipelines.options import EXACTLY_ONCE

    known = (*ROLES, *extension_of(settings).roles)
    named = dict.fromkeys(role.strip() for role in roles.split(",") if role.strip())
    chosen = {role: place for place, role in enumerate(named)}
    unknown = [role for role in chosen if role not in known]
    if unknown or not chosen:
        raise Misused(
            f"--roles {roles!r}: {', '.join(unknown) or 'nothing'} is no role",
            f"roles have commas between them; {instead_of(unknown, known)}",
        )
    if strangers := [role for role in settings.worker.at_least_once if role not in known]:
        raise Misused(
            f"SLUICEGATE_WORKER__AT_LEAST_ONCE names {', '.join(strangers)}, which is no role",
            f"name any of {', '.join(known)}",
        )
    if promised := [role for role in settings.worker.at_least_once if role in EXACTLY_ONCE]:
        names = ", ".join(promised)
        raise Misused(
            f"SLUICEGATE_WORKER__AT_LEAST_ONCE names {names}, exactly once: clients and windows rely on it",
            f"take {names} out of it, whichever roles this worker runs",
        )
    # Asked now and not in each child: one message is enough, and nothing is started in vain.
    if "archive" in chosen and not addresses(settings).postgres_dsn:
        if roles != ",".join(ROLES):
            raise Misused(
                "the role archive needs PostgreSQL, and none is configured",
                "set SLUICEGATE_POSTGRES__DSN, or leave the role out",
            )
        console.warn("no PostgreSQL is configured: nothing is archived (SLUICEGATE_POSTGRES__DSN)")
        del chosen["archive"]
    return chosen
