"""What is done about a request: which candidates of its route are tried, in which order, and what comes next.

Nothing here waits, asks a clock, or throws dice: chance comes in as ``Draw``, which is the same for the same
stream, so that whoever takes an operation over plans the same.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from hashlib import blake2b
from math import inf
from typing import TYPE_CHECKING, Final

from connectors.llm.calls import Call
from connectors.llm.errors import CallRefused, RouteRefused
from connectors.llm.plan import Choice, Plan
from connectors.llm.route import MODEL_BYTES_MAX, is_model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.llm.book import Book
    from connectors.llm.calls import Target
    from connectors.llm.figures import Figures
    from connectors.llm.request import Request
    from connectors.llm.route import Candidate, Route, RouteConfig

    Draw = Callable[[str], float]
    """Gives a number from 0 to below 1 for a purpose: the same for the same, independent for different."""

_NAMES_MAX: Final = 10
"""Models that an error names: a route may have a hundred candidates, with a hundred names each."""


def draw_of(tenant: str, stream_id: str) -> Draw:
    """Make the chance of one stream."""

    def draw(purpose: str) -> float:
        digest = blake2b(f"{tenant}/{stream_id}\n{purpose}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits: what a float below 1 can hold

    return draw


def plan(request: Request, book: Book, figures: Figures, draw: Draw) -> Plan:
    """Plan one operation.

    1. The route by name, else refused: a name that is mistyped must not end at somebody else's model.
    2. The prompt: label → version by its share → messages with its variables; the conversation follows them.
    3. The candidates whose conditions hold and whose provider is configured here, else refused.
    4. Their order by the route's policy.

    Raises:
        CallRefused, PromptRefused, RouteRefused: nothing can be called; what, and what to do about it.
    """
    if not is_model_name(request.model):
        raise CallRefused("model", f"is more than {MODEL_BYTES_MAX} bytes, or cannot be shown")
    route = book.route(request.route)
    prompt = book.prompt(request.prompt, request.prompt_label, draw) if request.prompt else None
    head = prompt.render(request.variables) if prompt is not None else ()
    if prompt is None and request.variables:
        raise CallRefused("variables", "are given, but no prompt that has any")
    call = Call(
        model="",
        messages=[*head, *request.messages],
        params=replace(request.params, max_output_tokens=_bound(request, route.config)),
        tools=request.tools,
        schema=request.schema,
        schema_name=request.schema_name,
    )
    name, version = (prompt.name, prompt.version) if prompt is not None else ("", 0)
    choices = _choices(request, book, route, name, version)
    config = route.config
    return Plan(
        call=call,
        choices=_in_order(choices, call, config, book, figures, draw),
        fallback_on=frozenset(config.fallback_on),
        after_content=request.after_content or config.after_content,
        attempts_max=config.attempts_max,
        deadline_ms=min(request.deadline_ms or config.deadline_ms, config.deadline_ms),
        queue_ms=config.queue_ms,
        retry_wait_ms_max=config.retry_wait_ms_max,
        route=route.name,
        route_version=route.version,
        prompt=name,
        prompt_version=version,
        keep_input=config.keep.input,
        keep_output=config.keep.output,
        keep_raw=config.keep.raw,
        gate=config.gate.options() if config.gate is not None else None,
        prices=config.prices,
        side_effects=request.side_effects,
        on_invalid=request.on_invalid or config.on_invalid,
        no_reset=request.no_reset,
    )


def _bound(request: Request, config: RouteConfig) -> int | None:
    asked, most = request.params.max_output_tokens, config.max_output_tokens
    return most if asked is None else asked if most is None else min(asked, most)


def _choices(
    request: Request, book: Book, route: Route, prompt: str, version: int
) -> list[tuple[Candidate, Choice]]:
    found: list[tuple[Candidate, Choice]] = []
    missing: dict[str, None] = {}
    for candidate in route.config.candidates if _knows(route, request.model, book) else ():
        named = _named_of(request.model, candidate.target, book)
        if named is None or not candidate.when.holds(request, named, prompt, version):
            continue
        model = candidate.model or named
        target = book.targets.get(candidate.target)
        if target is None:
            missing[candidate.target] = None
        elif model:
            timers = (candidate.timers or route.config.timers).timers()
            choice = Choice(
                target,
                model,
                timers,
                candidate.retries,
                candidate.can_continue,
                candidate.can_resume,
                named=_is_named(candidate, target, model, route, book),
            )
            if all(choice.target is not had.target or choice.model != had.model for _, had in found):
                found.append((candidate, choice))
    if found:
        return found
    if missing:
        names = ", ".join(missing)
        variables = ", ".join(f"SLUICEGATE_LLM__PROVIDERS__{name.upper()}__API_KEY" for name in missing)
        raise RouteRefused(
            f"route {route.name}: no provider of it is configured on this worker: {names}",
            remedy=f"Set {variables}, or name other providers in the route.",
        )
    asked = f"model {request.model!r}" if request.model else "a request that names no model"
    raise CallRefused(
        "route",
        f"{route.name} has no candidate for {asked} (tools, schema, media, tenant and prompt count, too)",
        remedy=_other_models(request, route),
    )


def _other_models(request: Request, route: Route) -> str:
    """Say which models the tenant can name of a route, and how another becomes one."""
    known: dict[str, None] = {}
    for candidate in route.config.candidates:
        if not candidate.when.tenants or request.to.tenant in candidate.when.tenants:
            known |= dict.fromkeys(each for each in (candidate.model, *candidate.when.models) if each)
    names = list(known)
    more = ", …" if len(names) > _NAMES_MAX else ""
    name = f"Name one of {', '.join(names[:_NAMES_MAX])}{more}" if names else "Name another route"
    if route.version:
        return f"{name}; or add a candidate to it (`sluicegate llm routes set {route.name} FILE`)."
    return f"{name}; or add it to a provider's models (SLUICEGATE_LLM__PROVIDERS__NAME__MODELS)."


def _knows(route: Route, model: str, book: Book) -> bool:
    """Whether a route was made with this model in mind, whoever of its candidates answers in the end.

    A mistyped name is refused: another model's answer under it would be believed.
    """
    for candidate in route.config.candidates:
        named, patterns = _named_of(model, candidate.target, book), candidate.when.models
        if named is None:
            continue
        if not (named and candidate.model) or named == candidate.model:
            return True
        if any(fnmatchcase(named, pattern) for pattern in patterns):
            return True
    return False


def _is_named(candidate: Candidate, target: Target, model: str, route: Route, book: Book) -> bool:
    """Whether an operator wrote the model's name anywhere: in the route, in prices, in the settings."""
    priced = f"{target.name}/{model}"
    return (
        bool(candidate.model)
        or model in candidate.when.models
        or model in target.models
        or priced in route.config.prices
        or priced in book.prices.own
    ) and "*" not in model


def _named_of(model: str, target: str, book: Book) -> str | None:
    """Give the model that a client named, as this provider names it; None = it named another provider's."""
    provider, slash, rest = model.partition("/")
    if not slash or provider not in book.targets:
        return model  # a name that has a slash of its own
    return rest if provider == target else None


# -- order ------------------------------------------------------------------------------------------------


def _in_order(
    choices: Sequence[tuple[Candidate, Choice]],
    call: Call,
    config: RouteConfig,
    book: Book,
    figures: Figures,
    draw: Draw,
) -> Sequence[Choice]:
    plain = [choice for _, choice in choices]
    if config.policy == "weighted":
        return _weighted(choices, draw(f"weights {len(choices)}"))
    if config.policy == "cheapest":
        return sorted(plain, key=lambda choice: _cost(choice, call, config, book))
    if config.policy == "fastest":
        return _fastest(plain, config.explore, figures, draw)
    return plain


def _weighted(choices: Sequence[tuple[Candidate, Choice]], chance: float) -> list[Choice]:
    """Draw one after the other by weight. The place within what was drawn is the chance of the next draw."""
    left, drawn = list(choices), []
    while left:
        point = chance * sum(candidate.weight for candidate, _ in left)
        for number, (candidate, _) in enumerate(left):
            if point < candidate.weight or number == len(left) - 1:
                chance = min(point / candidate.weight, 1 - 2**-53)
                drawn.append(left.pop(number)[1])
                break
            point -= candidate.weight
    return drawn


def _cost(choice: Choice, call: Call, config: RouteConfig, book: Book) -> tuple[bool, int]:
    """Sort by the most that the call may cost; what has no price comes last, and is not taken for free."""
    reserve = book.prices.reserve_for(call, choice, config.prices)
    return reserve.nanos is None, reserve.nanos or 0


def _fastest(choices: Sequence[Choice], explore: float, figures: Figures, draw: Draw) -> list[Choice]:
    """Sort by the expected time of an answer; then come those without figures, then those that fail."""

    def expected(choice: Choice) -> tuple[int, float]:
        ms = figures.answer_ms(choice.target.name, choice.model)
        return (1, 0.0) if ms is None else (2, 0.0) if ms == inf else (0, ms)

    ordered = sorted(choices, key=expected)
    if len(ordered) > 1 and draw("explore") < explore:
        ordered.insert(0, ordered.pop(1 + int(draw("explored") * (len(ordered) - 1))))
    return ordered
