"""`patchwarden policy history|diff|cases`: the policy sets that a network has had, and its own cases."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session
from node.cli.output import short, table

if TYPE_CHECKING:
    from node.cli.policy_source import NamedSet


@click.command("history", cls=Command, node=True, examples=("patchwarden policy history",))
@click.pass_obj
def history(session: Session) -> None:
    """List every policy set that was ever adopted, the oldest first. `policy show --version N` and `policy diff` show their texts."""
    found = session.client().call("policy.history")
    rows = [
        (each["version"], each["status"], each["adopted_height"], each["policies"], short(each["policy_hash"], 16))
        for each in found
    ]
    session.output.emit(found, table(rows, ("version", "status", "from height", "policies", "hash")))


@click.command(
    "diff",
    cls=Command,
    node=True,
    examples=(
        "patchwarden policy diff policies/",
        "patchwarden policy diff 2 3",
        "patchwarden policy diff default current",
    ),
)
@click.argument("old", metavar="OLD")
@click.argument("new", required=False, metavar="[NEW]")
@click.pass_obj
def diff(session: Session, old: str, new: str | None) -> None:
    """Show what differs between the policy sets OLD and NEW; with one argument, between the set in force and that one.

    A set is named by a directory, `current`, a version number, `default` (the built-in one), or the id of a proposal.
    """
    from node.cli.policy_source import load_set

    one, other = (load_set(session, each) for each in (("current", old) if new is None else (old, new)))
    document = compare(one, other)
    session.output.emit(document, comparison_lines(document))


@click.command(
    "cases",
    cls=Command,
    node=True,
    examples=("patchwarden policy cases", "patchwarden policy cases policies/", "patchwarden policy cases --full"),
)
@click.argument("source", required=False, metavar="[SET]")
@click.option("--full", is_flag=True, help="Print the cases themselves, as JSON.")
@click.pass_obj
def cases(session: Session, source: str | None, full: bool) -> None:
    """Run the network's own cases over the set SET (default: the one in force). Exit code 1 when one comes out otherwise."""
    from node.cli.policy_source import case_lines, load_set, network_cases, run_over

    record = session.client().call("policy.cases")
    if full:
        session.output.emit(record, (record["cases"] or "[]").splitlines())
        return
    found = network_cases(session)
    if not found:
        session.output.emit(
            {**record, "failed": 0, "results": []},
            ["the network has no cases of its own; `policy propose-cases` brings some to the vote"],
        )
        return
    policy_set = load_set(session, source or "current")
    done = run_over(policy_set, found)
    document = {"set": policy_set.label, "adopted_height": record["adopted_height"], **done.to_json()}
    session.output.emit(document, [f"the network's cases over {policy_set.label}:", *case_lines(done)])
    if done.failed:
        click.get_current_context().exit(1)


def compare(one: NamedSet, other: NamedSet) -> dict[str, Any]:
    """Return what differs between two sets, policy by policy."""
    old, new = dict(one.policies), dict(other.policies)
    return {
        "old": one.label,
        "new": other.label,
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
        "schema_changed": one.schema != other.schema,
        "diff": [
            *_diff("schema", one.schema, other.schema),
            *(line for name in sorted(old.keys() | new.keys()) for line in _diff(name, old.get(name, ""), new.get(name, ""))),
        ],
    }  # fmt: skip


def comparison_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield the comparison for people."""
    yield f"from {document['old']} to {document['new']}"
    for what in ("added", "removed", "changed"):
        yield f"{what}: {', '.join(document[what]) or 'nothing'}"
    if document["schema_changed"]:
        yield "the schema differs"
    if document["diff"]:
        yield ""
        yield from document["diff"]


def _diff(name: str, old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="", n=2)
    return list(lines)
