"""A provider's answer as a recording: what came and when, without anything that must not be kept."""

from __future__ import annotations

import re
import time
from codecs import getincrementaldecoder
from typing import TYPE_CHECKING, Final

import httpx2

from connectors.llm.deltas import Alive
from connectors.llm.errors import RecordingRefused
from connectors.llm.framing import Frame, framer
from connectors.llm.masking import Mask
from connectors.llm.normalised import unfinished
from connectors.llm.recording import BYTES_MAX, Recorded, Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from connectors.llm.calls import HttpCall, Target
    from connectors.llm.deltas import Failed
    from connectors.llm.provider import Provider

ERROR_BODY_BYTES_MAX: Final = 1_048_576
_KEPT_HEADERS: Final = re.compile(
    r"content-type|retry-after(-ms)?|(x-)?request-id|x-generation-id|openai-(processing-ms|version)"
    r"|(x-|anthropic-)ratelimit-[a-z-]+"
)
"""What tells of the answer; cookies, and names of the account, are not among them."""
_HEADERS_MAX: Final = 64
_HEADER_CHARACTERS_MAX: Final = 512
_SECRET_HEADERS: Final = re.compile(r"auth|key|token|secret|cookie|password|credential")


def kept_headers(headers: Mapping[str, str], masked: Mask) -> dict[str, str]:
    """Give those headers (names in lower case) that are kept, so many and so long as any provider's are."""
    kept = [name for name in headers if len(name) <= _HEADER_CHARACTERS_MAX and _KEPT_HEADERS.fullmatch(name)]
    return {name: masked(headers[name])[:_HEADER_CHARACTERS_MAX] for name in kept[:_HEADERS_MAX]}


def secrets_of(target: Target) -> list[str]:
    """Give what must be in no recording: the key, and the values of headers whose names tell of one."""
    values = [value for name, value in target.headers.items() if _SECRET_HEADERS.search(name.lower())]
    return [target.api_key, *values]


class Recorder:
    """Takes one answer's bytes; ``secrets`` are masked wherever the provider repeats them."""

    def __init__(self, provider: Provider, secrets: Iterable[str] = ()) -> None:
        self._shape = provider.shape
        self._framer = framer(provider.framing)
        self.masked = Mask(secrets)
        self._size = self._at_us = 0
        self._head: bytearray | None = bytearray()
        """What was read while there was no event in it; None = there was one."""
        self.events: list[Recorded] = []
        self.problem = ""
        """Why the rest is not in it; empty while all is."""

    def feed(self, data: bytes, at_us: int) -> Sequence[Recorded]:
        """Take what was read at a time, give what it completed. Raises RecordingRefused if it is too much."""
        self._size += len(data)
        if self._size > BYTES_MAX:
            raise RecordingRefused(f"the answer is larger than {BYTES_MAX} bytes")
        if self._head is not None:
            self._head += data[: ERROR_BODY_BYTES_MAX - len(self._head)]
            self._at_us = at_us
        return self._keep(self._framer.feed(data), at_us)

    def eof(self, at_us: int) -> Sequence[Recorded]:
        """Give what the end of the body completes."""
        return self._keep(self._framer.eof(), at_us)

    def recording(self, status: int, headers: Mapping[str, str], note: str) -> Recording:
        """Give what was taken; ``headers`` with keys in lower case. What is no events is a body."""
        if self._head and _is_text(self._head):  # else keeping it as a text would make good what broke off
            return self.refused(status, headers, bytes(self._head), self._at_us, note)
        return Recording(self._shape, self.events, status, kept_headers(headers, self.masked), note)

    def refused(
        self, status: int, headers: Mapping[str, str], body: bytes, at_us: int, note: str
    ) -> Recording:
        """Give the recording of an answer that is no events, as one of another status is."""
        text = self.masked(body.decode("utf-8", "replace"))
        event = Recorded(at_us, body=text)
        return Recording(self._shape, [event], status, kept_headers(headers, self.masked), note)

    def _keep(self, framed: Sequence[Frame | Alive | Failed], at_us: int) -> Sequence[Recorded]:
        new: list[Recorded] = []
        for each in framed:
            if isinstance(each, Frame):
                self._head = None
                new.append(Recorded(at_us, self.masked(each.data), each.event))
            elif isinstance(each, Alive):
                new.append(Recorded(at_us, comment=self.masked(each.raw)))
            else:
                self.problem = self.masked(each.raw)
        self.events += new
        return new


def _is_text(head: bytes | bytearray) -> bool:
    try:
        getincrementaldecoder("utf-8")().decode(head)  # which may end within a character
    except UnicodeDecodeError:
        return False
    return True


def record_call(
    client: httpx2.Client,
    provider: Provider,
    call: HttpCall,
    *,
    secrets: Iterable[str] = (),
    note: str = "",
    progress: Callable[[Sequence[Recorded]], None] = lambda _: None,
) -> tuple[Recording, str]:
    """Make a call and record its answer, whatever its status; give it, and why it is not whole.

    An answer that breaks off is recorded as far as it came, and its note says so.

    Raises:
        httpx2.TransportError: there was no answer at all.
        RecordingRefused: it was too large.
    """
    recorder = Recorder(provider, secrets)
    began_ns = time.monotonic_ns()

    def now_us() -> int:
        return (time.monotonic_ns() - began_ns) // 1_000

    with client.stream("POST", call.url, headers=dict(call.headers), content=call.body) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status_code != 200:
            body = b""
            for data in response.iter_bytes():
                body += data
                if len(body) > ERROR_BODY_BYTES_MAX:
                    raise RecordingRefused(f"the answer is larger than {ERROR_BODY_BYTES_MAX} bytes")
            return recorder.refused(response.status_code, headers, body, now_us(), note), ""
        broke = _read(response, recorder, now_us, progress)
    why = broke or recorder.problem or unfinished(recorder.recording(200, headers, note), provider)
    return recorder.recording(200, headers, f"{note}; not whole: {why}"[:2_000] if why else note), why


def _read(
    response: httpx2.Response,
    recorder: Recorder,
    now_us: Callable[[], int],
    progress: Callable[[Sequence[Recorded]], None],
) -> str:
    """Read the body to its end; give why there was none."""
    try:
        for data in response.iter_bytes():
            progress(recorder.feed(data, now_us()))
    except httpx2.TransportError as error:
        return recorder.masked(f"{type(error).__name__}: {error}")
    progress(recorder.eof(now_us()))
    return ""
