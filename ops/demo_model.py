"""The demo with a language model: a question is asked, and its answer is a stream like any other.

It is the local model that answers, where it is installed; else a recording, by the loopback provider, and the
demo says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from connectors.llm.loopback.server import Loopback
from ops import console
from ops.addresses import console_page, edge_token, local_model
from ops.client import EdgeClient
from ops.commands.execute import default_stream_id
from ops.commands.tail import follow
from ops.demo import Demo
from ops.invitation import asking
from ops.llm import LOCAL
from ops.stack.model import INSTALL, LICENCE, is_installed
from schemas.envelope import DEFAULT_TENANT

if TYPE_CHECKING:
    from ops.children import Child

QUESTION: Final = "Why is the sky blue?"
TOKENS_MAX: Final = 48
QUEUE_MS_MAX: Final = 120_000
REPLAY: Final = "replay"
RECORDING: Final = "welcome"


def announce() -> bool:
    """Say who will answer; True if it is the real model."""
    if is_installed():
        console.note(LICENCE)
        return True
    console.note(
        f"the local model is not installed (`{INSTALL}` gets it): a recording is replayed in its place, by a "
        "provider on loopback, which no model wrote"
    )
    return False


class ModelDemo(Demo):
    """Asks one question; more can be asked while it stays."""

    _model = ""
    """Who is asked: PROVIDER/MODEL."""

    async def _run(self) -> int:
        # A worker is asked as soon as it starts; on a busy machine it takes long to have its partitions.
        self._environment = {"SLUICEGATE_LLM__QUEUE_MS_MAX": f"{QUEUE_MS_MAX}"}
        model = local_model(self._settings)
        if model is not None:
            self._model = f"{LOCAL}/{model.name}"
            return await super()._run()
        async with Loopback() as provider:
            prefix = f"SLUICEGATE_LLM__PROVIDERS__{REPLAY.upper()}__"
            self._environment |= {
                f"{prefix}SHAPE": "openai-chat",
                f"{prefix}BASE_URL": provider.base_url("openai-chat"),
                f"{prefix}MODELS": RECORDING,
            }
            self._model = f"{REPLAY}/{RECORDING}"
            return await super()._run()

    async def _more_parts(self) -> list[Child]:
        return [await self._start("llm", "llm")]

    async def _begin(self, url: str) -> None:
        self._stream = default_stream_id("question")
        question = {
            "messages": [{"role": "user", "content": QUESTION}],
            "model": self._model,
            "params": {"max_output_tokens": TOKENS_MAX},
            "title": QUESTION,
        }
        async with EdgeClient(url, token=edge_token(self._settings), on_trouble=console.note) as client:
            await client.ask(self._stream, question)
        console.note(
            f"asked {self._model}: {QUESTION} Its first words take some seconds, on a busy machine a minute"
        )

    async def _show(self, url: str, worker: Child) -> int:  # noqa: ARG002  # as the other demo
        if not self._once:
            page = console_page(url, DEFAULT_TENANT, self._stream)
            console.out().print(asking(url, page, self._model))
        async with EdgeClient(url, token=edge_token(self._settings), on_trouble=console.note) as client:
            completed = await follow(client, self._stream)
        if self._once:
            return completed
        console.note("the answer is there; ask another, or end it with Ctrl-C")
        await asyncio.Event().wait()
        return 0
