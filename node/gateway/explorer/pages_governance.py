"""Pages about who decides and by which rules: organisations, proposals with their story, policy sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from node.gateway.explorer.html import Element, Node, el, href
from node.gateway.explorer.pages_ledger import BODY_CHARACTERS_MAX
from node.gateway.explorer.parts import (
    badge,
    block_link,
    code,
    digest_link,
    facts,
    identity_link,
    link,
    page,
    section,
    table,
    text,
    when,
)

Document = dict[str, Any]


def governance_page(organisations: Sequence[Document], proposals: Sequence[Document], ways: Node) -> Element:
    """Return the organisations, and proposals, the newest first."""
    members = [
        (
            link(text(each["name"]), "organisations", each["name"]),
            text(each["display_name"]),
            badge(each["status"]),
            _people(each["administrators"]),
            block_link(each["admitted_height"]),
        )
        for each in organisations
    ]
    rows = [
        (
            digest_link(each["proposal_id"], "governance"),
            code(_action(each)),
            badge(each["status"]),
            identity_link(each["proposer"]),
            sum(vote["approve"] for vote in each["votes"]),
            sum(not vote["approve"] for vote in each["votes"]),
            block_link(each["created_height"]),
        )
        for each in proposals
    ]
    titles = ("proposal", "what", "status", "proposer", "for", "against", "made in block")
    columns = ("organisation", "name", "status", "administrators", "admitted in block")
    return page(
        "Governance",
        "governance",
        section("Organisations", table("Organisations, removed ones included", columns, members, numbers=(4,))),
        section(
            "Proposals",
            table("Proposals, the newest first", titles, rows, numbers=(4, 5, 6), empty="Nothing was proposed yet."),
            ways,
        ),
    )


def proposal_page(proposal: Document) -> Element:
    """Return one proposal with its story."""
    tally, ended = proposal["tally"], proposal["ended"]
    counted = None
    if tally is not None:
        counted = f"{tally['for']} for and {tally['against']} against of {tally['votes']}; {tally['needed']} are needed"
    steps = [
        (
            each["what"],
            when(each["time_ms"]),
            block_link(each["height"]),
            identity_link(each["identity"]),
            text(each["organisation"]),
            _standing(each),
            digest_link(each["tx_id"], "transactions"),
        )
        for each in proposal["steps"]
    ]
    whole = json.dumps(proposal["action"], indent=2, ensure_ascii=False)
    cut = len(whole) - BODY_CHARACTERS_MAX
    return page(
        f"Proposal {proposal['proposal_id'][:12]}…",
        "governance",
        el("p", text(proposal["description"])) if proposal["description"] else None,
        facts(
            ("Id", code(proposal["proposal_id"])),
            ("What", code(_action(proposal))),
            ("Status", badge(proposal["status"])),
            ("Proposer", [identity_link(proposal["proposer"]), " of ", text(proposal["organisation"])]),
            ("Made in block", block_link(proposal["created_height"])),
            ("Can be voted on until block", proposal["expires_height"]),
            ("Votes", counted),
            (
                "Ended",
                None if ended is None else ["in block ", block_link(ended["height"]), ", ", when(ended["time_ms"])],
            ),
        ),
        section(
            "Story",
            table(
                "Its transactions in order",
                ("what", "time", "block", "who", "organisation", "as it stands", "transaction"),
                steps,
                numbers=(2,),
                empty="This node keeps none of them.",
            ),
            None if proposal["complete"] else el("p", "This node keeps no history of its beginning.", class_="notice"),
        ),
        section(
            "Action",
            el("pre", el("bdi", whole[:BODY_CHARACTERS_MAX]), tabindex=0),
            el("p", f"{cut} more characters are not shown.", class_="notice") if cut > 0 else None,
        ),
    )


def organisation_page(organisation: Document, identities: Sequence[Document], ways: Node) -> Element:
    """Return one organisation with some of its identities."""
    rows = [
        (identity_link(each["identity"]), badge(each["status"]), ", ".join(each["roles"]) or "none")
        for each in identities
    ]
    return page(
        organisation["name"],
        "governance",
        facts(
            ("Name", text(organisation["display_name"])),
            ("Status", badge(organisation["status"])),
            ("Administrators", _people(organisation["administrators"])),
            ("Admitted in block", block_link(organisation["admitted_height"])),
            ("Certificates of authorities", len(organisation["ca_certificates"])),
        ),
        section("Identities", table("Its identities in order of id", ("identity", "status", "roles"), rows), ways),
    )


def policy_page(policy: Document, versions: Sequence[Document]) -> Element:
    """Return one policy set with its texts, and all that were adopted."""
    current = policy["version"]
    rows = [
        (
            el(
                "a",
                f"version {each['version']}",
                href=href("policy", version=each["version"]),
                aria_current="true" if each["version"] == current else None,
            ),
            badge(each["status"]),
            each["policies"],
            block_link(each["adopted_height"]),
            code(each["policy_hash"][:16] + "…"),
        )
        for each in reversed(versions)
    ]
    return page(
        f"Policy, version {current}",
        "policy",
        facts(
            ("Hash", code(policy["policy_hash"])),
            ("In force from block", block_link(policy["adopted_height"])),
            ("Policies", len(policy["policies"])),
        ),
        section(
            "Versions",
            table(
                "Policy sets, the newest first",
                ("version", "status", "policies", "from block", "hash"),
                rows,
                numbers=(2, 3),
            ),
        ),
        section(
            "Texts",
            [
                [el("h3", text(each["name"])), el("pre", el("bdi", each["text"]), tabindex=0)]
                for each in policy["policies"]
            ],
        ),
    )


def _action(proposal: Document) -> str:
    """Return the name of what a proposal does, which stands first in its action."""
    action = proposal["action"]
    return str(action[0]) if isinstance(action, list) and action else "?"


def _standing(step: Document) -> str:
    if not step["key_counted"]:
        return "its key does not count"
    return "counts" if step["in_force"] else "replaced by a later one"


def _people(names: Sequence[str]) -> Node:
    return [[identity_link(each), " "] for each in names]
