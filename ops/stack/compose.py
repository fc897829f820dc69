"""`docker-compose.yml` out of the table of parts: `make compose` writes it, a test compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ops.stack.parts import PARTS, HealthCheck, Part

FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
HEADER = """\
# Written by `make compose` from ops/stack/parts.py, with the versions of the local stack: change it there.
# Before `docker compose up`, copy .env.example to .env and set the passwords in it. With `--profile llm`
# it starts a worker of language models, too: copy llm.env.example to llm.env and name a provider in it.
# Every port is published on this machine's loopback alone.
"""


def main() -> None:
    """Write the file."""
    FILE.write_text(render(), encoding="utf-8")


def render() -> str:
    """Text of the whole file."""
    body = yaml.safe_dump(document(), sort_keys=False, width=120, allow_unicode=True)
    return HEADER + body


def document() -> dict[str, Any]:
    """Compose's document: every part as a service."""
    named = [volume.split(":")[0] for part in PARTS for volume in part.volumes]
    return {
        "name": "sluicegate",
        "services": {part.name: service(part) for part in PARTS},
        "volumes": {name: {} for name in named if not name.startswith(".")},
    }


def service(part: Part) -> dict[str, Any]:
    """One part as compose's service."""
    lines: dict[str, Any] = {"image": part.image}
    if part.profile:
        lines["profiles"] = [part.profile]
    if part.built:
        # Ours are one image; the pull policy keeps compose from looking for it elsewhere.
        # An init process passes signals on and reaps what a worker's roles leave.
        lines |= {"build": {"context": "."}, "pull_policy": "build", "init": True}
    if part.command:
        lines["command"] = list(part.command)
    if part.environment:
        lines["environment"] = dict(part.environment)
    if part.environment_files:
        lines["env_file"] = list(part.environment_files)
    if part.published:
        lines["ports"] = [f"127.0.0.1:{outside}:{inside}" for outside, inside in part.published.items()]
    if part.volumes:
        lines["volumes"] = list(part.volumes)
    if part.needs:
        lines["depends_on"] = {name: {"condition": "service_healthy"} for name in part.needs}
    if part.health:
        lines["healthcheck"] = health(part.health)
    lines |= {
        "restart": "unless-stopped",
        "stop_grace_period": f"{part.stop_grace_s}s",
        "security_opt": ["no-new-privileges:true"],
    }
    return lines


def health(check: HealthCheck) -> dict[str, Any]:
    """A health check in compose's words."""
    return {
        "test": list(check.command),
        "interval": f"{check.interval_s}s",
        "timeout": f"{check.timeout_s}s",
        "retries": check.retries,
        "start_period": f"{check.start_period_s}s",
    }


if __name__ == "__main__":
    main()
