"""Cases: facts with the verdict that is expected of them, and what running them over a policy set shows about its rules.

A case is ``{"name", "facts", "expect": "allow"|"deny", "forbidden_by": [rule …], "among": [rule …]}``. Its facts are laid over those of an
ordinary patch, so that it names only what matters. `forbidden_by`, when there, is exactly what forbids. With `among`, only those rules are
looked at: so cases about some rules go on holding when other rules are added to the set.

Source: docs/spec/policy.md 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.decision import Answer
from agent.errors import PolicyRefusedError
from agent.facts import Facts, facts_from_json_untrusted
from agent.policy import PolicyEngine
from agent.policy_text import Rule
from agent.sample_facts import SAMPLE_FACTS
from ledger.limits import POLICY_CASES_BYTES_MAX
from wire import canonical_json
from wire.errors import RejectedError

CASES_MAX: Final = 1_000
"""Cases in one list."""
_MEMBERS: Final = frozenset({"name", "facts", "expect", "forbidden_by", "among"})
_NAME_CHARACTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Case:
    """What one set of facts must come to."""

    name: str
    facts: Facts
    expect: Answer
    forbidden_by: tuple[str, ...] | None
    """Exactly what forbids, sorted; None where the case does not say."""
    among: frozenset[str] | None
    """The only rules that are looked at, or None for all."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one case came to."""

    name: str
    passed: bool
    expected: Answer
    verdict: Answer
    """Of the rules that the case looks at."""
    forbidden_by: tuple[str, ...]
    """Those of them that forbade, sorted."""


@dataclass(frozen=True, slots=True)
class RuleCoverage:
    """How often a rule had a say in the cases."""

    name: str
    effect: str
    """`permit` or `forbid`."""
    spoke: int
    """Cases in which it permitted, or forbade."""
    silent: int
    """Cases in which it did not."""
    alone: int
    """Cases in which it was the only rule to forbid: without it they would come out otherwise."""

    @property
    def is_covered(self) -> bool:
        """Whether the cases show that it speaks, and of a `forbid` also that it is silent."""
        return self.spoke > 0 and (self.effect == "permit" or self.silent > 0)


@dataclass(frozen=True, slots=True)
class CasesRun:
    """The cases of one run, and the rules of the set that was run."""

    results: tuple[CaseResult, ...]
    coverage: tuple[RuleCoverage, ...]
    """In order of name."""

    @property
    def failed(self) -> int:
        """Cases that came out otherwise than expected."""
        return sum(not each.passed for each in self.results)

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Rules that the cases do not show, sorted."""
        return tuple(each.name for each in self.coverage if not each.is_covered)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "cases": [
                {
                    "name": each.name,
                    "passed": each.passed,
                    "expected": each.expected.value,
                    "verdict": each.verdict.value,
                    "forbidden_by": list(each.forbidden_by),
                }
                for each in self.results
            ],
            "failed": self.failed,
            "coverage": [
                {
                    "rule": each.name,
                    "effect": each.effect,
                    "spoke": each.spoke,
                    "silent": each.silent,
                    "alone": each.alone,
                    "covered": each.is_covered,
                }
                for each in self.coverage
            ],
            "uncovered": list(self.uncovered),
        }


def read_cases_untrusted(raw: bytes) -> tuple[Case, ...]:
    """Return the cases of a JSON list.

    Raises:
        PolicyRefusedError: ``agent.policy.cases``, naming the case.
        MalformedError: ``wire.json.*``.
    """
    value = canonical_json.decode_untrusted(raw, bytes_max=POLICY_CASES_BYTES_MAX, canonical=False)
    if not isinstance(value, list) or not 1 <= len(value) <= CASES_MAX:
        raise _refuse(f"the cases are not a list of 1 to {CASES_MAX}")
    cases = tuple(_read_case(index, each) for index, each in enumerate(value))
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise _refuse(f"two cases have the name {next(name for name in names if names.count(name) > 1)}")
    return cases


def run_cases(engine: PolicyEngine, rules: Mapping[str, Rule], cases: Sequence[Case]) -> CasesRun:
    """Return what the cases come to under the set of `engine`, and how often each of its `rules` had a say."""
    spoke = dict.fromkeys(rules, 0)
    alone = dict.fromkeys(rules, 0)
    results = []
    for case in cases:
        verdict = engine.evaluate(case.facts)
        forbade = tuple(rule for rule, _ in verdict.forbidden_by)
        for rule in (*verdict.allowed_by, *forbade):
            if rule in spoke:
                spoke[rule] += 1
        if len(forbade) == 1 and forbade[0] in alone:
            alone[forbade[0]] += 1
        # What no policy decided (an error, or that nothing permits) is never left out.
        seen = tuple(rule for rule in forbade if case.among is None or rule in case.among or rule not in rules)
        said = Answer.DENY if seen else Answer.ALLOW
        passed = said is case.expect and case.forbidden_by in (None, seen)
        results.append(CaseResult(case.name, passed, case.expect, said, seen))
    coverage = tuple(
        RuleCoverage(name, rules[name].effect, spoke[name], len(cases) - spoke[name], alone[name])
        for name in sorted(rules)
    )
    return CasesRun(tuple(results), coverage)


def laid_over(base: Any, change: Any) -> Any:
    """Return `base` with the members of `change` in place of its own, at every depth of objects."""
    if isinstance(base, dict) and isinstance(change, dict):
        return {**base, **{name: laid_over(base.get(name), value) for name, value in change.items()}}
    return change


def _read_case(index: int, value: object) -> Case:
    which = f"case {index + 1}"
    if not isinstance(value, dict):
        raise _refuse(f"{which} is not an object")
    if unknown := sorted(value.keys() - _MEMBERS):
        raise _refuse(f"{which} has an unknown member: {unknown[0]}")
    name = value.get("name", which)
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_CHARACTERS_MAX:
        raise _refuse(f"{which} has no name of at most {_NAME_CHARACTERS_MAX} characters")
    if value.get("expect") not in ("allow", "deny"):
        raise _refuse(f"{which} does not say whether it expects allow or deny")
    try:
        facts = facts_from_json_untrusted(laid_over(SAMPLE_FACTS.to_json(), value.get("facts", {})))
    except RejectedError as error:
        raise _refuse(f"{name}: {error.message}") from error
    forbidden_by, among = _rules(which, value, "forbidden_by"), _rules(which, value, "among")
    return Case(name, facts, Answer(value["expect"]), forbidden_by, None if among is None else frozenset(among))


def _rules(which: str, value: Mapping[str, object], member: str) -> tuple[str, ...] | None:
    names = value.get(member)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _refuse(f"{which}: {member} is not a list of rules")
    return tuple(sorted(names))


def _refuse(sentence: str) -> PolicyRefusedError:
    return PolicyRefusedError("agent.policy.cases", sentence)
