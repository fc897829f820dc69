"""`sluicegate llm`: the worker that calls language models, and what belongs to it."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from cyclopts import App

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


def register(app: App) -> None:
    """Add the commands to the app."""
    llm = App(
        name="llm",
        help="Ask language models. Without a command the worker runs; routes, prompts, costs, recordings.",
    )
    llm.default(worker_command)
    for name in GROUPS:
        import_module(f"ops.commands.{name}").register(llm)
    app.command(llm)


def worker_command() -> int:
    """Run a worker: it takes requests from Kafka, calls providers, and writes what they send as streams.

    More workers share the requests. SIGTERM and Ctrl-C let the calls under way end, for
    SLUICEGATE_LLM__DRAIN_MS at most; a second signal ends at once, and another begins anew what was left.

    Providers are settings: SLUICEGATE_LLM__PROVIDERS__OPENAI__API_KEY=… is enough for one that is well known.

    Example: `sluicegate llm`
    """
    from ops.llm_worker import run_llm_worker
    from ops.settings import Settings

    return run_llm_worker(Settings())
