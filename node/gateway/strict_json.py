"""Bodies of requests, read so that they mean one thing: what another reader would take otherwise is refused."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from node.local.protocol import load_json_untrusted


class _StrictRequest(Request):
    """A request whose JSON is read strictly."""

    async def json(self) -> Any:
        """Return the body's one value.

        Raises:
            HTTPException: The body has no such value; FastAPI lets this one pass.
        """
        try:
            return load_json_untrusted(await self.body())
        except ValueError as error:
            why = f"the body is not JSON: {error}"[:400]
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, why) from error


class StrictJsonRoute(APIRoute):
    """A route whose body is read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that gets a strict request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict
