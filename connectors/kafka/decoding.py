"""Decodes on the poll thread under a note, as native code that meets the wrong bytes may end the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.aside import ProcessDied
from connectors.kafka.inflight import InFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from connectors.kafka.aside import Judge, SetAside
    from connectors.kafka.chunk import Records, SourcePartition
    from connectors.kafka.inflight import Span

log = structlog.get_logger(__name__)

CRASHES_MAX: Final = 3


class DecodeGuard:
    """What a start learns of a crash while decoding; used on the poll thread alone.

    As with agents (``InFlight``): suspects are decoded one by one, and one with which the process ended so
    often, alone, is not decoded any more. Nor is one that an operator skips: it may be what ends the process.
    """

    def __init__(self, notes: InFlight | None = None) -> None:
        self._notes = notes or InFlight()
        self.judges: Callable[[Span], Judge | None] = lambda _records: None
        """Gives what says which of some records are skipped; None = none is. Called on the poll thread."""

    def pieces(self, records: Records) -> Iterator[tuple[Records, SetAside | None]]:
        """Give runs of consecutive records to decode, in order, or why one must not be.

        Asking for the next says that the one before is decoded.
        """
        judge = self.judges(records)
        one_by_one = judge is not None or self._notes.is_suspect(records)
        for piece in _singles(records) if one_by_one else (records,):
            if judge is not None and (aside := judge(piece.first)) is not None:
                yield piece, aside
                continue
            crashes = self._notes.crashes_alone(piece) if len(piece) == 1 else 0
            if crashes >= CRASHES_MAX:
                where = {**piece.source._asdict(), "offset": piece.first.offset}
                log.error("record is not decoded, the process ended with it", **where, crashes=crashes)
                yield piece, ProcessDied(crashes)
                continue
            self._notes.handed_out(piece)
            try:
                yield piece, None
            finally:
                self._notes.taken_back(piece.source.topic)

    def acquit(self, records: Span) -> None:
        """Begin to count anew for one record: what it is handed back for may be mended."""
        self._notes.acquit(records)

    def passed(self, positions: Mapping[SourcePartition, int]) -> None:
        """Forget suspects below what is committed."""
        self._notes.passed(positions)


def _singles(records: Records) -> Iterator[Records]:
    for at in range(len(records)):
        yield records[at : at + 1]
