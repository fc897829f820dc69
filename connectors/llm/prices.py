"""What a call costs: counted tokens times a list of prices, in whole nanos of a dollar.

Three things are kept apart all the way: what is *known* (the provider counted, a list has the price), what is
*estimated* (we counted), and what is *unknown*, which is None and never 0.

Prices come from, in this order: the route, the settings, ``genai-prices`` as it is installed. It is looked
up by the provider's address, so that a model of the same name on another machine has no price of somebody
else's; a list of one's own names it as ``PROVIDER/MODEL`` or ``PROVIDER/*``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import genai_prices
import orjson
import structlog
from genai_prices.data_snapshot import get_snapshot
from pydantic import BaseModel, ConfigDict, Field

from connectors.llm.deltas import Usage
from schemas.envelope import LONG_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices.types import ModelInfo, ModelPrice, Provider

    from connectors.llm.calls import Call, Target
    from connectors.llm.plan import Choice

log = structlog.get_logger(__name__)

UsageSource = Literal["provider", "estimated", "unknown"]
CostSource = Literal["known", "estimated", "unknown"]
VERSION: Final = f"genai-prices {genai_prices.__version__}"
NANOS: Final = 1_000_000_000
BYTES_A_TOKEN: Final = 4
"""OpenAI's rule of thumb is 4 characters of English a token (help.openai.com, "What are tokens and how to
count them?"). Bytes of UTF-8 for characters: scripts of 2 or 3 bytes each have fewer characters a token."""
TOKENS_A_MESSAGE: Final = 4
"""Framing of a message in a chat: 3 tokens, and 1 for the role (OpenAI's cookbook, "How to count tokens")."""
TOKENS_A_MEDIA: Final = 1_600
"""An image at the most that Anthropic counts (width x height / 750, scaled down to about 1.15 megapixels);
for reservations alone: a bill is never guessed from it."""
OUTPUT_TOKENS_ASSUMED: Final = 4_096
"""Held for an answer where neither request nor route bounds it."""


class Price(BaseModel):
    """A price of one's own, in USD for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    input_usd: Decimal = Field(ge=0, le=100_000, description="tokens sent that no cache had")
    output_usd: Decimal = Field(ge=0, le=100_000, description="tokens received, reasoning included")
    cached_input_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="tokens read from a cache; none = as input_usd"
    )
    cache_write_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="tokens written to a cache; none = as input_usd"
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens of one attempt, and who counted them."""

    usage: Usage
    source: UsageSource


UNCOUNTED: Final = Counted(Usage(), "unknown")
NOTHING: Final = Counted(Usage(input_tokens=0, output_tokens=0), "estimated")
"""An attempt that the provider refused, or that reached none: by no provider's terms is that paid for, but
nobody said so of this one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an attempt costs, and by which list."""

    nanos: int | None
    """1e-9 USD; None = unknown."""
    source: CostSource
    version: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """What is held of a budget while an attempt runs."""

    tokens: int
    nanos: int | None
    """None where there is no price: money cannot be held for what nobody can price."""


@dataclass(frozen=True, slots=True)
class Prices:
    """The lists that hold for a worker."""

    own: Mapping[str, Price] = field(default_factory=dict)
    """Of the settings: by ``PROVIDER/MODEL`` or ``PROVIDER/*``."""

    def cost_of(
        self,
        counted: Counted,
        target: Target,
        model: str,
        *,
        answered: str = "",
        route: Mapping[str, Price] | None = None,
        at_us: int | None = None,
    ) -> Cost:
        """Give the cost of an attempt.

        ``model`` is the one that was asked for, ``answered`` the one that answered (it is billed); ``route``
        the route's own prices; ``at_us`` when it was asked, for prices that change. Never raises.
        """
        used = counted.usage
        if used.input_tokens is None or used.output_tokens is None or counted.source == "unknown":
            return Cost(None, "unknown", "")
        source: CostSource = "known" if counted.source == "provider" else "estimated"
        if not (used.input_tokens or used.output_tokens):
            return Cost(0, source, "")
        when = datetime.now(UTC) if at_us is None else datetime.fromtimestamp(at_us / 1e6, UTC)
        for own, version in ((route or {}, "route"), (self.own, "settings")):
            price = own.get(f"{target.name}/{model}") or own.get(f"{target.name}/*")
            if price is not None:
                return _cost(_own_usd(price, used), source, version)
        for name in dict.fromkeys((answered, model)):
            listed = _listed(target.priced_as, target.base_url, name) if name else None
            if listed is not None:
                return _cost(_listed_usd(*listed, used, when), source, VERSION)
        return Cost(None, "unknown", VERSION)

    def reserve_for(self, call: Call, choice: Choice, route: Mapping[str, Price] | None = None) -> Reserve:
        """Give what one attempt of a call may come to: all of its input, and the longest answer."""
        sent = input_tokens(call)
        answer = call.params.max_output_tokens or OUTPUT_TOKENS_ASSUMED
        counted = Counted(Usage(input_tokens=sent, output_tokens=answer), "estimated")
        cost = self.cost_of(counted, choice.target, choice.model, route=route)
        return Reserve(sent + answer, cost.nanos)


# -- tokens -----------------------------------------------------------------------------------------------


def counted(said: Usage, call: Call, output_bytes: int, *, whole: bool, media: bool = False) -> Counted:
    """Give the tokens of an attempt that was answered.

    ``output_bytes`` are all that came (text, reasoning, refusal, arguments of tools), in UTF-8; ``whole``
    whether the provider said that it was done; ``media`` whether sound or pictures came.

    1. Of a whole answer whose provider counted both sides, its numbers are taken.
    2. Of one that was cut, its number for the output is of some earlier moment: the higher of it and of our
       estimate counts.
    3. What is missing is estimated. Sound and pictures are not: then the whole is unknown.
    """
    if whole and said.input_tokens is not None and said.output_tokens is not None:
        return Counted(said, "provider")
    guess_input = said.input_tokens is None
    guess_output = said.output_tokens is None or not whole
    if (guess_input and _media_of(call)) or (guess_output and media):
        return Counted(said, "unknown")
    sent = input_tokens(call) if said.input_tokens is None else said.input_tokens
    came = max(tokens_of(output_bytes), said.output_tokens or 0) if guess_output else said.output_tokens
    return Counted(said.updated(Usage(input_tokens=sent, output_tokens=came)), "estimated")


def tokens_of(size_bytes: int) -> int:
    """Estimate the tokens of so many bytes of UTF-8; see BYTES_A_TOKEN."""
    return math.ceil(size_bytes / BYTES_A_TOKEN)


def input_tokens(call: Call) -> int:
    """Estimate the tokens of what is sent: texts, framing, calls and tools as JSON, media at their most."""
    size, media = 0, 0
    for message in call.messages:
        content = message.get("content") or ""
        if isinstance(content, str):
            size += len(content.encode())
        else:
            size += sum(len(part.get("text", "").encode()) for part in content)
            media += sum(part.get("type") == "media" for part in content)
        if message.get("tool_calls"):
            size += len(orjson.dumps(message["tool_calls"], default=dict))
    for tool in call.tools:
        size += len(tool.name) + len(tool.description.encode())
        size += len(orjson.dumps(tool.parameters, default=dict))
    if call.schema is not None:
        size += len(orjson.dumps(call.schema, default=dict))
    return tokens_of(size) + len(call.messages) * TOKENS_A_MESSAGE + media * TOKENS_A_MEDIA


def _media_of(call: Call) -> bool:
    return any(
        part.get("type") == "media"
        for message in call.messages
        if isinstance(message.get("content"), (list, tuple))
        for part in message["content"]
    )


# -- money ------------------------------------------------------------------------------------------------


def _cost(usd: Decimal | None, source: CostSource, version: str) -> Cost:
    if usd is None:
        return Cost(None, "unknown", version)
    nanos = int((usd * NANOS).to_integral_value(ROUND_HALF_EVEN))
    if nanos > LONG_MAX:  # nine billion dollars: whatever that counts, no ledger has it
        return Cost(None, "unknown", version)
    return Cost(nanos, source, version)


def _own_usd(price: Price, used: Usage) -> Decimal | None:
    cached, written = used.cached_input_tokens or 0, used.cache_write_tokens or 0
    plain = (used.input_tokens or 0) - cached - written
    if plain < 0:
        return None  # more from the cache than there was: whatever it counts, it is not what we think
    rows = (
        (plain, price.input_usd),
        (cached, price.cached_input_usd),
        (written, price.cache_write_usd),
        (used.output_tokens or 0, price.output_usd),
    )
    total = sum(count * (price.input_usd if usd is None else usd) for count, usd in rows)
    return Decimal(total) / 1_000_000


def _listed_usd(provider: Provider, model: ModelInfo, used: Usage, when: datetime) -> Decimal | None:
    figures = {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cache_read_tokens": used.cached_input_tokens,
        "cache_write_tokens": used.cache_write_tokens,
        "output_reasoning_tokens": used.reasoning_tokens,
    }
    usage = genai_prices.Usage(**figures)
    try:
        found = model.calc_price(usage, provider, genai_request_timestamp=when)
    except (ValueError, LookupError) as error:  # sums that contradict each other
        log.warning("usage_not_priced", provider=provider.id, model=model.id, cause=str(error))
        return None
    return found.total_price if _priced(found.model_price) else None


def _priced(price: ModelPrice) -> bool:
    """Whether a list says anything of both directions: a gap in it must not make an answer free."""
    return getattr(price, "input_mtok", None) is not None and getattr(price, "output_mtok", None) is not None


@lru_cache(
    maxsize=1_024
)  # models that clients name; the package's own cache of what it did not find has no bound
def _listed(priced_as: str, base_url: str, model: str) -> tuple[Provider, ModelInfo] | None:
    snapshot = get_snapshot()
    try:
        provider = snapshot.find_provider(None, priced_as or None, None if priced_as else base_url)
    except LookupError:
        return None
    found = provider.find_model(model.lower(), all_providers=snapshot.providers)
    return None if found is None else (provider, found)
