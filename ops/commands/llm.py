"""`sluicegate llm`: the worker that calls language models, and what belongs to it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from ops.errors import Misused

GROUPS: Final[tuple[str, ...]] = (
    "llm_ask",
    "llm_attempts",
    "llm_costs",
    "llm_loopback",
    "llm_play",
    "llm_prompts",
    "llm_record",
    "llm_routes",
)
"""Modules of commands below it, each with a ``register``."""

HELP: Final = """\
Run the worker that asks language models (`sluicegate llm` alone), or one of the commands.

The worker takes requests from Kafka, calls providers, and writes what they send as streams, until Ctrl-C. \
The commands ask, record, play, show what calls cost, and keep routes and prompts.
"""


def register(app: App) -> None:
    """Add the commands to the app."""
    llm = App(name="llm", help=HELP, usage="Usage: sluicegate llm [COMMAND]")
    llm.default(worker_command)
    for name in GROUPS:
        import_module(f"ops.commands.{name}").register(llm)
    app.command(llm)


def worker_command(*words: Annotated[str, Parameter(show=False)]) -> int:
    """Run a worker: it takes requests from Kafka, calls providers, and writes what they send as streams.

    More workers share the requests. SIGTERM and Ctrl-C let the calls under way end, for
    SLUICEGATE_LLM__DRAIN_MS at most; a second signal ends at once, and another begins anew what was left.

    Providers are settings: SLUICEGATE_LLM__PROVIDERS__OPENAI__API_KEY=… is enough for one that is well known.

    Example: `sluicegate llm`
    """
    if words:
        raise _no_command(words[0])
    from ops.llm_worker import run_llm_worker
    from ops.settings import Settings

    return run_llm_worker(Settings())


def _no_command(word: str) -> Misused:
    """Words after `llm` that are no command are a mistake: the worker takes none."""
    from ops.errors import Misused
    from schemas.meant import meant

    commands = [name.removeprefix("llm_") for name in GROUPS]
    return Misused(
        f"llm has no command {word!r}{meant(word, commands, '`sluicegate llm {}`')}",
        f"there are {', '.join(commands)}",
    )
