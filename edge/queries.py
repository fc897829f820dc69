"""What stands behind the question mark of an address: a parameter that is not known is an error.

Passed over, one that is misspelt would ask for something else: the whole stream again, another tenant's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request  # noqa: TC002  # FastAPI reads it

from edge.access.gate import QUERY_NAME
from edge.errors import RequestError
from schemas.meant import meant

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 60


def check_query(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise RequestError, 400, for the first name that is not known; a token's is, wherever it is read."""
    known = tuple(known)
    for name in given:
        if name in known or name == QUERY_NAME:
            continue
        names = f"those that there are: {', '.join(known)}" if known else "there are none"
        raise RequestError(
            400,
            "Request is malformed",
            f"{name[:_SHOWN]!r} is no query parameter of this address{meant(name, known)}",
            remedy=f"Leave it out, or correct it; {names}.",
            extra={"field": name[:_SHOWN]},
        )


async def known_query(request: Request) -> None:  # else it would be called on a thread
    """The same for a route of FastAPI, as a dependency: known are the parameters of its function."""
    check_query(
        request.query_params, (field.alias for field in request.scope["route"].dependant.query_params)
    )
