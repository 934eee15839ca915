"""Routes that write: transactions, authorised by their own signatures, and patch files, authorised by their published digest."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from node.gateway import schemas
from node.gateway.access import Core, Files
from node.gateway.errors_doc import errors
from node.gateway.limits import RETRY_AFTER_S
from node.gateway.problems import problem, status_of
from node.gateway.strict_json import StrictJsonRoute
from node.local.protocol import error_from_json

router = APIRouter(tags=["submit"], route_class=StrictJsonRoute)

_MARGIN_S = 5.0
"""The core keeps its own time; the gateway waits a little longer."""


@router.post("/v1/transactions", response_model=schemas.SubmitAnswer, responses=errors(400, 409, 413, 429))
async def submit(core: Core, body: schemas.SubmitRequest) -> JSONResponse:
    """Submit signed transactions, one or hundreds at once.

    A single transaction that is refused answers with its problem. A batch answers 200 with one result for each; only when there was no
    room for any of it, it answers 429 or 503 like a single one, and when there was none for a part of it, the answer has `Retry-After`.
    Submitting a transaction again is safe: it is executed once, and the answer is the first one.
    """
    results = await core.call(
        "tx.submit",
        timeout_s=body.timeout_ms / 1000 + _MARGIN_S,
        transactions=body.transactions,
        wait=body.wait,
        timeout_ms=body.timeout_ms,
    )
    crowded_out = [result for result in results if _is_crowded_out(result)]
    if (len(results) == 1 and results[0]["error"] is not None) or (crowded_out and len(crowded_out) == len(results)):
        error = error_from_json(results[0]["error"])
        more = {"tx_id": results[0]["tx_id"]} if len(results) == 1 else {}
        return problem(status_of(error), error.code, error.message, hint=error.hint, **more)
    return JSONResponse({"results": results}, headers={"Retry-After": str(RETRY_AFTER_S)} if crowded_out else None)


def _is_crowded_out(result: dict[str, Any]) -> bool:
    """Return whether there was no room for the transaction: nothing is wrong with it, and it waits nowhere."""
    return result["status"] == "refused" and (result["error"] or {}).get("family") == "unavailable"


@router.put(
    "/v1/patches/{patch_id}",
    response_model=schemas.StoredPatch,
    responses=errors(400, 413),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_patch(
    core: Core, files: Files, request: Request, patch_id: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> JSONResponse:
    """Keep the file of a published patch; its digest must be the published one, and nothing of any other file is read."""
    length = request.headers.get("content-length")
    try:
        return JSONResponse(
            await files.receive(core, patch_id, request.stream(), None if length is None else int(length))
        )
    except ClientDisconnect as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the client left before the end of the file") from error
