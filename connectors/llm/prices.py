"""What a call costs: counted tokens times a list of prices, in whole nanos of a dollar.

Three things are kept apart all the way: what is *known* (the provider counted, a list has the price), what is
*estimated* (we counted, or pictures have the price of text), and what is *unknown*: None, and never 0.

Prices come from, in this order: the route, the settings, ``genai-prices`` as it is installed. It is looked
up by the provider's address, so that a model of the same name on another machine has no price of somebody
else's; a list of one's own names it as ``PROVIDER/MODEL`` or ``PROVIDER/*``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import genai_prices
import orjson
import structlog
from genai_prices.data_snapshot import get_snapshot
from pydantic import BaseModel, ConfigDict, Field

from connectors.llm.deltas import Usage
from connectors.llm.providers import PROVIDERS
from schemas.envelope import LONG_MAX

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from genai_prices.types import ModelInfo, ModelPrice, Provider

    from connectors.llm.calls import Call, Target
    from connectors.llm.deltas import Detail
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
_PICTURES: Final = ("image/", "video/", "application/pdf")


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
    input_image_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="pictures and videos sent; none = as input_usd, estimated"
    )
    cache_write_1h_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="written to a cache for an hour; none = not known"
    )
    input_audio_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="sound sent; none = not known"
    )
    cached_audio_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="sound read from a cache; none = as input_audio_usd"
    )
    output_audio_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="sound received; none = not known"
    )
    output_image_usd: Decimal | None = Field(
        default=None, ge=0, le=100_000, description="pictures and videos received; none = not known"
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens of one attempt, and who counted them."""

    usage: Usage
    source: UsageSource
    untold: bool = False
    """Sound, or pictures that came, of which nobody said how many of the tokens they are."""
    pictures: bool = False
    """Whether any were sent (or videos, or documents, whose pages are pictures)."""


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
        source: CostSource = (
            "known" if counted.source == "provider" and not _may_be_cached(used) else "estimated"
        )
        if not (used.input_tokens or used.output_tokens):
            return Cost(0, source, "")
        when = datetime.now(UTC) if at_us is None else datetime.fromtimestamp(at_us / 1e6, UTC)
        for own, version in ((route or {}, "route"), (self.own, "settings")):
            price = own.get(f"{target.name}/{model}") or own.get(f"{target.name}/*")
            if price is not None:
                return _cost(_own_sum(price, counted), source, version)
        for name in dict.fromkeys((answered, model)):
            listed = _listed(target.priced_as, target.base_url, name) if name else None
            if listed is not None:
                return _cost(_listed_sum(*listed, counted, when), source, VERSION)
        return Cost(None, "unknown", VERSION)

    def reserve_for(self, call: Call, choice: Choice, route: Mapping[str, Price] | None = None) -> Reserve:
        """Give what one attempt of a call may come to: all of its input, and the longest answer."""
        sent = input_tokens(call)
        answer = output_tokens_max(call, choice)
        counted = Counted(Usage(input_tokens=sent, output_tokens=answer), "estimated")
        cost = self.cost_of(counted, choice.target, choice.model, route=route)
        return Reserve(sent + answer, cost.nanos)


def output_tokens_max(call: Call, choice: Choice) -> int:
    """Give the longest answer of a call that a candidate is asked, whose model it has not yet."""
    return PROVIDERS[choice.target.shape].output_tokens_max(replace(call, model=choice.model))


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
    untold = "input_audio" not in said.details and _media_of(call, "audio/")
    pictures = any(_media_of(call, mime) for mime in _PICTURES)
    if whole and said.input_tokens is not None and said.output_tokens is not None:
        came_apart = any(name.startswith("output_") for name in said.details)
        return Counted(said, "provider", untold or (media and not came_apart), pictures)
    guess_input = said.input_tokens is None
    guess_output = said.output_tokens is None or not whole
    if (guess_input and _media_of(call)) or (guess_output and media):
        return Counted(said, "unknown")
    sent = input_tokens(call) if said.input_tokens is None else said.input_tokens
    came = max(tokens_of(output_bytes), said.output_tokens or 0) if guess_output else said.output_tokens
    used = said.updated(Usage(input_tokens=sent, output_tokens=came))
    return Counted(used, "estimated", untold, pictures)


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


def _media_of(call: Call, mime: str = "") -> bool:
    return any(
        part.get("type") == "media" and part.get("mime", "").startswith(mime)
        for message in call.messages
        if isinstance(message.get("content"), (list, tuple))
        for part in message["content"]
    )


# -- money ------------------------------------------------------------------------------------------------


class _Sum(NamedTuple):
    """What an attempt comes to by one list."""

    usd: Decimal | None
    """None = the list does not say."""
    sure: bool = True
    """Whether no price of one sort of token stands for another's."""


_UNKNOWN: Final = _Sum(None)


def _cost(found: _Sum, source: CostSource, version: str) -> Cost:
    if found.usd is None:
        return Cost(None, "unknown", version)
    nanos = int((found.usd * NANOS).to_integral_value(ROUND_HALF_EVEN))
    if nanos > LONG_MAX:  # nine billion dollars: whatever that counts, no ledger has it
        return Cost(None, "unknown", version)
    return Cost(nanos, source if found.sure else "estimated", version)


def _may_be_cached(used: Usage) -> bool:
    """Whether sound or pictures are priced as if no cache had had them, which is no less, for nobody said."""
    told = used.details
    sent = (name for name, count in told.items() if count and name.startswith("input_"))
    return bool(used.cached_input_tokens) and any(
        name.replace("input_", "cached_") not in told for name in sent
    )


def _pictures(counted: Counted, text: object, prices: Mapping[Detail, object]) -> bool | None:
    """Say whether what was sent of pictures and videos has prices; None if nobody counted what has one.

    ``text`` is the price of a token of text, by which they are taken where a list has none of theirs.
    """
    apart = [name for name in prices if counted.usage.details.get(name)]
    if apart:
        return not text or all(prices[name] is not None for name in apart)
    if not counted.pictures:
        return True
    theirs = [price for price in prices.values() if price is not None]
    if any(price != text for price in theirs):
        return None
    return bool(theirs) or not text


def _own_sum(price: Price, counted: Counted) -> _Sum:
    picture = price.input_image_usd
    sure = _pictures(counted, price.input_usd, {"input_image": picture, "input_video": picture})
    return _UNKNOWN if sure is None else _Sum(_own_usd(price, counted), sure)


def _own_usd(price: Price, counted: Counted) -> Decimal | None:
    used, part = counted.usage, counted.usage.details.get
    if counted.untold and (price.input_usd or price.output_usd):
        return None
    cached = used.cached_input_tokens or 0
    written, hour = used.cache_write_tokens or 0, part("cache_write_1h", 0)
    sound, cached_sound = part("input_audio", 0), part("cached_audio", 0)
    seen = part("input_image", 0) + part("input_video", 0)
    cached_seen = part("cached_image", 0) + part("cached_video", 0)
    heard, shown = part("output_audio", 0), part("output_image", 0) + part("output_video", 0)
    sent, came = price.input_usd, price.output_usd
    free_sent, free_came = (Decimal(0) if not usd else None for usd in (sent, came))
    sound_usd = _first(price.input_audio_usd, free_sent)
    rows = (
        # Of what was sent, no part is within another.
        ((used.input_tokens or 0) - cached - written - (sound - cached_sound) - (seen - cached_seen), sent),
        (cached - cached_sound, _first(price.cached_input_usd, sent)),
        (written - hour, _first(price.cache_write_usd, sent)),
        (hour, _first(price.cache_write_1h_usd, free_sent)),
        (sound - cached_sound, sound_usd),
        (cached_sound, _first(price.cached_audio_usd, sound_usd)),
        (seen - cached_seen, _first(price.input_image_usd, sent)),
        ((used.output_tokens or 0) - heard - shown, came),
        (heard, _first(price.output_audio_usd, free_came)),
        (shown, _first(price.output_image_usd, free_came)),
    )
    total = Decimal(0)
    for count, usd in rows:
        if count < 0 or (count and usd is None):
            return None  # counts that contradict each other, or one that has no price: no sum is too small
        total += count * (usd or 0)
    return total / 1_000_000


def _first(*prices: Decimal | None) -> Decimal | None:
    return next((usd for usd in prices if usd is not None), None)


_LISTED: Final[Mapping[Detail, tuple[str, str]]] = {
    "input_audio": ("input_audio_tokens", "input_audio_mtok"),
    "input_image": ("input_image_tokens", ""),
    "input_video": ("input_video_tokens", ""),
    "cached_audio": ("cache_audio_read_tokens", ""),
    "cached_image": ("cache_image_read_tokens", ""),
    "cached_video": ("cache_video_read_tokens", ""),
    "output_audio": ("output_audio_tokens", "output_audio_mtok"),
    "output_image": ("output_image_tokens", "output_image_mtok"),
    "output_video": ("output_video_tokens", "output_video_mtok"),
    "cache_write_1h": ("cache_write_1h_tokens", "cache_write_1h_mtok"),
}
"""What the package calls them, and the price that they must have of their own: without it they would be
priced as text, or as a shorter write, which costs less. Pictures that are sent are taken for text where a
list says no more, and the sum for an estimate."""


def _listed_sum(provider: Provider, model: ModelInfo, counted: Counted, when: datetime) -> _Sum:
    used = counted.usage
    figures = {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cache_read_tokens": used.cached_input_tokens,
        "cache_write_tokens": used.cache_write_tokens,
        "output_reasoning_tokens": used.reasoning_tokens,
    }
    if used.cached_input_tokens:  # which the package wants to be told of all that it prices
        figures |= {f"cache_{modality}_read_tokens": 0 for modality in ("audio", "image", "video")}
    figures |= {_LISTED[name][0]: count for name, count in used.details.items()}
    usage = genai_prices.Usage(**figures)
    try:
        found = model.calc_price(usage, provider, genai_request_timestamp=when)
    except (ValueError, LookupError) as error:  # sums that contradict each other
        log.warning("usage_not_priced", provider=provider.id, model=model.id, cause=str(error))
        return _UNKNOWN
    own = {price for name, count in used.details.items() if count and (price := _LISTED[name][1])}
    if not _priced(found.model_price, own) or (counted.untold and found.total_price):
        return _UNKNOWN
    listed: Mapping[Detail, object] = {
        name: getattr(found.model_price, f"{name}_mtok", None) for name in ("input_image", "input_video")
    }
    sure = _pictures(counted, found.model_price.input_mtok, listed)
    return _UNKNOWN if sure is None else _Sum(found.total_price, sure)


def _priced(price: ModelPrice, own: Collection[str]) -> bool:
    """Whether a list has both directions, and ``own``: a gap in it must not make an answer free, or cheap."""
    return all(getattr(price, name, None) is not None for name in ("input_mtok", "output_mtok", *own))


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
