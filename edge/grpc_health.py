"""``grpc.health.v1.Health`` and reflection: what anybody may ask, so each has bounds of its own.

Health is not gRPC's own servicer: that one writes to whoever watches while it holds the lock that its status
is set under, so a single client that reads nothing would keep every check waiting, and a drain with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import DESCRIPTOR as OLD_REFLECTION
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from edge.errors import RequestError
from edge.grpc_requests import Requests, overloaded, parsed
from edge.shares import Shares

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from google.protobuf.descriptor import FileDescriptor

    from edge.core import EdgeCore
    from edge.grpc_call import Call

HEALTH_SERVICE: Final = health.SERVICE_NAME
OLD_REFLECTION_SERVICE: Final = reflection.SERVICE_NAME
REFLECTION_SERVICE: Final = OLD_REFLECTION_SERVICE.replace("v1alpha", "v1")
"""Its messages are those of ``v1alpha`` under other names, the same bytes. New tools may ask for it alone;
``grpcio-reflection`` has only the old one (1.85)."""
_LOOK_S: Final = 0.25
"""How late a watch may be in telling what the edge has found out."""
_CHECKS_MAX: Final = 128
_CHECK_READ_MS_MAX: Final = 500
"""A whole request comes with its call: who asks well needs its place for no time at all."""
_WATCHES_MAX: Final = 1_000
_CONNECTION_MAX: Final = 16
"""Watches, and as many reflections, of one connection: a client has one of each, and nobody alone keeps the
others from theirs."""
_REFLECTIONS_MAX: Final = 64
"""Calls of tools that look around: each may wait for its next message, as long as a tool may think."""
_REFLECTION_READ_MS_MAX: Final = 30_000


def _shares(most: int, what: str) -> Shares:
    return Shares(most, _CONNECTION_MAX, lambda held, own: overloaded(f"{held} {what}, {own} of them you"))


class Health:
    """Answers as `/readyz` would at this moment, and tells who watches when that changes."""

    def __init__(self, core: EdgeCore, services: Sequence[str]) -> None:
        self._core = core
        self._services = frozenset(("", *services))
        self._requests = Requests(_CHECKS_MAX, _CHECK_READ_MS_MAX)
        self._watches = _shares(_WATCHES_MAX, "watch the health")
        self._stopping = False
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at the edge from now on."""
        self._looking = asyncio.get_running_loop().create_task(self._look())

    def no_traffic(self) -> None:
        """Say from now on that no traffic should come here."""
        self._stopping = True
        self._tell()

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def check(self, _stream: object, call: Call) -> bytes:
        """``Check``. Raises RequestError."""
        service = await self._service_asked(call)
        if service not in self._services:
            raise RequestError(404, "No such service", "this edge has no service of that name")
        return self._answer(service)

    async def watch(self, _stream: object, call: Call) -> None:
        """``Watch``, which has no end of its own. Raises RequestError."""
        service = await self._service_asked(call)
        with self._watches.one_of(call.peer()):
            told = b""
            while True:
                changed, answer = self._changed, self._answer(service)
                if answer != told:
                    await call.write(answer)
                    told = answer
                else:
                    await changed.wait()

    async def _service_asked(self, call: Call) -> str:
        return str(parsed(HealthCheckRequest, await self._requests.one(call)).service)

    def _answer(self, service: str) -> bytes:
        status = HealthCheckResponse.SERVING
        if service not in self._services:
            status = HealthCheckResponse.SERVICE_UNKNOWN
        elif self._stopping or self._core.unready:
            status = HealthCheckResponse.NOT_SERVING
        return bytes(HealthCheckResponse(status=status).SerializeToString())

    async def _look(self) -> None:
        told = b""
        while True:
            answer = self._answer("")
            if answer != told:
                told = answer
                self._tell()
            await asyncio.sleep(_LOOK_S)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Reflection:
    """Tells tools which services there are, and what their messages hold; as ``v1``, and as ``v1alpha``."""

    def __init__(self, services: Sequence[str]) -> None:
        names = (*services, HEALTH_SERVICE, OLD_REFLECTION_SERVICE)
        pool = _pool_of(names)
        pool.Add(_as_v1(OLD_REFLECTION))
        self._servicer = reflection.aio.ReflectionServicer((*names, REFLECTION_SERVICE), pool)
        self._requests = Requests(_REFLECTIONS_MAX, _REFLECTION_READ_MS_MAX)
        self._calls = _shares(_REFLECTIONS_MAX, "look around")

    async def info(self, _stream: object, call: Call) -> None:
        """``ServerReflectionInfo``. Raises RequestError."""
        with self._calls.one_of(call.peer()):
            async for answer in self._servicer.ServerReflectionInfo(self._asked(call), call):
                await call.write(answer.SerializeToString())

    async def _asked(self, call: Call) -> AsyncIterator[ServerReflectionRequest]:
        while (message := await self._requests.next(call)) is not None:
            yield parsed(ServerReflectionRequest, message)


def _pool_of(services: Sequence[str]) -> descriptor_pool.DescriptorPool:
    """Give the files of these services, and what they import, apart from all else that this process knows."""
    known, pool = descriptor_pool.Default(), descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for needed in file.dependencies:
            add(needed)
        pool.AddSerializedFile(file.serialized_pb)

    for service in services:
        add(known.FindFileContainingSymbol(service))
    return pool


def _as_v1(old: FileDescriptor) -> FileDescriptorProto:
    described = FileDescriptorProto()
    old.CopyToProto(described)
    described.ClearField("options")  # where other languages put it, and that the old one is deprecated
    renamed = text_format.MessageToString(described).replace("v1alpha", "v1")
    return text_format.Parse(renamed, FileDescriptorProto())
