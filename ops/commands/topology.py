"""`sluicegate topology`: draws what runs."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - the parser reads it at run time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App

Flag = Annotated[bool, Parameter(negative=())]


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(topology_command, name="topology")


def topology_command(
    *roles: str,
    live: Flag = False,
    svg: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Draw what runs: agents, topics in and out, state, sinks; yours of SLUICEGATE_PIPELINES among them.

    Learnt from the agents' own code, as a worker would run it; nothing is asked of a service unless `--live`
    is given. Then it is the generation that runs, with the topics that hold its state since migrations and
    switches, and each role says who is in its group, who has which partition, and how far it is behind.

    Example: `sluicegate topology --svg topology.svg`

    Parameters
    ----------
    roles
        Which; by default all.
    live
        Ask Kafka how the roles are now.
    svg
        Write a drawing to this file, too.
    as_json
        Print a JSON document.
    """
    from connectors.kafka.options import KafkaOptions
    from ops import console
    from ops.addresses import addresses, kafka_options
    from ops.errors import Misused
    from ops.extension import extension_at_hand
    from ops.naming import instead_of
    from ops.settings import Settings
    from ops.topology.graph import as_json as plain
    from ops.topology.graph import graph_of
    from ops.topology.svg import svg_of
    from ops.topology.text import lines_of
    from pipelines.blueprint import blueprints

    settings = Settings()
    prefix = settings.kafka.topic_prefix
    everything = blueprints(extension_at_hand(settings), KafkaOptions("", prefix))
    known = [one.role for one in everything]
    if unknown := [role for role in roles if role not in known]:
        raise Misused(f"there is no role {', '.join(unknown)}", instead_of(unknown, known))
    chosen = [one for one in everything if not roles or one.role in roles]
    facts = None
    if live:
        from ops.deployed import deployed
        from ops.topology.live import as_they_run, facts_of

        kafka = kafka_options(settings, addresses(settings).kafka)
        chosen = as_they_run(chosen, deployed(kafka, settings))
        facts = facts_of(chosen, kafka)
    if svg is not None:
        foot = "Every agent may put a record aside in dead.letters.v1."
        drawing = svg_of(graph_of(chosen), "What sluicegate runs", foot)
        try:
            svg.write_text(drawing, encoding="utf-8")
        except OSError as error:
            raise Misused(
                f"--svg {svg} cannot be written: {error.strerror}", "name a file in a folder that is there"
            ) from None
        console.note(f"wrote {svg}")
    if as_json:
        told = plain(chosen, everything, prefix)
        if facts is not None:
            told["live"] = {role: now.as_json() for role, now in facts.items()}
        console.print_json(told)
    elif svg is None or live:
        for line in lines_of(chosen, everything, prefix, settings.worker.assignment, facts):
            console.out().print(line)
    return 0
