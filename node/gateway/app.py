"""The FastAPI application: routes, error documents, the OpenAPI document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from node.gateway import routes_agent, routes_ledger, routes_node, routes_proofs, routes_submit
from node.gateway.access import Access
from node.gateway.explorer import routes as explorer
from node.gateway.limits import DEFAULT_LIMITS, GatewayLimits
from node.gateway.middleware import LimitMiddleware
from node.gateway.patch_files import PatchFiles
from node.gateway.problems import on_http_exception, on_invalid_request, on_patchwarden_error
from node.local.client import AsyncLocalClient
from wire.errors import PatchwardenError

API_VERSION = "1"


def build_app(
    core: AsyncLocalClient, *, token_path: Path, patches_path: Path, limits: GatewayLimits = DEFAULT_LIMITS
) -> FastAPI:
    """Return the application that answers from `core`.

    Args:
        core: The connection to the node's core.
        token_path: The file with the bearer token for local operations.
        patches_path: The directory in which the core keeps patch files.
        limits: What one gateway takes upon itself.
    """
    app = FastAPI(
        title="Patchwarden node",
        version=API_VERSION,
        summary="The ledger of patch provenance, and the agent that applies patches by it",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.state.core = core
    app.state.access = Access(token_path)
    app.state.patch_files = PatchFiles(patches_path, uploads_max=limits.uploads_max)
    app.add_exception_handler(PatchwardenError, on_patchwarden_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)
    # What is asked most often stands first: a route is found by trying one after the other.
    for module in (routes_submit, routes_node, routes_ledger, routes_proofs, routes_agent):
        app.include_router(module.router)
    app.include_router(explorer.router)
    app.add_middleware(LimitMiddleware, limits=limits)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _without_default_errors(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    summary=app.summary,
                    openapi_version="3.1.0",
                    routes=app.routes,
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _without_default_errors(document: dict[str, Any]) -> dict[str, Any]:
    """Remove FastAPI's own description of errors: ours are problem documents, and every route names them."""
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document
