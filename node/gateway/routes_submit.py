"""Routes that write: transactions, authorised by their own signatures, and patch files, authorised by their published digest."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse

from node.gateway import schemas
from node.gateway.access import Core
from node.gateway.errors_doc import errors
from node.gateway.problems import problem, status_of
from node.gateway.strict_json import StrictJsonRoute
from node.local.protocol import error_from_json

router = APIRouter(tags=["submit"], route_class=StrictJsonRoute)

_MARGIN_S = 5.0
"""The core keeps its own time; the gateway waits a little longer."""


@router.post("/v1/transactions", response_model=schemas.SubmitAnswer, responses=errors(400, 409, 413))
async def submit(core: Core, body: schemas.SubmitRequest) -> JSONResponse:
    """Submit signed transactions, one or hundreds at once.

    A single transaction that is refused answers with its problem; a batch always answers 200 with one result for each. Submitting a
    transaction again is safe: it is executed once, and the answer is the first one.
    """
    results = await core.call(
        "tx.submit",
        timeout_s=body.timeout_ms / 1000 + _MARGIN_S,
        transactions=body.transactions,
        wait=body.wait,
        timeout_ms=body.timeout_ms,
    )
    if len(results) == 1 and results[0]["error"] is not None:
        error = error_from_json(results[0]["error"])
        return problem(status_of(error), error.code, error.message, hint=error.hint, tx_id=results[0]["tx_id"])
    return JSONResponse({"results": results})


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
    core: Core, request: Request, patch_id: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> JSONResponse:
    """Keep the file of a published patch; its digest must be the published one."""
    data = await request.body()
    return JSONResponse(await core.call("patches.put", patch_id=patch_id, file=base64.b64encode(data).decode("ascii")))
