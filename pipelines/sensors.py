"""Faust's sensors on this engine: told by the unit of work and the rebalance, not by the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.sensors import Monitor
from faust.types import TP

if TYPE_CHECKING:
    from pipelines.role import RoleApp
    from state.checkpoint import UnitResult


class Sensors:
    """Tells all of ``app.sensors`` of commits and rebalances, and keeps their monitors' figures; on the loop.

    Faust tells them of web requests itself. None is told of each record (``on_message_…``,
    ``on_stream_event_…``, ``on_send_…``): a call of Python's for each costs more than the record does.
    Monitors have their sums instead.
    """

    def __init__(self, app: RoleApp) -> None:
        self._app = app
        self._commit: Any = None  # what the sensors keep of the commit under way

    def commit_began(self) -> None:
        """A unit of work is about to be committed; one that is aborted is never told to have ended."""
        self._commit = self._app.sensors.on_commit_initiated(self._app.consumer)

    def committed(self, result: UnitResult) -> None:
        """A unit of work was committed."""
        sensors, commit = self._app.sensors, self._commit
        if commit is not None and commit.keys() >= set(
            sensors
        ):  # one was added meanwhile: it knows of no begin
            sensors.on_commit_completed(self._app.consumer, commit)
        self._commit = None
        positions = {TP(at.topic, at.partition): offset for at, offset in result.positions.items()}
        for monitor in sensors:
            if isinstance(monitor, Monitor):
                for source, records in result.inputs.items():
                    monitor.messages_received_total += records
                    monitor.messages_received_by_topic[source.topic] += records
                    monitor.events_total += records
                monitor.messages_sent += result.appended
                monitor.on_tp_commit(positions)

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
