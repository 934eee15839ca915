"""`patchwarden policy propose|propose-cases|review`: a policy set on its way to the vote.

========================  ================================================================================================
who                       what is checked
========================  ================================================================================================
whoever proposes          the set as the network would (a child process), the network's own cases, cases beside the set
whoever votes (`review`)  the same for the proposal as it stands on the ledger, and what differs from the set in force
the ledger                form, sizes and hash
every host                the set again, in a child process, before it is used; a set that fails denies
========================  ================================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.params import DENY_EVERYTHING, DIGEST, EXISTING_DIRECTORY, FILE

if TYPE_CHECKING:
    from node.cli.policy_source import NamedSet

_WHY = click.option("--description", default="", metavar="TEXT", help="Why, for those who vote.")


@click.command(
    "propose",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden policy propose policies/ --description 'canaries first' --key admin.key",
        "patchwarden policy propose policies/ --activate 5000 --key admin.key",
    ),
)
@click.argument("folder", type=EXISTING_DIRECTORY, metavar="DIR")
@click.option(
    "--activate",
    type=click.IntRange(min=1),
    metavar="HEIGHT",
    help="The first height at which it is in force. Default: that of the deciding vote.",
)
@DENY_EVERYTHING
@_WHY
@click.pass_obj
def propose(session: Session, folder: Path, activate: int | None, description: str, *, deny_everything: bool) -> None:
    """Check the policy set in DIR and propose it: as the network would, with the network's own cases, and with DIR/cases/*.json.

    Nothing is proposed when one of the cases comes out otherwise.
    """
    from ledger.actions import SetPolicy
    from ledger.bodies import ProposalCreate
    from node.cli.network import read_policy_set
    from node.cli.policy_source import CASES_FOLDER, NamedSet, find_cases, network_cases
    from node.cli.submit import submit_body

    policy_set = NamedSet(str(folder), *read_policy_set(folder, may_be_empty=deny_everything))
    checks = [_run(policy_set, "network's", network_cases(session))]
    if any((folder / CASES_FOLDER).glob("*.json")):
        checks.append(_run(policy_set, "set's", find_cases(folder, ())))
    for check in checks:
        if check["failed"]:
            raise CommandError(
                "cli.policy.cases_failed",
                f"the set fails the {check['whose']} own cases: {', '.join(check['failed'])}",
                hint=f"patchwarden policy cases {folder} and patchwarden policy test {folder} show them",
            )
    action = SetPolicy(policy_set.schema, policy_set.policies, activate or 0)
    said = ", ".join(f"{each['passed']} of the {each['whose']} cases passed" for each in checks)
    when = (
        "with the deciding vote"
        if activate is None
        else f"at height {activate}, or with the deciding vote if that is later"
    )
    submit_body(
        session,
        ProposalCreate(action, description),
        (("proposed", _what(policy_set)), ("in force", when), ("checked", said)),
    )


@click.command(
    "propose-cases",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden policy propose-cases invariants.json --description 'what must never change' --key admin.key",
    ),
)
@click.argument("file", type=FILE, metavar="FILE")
@_WHY
@click.pass_obj
def propose_cases(session: Session, file: Path, description: str) -> None:
    """Propose the cases in FILE as the network's own: every policy set that is proposed afterwards is tried on them.

    An empty file takes them away.
    """
    from agent.policy_cases import read_cases_untrusted
    from ledger.actions import SetPolicyCases
    from ledger.bodies import ProposalCreate
    from ledger.limits import POLICY_CASES_BYTES_MAX
    from node.cli.files import read_text
    from node.cli.policy_source import load_set
    from node.cli.submit import submit_body

    text = read_text(file, POLICY_CASES_BYTES_MAX)
    found = read_cases_untrusted(text.encode()) if text else ()
    check = _run(load_set(session, "current"), "network's", found)
    failed = f"; the set in force fails {', '.join(check['failed'])}" if check["failed"] else ""
    what = (("proposed", f"{len(found)} cases of the network"), ("set in force", f"passes {check['passed']}{failed}"))
    submit_body(session, ProposalCreate(SetPolicyCases(text), description), what)


@click.command("review", cls=Command, node=True, examples=("patchwarden policy review 9f86…",))
@click.argument("proposal", type=DIGEST, metavar="PROPOSAL")
@click.pass_obj
def review(session: Session, proposal: str) -> None:
    """Check the policy set that PROPOSAL would adopt, before voting: the network's checks, its own cases, and what differs.

    Exit code 1 when it fails; `policy what-if PROPOSAL` tells what it would have changed.
    """
    from node.cli.policy_ledger import compare, comparison_lines
    from node.cli.policy_source import load_set, network_cases, proposed_set
    from wire.errors import RejectedError

    document = session.client().call("governance.get", proposal_id=proposal)
    policy_set = proposed_set(document)
    refusal = None
    check: dict[str, Any] = {"passed": 0, "failed": []}
    try:
        check = _run(policy_set, "network's", network_cases(session))
    except RejectedError as error:
        refusal = error
    difference = compare(load_set(session, "current"), policy_set)
    action = document["action"]
    activate = action[3] if len(action) > 3 else None
    sound = refusal is None and not check["failed"]
    answer = {
        "proposal_id": proposal,
        "status": document["status"],
        "activate_height": activate,
        "sound": sound,
        "refusal": None if refusal is None else {"code": refusal.code, "message": refusal.message},
        "cases_passed": check["passed"],
        "cases_failed": check["failed"],
        "difference": difference,
    }
    verdict = "the network would accept it" if refusal is None else f"FAIL  {refusal.message} [{refusal.code}]"
    failed = f"; FAIL  {', '.join(check['failed'])}" if check["failed"] else ""
    cases = "could not be run" if refusal is not None else f"{check['passed']} passed{failed}"
    session.output.emit(
        answer,
        [
            f"proposal:  {proposal} ({document['status']}) by {document['proposer']}",
            *([] if policy_set.policies else ["policies:  none: this set denies everything"]),
            f"in force:  {'with the deciding vote' if activate is None else f'from height {activate}'}",
            f"checks:    {verdict}",
            f"cases:     {cases}",
            "",
            *comparison_lines(difference),
        ],
    )
    if not sound:
        click.get_current_context().exit(1)


def _what(policy_set: NamedSet) -> str:
    count = len(policy_set.policies)
    return f"policy set of {count} policies" + ("" if count else ": it denies everything")


def _run(policy_set: NamedSet, whose: str, cases: Any) -> dict[str, Any]:
    from node.cli.policy_source import run_over

    done = run_over(policy_set, cases)
    failed = [each.name for each in done.results if not each.passed]
    return {"whose": whose, "passed": len(done.results) - len(failed), "failed": failed}
