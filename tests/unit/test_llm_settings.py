"""Providers as the settings name them: a key is enough for a known one, and it is shown nowhere."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from connectors.kafka.options import KafkaOptions
from connectors.llm.options import LlmOptions
from ops import console
from ops.errors import Misused
from ops.llm import prices, targets
from ops.settings import LlmSettings, Settings

KEY = "sk-secret-of-this-test"


def set_to(monkeypatch, tmp_path, **variables):
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(f"SLUICEGATE_LLM__{name}", value)
    return Settings().llm


@pytest.mark.parametrize(
    ("name", "shape", "base_url"),
    [
        ("openai", "openai-chat", "https://api.openai.com/v1"),
        ("anthropic", "anthropic", "https://api.anthropic.com/v1"),
        ("gemini", "gemini", "https://generativelanguage.googleapis.com/v1beta"),
    ],
)
def test_of_a_known_provider_a_key_is_enough(monkeypatch, tmp_path, name, shape, base_url):
    llm = set_to(monkeypatch, tmp_path, **{f"PROVIDERS__{name.upper()}__API_KEY": KEY})
    (target,) = targets(llm).values()
    assert (target.name, target.shape, target.base_url, target.api_key) == (name, shape, base_url, KEY)


def test_one_on_this_machine_needs_no_key(monkeypatch, tmp_path):
    llm = set_to(
        monkeypatch, tmp_path, PROVIDERS__OLLAMA__MODELS="llama3.2, qwen3",
        PROVIDERS__NEAR__BASE_URL="http://127.0.0.1:8080/v1/",
    )  # fmt: skip
    found = targets(llm)
    assert found["ollama"].models == ("llama3.2", "qwen3")
    assert (found["near"].shape, found["near"].base_url) == ("openai-chat", "http://127.0.0.1:8080/v1")


def test_a_key_may_stand_in_a_file_or_in_another_variable(monkeypatch, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("COMPANY_KEY", KEY)
    llm = set_to(
        monkeypatch, tmp_path, PROVIDERS__OPENAI__API_KEY_FILE=str(tmp_path / "key"),
        PROVIDERS__ANTHROPIC__API_KEY_ENV="COMPANY_KEY",
    )  # fmt: skip
    assert [target.api_key for target in targets(llm).values()] == [KEY, KEY]


def test_a_key_is_in_no_representation(monkeypatch, tmp_path):
    llm = set_to(
        monkeypatch, tmp_path, PROVIDERS__OPENAI__API_KEY=KEY,
        PROVIDERS__OWN='{"base_url": "https://llm.example/v1", "headers": {"X-Key": "' + KEY + '"}}',
    )  # fmt: skip
    found = targets(llm)
    assert found["own"].headers == {"x-key": KEY}
    shown = f"{llm!r} {llm} {found!r} {llm.model_dump()} {llm.model_dump_json()}"
    assert KEY not in shown


def own(headers):
    """A provider of one's own, with these headers."""
    return '{"base_url": "https://llm.example/v1", "headers": {' + headers + "}}"


def test_blanks_that_were_copied_with_a_key_are_not_sent(monkeypatch, tmp_path):
    llm = set_to(
        monkeypatch,
        tmp_path,
        PROVIDERS__OPENAI__API_KEY=f"{KEY} \n",
        PROVIDERS__OWN=own(f'"x-key": "{KEY} "'),
    )
    found = targets(llm)
    assert (found["openai"].api_key, found["own"].headers) == (KEY, {"x-key": KEY})


BAD = {
    "no-key": ({"OPENAI__MODELS": "gpt-4o"}, "PROVIDERS__OPENAI__API_KEY is missing"),
    "no-address": ({"MISTRAL__API_KEY": KEY}, "PROVIDERS__MISTRAL__BASE_URL is missing"),
    "clear": ({"OPENAI__API_KEY": KEY, "OPENAI__BASE_URL": "http://llm.example/v1"}, "in the clear"),
    "user": (
        {"OPENAI__API_KEY": KEY, "OPENAI__BASE_URL": f"https://u:{KEY}@llm.example"},
        "no user, password",
    ),
    "query": (
        {"OPENAI__API_KEY": KEY, "OPENAI__BASE_URL": f"https://llm.example?key={KEY}"},
        "no user, password",
    ),
    "scheme": ({"OPENAI__API_KEY": KEY, "OPENAI__BASE_URL": "ftp://llm.example"}, "no http or https URL"),
    "port": ({"OPENAI__API_KEY": KEY, "OPENAI__BASE_URL": "https://llm.example:x"}, "is no URL"),
    "two-keys": (
        {"OPENAI__API_KEY": KEY, "OPENAI__API_KEY_ENV": "X"},
        "PROVIDERS__OPENAI__API_KEY and API_KEY_ENV are set",
    ),
    "no-variable": ({"OPENAI__API_KEY_ENV": "NO_SUCH_VARIABLE_HERE"}, "has no NO_SUCH_VARIABLE_HERE"),
    "no-file": (
        {"OPENAI__API_KEY_FILE": "/no/such/file"},
        "OPENAI__API_KEY_FILE: /no/such/file cannot be read",
    ),
    "header": ({"OPENAI__API_KEY": f"{KEY}\nx"}, "no header may have"),
    "value": ({"OWN": own('"X-Key": "' + KEY + '\\nx"')}, "HEADERS: x-key has characters"),
    "letters": ({"OWN": own('"X-Key": "' + KEY + '\u2019"')}, "HEADERS: x-key has characters"),
    "swapped": ({"OWN": own('"Bearer ' + KEY + '": "x-key"')}, "HEADERS has a name that is no header"),
    "model": ({"OPENAI__API_KEY": KEY, "OPENAI__MODELS": "x" * 129}, "is no model's name"),
    "other-shape": ({"OPENAI__API_KEY": KEY, "OPENAI__SHAPE": "gemini"}, "BASE_URL is missing"),
}


@pytest.mark.parametrize(("variables", "said"), BAD.values(), ids=BAD.keys())
def test_what_is_set_wrong_is_told_by_its_variable_and_without_the_key(
    monkeypatch, tmp_path, variables, said
):
    llm = set_to(monkeypatch, tmp_path, **{f"PROVIDERS__{name}": value for name, value in variables.items()})
    with pytest.raises(Misused, match=said) as refused:
        targets(llm)
    assert "SLUICEGATE_LLM__PROVIDERS__" in str(refused.value)
    assert KEY not in f"{refused.value} {refused.value.remedy}"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OPENAI__SHAPE", "openai-batch"), ("OPENAI__API_KYE", KEY), ("MY/OWN__API_KEY", KEY)],
    ids=["shape", "unknown", "name"],
)
def test_a_setting_that_does_not_exist_is_an_error(monkeypatch, tmp_path, capsys, variable, value):
    with pytest.raises(ValidationError) as refused:
        set_to(monkeypatch, tmp_path, **{f"PROVIDERS__{variable}": value})
    assert KEY not in str(refused.value)
    assert console.report(refused.value, debug=True) == 2
    assert KEY not in "".join(capsys.readouterr())


def test_http_beyond_this_machine_must_be_meant(monkeypatch, tmp_path):
    llm = set_to(
        monkeypatch, tmp_path, PROVIDERS__POD__BASE_URL="http://ollama:11434", PROVIDERS__POD__SHAPE="ollama",
        PROVIDERS__POD__ALLOW_HTTP="true",
    )  # fmt: skip
    assert targets(llm)["pod"].base_url == "http://ollama:11434"


def test_prices_are_of_providers_that_are_set(monkeypatch, tmp_path):
    price = '{"input_usd": "0.5", "output_usd": 1.5}'
    llm = set_to(monkeypatch, tmp_path, PROVIDERS__OPENAI__API_KEY=KEY, PRICES='{"openai/*": ' + price + "}")
    assert str(prices(llm).own["openai/*"].input_usd) == "0.5"
    llm = set_to(monkeypatch, tmp_path, PRICES='{"opnai/*": ' + price + "}")
    with pytest.raises(Misused, match="opnai") as refused:
        prices(llm)
    assert "openai" in refused.value.remedy


def test_by_default_what_waited_for_a_worker_that_died_is_not_too_old_for_the_next():
    llm = LlmSettings()
    assert llm.session_timeout_ms + llm.transaction_timeout_ms < llm.queue_ms_max
    assert LlmOptions(KafkaOptions("k"), "r").session_timeout_ms == llm.session_timeout_ms
