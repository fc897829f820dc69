"""`sluicegate worker`: the agents, a process a role, under one parent that restarts none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from schemas.access import ROLES as OURS

if TYPE_CHECKING:
    from cyclopts import App

    from ops.settings import Settings

ROLES = tuple(OURS)


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(worker_command, name="worker")


def worker_command(
    *,
    roles: str = ",".join(ROLES),
    role_process: Annotated[str, Parameter(show=False)] = "",
) -> int:
    """Run the agents: a Faust app and a process for each role.

    More workers share the partitions. A role whose process ends by itself takes the others down with
    it, and the exit code is not 0: whatever runs the worker (systemd, Kubernetes, you) restarts it as a
    whole and sees that it did. SIGTERM and Ctrl-C stop it after the unit of work at hand.

    Example: `sluicegate worker --roles ingest,aggregate`

    Parameters
    ----------
    roles
        Which agents, by role: ingest (validates, orders, numbers), aggregate (windows of usage),
        archive (PostgreSQL), and those of the folder SLUICEGATE_PIPELINES.
    role_process
        The one role that this process is; set by the parent.
    """
    import asyncio

    from ops.settings import Settings
    from ops.supervisor import supervise
    from ops.worker import run_role_process

    settings = Settings()
    if role_process:
        return run_role_process(role_process, settings)
    return asyncio.run(supervise(_chosen(roles, settings)))


def _chosen(roles: str, settings: Settings) -> list[str]:
    from ops import console
    from ops.addresses import addresses
    from ops.errors import Misused
    from ops.extension import extension_of

    known = (*ROLES, *extension_of(settings).roles)
    chosen = [role.strip() for role in roles.split(",") if role.strip()]
    unknown = [role for role in chosen if role not in known]
    if unknown or not chosen:
        raise Misused(
            f"--roles {roles!r}: {', '.join(unknown) or 'nothing'} is no role",
            f"name any of {', '.join(known)}, with commas between them; SLUICEGATE_PIPELINES adds your own",
        )
    if strangers := [role for role in settings.worker.at_least_once if role not in known]:
        raise Misused(
            f"SLUICEGATE_WORKER__AT_LEAST_ONCE names {', '.join(strangers)}, which is no role",
            f"name any of {', '.join(known)}",
        )
    # Asked now and not in each child: one message is enough, and nothing is started in vain.
    if "archive" in chosen and not addresses(settings).postgres_dsn:
        if roles != ",".join(ROLES):
            raise Misused(
                "the role archive needs PostgreSQL, and none is configured",
                "set SLUICEGATE_POSTGRES__DSN, or leave the role out",
            )
        console.warn("no PostgreSQL is configured: nothing is archived (SLUICEGATE_POSTGRES__DSN)")
        chosen.remove("archive")
    return chosen
