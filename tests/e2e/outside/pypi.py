"""One of PyPI's clients follows a stream: ``python pypi.py CLIENT URL GRPC``; each line says what it saw.

A client that reads one connection stands in a loop, as its own pages advise: the program keeps the cursor.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx2
import orjson

httpx2.alias_httpx()  # httpx-sse reads an httpx's response; the project has its successor

import grpc  # noqa: E402
import httpx_sse  # noqa: E402
import requests  # noqa: E402
import sseclient  # noqa: E402
from google.protobuf.descriptor_pool import DescriptorPool  # noqa: E402
from google.protobuf.message_factory import GetMessageClass  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: E402
    ProtoReflectionDescriptorDatabase,
)
from ld_eventsource import SSEClient  # noqa: E402
from ld_eventsource.actions import Event, Fault  # noqa: E402
from ld_eventsource.config import ConnectStrategy, ErrorStrategy, RetryDelayStrategy  # noqa: E402
from websockets.exceptions import InvalidStatus, WebSocketException  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

PAUSE_S = 1.0


def say(what: dict[str, Any]) -> None:
    what.pop("line", None)  # it may be long
    sys.stdout.buffer.write(orjson.dumps({**what, "at_ms": time.time_ns() // 1_000_000}) + b"\n")
    sys.stdout.flush()


def with_cursor(cursor: str) -> dict[str, str]:
    return {"last-event-id": cursor} if cursor else {}


def by_httpx_sse(url: str) -> None:
    cursor, pause_s = "", PAUSE_S
    with httpx2.Client(trust_env=False, timeout=httpx2.Timeout(5.0, read=30.0)) as client:
        while True:
            try:
                with httpx_sse.connect_sse(client, "GET", url, headers=with_cursor(cursor)) as source:
                    if source.response.status_code == 204:
                        say({"state": "over", "by": "program", "why": "204"})
                        return
                    for message in source.iter_sse():
                        if message.data:  # a frame of `retry:` alone is given as a message, too
                            say(orjson.loads(message.data))
                        cursor = message.id or cursor
                        pause_s = message.retry / 1_000 if message.retry else pause_s
                say({"state": "returned"})
            except httpx2.TransportError as error:
                say({"state": "raised", "why": type(error).__name__})
            time.sleep(pause_s)


def by_sseclient(url: str) -> None:
    cursor = ""
    while True:
        try:
            response = requests.get(url, headers=with_cursor(cursor), stream=True, timeout=30)
            if response.status_code == 204:
                say({"state": "over", "by": "program", "why": "204"})
                return
            for message in sseclient.SSEClient(response.iter_content(None)).events():
                say(orjson.loads(message.data))
                cursor = message.id or cursor
            say({"state": "returned"})
        except requests.RequestException as error:
            say({"state": "raised", "why": type(error).__name__})
        time.sleep(PAUSE_S)


def by_launchdarkly(url: str) -> None:
    """It doubles its pauses from one failure to the next; they are kept short for the test's sake."""
    client = SSEClient(
        ConnectStrategy.http(url),
        error_strategy=ErrorStrategy.always_continue(),
        retry_delay_strategy=RetryDelayStrategy.default(max_delay=2.0),
    )
    for action in client.all:
        if isinstance(action, Event):
            say(orjson.loads(action.data))
        elif isinstance(action, Fault):
            say({"state": "again", "why": str(action.error)})


def by_websockets(url: str) -> None:
    """It knows sockets, not streams: the program subscribes, keeps the cursor, and comes back."""
    origin, _, path = url.partition("/v1/streams/")
    subscription = {"type": "subscribe", "id": 1, "stream": path.partition("/")[0]}
    pause_s = PAUSE_S
    while True:
        try:
            with connect(f"{origin.replace('http', 'ws', 1)}/v1/ws", proxy=None) as socket:
                socket.send(orjson.dumps(subscription).decode())
                for text in socket:
                    message = orjson.loads(text)
                    pause_s = message.get("retry_ms", pause_s * 1_000) / 1_000
                    if message["type"] == "ended":
                        say({"state": "over", "by": "program"})
                        return
                    if message["type"] == "reconnect":
                        say(message)
                    elif message["type"] == "event":
                        say(message["event"])
                        subscription["cursor"] = message["cursor"]
            say({"state": "returned"})
        except InvalidStatus as error:
            pause_s = float(error.response.headers.get("retry-after", 1))
            say({"state": "raised", "why": "overload" if error.response.status_code == 503 else "refused"})
        except (OSError, WebSocketException) as error:
            say({"state": "raised", "why": type(error).__name__})
        time.sleep(pause_s)


def by_grpc(url: str) -> None:
    """It has no file of the service: the edge tells it what there is, as it tells `grpcurl`."""
    with grpc.insecure_channel(sys.argv[3]) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("sluicegate.v1.StreamService").FindMethodByName("Watch")
        request = GetMessageClass(method.input_type)(stream_id=url.split("/")[5])
        watch = channel.unary_stream(
            "/sluicegate.v1.StreamService/Watch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        while True:
            pause_s = PAUSE_S
            try:
                for response in watch(request):
                    for event in response.events:
                        say(orjson.loads(event.json))
                        request.cursor = event.cursor
                    if response.WhichOneof("notice") == "reconnect":
                        say({"type": "reconnect", "reason": response.reconnect.reason})
                        pause_s = response.reconnect.retry_ms / 1_000
                say({"state": "over", "why": "OK"})
            except grpc.RpcError as error:
                told = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
                full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                say({"state": "raised", "why": "overload" if full else error.code().name})
                pause_s = int(told) / 1_000 if told else pause_s
                time.sleep(pause_s)
            else:
                return


CLIENTS = {
    "grpcio": by_grpc,
    "websockets": by_websockets,
    "httpx-sse": by_httpx_sse,
    "sseclient-py": by_sseclient,
    "launchdarkly-eventsource": by_launchdarkly,
}


if __name__ == "__main__":
    CLIENTS[sys.argv[1]](sys.argv[2])
