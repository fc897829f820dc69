"""The real services that tests share, started once a session and only if a test asks for them.

SLUICEGATE_TEST_STACK names the data folder of a stack that already runs: it is shared and never stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings as hypothesis_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from ops.settings import Settings
    from ops.stack.addresses import Addresses
    from schemas.topics import TopicSpec


# A machine that is busy with a stack beside the tests is no defect of the code that it runs: no deadline.
# CI tries the same examples each time; a laptop looks for new ones.
hypothesis_settings.register_profile("sluicegate", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis_settings.load_profile("sluicegate")
# What is started inherits what is ignored: under `nohup`, no test of a closed terminal could pass, and none
# of Ctrl-C where a script began the run in the background.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def unavailable(what: str, why: str) -> NoReturn:
    """A service that is missing skips on a laptop, and fails in CI, where it must be there."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"{what} is missing, and CI must have it: {why}")
    pytest.skip(f"{what} is missing: {why}")


def need_program(name: str) -> None:
    """Go on only where a program is that a reader of the pages or the clone itself would have."""
    if shutil.which(name) is None:
        unavailable(name, f"not on the path (apt-get install {name})")


def _settings_of(data_dir: Path) -> Settings:
    """Settings of a stack, free of what the environment says of addresses."""
    from ops.settings import KafkaSettings, PostgresSettings, RegistrySettings, Settings

    return Settings(
        data_dir=data_dir, kafka=KafkaSettings(), registry=RegistrySettings(), postgres=PostgresSettings()
    )


def _folder_of_the_run(config: pytest.Config) -> Path:
    """The folder that all processes of a run have: pytest-xdist gives each one within it."""
    folder: Path = config._tmp_path_factory.getbasetemp()
    return folder.parent if hasattr(config, "workerinput") else folder


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the stack when the last process of the run has ended: a warm one for all costs half of two."""
    if hasattr(config, "workerinput") or not hasattr(config, "_tmp_path_factory"):
        return
    data_dir = _folder_of_the_run(config) / "stack"
    if data_dir.exists():
        from ops.stack.down import down

        down(_settings_of(data_dir))


@pytest.fixture(scope="session")
def stack_settings(request: pytest.FixtureRequest) -> Settings:
    """Settings of the run's stack."""
    shared = os.environ.get("SLUICEGATE_TEST_STACK")
    return _settings_of(Path(shared) if shared else _folder_of_the_run(request.config) / "stack")


@pytest.fixture(scope="session")
def stack(stack_settings: Settings) -> Addresses:
    """Addresses of real Kafka, registry and PostgreSQL; who asks first starts them."""
    from ops.stack.errors import BrokenDownload, Unsuitable
    from ops.stack.up import addresses_of, ensure_up

    if os.environ.get("SLUICEGATE_TEST_STACK"):
        running = addresses_of(stack_settings)
        if running is None:
            unavailable("the shared stack", f"nothing runs in {stack_settings.data_dir}")
        return running
    try:
        return ensure_up(stack_settings)
    except (Unsuitable, BrokenDownload) as error:  # it cannot be had here; a part that fails is a failure
        unavailable("the local stack", f"{error}\n{error.remedy}")


@pytest.fixture
def topic_prefix() -> str:
    """A prefix of this test's own, so that tests share one cluster without meeting."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def kafka_options(stack: Addresses, topic_prefix: str) -> Iterator[KafkaOptions]:
    """How to reach the real Kafka, with topics and groups of this test's own."""
    from connectors.kafka.options import KafkaOptions
    from tests.support.topics import drop_topics

    options = KafkaOptions(
        bootstrap_servers=stack.kafka, topic_prefix=topic_prefix, client_id=f"test-{topic_prefix}"
    )
    yield options
    drop_topics(options)


@pytest.fixture(scope="session")
def registered_schemas(stack: Addresses) -> str:
    """URL of the real registry, with every subject of ours registered."""
    from connectors.registry import Registry
    from schemas.catalog import subjects

    registry = Registry(stack.registry_url)
    registry.set_compatibility("FULL_TRANSITIVE")
    for subject, schema in subjects().items():
        registry.register(subject, schema)
    return stack.registry_url


@pytest.fixture
def registry(registered_schemas: str) -> Registry:
    """The real registry, with nothing cached yet."""
    from connectors.registry import Registry

    return Registry(registered_schemas)


@pytest.fixture
def topics(kafka_options: KafkaOptions) -> Callable[..., Sequence[TopicSpec]]:
    """Create topics of the table under this test's prefix; all of them if none is named."""
    from connectors.kafka.admin import ensure_topics
    from schemas.topics import TOPICS

    def create(*specs: TopicSpec) -> Sequence[TopicSpec]:
        wanted = specs or TOPICS
        ensure_topics(kafka_options, wanted)
        return wanted

    return create
