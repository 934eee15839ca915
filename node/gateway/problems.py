"""Every error as problem details (RFC 9457): the same document whatever went wrong and wherever.

The stable part is `code`; `title` and `detail` are for people. The HTTP status says who must act: 4xx the client, 503 try again, 500 the
operator.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from node.gateway.limits import RETRY_AFTER_S
from wire.errors import PatchwardenError, RejectedError, UnavailableError

PROBLEM_TYPE: Final = "application/problem+json"

_CONFLICTS: Final = (
    "ledger.tx.duplicate",
    "ledger.identity.exists",
    "ledger.patch.exists",
    "ledger.patch.duplicate_attestation",
)


def status_of(error: PatchwardenError) -> int:
    """Return the HTTP status that an error of ours is answered with."""
    if error.code == "ledger.history.pruned":
        return HTTPStatus.GONE  # It is not coming back here; another node may have it.
    if error.code == "ledger.mempool.signer_full":
        return HTTPStatus.TOO_MANY_REQUESTS  # This signer has its share; others still get in.
    if isinstance(error, UnavailableError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if not isinstance(error, RejectedError):
        return HTTPStatus.INTERNAL_SERVER_ERROR
    code = error.code
    if code.endswith(".not_found") or code == "node.local.unknown_method":
        return HTTPStatus.NOT_FOUND
    if code.endswith("too_large") or code == "node.submit.too_many":
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    if code in _CONFLICTS:
        return HTTPStatus.CONFLICT
    if code.startswith("node.param.") or code.endswith(".malformed"):
        return HTTPStatus.BAD_REQUEST
    if code in ("node.auth.required",):
        return HTTPStatus.UNAUTHORIZED
    return HTTPStatus.UNPROCESSABLE_ENTITY


def problem(
    status: int, code: str, detail: str, *, hint: str = "", headers: dict[str, str] | None = None, **more: object
) -> JSONResponse:
    """Return a problem document as a response."""
    content: dict[str, object] = {
        "type": f"urn:patchwarden:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        **more,
    }
    all_headers = dict(headers or {})
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        all_headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    if status == HTTPStatus.UNAUTHORIZED:
        all_headers.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(content, status_code=status, media_type=PROBLEM_TYPE, headers=all_headers)


async def on_patchwarden_error(request: Request, error: Exception) -> JSONResponse:
    """Answer with what the core, or this gateway, refused."""
    del request
    assert isinstance(error, PatchwardenError)
    return problem(status_of(error), error.code, error.message, hint=error.hint)


async def on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    """Answer a request whose parameters or body do not have their form."""
    del request
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()))
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "node.http.invalid_request",
        f"{where}: {first.get('msg', 'not valid')!s}"[:400],
        hint="see /openapi.json for the form of every request",
    )


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Answer what no route takes: unknown paths, wrong methods."""
    del request
    assert isinstance(error, HTTPException)
    codes = {
        HTTPStatus.NOT_FOUND: "node.http.no_such_path",
        HTTPStatus.METHOD_NOT_ALLOWED: "node.http.method_not_allowed",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "node.http.body_too_large",
        HTTPStatus.BAD_REQUEST: "node.http.invalid_request",
        HTTPStatus.UNPROCESSABLE_ENTITY: "node.http.invalid_request",
        HTTPStatus.SERVICE_UNAVAILABLE: "node.http.overloaded",
    }
    code = codes.get(HTTPStatus(error.status_code), "node.http.refused")
    return problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))
