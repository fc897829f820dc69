"""The process of the local model: llama.cpp's own server, in a package, on the loopback.

`sluicegate up --model` starts it; see ops/stack/model.py. It imports nothing of ours that takes time.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Final

CONTEXT_TOKENS: Final = 4_096
"""Of each call: question and answer."""
ANSWER_TOKENS_MAX: Final = 512
"""Of a call that names no bound: the model is a small one and does not always find an end."""
CALLS_AT_ONCE: Final = 2
MESSAGES: Final = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content }}

{% elif message.role == 'user' -%}Question: {{ message.content }}
{% else -%}Answer: {{ message.content }}

{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}Answer:{%- endif -%}
"""
"""The weights are of the model before it was taught to chat: it goes on with a text, so it gets one."""


ANSWER_ENDS: Final = "\nQuestion:"


def main() -> None:
    """Serve until a signal: ``model_server WEIGHTS NAME PORT KEY_FILE``."""
    from xllamacpp import CommonParams, Server

    weights, name, port, key_file = sys.argv[1:]
    stopping = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # before the server's threads, which inherit it
    params = CommonParams()
    params.model.path = weights
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    # Every page that a browser on this machine shows could ask a server that asks for no key.
    params.api_keys = [Path(key_file).read_text(encoding="ascii").strip()]
    params.cors_origins = ""
    params.ui = False
    params.endpoint_slots = False  # it shows what others asked
    params.n_ctx = CONTEXT_TOKENS * CALLS_AT_ONCE
    params.n_parallel = CALLS_AT_ONCE
    params.n_predict = ANSWER_TOKENS_MAX
    params.cache_ram_mib = 0  # its default is 8 GiB of earlier questions
    params.chat_template = MESSAGES
    params.antiprompt = [ANSWER_ENDS]
    params.sampling.temp = 0.2  # so small a model makes no more sense by more of it
    params.verbosity = 2  # warnings and errors: lines of every call would fill the disk
    server = Server(params)
    signal.sigwait(stopping)
    del server


if __name__ == "__main__":
    main()
