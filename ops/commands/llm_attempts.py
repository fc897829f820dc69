"""`sluicegate llm attempts`: each call that was made for a stream, from the ledger."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App

    from connectors.llm.ledger import Attempt

_CHARACTERS_MAX: Final = 200


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(attempts_command, name="attempts")


def attempts_command(
    stream: str,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Show each call that was made for a stream: why, how long it took, what it cost, how it ended.

    From the ledger in Kafka, so it needs no PostgreSQL.

    Example: `sluicegate llm attempts acme/answer-7`

    Parameters
    ----------
    stream
        TENANT/STREAM; without a tenant the default one.
    as_json
        Print a JSON document with every field of the ledger.
    """
    from connectors.llm.attempts import attempts_of
    from connectors.registry import Registry
    from ops import console
    from ops.addresses import addresses, kafka_options
    from ops.settings import Settings
    from schemas.envelope import DEFAULT_TENANT
    from schemas.wire import WireCodec

    tenant, slash, stream_id = stream.partition("/")
    if not slash:
        tenant, stream_id = DEFAULT_TENANT, stream
    settings = Settings()
    where = addresses(settings)
    registry = Registry(where.registry_url)
    try:
        kafka = kafka_options(settings, where.kafka)
        found = attempts_of(kafka, WireCodec(registry), tenant, stream_id)
    finally:
        registry.close()
    if as_json:
        rows = [{**asdict(attempt), **times} for attempt, times in zip(found, _times(found), strict=True)]
        console.print_json({"tenant": tenant, "stream_id": stream_id, "attempts": rows})
    else:
        _show(found)
    if found:
        return 0
    console.fail(
        f"the ledger has no attempt of stream {tenant}/{stream_id}",
        "see its name; a call is on the ledger for 90 days, from before it is made",
    )
    return 1


def _times(attempts: Sequence[Attempt]) -> list[dict[str, float | None]]:
    from ops.llm_figures import times_of

    befores = [attempts[0].requested_us if attempts else 0, *(attempt.ended_us for attempt in attempts)]
    return [times_of(attempt, before) for attempt, before in zip(attempts, befores, strict=False)]


def _show(attempts: Sequence[Attempt]) -> None:
    from ops import console

    for attempt, times in zip(attempts, _times(attempts), strict=True):
        for line in _lines(attempt, times):
            console.out().print(line, markup=False)


def _lines(attempt: Attempt, times: dict[str, float | None]) -> list[str]:
    from ops.llm_figures import duration
    from ops.redaction import escaped, redacted

    def shown(text: str) -> str:
        return escaped(redacted(text).encode(), _CHARACTERS_MAX)

    model = attempt.model + (
        f" ({attempt.model_answered})" if attempt.model_answered != attempt.model else ""
    )
    names = f"{attempt.provider}/{model.removesuffix(' ()')}"
    lines = [f"{attempt.attempt}  {attempt.state}  {attempt.why}  {shown(names)}"]
    if attempt.route:
        prompt = f", prompt {attempt.prompt} v{attempt.prompt_version}" if attempt.prompt else ""
        lines.append(f"   route    {shown(attempt.route)} v{attempt.route_version}{shown(prompt)}")
    steps = ("queue", "connect", "first_content", "total")
    lines.append(
        "   time     "
        + ", ".join(f"{step.replace('_', ' ')} {duration(times[f'{step}_ms'])}" for step in steps)
    )
    tokens = [("in", attempt.input_tokens), ("cached", attempt.cached_input_tokens)]
    tokens += [("out", attempt.output_tokens), ("reasoning", attempt.reasoning_tokens)]
    told = ", ".join(f"{name} {'unknown' if value is None else f'{value:,}'}" for name, value in tokens)
    lines.append(f"   tokens   {told} ({attempt.usage_source})")
    lines.append(f"   cost     {shown(_cost(attempt))}")
    if attempt.error_class:
        status = f", status {attempt.http_status}" if attempt.http_status else ""
        lines.append(f"   error    {shown(attempt.error_class)}{status}: {shown(attempt.error_raw)}")
    if attempt.finish or attempt.finish_raw:
        lines.append(f"   finish   {shown(attempt.finish)} (provider: {shown(attempt.finish_raw) or '-'})")
    if attempt.gate:
        lines.append(f"   gate     {shown(attempt.gate)}")
    if attempt.provider_request_id:
        lines.append(f"   call id  {shown(attempt.provider_request_id)}")
    return lines


def _cost(attempt: Attempt) -> str:
    from ops.llm_figures import money

    if attempt.state == "started":
        return "not settled"
    if attempt.cost_nanos is None:
        return "unknown"
    prices = f", prices of {attempt.price_version}" if attempt.price_version else ""
    return f"{money(attempt.cost_nanos)} ({attempt.cost_source}{prices})"
