"""`patchwarden policy templates|init`: policies for the usual regimes, to begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import table

if TYPE_CHECKING:
    from agent.gallery import Template

_EMERGENCY: Final = "emergency"
_EMERGENCY_CASE: Final = "an emergency"
"""The case of that template that shows what it lets in at once."""


@click.command(
    "templates",
    cls=Command,
    examples=("patchwarden policy templates", "patchwarden policy templates canary-then-fleet"),
)
@click.argument("name", required=False, metavar="[NAME]")
@click.pass_obj
def templates(session: Session, name: str | None) -> None:
    """List the template gallery, or show what the template NAME demands with its policies. Each comes on top of the built-in set."""
    from agent.gallery import get_template, list_templates

    if name is None:
        found = list_templates()
        rows = [(each.name, len(each.policies), each.title) for each in found]
        session.output.emit([_document(each) for each in found], table(rows, ("template", "policies", "what")))
        return
    template = get_template(name)
    lines = [template.title, "", template.about]
    for policy, text in template.policies:
        lines += ["", f"-- {policy}", *text.splitlines()]
    session.output.emit({**_document(template), "cases": json.loads(template.cases)}, lines)


@click.command(
    "init",
    cls=Command,
    examples=(
        "patchwarden policy init policies/",
        "patchwarden policy init policies/ --template canary-then-fleet --template vulnerability-gate",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--template", "names", multiple=True, metavar="NAME", help="A template of the gallery; several times.")
@click.pass_obj
def init(session: Session, folder: Path, names: tuple[str, ...]) -> None:
    """Write the built-in set with templates on it to the new directory DIR: the schema, a file for each policy, and cases.

    Several templates are put together: a patch must satisfy all of them. What one of them lets through and another one forbids is said.
    """
    from agent.gallery import besides, default_cases, get_template, whole_cases, with_templates
    from agent.policy_text import default_policy_set
    from node.cli.files import write_file
    from node.cli.network import POLICY_SUFFIX, SCHEMA_SUFFIX
    from node.cli.policy_source import CASES_FOLDER

    chosen = [get_template(name) for name in dict.fromkeys(names)]
    schema, policies = with_templates(chosen)
    if folder.exists() and any(folder.iterdir()):
        raise CommandError("cli.policy.not_empty", "the directory is not empty", actual=str(folder))
    defaults = {name for name, _ in default_policy_set()[1]}
    overridden = {name for each in chosen for name, _ in each.policies} & defaults
    cases_folder = folder / CASES_FOLDER
    cases_folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"schema{SCHEMA_SUFFIX}", schema.encode())
    for name, text in policies:
        write_file(folder / f"{name}{POLICY_SUFFIX}", text.encode())
    kept = defaults - overridden
    write_file(cases_folder / "default.json", _cases(default_cases(), kept if chosen else None, overridden))
    for each in chosen:
        own = {name for name, _ in each.policies} | kept
        write_file(cases_folder / f"{each.name}.json", _cases(each.cases, own if len(chosen) > 1 else None, set()))
    joint = besides(chosen)
    pairs = [(template, beside) for template in chosen for beside in template.beside if beside in joint]
    for template, beside in pairs:
        rules = {name for each in (template, get_template(beside.other)) for name, _ in each.policies} | kept
        path = cases_folder / f"{template.name}-with-{beside.other}.json"
        write_file(path, _cases(beside.cases, rules, set()))
    if len(chosen) > 1:
        write_file(cases_folder / "whole.json", whole_cases())
    eased = [
        {"template": template.name, "other": beside.other, "policies": [name for name, _ in beside.policies]}
        for template, beside in pairs
    ]
    remaining = _emergency_needs(schema, policies, chosen)
    document = {
        "folder": str(folder),
        "templates": [each.name for each in chosen],
        "policies": [name for name, _ in policies],
        "replaced": eased,
        "emergency_forbidden_by": remaining,
    }
    lines = [f"wrote {len(policies)} policies, the schema and cases to {folder}"]
    for change in eased:
        lines.append(
            f"note: {change['template']} has its own form of {', '.join(change['policies'])} of {change['other']}"
        )
    if remaining:
        lines.append(
            f"note: an emergency must still satisfy {', '.join(remaining)}; exempt it there where it should not"
        )
    session.output.emit(
        document, [*lines, f"next: change what is yours in them, then patchwarden policy test {folder}"]
    )


def _emergency_needs(schema: str, policies: tuple[tuple[str, str], ...], chosen: list[Template]) -> list[str]:
    """Return the rules of other templates that forbid what the template `emergency` lets in at once; they hold for it, too."""
    from agent.policy_cases import read_cases_untrusted
    from node.cli.policy_source import NamedSet, run_over

    emergency = next((each for each in chosen if each.name == _EMERGENCY), None)
    if emergency is None or len(chosen) == 1:
        return []
    case = next(each for each in read_cases_untrusted(emergency.cases) if each.name == _EMERGENCY_CASE)
    return list(run_over(NamedSet("", schema, policies), (case,)).results[0].forbidden_by)


def _cases(cases: bytes, among: set[str] | None, overridden: set[str]) -> bytes:
    """Return the cases without those that name rules which something else has replaced, each about the rules `among` only.

    A rule that is not among those is not looked at, so none of the cases expects it either.
    """
    kept = [case for case in json.loads(cases) if not overridden & set(case.get("forbidden_by", ()))]
    if among is not None:
        kept = [_about(case, among) for case in kept]
    return (json.dumps(kept, indent=2) + "\n").encode()


def _about(case: dict[str, Any], among: set[str]) -> dict[str, Any]:
    limited = {**case, "among": sorted(among)}
    if "forbidden_by" in case:
        limited["forbidden_by"] = [rule for rule in case["forbidden_by"] if rule in among]
    return limited


def _document(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "title": template.title,
        "about": template.about,
        "policies": [{"name": name, "text": text} for name, text in template.policies],
    }
