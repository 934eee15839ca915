"""Pages about the ledger itself: the overview, blocks, transactions, identities, patches; and what a search found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from node.gateway.explorer.figures import transactions_by_block
from node.gateway.explorer.html import Element, Node, el, href
from node.gateway.explorer.parts import (
    badge,
    block_link,
    code,
    digest_link,
    facts,
    identity_link,
    link,
    number,
    page,
    pages,
    section,
    table,
    text,
    when,
)

Document = dict[str, Any]

BODY_CHARACTERS_MAX: Final = 20_000
"""Of a transaction's body; the API has it whole."""
BLOCKS_SHOWN: Final = 10
"""Blocks on the overview."""


def overview_page(
    status: Document, members: Sequence[Document], blocks: Sequence[Document], counts: Sequence[tuple[str, Node]]
) -> Element:
    """Return the overview.

    Args:
        status: The node's status.
        members: Validators and learners.
        blocks: The newest first.
        counts: What there is, by name.
    """
    height = status["height"]
    rows = [
        (
            text(each["name"]),
            text(each["organisation"]),
            badge(each["membership"]),
            "leader" if each["name"] == status["leader"] else "",
            # The leader says nothing of itself: it is where it is.
            0 if each["name"] == status["leader"] == status["name"] else _lag(each["match_height"], height),
        )
        for each in members
    ]
    told = "Only the leader knows how far the others are; ask its explorer."
    return page(
        f"Network {status['chain_id']}",
        "",
        facts(
            ("Height", block_link(height)),
            ("Leader", text(status["leader"]) if status["leader"] else badge("no leader")),
            ("Term", status["term"]),
            ("This node", [text(status["name"]), ", ", status["role"]]),
            ("Replica age", _age(status["replica_age_ms"])),
            ("Version", status["version"]),
            *counts,
        ),
        section(
            "Validators",
            table(
                "Nodes of the configuration",
                ("name", "organisation", "membership", "leads", "lag in blocks"),
                rows,
                numbers=(4,),
            ),
            el("p", told) if all(each["match_height"] is None for each in members) else None,
        ),
        section("Activity", transactions_by_block(blocks)),
        section("Newest blocks", _block_table(blocks[:BLOCKS_SHOWN]), el("p", link("All blocks", "blocks"))),
    )


def blocks_page(found: Sequence[Document], ways: Node) -> Element:
    """Return blocks, the newest first."""
    return page("Blocks", "blocks", _block_table(found), ways)


def block_page(block: Document, tx_ids: Sequence[str], start: int, ways: Node, *, top: int) -> Element:
    """Return one block with some of its transactions, from place `start` on; `top` is the height of the newest block."""
    height = block["height"]
    certificate = block["certificate"]
    signed = (
        "none of its own: a later block’s proves it"
        if certificate is None
        else f"signed by {len(certificate['signatures'])} validators in term {certificate['term']}"
    )
    rows = [(start + place, digest_link(each, "transactions")) for place, each in enumerate(tx_ids)]
    return page(
        f"Block {height}",
        "blocks",
        facts(
            ("Hash", code(block["block_hash"])),
            ("Time", when(block["time_ms"])),
            ("Term", block["term"]),
            ("Proposer’s key", code(block["proposer"])),
            ("Previous block", [block_link(height - 1), " ", code(block["previous_hash"])] if height else None),
            ("Next block", block_link(height + 1) if height < top else "not there yet"),
            ("Size", f"{number(block['size_bytes'])} bytes, {len(block['transactions'])} transactions"),
            ("Certificate", signed),
            ("State root", code(block["state_root"])),
            ("Transactions root", code(block["transactions_root"])),
            ("Log", [number(block["log_size"]), " transactions, root ", code(block["log_root"])]),
            ("Policy", code(block["policy_hash"])),
        ),
        section(
            "Transactions",
            table("Transactions in their order", ("place", "transaction"), rows, numbers=(0,), empty="It holds none."),
            ways,
        ),
    )


def transaction_page(transaction: Document) -> Element:
    """Return one transaction."""
    whole = json.dumps(transaction["body"], indent=2, ensure_ascii=False)
    cut = len(whole) - BODY_CHARACTERS_MAX
    tx_id = transaction["tx_id"]
    return page(
        f"Transaction {tx_id[:12]}…",
        "blocks",
        facts(
            ("Id", code(tx_id)),
            ("Kind", code(transaction["kind"])),
            ("Status", badge(transaction["status"])),
            (
                "Block",
                [block_link(transaction["height"]), f", place {transaction['index']}"]
                if transaction["height"] is not None
                else None,
            ),
            ("Signer", identity_link(transaction["signer"]) or "an identity that this node does not know"),
            ("Signer’s key", code(transaction["signer_key_id"])),
            ("Signed at, by the signer’s clock", when(transaction["client_time_ms"])),
            ("Not after block", transaction["not_after_height"]),
        ),
        section(
            "Body",
            el("p", "The fields in the order of the specification."),
            el("pre", el("bdi", whole[:BODY_CHARACTERS_MAX]), tabindex=0),
            el("p", f"{cut} more characters are not shown.", class_="notice") if cut > 0 else None,
        ),
    )


def identities_page(found: Sequence[Document], ways: Node) -> Element:
    """Return identities in order of id."""
    rows: list[tuple[Node, ...]] = [
        (
            identity_link(each["identity"]),
            text(each["organisation"]),
            badge(each["status"]),
            _list(each["roles"]),
            len(each["keys"]),
        )
        for each in found
    ]
    titles = ("identity", "organisation", "status", "roles", "keys")
    return page("Identities", "identities", table("Identities in order of id", titles, rows, numbers=(4,)), ways)


def identity_page(identity: Document, history: Sequence[Document], ways: Node) -> Element:
    """Return one identity with some of what it did and what was done to it."""
    name = identity["identity"]
    is_host = "host" in identity["roles"]
    keys = [
        (
            el("code", each["key_id"][:16] + "…"),
            each["algorithm"],
            block_link(each["added_height"]),
            block_link(each["retired_height"]),
            block_link(each["last_valid_height"]),
            text(each["reason"]) if each["reason"] else None,
        )
        for each in identity["keys"]
    ]
    return page(
        name,
        "identities",
        facts(
            ("Name", text(identity["display_name"])),
            ("Organisation", link(text(identity["organisation"]), "organisations", identity["organisation"])),
            ("Status", badge(identity["status"])),
            ("Roles", _list(identity["roles"])),
            ("Registered in block", block_link(identity["registered_height"])),
            ("Last changed in block", block_link(identity["changed_height"])),
            ("As a host", link("its targets and records", "hosts", name) if is_host else None),
        ),
        section(
            "Keys",
            table(
                "Keys, with the blocks between which they count",
                ("key", "algorithm", "added", "retired", "last valid", "why"),
                keys,
                numbers=(2, 3, 4),
            ),
        ),
        section("History", timeline(history, "Transactions about it, the oldest first"), ways),
    )


def patches_page(found: Sequence[Document], ways: Node) -> Element:
    """Return published patches, the newest first."""
    rows: list[tuple[Node, ...]] = [
        (
            digest_link(each["patch_id"], "patches"),
            _standing(each),
            identity_link(each["author"]),
            _list(each["components"]),
            each["release_counter"],
            len(each["attestations"]),
            block_link(each["published_height"]),
        )
        for each in found
    ]
    titles = ("patch", "standing", "author", "components", "counter", "attestations", "published in block")
    empty = "No patch was published yet."
    return page(
        "Patches", "patches", table("Patches, the newest first", titles, rows, numbers=(4, 5, 6), empty=empty), ways
    )


def patch_page(patch: Document, judged: Sequence[Document], history: Sequence[Document], ways: Node) -> Element:
    """Return one patch with who vouched for it and its story."""
    rows: list[tuple[Node, ...]] = [
        (
            identity_link(each["identity"]),
            text(each["organisation"]),
            text(each["role"]),
            badge(each["verdict"]),
            "yes" if each["counts"] else ["no: ", text(each["why_not"] or "replaced")],
            block_link(each["recorded_height"]),
            digest_link(each["tx_id"], "transactions"),
        )
        for each in judged
    ]
    titles = ("who", "organisation", "role", "verdict", "counts now", "block", "transaction")
    withdrawn = patch["withdrawn_height"]
    return page(
        f"Patch {patch['patch_id'][:12]}…",
        "patches",
        facts(
            ("Id", code(patch["patch_id"])),
            ("Standing", _standing(patch)),
            (
                "Withdrawn",
                ["in block ", block_link(withdrawn), ": ", text(patch["withdrawn_reason"])]
                if withdrawn is not None
                else None,
            ),
            ("Author", [identity_link(patch["author"]), " of ", text(patch["organisation"])]),
            ("Components", _list(patch["components"])),
            ("Release counter", patch["release_counter"]),
            (
                "Published",
                [
                    "in block ",
                    block_link(patch["published_height"]),
                    ", transaction ",
                    digest_link(patch["tx_id"], "transactions"),
                ],
            ),
            (
                "File",
                [
                    number(patch["file_bytes"]),
                    " bytes, SHA-256 ",
                    code(patch["file_digest"]),
                    " " if patch["file_here"] else ", not on this node",
                ],
            ),
            ("Supersedes", _digests(patch["supersedes"])),
            ("Superseded by", digest_link(patch["superseded_by"], "patches") if patch["superseded_by"] else None),
            ("Needs before it", _digests(patch["prerequisites"])),
        ),
        section(
            "Attestations", table("Who vouched for it", titles, rows, numbers=(5,), empty="Nobody has attested it.")
        ),
        section("Story", timeline(history, "Transactions about it, the oldest first"), ways),
    )


def timeline(history: Sequence[Document], label: str) -> Element:
    """Return transactions as a list in order of time."""
    if not history:
        return el("p", "This node keeps no transaction of it.", class_="empty")
    items = [
        el(
            "li",
            when(each["time_ms"]),
            " ",
            el("code", each["kind"]),
            " ",
            ["by ", identity_link(each["signer"]), " "] if each["signer"] else None,
            "in block ",
            block_link(each["height"]),
            ", ",
            digest_link(each["tx_id"], "transactions"),
        )
        for each in history
    ]
    return el("ol", items, class_="timeline", aria_label=label)


def group_page(group: Document, start: int, ways: Node) -> Element:
    """Return one group of hosts with some of them, from place `start` on."""
    rows = [(start + place, link(text(host), "hosts", host)) for place, host in enumerate(group["members"])]
    return page(
        group["group_id"],
        "hosts",
        facts(
            ("Hosts", group["hosts"]),
            ("Rollouts", [[link(text(each), "rollouts", each), " "] for each in group["rollouts"]] or "none"),
            ("Last changed in block", block_link(group["changed_height"])),
        ),
        section("Hosts", table("Hosts by place", ("place", "host"), rows, numbers=(0,), empty="None."), ways),
    )


def search_page(asked: str, found: Sequence[tuple[str, str]]) -> Element:
    """Return what a search found where it is not one thing: each a label and an address."""
    if not asked:
        content: Node = el(
            "p",
            "Give the height or hash of a block, the id of a transaction, patch or deployment, or the name of a host, identity, "
            "group or rollout.",
        )
    else:
        content = el("ul", [el("li", el("a", label, href=address)) for label, address in found])
    return page("Search", "search", content, asked=asked)


def error_page(status: int, title: str, code_: str, message: str, hint: str, *, asked: str = "") -> Element:
    """Return the page of a refusal."""
    return page(
        title,
        "error",
        el("p", text(message)),
        el("p", text(hint)) if hint else None,
        facts(("Code", code(code_)), ("Status", str(status))),
        el("p", el("a", "To the overview", href=href(""))),
        asked=asked,
    )


def _block_table(blocks: Sequence[Document]) -> Element:
    rows = [
        (
            block_link(each["height"]),
            when(each["time_ms"]),
            each["transactions"],
            each["term"],
            code(each["block_hash"][:16] + "…"),
        )
        for each in blocks
    ]
    return table("Blocks, the newest first", ("block", "time", "transactions", "term", "hash"), rows, numbers=(0, 2, 3))


def _lag(match_height: int | None, height: int) -> Node:
    return "not known here" if match_height is None else max(0, height - match_height)


def _age(age_ms: int) -> str:
    return f"{age_ms / 1000:.1f} s" if age_ms < 120_000 else f"{age_ms // 60_000} minutes"


def _standing(patch: Document) -> Element:
    if patch["withdrawn_height"] is not None:
        return badge("withdrawn")
    return badge("superseded" if patch["superseded_by"] else "published")


def _list(values: Sequence[str]) -> Node:
    return [[", " if place else None, text(each)] for place, each in enumerate(values)] or "none"


def _digests(digests: Sequence[str]) -> Node:
    return [[digest_link(each, "patches"), " "] for each in digests] or None


def further(start: int, shown: int, has_more: bool, *path: str | int) -> Node:
    """Return the ways through a list that goes by place: to its beginning, back and on."""
    before = max(0, start - shown) if start else None
    return pages(
        ("From the beginning", href(*path) if start else None),
        ("Back", href(*path, from_=before) if before else None),
        ("On", href(*path, from_=start + shown) if has_more else None),
        what="this list",
    )
