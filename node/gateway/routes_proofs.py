"""Routes whose answers need no trust in the node."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from node.gateway import schemas_proofs
from node.gateway.access import Core
from node.gateway.errors_doc import errors
from node.gateway.routes_ledger import HeightQuery, HexPath

router = APIRouter(tags=["proofs"])


@router.get("/v1/transactions/{tx_id}/receipt", response_model=schemas_proofs.Receipt, responses=errors(400, 404, 410))
async def receipt(core: Core, tx_id: HexPath, height: HeightQuery = None) -> JSONResponse:
    """The portable receipt of one transaction, under the first certified header of its height or of `height`."""
    return JSONResponse(await core.call("receipt.get", tx_id=tx_id, height=height))


@router.get(
    "/v1/transactions/{tx_id}/cose-receipt",
    response_class=Response,
    responses={
        **errors(400, 404, 410),
        200: {"content": {"application/cbor": {"schema": {"type": "string", "format": "binary"}}}},
    },
)
async def cose_receipt(core: Core, tx_id: HexPath, height: HeightQuery = None) -> Response:
    """The COSE receipts (RFC 9942) of one transaction, by a majority of the validators."""
    answer = await core.call("receipt.cose", tx_id=tx_id, height=height)
    return Response(base64.b64decode(answer["file"]), media_type="application/cbor")


@router.get("/v1/proofs/state", response_model=schemas_proofs.StateProof, responses=errors(400))
async def state_proof(
    core: Core,
    subject: Literal[
        "identity", "organisation", "standing", "key", "patch", "attestations", "policy", "proposal", "target"
    ],
    name: Annotated[str, Query(alias="id", min_length=1, max_length=256)],
) -> JSONResponse:
    """The proof that a record is, or is not, in the state of the newest certified block."""
    return JSONResponse(await core.call("proofs.state", subject=subject, id=name))


@router.get("/v1/proofs/consistency", response_model=schemas_proofs.ConsistencyProof, responses=errors(400, 410))
async def consistency_proof(
    core: Core,
    before: Annotated[int, Query(alias="from", ge=0, le=2**53 - 1)],
    after: Annotated[int, Query(alias="to", ge=0, le=2**53 - 1)],
) -> JSONResponse:
    """The proof that the log of `to` transactions begins with the log of `from` transactions."""
    return JSONResponse(await core.call("proofs.consistency", {"from": before, "to": after}))


@router.get("/v1/checkpoint", response_class=PlainTextResponse, responses=errors(400, 404))
async def checkpoint(core: Core, height: HeightQuery = None) -> PlainTextResponse:
    """The newest certified header, or the newest up to `height`, as a signed note."""
    return PlainTextResponse(await core.call("checkpoint.get", height=height))
