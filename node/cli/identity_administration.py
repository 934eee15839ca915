"""Administration by several: `patchwarden identity pending|approve|withdraw|set-threshold`, and how other commands propose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session
from node.cli.output import short, table
from node.cli.params import DIGEST

if TYPE_CHECKING:
    from ledger.bodies import AdministrativeBody

_ACT = click.argument("act", type=DIGEST, metavar="ACT")


def administer(session: Session, body: AdministrativeBody, summary: Iterable[tuple[str, object]]) -> None:
    """Sign and submit an act of administration; where several must agree, propose it instead and say what is lacking."""
    from ledger.bodies import AdministrationPropose, AdministrationSetThreshold, IdentityRotateKey
    from node.cli.submit import submit_body

    is_own = isinstance(body, IdentityRotateKey) and body.old_key_id == session.key().public_key.key_id
    organisation = (
        body.organisation if isinstance(body, AdministrationSetThreshold) else body.identity_id.partition("@")[2]
    )
    needed = 1 if is_own else _threshold(session, organisation)
    if needed == 1:
        submit_body(session, body, summary)
        return
    lacking = (
        "still to agree",
        f"{needed - 1} more administrators of {organisation}, by `identity approve` of this transaction's id",
    )
    submit_body(session, AdministrationPropose(body), (("proposed", body.KIND), *summary, lacking))


def _threshold(session: Session, organisation: str) -> int:
    from wire.errors import RejectedError

    try:
        return int(session.client().call("administration.get", organisation=organisation, limit=1)["threshold"])
    except RejectedError as error:
        if error.code == "node.organisation.not_found":
            return 1  # The ledger says it better.
        raise


@click.command(
    "pending",
    cls=Command,
    node=True,
    examples=("patchwarden identity pending acme", "patchwarden identity pending acme --all -o json"),
)
@click.argument("organisation", metavar="ORGANISATION")
@click.option("--all", "with_closed", is_flag=True, help="Also what was executed, withdrawn or has expired.")
@click.pass_obj
def pending(session: Session, organisation: str, with_closed: bool) -> None:
    """Show how many administrators of ORGANISATION must agree, and what waits for their agreement."""
    document = session.client().call("administration.get", organisation=organisation, limit=500)
    acts = [each for each in document["acts"] if with_closed or each["status"] == "open"]
    needed, acting = document["threshold"], document["acting"]
    lines = [f"{needed} of {len(acting)} administrators must agree: {', '.join(acting)}"]
    if acts:
        head = ("act", "height", "status", "what", "agreed")
        lines += ["", *table([_row(each) for each in acts], head)]
    session.output.emit({**document, "acts": acts}, lines)


@click.command(
    "approve",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden identity approve 9f86… --key admin.key",),
)
@_ACT
@click.pass_obj
def approve(session: Session, act: str) -> None:
    """Agree to ACT of administration; the approval that is still lacking executes it. Signed by an administrator of the organisation."""
    from ledger.bodies import AdministrationApprove
    from node.cli.submit import submit_body

    submit_body(session, AdministrationApprove(bytes.fromhex(act)), (("agreed to", act),))


@click.command(
    "withdraw",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden identity withdraw 9f86… --key admin.key",),
)
@_ACT
@click.pass_obj
def withdraw(session: Session, act: str) -> None:
    """Close ACT of administration without effect. Signed by any administrator of the organisation."""
    from ledger.bodies import AdministrationWithdraw
    from node.cli.submit import submit_body

    submit_body(session, AdministrationWithdraw(bytes.fromhex(act)), (("withdrawn", act),))


@click.command(
    "set-threshold",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden identity set-threshold acme 2 --key admin.key",),
)
@click.argument("organisation", metavar="ORGANISATION")
@click.argument("threshold", type=click.IntRange(min=1), metavar="NUMBER")
@click.pass_obj
def set_threshold(session: Session, organisation: str, threshold: int) -> None:
    """Demand that NUMBER administrators of ORGANISATION agree on what changes its identities. One alone can still suspend."""
    from ledger.bodies import AdministrationSetThreshold

    body = AdministrationSetThreshold(organisation, threshold)
    administer(session, body, (("organisation", organisation), ("administrators who must agree", threshold)))


def _row(act: dict[str, Any]) -> tuple[object, ...]:
    about = next((each for each in act["body"] if isinstance(each, str)), "")
    agreed = ", ".join(
        each["identity"] if each["counted"] else f"{each['identity']} (does not count)" for each in act["approvals"]
    )
    return (short(act["act_id"], 64), act["created_height"], act["status"], f"{act['kind']} {about}", agreed)
