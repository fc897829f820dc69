"""`sluicegate llm ask`: one question from the terminal, its answer as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(ask_command, name="ask")


def ask_command(
    question: Annotated[str, Parameter(help="What is asked.")],
    *,
    model: Annotated[str, Parameter(help="MODEL or PROVIDER/MODEL; none = as the route says.")] = "",
    route: Annotated[str, Parameter(help="Which route says who is asked.")] = "default",
    system: Annotated[str, Parameter(help="What the model is told first.")] = "",
    max_tokens: Annotated[int | None, Parameter(help="Most tokens of the answer.")] = None,
    stream: Annotated[str | None, Parameter(help="Name of the answer's stream; none makes one.")] = None,
    tenant: Annotated[str, Parameter(help="For whom.")] = "default",
    as_json: Annotated[bool, Parameter(name="--json", help="A JSON document an event.", negative=())] = False,
) -> int:
    """Ask a language model, and print the answer as it comes; exit code 1 if it did not end well.

    The edge takes the question and a worker (`sluicegate llm`) asks the provider, so the answer is a stream
    that any page can show, too: its name is told first.

    Example: `sluicegate llm ask "Why is the sky blue?" --max-tokens 60`
    """
    import asyncio

    from ops import console
    from ops.addresses import edge_token, edge_url
    from ops.client import EdgeClient
    from ops.commands.execute import default_stream_id, printable
    from ops.commands.tail import follow
    from ops.errors import Misused
    from ops.settings import Settings

    if not question.strip():
        raise Misused("there is no question", 'for example "Why is the sky blue?"')
    if max_tokens is not None and max_tokens < 1:
        raise Misused(f"--max-tokens {max_tokens}: is 1 or more")
    settings = Settings()
    stream = stream or default_stream_id("llm")
    messages = [{"role": "system", "content": system}] if system else []
    asked: dict[str, object] = {
        "messages": [*messages, {"role": "user", "content": question}],
        "route": route,
        "title": printable(question, 256),
        **({"model": model} if model else {}),
        **({"params": {"max_output_tokens": max_tokens}} if max_tokens else {}),
    }

    async def run() -> int:
        async with EdgeClient(
            edge_url(settings), tenant=tenant, token=edge_token(settings), on_trouble=console.note
        ) as client:
            await client.ask(stream, asked)
            console.note(f"stream {tenant}/{stream}")
            if_silent = (
                "no answer yet: where no `sluicegate llm` runs nobody has taken the question, so start one "
                "(and `sluicegate worker`, which opens streams); else the model is slow, and "
                f"`sluicegate llm attempts {tenant}/{stream}` shows its call"
            )
            return await follow(client, stream, as_json=as_json, if_silent=if_silent)

    return asyncio.run(run())
