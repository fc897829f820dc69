"""How Kafka is reached: what each mechanism needs, what it would not use, and what librdkafka is given."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException, Producer
from pydantic import ValidationError

from ops.addresses import kafka_options
from ops.settings import KafkaSettings, Settings

OAUTH = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauthbearer_client_id": "ingest",
    "sasl_oauthbearer_client_secret": "s3cret",
    "sasl_oauthbearer_token_endpoint_url": "https://issuer.example/token",
}
KERBEROS = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "gssapi",
    "sasl_kerberos_principal": "ingest/host@EXAMPLE",
    "sasl_kerberos_keytab": __file__,
}
PASSWORD = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "ingest",
    "sasl_password": "s3cret",
}


def security(given):
    settings = Settings(kafka=KafkaSettings.model_validate(given))
    options = kafka_options(settings, "broker:9093")
    assert "s3cret" not in repr((settings, options))
    return options


def test_what_oauth_needs_and_may_have_is_given_to_librdkafka():
    more = {"sasl_oauthbearer_scope": "kafka", "sasl_oauthbearer_extensions": "logicalCluster=lkc,pool=p-1"}
    options = security(OAUTH | more)
    assert options.security == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "ingest",
        "sasl.oauthbearer.client.secret": "s3cret",
        "sasl.oauthbearer.token.endpoint.url": "https://issuer.example/token",
        "sasl.oauthbearer.scope": "kafka",
        "sasl.oauthbearer.extensions": "logicalCluster=lkc,pool=p-1",
    }
    assert options.principal == "the OAuth client ingest"
    Producer(options.client_config() | {"log_level": 0})  # it takes all of them


def test_what_kerberos_needs_is_given_to_librdkafka_which_says_if_it_has_none():
    options = security(KERBEROS | {"sasl_kerberos_service_name": "kafka"})
    assert options.security == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "GSSAPI",
        "sasl.kerberos.principal": "ingest/host@EXAMPLE",
        "sasl.kerberos.keytab": __file__,
        "sasl.kerberos.service.name": "kafka",
    }
    assert options.principal == "User:ingest"
    try:
        Producer(options.client_config() | {"log_level": 0})
    except KafkaException as error:
        assert "No provider for SASL mechanism GSSAPI" in str(error)  # noqa: PT017  # as its wheels come


def test_a_password_is_a_principal_and_nothing_else_is_set():
    options = security(PASSWORD)
    assert options.principal == "User:ingest"
    assert set(options.security) == {"security.protocol", "sasl.mechanism", "sasl.username", "sasl.password"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sasl_mechanism": "GSSAPI"}, "takes no SLUICEGATE_KAFKA__SASL_MECHANISM; SASL_SSL or"),
        ({"security_protocol": "SASL_SSL"}, "needs SLUICEGATE_KAFKA__SASL_MECHANISM, "),
        ({**PASSWORD, "sasl_password": ""}, "with SCRAM-SHA-512 needs SLUICEGATE_KAFKA__SASL_PASSWORD too"),
        (
            {**OAUTH, "sasl_oauthbearer_client_secret": None},
            "with OAUTHBEARER needs SLUICEGATE_KAFKA__SASL_OAUTHBEARER_CLIENT_SECRET too",
        ),
        ({**KERBEROS, "sasl_kerberos_keytab": None}, "GSSAPI needs SLUICEGATE_KAFKA__SASL_KERBEROS_KEYTAB"),
        ({**KERBEROS, "sasl_kerberos_keytab": "none"}, "there is no file none"),
        ({**KERBEROS, "sasl_kerberos_principal": "me; rm"}, "should match pattern"),
        ({**OAUTH, "sasl_password": "s3cret"}, "OAUTHBEARER takes no SLUICEGATE_KAFKA__SASL_PASSWORD"),
        (
            {**PASSWORD, "sasl_oauthbearer_scope": "x"},
            "SCRAM-SHA-512 takes no SLUICEGATE_KAFKA__SASL_OAUTHBEARER_SCOPE",
        ),
        ({"https_ca_location": __file__}, "PLAINTEXT takes no SLUICEGATE_KAFKA__HTTPS_CA_LOCATION"),
        (
            {**OAUTH, "sasl_oauthbearer_token_endpoint_url": "http://issuer.example/token"},
            "the secret is sent",
        ),
        ({**OAUTH, "sasl_oauthbearer_token_endpoint_url": "https:///token"}, "the secret is sent there"),
        (
            {**OAUTH, "sasl_oauthbearer_token_endpoint_url": "https://me:s3cret@issuer.example"},
            "holds a name",
        ),
        ({**OAUTH, "sasl_oauthbearer_extensions": "no pair"}, "should match pattern"),
        ({"retention_days": {"nowhere.v1": 1}}, "'nowhere.v1' is no topic of ours that deletes by time: "),
        ({"retention_days": {"streams.index.v1": 1}}, "'streams.index.v1' is no topic of ours that deletes"),
        ({"retention_days": {"llm.contents.v1": 0}}, "greater than or equal to"),
    ],
    ids=lambda value: value.split(" ", 1)[-1] if isinstance(value, str) else "",
)
def test_what_does_not_fit_together_is_refused_by_its_variables(given, said):
    with pytest.raises(ValidationError) as caught:
        KafkaSettings.model_validate(given)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_token_endpoint_on_this_machine_may_be_plain():
    for host in ("127.0.0.1:9", "localhost", "[::1]:80"):
        url = f"http://{host}/token"
        assert KafkaSettings.model_validate({**OAUTH, "sasl_oauthbearer_token_endpoint_url": url})


@pytest.mark.parametrize(
    "servers",
    ["", "a:9092", "a:1, b-1.example:2,", "[::1]:9092", "SASL_SSL://a.example:9093", "10.0.0.1:29092"],
)
def test_servers_are_hosts_with_ports(servers):
    assert KafkaSettings(bootstrap_servers=servers).bootstrap_servers == servers


@pytest.mark.parametrize(
    "servers", ["localhost", "a:9092,b", "http://a:9092", "a:", ":9092", "a:b", "a:9092/x"]
)
def test_a_server_without_a_port_is_refused(servers):
    with pytest.raises(ValueError, match="is no host:port, as in"):
        KafkaSettings(bootstrap_servers=servers)
