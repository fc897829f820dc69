"""The table of parts, its lock, and the small decisions around a start."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from ops.errors import OpsError
from ops.settings import StackSettings
from ops.stack.artefacts import Artefact, locked, parse_line
from ops.stack.cache import Cache, artefacts_of, folder_name
from ops.stack.down import refuse_precious
from ops.stack.errors import PortTaken, Unsuitable
from ops.stack.kafka import escaped, new_cluster_id
from ops.stack.logs import last_lines, rotate
from ops.stack.parts import KAFKA, LOCAL_PARTS, PARTS, POSTGRES, REGISTRY, kafka_environment
from ops.stack.ports import choose_port, is_free
from ops.stack.postgres import binaries
from ops.stack.preflight import check, existing
from ops.stack.repository import repository_base
from ops.stack.services import CONTROLLER, choose_ports
from ops.stack.status import without_password
from tests.unit.support_stack import settings_in


def test_every_locked_artefact_is_pinned_to_a_size_and_a_sha256_once():
    artefacts = locked()

    assert len({artefact.coordinates for artefact in artefacts}) == len(artefacts)
    assert all(len(bytes.fromhex(artefact.sha256)) == 32 for artefact in artefacts)
    assert all(artefact.size_bytes > 0 for artefact in artefacts)


def test_the_lock_is_of_the_versions_in_the_table():
    assert artefacts_of("kafka")[0].version == KAFKA.version
    assert [artefact.version for artefact in artefacts_of("registry")] == [REGISTRY.version]


def test_the_binaries_of_postgresql_are_of_the_version_in_the_table():
    told = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)

    assert told.stdout.split()[-1] == POSTGRES.version


def test_a_line_of_the_lock_reads_back_as_it_was_written():
    artefact = Artefact("kafka", "org.example", "thing", "1.0", "tar.gz", "all", "ab" * 32, 12)

    assert parse_line(artefact.line()) == artefact
    assert artefact.repository_path == "org/example/thing/1.0/thing-1.0-all.tar.gz"


def test_another_lock_gets_another_folder(monkeypatch):
    before = folder_name("kafka")
    first, *rest = locked()
    changed = (Artefact(**{**_fields(first), "sha256": "00" * 32}), *rest)
    monkeypatch.setattr("ops.stack.cache.locked", lambda: changed)

    assert folder_name("kafka") != before


def _fields(artefact: Artefact) -> dict[str, object]:
    return {name: getattr(artefact, name) for name in Artefact.__slots__}


def test_a_jar_of_the_wrong_size_counts_as_missing(tmp_path):
    cache = Cache(tmp_path)
    jar = cache.jars("kafka")[0]
    jar.parent.mkdir()
    jar.write_bytes(b"half a jar")

    assert jar.name in [artefact.file_name for artefact in cache.missing(["kafka"])]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_each_image_carries_the_version_of_its_part(part):
    assert part.image.rpartition(":")[2].removeprefix("v") == part.version


def test_local_parts_are_those_that_the_settings_can_replace():
    assert {part.name for part in LOCAL_PARTS} == {"kafka", "registry", "postgres"}


def test_settings_of_kafka_become_the_variables_of_its_image():
    assert kafka_environment({"auto.create.topics.enable": "false"}) == {
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false"
    }


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("/a b/c=d", "/a b/c=d"),
        ("/blä", "/bl\\u00e4"),
        ("/漢/𝄞", "/\\u6f22/\\ud834\\udd1e"),
        ("a\\b", "a\\\\b"),
    ],
)
def test_a_path_is_written_as_java_reads_properties(value, written):
    assert escaped(value) == written


def test_a_cluster_id_never_reads_as_an_option():
    ids = [new_cluster_id() for _ in range(2_000)]

    assert not any(text.startswith("-") for text in ids)
    assert all(len(text) == 22 for text in ids)


class TestPorts:
    def test_a_configured_port_in_use_is_refused_with_its_number_setting_and_holder(self):
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]

            with pytest.raises(PortTaken) as caught:
                choose_port("kafka", setting="SLUICEGATE_X", configured=port, last=0, taken=set())

        assert str(port) in str(caught.value)
        assert "SLUICEGATE_X" in caught.value.remedy
        assert "pytest" in str(caught.value) or "python" in str(caught.value)

    def test_the_port_of_the_last_time_is_taken_again(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]

        assert choose_port("kafka", setting="", configured=0, last=port, taken=set()) == port

    def test_the_port_of_the_last_time_is_left_if_another_has_it(self):
        with socket.create_server(("127.0.0.1", 0)) as holder:
            last = holder.getsockname()[1]
            chosen = choose_port("kafka", setting="", configured=0, last=last, taken=set())

        assert chosen != last
        assert is_free(chosen)

    def test_a_port_that_is_let_go_in_a_moment_is_waited_for(self):
        holder = socket.create_server(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        timer = threading.Timer(0.3, holder.close)
        timer.start()
        try:
            assert choose_port("kafka", setting="", configured=0, last=port, taken=set()) == port
        finally:
            timer.join()

    def test_no_two_parts_get_the_same_port(self):
        ports = choose_ports(StackSettings(), {}, ("kafka", "registry", "postgres"))

        assert set(ports) == {"kafka", CONTROLLER, "registry", "postgres"}
        assert len(set(ports.values())) == 4

    def test_two_parts_configured_with_one_port_are_refused(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]

        with pytest.raises(PortTaken):
            choose_ports(StackSettings(kafka_port=port, registry_port=port), {}, ("kafka", "registry"))


class TestRepository:
    SETTINGS = """<settings xmlns="http://maven.apache.org/SETTINGS/1.2.0"><mirrors><mirror>
        <id>house</id><mirrorOf>{of}</mirrorOf><url>https://mirror.example/maven/</url>
        </mirror></mirrors></settings>"""

    def test_the_setting_goes_before_everything(self, tmp_path):
        maven = tmp_path / "settings.xml"
        maven.write_text(self.SETTINGS.format(of="*"))

        assert repository_base("http://127.0.0.1:1/m2/", maven) == "http://127.0.0.1:1/m2"

    @pytest.mark.parametrize("of", ["central", "*", "external:*", "other, central"])
    def test_a_mirror_of_the_central_repository_is_honoured(self, tmp_path, of):
        maven = tmp_path / "settings.xml"
        maven.write_text(self.SETTINGS.format(of=of))

        assert repository_base(None, maven) == "https://mirror.example/maven"

    @pytest.mark.parametrize("text", [SETTINGS.format(of="other"), SETTINGS.format(of="*,!central"), "<", ""])
    def test_a_mirror_of_something_else_is_not(self, tmp_path, text):
        maven = tmp_path / "settings.xml"
        maven.write_text(text)

        assert repository_base(None, maven) == repository_base(None, tmp_path / "missing.xml")


class TestPreflight:
    def test_all_that_is_missing_is_named_at_once_with_its_remedy(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ops.stack.preflight.platform.machine", lambda: "pdp11")
        settings = settings_in(tmp_path, kafka_heap_mb=50_000_000)

        with pytest.raises(Unsuitable) as caught:
            check(settings, ("kafka", "registry", "postgres"), locked())

        problems = [problem for problem, _ in caught.value.lacks]
        assert len(problems) == 2
        assert "pdp11" in problems[0]
        assert "memory" in problems[1]
        assert all(remedy for _, remedy in caught.value.lacks)

    def test_a_disk_without_room_is_named_with_the_setting_that_moves_the_folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ops.stack.preflight.DATA_MB", 10**12)

        with pytest.raises(Unsuitable, match="SLUICEGATE_DATA_DIR"):
            check(settings_in(tmp_path), ("kafka",), ())

    @pytest.mark.parametrize("sign", [":", ";", ","])
    def test_a_path_that_java_would_take_for_two_is_refused(self, tmp_path, sign):
        with pytest.raises(Unsuitable, match="SLUICEGATE_DATA_DIR"):
            check(settings_in(tmp_path / f"a{sign}b"), ("kafka",), ())

    def test_a_machine_that_has_everything_passes(self, tmp_path):
        check(settings_in(tmp_path), ("kafka", "registry", "postgres"), locked())

    def test_room_is_looked_for_where_the_folder_will_be(self, tmp_path):
        assert existing(tmp_path / "not" / "yet") == tmp_path


class TestWipe:
    def test_a_folder_that_holds_the_home_or_a_project_is_never_removed(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "pyproject.toml").touch()

        for folder in (Path("/"), Path.cwd(), tmp_path / "home", tmp_path / "project"):
            with pytest.raises(OpsError, match="is not removed"):
                refuse_precious(folder)

    def test_a_folder_of_our_own_may_go(self, tmp_path):
        refuse_precious(tmp_path)


class TestLogs:
    def test_only_the_end_of_a_long_log_is_shown(self, tmp_path):
        log = tmp_path / "kafka.log"
        log.write_text("".join(f"line {n}\n" for n in range(100_000)) + "\n\n")

        assert last_lines(log, 2) == ["line 99998", "line 99999"]

    def test_the_log_of_the_last_run_stays_beside_the_new_one(self, tmp_path):
        log = tmp_path / "logs" / "kafka.log"
        rotate(log)
        log.write_text("first")
        rotate(log)
        log.write_text("second")
        rotate(log)

        assert [path.name for path in log.parent.iterdir()] == ["kafka.log.1"]
        assert log.with_name("kafka.log.1").read_text() == "second"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:s3cret@host:1/db", "postgresql://me:…@host:1/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("host=h password='a b' user=me", "host=h password=… user=me"),
        ("host=h password=ab user=me", "host=h password=… user=me"),
        ("127.0.0.1:9092", "127.0.0.1:9092"),
    ],
)
def test_an_address_is_shown_without_its_password(address, shown):
    assert without_password(address) == shown
