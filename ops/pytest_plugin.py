"""What pytest finds where sluicegate is installed: the fixture ``start_agent``, and the flag ``--stack``.

docs/testing.md shows how a test of an agent uses them.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.extension import Extension
    from pipelines.testing import AgentDriver, Stack


class StartAgent(Protocol):
    """What ``start_agent`` is."""

    def __call__(self, role: str, agents: Path | Extension | None = None, **how: Any) -> AgentDriver:
        """Start a role for this test, and stop it after; ``how`` is ``AgentDriver``'s.

        ``agents`` is a folder as SLUICEGATE_PIPELINES names it, or an extension; None = our own roles.
        """


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag."""
    parser.getgroup("sluicegate").addoption(
        "--stack",
        action="store_true",
        dest="sluicegate_stack",
        help="run agents on real Kafka, registry and RocksDB: those of the settings, else of `sluicegate up`",
    )


@pytest.fixture
def start_agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartAgent]:
    """Start agents under the real engine, on Kafka in memory or, with ``--stack``, on the real parts."""
    from pipelines.extension import load
    from pipelines.testing import AgentDriver

    stack = _stack() if request.config.getoption("sluicegate_stack") else None
    with ExitStack() as started:

        def start(role: str, agents: Path | Extension | None = None, **how: Any) -> AgentDriver:
            extension = load(agents) if isinstance(agents, Path) else agents
            how.setdefault("folder", tmp_path / "state")
            return started.enter_context(AgentDriver(role, extension, stack=stack, **how))

        yield start


def _stack() -> Stack:
    """Return the parts of the settings, as a worker finds them; raises NoStack."""
    from ops.addresses import addresses, kafka_options
    from ops.settings import Settings
    from pipelines.testing import Stack

    settings = Settings()
    where = addresses(settings)
    return Stack(kafka_options(settings, where.kafka), where.registry_url)
