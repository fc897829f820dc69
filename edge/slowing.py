"""Which producers are to be slowed: those of streams whose clients, over all edges, cannot follow.

1. A client passes its kind's bound: its edge says on a topic how many clients of the stream it has, and how
many are behind. 2. An edge that has clients of that stream too answers with its own numbers. 3. When the
kind's share of them all is behind, and has been for a second (so that the others could answer), each edge
holds the stream's producer back. 4. It does until fewer are behind, or for ``stall_ms_max``: then each edge
deals with its own as the kind's ``then`` says, and the producer goes on. What an edge has not repeated for
some seconds counts no more: it is gone.

"All" is all, and a single one of several is never enough: one slow client holds up nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from schemas.envelope import split_key
from schemas.errors import UnknownKind
from schemas.topics import PRESSURE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from edge.core import EdgeCore
    from schemas.kinds import BackpressurePolicy

log = structlog.get_logger(__name__)
TICK_S: Final = 0.25
SETTLE_S: Final = 1.0
REPEAT_S: Final = 5.0
SILENT_S: Final = 3 * REPEAT_S
SAID_MAX: Final = 20_000
"""Words of other edges held: some 500 bytes each."""
_RETRY_AFTER_S: Final = 1


class Counts(NamedTuple):
    """Clients of a stream that have kept up at some time, and those of them that are behind their bound."""

    subscribers: int
    behind: int


class Said(NamedTuple):
    """What an edge says of a stream."""

    edge: str
    kind: str
    counts: Counts


class Slowed(NamedTuple):
    """Why a producer is held back."""

    kind: str
    retry_after_s: int


@dataclass(slots=True)
class _Heard:
    said: Said
    at_s: float


@dataclass(slots=True)
class _Press:
    """A stream that has somebody behind, at whatever edge."""

    told: Counts | None = None
    told_s: float = 0.0
    since_s: float = -1.0
    """Since when the share is behind; -1 = it is not."""
    slowed_s: float = -1.0
    spent: bool = False
    """It was slowed for as long as it may be: not again before there was relief."""
    kind: str = ""


class Slowing:
    """What one edge knows of it; lives on the event loop, and has a timer only while there is something."""

    def __init__(self, core: EdgeCore) -> None:
        self._core = core
        self._presses: dict[bytes, _Press] = {}
        self._heard: dict[bytes, dict[str, _Heard]] = {}
        self._words = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Decide by this loop's clock; before it nothing is slowed."""
        self._loop = loop
        self._go_on()

    def stop(self) -> None:
        """Decide no more, and take back what was said."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key, press in self._presses.items():
            self._take_back(key, press)
        self._loop = None

    @property
    def slowed(self) -> int:
        """Streams whose producers are held back now."""
        return sum(press.slowed_s >= 0 and not press.spent for press in self._presses.values())

    def of(self, key: bytes) -> Slowed | None:
        """Say whether, and for how long at least, the producer of a stream is to wait."""
        press = self._presses.get(key)
        if press is None or press.slowed_s < 0 or press.spent:
            return None
        return Slowed(press.kind, _RETRY_AFTER_S)

    def press(self, key: bytes) -> None:
        """Somebody here is behind the bound of a kind that slows its producers."""
        if key not in self._presses:
            self._presses[key] = _Press()
            self._go_on()

    def heard(self, words: Iterable[tuple[bytes, str, Said | None]]) -> None:
        """Take what edges said, or that they took it back; their own words come back to them, too."""
        for key, edge, said in words:
            if edge == self._core.edge_id:
                continue
            of_stream = self._heard.get(key, {})
            if said is None:
                self._forget(key, edge)
            elif edge in of_stream or self._words < SAID_MAX:
                self._words += edge not in of_stream
                self._heard.setdefault(key, of_stream)[edge] = _Heard(said, self._core.now_s())
                if said.counts.behind:
                    self.press(key)

    # -- the clock --------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self._loop is not None and self._timer is None and (self._presses or self._heard):
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_s = self._core.now_s()
        for key, edge in [
            (key, edge)
            for key, of_stream in self._heard.items()
            for edge, heard in of_stream.items()
            if now_s - heard.at_s > SILENT_S
        ]:
            self._forget(key, edge)
        for key, press in list(self._presses.items()):
            try:
                self._weigh(key, press, now_s)
            except Exception as error:  # of one stream: others are weighed, and no producer waits for ever
                log.exception("press_broke", stream=key.decode(), cause=str(error))
                self._presses.pop(key, None)
        self._go_on()

    def _weigh(self, key: bytes, press: _Press, now_s: float) -> None:
        kind, own = self._own(key)
        others = [heard.said for heard in self._heard.get(key, {}).values()]
        press.kind = kind or next((said.kind for said in others), "")
        policy = self._policy(press.kind)
        everybody = Counts(
            own.subscribers + sum(said.counts.subscribers for said in others),
            own.behind + sum(said.counts.behind for said in others),
        )
        if policy is None or everybody.behind == 0:
            self._relieve(key, press)
            return
        if own.subscribers or press.told is not None:
            self._say(key, press, own, now_s)
        if is_enough(everybody, policy.behind_share):
            self._hold_back(key, press, policy, now_s)
        else:
            press.since_s = press.slowed_s = -1.0
            press.spent = False

    def _hold_back(self, key: bytes, press: _Press, policy: BackpressurePolicy, now_s: float) -> None:
        """Slow a producer when its time has come, and let it go on when it was slowed for long enough."""
        if press.since_s < 0:
            press.since_s = now_s
        if press.slowed_s < 0:
            if now_s - press.since_s >= SETTLE_S:
                press.slowed_s = now_s
                self._core.metrics.slowed_streams.labels(press.kind).inc()
                log.info("producer_slowed", stream=key.decode(), kind=press.kind)
        elif not press.spent and now_s - press.slowed_s >= policy.stall_ms_max / 1_000:
            press.spent = True
            log.warning("producer_slowed_in_vain", stream=key.decode(), then=policy.then)
            if (channel := self._core.hub.get(key)) is not None:
                self._core.pressure.give_up(channel)

    def _own(self, key: bytes) -> tuple[str, Counts]:
        """The kind of a stream, if it is known here, and what this edge has of its clients."""
        channel = self._core.hub.get(key)
        kind = self._core.joiner.kind_of(key)
        if channel is None or kind is None:
            return "", Counts(0, 0)
        # Who is dealt with in another way counts no more, neither as behind nor as keeping up.
        laggards = [
            one for one in channel.laggards if not (one.subscriber.given_up or one.subscriber.finished)
        ]
        behind = sum(self._core.pressure.is_over(one, kind) for one in laggards)
        return kind.name, Counts(channel.abreast + len(laggards), behind)

    def _policy(self, kind: str) -> BackpressurePolicy | None:
        try:
            policy = self._core.kinds.named(kind).backpressure
        except UnknownKind:
            return None
        return policy if policy.policy == "slow_producer" else None

    def _relieve(self, key: bytes, press: _Press) -> None:
        if press.slowed_s >= 0 and not press.spent:
            log.info("producer_goes_on", stream=key.decode())
        self._take_back(key, press)
        del self._presses[key]
        if (channel := self._core.hub.get(key)) is not None:
            self._core.pressure.look(channel)

    # -- what is said -----------------------------------------------------------------------------------

    def _say(self, key: bytes, press: _Press, own: Counts, now_s: float) -> None:
        if own == press.told and now_s - press.told_s < REPEAT_S:
            return
        press.told, press.told_s = own, now_s
        tenant, stream_id = split_key(key)
        fields = {
            "tenant": tenant,
            "stream_id": stream_id,
            "kind": press.kind,
            "edge": self._core.edge_id,
            **own._asdict(),
        }
        self._core.notices.tell(PRESSURE, self._key(key), fields)

    def _take_back(self, key: bytes, press: _Press) -> None:
        if press.told is not None:
            self._core.notices.tell(PRESSURE, self._key(key), None)

    def _key(self, key: bytes) -> bytes:
        return b"%b/%b" % (key, self._core.edge_id.encode())

    def _forget(self, key: bytes, edge: str) -> None:
        of_stream = self._heard.get(key, {})
        if of_stream.pop(edge, None) is not None:
            self._words -= 1
        if not of_stream:
            self._heard.pop(key, None)


def is_enough(counts: Counts, share: float) -> bool:
    """Whether so many are behind that the producer is slowed: the share, and never one of several."""
    subscribers, behind = counts
    return behind >= share * subscribers and behind >= min(2, subscribers) and behind > 0
