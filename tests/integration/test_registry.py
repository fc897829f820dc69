"""The registry: a real one, an absent one, and one that misbehaves."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from connectors.registry import Registry
from schemas.catalog import EVENT, subjects
from schemas.errors import IncompatibleSchema, RegistryUnavailable, UnknownSchemaId, UnknownType, WireError
from schemas.payloads import PayloadCodec
from schemas.shape import shape_of
from schemas.wire import WireCodec
from tests.unit.test_envelope import GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def type_name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def reading(type_name: str, *fields: dict[str, Any]) -> str:
    base = {"name": "sensor", "type": "string"}
    schema = {
        "type": "record",
        "name": type_name,
        "namespace": "sluicegate.payload",
        "fields": [base, *fields],
    }
    return orjson.dumps(schema).decode()


def test_all_our_schemas_are_registered_fully_transitive_and_again(registry: Registry) -> None:
    first = registry.register_all()
    assert set(first) == set(subjects())
    assert registry.register_all() == first
    for subject, schema_id in first.items():
        assert registry.compatibility(subject) == "FULL_TRANSITIVE"
        assert registry.id_of(subject) == schema_id
        text = registry.schema_of(schema_id)
        assert shape_of(orjson.loads(text)) == shape_of(orjson.loads(subjects()[subject]))
        assert registry.is_registered(subject, subjects()[subject])
        assert registry.check(subject, subjects()[subject]) == []
    assert set(subjects()) <= set(registry.subjects())


def test_several_workers_register_at_once(registered_schemas: str, type_name: str) -> None:
    ids: list[dict[str, int]] = []

    def register() -> None:
        registry = Registry(registered_schemas)
        found = registry.register_all()
        found["new"] = registry.register(f"sluicegate.payload.{type_name}", reading(type_name))
        ids.append(found)

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 4
    assert all(found == ids[0] for found in ids)


def test_events_travel_through_the_real_registry(registry: Registry) -> None:
    data = WireCodec(registry).encode_event(GOOD)
    assert WireCodec(Registry(registry.url)).decode_event(data) == GOOD


def test_an_incompatible_schema_is_refused_with_subject_versions_and_reasons(
    registry: Registry, type_name: str
) -> None:
    subject = f"sluicegate.payload.{type_name}"
    registry.register(subject, reading(type_name))
    registry.register(subject, reading(type_name, {"name": "unit", "type": "string", "default": ""}))
    wrong = reading(type_name, {"name": "unit", "type": "long"})
    assert any("unit" in problem for problem in registry.check(subject, wrong))
    with pytest.raises(IncompatibleSchema) as caught:
        registry.register(subject, wrong)
    said = str(caught.value)
    assert subject in said
    assert "with version 1, 2" in said
    assert "version 1: unit: is not in both versions and has no default" in said
    assert "version 2: unit: type string cannot be read as long" in said
    assert registry.versions(subject) == [1, 2]


def test_a_change_must_suit_every_version_and_not_the_latest_alone(
    registry: Registry, type_name: str
) -> None:
    subject = f"sluicegate.payload.{type_name}"
    registry.register(subject, reading(type_name, {"name": "unit", "type": "string", "default": ""}))
    registry.register(subject, reading(type_name))
    with pytest.raises(IncompatibleSchema, match="version 1: unit: type string cannot be read as long"):
        registry.register(subject, reading(type_name, {"name": "unit", "type": "long", "default": 0}))


def test_the_registry_itself_refuses_what_we_would_have_let_through(
    registry: Registry, type_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = f"sluicegate.payload.{type_name}"
    registry.register(subject, reading(type_name))
    monkeypatch.setattr("connectors.registry.problems_between", lambda *_: [])
    wrong = reading(type_name, {"name": "unit", "type": "long"})
    assert registry.check(subject, wrong)
    with pytest.raises(IncompatibleSchema, match="unit"):
        registry.register(subject, wrong)


def test_a_users_type_registered_while_we_run_is_written_and_read_unharmed(
    registry: Registry, type_name: str
) -> None:
    reader = PayloadCodec(Registry(registry.url))  # an old edge, that runs already
    registry.register(f"sluicegate.payload.{type_name}", reading(type_name))
    body, schema_id = PayloadCodec(registry).encode(type_name, {"sensor": "s"})
    assert reader.decode(schema_id, body) == {"sensor": "s"}


def test_what_is_not_there_is_asked_for_once_and_again_later(
    registry: Registry, type_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = f"sluicegate.payload.{type_name}"
    with pytest.raises(UnknownType, match=type_name):
        registry.id_of(subject)
    Registry(registry.url).register(subject, reading(type_name))
    with pytest.raises(UnknownType):
        registry.id_of(subject)  # remembered for seconds, so that a bad producer cannot flood the registry
    later = time.monotonic() + 60
    monkeypatch.setattr("connectors.registry.time.monotonic", lambda: later)
    assert registry.id_of(subject) > 0


def test_an_unknown_id_is_the_records_fault_and_names_the_registry(registry: Registry) -> None:
    with pytest.raises(UnknownSchemaId, match=registry.url):
        registry.schema_of(2**31 - 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/apis/ccompat/v7",
        "http://no-such-host.invalid/",
        "http://user:secret@127.0.0.1:1/x",
    ],
)
def test_a_registry_that_is_not_there_is_named_with_a_remedy(url: str) -> None:
    registry = Registry(url, timeout_s=0.5)
    for ask in (lambda: registry.id_of(EVENT), lambda: registry.schema_of(1), registry.register_all):
        with pytest.raises(RegistryUnavailable) as caught:
            ask()
        assert not isinstance(caught.value, WireError)
        assert "secret" not in str(caught.value)
        assert "SLUICEGATE_REGISTRY__URL" in caught.value.remedy


def test_a_wrong_base_address_never_condemns_a_record(registry: Registry) -> None:
    wrong = Registry(registry.url.replace("/apis/ccompat/v7", "/not/the/api"))
    with pytest.raises(RegistryUnavailable):
        wrong.schema_of(1)


class Faulty(BaseHTTPRequestHandler):
    """Answers with what the test has queued, then with a schema."""

    answers: list[tuple[int, bytes]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        status, body = self.answers.pop(0) if self.answers else (200, b'{"schema":"{}"}')
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET  # noqa: N815  # as http.server names them

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def faulty() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hiccup_is_retried(faulty: str) -> None:
    Faulty.answers = [(503, b"busy"), (500, b"{}")]
    assert Registry(faulty).schema_of(1) == "{}"


@pytest.mark.parametrize(
    "answer",
    [
        (503, b"busy"),
        (404, b"<html>no such page</html>"),
        (404, b'{"detail":"a proxy"}'),
        (401, b'{"error_code":401,"message":"who are you"}'),
        (200, b"<html>a login page</html>"),
    ],
)
def test_whatever_is_not_the_registrys_own_no_is_unavailable(faulty: str, answer: tuple[int, bytes]) -> None:
    Faulty.answers = [answer] * 3
    with pytest.raises(RegistryUnavailable):
        Registry(faulty).schema_of(1)
    Faulty.answers = []
    assert Registry(faulty).schema_of(1) == "{}"


def test_two_who_register_a_new_subject_at_once_do_not_meet(faulty: str) -> None:
    there_now = b'{"error_code":409,"message":"A rule named \'COMPATIBILITY\' already exists."}'
    not_there = b'{"error_code":40401,"message":"No artifact."}'
    level = b'{"compatibility":"FULL_TRANSITIVE"}'
    Faulty.answers = [(404, not_there), (409, there_now), (200, level), (200, b'{"id":7}')]
    assert Registry(faulty).register("sluicegate.New", "{}") == 7
    assert Faulty.answers == []


def test_while_it_is_away_one_caller_asks_and_the_others_are_told_at_once(faulty: str) -> None:
    """A registry that hangs must not hang all that ask, one by one, each for its three time-outs."""
    registry = Registry(faulty)
    Faulty.answers = [(503, b"busy")] * 5
    with pytest.raises(RegistryUnavailable):
        registry.schema_of(1)
    assert len(Faulty.answers) == 2, "three attempts of the first"
    for number in range(50):
        with pytest.raises(RegistryUnavailable, match="busy"):
            registry.schema_of(number)
    assert len(Faulty.answers) == 2, "and none of those that came right after"
    registry._ask_from = 0.0  # as if the time were over
    for _ in range(50):
        with pytest.raises(RegistryUnavailable):
            registry.schema_of(1)
    assert len(Faulty.answers) == 1, "one attempt of one, after a while"
    Faulty.answers = []
    registry._ask_from = 0.0
    assert registry.schema_of(1) == "{}"
    assert registry.schema_of(2) == "{}"


def test_while_one_finds_out_whether_it_is_back_nobody_else_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.registry.AWAY_S", 0.0)  # a probe may start at any time
    with socket.create_server(("127.0.0.1", 0)) as deaf, ThreadPoolExecutor(8) as pool:
        registry = Registry(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=2.0)
        registry._away = "told so"
        asking = [pool.submit(registry.schema_of, number) for number in range(8)]
        told = [one for one in as_completed(asking) if isinstance(one.exception(), RegistryUnavailable)]
        causes = ["told so" in str(one.exception()) for one in told]
    assert causes == [True] * 7 + [False], "the last is the one that waited in vain"


def test_what_is_cached_needs_no_registry(registry: Registry) -> None:
    codec = WireCodec(registry)
    data = codec.encode_event(GOOD)
    registry.close()
    assert codec.decode_event(data) == GOOD
    assert registry.id_of(EVENT) > 0
