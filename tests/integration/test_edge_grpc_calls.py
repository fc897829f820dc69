"""What gRPC users do beside watching: publish, cancel, look around by reflection; and what they do wrong."""

from __future__ import annotations

import json
import signal
import time

import pytest
from google.protobuf import descriptor_pool, message_factory, struct_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from schemas.envelope import new_event_id
from schemas.proto.sluicegate.v1.stream_pb2 import (
    CancelRequest,
    NewEvent,
    PublishRequest,
    WatchRequest,
)
from schemas.topics import INPUT
from tests.support.grpc_client import TIMEOUT_S, edge_with_grpc, failure_of, read_call
from tests.support.stage import stage, twin
from tests.support.tokens import ALL, ISSUER, Issuer, keys_file

__all__ = ["edge_with_grpc", "stage", "twin"]  # fixtures
pytestmark = pytest.mark.timeout(120)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
OPEN = NewEvent(type="open", json='{"title": "by gRPC"}')


def line(text: str, **more: object) -> NewEvent:
    return NewEvent(type="log", json=json.dumps({"line": text}), **more)


def test_events_are_published_as_one_transaction_or_many_in_order(edge_with_grpc, twin):
    edge = edge_with_grpc()
    event_id = new_event_id()
    fields = struct_pb2.Struct()
    fields.update({"done": 3, "total": 4, "message": "three of four"})
    asked = PublishRequest(
        stream_id="published",
        kind="job",
        events=[OPEN, NewEvent(type="progress", fields=fields, event_id=event_id, source="me", seq=1)],
    )
    answer = edge.streams.Publish(asked, timeout=TIMEOUT_S)
    assert (answer.tenant, answer.stream_id) == ("default", "published")
    assert answer.events[1].event_id == event_id
    assert not answer.events[0].HasField("verdict")

    def requests():
        for number in range(5):
            yield PublishRequest(
                stream_id="published", kind="job", events=[line(f"{number}"), line(f"{number}!")]
            )

    answers = list(edge.streams.PublishMany(requests(), timeout=TIMEOUT_S))
    assert [len(each.events) for each in answers] == [2] * 5
    written = [event for event in twin.records(INPUT) if event.stream_id == "published"]
    assert [event.type for event in written] == ["open", "progress", *["log"] * 10]
    assert (written[1].source, written[1].seq, written[0].seq) == ("me", 1, -1)
    progress = twin.payload(written[1])
    assert (progress["done"], progress["total"], progress["message"]) == (3, 4, "three of four")
    assert [twin.payload(event)["line"] for event in written[2:]] == [
        f"{n}{more}" for n in range(5) for more in ("", "!")
    ]


def test_who_waits_is_told_the_verdict_on_each_event(edge_with_grpc, twin):
    stream = twin.open("judged", kind="job")
    edge = edge_with_grpc()
    ids = [new_event_id() for _ in range(3)]
    asked = PublishRequest(
        stream_id="judged",
        kind="job",
        events=[line(event_id, event_id=event_id) for event_id in ids],
        wait_committed=True,
    )
    answer = edge.streams.Publish.future(asked, timeout=TIMEOUT_S)
    while not [event for event in twin.records(INPUT) if event.event_id == ids[2]]:
        assert not answer.done()
    twin.write(stream, [("log", {"line": event_id}) for event_id in ids[:2]], event_ids=ids[:2])
    twin.reject("default", "judged", ids[2], "duplicate")
    told = answer.result(TIMEOUT_S).events
    assert [(each.verdict.verdict, each.verdict.seq) for each in told] == [
        ("accepted", 1), ("accepted", 2), ("duplicate", 0),
    ]  # fmt: skip
    assert not told[2].verdict.HasField("seq")
    assert edge.read("judged", until=lambda seen: len(seen.events) == 3).cursors[1:] == [
        each.verdict.cursor for each in told[:2]
    ]


def test_what_is_wrong_with_an_event_is_named_by_field_and_index_and_nothing_is_appended(
    edge_with_grpc, twin
):
    edge = edge_with_grpc()

    def refused(*events: NewEvent, stream_id: str = "wrong", kind: str = "job") -> tuple[object, ...]:
        asked = PublishRequest(stream_id=stream_id, kind=kind, events=events)
        failure = failure_of(lambda: edge.streams.Publish(asked, timeout=TIMEOUT_S))
        index = failure.problem.index if failure.problem.HasField("index") else None
        return failure.code, failure.problem.field, index

    wrong = StatusCode.INVALID_ARGUMENT
    assert refused(OPEN, NewEvent(type="log", json='{"lin": "x"}')) == (wrong, "payload.line", 1)
    assert refused(OPEN, OPEN, NewEvent(type="log", json="{")) == (wrong, "payload", 2)
    assert refused(NewEvent(type="log", json="[]")) == (wrong, "payload", 0)
    assert refused(NewEvent(json="{}")) == (wrong, "type", 0)
    assert refused(line("x", seq=-7)) == (wrong, "seq", 0)
    assert refused(NewEvent(type="gap")) == (wrong, "type", 0)
    assert refused() == (wrong, "", None)
    assert refused(OPEN, kind="unheard-of") == (wrong, "", None)
    many = PublishRequest(stream_id="wrong", kind="job", events=[OPEN] * 1_001)
    assert failure_of(lambda: edge.streams.Publish(many)).problem.title == "Too many events"
    named = PublishRequest(stream_id="no/slash", kind="job", events=[OPEN])
    failure = failure_of(lambda: edge.streams.Publish(named))
    assert (failure.code, failure.problem.field) == (wrong, "stream_id")

    def requests():
        yield PublishRequest(stream_id="wrong", kind="job", events=[line("kept")])
        yield PublishRequest(stream_id="wrong", kind="job", events=[NewEvent(type="log", json="{}")])
        yield PublishRequest(stream_id="wrong", kind="job", events=[line("never read")])

    call = edge.streams.PublishMany(requests(), timeout=TIMEOUT_S)
    assert len(next(call).events) == 1
    assert failure_of(lambda: next(call)).problem.field == "payload.line"
    assert [twin.payload(event) for event in twin.records(INPUT) if event.stream_id == "wrong"] == [
        {"line": "kept", "level": "info", "stream": "", "partial": False}
    ]


def test_a_stream_is_asked_to_stop_and_goes_on_until_its_end(edge_with_grpc, twin):
    twin.open("live", kind="job")
    over = twin.open("over", kind="job")
    twin.end(over)
    edge = edge_with_grpc()
    assert edge.streams.Cancel(CancelRequest(stream_id="live", by="ann", reason="too long")) is not None
    (cancel,) = [event for event in twin.records(INPUT) if event.stream_id == "live"]
    assert (cancel.type, twin.payload(cancel)) == ("cancel", {"by": "ann", "reason": "too long"})
    for stream_id, code in (("over", StatusCode.FAILED_PRECONDITION), ("none", StatusCode.NOT_FOUND)):
        asked = CancelRequest(stream_id=stream_id)
        assert failure_of(lambda asked=asked: edge.streams.Cancel(asked)).code is code


def test_a_tool_that_knows_nothing_finds_the_services_and_watches_by_reflection(edge_with_grpc, twin):
    stream = twin.open("seen")
    twin.end(stream)
    edge = edge_with_grpc()
    stub = reflection_pb2_grpc.ServerReflectionStub(edge.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([asked]))
    names = {service.name for service in answer.list_services_response.service}
    assert names == {
        "sluicegate.v1.StreamService", "sluicegate.v1.LogStream", "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(edge.channel))
    method = pool.FindServiceByName("sluicegate.v1.StreamService").methods_by_name["Watch"]
    assert method.server_streaming
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    watch = edge.channel.unary_stream(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    events = [event for each in watch(request(stream_id="seen"), timeout=TIMEOUT_S) for event in each.events]
    assert [event.type for event in events] == ["open", "end"]
    # A tool that knows v1 alone, by what the edge itself says of it, is told the same.
    reflection = pool.FindServiceByName("grpc.reflection.v1.ServerReflection")
    info = reflection.methods_by_name["ServerReflectionInfo"]
    assert info.input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    asks, answers = map(message_factory.GetMessageClass, (info.input_type, info.output_type))
    reflect = edge.channel.stream_stream(
        f"/{reflection.full_name}/{info.name}",
        request_serializer=asks.SerializeToString,
        response_deserializer=answers.FromString,
    )
    listed, found, missing = reflect(
        iter([
            asks(list_services=""),
            asks(file_containing_symbol="sluicegate.v1.LogStream"),
            asks(file_containing_symbol="google.protobuf.Api"),
        ]),
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert {service.name for service in listed.list_services_response.service} == names
    assert b"WatchLogs" in found.file_descriptor_response.file_descriptor_proto[0]
    assert missing.error_response.error_code == StatusCode.NOT_FOUND.value[0], "it is none of the edge's"


def test_health_says_whether_traffic_may_come(edge_with_grpc, twin):
    edge = edge_with_grpc(drain_ms=3_000)
    stub = health_pb2_grpc.HealthStub(edge.channel)
    twin.open("held")
    held = edge.watch("held")
    next(held)
    for service in ("", "sluicegate.v1.StreamService", "sluicegate.v1.LogStream"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    assert (
        failure_of(lambda: stub.Check(health_pb2.HealthCheckRequest(service="none"))).code
        is StatusCode.NOT_FOUND
    )
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT_S)
    assert next(watch).status == SERVING
    edge.process.process.send_signal(signal.SIGTERM)
    assert next(watch).status == NOT_SERVING
    assert edge.process.process.wait(30) == 0
    held.cancel()


def test_hostile_input_is_answered_by_name_and_does_no_harm(edge_with_grpc, twin):
    twin.open("hostile")
    edge = edge_with_grpc()
    raw = edge.channel.unary_stream("/sluicegate.v1.StreamService/Watch")
    wrong = StatusCode.INVALID_ARGUMENT
    for data in (b"\xff", b"\x12\x05ab", b"\x08\x01" * 3 + b"\x0b", b"\x0a\xff\xff\xff\xff\x0f"):
        failure = failure_of(lambda data=data: list(raw(data, timeout=TIMEOUT_S)))
        assert (failure.code, failure.problem.title) == (wrong, "Not a message"), data
    first = next(edge.watch("hostile")).events[0].cursor
    for cursor, code, name in (
        ("nonsense", wrong, "malformed_cursor"),
        ("x" * 10_000, wrong, "malformed_cursor"),
        ("é" * 40, wrong, "malformed_cursor"),
        (first[:-1] + ("A" if first[-1] != "A" else "B"), StatusCode.PERMISSION_DENIED, "foreign_cursor"),
    ):
        refused = edge.read("hostile", cursor)
        assert (refused.code, refused.problem.code) == (code, name)
        assert refused.notices[0].refused.code == name
    assert edge.read("other", first).code is StatusCode.PERMISSION_DENIED
    for tenant, stream_id in (("", ""), ("", "a/b"), ("a b", "hostile"), ("", "é"), ("", "x" * 200)):
        asked = WatchRequest(tenant=tenant, stream_id=stream_id)
        assert failure_of(lambda asked=asked: list(edge.streams.Watch(asked))).code is wrong
    for method in ("/sluicegate.v1.StreamService/None", "/x", "/a/b/WatchLogs", "/WatchLogs"):
        assert failure_of(lambda method=method: edge.channel.unary_unary(method)(b"")).code is (
            StatusCode.UNIMPLEMENTED
        )
    large = PublishRequest(stream_id="hostile", kind="job", events=[line("x" * 2_000_000)])
    assert failure_of(lambda: edge.streams.Publish(large)).code is StatusCode.RESOURCE_EXHAUSTED
    metadata = [("x-large", "y" * 100_000)]
    failure = failure_of(
        lambda: list(edge.streams.Watch(WatchRequest(stream_id="hostile"), metadata=metadata))
    )
    assert failure.code is StatusCode.RESOURCE_EXHAUSTED
    deep = NewEvent(type="structured", json="[" * 100_000)
    assert (
        failure_of(
            lambda: edge.streams.Publish(PublishRequest(stream_id="hostile", kind="job", events=[deep]))
        ).code
        is wrong
    )
    said = edge.process.log.read_text()
    assert "Traceback" not in said
    assert "call_failed" not in said
    assert next(edge.watch("hostile")).events[0].type == "open"


def test_with_keys_nothing_but_health_is_had_without_a_token_that_allows_it(edge_with_grpc, twin, tmp_path):
    issuer = Issuer()
    mine = twin.open("mine", kind="job", tenant="acme")
    twin.logs(mine, 2)
    twin.open("other", kind="job", tenant="rival")
    edge = edge_with_grpc(access={"keys_file": str(keys_file(tmp_path, issuer)), "issuer": ISSUER})
    edge.process.token = issuer.token(**ALL)
    reader = [
        ("authorization", f"Bearer {issuer.token(**{**ALL, 'tenants': ['acme'], 'scope': 'subscribe'})}")
    ]
    watch = WatchRequest(tenant="acme", stream_id="mine")

    def how(request: WatchRequest, metadata: object = None) -> tuple[StatusCode, str]:
        failure = failure_of(lambda: list(edge.streams.Watch(request, metadata=metadata, timeout=TIMEOUT_S)))
        return failure.code, failure.problem.code

    assert how(watch) == (StatusCode.UNAUTHENTICATED, "no_token")
    assert how(watch, [("authorization", "Bearer nonsense")]) == (StatusCode.UNAUTHENTICATED, "token_refused")
    other = WatchRequest(tenant="rival", stream_id="other")
    assert how(other, reader) == (StatusCode.PERMISSION_DENIED, "forbidden")
    of_logs = issuer.token(**{**ALL, "kinds": ["log"]})  # and the stream is none
    call = edge.streams.Watch(watch, metadata=[("authorization", f"Bearer {of_logs}")], timeout=TIMEOUT_S)
    assert next(call).refused.code == "forbidden"
    assert failure_of(lambda: next(call)).code is StatusCode.PERMISSION_DENIED
    call = edge.streams.Watch(watch, metadata=reader, timeout=TIMEOUT_S)
    assert [event.seq for event in next(call).events] == [0, 1, 2]
    call.cancel()
    asked = PublishRequest(tenant="acme", stream_id="mine", kind="job", events=[line("x")])
    assert (
        failure_of(lambda: edge.streams.Publish(asked, metadata=reader)).code is StatusCode.PERMISSION_DENIED
    )
    cancel = CancelRequest(tenant="acme", stream_id="mine")
    assert (
        failure_of(lambda: edge.streams.Cancel(cancel, metadata=reader)).code is StatusCode.PERMISSION_DENIED
    )
    writer = [("authorization", f"Bearer {issuer.token(**{**ALL, 'tenants': ['acme']})}")]
    assert len(edge.streams.Publish(asked, metadata=writer).events) == 1
    stub = health_pb2_grpc.HealthStub(edge.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == SERVING
    short = [("authorization", f"Bearer {issuer.token(life_s=4, **ALL)}")]
    began_s = time.monotonic()
    watched = read_call(edge.streams.Watch(watch, metadata=short, timeout=TIMEOUT_S))
    assert [each.WhichOneof("notice") for each in watched.notices] == ["expiring", "reconnect"]
    assert 0 < watched.notices[0].expiring.expires_in_ms <= 9_000
    assert (watched.code, watched.problem.code) == (StatusCode.UNAVAILABLE, "expired")
    assert time.monotonic() - began_s >= 3
