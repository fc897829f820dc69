"""A download that breaks in every way that one can, from a real server on the loopback."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from ops.stack.artefacts import Artefact
from ops.stack.cache import Cache, unpack
from ops.stack.download import download, http_client
from ops.stack.errors import BrokenDownload
from ops.stack.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = bytes(range(256)) * 2_000  # 512,000 bytes: several chunks


@dataclass
class Behaviour:
    """What the server does with each request."""

    content: bytes = CONTENT
    break_after: list[int] = field(default_factory=list)  # bytes after which the n-th answer is cut off
    statuses: list[int] = field(default_factory=list)  # statuses of the first answers
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    endless: bool = False  # an answer trickles until the client leaves; then what is "missing" is refused
    trickles: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.asked.append((self.path, wanted))
            if "missing" in self.path:
                behaviour.trickles.wait(30)
                behaviour.statuses.append(404)
            if behaviour.statuses:
                self.send_response(behaviour.statuses.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and behaviour.ranges else 0
            body = behaviour.content[start:]
            self.send_response(206 if start else 200)
            if start:
                last = len(behaviour.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(behaviour.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            while behaviour.endless:
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
                behaviour.trickles.set()
                time.sleep(0.02)
            self.wfile.write(body[: behaviour.break_after.pop(0)] if behaviour.break_after else body)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/maven"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def artefact(content: bytes = CONTENT, packaging: str = "jar") -> Artefact:
    digest = hashlib.sha256(content).hexdigest()
    return Artefact("kafka", "org.example", "thing", "1.0", packaging, "", digest, len(content))


def fetch(url, target, locked, progress=lambda _count: None):
    with http_client() as client:
        download(client, url, locked, target, progress, pause_s=0.01)


def test_a_whole_file_arrives_under_its_name_and_every_byte_is_told(tmp_path):
    behaviour, told = Behaviour(), []
    with serving(behaviour) as url:
        fetch(url, tmp_path / "thing.jar", artefact(), told.append)

    assert (tmp_path / "thing.jar").read_bytes() == CONTENT
    assert sum(told) == len(CONTENT)
    assert behaviour.asked == [("/maven/org/example/thing/1.0/thing-1.0.jar", None)]
    assert [path.name for path in tmp_path.iterdir()] == ["thing.jar"]


def test_a_transfer_that_is_cut_off_is_resumed_where_it_broke(tmp_path):
    behaviour, told = Behaviour(break_after=[200_000, 100_000]), []
    with serving(behaviour) as url:
        fetch(url, tmp_path / "thing.jar", artefact(), told.append)

    assert (tmp_path / "thing.jar").read_bytes() == CONTENT
    assert [wanted for _, wanted in behaviour.asked] == [None, "bytes=200000-", "bytes=300000-"]
    assert sum(told) == len(CONTENT)


def test_a_later_run_resumes_what_an_earlier_one_left(tmp_path):
    locked = artefact()
    (tmp_path / f"thing.jar.{locked.sha256[:12]}.part").write_bytes(CONTENT[:123_456])
    behaviour = Behaviour()
    with serving(behaviour) as url:
        fetch(url, tmp_path / "thing.jar", locked)

    assert (tmp_path / "thing.jar").read_bytes() == CONTENT
    assert [wanted for _, wanted in behaviour.asked] == ["bytes=123456-"]


def test_a_server_that_knows_no_ranges_sends_it_again_from_the_start(tmp_path):
    behaviour, told = Behaviour(break_after=[200_000], ranges=False), []
    with serving(behaviour) as url:
        fetch(url, tmp_path / "thing.jar", artefact(), told.append)

    assert (tmp_path / "thing.jar").read_bytes() == CONTENT
    assert sum(told) == len(CONTENT)


def test_a_part_that_does_not_belong_to_the_file_is_thrown_away_once(tmp_path):
    locked = artefact()
    (tmp_path / f"thing.jar.{locked.sha256[:12]}.part").write_bytes(b"\xff" * 1_000)
    behaviour = Behaviour()
    with serving(behaviour) as url:
        fetch(url, tmp_path / "thing.jar", locked)

    assert (tmp_path / "thing.jar").read_bytes() == CONTENT
    assert [wanted for _, wanted in behaviour.asked] == ["bytes=1000-", None]


def test_another_content_than_the_locked_one_is_refused_and_never_takes_the_name(tmp_path):
    forged = bytes(reversed(CONTENT))
    behaviour = Behaviour(content=forged)
    with serving(behaviour) as url, pytest.raises(BrokenDownload) as caught:
        fetch(url, tmp_path / "thing.jar", artefact())

    assert "org.example:thing:1.0:jar" in str(caught.value)
    assert hashlib.sha256(forged).hexdigest() in str(caught.value)
    assert "SLUICEGATE_STACK__MAVEN_REPOSITORY" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []
    assert len(behaviour.asked) == 2


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!"], ids=["too short", "too long"])
def test_a_file_of_another_length_is_refused(tmp_path, content):
    with (
        serving(Behaviour(content=content)) as url,
        pytest.raises(BrokenDownload, match=r"bytes arrived|HTTP"),
    ):
        fetch(url, tmp_path / "thing.jar", artefact())

    assert not (tmp_path / "thing.jar").exists()


def test_a_mirror_that_is_busy_is_asked_again(tmp_path):
    behaviour = Behaviour(statuses=[503, 429, 500])
    with serving(behaviour) as url:
        fetch(url, tmp_path / "thing.jar", artefact())

    assert (tmp_path / "thing.jar").read_bytes() == CONTENT
    assert len(behaviour.asked) == 4


def test_a_file_that_is_not_there_is_not_asked_for_again(tmp_path):
    behaviour = Behaviour(statuses=[404] * 9)
    with serving(behaviour) as url, pytest.raises(BrokenDownload, match="HTTP 404"):
        fetch(url, tmp_path / "thing.jar", artefact())

    assert len(behaviour.asked) == 1


def test_a_mirror_that_cannot_be_reached_is_told_with_its_address(tmp_path):
    with serving(Behaviour()) as url:
        pass

    with pytest.raises(BrokenDownload, match="ConnectError") as caught:
        fetch(url, tmp_path / "thing.jar", artefact())
    assert url in str(caught.value)


def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path):
    archive = tmp_path / "thing.tar.gz"
    archive.write_bytes(b"\x1f\x8bnot really")

    with pytest.raises(BrokenDownload, match="cannot be unpacked"):
        unpack(archive, tmp_path / "app", "org.example:thing:1.0")

    assert [path.name for path in tmp_path.iterdir()] == ["thing.tar.gz"]


@pytest.fixture(params=["with a filter", "of Python 3.11.3 and before"])
def any_tarfile(request, monkeypatch):
    """The standard library's extraction, with the filter that later versions have, and without."""
    if request.param != "with a filter":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


def packed_as(archive, *members):
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = (
                kind,
                4 if kind == tarfile.REGTYPE else 0,
                "/etc/passwd",
            )
            member.mode = 0o755
            tar.addfile(member, io.BytesIO(b"data"))


@pytest.mark.usefixtures("any_tarfile")
def test_files_and_folders_of_an_archive_are_unpacked(tmp_path):
    archive = tmp_path / "thing.tar.gz"
    packed_as(archive, ("lib", tarfile.DIRTYPE), ("lib/a.jar", tarfile.REGTYPE), ("run", tarfile.REGTYPE))
    unpack(archive, tmp_path / "app", "org.example:thing:1.0")
    assert (
        (tmp_path / "app" / "lib" / "a.jar").read_bytes()
        == (tmp_path / "app" / "run").read_bytes()
        == b"data"
    )


@pytest.mark.usefixtures("any_tarfile")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("../../escaped", tarfile.REGTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)],
)
def test_an_archive_that_reaches_outside_its_folder_is_refused(tmp_path, name, kind):
    archive = tmp_path / "in" / "thing.tar.gz"
    packed_as(archive, (name, kind))

    with pytest.raises(BrokenDownload):
        unpack(archive, tmp_path / "in" / "app", "org.example:thing:1.0")

    assert [path.name for path in tmp_path.rglob("*")] == ["in", "thing.tar.gz"]


def test_a_cache_is_filled_once_from_the_mirror_that_is_set(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("quarkus-run.jar")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"run"))
    content = packed.getvalue()
    lock = artefact(content, "tar.gz")
    monkeypatch.setattr("ops.stack.cache.locked", lambda: (lock,))
    cache, behaviour = Cache(tmp_path / "cache"), Behaviour(content=content)

    with serving(behaviour) as url:
        cache.fill(["kafka"], url, Silent())
        cache.fill(["kafka"], url, Silent())

    assert (cache.folder("kafka") / "app" / "quarkus-run.jar").read_bytes() == b"run"
    assert cache.missing(["kafka"]) == []
    assert len(behaviour.asked) == 1


def test_when_one_download_fails_nobody_waits_for_the_rest_of_another(tmp_path, monkeypatch):
    endless = artefact()
    missing = dataclasses.replace(endless, name="missing", size_bytes=1)
    monkeypatch.setattr("ops.stack.cache.locked", lambda: (endless, missing))

    with (
        serving(Behaviour(endless=True)) as url,
        pytest.raises(BrokenDownload, match="404"),
    ):
        Cache(tmp_path / "cache").fill(["kafka"], url, Silent())
