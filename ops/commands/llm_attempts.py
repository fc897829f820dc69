"""`sluicegate llm attempts`: each call that was made for a stream, from the ledger."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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

    From the ledger in Kafka, so it needs no PostgreSQL. What was sent and what came is shown to whoever may
    read llm.contents.v1, where the route keeps it.

    Example: `sluicegate llm attempts acme/answer-7`

    Parameters
    ----------
    stream
        TENANT/STREAM; without a tenant the default one.
    as_json
        Print a JSON document with every field of the ledger, and as `otel` by OpenTelemetry's names.
    """
    from connectors.llm.attempts import attempts_of
    from connectors.llm.genai import attributes_of
    from connectors.registry import Registry
    from ops import console
    from ops.addresses import addresses, kafka_options
    from ops.naming import stream_named
    from ops.settings import Settings
    from schemas.wire import WireCodec

    tenant, stream_id = stream_named(stream)
    settings = Settings()
    where = addresses(settings)
    registry = Registry(where.registry_url)
    try:
        kafka = kafka_options(settings, where.kafka)
        found, refused = attempts_of(kafka, WireCodec(registry), tenant, stream_id)
    finally:
        registry.close()
    if as_json:
        rows = [
            {**asdict(attempt), **times, "otel": attributes_of(attempt)}
            for attempt, times in zip(found, _times(found), strict=True)
        ]
        told = {"tenant": tenant, "stream_id": stream_id, "attempts": rows}
        console.print_json(told | {"contents_refused": str(refused) if refused else None})
    else:
        _show(found)
    if refused:
        console.warn(f"what was sent and what came is not shown: {refused}")
    if found:
        return 0
    console.fail(
        f"the ledger has no attempt of stream {tenant}/{stream_id}",
        "see its name; a call is on the ledger for 90 days, from before it is made",
    )
    return 1


def _times(attempts: Sequence[Attempt]) -> list[dict[str, float | None]]:
    from ops.llm_figures import times_of

    times, before_us = [], 0
    for attempt in attempts:
        times.append(times_of(attempt, before_us or attempt.requested_us))
        # Behind an end there is another question, of a name that was opened again.
        before_us = 0 if attempt.end_reason else attempt.ended_us
    return times


def _show(attempts: Sequence[Attempt]) -> None:
    from ops import console

    for attempt, times in zip(attempts, _times(attempts), strict=True):
        for line in _lines(attempt, times):
            console.out().print(line)


def _lines(attempt: Attempt, times: dict[str, float | None]) -> list[str]:
    from ops.llm_figures import duration
    from ops.redaction import escaped
    from schemas.redaction import redacted

    def shown(text: str) -> str:
        return escaped(redacted(text).encode(), _CHARACTERS_MAX)

    model = attempt.model + (
        f" ({attempt.model_answered})" if attempt.model_answered != attempt.model else ""
    )
    names = "/".join(filter(None, (attempt.provider, model.removesuffix(" ()"))))
    # Attempt 0 is no call: the operation ended without one, or without another.
    called = f"{attempt.attempt}  {attempt.state}  {attempt.why}" if attempt.attempt else "ended"
    lines = [f"{called}  {shown(names)}".rstrip()]
    if attempt.route:
        prompt = _versioned(f", prompt {attempt.prompt}", attempt.prompt_version) if attempt.prompt else ""
        route = _versioned(attempt.route, attempt.route_version)
        lines.append(f"   route    {shown(route)}{shown(prompt)}")
    steps = ("queue", "connect", "first_content", "total") if attempt.attempt else ("queue",)
    lines.append(
        "   time     "
        + ", ".join(f"{step.replace('_', ' ')} {duration(times[f'{step}_ms'])}" for step in steps)
    )
    tokens = [("in", attempt.input_tokens), ("cached", attempt.cached_input_tokens)]
    tokens += [("out", attempt.output_tokens), ("reasoning", attempt.reasoning_tokens)]
    told = ", ".join(f"{name} {'unknown' if value is None else f'{value:,}'}" for name, value in tokens)
    told += "".join(
        f", {name.replace('_', ' ')} {count:,}" for name, count in sorted(attempt.usage_details.items())
    )
    lines.append(f"   tokens   {shown(told)} ({attempt.usage_source})")
    lines.append(f"   cost     {shown(_cost(attempt))}")
    if attempt.error_class:
        status = f", status {attempt.http_status}" if attempt.http_status else ""
        lines.append(f"   error    {shown(attempt.error_class)}{status}: {shown(attempt.error_raw)}")
    elif attempt.error_raw:
        lines.append(f"   note     {shown(attempt.error_raw)}")
    if attempt.finish or attempt.finish_raw:
        lines.append(f"   finish   {shown(attempt.finish)} (provider: {shown(attempt.finish_raw) or '-'})")
    if attempt.gate:
        lines.append(f"   gate     {shown(attempt.gate)}")
    if attempt.provider_request_id:
        lines.append(f"   call id  {shown(attempt.provider_request_id)}")
    for label, kept, told_of in (("sent", attempt.input_json, _sent), ("came", attempt.output_json, _came)):
        lines += [f"   {label:<8} {shown(each)}" for each in told_of(kept)]
    return lines


def _sent(kept: str | None) -> Iterator[str]:
    """Say of what was sent, where it is kept, how much it was, and its last message."""
    value = _value(kept)
    messages, params = value.get("messages") or [], value.get("params") or {}
    if messages:
        what = [f"{len(messages)} messages", *(["a schema"] if value.get("schema") else ())]
        what += [f"tool {tool.get('name')}" for tool in value.get("tools") or ()]
        yield ", ".join(what + [f"{name} {said}" for name, said in params.items()])
        yield f"{messages[-1].get('role')}: {_plain(messages[-1].get('content'))}"
    yield from _head(value)


def _came(kept: str | None) -> Iterator[str]:
    """Say what came, where it is kept: a line each channel, call of a tool, picture or sound, and failure."""
    value = _value(kept)
    told = ("error", "text", "reasoning", "refusal")
    yield from (f"{name}: {value[name]}" for name in told if value.get(name))
    for call in value.get("tool_calls") or ():
        yield f"tool {call.get('name')} ({call.get('id')}): {call.get('arguments')}"
    for media in value.get("media") or ():
        kept_at = media.get("reference") or f"{media.get('bytes'):,} bytes"
        yield f"media {media.get('index')}: {media.get('mime')}, {kept_at}"
    yield from _head(value)


def _value(kept: str | None) -> dict[str, Any]:
    from ops.llm_shown import json_of

    value = json_of(kept or "{}")
    return value if isinstance(value, dict) else {}


def _head(value: dict[str, Any]) -> Iterator[str]:
    if value.get("cut"):
        yield f"cut: {value.get('head') or 'what is longer is not kept'}"


def _versioned(name: str, version: int) -> str:
    """Name a version; 0 = none was chosen, or none is kept."""
    return f"{name} v{version}" if version else name


def _plain(content: object) -> str:
    """Give the text of a message, and the types of what it has besides."""
    if not isinstance(content, list):
        return str(content or "")
    return " ".join(str(part.get("text") or f"[{part.get('mime', part.get('type'))}]") for part in content)


def _cost(attempt: Attempt) -> str:
    from ops.llm_figures import money

    if attempt.state == "started":
        return "not settled"
    if attempt.cost_nanos is None:
        return "unknown"
    prices = f", prices of {attempt.price_version}" if attempt.price_version else ""
    return f"{money(attempt.cost_nanos)} ({attempt.cost_source}{prices})"
