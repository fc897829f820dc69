"""Who must be allowed what, as `sluicegate topics acls` prints it: rows, or lines for an administrator."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ops.errors import Misused
from ops.extension import extension_of
from schemas.access import (
    EDGE,
    LLM,
    OPERATOR,
    PRODUCER,
    RESPONDER,
    ROLES,
    Access,
    edge_grants,
    llm_grants,
    operator_grants,
    producer_grants,
    responder_grants,
    role_grants,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops.settings import Settings
    from pipelines.extension import Extension
    from schemas.access import Grant


def grants_of(settings: Settings, chosen: Sequence[str]) -> list[Grant]:
    """Return what the chosen roles need, all if none is chosen; raises Misused for one that there is not."""
    extension = extension_of(settings)
    prefix = settings.kafka.topic_prefix
    access = {**ROLES, **{role: _declared(role, extension, prefix) for role in extension.roles}}
    found = {role: role_grants(role, its, prefix) for role, its in access.items()}
    found |= {
        EDGE: edge_grants(prefix),
        LLM: llm_grants(prefix),
        OPERATOR: operator_grants(prefix, extension.all_topics(), list(access)),
        RESPONDER: responder_grants(prefix, extension.all_topics(), list(access)),
        PRODUCER: producer_grants(prefix),
    }
    if unknown := [role for role in chosen if role not in found]:
        raise Misused(
            f"--roles: {', '.join(unknown)} is no role", f"name any of {', '.join(found)}, with commas"
        )
    return [grant for role in chosen or found for grant in found[role]]


def _declared(role: str, extension: Extension, prefix: str) -> Access:
    """Return what the agents of a user's role declare, and all topics that their module calls its own."""
    from connectors.kafka.options import KafkaOptions
    from pipelines.blueprint import blueprint
    from pipelines.checks import access_of

    seen, said = (
        access_of(blueprint(role, extension, KafkaOptions("", prefix)).agents),
        extension.access[role],
    )
    changelogs = tuple(dict.fromkeys((*said.changelogs, *seen.changelogs)))
    return Access(seen.reads, (*seen.writes, *said.writes), changelogs)


def as_row(grant: Grant, principal: str | None) -> dict[str, str]:
    """Return a grant as plain values, for ``principal`` or one that is named as its role."""
    return {
        "role": grant.role,
        "principal": principal or f"User:{grant.role}",
        "operation": grant.operation,
        "resource": grant.resource,
        "name": grant.name,
        "pattern": "prefixed" if grant.prefixed else "literal",
    }


def as_script(rows: Sequence[dict[str, str]], bootstrap_servers: str | None) -> Iterator[str]:
    """Give lines of kafka-acls.sh: one for all names with which a principal may do the same."""
    operations: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        about = (row["principal"], row["resource"], row["pattern"], row["name"])
        operations.setdefault(about, []).append(row["operation"])
    names: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (principal, resource, pattern, name), allowed in operations.items():
        names.setdefault((principal, resource, pattern, tuple(dict.fromkeys(allowed))), []).append(name)
    where = shlex.quote(bootstrap_servers) if bootstrap_servers else '"$BOOTSTRAP_SERVERS"'
    yield "# admin.properties: how an administrator comes in (security.protocol, sasl.jaas.config, …)"
    for (principal, resource, pattern, allowed_all), named in names.items():
        words = [
            *(f"--operation {operation}" for operation in allowed_all),
            *(f"--{resource} {shlex.quote(name)}" for name in named),
            *(["--resource-pattern-type prefixed"] if pattern == "prefixed" else []),
        ]
        yield (
            f"kafka-acls.sh --bootstrap-server {where} --command-config admin.properties --add "
            f"--allow-principal {shlex.quote(principal)} {' '.join(words)}"
        )
