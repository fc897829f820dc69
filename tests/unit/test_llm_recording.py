"""Recordings: what is written is read, what is recorded of a call is what was played, and no key is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.calls import Call, Target
from connectors.llm.errors import RecordingRefused
from connectors.llm.kept_answers import Gathered
from connectors.llm.loopback.play import HTML
from connectors.llm.loopback.server import Loopback, LoopbackOptions, LoopbackThread
from connectors.llm.normalised import normalised, unfinished
from connectors.llm.providers import PROVIDERS
from connectors.llm.recorder import Recorder, record_call, secrets_of
from connectors.llm.recording import (
    SUFFIX,
    Recorded,
    Recording,
    parse_recording,
    read_recording,
    write_recording,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.llm.calls import Shape

CLIENT = httpx2.Client(verify=False)  # to make one that trusts authorities takes longer than a test
each_shape = pytest.mark.parametrize("shape", list(PROVIDERS))
KEY = "sk-very-secret-0123456789"

texts = st.text(st.characters(codec="utf-8"), max_size=60)
times = st.integers(0, 2**50)


events = st.one_of(
    st.builds(Recorded, times, texts, texts),
    st.builds(Recorded, times, comment=texts),
    st.builds(Recorded, times, body=texts),
)
recordings = st.builds(
    Recording,
    shape=st.sampled_from(["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"]),
    events=st.lists(events, max_size=12).map(lambda each: sorted(each, key=lambda one: one.at_us)),
    status=st.integers(100, 599),
    headers=st.dictionaries(texts, texts, max_size=4),
    note=texts,
)


@given(recording=recordings)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, recording: Recording):
    path = tmp_path_factory.getbasetemp() / f"written{SUFFIX}"
    write_recording(path, recording)
    assert read_recording(path) == recording
    assert list(path.parent.glob("written*")) == [path], "nothing is left beside it"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{}", "line 1: the first line must be"),
        ('{"recording": 2, "shape": "gemini"}', "line 1: the first line must be"),
        ('{"recording": 1, "shape": "smoke"}', "line 1: shape must be one of"),
        ('{"recording": 1, "shape": "gemini", "status": 9}', "line 1: status must be"),
        ('{"recording": 1, "shape": "gemini"}\n[]', "line 2: must be an object"),
        ('{"recording": 1, "shape": "gemini"}\n\n{"at_us": 1.5, "data": ""}', "line 3: at_us must be"),
        ('{"recording": 1, "shape": "gemini"}\n{"at_us": 1}', "line 2: has neither"),
        ('{"recording": 1, "shape": "gemini"}\n{"at_us": 9, "data": ""}\n{"at_us": 8, "data": ""}', "line 3"),
        ('{"recording": 1, "shape": "gemini"}\n{"at_us": 9, "data": 1}', "line 2: data must be text"),
        ("nonsense", "line 1"),
        ("", "is empty"),
    ],
)
def test_what_is_no_recording_is_refused_by_its_line(line: str, why: str):
    with pytest.raises(RecordingRefused, match=why):
        parse_recording(line.split("\n"), "file")


def test_a_file_that_is_none_is_refused_by_its_name(tmp_path: Path):
    with pytest.raises(RecordingRefused, match="absent"):
        read_recording(tmp_path / "absent")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(RecordingRefused, match="bytes"):
        read_recording(tmp_path / "bytes")


# -- of a call ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    with LoopbackThread(LoopbackOptions(speed=0)) as loopback:
        yield loopback


def record(loopback: Loopback, shape: Shape, model: str) -> tuple[Recording, str]:
    provider = PROVIDERS[shape]
    target = Target("test", shape, loopback.base_url(shape), KEY)
    call = provider.request(Call(model, [{"role": "user", "content": "what flows here"}]), target)
    return record_call(CLIENT, provider, call, secrets=[KEY], note="a test")


@each_shape
def test_what_is_recorded_is_the_recording_that_was_played(loopback: Loopback, shape: Shape):
    recording, problem = record(loopback, shape, "welcome")
    played = loopback.answers.library.find("welcome", shape)
    assert played is not None
    assert problem == ""
    assert [(each.event, each.data) for each in recording.events] == [
        (each.event, each.data) for each in played.events
    ]
    assert recording.headers == played.headers
    assert (recording.status, recording.note) == (200, "a test")


@each_shape
def test_what_is_recorded_again_of_its_own_recording_is_the_same(tmp_path: Path, shape: Shape):
    with LoopbackThread() as first:
        plain, _ = record(first, shape, "words?tokens=20&reasoning=3")
        recording, _ = record(first, shape, "words?tokens=20&reasoning=3&fault=comments")
    assert len(recording.events) == 2 * len(plain.events)
    write_recording(tmp_path / f"again{SUFFIX}", recording)
    with LoopbackThread(LoopbackOptions(recordings=tmp_path)) as second:
        again, _ = record(second, shape, "again")
    assert [(each.event, each.data, each.comment) for each in again.events] == [
        (each.event, each.data, each.comment) for each in recording.events
    ]


@each_shape
@pytest.mark.parametrize("fault", ["cut", "closed", "ended", "cut_utf8", "malformed", "error_frame"])
def test_an_answer_that_is_not_whole_is_recorded_as_far_as_it_came(
    loopback: Loopback, shape: Shape, fault: str
):
    recording, problem = record(loopback, shape, f"words?fault={fault}&after=4")
    assert problem
    assert "not whole" in recording.note
    assert sum('"' in each.data for each in recording.events) >= 4


@each_shape
def test_an_answer_of_another_status_is_recorded(loopback: Loopback, shape: Shape):
    recording, problem = record(loopback, shape, "words?fault=rate_limited&retry_after=7")
    assert (recording.status, recording.headers["retry-after"], problem) == (429, "7", "")
    assert "error" in orjson.loads(recording.events[0].body or "")


@each_shape
def test_a_page_is_recorded_as_it_came_and_is_not_whole(loopback: Loopback, shape: Shape):
    recording, problem = record(loopback, shape, "words?fault=html")
    assert " characters that is no " in problem, "its words are the recording's alone"
    assert recording.status == 200
    assert recording.body.strip() == HTML.strip()
    assert recording.headers["content-type"] == "text/html"


@each_shape
def test_no_key_and_no_cookie_is_in_a_recording(tmp_path: Path, shape: Shape):
    repeated = {
        "content-type": "text/plain",
        "x-request-id": KEY,
        "set-cookie": "a=b",
        "openai-organization": "us",
    }
    spoken = Recording(shape, [Recorded(0, body=f'{{"error": "your key {KEY} is wrong"}}')], 401, repeated)
    write_recording(tmp_path / f"spoken{SUFFIX}", spoken)
    with LoopbackThread(LoopbackOptions(recordings=tmp_path)) as loopback:
        recording, _ = record(loopback, shape, "spoken")
    assert KEY not in repr(recording)
    assert recording.headers | {"request-id": ""} == {
        "content-type": "text/plain",
        "x-request-id": "***",
        "request-id": "",  # anthropic's own, which the provider makes up
    }
    assert recording.events[0].body == '{"error": "your key *** is wrong"}'


def test_a_secret_is_what_the_headers_names_tell_and_nothing_that_an_answer_may_say():
    headers = {"proxy-authorization": "Basic abcdefgh", "x-api-key": "other-key", "x-region": "in the river"}
    secrets = secrets_of(Target("test", "ollama", "http://127.0.0.1", KEY, headers))
    recorder = Recorder(PROVIDERS["ollama"], secrets)
    said = f"{KEY} Basic abcdefgh abcdefgh other-key in the river"
    assert recorder.masked(said) == "*** *** *** *** in the river"


def test_a_provider_that_repeats_the_question_puts_no_key_into_a_recording():
    with LoopbackThread() as loopback:
        provider = PROVIDERS["openai-chat"]
        target = Target("test", "openai-chat", loopback.base_url("openai-chat"), KEY)
        call = provider.request(Call("echo", [{"role": "user", "content": f"say {KEY[:12]} x"}]), target)
        recording, _ = record_call(CLIENT, provider, call, secrets=[KEY[:12]])
    assert KEY[:12] not in repr(recording)


# -- as deltas ----------------------------------------------------------------------------------------


@each_shape
def test_our_recordings_are_whole_answers(loopback: Loopback, shape: Shape):
    recording = loopback.answers.library.find("welcome", shape)
    assert recording is not None
    assert unfinished(recording, PROVIDERS[shape]) == ""
    due = [at_us for at_us, _ in normalised(recording, PROVIDERS[shape])]
    assert due == sorted(due)
    assert len(due) > 150


# -- of what a worker kept ----------------------------------------------------------------------------


def test_records_of_a_kept_answer_that_come_twice_are_taken_once():
    gathered = Gathered("ollama")
    first = {"first_index": 0, "at_us": [1, 2], "events": ["", ""], "chunks": ["a", "b"]}
    later = {"first_index": 1, "at_us": [2, 1], "events": ["", ""], "chunks": ["b", "c"]}
    for record in (first, first, later, later):
        gathered.take(record)
    assert [(each.at_us, each.data) for each in gathered.events] == [(1, "a"), (2, "b"), (2, "c")]
    assert not gathered.missing


def records_of(epoch: int, *chunks: str, first: int = 0, status: int = 0) -> dict[str, Any]:
    comments = [place for place, chunk in enumerate(chunks) if chunk == "ping"]
    return {
        "first_index": first, "at_us": [*range(len(chunks))], "events": [""] * len(chunks), "chunks": chunks,
        "comments": comments, "status": status, "headers": {}, "epoch": epoch,
    }  # fmt: skip


def gathered_of(*records: dict[str, Any]) -> tuple[list[str], bool]:
    gathered = Gathered("openai-responses")
    for record in records:
        gathered.take(record)
    events = [each.comment or each.body or each.data for each in gathered.recording("").events]
    return events, gathered.missing


def test_of_an_answer_that_two_workers_read_comes_back_all_that_the_last_one_read():
    dead, last = records_of(0, "e0", "ping", "e1"), records_of(1, "e0", "e1")
    more = records_of(1, "e2", "e3", "done", first=2)
    whole = ["e0", "e1", "e2", "e3", "done"], False
    assert gathered_of(dead, last, more) == whole
    assert gathered_of(dead, last, records_of(0, "e2", first=3), more, last, more) == whole, "late, and twice"
    assert gathered_of(records_of(0, "e2", first=64), last, more) == whole, "of the dead one a part was gone"
    assert gathered_of(dead, more)[1], "of the last one a part is gone"


def test_that_an_answer_cannot_be_gone_on_with_takes_nothing_of_it_away():
    dead, gone = records_of(0, "e0", "ping", "e1"), records_of(1, "not found", status=404)
    assert gathered_of(dead, gone) == (["e0", "ping", "e1"], False)
    assert gathered_of(records_of(0, "ping"), gone) == (["not found"], False)


def test_a_kept_answer_whose_beginning_is_gone_says_so():
    gathered = Gathered("ollama")
    gathered.take({"first_index": 64, "at_us": [1], "events": [""], "chunks": ["a"]})
    assert gathered.missing
