"""What a tenant may still spend: tokens, money and calls in flight, held before a call and settled after it.

All workers share a budget through the ledger, which each of them reads whole (all partitions, the last day):

1. ``reserve`` holds what a call may come to, in this worker at once: its input, and the longest answer. Where
   a bound of tokens or money binds the tenant, the request has that length as its own bound (``desk.py``).
   The call's ``started`` record carries it, and with that record every other worker holds it, too.
2. ``settle``, or the attempt's settled record, puts in its place what the call did come to. What nobody
   counted stays as it was held: unknown is never zero.
3. A call whose worker died is settled by who takes its partition over. One that nobody settles for
   ``IN_FLIGHT_US_MAX`` is in flight no more; what was held for it stays spent.

An hour or day is one of UTC, and an attempt belongs to the hour in which it began.

**By how much workers can overrun a budget together**: one does not see what others hold before it has read
their ``started`` records, which takes as long as Kafka takes from writer to reader (tens of milliseconds; as
long as an outage, if there is one). The bound is the sum of what the *other* workers reserve within that
time: (workers - 1) x calls a second of one worker x that time x the reservation of a call. For calls in
flight read 1 for the last factor. Within one worker nothing is overrun, but by what a call costs beyond its
reservation: a provider that does not keep to the bound that it was sent, or does not count reasoning for it;
an input of more tokens than estimated.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal  # noqa: TC003  # pydantic reads it
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import Field, ValidationError

from connectors.llm.errors import BudgetSpent, RouteRefused
from connectors.llm.prices import NANOS
from connectors.llm.route import CONFIG_BYTES_MAX, Config, said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from connectors.llm.ledger import Attempt
    from connectors.llm.prices import Reserve

log = structlog.get_logger(__name__)

BUDGETS: Final = "budgets"
"""The name under which they stand on ``llm.routes.v1``: no route can have it."""
HOUR_US: Final = 3_600_000_000
DAY_HOURS: Final = 24
IN_FLIGHT_US_MAX: Final = 2 * HOUR_US  # a route lets an attempt take one hour at the most
LOOK_US: Final = 60_000_000
"""How often calls in flight are looked through for those."""
ATTEMPTS_MAX: Final = 200_000  # some 80 MB; a day of two and a half attempts a second
TENANTS_MAX: Final = 100_000  # the least lately used are forgotten; of these, a day's sums


class Limits(Config):
    """Bounds of one tenant; what is not named has none."""

    tokens_hour: int | None = Field(default=None, ge=0, description="tokens, sent and received, of an hour")
    tokens_day: int | None = Field(default=None, ge=0, description="of a day")
    usd_hour: Decimal | None = Field(default=None, ge=0, description="money of an hour, USD")
    usd_day: Decimal | None = Field(default=None, ge=0, description="of a day")
    calls: int | None = Field(default=None, ge=0, description="calls in flight, of all workers together")

    @property
    def bind_answers(self) -> bool:
        """Whether an answer that is longer than what was held for it would go beyond one of them."""
        return any(
            each is not None for each in (self.tokens_hour, self.tokens_day, self.usd_hour, self.usd_day)
        )


class BudgetsConfig(Config):
    """All tenants' bounds."""

    default: Limits = Field(Limits(), description="of each tenant that is not named")
    tenants: dict[str, Limits] = Field(default_factory=dict, max_length=10_000)

    def of(self, tenant: str) -> Limits:
        """Give the bounds of a tenant."""
        return self.tenants.get(tenant, self.default)


def budgets_config(text: str) -> BudgetsConfig:
    """Read them. Raises RouteRefused, which names each field that is wrong."""
    if len(text.encode()) > CONFIG_BYTES_MAX:
        raise RouteRefused(f"budgets: more than {CONFIG_BYTES_MAX} bytes", remedy="Use the default for most.")
    try:
        return BudgetsConfig.model_validate_json(text)
    except ValidationError as error:
        raise RouteRefused(f"budgets: {said(error)}", remedy="Correct the fields that are named.") from None


@dataclass(slots=True)
class _Held:
    """What one attempt counts for."""

    tenant: str
    hour: int
    started_us: int
    tokens: int
    nanos: int
    flies: bool


@dataclass(slots=True)
class _Spent:
    """Sums of one tenant."""

    tokens: dict[int, int] = field(default_factory=dict)
    """By hour, those in flight included."""
    nanos: dict[int, int] = field(default_factory=dict)
    calls: int = 0


class Budgets:
    """What all tenants spend; belongs to one loop. ``config`` gives the bounds that are in force."""

    def __init__(self, config: Callable[[], BudgetsConfig]) -> None:
        self._config = config
        self._held: OrderedDict[str, _Held] = OrderedDict()
        """By the key of their row, as they came: so that a record that comes twice counts once."""
        self._flying: dict[str, _Held] = {}
        """Those of them that are not settled."""
        self._looked_us = 0
        self._tenants: OrderedDict[str, _Spent] = OrderedDict()
        self.expired = 0
        """Calls that nobody settled."""

    def reserve(self, key: str, tenant: str, reserve: Reserve, now_us: int) -> None:
        """Hold what a call may come to. ``key`` is that of its row.

        Raises:
            BudgetSpent: it would go beyond a bound; nothing is held.
        """
        if (spent := self.spent_by(tenant, reserve, now_us)) is not None:
            raise spent
        self._put(
            key, _Held(tenant, now_us // HOUR_US, now_us, reserve.tokens, reserve.nanos or 0, flies=True)
        )

    def spent_by(self, tenant: str, reserve: Reserve, now_us: int) -> BudgetSpent | None:
        """Say which bound a call would go beyond; None = there is room for it."""
        self._expire(now_us)
        limits = self._config().of(tenant)
        for name, used, asked, most, ends in self._against(limits, tenant, reserve, now_us):
            if most is not None and used + asked > most:
                return BudgetSpent(tenant, name, used, asked, most, ends)
        return None

    def release(self, key: str) -> None:
        """Take a reservation back whose call was not made."""
        self._drop(key)

    def settle(self, key: str, tokens: int | None, nanos: int | None) -> None:
        """Put what a call came to in the place of what was held; None = not known: what was held stays."""
        held = self._held.get(key)
        if held is not None:
            self._flying.pop(key, None)
            self._count(held, -1)
            held.tokens = held.tokens if tokens is None else tokens
            held.nanos = held.nanos if nanos is None else nanos
            held.flies = False
            self._count(held, 1)

    def take(self, row: Attempt) -> None:
        """Take a row of the ledger, one's own or another worker's, in any order and as often as it comes."""
        if row.upstream != "model" or row.state == "refused":
            return
        key = row.key.decode()
        if key not in self._held:
            held = _Held(
                row.tenant,
                row.started_us // HOUR_US,
                row.started_us,
                row.reserved_tokens,
                row.reserved_nanos,
                flies=True,
            )
            self._put(key, held)
        if row.state != "started":
            self.settle(key, tokens_of(row), row.cost_nanos)

    def spent(self, tenant: str, now_us: int) -> Mapping[str, int]:
        """Give what a tenant has used, by the names of ``Limits``; money as ``nanos_hour``, ``nanos_day``."""
        self._expire(now_us)
        spent = self._tenants.get(tenant, _Spent())
        hour = now_us // HOUR_US
        today = range(hour - hour % DAY_HOURS, hour + 1)
        return {
            "tokens_hour": spent.tokens.get(hour, 0),
            "tokens_day": sum(spent.tokens.get(each, 0) for each in today),
            "nanos_hour": spent.nanos.get(hour, 0),
            "nanos_day": sum(spent.nanos.get(each, 0) for each in today),
            "calls": spent.calls,
        }

    # -- inside -----------------------------------------------------------------------------------------

    def _against(
        self, limits: Limits, tenant: str, reserve: Reserve, now_us: int
    ) -> Iterator[tuple[str, int, int, int | None, int]]:
        """Give of each bound its name, what is used, what is asked for, its size, when it is renewed (µs)."""
        used = self.spent(tenant, now_us)
        hour = (now_us // HOUR_US + 1) * HOUR_US
        day = (now_us // (DAY_HOURS * HOUR_US) + 1) * DAY_HOURS * HOUR_US
        yield "tokens_hour", used["tokens_hour"], reserve.tokens, limits.tokens_hour, hour
        yield "tokens_day", used["tokens_day"], reserve.tokens, limits.tokens_day, day
        # What has no price is let through as long as there is money left: 1 stands for it.
        nanos = 1 if reserve.nanos is None else reserve.nanos
        yield "usd_hour", used["nanos_hour"], nanos, _nanos(limits.usd_hour), hour
        yield "usd_day", used["nanos_day"], nanos, _nanos(limits.usd_day), day
        yield "calls", used["calls"], 1, limits.calls, 0

    def _put(self, key: str, held: _Held) -> None:
        if key in self._held:
            self._drop(key)
        elif len(self._held) >= ATTEMPTS_MAX:
            # Its sums stay. A record of it that came again would count twice, which is the safe side.
            self._land(next(iter(self._held)))
            self._held.popitem(last=False)
        self._held[key] = held
        self._flying[key] = held
        self._count(held, 1)

    def _drop(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._count(held, -1)
            self._flying.pop(key, None)

    def _land(self, key: str) -> None:
        """Have a call be in flight no more; what it counts for stays."""
        held = self._flying.pop(key, None)
        if held is not None:
            self._count(held, -1)
            held.flies = False
            self._count(held, 1)

    def _count(self, held: _Held, sign: int) -> None:
        spent = self._tenants.get(held.tenant)
        if spent is None:
            if sign < 0:
                return  # forgotten, with what it was added to
            if len(self._tenants) >= TENANTS_MAX:
                self._tenants.popitem(last=False)
            spent = self._tenants[held.tenant] = _Spent()
        self._tenants.move_to_end(held.tenant)
        spent.calls += sign * held.flies
        for sums, amount in ((spent.tokens, held.tokens), (spent.nanos, held.nanos)):
            sums[held.hour] = sums.get(held.hour, 0) + sign * amount
            if len(sums) > 2 * DAY_HOURS:
                del sums[min(sums)]

    def _expire(self, now_us: int) -> None:
        """Forget days that are over, and land calls that nobody settled.

        A worker that starts reads the ledger partition by partition, so the first is not the oldest: all in
        flight are looked through. What is forgotten from the first on may be a day late, within its bound.
        """
        if abs(now_us - self._looked_us) >= LOOK_US:
            self._looked_us = now_us
            lost_us = now_us - IN_FLIGHT_US_MAX
            for key, held in [each for each in self._flying.items() if each[1].started_us <= lost_us]:
                self._land(key)
                self.expired += 1
                log.warning("call_never_settled", attempt=key, held_tokens=held.tokens, held_nanos=held.nanos)
        while self._held:
            held = next(iter(self._held.values()))
            if held.hour >= now_us // HOUR_US - DAY_HOURS:
                break
            self._held.popitem(last=False)


def tokens_of(row: Attempt) -> int | None:
    """Give the tokens that an attempt took, both ways; None = not known."""
    sent, came = row.input_tokens, row.output_tokens
    return None if sent is None or came is None else sent + came


def _nanos(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * NANOS)
