"""An event agent: appends an alert when a stream's log has shown its third error. Run it as a worker."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from ops.logs import configure_logs
from ops.settings import Settings
from ops.worker import worker_options
from pipelines.app import run_role
from pipelines.extension import Extension
from schemas.topics import OUTPUT, STREAM_PARTITIONS, TopicSpec

if TYPE_CHECKING:
    from connectors.kafka.stream import Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools

DAY_MS = 86_400_000
ALERTS = TopicSpec(
    name="examples.alerts.v1",
    key="tenant/stream_id",
    subject="",  # JSON: not in the registry
    partitions=STREAM_PARTITIONS,
    retention_ms=7 * DAY_MS,
    cleanup="delete",
    doc="One alert for each stream whose log has shown three errors.",
)
CHANGELOG = TopicSpec(
    name="examples.alerts.changelog.v1",
    key="state key",
    subject="",
    partitions=OUTPUT.partitions,  # as the input has: state and input have the same partition number
    retention_ms=-1,
    cleanup="compact",
    doc="State of the agent error_alerts; the truth of its RocksDB.",
)
ERRORS_MAX = 3


def register(app: RoleApp, tools: Tools, _options: WorkerOptions) -> None:
    """Add the agent to its role's app."""
    source = app.source(
        OUTPUT, agent="error_alerts", decode=tools.decode_events, changelog=CHANGELOG, writes=(ALERTS,)
    )

    @app.agent(source)
    async def error_alerts(stream: Stream) -> None:
        async for event in stream:
            scope = stream.scope
            if event.type == "end" and scope.state.get(event.key) is not None:
                scope.state.delete(event.key)
            if event.type != "log":
                scope.count("ignored")
                continue
            line = tools.payloads.decode(event.payload_schema, event.payload)
            if line["level"] not in ("error", "critical"):
                scope.count("ignored")
                continue
            errors = int(scope.state.get(event.key) or b"0") + 1
            scope.state.put(event.key, b"%d" % errors)
            if errors == ERRORS_MAX:
                alert = {"stream": event.full_id, "seq": event.seq, "line": line["line"]}
                scope.emit(ALERTS, event.key, json.dumps(alert).encode(), partition=scope.partition)
            scope.count("counted")


if __name__ == "__main__":
    configure_logs()
    mine = Extension(roles={"error_alerts": [register]}, topics=[ALERTS, CHANGELOG])
    sys.exit(run_role("error_alerts", worker_options(Settings()), mine))
