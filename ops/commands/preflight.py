"""`sluicegate preflight`: what a start would find, before it."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # the command line is read by its types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from schemas.access import ROLES

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(preflight_command, name="preflight")


def preflight_command(
    folder: Path | None = None,
    *,
    offline: Annotated[bool, Parameter(negative=())] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Check what workers and edges check at their start, of all roles at once; nothing is changed.

    Kinds: every policy is declared, agrees with the others, is kept by the topics, and is one that is built.
    Then schemas against the registry, and of each role topics, co-partitioning, access and state, as
    `worker --check` does for some; of the archive whether PostgreSQL can be written to. Last this machine's
    clock against the brokers': a second apart is a warning, five are too many.

    Exit code 4 if something does not fit: starting would change nothing. 3 if Kafka, the registry or
    PostgreSQL does not answer.

    Example: `sluicegate preflight agents`

    Parameters
    ----------
    folder
        The agents of your own; else those of SLUICEGATE_PIPELINES.
    offline
        Ask nobody, as a build would: load the folder, check its kinds, and have each role declare its agents.
    as_json
        Print a JSON document.
    """
    from itertools import chain

    from ops.addresses import addresses, kafka_options
    from ops.checking import told
    from ops.errors import Misused
    from ops.extension import extension_of
    from ops.settings import Settings
    from ops.worker import worker_options
    from pipelines.blueprint import blueprint
    from pipelines.checks import check, check_offline
    from pipelines.clocks import check_clocks

    settings = Settings()
    if folder is not None and not folder.is_dir():
        raise Misused(f"{folder}: there is no such folder", "name the one with your agents' modules")
    if folder is not None:
        settings.pipelines = folder
    extension = extension_of(settings)
    if offline:
        return told(check_offline(extension, kafka_options(settings, "")), as_json=as_json)
    options = worker_options(settings)
    roles = [*ROLES, *extension.roles]
    if not addresses(settings).postgres_dsn:
        roles.remove("archive")  # nothing is archived there
    plans = [blueprint(role, extension, options.kafka) for role in roles]
    return told(chain(check(plans, extension, options), check_clocks(options.kafka)), as_json=as_json)
