"""`sluicegate llm record`: a provider's answer becomes a file that can be played."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # the command line is read by its types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from connectors.llm.calls import Shape  # noqa: TC001  # as above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App

    from connectors.llm.calls import Target
    from connectors.llm.recording import Recorded, Recording


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(record_command, name="record")


def record_command(
    file: Annotated[Path, Parameter(help="What to write; .stream.jsonl is added if it is not there.")],
    *,
    provider: Annotated[str, Parameter(help="Name of one that the settings have, with its key.")] = "",
    url: Annotated[str, Parameter(help="Base of one that takes no key, instead.")] = "",
    shape: Annotated[Shape | None, Parameter(help="Wire shape at --url.")] = None,
    model: Annotated[str, Parameter(help="Which model to ask.")] = "",
    prompt: Annotated[str, Parameter(help="What to ask it.")] = "",
    max_output_tokens: Annotated[int | None, Parameter(help="Longest answer.")] = None,
    stream: Annotated[str, Parameter(help="TENANT/STREAM: take what a worker kept, and ask nobody.")] = "",
    attempt: Annotated[int | None, Parameter(help="Which of its attempts; by default the last.")] = None,
    force: Annotated[bool, Parameter(help="Write over a file that is there.", negative=())] = False,
) -> int:
    """Record a provider's answer, each event as it came and when: `sluicegate llm loopback` plays it again.

    Either a call is made now, which may cost money, or the answer is taken from what a worker kept of a
    stream (routes with `keep.raw` on, within a day). The file holds the answer, no question and no key. An
    answer of another status is recorded too. Exit code 1 if the answer was not whole.

    Example: `sluicegate llm record hello.stream.jsonl --provider openai --model gpt-5-mini --prompt "Hello"`

    Example: `sluicegate llm record hello --url http://127.0.0.1:11434 --shape ollama --model gemma3 \
--prompt "Hello"`

    Example: `sluicegate llm record broken --stream default/chat-42 --attempt 1`
    """
    from connectors.llm.recording import SUFFIX, write_recording
    from ops import console
    from ops.errors import Misused

    if not file.name.endswith(SUFFIX):
        file = file.with_name(file.name + SUFFIX)
    if not file.parent.is_dir():
        raise Misused(f"there is no folder {file.parent}")
    if file.exists() and not force:
        raise Misused(f"{file} is there already", "give another name, or --force to write over it")
    if stream:
        if provider or url or model or prompt:
            raise Misused("--stream asks nobody: it goes with --attempt alone")
        recording, problem = _kept(stream, attempt), ""
    else:
        if attempt is not None:
            raise Misused("--attempt goes with --stream")
        if not model or not prompt:
            raise Misused("--model and --prompt are needed", "or --stream, for what a worker kept")
        target = _target(provider, url, shape)
        recording, problem = _called(target, model, prompt, max_output_tokens)
    write_recording(file, recording)
    seconds = recording.events[-1].at_us / 1e6 if recording.events else 0.0
    console.out().print(f"{file}: {len(recording.events)} events over {seconds:.1f} s")
    if recording.is_body:
        status = recording.status
        console.warn(f"the provider answered with status {status}, and no events: its body is recorded")
    if problem:
        console.fail(problem, "it is recorded as far as it came; record it again for a whole one")
    return 1 if problem else 0


def _target(provider: str, url: str, shape: Shape | None) -> Target:
    from connectors.llm.calls import Target
    from ops.errors import Misused
    from ops.llm import providers
    from ops.settings import Settings

    if bool(provider) == bool(url):
        raise Misused("one of --provider and --url is needed")
    if url:
        if shape is None:
            raise Misused("--url needs --shape")
        return Target("url", shape, _checked(url))
    if shape is not None:
        raise Misused("--shape goes with --url: a provider of the settings has its own")
    known = providers(Settings())
    if provider not in known:
        names = ", ".join(known) or "none"
        raise Misused(
            f"--provider {provider}: the settings have {names}",
            f"set SLUICEGATE_LLM__PROVIDERS__{provider.upper()}__API_KEY",
        )
    return known[provider]


def _checked(url: str) -> str:
    from urllib.parse import urlsplit

    from ops.errors import Misused

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise Misused("--url is no http or https URL without user and query", "http://127.0.0.1:11434")
    return url.rstrip("/")


def _called(target: Target, model: str, prompt: str, max_output_tokens: int | None) -> tuple[Recording, str]:
    """Make the call; give the recording and why it is not whole."""
    import time

    import httpx2

    from connectors.llm.calls import Call, Params
    from connectors.llm.providers import PROVIDERS
    from connectors.llm.recorder import record_call, secrets_of
    from ops import console
    from ops.errors import Unreachable
    from schemas.published import time_text

    provider = PROVIDERS[target.shape]
    messages = [{"role": "user", "content": prompt}]
    call = provider.request(Call(model, messages, Params(max_output_tokens=max_output_tokens)), target)
    secrets = secrets_of(target)
    note = f"{model}, recorded {time_text(time.time_ns() // 1_000)}"

    with console.err().status(f"asking {model}") as status, httpx2.Client(timeout=_TIMEOUT_S) as client:
        count = 0

        def progress(new: Sequence[Recorded]) -> None:
            nonlocal count
            count += len(new)
            status.update(f"{model}: {count} events")

        try:
            return record_call(client, provider, call, secrets=secrets, note=note, progress=progress)
        except httpx2.TransportError as error:
            raise Unreachable(f"{target.name} at {target.base_url}: {error}") from None


_TIMEOUT_S = 120.0  # of silence


def _kept(stream: str, attempt: int | None) -> Recording:
    """Read what a worker kept of an attempt."""
    from contextlib import closing

    from connectors.llm.kept_answers import kept_answer
    from connectors.registry import Registry
    from ops import console
    from ops.addresses import addresses, kafka_options
    from ops.naming import stream_named
    from ops.settings import Settings
    from schemas.wire import WireCodec

    tenant, stream_id = stream_named(stream)
    settings = Settings()
    where = addresses(settings)
    with (
        closing(Registry(where.registry_url)) as registry,
        console.err().status(f"reading what was kept of {stream}"),
    ):
        wire = WireCodec(registry)
        return kept_answer(kafka_options(settings, where.kafka), wire, tenant, stream_id, attempt)
