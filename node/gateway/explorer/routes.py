"""The explorer's addresses: each asks the core as the API does and answers with a page, refusals too."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from http import HTTPStatus
from importlib import resources
from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute

from node.gateway.access import Core
from node.gateway.explorer import pages_governance, pages_hosts, pages_ledger, pages_rollouts
from node.gateway.explorer.figures import BARS_MAX
from node.gateway.explorer.html import Element, href, render
from node.gateway.explorer.parts import pages
from node.gateway.explorer.plot import PLOT_POINTS_MAX
from node.gateway.limits import RETRY_AFTER_S
from node.gateway.problems import status_of
from node.gateway.routes_ledger import HeightQuery, HexPath, NamePath, NameQuery
from node.limits import PAGE_MAX
from wire.errors import PatchwardenError

ROWS: Final = 50
"""Rows on one page of a list."""
BLOCK_ROWS: Final = 200
"""Transactions on one page of a block."""
ASKED_MAX: Final = 256
"""Characters of a search."""
ASK_TIMEOUT_S: Final = 20.0
"""How long a page waits for one answer of the core, then it is 503: a person has gone by then."""
STYLE_AGE_S: Final = 3_600
POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The content security policy of every page: no scripts at all, and nothing from elsewhere."""
HEADERS: Final = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}

FromQuery = Annotated[int, Query(alias="from", ge=0, le=PAGE_MAX - ROWS)]
HeightFrom = Annotated[int | None, Query(alias="from", ge=0, le=2**53 - 1)]
DigestQuery = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")]


AskType: TypeAlias = Callable[..., Awaitable[Any]]
"""`AsyncLocalClient.call` with a person's patience."""


async def get_ask(core: Core) -> AskType:
    """Return the way to ask the core."""
    return partial(core.call, timeout_s=ASK_TIMEOUT_S)


Ask = Annotated[AskType, Depends(get_ask)]


def answer(page: Element, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> HTMLResponse:
    """Return a page as a response."""
    return HTMLResponse(render(page), status_code=status, headers={**HEADERS, **(headers or {})})


def refusal(status: int, code: str, message: str, hint: str = "", asked: str = "") -> HTMLResponse:
    """Return the page that says why there is none."""
    title = HTTPStatus(status).phrase
    page = pages_ledger.error_page(status, title, code, message, hint, asked=asked)
    return answer(
        page, status, {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    )


class PageRoute(APIRoute):
    """A route that answers refusals with a page, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that lets no refusal of ours out."""
        handler = super().get_route_handler()

        async def with_page(request: Request) -> Response:
            try:
                return await handler(request)
            except PatchwardenError as error:
                return refusal(status_of(error), error.code, error.message, error.hint)
            except RequestValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first.get("loc", ()))
                message = f"{where}: {first.get('msg', 'not valid')!s}"[:400]
                return refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "node.http.invalid_request", message)

        return with_page


router = APIRouter(prefix="/explorer", route_class=PageRoute, include_in_schema=False)


@router.get("")
async def root() -> Response:
    """The way to the overview."""
    return RedirectResponse(href(""), HTTPStatus.PERMANENT_REDIRECT, HEADERS)


@router.get("/style.css")
async def style(request: Request) -> Response:
    """The style sheet."""
    return _asset(request, "style.css", "text/css; charset=utf-8")


@router.get("/icon.svg")
async def icon(request: Request) -> Response:
    """The icon."""
    return _asset(request, "icon.svg", "image/svg+xml")


@router.get("/")
async def overview(ask: Ask) -> Response:
    """The network and this node."""
    status = await ask("status")
    members = await ask("validators")
    blocks = await ask("blocks.list", limit=BARS_MAX)
    rollouts = await ask("rollouts.list", limit=ROWS)
    running = sum(pages_rollouts.state_of(each) == "running" for each in rollouts)
    counts = (
        ("Transactions", status["log_size"]),
        ("Waiting transactions", status["mempool"]),
        ("Peers connected", status["peers_connected"]),
        ("Rollouts running", f"{running} of the newest {len(rollouts)}" if rollouts else "none"),
    )
    return answer(pages_ledger.overview_page(status, members, blocks, counts))


@router.get("/rollouts")
async def rollouts(ask: Ask, from_: FromQuery = 0) -> Response:
    """Rollouts, the newest first."""
    found = await ask("rollouts.list", limit=min(PAGE_MAX, from_ + ROWS + 1))
    ways = pages_ledger.further(from_, ROWS, _has_more(found, from_), "rollouts")
    return answer(pages_rollouts.rollouts_page(found[from_ : from_ + ROWS], ways))


@router.get("/rollouts/{rollout_id}")
async def rollout(
    ask: Ask,
    rollout_id: NamePath,
    state: Annotated[str | None, Query(pattern="^(" + "|".join(pages_rollouts.FILTERS) + ")$")] = None,
    after: NameQuery = None,
) -> Response:
    """One rollout with its course and some of its hosts."""
    document = await ask("rollouts.get", rollout_id=rollout_id)
    course = await ask("rollouts.course", rollout_id=rollout_id, points=PLOT_POINTS_MAX)
    hosts = await ask("rollouts.hosts", rollout_id=rollout_id, state=state, after=after, limit=ROWS)
    return answer(pages_rollouts.rollout_page(document, course, hosts, state=state, is_first=after is None))


@router.get("/hosts")
async def hosts(ask: Ask, after: NameQuery = None) -> Response:
    """Hosts in order of id."""
    found = await ask("hosts.list", after=after, limit=ROWS + 1)
    return answer(pages_hosts.hosts_page(found[:ROWS], _by_name(found, "host", after, "hosts")))


@router.get("/hosts/{host}")
async def host(ask: Ask, host: NamePath, before: DigestQuery = None) -> Response:
    """One host with some of its records."""
    document = await ask("hosts.get", host=host)
    records = await ask("hosts.records", host=host, before=before, limit=ROWS)
    return answer(pages_hosts.host_page(document, records, is_first=before is None))


@router.get("/groups/{group_id}")
async def group(ask: Ask, group_id: NamePath, from_: HeightFrom = None) -> Response:
    """One group of hosts."""
    start = from_ or 0
    document = await ask("groups.get", {"group_id": group_id, "from": start, "limit": ROWS})
    ways = pages_ledger.further(start, ROWS, document["next"] is not None, "groups", group_id)
    return answer(pages_ledger.group_page(document, start, ways))


@router.get("/blocks")
async def blocks(ask: Ask, from_: HeightFrom = None) -> Response:
    """Blocks, the newest first."""
    found = await ask("blocks.list", {"from": from_, "limit": ROWS})
    lowest = found[-1]["height"] if found else 0
    ways = pages(
        ("Newest", None if from_ is None else href("blocks")),
        ("Older", href("blocks", from_=lowest - 1) if lowest > 0 else None),
        what="blocks",
    )
    return answer(pages_ledger.blocks_page(found, ways))


@router.get("/blocks/{height}")
async def block(ask: Ask, height: Annotated[int, Path(ge=0, le=2**53 - 1)], from_: HeightFrom = None) -> Response:
    """One block with some of its transactions."""
    document = await ask("blocks.get", height=height)
    top = (await ask("status"))["height"]
    start = from_ or 0
    shown = document["transactions"][start : start + BLOCK_ROWS]
    has_more = start + BLOCK_ROWS < len(document["transactions"])
    ways = pages_ledger.further(start, BLOCK_ROWS, has_more, "blocks", height)
    return answer(pages_ledger.block_page(document, shown, start, ways, top=top))


@router.get("/transactions/{tx_id}")
async def transaction(ask: Ask, tx_id: HexPath) -> Response:
    """One transaction."""
    return answer(pages_ledger.transaction_page(await ask("tx.get", tx_id=tx_id)))


@router.get("/identities")
async def identities(ask: Ask, after: NameQuery = None) -> Response:
    """Identities in order of id."""
    found = await ask("identities.list", after=after, limit=ROWS + 1)
    return answer(pages_ledger.identities_page(found[:ROWS], _by_name(found, "identity", after, "identities")))


@router.get("/identities/{identity}")
async def identity(
    ask: Ask, identity: NamePath, from_: HeightFrom = None, index: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0
) -> Response:
    """One identity with some of its history."""
    document = await ask("identities.get", identity=identity, consistency="local")
    history, ways = await _history(ask, "identity", identity, (from_, index), ("identities", identity))
    return answer(pages_ledger.identity_page(document, history, ways))


@router.get("/patches")
async def patches(ask: Ask, from_: FromQuery = 0) -> Response:
    """Patches, the newest first."""
    found = await ask("patches.list", limit=min(PAGE_MAX, from_ + ROWS + 1))
    ways = pages_ledger.further(from_, ROWS, _has_more(found, from_), "patches")
    return answer(pages_ledger.patches_page(found[from_ : from_ + ROWS], ways))


@router.get("/patches/{patch_id}")
async def patch(
    ask: Ask, patch_id: HexPath, from_: HeightFrom = None, index: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0
) -> Response:
    """One patch with some of its story."""
    document = await ask("patches.get", patch_id=patch_id)
    judged = await ask("patches.attestations", patch_id=patch_id)
    history, ways = await _history(ask, "patch", patch_id, (from_, index), ("patches", patch_id))
    return answer(pages_ledger.patch_page(document, judged, history, ways))


@router.get("/governance")
async def governance(ask: Ask, from_: FromQuery = 0) -> Response:
    """Organisations, and proposals."""
    organisations = await ask("organisations.list")
    found = await ask("governance.list", limit=min(PAGE_MAX, from_ + ROWS + 1))
    ways = pages_ledger.further(from_, ROWS, _has_more(found, from_), "governance")
    return answer(pages_governance.governance_page(organisations, found[from_ : from_ + ROWS], ways))


@router.get("/governance/{proposal_id}")
async def proposal(ask: Ask, proposal_id: HexPath) -> Response:
    """One proposal with its story."""
    return answer(pages_governance.proposal_page(await ask("governance.get", proposal_id=proposal_id)))


@router.get("/organisations/{name}")
async def organisation(ask: Ask, name: NamePath, after: NameQuery = None) -> Response:
    """One organisation with some of its identities."""
    document = await _organisation(ask, name)
    if document is None:
        return refusal(HTTPStatus.NOT_FOUND, "node.organisation.not_found", f"there is no organisation {name}")
    found = await ask("identities.list", organisation=name, after=after, limit=ROWS + 1)
    ways = _by_name(found, "identity", after, "organisations", name)
    return answer(pages_governance.organisation_page(document, found[:ROWS], ways))


@router.get("/policy")
async def policy(ask: Ask, version: HeightQuery = None) -> Response:
    """One policy set, the one in force unless it is said."""
    document = await ask("policy.get", version=version, consistency="local")
    return answer(pages_governance.policy_page(document, await ask("policy.history")))


@router.get("/search")
async def search(ask: Ask, q: Annotated[str, Query(max_length=ASKED_MAX)] = "") -> Response:
    """The one thing that has this id, or a choice."""
    asked = q.strip()
    found = [] if not asked else await _find(ask, asked)
    if asked and not found:
        message = f"nothing on this node has the id {asked}"
        hint = "Ids are looked up whole: 64 hexadecimal digits, a name such as web1@acme, or a height."
        return refusal(HTTPStatus.NOT_FOUND, "node.search.not_found", message, hint, asked)
    if len(found) == 1:
        return RedirectResponse(found[0][1], HTTPStatus.SEE_OTHER, HEADERS)
    return answer(pages_ledger.search_page(asked, found))


@router.get("/{path:path}")
async def nowhere(path: str) -> Response:
    """What is none of the explorer's addresses."""
    return refusal(HTTPStatus.NOT_FOUND, "node.http.no_such_path", f"the explorer has no page {path[:ASKED_MAX]}")


async def _find(ask: AskType, asked: str) -> list[tuple[str, str]]:
    """Return label and address of everything that has the id; at most one question for each kind of thing."""
    if asked.isascii() and asked.isdecimal() and len(asked) <= 15:
        kinds: list[tuple[str, str, dict[str, Any], str]] = [
            ("Block", "blocks.get", {"height": int(asked)}, href("blocks", int(asked)))
        ]
    elif len(asked) == 64 and all(digit in "0123456789abcdef" for digit in asked.lower()):
        digest = asked.lower()
        kinds = [
            ("Transaction", "tx.get", {"tx_id": digest}, href("transactions", digest)),
            ("Patch", "patches.get", {"patch_id": digest}, href("patches", digest)),
            ("Proposal", "governance.get", {"proposal_id": digest}, href("governance", digest)),
            ("Block", "blocks.get", {"hash": digest}, ""),
        ]
    else:
        kinds = [
            ("Host", "hosts.get", {"host": asked}, href("hosts", asked)),
            ("Identity", "identities.get", {"identity": asked, "consistency": "local"}, href("identities", asked)),
            ("Rollout", "rollouts.get", {"rollout_id": asked}, href("rollouts", asked)),
            ("Group of hosts", "groups.get", {"group_id": asked, "limit": 1}, href("groups", asked)),
        ]
    found = []
    if "@" not in asked and await _organisation(ask, asked) is not None:
        found.append((f"Organisation {asked}", href("organisations", asked)))
    for label, method, params, address in kinds:
        document = await _find_one(ask, method, params)
        if document is not None:
            found.append((f"{label} {asked}", address or href("blocks", document["height"])))
    return found


async def _organisation(ask: AskType, name: str) -> Any:
    """Return an organisation, or None."""
    return next((each for each in await ask("organisations.list") if each["name"] == name), None)


def _has_more(found: list[Any], start: int) -> bool:
    """Return whether there is a page behind the one at `start`, of a list that the core gives whole up to `PAGE_MAX`."""
    return len(found) > start + ROWS and start + ROWS <= PAGE_MAX - ROWS


async def _find_one(ask: AskType, method: str, params: dict[str, Any]) -> Any:
    """Return what the core has, or None where it has no such thing."""
    try:
        return await ask(method, params)
    except PatchwardenError as error:
        if status_of(error) in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST):
            return None
        raise


async def _history(
    ask: AskType, subject: str, name: str, start: tuple[int | None, int], path: tuple[str, str]
) -> tuple[list[Any], Any]:
    """Return some of the transactions about a thing, and the ways to the others."""
    height, index = start
    where = {"subject": subject, "id": name, "from": height, "from_index": index if height is not None else None}
    found = await ask("history", {**where, "limit": ROWS + 1})
    following = href(*path, from_=found[ROWS]["height"], index=found[ROWS]["index"]) if len(found) > ROWS else None
    ways = pages(
        ("From the beginning", None if height is None else href(*path)), ("Later ones", following), what="history"
    )
    return found[:ROWS], ways


def _by_name(found: list[Any], member: str, after: str | None, *path: str) -> Any:
    following = href(*path, after=found[ROWS - 1][member]) if len(found) > ROWS else None
    return pages(("From the beginning", None if after is None else href(*path)), ("Next", following), what=path[0])


def _asset(request: Request, name: str, media_type: str) -> Response:
    data, tag = _ASSETS[name]
    headers = {**HEADERS, "Cache-Control": f"max-age={STYLE_AGE_S}", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


def _load(name: str) -> tuple[bytes, str]:
    data = resources.files(__package__).joinpath(name).read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


_ASSETS: Final = {name: _load(name) for name in ("style.css", "icon.svg")}
