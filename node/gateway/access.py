"""Who may do what over HTTP: everybody may read; local operations need the node's bearer token."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request

from node.local.client import AsyncLocalClient
from wire.errors import RejectedError

TOKEN_BYTES_MAX: Final = 256


class Access:
    """Compares bearer tokens with the one in the node's home, which only the node's user can read."""

    def __init__(self, token_path: Path) -> None:
        self._token_path = token_path

    def check(self, authorization: str | None) -> None:
        """Return only for the right bearer token.

        Raises:
            RejectedError: ``node.auth.required``.
        """
        scheme, _, given = (authorization or "").partition(" ")
        with self._token_path.open("rb") as file:
            wanted = file.read(TOKEN_BYTES_MAX).strip()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8"), wanted):
            raise RejectedError(
                "node.auth.required",
                "this operation needs the node's bearer token",
                hint="send Authorization: Bearer with the content of rpc.token in the node's home",
            )


def get_core(request: Request) -> AsyncLocalClient:
    """Return the connection to the core."""
    core: AsyncLocalClient = request.app.state.core
    return core


def require_token(request: Request, authorization: Annotated[str | None, Header()] = None) -> None:
    """Let only the node's own operators pass."""
    access: Access = request.app.state.access
    access.check(authorization)


Core = Annotated[AsyncLocalClient, Depends(get_core)]
Json = Any
