"""What a language-model worker is told: its providers and options, out of the settings."""

from __future__ import annotations

import ipaddress
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from connectors.llm.calls import Target
from connectors.llm.judges import load_judges
from connectors.llm.options import FlushOptions, LlmOptions
from connectors.llm.prices import Price, Prices
from connectors.llm.route import is_model_name
from ops.addresses import addresses, kafka_options, local_model
from ops.errors import Misused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.calls import Shape
    from ops.settings import LlmSettings, ProviderSettings, Settings


LOCAL: Final = "local"
"""Provider that the model of `sluicegate up --model` is."""
FREE: Final = Price(input_usd=Decimal(0), output_usd=Decimal(0))
"""What it costs: nobody sends a bill for it, and that is known."""


class _Known(NamedTuple):
    shape: Shape
    base_url: str
    needs_key: bool = True


_KNOWN: Final[Mapping[str, _Known]] = {
    "openai": _Known("openai-chat", "https://api.openai.com/v1"),
    "anthropic": _Known("anthropic", "https://api.anthropic.com/v1"),
    "gemini": _Known("gemini", "https://generativelanguage.googleapis.com/v1beta"),
    "ollama": _Known("ollama", "http://127.0.0.1:11434", needs_key=False),
}


def llm_options(settings: Settings) -> LlmOptions:
    """Everything that a worker is told.

    Raises:
        Misused: a provider's settings, with the variable that is wrong.
        NoStack: nothing says where Kafka and the registry are.
    """
    where, llm = addresses(settings), settings.llm
    return LlmOptions(
        kafka=kafka_options(settings, where.kafka),
        registry_url=where.registry_url,
        identity=llm.identity,
        providers=providers(settings),
        prices=prices(llm),
        flush=FlushOptions(llm.flush_ms, llm.flush_bytes),
        calls_max=llm.calls_max,
        queue_ms_max=llm.queue_ms_max,
        session_timeout_ms=llm.session_timeout_ms,
        transaction_timeout_ms=llm.transaction_timeout_ms,
        drain_ms=llm.drain_ms,
        judges=load_judges(llm.gate_functions),
        web_host=llm.web_host,
        web_port=llm.web_port,
    )


def providers(settings: Settings) -> dict[str, Target]:
    """Give the providers of the settings, and the local model if it runs and no other is named so.

    Raises:
        Misused: names the variable that is wrong.
    """
    found = targets(settings.llm)
    model = local_model(settings)
    if model is not None and LOCAL not in found:
        found[LOCAL] = Target(LOCAL, "openai-chat", model.base_url, model.key, models=(model.name,))
    return found


def targets(llm: LlmSettings) -> dict[str, Target]:
    """Give the providers by name, in the order of the settings; raises Misused."""
    return {name: target_of(name, given) for name, given in llm.providers.items()}


def prices(llm: LlmSettings) -> Prices:
    """Give the prices that the settings name; raises Misused for one of no provider."""
    for name in llm.prices:
        provider, slash, model = name.partition("/")
        if not slash or not model or provider not in llm.providers:
            known = ", ".join(llm.providers) or "none: SLUICEGATE_LLM__PROVIDERS is not set"
            raise Misused(
                f"SLUICEGATE_LLM__PRICES: {name!r} is not PROVIDER/MODEL or PROVIDER/* of one that is set",
                f"these are set: {known}",
            )
    of_local = {} if LOCAL in llm.providers else {f"{LOCAL}/*": FREE}
    return Prices({**of_local, **{name: Price(**each.model_dump()) for name, each in llm.prices.items()}})


def target_of(name: str, given: ProviderSettings) -> Target:
    """Make one provider of its settings; raises Misused, which names the variable and never a key."""
    variable = f"SLUICEGATE_LLM__PROVIDERS__{name.upper()}__"
    known = _KNOWN.get(name)
    shape = given.shape or (known.shape if known is not None else "openai-chat")
    base_url = given.base_url or (known.base_url if known is not None and shape_fits(shape, known) else "")
    if not base_url:
        raise Misused(
            f"{variable}BASE_URL is missing: {name} is no provider whose address is known",
            f"set it, or use a name that is known: {', '.join(_KNOWN)}",
        )
    host = _host_of(base_url, f"{variable}BASE_URL", allow_http=given.allow_http)
    try:
        secret = given.key()
    except LookupError as error:
        raise Misused(
            f"{variable}{str(error.args[0])[:500]}", "correct it; the key is shown nowhere"
        ) from None
    key = secret.get_secret_value() if secret is not None else ""
    if key and not (key.isascii() and key.isprintable()):
        raise Misused(f"{variable}API_KEY has characters that no header may have", "copy it again")
    if wrong := [model for model in given.models if not model or not is_model_name(model)]:
        raise Misused(
            f"{variable}MODELS: {wrong[0][:80]!r} is no model's name", "1 to 128 bytes that can be shown"
        )
    needs_key = known.needs_key if known is not None else shape != "ollama"
    if not key and not given.headers and needs_key and not _is_loopback(host):
        raise Misused(
            f"{variable}API_KEY is missing",
            "set it, or …API_KEY_ENV or …API_KEY_FILE to where the key is, or …HEADERS if it takes none",
        )
    return Target(
        name=name,
        shape=shape,
        base_url=base_url.rstrip("/"),
        api_key=key,
        headers={header.lower(): value.get_secret_value() for header, value in given.headers.items()},
        models=given.models,
        priced_as=given.priced_as,
    )


def shape_fits(shape: Shape, known: _Known) -> bool:
    """Whether a known address answers a shape: OpenAI's answers two."""
    return shape.partition("-")[0] == known.shape.partition("-")[0]


def _host_of(url: str, variable: str, *, allow_http: bool) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise Misused(
            f"{variable} is no URL: {error}", "https://host/path, up to what the shape adds"
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise Misused(f"{variable} is no http or https URL", "https://host/path, up to what the shape adds")
    if parts.username or parts.password or parts.query or parts.fragment:
        # They would be shown wherever the address is.
        raise Misused(
            f"{variable} must have no user, password, ? or #", "put a key into …API_KEY or …HEADERS"
        )
    if parts.scheme == "http" and not _is_loopback(host) and not allow_http:
        raise Misused(
            f"{variable} is http to {host}: key, questions and answers would cross the network in the clear",
            "use https; or set …ALLOW_HTTP=true where nobody can listen",
        )
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
