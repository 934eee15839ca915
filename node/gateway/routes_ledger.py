"""Routes that read the ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse

from node.gateway import schemas, schemas_hosts, schemas_rollouts
from node.gateway.access import Core, Files, Json
from node.gateway.errors_doc import errors
from node.gateway.events import with_keep_alive
from node.local.client import AsyncLocalClient

router = APIRouter(tags=["ledger"])

Limit = Annotated[int | None, Query(ge=1, le=500)]
HeightQuery = Annotated[int | None, Query(ge=0, le=2**53 - 1)]
HeightPath = Annotated[int, Path(ge=0, le=2**53 - 1)]
Consistency = Annotated[
    Literal["linearizable", "local"] | None,
    Query(
        description="How current the answer must be. A validator's default is linearizable, a host can only answer local."
    ),
]
HexPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
NamePath = Annotated[str, Path(min_length=1, max_length=256)]
NameQuery = Annotated[str | None, Query(min_length=1, max_length=256)]


@router.get("/v1/blocks", response_model=list[schemas.BlockSummary], responses=errors(400))
async def blocks(
    core: Core, from_: Annotated[int | None, Query(alias="from", ge=0, le=2**53 - 1)] = None, limit: Limit = None
) -> JSONResponse:
    """Headers downwards from a height, the newest first."""
    return JSONResponse(await core.call("blocks.list", {"from": from_, "limit": limit}))


@router.get("/v1/blocks/{height}", response_model=schemas.Block, responses=errors(400, 404))
async def block(core: Core, height: HeightPath) -> JSONResponse:
    """One block."""
    return JSONResponse(await core.call("blocks.get", height=height))


@router.get("/v1/blocks/{height}/raw", response_model=list[schemas.RawBlock], responses=errors(400))
async def raw_blocks(core: Core, height: HeightPath, limit: Annotated[int, Query(ge=1, le=256)] = 1) -> JSONResponse:
    """Encoded blocks upwards from a height, with their certificates: what an auditor replays."""
    return JSONResponse(await core.call("blocks.raw", {"from": height, "limit": limit}))


@router.get("/v1/transactions/{tx_id}", response_model=schemas.Transaction, responses=errors(400, 404))
async def transaction(core: Core, tx_id: HexPath) -> JSONResponse:
    """One transaction."""
    return JSONResponse(await core.call("tx.get", tx_id=tx_id))


@router.get("/v1/organisations", response_model=list[schemas.Organisation], responses=errors())
async def organisations(core: Core) -> JSONResponse:
    """The member organisations."""
    return JSONResponse(await core.call("organisations.list"))


@router.get(
    "/v1/organisations/{organisation}/administration",
    response_model=schemas.Administration,
    responses=errors(400, 404),
)
async def administration(core: Core, organisation: NamePath, limit: Limit = None) -> JSONResponse:
    """How many administrators of an organisation must agree, and what they were asked to agree on, the newest first."""
    return JSONResponse(await core.call("administration.get", organisation=organisation, limit=limit))


@router.get("/v1/identities", response_model=list[schemas.Identity], responses=errors(400))
async def identities(
    core: Core,
    organisation: NameQuery = None,
    role: NameQuery = None,
    after: NameQuery = None,
    limit: Limit = None,
) -> JSONResponse:
    """Identities in order of their id."""
    return JSONResponse(
        await core.call("identities.list", organisation=organisation, role=role, after=after, limit=limit)
    )


@router.get("/v1/identities/{identity}", response_model=schemas.IdentityAsOf, responses=errors(400, 404))
async def identity(
    core: Core, identity: NamePath, height: HeightQuery = None, consistency: Consistency = None
) -> JSONResponse:
    """One identity, now or as it was after a past height."""
    return JSONResponse(await core.call("identities.get", identity=identity, height=height, consistency=consistency))


@router.get(
    "/v1/identities/{identity}/history", response_model=list[schemas.HistoricTransaction], responses=errors(400)
)
async def identity_history(core: Core, identity: NamePath, limit: Limit = None) -> JSONResponse:
    """The transactions that concern an identity, oldest first."""
    return JSONResponse(await core.call("identities.history", identity=identity, limit=limit))


@router.get("/v1/identities/{identity}/affected", response_model=schemas.Affected, responses=errors(400, 404))
async def identity_affected(
    core: Core,
    identity: NamePath,
    key_id: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    last_valid_height: HeightQuery = None,
) -> JSONResponse:
    """What was recorded under revoked keys of an identity, or what it would be if they were revoked from a height on."""
    asked = {"identity": identity, "key_id": key_id, "last_valid_height": last_valid_height}
    return JSONResponse(await core.call("identities.affected", asked))


@router.get("/v1/history/{subject}/{name}", response_model=list[schemas.HistoricTransaction], responses=errors(400))
async def history(  # noqa: PLR0917 - one parameter for each of the request's
    core: Core,
    subject: Literal["identity", "host", "organisation", "patch", "proposal"],
    name: NamePath,
    from_: Annotated[int | None, Query(alias="from", ge=0, le=2**53 - 1)] = None,
    from_index: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    limit: Limit = None,
) -> JSONResponse:
    """The transactions that concern one thing, oldest first, from a height and a place in its block on."""
    where = {"subject": subject, "id": name, "from": from_, "from_index": from_index, "limit": limit}
    return JSONResponse(await core.call("history", where))


@router.get("/v1/patches", response_model=list[schemas.Patch], responses=errors(400))
async def patches(core: Core, limit: Limit = None) -> JSONResponse:
    """Published patches, the newest first."""
    return JSONResponse(await core.call("patches.list", limit=limit))


@router.get("/v1/patches/{patch_id}", response_model=schemas.PatchWithFile, responses=errors(400, 404))
async def patch(core: Core, patch_id: HexPath) -> JSONResponse:
    """One published patch with its attestations."""
    return JSONResponse(await core.call("patches.get", patch_id=patch_id))


@router.get(
    "/v1/patches/{patch_id}/attestations", response_model=list[schemas.JudgedAttestation], responses=errors(400, 404)
)
async def attestations(core: Core, patch_id: HexPath) -> JSONResponse:
    """The recorded attestations of one patch."""
    return JSONResponse(await core.call("patches.attestations", patch_id=patch_id))


@router.get(
    "/v1/patches/{patch_id}/file",
    response_class=Response,
    responses={
        **errors(400, 404),
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    },
)
async def patch_file(core: Core, files: Files, patch_id: HexPath) -> Response:
    """The patch file, from this node or a peer."""
    pieces, length = await files.send(core, patch_id)
    return StreamingResponse(pieces, media_type="application/octet-stream", headers={"Content-Length": str(length)})


@router.get("/v1/deployments", response_model=list[schemas.Deployment], responses=errors(400))
async def deployments(
    core: Core,
    host: NameQuery = None,
    patch: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    limit: Limit = None,
) -> JSONResponse:
    """Deployment records, the newest first."""
    return JSONResponse(await core.call("deployments.list", host=host, patch=patch, limit=limit))


@router.get("/v1/hosts", response_model=list[schemas_hosts.Host], responses=errors(400))
async def hosts(core: Core, after: NameQuery = None, limit: Limit = None) -> JSONResponse:
    """Hosts in order of their id."""
    return JSONResponse(await core.call("hosts.list", after=after, limit=limit))


@router.get("/v1/hosts/{host}", response_model=schemas_hosts.HostWithTargets, responses=errors(400, 404))
async def host(core: Core, host: NamePath) -> JSONResponse:
    """One host with its targets, each with what was last reported about it."""
    return JSONResponse(await core.call("hosts.get", host=host))


@router.get("/v1/hosts/{host}/records", response_model=schemas_hosts.HostRecords, responses=errors(400, 404))
async def host_records(
    core: Core,
    host: NamePath,
    before: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    limit: Limit = None,
) -> JSONResponse:
    """The intents and outcomes of one host, the newest first; the next page is `before` the record `next`."""
    return JSONResponse(await core.call("hosts.records", host=host, before=before, limit=limit))


@router.get("/v1/hosts/{host}/targets/{target}", response_model=schemas.Target, responses=errors(400, 404))
async def target(core: Core, host: NamePath, target: NamePath) -> JSONResponse:
    """What the ledger knows of one target of a host."""
    return JSONResponse(await core.call("targets.get", host=host, target=target))


@router.get("/v1/rollouts", response_model=list[schemas_rollouts.Rollout], responses=errors(400))
async def rollouts(core: Core, limit: Limit = None) -> JSONResponse:
    """Rollouts, the newest first, with the counts of each wave."""
    return JSONResponse(await core.call("rollouts.list", limit=limit))


@router.get("/v1/rollouts/{rollout_id}", response_model=schemas_rollouts.Rollout, responses=errors(400, 404))
async def rollout(core: Core, rollout_id: NamePath, offline_after_ms: HeightQuery = None) -> JSONResponse:
    """One rollout. A silent host of a wave that has been open for `offline_after_ms` is called offline; 300,000 unless given."""
    return JSONResponse(await core.call("rollouts.get", rollout_id=rollout_id, offline_after_ms=offline_after_ms))


@router.get(
    "/v1/rollouts/{rollout_id}/turns/{host}", response_model=schemas_rollouts.HostTurn, responses=errors(400, 404)
)
async def rollout_turn(core: Core, rollout_id: NamePath, host: NamePath) -> JSONResponse:
    """With which wave a host goes, and when."""
    return JSONResponse(await core.call("rollouts.turn", rollout_id=rollout_id, host=host))


@router.get("/v1/rollouts/{rollout_id}/hosts", response_model=schemas_rollouts.RolloutHosts, responses=errors(400, 404))
async def rollout_hosts(
    core: Core,
    rollout_id: NamePath,
    state: Literal["under-way", "failed", "rolled-back", "refused", "applied", "silent"] | None = None,
    after: NameQuery = None,
    limit: Limit = None,
) -> JSONResponse:
    """Hosts by group and place, or those in one state; the next page is `after` the host `next`, and a page can be short before it."""
    params = {"rollout_id": rollout_id, "state": state, "after": after, "limit": limit}
    return JSONResponse(await core.call("rollouts.hosts", params))


@router.get("/v1/rollouts/{rollout_id}/course", response_model=schemas_rollouts.Course, responses=errors(400, 404))
async def rollout_course(
    core: Core, rollout_id: NamePath, points: Annotated[int | None, Query(ge=1, le=500)] = None
) -> JSONResponse:
    """How many hosts were in which state when, from the ledger's history of the patch."""
    return JSONResponse(await core.call("rollouts.course", rollout_id=rollout_id, points=points))


@router.get("/v1/groups", response_model=list[schemas_rollouts.HostGroup], responses=errors(400))
async def groups(core: Core, limit: Limit = None) -> JSONResponse:
    """Groups of hosts."""
    return JSONResponse(await core.call("groups.list", limit=limit))


@router.get("/v1/groups/{group_id}", response_model=schemas_rollouts.HostGroupMembers, responses=errors(400, 404))
async def group(
    core: Core,
    group_id: NamePath,
    from_: Annotated[int | None, Query(alias="from", ge=0, le=2**53 - 1)] = None,
    limit: Limit = None,
) -> JSONResponse:
    """One group, with its hosts in order of their places."""
    return JSONResponse(await core.call("groups.get", {"group_id": group_id, "from": from_, "limit": limit}))


@router.get("/v1/policy", response_model=schemas.PolicySetAsOf, responses=errors(400, 404))
async def policy(core: Core, version: HeightQuery = None, consistency: Consistency = None) -> JSONResponse:
    """The policy set in force, a former version, or one that waits."""
    return JSONResponse(await core.call("policy.get", version=version, consistency=consistency))


@router.get("/v1/policy/history", response_model=list[schemas.PolicyVersion], responses=errors())
async def policy_history(core: Core) -> JSONResponse:
    """Every policy set that was ever adopted, without its texts, the oldest first."""
    return JSONResponse(await core.call("policy.history"))


@router.get("/v1/policy/cases", response_model=schemas.PolicyCases, responses=errors())
async def policy_cases(core: Core) -> JSONResponse:
    """The network's own cases for policy sets."""
    return JSONResponse(await core.call("policy.cases"))


@router.get("/v1/policy/decisions", response_model=schemas.Decisions, responses=errors(400))
async def policy_decisions(  # noqa: PLR0917 - one parameter for each of the query
    core: Core,
    from_: Annotated[int | None, Query(alias="from", ge=0, le=2**53 - 1)] = None,
    after: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    to: HeightQuery = None,
    host: NameQuery = None,
    limit: Limit = None,
) -> JSONResponse:
    """Decisions that hosts recorded, the oldest first; the next page is `from` the last one's height `after` its id."""
    params = {"from": from_, "after": after, "to": to, "host": host, "limit": limit}
    return JSONResponse(await core.call("policy.decisions", params))


@router.get("/v1/policy/decisions/{deployment_id}", response_model=schemas.RecordedDecision, responses=errors(400, 404))
async def policy_decision(core: Core, deployment_id: HexPath) -> JSONResponse:
    """The decision of one deployment."""
    return JSONResponse(await core.call("policy.decision", deployment_id=deployment_id))


@router.get("/v1/governance", response_model=schemas.GovernanceStatus, responses=errors())
async def governance(core: Core) -> JSONResponse:
    """Who has a vote, who can cast it, how many decide, and what is open."""
    return JSONResponse(await core.call("governance.status"))


@router.get("/v1/governance/history", response_model=list[schemas.ProposalStory], responses=errors(400))
async def governance_history(
    core: Core,
    from_: Annotated[int | None, Query(alias="from", ge=0, le=2**53 - 1)] = None,
    after: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    limit: Limit = None,
) -> JSONResponse:
    """Proposals with who voted what, the oldest first; a page begins behind the proposal `after` that was created at height `from`."""
    return JSONResponse(await core.call("governance.history", {"from": from_, "after": after, "limit": limit}))


@router.get("/v1/governance/certificates", response_model=list[schemas.LedgerCertificate], responses=errors(400))
async def governance_certificates(
    core: Core, within_days: Annotated[int | None, Query(ge=0, le=100_000)] = None
) -> JSONResponse:
    """Certificates of organisations and of keys that count, the first to end first."""
    return JSONResponse(await core.call("governance.certificates", within_days=within_days))


@router.get("/v1/governance/proposals", response_model=list[schemas.Proposal], responses=errors(400))
async def proposals(core: Core, limit: Limit = None) -> JSONResponse:
    """Proposals of governance, the newest first."""
    return JSONResponse(await core.call("governance.list", limit=limit))


@router.get("/v1/governance/proposals/{proposal_id}", response_model=schemas.ProposalStory, responses=errors(400, 404))
async def proposal(core: Core, proposal_id: HexPath) -> JSONResponse:
    """One proposal with who voted what."""
    return JSONResponse(await core.call("governance.get", proposal_id=proposal_id))


@router.get(
    "/v1/events",
    response_class=StreamingResponse,
    responses={**errors(400), 200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(
    core: Core,
    from_height: HeightQuery = None,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,15}$")] = None,
) -> StreamingResponse:
    """Blocks as server-sent events from a height on, without gap or repeat; `Last-Event-ID` resumes after the given height."""
    start = int(last_event_id) + 1 if last_event_id is not None else from_height
    return StreamingResponse(
        with_keep_alive(_blocks_as_events(core, start)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _blocks_as_events(core: AsyncLocalClient, start: int | None) -> AsyncIterator[str]:
    params: dict[str, Json] = {} if start is None else {"from_height": start}
    async for block in core.stream("events.subscribe", **params):
        yield f"id: {block['height']}\nevent: block\ndata: {json.dumps(block, separators=(',', ':'))}\n\n"
