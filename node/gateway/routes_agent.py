"""Routes to the agent of a host. What changes something needs the node's bearer token."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse

from node.gateway import schemas
from node.gateway.access import Core, require_token
from node.gateway.errors_doc import errors
from node.gateway.strict_json import StrictJsonRoute
from node.params import INTEGER_MAX

router = APIRouter(tags=["agent"], route_class=StrictJsonRoute)

APPLY_TIMEOUT_S = 125.0
"""Applying waits for two commits and for the disk."""
OUTBOX_RECORDS_MAX = 64
"""Records in one answer: a decision each, at most 256 KiB."""


@router.get("/v1/agent/status", responses=errors(404))
async def status(core: Core) -> JSONResponse:
    """The agent's targets and their state; 404 on a node without an agent."""
    return JSONResponse(await core.call("agent.status"))


@router.get("/v1/agent/history", responses=errors(400, 404))
async def history(core: Core, target: Annotated[str, Query(min_length=1, max_length=256)]) -> JSONResponse:
    """What was applied to one target, oldest first."""
    return JSONResponse(await core.call("agent.history", target=target))


@router.get("/v1/agent/progress", responses=errors(400, 404))
async def progress(core: Core, target: Annotated[str, Query(min_length=1, max_length=256)]) -> JSONResponse:
    """How far it is what the agent is doing at one target; `work` is null when it does nothing. Never waits."""
    return JSONResponse(await core.call("agent.progress", target=target))


@router.get("/v1/agent/outbox", responses=errors(400, 401, 404), dependencies=[Depends(require_token)])
async def outbox(
    core: Core,
    after: Annotated[int, Query(ge=0, le=INTEGER_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=OUTBOX_RECORDS_MAX)] = OUTBOX_RECORDS_MAX,
) -> JSONResponse:
    """The records that wait for the ledger, in their order, behind a sequence."""
    return JSONResponse(await core.call("agent.outbox", after=after, limit=limit))


@router.post("/v1/agent/drift", responses=errors(400, 401, 404, 413), dependencies=[Depends(require_token)])
async def drift(core: Core, body: schemas.DriftRequest) -> JSONResponse:
    """Compare one target with its record now, or all; the ledger is told what is found. Those that have drifted are returned."""
    return JSONResponse(await core.call("agent.drift", timeout_s=APPLY_TIMEOUT_S, target=body.target, full=body.full))


@router.post("/v1/agent/rollback", responses=errors(400, 401, 404, 413), dependencies=[Depends(require_token)])
async def rollback(core: Core, body: schemas.RollbackRequest) -> JSONResponse:
    """Decide on undoing an installed patch, undo it if everything holds, and record it."""
    return JSONResponse(
        await core.call(
            "agent.rollback",
            timeout_s=APPLY_TIMEOUT_S,
            target=body.target,
            patch_id=body.patch_id,
            with_dependants=body.with_dependants,
            explain=body.explain,
        )
    )


@router.post("/v1/agent/explain", responses=errors(400, 401, 404, 413), dependencies=[Depends(require_token)])
async def explain(core: Core, body: schemas.AgentRequest) -> JSONResponse:
    """The decision on a patch, with its reasons; nothing is changed."""
    return JSONResponse(
        await core.call(
            "agent.explain", timeout_s=APPLY_TIMEOUT_S, target=body.target, file=body.file, patch_id=body.patch_id
        )
    )


@router.post("/v1/agent/apply", responses=errors(400, 401, 404, 413), dependencies=[Depends(require_token)])
async def apply(core: Core, body: schemas.AgentRequest) -> JSONResponse:
    """Decide on a patch, apply it if everything holds, and record it."""
    return JSONResponse(
        await core.call(
            "agent.apply", timeout_s=APPLY_TIMEOUT_S, target=body.target, file=body.file, patch_id=body.patch_id
        )
    )
