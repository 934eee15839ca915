"""`patchwarden governance list|show|history|status|certificates`: what was decided, by whom, and who can decide now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.block import when
from node.cli.command import Command, Session
from node.cli.errors import EXIT_NO
from node.cli.output import fields, short, table
from node.cli.params import DIGEST, FILE

if TYPE_CHECKING:
    from node.cli.client import NodeClient

PAGE: Final = 100
"""Proposals asked for at once."""

_SHOWN: Final = {
    "set-threshold": ("threshold",),
    "set-limits": ("transaction bytes", "block bytes", "block transactions"),
    "revoke-key": ("key", "last valid height", "reason"),
    "withdraw-patch": ("patch", "reason"),
    "decide-rollout": ("rollout", "decision", "reason"),
    "rename-organisation": ("organisation", "name"),
    "suspend-organisation": ("organisation", "reason"),
    "resume-organisation": ("organisation",),
    "remove-organisation": ("organisation", "reason"),
    "add-administrator": ("organisation", "administrator"),
    "add-ca-certificate": ("organisation", "certificate"),
    "remove-ca-certificate": ("organisation", "sha256 of certificate"),
    "add-organisation": ("organisation", "name", "administrators", "certificates"),
    "set-policy": ("schema", "policies"),
    "add-learner": ("node", "organisation", "node key", "address"),
    "promote-learner": ("node",),
    "remove-validator": ("node",),
    "replace-validator": ("node", "by learner"),
}
"""What stands behind each action's name, in its order."""


@click.command("list", cls=Command, node=True, examples=("patchwarden governance list",))
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many.")
@click.pass_obj
def list_proposals(session: Session, limit: int) -> None:
    """List proposals, the newest first."""
    found = session.client().call("governance.list", limit=limit)
    rows = [
        (
            short(each["proposal_id"], 16),
            each["created_height"],
            each["status"],
            action_summary(each["action"]),
            sum(bool(one["approve"]) for one in each["votes"]),
            sum(not one["approve"] for one in each["votes"]),
            each["proposer"],
        )
        for each in found
    ]
    session.output.emit(found, table(rows, ("proposal", "height", "status", "action", "for", "against", "by")))


@click.command("show", cls=Command, node=True, examples=("patchwarden governance show 9f86…",))
@click.argument("proposal", type=DIGEST, metavar="PROPOSAL")
@click.pass_obj
def show(session: Session, proposal: str) -> None:
    """Show PROPOSAL: what it does, who voted what under which key, and what became of it."""
    document = session.client().call("governance.get", proposal_id=proposal)
    session.output.emit(document, story_lines(document))


@click.command(
    "history",
    cls=Command,
    node=True,
    examples=(
        "patchwarden governance history --rpc http://127.0.0.1:7080",
        "patchwarden governance history --archive chain.archive --genesis genesis.json -o json",
        "patchwarden governance history --home /srv/v1 --replay",
    ),
)
@click.option("--archive", type=FILE, metavar="FILE", help="Derive it from this archive instead of asking a node.")
@click.option(
    "--genesis",
    type=FILE,
    metavar="FILE",
    help="For a replay: the founding document that you trust. Default: the source's own.",
)
@click.option("--replay", is_flag=True, help="Believe nothing that a running node says: replay its blocks.")
@click.pass_obj
def history(session: Session, archive: Path | None, genesis: Path | None, replay: bool) -> None:
    """Tell of every proposal who made it, who voted what under which key, and what became of it, the oldest first.

    A running node is asked. An archive, and the home of a stopped node, are replayed from the founding document with every signature, which
    gives the same. Exit code 1 when the chain does not hold.
    """
    from node.cli.governance_replay import is_replayed, replay_governance

    if archive is not None and session.has_node:
        raise click.UsageError("--archive and a node exclude each other")
    if replay or is_replayed(session, archive):
        document = replay_governance(session, archive, genesis)
    elif genesis is not None:
        raise click.UsageError("a node that is asked is believed: --genesis goes with --replay or --archive")
    else:
        document = _ask_history(session)
    session.output.emit(document, history_lines(document))
    if document["findings"]:
        click.get_current_context().exit(EXIT_NO)


@click.command(
    "status", cls=Command, node=True, examples=("patchwarden governance status --rpc http://127.0.0.1:7080",)
)
@click.pass_obj
def status(session: Session) -> None:
    """Show who has a vote, who can cast it, how many decide, what is open, and whether certificates end soon."""
    document = session.client().call("governance.status")
    session.output.emit(document, _status_lines(document))


@click.command(
    "certificates",
    cls=Command,
    node=True,
    examples=("patchwarden governance certificates", "patchwarden governance certificates --expiring 30 -o json"),
)
@click.option(
    "--expiring", type=click.IntRange(min=0), metavar="DAYS", help="Only those that end within DAYS, or have ended."
)
@click.pass_obj
def certificates(session: Session, expiring: int | None) -> None:
    """List CA certificates, and the certificates of keys in use, the first to end first. Exit code 1 when --expiring finds some."""
    found = session.client().call("governance.certificates", within_days=expiring)
    rows = [
        (
            when(each["not_after_ms"]),
            each["days_left"],
            each["kind"],
            each["identity"] or each["organisation"],
            each["subject"],
        )
        for each in found
    ]
    session.output.emit(found, table(rows, ("ends", "days", "kind", "of", "subject")))
    if expiring is not None and found:
        click.get_current_context().exit(EXIT_NO)


def _ask_history(session: Session) -> dict[str, Any]:
    client = session.client()
    before = client.call("status")
    return {
        "source": session.rpc or str(session.node_home()),
        "source_kind": "node",
        "chain_id": before["chain_id"],
        "height": before["height"],
        "replayed": False,
        "findings": [],
        "proposals": list(_pages(client)),
    }


def _pages(client: NodeClient) -> Iterator[dict[str, Any]]:
    where: dict[str, Any] = {}
    while True:
        page = client.call("governance.history", limit=PAGE, **where)
        yield from page
        if len(page) < PAGE:
            return
        where = {"from": page[-1]["created_height"], "after": page[-1]["proposal_id"]}


def history_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield a history for people."""
    for each in document["proposals"]:
        yield f"proposal {short(each['proposal_id'], 16)}: {action_summary(each['action'])}, {each['status']}"
        yield from (f"  {line}" for line in _step_lines(each))
        yield ""
    count = len(document["proposals"])
    if not document["replayed"]:
        yield f"{count} proposals up to height {document['height']}, as the node tells it; --replay derives it from its blocks"
    elif document["findings"]:
        yield f"THE CHAIN DOES NOT HOLD: {len(document['findings'])} findings, `audit replay` tells them"
    else:
        yield f"{count} proposals up to height {document['height']}, derived from the founding document; the chain holds"


def story_lines(document: dict[str, Any]) -> list[str]:
    """Return one proposal for people."""
    tally = document["tally"]
    standing = None
    if tally is not None:
        standing = f"{tally['for']} for, {tally['against']} against; {tally['needed']} of {tally['votes']} organisations decide"
    return [
        *fields(
            (
                ("proposal", document["proposal_id"]),
                ("status", document["status"]),
                ("proposed by", document["proposer"]),
                ("why", document["description"].split("\n") if document["description"] else None),
                ("created", f"height {document['created_height']}"),
                ("open until", f"height {document['expires_height']}"),
                ("votes", standing),
            )
        ),
        "action:",
        *(f"  {line}" for line in action_lines(document["action"])),
        "history:",
        *(f"  {line}" for line in _step_lines(document)),
    ]


def _step_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield what happened to a proposal, one line for each transaction, with its place, key and id."""
    if not document["complete"]:
        yield "(this node keeps no history of its beginning; another one may)"
    for each in document["steps"]:
        place = f"{each['height']}.{each['index']}"
        notes = "" if each["in_force"] else ", replaced by a later vote"
        notes += "" if each["key_counted"] else ", does not count: the key was revoked from before"
        who = f"{each['identity']} of {each['organisation']}, key {short(each['key_id'])}"
        yield f"{place:>9}  {when(each['time_ms'])}  {each['what']:<9}  {who}{notes}  [{short(each['tx_id'])}]"
    ended = document["ended"]
    if ended is not None:
        time = "" if ended["time_ms"] is None else f"  {when(ended['time_ms'])}"
        by = "" if ended["tx_id"] is None else f", by [{short(ended['tx_id'])}]"
        yield f"{ended['height']:>9}{time}  {document['status']}{by}"


def _status_lines(document: dict[str, Any]) -> list[str]:
    rows = [
        (
            each["name"],
            each["display_name"],
            each["status"],
            "yes" if each["has_vote"] else "no",
            each["acting_administrator"] or "NOBODY CAN ACT",
            len(each["administrators"]),
            each["ca_certificates"],
        )
        for each in document["organisations"]
    ]
    late = document["certificates"]
    return [
        *fields(
            (
                ("height", document["height"]),
                ("threshold", f"{document['threshold']}: {document['votes_needed']} of {document['votes']} votes"),
                ("able to vote", f"{document['able_to_vote']}, {document['spare']} more than needed"),
                ("policy version", document["policy_version"]),
                (
                    "validators",
                    f"{document['validators']}{', a change is under way' * document['change_of_validators_under_way']}",
                ),
                ("limits", ", ".join(f"{name} {value}" for name, value in document["limits"].items())),
                ("open proposals", document["open_proposals"] or "none"),
                ("certificates", certificates_text(late)),
            )
        ),
        "",
        *table(rows, ("organisation", "name", "status", "vote", "can act", "administrators", "CAs")),
    ]


def certificates_text(summary: dict[str, Any]) -> str:
    """Return in a few words whether certificates on the ledger end soon."""
    if summary["days_left"] is None:
        return "none"
    if summary["expiring"]:
        return f"{summary['expiring']} END SOON or have ended, the first in {summary['days_left']} days: see `governance certificates`"
    return f"the first ends in {summary['days_left']} days"


def action_summary(action: list[Any]) -> str:
    """Return an action in a few words: its name, and whom or what it is about."""
    name, *values = action
    match action:
        case ["add-learner", node, organisation, *_]:
            return f"{name} {node}@{organisation}"
        case ["replace-validator", node, learner]:
            return f"{name} {node} by {learner}"
        case ["add-administrator", _, [identity, *_]]:
            return f"{name} {identity}"
        case ["set-policy", *_]:
            return str(name)
        case _:
            return f"{name} {short(str(values[0]))}" if values else str(name)


def action_lines(action: list[Any]) -> list[str]:
    """Return an action as lines for people."""
    import json

    name, *values = action
    names = _SHOWN.get(name, ())
    if len(names) != len(values):
        return json.dumps(action, indent=2, ensure_ascii=False).splitlines()
    shown = [_key(value) if what == "node key" else _text(value) for what, value in zip(names, values, strict=True)]
    return list(fields((("change", name), *zip(names, shown, strict=True))))


def _text(value: object) -> object:
    """Return a value for people: what is long stands by its SHA-256, a list one item a line."""
    match value:
        case {"bytes": size, "sha256": digest}:
            return f"{size} bytes, sha256 {digest}"
        case list():
            return [
                str(_text(each)) if not isinstance(each, list) else ", ".join(str(one) for one in each)
                for each in value
            ]
        case _:
            return value


def _key(spki: object) -> object:
    """Return the DID of the key, as `node init` and `node validators` show it; what is no key stays as it is."""
    from wire.errors import RejectedError
    from wire.keys import public_key_from_spki_untrusted

    try:
        return public_key_from_spki_untrusted(bytes.fromhex(str(spki))).did
    except (RejectedError, ValueError):
        return spki
