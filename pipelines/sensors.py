"""Faust's sensors on this engine: told by the unit of work and the rebalance, not by the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faust.types import TP

if TYPE_CHECKING:
    from pipelines.role import RoleApp
    from state.checkpoint import UnitResult


class Sensors:
    """Keeps the figures of ``app.monitor``, and tells all of ``app.sensors`` of rebalances; all on the loop.

    Faust tells them of web requests itself. It does not tell of each record: a call of Python's for each
    costs more than the record does.
    """

    def __init__(self, app: RoleApp) -> None:
        self._app = app

    def committed(self, result: UnitResult) -> None:
        """A unit of work was committed."""
        monitor = self._app.monitor
        for source, records in result.inputs.items():
            monitor.messages_received_total += records
            monitor.messages_received_by_topic[source.topic] += records
            monitor.events_total += records
        monitor.messages_sent += result.appended
        monitor.commit_latency.append(result.append_s + result.commit_s)
        monitor.on_tp_commit({TP(at.topic, at.partition): offset for at, offset in result.positions.items()})

    def rebalance_began(self) -> None:
        """Partitions are being taken away, or given; it may be told again before it ends."""
        if not self._app.rebalancing:
            self._app.on_rebalance_start()

    def assigned(self) -> None:
        """The group has said who has what."""
        self.rebalance_began()
        self._app.on_rebalance_return()

    def settle(self) -> None:
        """End the rebalance once all that was assigned is restored and read; to be called now and then."""
        if self._app.rebalancing and self._app.not_ready() is None:
            self._app.on_rebalance_end()
