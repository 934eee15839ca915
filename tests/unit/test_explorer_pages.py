"""The explorer over real services and a ledger in memory: every page and link, hostile texts, refusals, colours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from ledger import bodies
from ledger.keyspace import HISTORY_KEY, Table, height_key
from ledger.rollout_actions import DecideRollout
from ledger.rollout_bodies import RolloutCreate, RolloutDecide
from node.gateway.app import build_app
from node.gateway.explorer import routes
from tests.testkit.core import MemoryCore
from tests.testkit.ledger import key_of
from tests.testkit.pages import POLICY, Answer, Page, check_answer, crawl
from tests.testkit.rollouts import FAILED, MANAGER, SPRING, WEB, Fleet, wave
from wire import canonical_json
from wire.errors import CorruptionError, UnavailableError

MARKUP = "<script>alert(1)</script> \"'&<b></p> {{7*7}}"
"""The ledger takes it, but no characters that turn the direction: those a host can only put into its own JSON."""
EVIL = "<script>alert(1)</script> \"'&<b>\u202egnp.exe\u202c</p> {{7*7}}"
SHOWN = "<script>alert(1)</script> \"'&<b>[U+202E]gnp.exe[U+202C]</p> {{7*7}}"
HOSTS = 53


def drift(paths: Any, **more: Any) -> bytes:
    return canonical_json.encode({"version": 1, "tree_digest": "22" * 32, "paths_count": 7, "paths": paths, **more})


def make_fleet() -> Fleet:
    """Return 53 hosts in a rollout with everything that can happen to them, told with texts that would like to be markup."""
    fleet = Fleet(HOSTS)
    chain = fleet.chain
    chain.submit(
        bodies.IdentityRegister("mallory@acme", MARKUP, ("developer",), key_of("mallory@acme").public_key.spki),
        "ada@acme",
    )
    waves = (wave("canary", hosts=3, success=3_000, soak_ms=2_000), wave("all"))
    fleet.say(RolloutCreate(SPRING, fleet.patch_id, (WEB,), waves, 0, MARKUP), MANAGER)
    first, second, third = fleet.of_wave(0)
    fleet.apply(first)
    for _ in range(27):
        fleet.apply(first, FAILED)  # Two pages of records. It has the patch already, so none of these is a failure.
    fleet.end(second, None, "ERROR_POLICY_DENIED")
    opened = fleet.intend(third)
    counter, previous = fleet._head(third)
    detail = canonical_json.encode({"reason": "agent.hook.failed", "message": EVIL, "decision": {"verdict": "allow"}})
    outcome = bodies.DeploymentOutcome(
        counter, previous, "site", fleet.patch_id, opened, FAILED, b"\x01" * 32, b"\x01" * 32, detail
    )
    fleet.say(outcome, third)
    fleet.say(RolloutDecide(SPRING, "resume", MARKUP), MANAGER)
    fleet.say(bodies.HostReport("drift", "site", drift(["etc/a.conf", EVIL, "/explorer/nothing"])), first)
    fleet.say(
        bodies.HostReport("drift", "blog", drift("no list", problem=EVIL, problem_code="agent.target.missing")), first
    )
    fleet.say(bodies.HostReport("drift", "shop", b"{"), first)
    fleet.say(bodies.HostReport("drift", "mail", drift([7, {"etc/b.conf": 1}, ["etc/c.conf"], "etc/d.conf"])), first)
    fleet.say(bodies.HostReport("repair", "wiki", drift([])), first)
    for decision in ("halt", "resume"):
        chain.adopt(DecideRollout(SPRING, decision, MARKUP))
    return fleet


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return make_fleet()


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> Iterator[Site]:
    found = Site(MemoryCore(fleet.chain))
    yield found
    found.close()


class Site:
    """The gateway's application, asked one address after the other."""

    def __init__(self, core: MemoryCore) -> None:
        self.core = core
        self.app: FastAPI = build_app(core, token_path=Path("unused"), patches_path=Path("unused"))  # type: ignore[arg-type]
        self._loop = asyncio.new_event_loop()

    def get(self, address: str, **headers: str) -> Answer:
        return self._loop.run_until_complete(self._get(address, headers))

    async def _get(self, address: str, headers: dict[str, str]) -> Answer:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            response = await client.get(address, headers=headers)
        return Answer(response.status_code, dict(response.headers), response.text)

    def page(self, address: str, status: int = 200) -> Page:
        answer = self.get(address)
        assert answer.status == status, address
        return check_answer(address, answer)

    def close(self) -> None:
        self._loop.close()


def test_every_page_is_sound_and_every_link_resolves(site: Site, fleet: Fleet) -> None:
    found = crawl(site.get, pages_max=900)
    assert len(found) < 900, "the walk has come to its end"
    assert site.core.timeouts_s == {routes.ASK_TIMEOUT_S}
    first = fleet.of_wave(0)[0]
    wanted = [
        "",
        "rollouts",
        f"rollouts/{SPRING}",
        "hosts",
        f"hosts/{first}",
        "patches",
        f"patches/{fleet.patch_id.hex()}",
    ]
    wanted += ["identities", f"identities/{MANAGER}", "blocks", "blocks/1", f"rollouts/{SPRING}?state=rolled-back"]
    for path in wanted:
        assert f"/explorer/{path}" in found, path
    kinds = {re.sub(r"[?].*", "", address.removeprefix("/explorer/")).partition("/")[0] for address in found}
    assert kinds == {
        "",
        "rollouts",
        "hosts",
        "patches",
        "identities",
        "blocks",
        "transactions",
        "groups",
        "search",
        "governance",
        "organisations",
        "policy",
    }
    assert any("after=" in address for address in found)


def test_texts_from_the_ledger_stay_texts(site: Site, fleet: Fleet) -> None:
    first, _, third = fleet.of_wave(0)
    for address, words in (
        (f"rollouts/{SPRING}", MARKUP),
        ("identities/mallory@acme", MARKUP),
        (f"hosts/{first}", SHOWN),
        (f"hosts/{third}", SHOWN),
    ):
        answer = site.get(f"/explorer/{address}")
        assert "<script" not in answer.body
        assert "\u202e" not in answer.body
        assert words in "".join(check_answer(address, answer).text), address
    found = site.get(f"/explorer/search?q={quote(EVIL)}")
    assert (found.status, "<script" in found.body) == (404, False)
    assert "node.search.not_found" in check_answer("search", found).words


def test_a_drift_is_shown_with_its_paths(site: Site, fleet: Fleet) -> None:
    page = site.page(f"/explorer/hosts/{fleet.of_wave(0)[0]}")
    for words in (
        "etc/a.conf",
        "4 more paths differ",
        "agent.target.missing",
        "not readable",
        "drifted 4",
        "repair",
        "etc/d.conf",
    ):
        assert words in page.words, words
    assert page.words.count("Paths that differ") == 2, "what is no list of texts is none of paths"
    assert "etc/b.conf" not in page.words
    assert "etc/c.conf" not in page.words


def test_a_rollout_shows_its_plots_waves_decisions_and_hosts(site: Site) -> None:
    answer = site.get(f"/explorer/rollouts/{SPRING}")
    page = check_answer("rollout", answer)
    for words in (
        "Hosts by state over time",
        "Failures against the budget",
        "halted",
        "budget",
        "canary",
        f"A stack of {HOSTS} hosts",
    ):
        assert words in page.words, words
    assert answer.body.count('role="img"') == 2
    assert answer.body.count('class="mark wave"') == 4, "two waves in two plots"
    failed = site.page(f"/explorer/rollouts/{SPRING}?state=failed")
    assert "Hosts of the rollout: failed" in failed.words


def test_lists_are_paged(site: Site, fleet: Fleet) -> None:
    for address, following in (
        ("hosts", "Next"),
        (f"rollouts/{SPRING}", "Next hosts"),
        (f"hosts/{fleet.of_wave(0)[0]}", "Older records"),
    ):
        page = site.page(f"/explorer/{address}")
        assert following in page.words, address
        (link,) = {each for each in page.links if re.search("[?&](after|before)=", each)}
        second = site.page(link)
        assert following not in second.words
        names = [
            set(re.findall(r"/explorer/(?:hosts|transactions)/([^\"?#]+)", each.source)) for each in (page, second)
        ]
        assert names[1] - names[0], "the second page shows what the first did not"
    blocks = site.page("/explorer/blocks")
    assert any("from=" in link for link in blocks.links)


@pytest.mark.parametrize(
    ("address", "status", "code"),
    [
        ("hosts/nobody@acme", 404, "node.host.not_found"),
        ("rollouts/other@acme", 404, "node.rollout.not_found"),
        ("groups/other@acme", 404, "node.group.not_found"),
        ("organisations/nobody", 404, "node.organisation.not_found"),
        ("governance/" + "00" * 32, 404, "node.proposal.not_found"),
        ("policy?version=99", 404, "node.policy.not_found"),
        ("identities/nobody@acme", 404, "node.identity.not_found"),
        ("patches/" + "00" * 32, 404, "node.patch.not_found"),
        ("transactions/" + "00" * 32, 404, "node.transaction.not_found"),
        ("blocks/999999", 404, "node.block.not_found"),
        ("blocks/12x", 422, "node.http.invalid_request"),
        ("patches/xyz", 422, "node.http.invalid_request"),
        (f"rollouts/{SPRING}?state=nice", 422, "node.http.invalid_request"),
        (f"rollouts/{SPRING}?after=alice@acme", 400, "node.param.after"),
        ("rollouts?from=99999", 422, "node.http.invalid_request"),
        ("nothing/here", 404, "node.http.no_such_path"),
        ("search?q=nothing", 404, "node.search.not_found"),
        ("search?q=" + "x" * 257, 422, "node.http.invalid_request"),
    ],
)
def test_what_is_not_there_has_a_page_with_its_code(site: Site, address: str, status: int, code: str) -> None:
    assert code in site.page(f"/explorer/{address}", status).words


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnavailableError("node.local.unreachable", "the core is away"), 503),
        (CorruptionError("node.storage.checksum", "bad"), 500),
    ],
)
def test_a_core_that_is_away_has_a_page_too(site: Site, error: Exception, status: int) -> None:
    site.core.broken = error
    try:
        for address in ("", "rollouts", f"rollouts/{SPRING}", "hosts", "search?q=h1@acme"):
            answer = site.get(f"/explorer/{address}")
            assert answer.status == status, address
            assert ("retry-after" in answer.headers) == (status == 503)
            assert str(error.args[0]) in check_answer(address, answer).words or "node." in answer.body
    finally:
        site.core.broken = None


def test_a_search_leads_to_what_has_the_id(site: Site, fleet: Fleet) -> None:
    view = fleet.chain.view
    publication = view.patch(fleet.patch_id)
    assert publication is not None
    for asked, address in (
        ("3", "blocks/3"),
        (f"  {SPRING} ", f"rollouts/{SPRING}"),
        (WEB, f"groups/{WEB}"),
        (MANAGER, f"identities/{MANAGER}"),
        (fleet.patch_id.hex().upper(), f"patches/{fleet.patch_id.hex()}"),
        (publication.tx_id.hex(), f"transactions/{publication.tx_id.hex()}"),
        (view.header.hash().hex(), f"blocks/{view.height}"),
    ):
        answer = site.get(f"/explorer/search?q={quote(asked)}")
        assert (answer.status, answer.headers["location"]) == (303, f"/explorer/{address}")
        assert answer.headers["content-security-policy"] == POLICY
    choice = site.page("/explorer/search?q=h1@acme")
    assert {"/explorer/hosts/h1@acme", "/explorer/identities/h1@acme"} <= set(choice.links)
    assert "height" in site.page("/explorer/search").words


def test_governance_and_policy_have_their_pages(site: Site, fleet: Fleet) -> None:
    page = site.page("/explorer/governance")
    assert page.words.count("decide-rollout") == 2
    proposals = [link for link in page.links if re.fullmatch("/explorer/governance/[0-9a-f]{64}", link)]
    proposal = site.page(proposals[0])
    for words in ("executed", "proposed", "for", "counts", "alert(1)"):
        assert words in proposal.words, words
    asked = proposals[0].rpartition("/")[2]
    assert set(proposals[:1]) < set(site.page(f"/explorer/search?q={asked}").links), "it is a transaction, too"
    answer = site.get("/explorer/search?q=acme")
    assert answer.headers["location"] == "/explorer/organisations/acme"
    organisation = site.page("/explorer/organisations/acme")
    for words in ("ada@acme", "Next", "Certificates of authorities"):
        assert words in organisation.words, words
    policy = site.page("/explorer/policy")
    assert "in force" in policy.words
    versions = fleet.chain.view.policy()
    assert all(text.split()[0] in policy.source for _, text in versions.policies)


def test_where_the_history_was_pruned_a_rollout_says_so() -> None:
    fleet = Fleet(2)
    fleet.create()
    fleet.chain.store.apply({(Table.META, HISTORY_KEY): height_key(fleet.chain.height + 1)})
    site = Site(MemoryCore(fleet.chain))
    try:
        page = site.page(f"/explorer/rollouts/{SPRING}")
    finally:
        site.close()
    assert "keeps no history from the beginning" in page.words
    assert "<figure" not in page.source


def test_empty_lists_say_so() -> None:
    fleet = Fleet(0)
    site = Site(MemoryCore(fleet.chain))
    try:
        for address, words in (("rollouts", "No rollout was ever begun"), ("hosts", "No host is registered")):
            assert words in site.page(f"/explorer/{address}").words
    finally:
        site.close()


def test_what_pages_need_comes_from_here_and_is_kept(site: Site) -> None:
    for name, media in (("style.css", "text/css; charset=utf-8"), ("icon.svg", "image/svg+xml")):
        answer = site.get(f"/explorer/{name}")
        assert (answer.status, answer.headers["content-type"]) == (200, media)
        assert answer.headers["content-security-policy"] == POLICY
        assert "url(" not in answer.body
        assert "@import" not in answer.body
        again = site.get(f"/explorer/{name}", **{"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, "")
    assert site.get("/explorer").headers["location"] == "/explorer/"


def test_the_api_keeps_its_own_headers(site: Site) -> None:
    answer = site.get("/v1/status")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert "form-action 'none'" in answer.headers["content-security-policy"]
    document = site.get("/openapi.json").body
    assert "/explorer" not in document


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_have_a_contrast_of_4_5_and_marks_of_a_plot_can_be_told_from_the_ground(scheme: int) -> None:
    css = routes._ASSETS["style.css"][0].decode()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[scheme]))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for text in ("text", "quiet", "link"):
        for ground in ("ground", "raised"):
            assert contrast(text, ground) >= 4.5, (text, ground)
    for ground in ("notice", "line"):
        assert contrast("text", ground) >= 4.5, ground
    for mark in ("accent", "failed", "applied", "refused"):
        assert contrast(mark, "ground") >= 3, mark
