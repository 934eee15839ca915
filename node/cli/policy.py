"""`patchwarden policy`: the rules by which hosts decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.consistency import CONSISTENCY, as_of_text
from node.cli.lazy import Place
from node.cli.output import fields, table
from node.cli.params import EXISTING_DIRECTORY, FILE
from node.cli.proof import PROOF, proven_lines, write_state_proof
from wire.errors import RejectedError
from wire.limits import MEBIBYTE

if TYPE_CHECKING:
    from agent.facts import Facts

CASES_MAX: Final = 1_000
"""Cases in one file."""

policy = group(
    "Check, test and show policies.\n\nPolicies are written in Cedar, one to a file. `governance propose set-policy` brings a set to the "
    "vote.",
    {
        "lint": Place("node.cli.policy:lint", "Check a policy set as the network would."),
        "test": Place("node.cli.policy:test", "Run cases against a policy set."),
        "show": Place("node.cli.policy:show", "Show the policy set in force, or a former one."),
        "facts": Place("node.cli.policy:facts", "Print the facts of an ordinary patch, to write cases from."),
    },
)

_FOLDER = click.argument("folder", type=EXISTING_DIRECTORY, required=False, metavar="[DIR]")


@click.command("lint", cls=Command, examples=("patchwarden policy lint policies/",))
@_FOLDER
@click.pass_obj
def lint(session: Session, folder: Path | None) -> None:
    """Check the policy set in DIR (.cedar files and a .cedarschema) as the network would: parse, validate, try out.

    Without DIR, the built-in set. Exit code 1 with the first fault.
    """
    from agent.policy_text import check_policy_set
    from ledger.records import hash_policy
    from node.cli.network import read_policy_set

    schema, policies = read_policy_set(folder)
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
            f"{len(rules)} policies, hash {document['policy_hash']}",
        ],
    )


@click.command(
    "test",
    cls=Command,
    examples=(
        "patchwarden policy test policies/ --cases cases.json",
        "patchwarden policy test --cases cases.json -o json",
    ),
)
@_FOLDER
@click.option("--cases", type=FILE, required=True, metavar="FILE", help="A JSON list of cases.")
@click.pass_obj
def test(session: Session, folder: Path | None, cases: Path) -> None:
    """Run cases against the policy set in DIR, or against the built-in one. Exit code 1 when one comes out otherwise.

    A case is {"name", "facts", "expect": "allow"|"deny", "forbidden_by": [rules]}. Its facts are laid over those of an ordinary patch
    (`policy facts`), so a case names only what matters; `forbidden_by` may be left out.
    """
    from agent.policy import PolicyEngine
    from agent.policy_text import check_policy_set
    from node.cli.network import read_policy_set

    schema, policies = read_policy_set(folder)
    engine = PolicyEngine(check_policy_set(schema, policies))
    results = []
    for case in _read_cases(cases):
        verdict = engine.evaluate(_facts(case))
        said = "allow" if verdict.allowed else "deny"
        rules = [rule for rule, _ in verdict.forbidden_by]
        wanted = case.get("forbidden_by")
        passed = said == case["expect"] and (wanted is None or sorted(wanted) == rules)
        results.append(
            {"name": case["name"], "passed": passed, "expected": case["expect"], "verdict": said, "forbidden_by": rules}
        )
    failed = [each for each in results if not each["passed"]]
    session.output.emit(
        {"cases": results, "failed": len(failed)},
        [
            *(
                f"{'ok  ' if each['passed'] else 'FAIL'}  {each['name']}: {each['verdict']}"
                + (f" ({', '.join(each['forbidden_by'])})" if each["forbidden_by"] else "")
                + ("" if each["passed"] else f", expected {each['expected']}")
                for each in results
            ),
            f"{len(results) - len(failed)} of {len(results)} cases came out as expected",
        ],
    )
    if failed:
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
@click.option("--version", type=click.IntRange(min=0), metavar="N", help="A former version. Default: the one in force.")
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
                ("in force since", f"height {document['adopted_height']}"),
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


def _read_cases(path: Path) -> list[dict[str, Any]]:
    from node.cli.errors import CommandError
    from node.cli.files import read_file
    from wire import canonical_json

    value = canonical_json.decode_untrusted(read_file(path, MEBIBYTE), canonical=False)
    if not isinstance(value, list) or not 1 <= len(value) <= CASES_MAX:
        raise CommandError("cli.policy.cases", f"{path} is not a list of 1 to {CASES_MAX} cases")
    cases: list[dict[str, Any]] = []
    for index, case in enumerate(value):
        if not isinstance(case, dict) or case.get("expect") not in ("allow", "deny"):
            raise CommandError(
                "cli.policy.cases", f"case {index + 1} does not say what to expect", expected="allow or deny"
            )
        if unknown := sorted(case.keys() - {"name", "facts", "expect", "forbidden_by"}):
            raise CommandError("cli.policy.cases", f"case {index + 1} has an unknown member", actual=unknown[0])
        wanted = case.get("forbidden_by")
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(rule, str) for rule in wanted)):
            raise CommandError("cli.policy.cases", f"case {index + 1}: forbidden_by is not a list of rules")
        cases.append({"name": f"case {index + 1}", **case})
    return cases


def _facts(case: dict[str, Any]) -> Facts:
    from agent.facts import facts_from_json_untrusted
    from agent.sample_facts import SAMPLE_FACTS
    from node.cli.errors import CommandError

    try:
        return facts_from_json_untrusted(_laid_over(SAMPLE_FACTS.to_json(), case.get("facts", {})))
    except RejectedError as error:
        raise CommandError("cli.policy.cases", f"{case['name']}: {error.message}") from error


def _laid_over(base: Any, change: Any) -> Any:
    """Return `base` with the members of `change` in place of its own, at every depth of objects."""
    if isinstance(base, dict) and isinstance(change, dict):
        return {**base, **{name: _laid_over(base.get(name), value) for name, value in change.items()}}
    return change
