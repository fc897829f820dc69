"""What the broker lets this principal do: asked at a start, and named where it refuses."""

from __future__ import annotations

from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from connectors.kafka.errors import KafkaUnavailable, NotAuthenticated, NotAuthorized

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from connectors.kafka.errors import KafkaFailure
    from connectors.kafka.options import KafkaOptions

_CALL_S, _ASK_S = 10.0, 0.1
_REFUSED_LOGIN: Final = KafkaError._AUTHENTICATION  # noqa: SLF001  # librdkafka's name
REFUSALS: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
"""What a broker answers to a principal that an ACL is missing for."""
_NAMES: Final = {"DescribeConfigs": "DESCRIBE_CONFIGS"}  # librdkafka's, where capitals are not enough
_STRANGER: Final = (
    _REFUSED_LOGIN,
    KafkaError._SSL,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
)


def refusal(options: KafkaOptions, what: str, error: KafkaError) -> KafkaFailure:
    """Name an error of Kafka's: an ACL that is missing, or a broker that cannot be reached.

    ``what`` is what was tried, as in "Read topic a".
    """
    if error.code() in REFUSALS:
        return NotAuthorized(options.principal, what)
    return KafkaUnavailable(options.bootstrap_servers, f"{what}: {error.str()}")


class Asking:
    """An admin client without a log of its own, that keeps what goes wrong with its connections."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._told: list[KafkaError] = []
        config = options.client_config() | {"error_cb": self._told.append}
        self.client = AdminClient(config)

    def wait(self, asked: Iterable[Future[Any]]) -> None:
        """Wait for answers, but not after a login was refused: librdkafka would try it again to the end.

        Raises:
            NotAuthenticated: it was.
        """
        waiting = set(asked)
        while waiting:
            _, waiting = wait(waiting, _ASK_S)
            self.client.poll(0)  # hands what the connection met to `_told`
            if waiting and any(error.code() == _REFUSED_LOGIN for error in self._told):
                raise self.unreached(self._told[0])

    def unreached(self, cause: KafkaError) -> KafkaFailure:
        """Name an error that is no answer, by what the connection met if that says more."""
        self.client.poll(0)
        for error in (cause, *self._told):
            if error.code() in _STRANGER:
                return NotAuthenticated(self._options.bootstrap_servers, self._options.principal, error.str())
        return KafkaUnavailable(self._options.bootstrap_servers, cause.str())


def check_topics(options: KafkaOptions, needed: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Ask whether this principal may do with each topic what is needed; ``needed`` by full name.

    Asked once at a start: without it, each ACL that is missing would come up on its own, some only when the
    first record is written. A topic that does not exist is nobody's to refuse. Blocks for some milliseconds.

    Returns:
        Those that do not exist, sorted.

    Raises:
        NotAuthorized: names all that is missing.
        NotAuthenticated: the broker does not take us for who we say we are.
        KafkaUnavailable: no answer.
    """
    asking = Asking(options)
    asked = asking.client.describe_topics(
        TopicCollection(list(needed)), include_authorized_operations=True, request_timeout=_CALL_S
    )
    asking.wait(asked.values())
    missing, absent = [], []
    for name, future in asked.items():
        try:
            allowed = {operation.name for operation in future.result().authorized_operations or ()}
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                absent.append(name)
                continue
            if cause.code() not in REFUSALS:
                raise asking.unreached(cause) from error
            allowed = {"NONE"}
        # A broker that does not say is not taken for one that refuses.
        lacks = [
            one for one in needed[name] if allowed and not allowed & {_NAMES.get(one, one.upper()), "ALL"}
        ]
        if lacks:
            missing.append(f"{' and '.join(lacks)} topic {name}")
    if missing:
        raise NotAuthorized(options.principal, "; ".join(missing))
    return tuple(sorted(absent))
