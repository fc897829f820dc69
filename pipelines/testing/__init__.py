"""Tests of agents: the user's own agent under the real engine, on Kafka in memory or on the real parts.

``AgentDriver`` is what ``TopologyTestDriver`` is to Kafka Streams; docs/testing.md has a complete example.
"""

from pipelines.testing.driver import AgentDriver
from pipelines.testing.errors import NotAtRest
from pipelines.testing.records import Output
from pipelines.testing.services import Stack
from pipelines.testing.state import StateReader

__all__ = ["AgentDriver", "NotAtRest", "Output", "Stack", "StateReader"]
