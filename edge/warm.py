"""Fetches the schemas of our own types before anybody waits for them: each costs a round trip."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from schemas.catalog import EVENT, PAYLOAD_PREFIX, subjects
from schemas.errors import SluicegateError
from schemas.topics import INDEX, LLM_REQUESTS, LLM_ROUTES, REJECTS

if TYPE_CHECKING:
    from edge.core import EdgeCore
    from schemas.catalog import SchemaSource
    from schemas.payloads import PayloadCodec
    from schemas.wire import WireCodec

_AGAIN_S = 2.0
log = structlog.get_logger(__name__)


def warm_up(source: SchemaSource, wire: WireCodec, payloads: PayloadCodec) -> None:
    """Fetch and parse; blocks for some hundred milliseconds.

    Raises:
        RegistryUnavailable: the registry does not answer.
        UnknownType: a schema of ours is not registered.
    """
    for subject in (EVENT, INDEX.subject, REJECTS.subject, LLM_ROUTES.subject):
        wire.reader(subject, source.id_of(subject))
    wire.warm([LLM_REQUESTS.subject])
    for subject in subjects():
        if subject.startswith(PAYLOAD_PREFIX):
            payloads.subject_of(source.id_of(subject))


async def keep_warming(core: EdgeCore, source: SchemaSource, wire: WireCodec, payloads: PayloadCodec) -> None:
    """Try until it has worked once; the edge says meanwhile that it is not ready, and why.

    Once warm an edge does without the registry, but for types that nobody has used yet: so it stays ready
    when the registry goes away later, or all edges would be taken out at once for what they do not need.
    """
    while True:
        try:
            await asyncio.to_thread(warm_up, source, wire, payloads)
        except SluicegateError as error:
            core.cold = str(error)
            log.warning("schemas_not_warm", cause=str(error))
            await asyncio.sleep(_AGAIN_S)
        else:
            core.cold = ""
            return
