"""Where a policy set and its cases come from, by how the command line names them, and how runs of cases are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from node.cli.errors import CommandError
from node.cli.output import short, table

if TYPE_CHECKING:
    from agent.policy_cases import Case, CasesRun
    from node.cli.command import Session

SOURCE_HELP: Final = "a directory, `current`, a version number, `default` (the built-in set), or the id of a proposal"
CASES_FOLDER: Final = "cases"
_PROPOSAL_CHARACTERS: Final = 64


class Asked(Protocol):
    """Whoever answers what a node is asked."""

    def call(self, method: str, **params: Any) -> Any:
        """Return the answer to a method."""
        ...


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A policy set and what to call it."""

    label: str
    """For people, such as ``version 3`` or the directory."""
    schema: str
    policies: tuple[tuple[str, str], ...]
    """Name and text, sorted by name."""


def load_set(session: Session, name: str, ledger: Asked | None = None) -> NamedSet:
    """Return the set that `name` names; see `SOURCE_HELP`. One from a directory was checked.

    Args:
        session: For the node.
        name: What the command line says.
        ledger: Who is asked instead of the session's node.

    Raises:
        CommandError: ``cli.policy.source``: there is none.
        PolicyRefusedError: ``agent.policy.*``.
    """
    if Path(name).is_dir():
        from node.cli.network import read_policy_set

        return NamedSet(name, *read_policy_set(Path(name)))
    if name == "default":
        from agent.policy_text import default_policy_set

        return NamedSet("the built-in set", *default_policy_set())
    if name == "current" or (name.isascii() and name.isdecimal()):
        version = None if name == "current" else int(name)
        document = (ledger or session.client()).call("policy.get", version=version)
        policies = tuple((each["name"], each["text"]) for each in document["policies"])
        return NamedSet(f"version {document['version']}", document["schema"], policies)
    if len(name) == _PROPOSAL_CHARACTERS:
        return proposed_set((ledger or session.client()).call("governance.get", proposal_id=name.lower()))
    raise CommandError("cli.policy.source", "this names no policy set", expected=SOURCE_HELP, actual=name)


def proposed_set(proposal: dict[str, Any]) -> NamedSet:
    """Return the set that a proposal would adopt.

    Raises:
        CommandError: ``cli.policy.source``: it proposes something else.
    """
    action = proposal["action"]
    if action[0] != "set-policy":
        raise CommandError("cli.policy.source", "the proposal is not about a policy set", actual=str(action[0]))
    policies = tuple((str(name), str(text)) for name, text in action[2])
    return NamedSet(f"proposal {short(proposal['proposal_id'])}", str(action[1]), policies)


def find_cases(folder: Path | None, files: Iterable[Path]) -> tuple[Case, ...]:
    """Return the cases of the files; without any those beside the set in `folder`, or the built-in ones.

    Raises:
        CommandError: ``cli.policy.no_cases``.
        PolicyRefusedError: ``agent.policy.cases``.
    """
    from agent.policy_cases import read_cases_untrusted
    from ledger.limits import POLICY_CASES_BYTES_MAX
    from node.cli.files import read_file

    paths = list(files)
    if not paths and folder is None:
        from agent.gallery import default_cases

        return read_cases_untrusted(default_cases())
    if not paths and folder is not None:
        paths = sorted((folder / CASES_FOLDER).glob("*.json"))
    if not paths:
        raise CommandError(
            "cli.policy.no_cases", f"{folder} has no cases", expected=f"{folder}/{CASES_FOLDER}/*.json, or --cases FILE"
        )
    return tuple(case for path in paths for case in read_cases_untrusted(read_file(path, POLICY_CASES_BYTES_MAX)))


def network_cases(session: Session) -> tuple[Case, ...]:
    """Return the network's own cases, as the node has them; empty where there are none.

    Raises:
        PolicyRefusedError: ``agent.policy.cases``.
    """
    from agent.policy_cases import read_cases_untrusted

    text = session.client().call("policy.cases")["cases"]
    return read_cases_untrusted(text.encode()) if text else ()


def run_over(policy_set: NamedSet, cases: tuple[Case, ...]) -> CasesRun:
    """Return what the cases come to under a set. Raises `PolicyRefusedError` for a set that the network would not use."""
    from agent.policy import PolicyEngine
    from agent.policy_cases import run_cases
    from agent.policy_text import check_policy_set

    checked = check_policy_set(policy_set.schema, policy_set.policies)
    return run_cases(PolicyEngine(checked), checked.rules, cases)


def case_lines(done: CasesRun) -> Iterator[str]:
    """Yield one line for each case, and one for them all."""
    for each in done.results:
        rules = f" ({', '.join(each.forbidden_by)})" if each.forbidden_by else ""
        expected = "" if each.passed else f", expected {each.expected}"
        if not each.passed and each.expected is each.verdict:
            expected += " by other rules"
        yield f"{'ok  ' if each.passed else 'FAIL'}  {each.name}: {each.verdict}{rules}{expected}"
    yield f"{len(done.results) - done.failed} of {len(done.results)} cases came out as expected"


def coverage_lines(done: CasesRun) -> Iterator[str]:
    """Yield a table of the rules with how often each had a say, and one line for them all."""
    rows = [
        (each.name, each.effect, each.spoke, each.silent, each.alone, "yes" if each.is_covered else "NO")
        for each in done.coverage
    ]
    yield from table(rows, ("rule", "effect", "spoke", "silent", "alone", "covered"))
    covered = len(done.coverage) - len(done.uncovered)
    yield f"{covered} of {len(done.coverage)} rules are covered" + (
        f"; no case shows {', '.join(done.uncovered)}" if done.uncovered else ""
    )
