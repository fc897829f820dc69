"""Follow a stream over gRPC to its end, whatever befalls the edge: python grpc_watch.py HOST:PORT STREAM."""

import json
import random
import sys
import time

import grpc

from schemas.proto.sluicegate.v1.stream_pb2 import Event, WatchRequest
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub

COME_BACK = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,  # nobody here cancels: the call came as an edge stopped
    grpc.StatusCode.INTERNAL,  # these two: a proxy lost the edge, or had none
    grpc.StatusCode.UNKNOWN,
)
OPTIONS = [
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),  # notice an edge that is gone without a word
]


def follow(address: str, stream_id: str) -> None:
    """Print what comes; return at the end. Raises grpc.RpcError for what coming back cannot mend."""
    cursor, failures = "", 0
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = StreamServiceStub(channel)
        while True:
            try:
                for response in stub.Watch(WatchRequest(stream_id=stream_id, cursor=cursor)):
                    failures = 0
                    for event in response.events:
                        show(event)
                        cursor = event.cursor  # kept together with what was made of the event
            except grpc.RpcError as error:
                if error.code() not in COME_BACK:
                    raise
                failures += 1
                time.sleep(pause_s(error, failures))
            else:
                return  # the end was given, or was had already


def show(event: Event) -> None:
    """What an application does with an event."""
    match event.WhichOneof("control"):
        case "gap":
            print(f"--- {event.gap.count} events are missing here ({event.gap.reason})")
        case "end":
            print(f"--- ended: {event.end.reason}")
        case _ if event.type == "log":
            print(json.loads(event.json)["line"])
    sys.stdout.flush()


def pause_s(error: grpc.RpcError, failures: int) -> float:
    """When to come back: as the edge says, else longer from time to time, and never all clients at once."""
    said = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    if said:
        return int(said) / 1_000
    return min(0.1 * 2**failures, 10.0) * random.uniform(0.5, 1.0)


if __name__ == "__main__":
    follow(*sys.argv[1:])
