"""Policy decisions: the same facts and the same set always give the same verdict, and whatever goes wrong denies.

Cedar skips a `forbid` whose condition errs, so an error would allow. Hence the schema goes with every call, and any error, any unknown
outcome and any exception of the library is a denial with the rule ``policy-error``.

Source: docs/spec/policy.md 5.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import cedarpy

from agent.cedar_request import CedarRequest, cedar_requests
from agent.errors import PolicyRefusedError
from agent.facts import ACTION_ROLLBACK, Facts
from agent.policy_text import CheckedPolicySet, Rule
from wire.errors import show_value

RULE_ERROR: Final = "policy-error"
"""What forbids when evaluation itself failed; no policy can have this name, because no policy decided."""
_PATHS: Final = "paths"
"""The attribute of a component that a record of a decision may hold by digest only."""
_PATHS_ELSEWHERE: Final = "the paths of this wide patch were recorded by their digest only; they stand in its file"
RULE_DEFAULT: Final = "default-deny"
"""What forbids when no rule forbids and none permits."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies say about one patch on one target."""

    allowed: bool
    """True only when every component is permitted and nothing erred."""
    allowed_by: tuple[str, ...]
    """Names of the rules that permitted, sorted; empty when denied."""
    forbidden_by: tuple[tuple[str, str], ...]
    """(rule, reason) of everything that forbade, sorted by rule; empty when allowed."""
    missing: tuple[str, ...]
    """What would have to be added, one sentence each."""


class PolicyEngine:
    """A checked policy set, parsed once and evaluated many times. Safe to use from several threads: nothing in it changes.

    Args:
        checked: What `check_policy_set` returned.
    """

    def __init__(self, checked: CheckedPolicySet) -> None:
        self._rules = checked.rules
        self._schema = cedarpy.Schema.from_str(checked.schema)
        self._policies = cedarpy.PolicySet.from_json_str(checked.document)
        # The document is the parsed form, in which a name has one spelling; an annotation that has the word only makes this careful.
        self._reads_paths = json.dumps(_PATHS) in checked.document

    def can_judge(self, facts: Facts) -> bool:
        """Return whether the facts hold all that the rules look at: of a wide patch, a record lacks the paths."""
        return not (self._reads_paths and facts.lacks_paths)

    def evaluate(self, facts: Facts) -> Verdict:
        """Return the verdict on `facts`; never raises for facts that are wrong, it denies.

        Every component is one evaluation; the patch is allowed when all are.
        """
        if not self.can_judge(facts):
            return _deny({RULE_ERROR: _PATHS_ELSEWHERE}, ())
        try:
            requests = cedar_requests(facts)
        except PolicyRefusedError as error:
            return _deny({RULE_ERROR: error.message}, ())
        permitted: set[str] = set()
        forbidden: dict[str, str] = {}
        for request in requests:
            allowed_by, forbidden_by = self._ask(request)
            permitted.update(allowed_by)
            for name, reason in forbidden_by.items():
                forbidden.setdefault(name, reason)
        if forbidden:
            return _deny(forbidden, self._missing(forbidden, facts))
        return Verdict(True, tuple(sorted(permitted)), (), ())

    def _ask(self, request: CedarRequest) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the rules that permit and the ones that forbid; exactly one of the two is empty."""
        try:
            result = cedarpy.is_authorized(request.request, self._policies, request.entities, self._schema)
            decision = result.decision
            reasons = tuple(result.diagnostics.reasons)
            errors = [str(error) for error in result.diagnostics.errors]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return (), {RULE_ERROR: f"{request.component}: {show_value(str(error))}"}
        if errors:
            return (), {RULE_ERROR: f"{request.component}: {show_value(errors[0])}"}
        if decision is cedarpy.Decision.Allow and reasons:
            return reasons, {}
        if not reasons:
            what = "a rollback" if request.action == ACTION_ROLLBACK else "a patch"
            return (), {RULE_DEFAULT: f"no rule permits {what} of {request.component}"}
        return (), {name: self._sentence(name, request.component) for name in reasons}

    def _sentence(self, name: str, component: str) -> str:
        rule = self._rules.get(name)
        reason = rule.reason if rule and rule.reason else f"the policy {name} forbids it"
        return f"{component}: {reason}"

    def _missing(self, forbidden: dict[str, str], facts: Facts) -> tuple[str, ...]:
        rules = [self._rules[name] for name in sorted(forbidden) if name in self._rules]
        return tuple(sentence for rule in rules for sentence in _needs(rule, facts))


def _needs(rule: Rule, facts: Facts) -> list[str]:
    """Return what the rule says it lacks. Annotations explain; only the condition decides."""
    sentences = []
    organisation = facts.author.organisation
    given = len({each.identity for each in facts.approvals})
    if rule.needs_approvals > given:
        count = rule.needs_approvals - given
        noun = "approval" if count == 1 else "approvals"
        sentences.append(f"needs {count} more {noun} from another organisation than {organisation}")
    if rule.needs_role and rule.needs_role not in {each.role for each in facts.approvals}:
        sentences.append(f"needs an approval with role {rule.needs_role} from another organisation than {organisation}")
    return sentences


def _deny(forbidden: dict[str, str], missing: tuple[str, ...]) -> Verdict:
    return Verdict(False, (), tuple(sorted(forbidden.items())), missing)
