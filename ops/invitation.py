"""What the demo tells a person: where to look, and what to try next, in words that can be pasted."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ops.addresses import console_page
from schemas.envelope import DEFAULT_TENANT
from schemas.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Sequence


def invitation(url: str, stream: str, worker_pid: int) -> str:
    """The text for a stream of a running demo."""
    ours, url = command_name(), redacted(url)
    tries = (
        (f"{ours} tail {stream}", "the same stream in a terminal"),
        (f"{ours} exec -- ping -c 30 127.0.0.1", "stream a command of your own"),
        (f"curl -X POST {url}/v1/streams/{stream}/cancel", "stop the command from outside"),
        (f"kill -9 {ingest_pid(worker_pid)}", "kill ingest in mid-stream: no line is lost or doubled"),
        (f"{ours} lag --watch", "how far the agents are behind"),
        (f"{ours} dlq list", "what could not be handled"),
    )
    return _text(console_page(url, DEFAULT_TENANT, stream), tries)


def asking(url: str, page: str, model: str) -> str:
    """The text for the answer of a language model in a running demo."""
    ours, url = command_name(), redacted(url)
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    tries = (
        (f'{ours} llm ask "Name a river." --model {model}', "ask something of your own"),
        (f"curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'", "as OpenAI's"),
    )
    return _text(page, tries)


def _text(page: str, tries: Sequence[tuple[str, str]]) -> str:
    width = max(len(words) for words, _ in tries)
    lines = "\n".join(f"    {words:<{width}}  # {what}" for words, what in tries)
    return f"""
  Open  {page}

  Try in a second terminal, in this folder:
{lines}

  Ctrl-C stops all that this started.
"""


def command_name() -> str:
    """How to call us from a shell: by name if that finds this very command, else by its path from here."""
    script = Path(sys.executable).parent / "sluicegate"
    found = shutil.which("sluicegate")
    if found is not None and Path(found).resolve() == script.resolve():
        return "sluicegate"
    return os.path.relpath(script) if script.exists() else f"{sys.executable} -m ops"


def ingest_pid(worker_pid: int) -> int:
    """The process of the role ingest; the worker itself while that is not to be seen."""
    try:
        for child in psutil.Process(worker_pid).children():
            if child.cmdline()[-1:] == ["ingest"]:
                return child.pid
    except psutil.Error:
        pass
    return worker_pid
