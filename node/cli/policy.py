"""`patchwarden policy`: the rules by which hosts decide."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.command import Command, Session, group
from node.cli.consistency import CONSISTENCY, as_of_text
from node.cli.lazy import Place
from node.cli.output import fields, table
from node.cli.params import DENY_EVERYTHING, EXISTING_DIRECTORY, FILE
from node.cli.proof import PROOF, proven_lines, write_state_proof

policy = group(
    "Write, check, try out, propose and explain policies.\n\nPolicies are written in Cedar, one to a file. A set is brought to the vote "
    "by `policy propose`, and `policy review` is for those who vote.",
    {
        "templates": Place("node.cli.policy_templates:templates", "List the template gallery, or show one template."),
        "init": Place("node.cli.policy_templates:init", "Write a policy set of templates to begin with."),
        "lint": Place("node.cli.policy:lint", "Check a policy set as the network would."),
        "test": Place("node.cli.policy:test", "Run cases against a policy set, with the coverage of its rules."),
        "facts": Place("node.cli.policy:facts", "Print the facts of an ordinary patch, to write cases from."),
        "explain": Place("node.cli.policy_explain:explain", "Tell rule by rule why a verdict is what it is."),
        "what-if": Place("node.cli.policy_what_if:what_if", "Judge past decisions anew under another set."),
        "show": Place("node.cli.policy:show", "Show the policy set in force, or another one."),
        "history": Place("node.cli.policy_ledger:history", "List every policy set that was ever adopted."),
        "diff": Place("node.cli.policy_ledger:diff", "Show what differs between two policy sets."),
        "cases": Place("node.cli.policy_ledger:cases", "Show the network's own cases, and whether a set passes them."),
        "propose": Place("node.cli.policy_propose:propose", "Check a policy set and bring it to the vote."),
        "propose-cases": Place("node.cli.policy_propose:propose_cases", "Bring the network's own cases to the vote."),
        "review": Place("node.cli.policy_propose:review", "Check a proposed policy set before voting."),
    },
)

_FOLDER = click.argument("folder", type=EXISTING_DIRECTORY, required=False, metavar="[DIR]")


@click.command("lint", cls=Command, examples=("patchwarden policy lint policies/",))
@_FOLDER
@DENY_EVERYTHING
@click.pass_obj
def lint(session: Session, folder: Path | None, *, deny_everything: bool) -> None:
    """Check the policy set in DIR (.cedar files and a .cedarschema) as the network would: parse, validate, try out.

    Without DIR, the built-in set. Exit code 1 with the first fault.
    """
    from agent.policy_text import check_policy_set
    from ledger.records import hash_policy
    from node.cli.network import read_policy_set

    schema, policies = read_policy_set(folder, may_be_empty=deny_everything)
    checked = check_policy_set(schema, policies)
    rules = [
        {"name": rule.name, "effect": rule.effect, "reason": rule.reason}
        for rule in sorted(checked.rules.values(), key=lambda rule: rule.name)
    ]
    document = {"valid": True, "policy_hash": hash_policy(schema, policies).hex(), "policies": rules}
    session.output.emit(
        document,
        [
            *table([(rule["name"], rule["effect"], rule["reason"]) for rule in rules], ("policy", "effect", "reason")),
            f"{len(rules)} policies, hash {document['policy_hash']}"
            + ("" if rules else ": this set denies everything"),
        ],
    )


@click.command(
    "test",
    cls=Command,
    examples=(
        "patchwarden policy test policies/ --cases cases.json",
        "patchwarden policy test --cases cases.json -o json",
        "patchwarden policy test policies/",
    ),
)
@_FOLDER
@click.option(
    "--cases",
    "files",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="A JSON list of cases; several times. Default: DIR/cases/*.json, or those of the built-in set.",
)
@click.option("--require-coverage", is_flag=True, help="Fail too when a rule is not shown by any case.")
@click.pass_obj
def test(session: Session, folder: Path | None, files: tuple[Path, ...], require_coverage: bool) -> None:
    """Run cases against the policy set in DIR, or against the built-in one, and tell which rules they show.

    A case is {"name", "facts", "expect": "allow"|"deny", "forbidden_by": [rules], "among": [rules]}. Its facts are laid over those of an
    ordinary patch (`policy facts`), so a case names only what matters. Exit code 1 when one comes out otherwise.
    """
    from agent.policy import PolicyEngine
    from agent.policy_cases import run_cases
    from agent.policy_text import check_policy_set
    from node.cli.network import read_policy_set
    from node.cli.policy_source import case_lines, coverage_lines, find_cases

    checked = check_policy_set(*read_policy_set(folder))
    cases = find_cases(folder, files)
    done = run_cases(PolicyEngine(checked), checked.rules, cases)
    session.output.emit(done.to_json(), [*case_lines(done), "", *coverage_lines(done)])
    if done.failed or (require_coverage and done.uncovered):
        click.get_current_context().exit(1)


@click.command(
    "show",
    cls=Command,
    node=True,
    examples=(
        "patchwarden policy show",
        "patchwarden policy show --version 0 --full",
        "patchwarden policy show --consistency local",
        "patchwarden policy show --proof policy.proof",
    ),
)
@click.option(
    "--version",
    type=click.IntRange(min=0),
    metavar="N",
    help="A former version, or one that waits. Default: the one in force.",
)
@click.option("--full", is_flag=True, help="Show the texts too.")
@CONSISTENCY
@PROOF
@click.pass_obj
def show(session: Session, version: int | None, full: bool, consistency: str | None, proof: Path | None) -> None:
    """Show the policy set in force on the network. With --proof, what is proven about it at the newest certified block."""
    if proof is not None:
        number = session.client().call("policy.get", version=version, consistency=consistency)["version"]
        proven = write_state_proof(session, "policy", str(number), proof)
        session.output.emit(proven, proven_lines(proven))
        return
    document = session.client().call("policy.get", version=version, consistency=consistency)
    lines = list(
        fields(
            (
                ("version", document["version"]),
                ("hash", document["policy_hash"]),
                ("in force from", f"height {document['adopted_height']}"),
                ("policies", ", ".join(each["name"] for each in document["policies"])),
                ("as of", as_of_text(document)),
            )
        )
    )
    if full:
        for each in document["policies"]:
            lines += ["", f"-- {each['name']}", *each["text"].splitlines()]
    session.output.emit(document, lines)


@click.command("facts", cls=Command, examples=("patchwarden policy facts > facts.json",))
@click.pass_obj
def facts(session: Session) -> None:
    """Print the facts of an ordinary patch on an ordinary target: what a policy can ask about. The answer is JSON."""
    import json

    from agent.sample_facts import SAMPLE_FACTS

    document = SAMPLE_FACTS.to_json()
    session.output.emit(document, json.dumps(document, indent=2).splitlines())
