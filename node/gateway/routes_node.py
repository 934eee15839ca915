"""Routes about the node itself."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from node.gateway import schemas
from node.gateway.access import Core
from node.gateway.errors_doc import errors

router = APIRouter(tags=["node"])

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/livez", response_model=schemas.Live, responses=errors())
async def livez(core: Core) -> JSONResponse:
    """Whether the core answers."""
    return JSONResponse(await core.call("health.live", timeout_s=5))


@router.get("/readyz", response_model=schemas.Ready, responses=errors())
async def readyz(core: Core) -> JSONResponse:
    """Whether the node can serve: it knows a leader, and its replica is fresh."""
    return JSONResponse(await core.call("health.ready", timeout_s=5))


@router.get("/metrics", response_class=PlainTextResponse, responses=errors())
async def metrics(core: Core) -> PlainTextResponse:
    """Metrics in Prometheus' text form."""
    return PlainTextResponse(await core.call("metrics", timeout_s=5), media_type=METRICS_TYPE)


@router.get("/v1/status", response_model=schemas.Status, responses=errors())
async def status(core: Core) -> JSONResponse:
    """What this node is and where it stands."""
    return JSONResponse(await core.call("status"))


@router.get("/v1/validators", response_model=list[schemas.Validator], responses=errors())
async def validators(core: Core) -> JSONResponse:
    """The validator set."""
    return JSONResponse(await core.call("validators"))


@router.get("/v1/peers", response_model=list[schemas.Peer], responses=errors())
async def peers(core: Core) -> JSONResponse:
    """The peers that this node knows."""
    return JSONResponse(await core.call("peers"))


@router.get("/v1/genesis", response_model=schemas.Genesis, responses=errors())
async def genesis(core: Core) -> JSONResponse:
    """The founding document."""
    return JSONResponse(await core.call("genesis.get"))
