"""What is asked of language models over HTTP: in our shape, answered by a stream; or in that of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from edge.access.doorkeeper import identity_of
from edge.control import counted
from edge.errors import RequestError
from edge.llm import anthropic_asked, anthropic_messages, openai_asked, openai_chat
from edge.llm.anthropic_asked import MessagesRequest
from edge.llm.anthropic_messages import MessagesAnswer
from edge.llm.ask import From, traceparent_of
from edge.llm.asked import Asked, read
from edge.llm.compat import Compat, Dialect
from edge.llm.openai_asked import ChatRequest
from edge.llm.openai_chat import ChatCompletion
from edge.llm.refusals import Refusals
from schemas.envelope import DEFAULT_TENANT
from schemas.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from edge.core import EdgeCore
    from edge.llm.ask import Asker
    from edge.publish import Publisher

Tenant = Annotated[str, Query(description="Who asks, and pays.")]


CHAT: Final = Dialect(
    question=openai_asked.question_of,
    shape=lambda stream_id, question: ChatCompletion(
        stream_id, question.model, include_usage=question.include_usage
    ),
    problem=openai_chat.problem,
    id_header=b"x-request-id",
)
MESSAGES: Final = Dialect(
    question=anthropic_asked.question_of,
    shape=lambda stream_id, question: MessagesAnswer(stream_id, question.model),
    problem=anthropic_messages.problem,
    id_header=b"request-id",
)


def llm_routes(core: EdgeCore, asker: Asker, publisher: Publisher) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/v1")
    refusals = Refusals()
    compat = Compat(core, asker, publisher, refusals)

    @routes.post(
        "/chat/completions",
        summary="Ask a language model, in OpenAI's shape",
        description="For clients of OpenAI's chat completions, streamed or not. The header "
        "`x-sluicegate-stream` names the stream that the answer is, which can be read by `/v1/streams`. "
        "Leaving does not cancel. The member `sluicegate` takes what is ours: route, prompt, deadline …",
        openapi_extra=_body(ChatRequest),
    )
    async def chat(request: Request) -> Response:
        return await compat.answer(request, CHAT)

    @routes.post(
        "/messages",
        summary="Ask a language model, in Anthropic's shape",
        description="For clients of Anthropic's messages; as for `/v1/chat/completions`. What they send as "
        "`x-api-key` is a token.",
        openapi_extra=_body(MessagesRequest),
    )
    async def messages(request: Request) -> Response:
        return await compat.answer(request, MESSAGES)

    @routes.get(
        "/models",
        summary="Names that a client may give as a model",
        description="Routes, and the models that they name; in the shape of OpenAI's list and Anthropic's.",
    )
    async def models(request: Request) -> Response:
        return compat.models(request)

    @routes.post(
        "/llm/streams",
        status_code=202,
        summary="Ask a language model",
        description="The stream's `open` and the request are written in one transaction. The answer is where "
        "the stream is read and cancelled. A stream that is there already is not asked for again: 409.",
        openapi_extra=_body(Asked),
    )
    async def ask(request: Request, tenant: Tenant = DEFAULT_TENANT) -> Response:
        async def asking() -> dict[str, object]:
            traceparent = traceparent_of(request.headers.get("traceparent", ""))
            by = From(tenant, identity_of(request.scope), traceparent)
            asker.check_may(by)
            asked = read(Asked, await asker.body(request.stream(), request.headers, tenant))
            return (await asker.ask(asked, by, wait=True)).shown()

        try:
            answer = await counted(core, asking())
        except (RequestError, InvalidEvent) as error:
            refusals.note(tenant, error)
            raise
        return Response(
            orjson.dumps(answer),
            status_code=202,
            media_type="application/json",
            headers={
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
                "location": str(answer["events"]),
            },
        )

    return routes


def _body(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is read by ourselves, within its bounds."""
    schema = shape.model_json_schema(by_alias=True)
    # Its definitions would be looked for at the root of the whole description.
    schema = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inlined(value: Any, definitions: Mapping[str, Any]) -> Any:
    """Put definitions in the places that refer to them; none of ours refers to itself."""
    if isinstance(value, list):
        return [_inlined(each, definitions) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(each, definitions) for name, each in value.items()}
