"""What all operations of a worker share: who decides, who is called, and what is written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from connectors.llm.broker_clock import BrokerClock
from connectors.llm.gates import Gate, compile_gate
from schemas.kinds import BUILTIN_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2

    from connectors.llm.committer import Committer
    from connectors.llm.errors import LlmError
    from connectors.llm.gates import GateRules
    from connectors.llm.judges import Judge
    from connectors.llm.ledger import Attempt
    from connectors.llm.metrics import LlmMetrics
    from connectors.llm.outlet import KafkaOutlet
    from connectors.llm.plan import Choice, Next, Plan, Stop, Tried
    from connectors.llm.provider import Provider
    from connectors.llm.request import Envelope, Request
    from connectors.llm.shown import Shown
    from schemas.kinds import KindTable
    from schemas.wire import WireCodec

_GATES_MAX: Final = 1_000
"""Versions of routes whose gates are kept compiled."""


class Desk(Protocol):
    """Decides: which providers, whether again, whether there is money, and what it cost."""

    def plan(self, request: Request) -> Plan:
        """Say what is to be done. Raises LlmError: nothing can be."""
        ...

    def decide(self, to: Envelope, plan: Plan, tried: Sequence[Tried], left_ms: int) -> Next | Stop:
        """Say what follows after what was tried; of nothing, the first attempt."""
        ...

    def reserve(self, plan: Plan, row: Attempt) -> Plan:
        """Hold what the attempt may take of the tenant's budget, and note it; give the plan as it is sent.

        Raises LlmError: there is too little.
        """
        ...

    def cheaper(self, plan: Plan, tried: Sequence[Tried], row: Attempt, refused: LlmError) -> Choice | None:
        """Give who may be asked in the place of an attempt that the tenant's money is not enough for."""
        ...

    def release(self, row: Attempt) -> None:
        """Let go of what was held for an attempt that was not made."""
        ...

    def settle(self, plan: Plan | None, row: Attempt, shown: Shown | None) -> None:
        """Note what it took and cost, with where that is known from, and let go of the rest."""
        ...


class Tools:
    """One worker's."""

    def __init__(
        self,
        *,
        desk: Desk,
        client: httpx2.AsyncClient,
        providers: Any,
        committer: Committer,
        outlet: KafkaOutlet,
        wire: WireCodec,
        worker: str,
        queue_ms_max: int,
        judges: Mapping[str, Judge],
        metrics: LlmMetrics,
        kinds: KindTable = BUILTIN_KINDS,
        clock: BrokerClock | None = None,
    ) -> None:
        self.desk = desk
        self.client = client
        self.providers: dict[str, Provider] = providers
        self.committer = committer
        self.outlet = outlet
        self.wire = wire
        self.worker = worker
        self.queue_ms_max = queue_ms_max
        self._judges = judges
        self.metrics = metrics
        self.kinds = kinds
        self.clock = clock or BrokerClock()
        self._gates: dict[tuple[str, int], GateRules] = {}

    def gate(self, plan: Plan, before: str = "") -> Gate | None:
        """Give the gate of an attempt that goes on with ``before``. Raises RouteRefused: it cannot be."""
        if plan.gate is None:
            return None
        name = plan.route, plan.route_version
        rules = self._gates.get(name)
        if rules is None:
            if len(self._gates) >= _GATES_MAX:
                self._gates.clear()
            rules = self._gates[name] = compile_gate(plan.gate, self._judges)
        return Gate(rules, before=before)
