"""Who may do what over HTTP: everybody may read; local operations need the node's bearer token."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from node.gateway.patch_files import PatchFiles
from node.local.client import AsyncLocalClient
from wire.errors import RejectedError

TOKEN_BYTES_MAX: Final = 256


class Access:
    """Compares bearer tokens with the one in the node's home, which only the node's user can read."""

    def __init__(self, token_path: Path) -> None:
        self._token_path = token_path

    def check(self, given: str | None) -> None:
        """Return only for the right token.

        Raises:
            RejectedError: ``node.auth.required``.
        """
        with self._token_path.open("rb") as file:
            wanted = file.read(TOKEN_BYTES_MAX).strip()
        if given is None or not hmac.compare_digest(given.strip().encode("utf-8"), wanted):
            raise RejectedError(
                "node.auth.required",
                "this operation needs the node's bearer token",
                hint="send Authorization: Bearer with the content of rpc.token in the node's home",
            )


# Coroutines although they wait for nothing: FastAPI would send a plain function to a thread and back, which costs more than the rest of a
# request, and much more where the machine is busy.


async def get_core(request: Request) -> AsyncLocalClient:
    """Return the connection to the core."""
    core: AsyncLocalClient = request.app.state.core
    return core


async def get_patch_files(request: Request) -> PatchFiles:
    """Return the way to the node's patch files."""
    files: PatchFiles = request.app.state.patch_files
    return files


_BEARER = HTTPBearer(auto_error=False, description="The content of rpc.token in the node's home.")


async def require_token(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> None:
    """Let only the node's own operators pass."""
    access: Access = request.app.state.access
    access.check(None if credentials is None else credentials.credentials)


Core = Annotated[AsyncLocalClient, Depends(get_core)]
Files = Annotated[PatchFiles, Depends(get_patch_files)]
Json = Any
