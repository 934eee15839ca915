"""A policy set as text, proven safe to evaluate before it is: caps here, everything else in a child process.

Cedar's parser recurses without a limit, so hostile text can end the process that parses it, and neither exception nor message says so.
Text is therefore first bounded by counting, then parsed, validated and tried out in a throw-away process on a small stack
(`agent.policy_child`); a crash there is a refusal. The child hands back Cedar's own JSON form, in which every policy bears its name.

Source: docs/spec/policy.md 4.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Final

from agent.cedar_request import cedar_requests
from agent.errors import PolicyRefusedError
from agent.facts import ACTION_ROLLBACK, Facts
from agent.limits import POLICY_BRACKETS_MAX, POLICY_CHILD_SECONDS_MAX, POLICY_CONDITIONALS_MAX
from agent.sample_facts import FULL_FACTS, SAMPLE_FACTS
from ledger.limits import POLICIES_MAX, POLICY_BYTES_MAX, POLICY_SCHEMA_BYTES_MAX, POLICY_SET_BYTES_MAX
from wire.errors import MalformedError
from wire.fields import as_identifier

_POLICY_SUFFIX: Final = ".cedar"
_SCHEMA_NAME: Final = "schema.cedarschema"
_UNACKNOWLEDGED: Final = "unacknowledged_intents"
_CHILD: Final = (sys.executable, "-I", "-m", "agent.policy_child")
_CHILD_OUTPUT_BYTES_MAX: Final = 16 * POLICY_SET_BYTES_MAX
_CONDITIONAL: Final = re.compile(r"\bif\b")


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy, as far as explanations need it."""

    name: str
    """The policy's name; equal to its `@id`."""
    effect: str
    """`permit` or `forbid`."""
    reason: str
    """The `@reason` sentence, or "" when the policy has none."""
    needs_approvals: int
    """Approvals that the policy says it needs (`@needs_approvals`), 0 when it says none. Explains, never decides."""
    needs_role: str
    """Role that the policy says an approval must have (`@needs_role`), "" when it says none. Explains, never decides."""


@dataclass(frozen=True, slots=True)
class CheckedPolicySet:
    """A policy set that was parsed, validated against its schema and tried out in a child process."""

    schema: str
    """Cedar schema text."""
    document: str
    """The set in Cedar's JSON form; every static policy is keyed by its name."""
    rules: Mapping[str, Rule]
    """The rules by name."""


def default_policy_set() -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the policy set that a new network starts with: the schema, and each policy as (name, text) sorted by name."""
    folder = resources.files("agent").joinpath("policies")
    texts = {
        entry.name.removesuffix(_POLICY_SUFFIX): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(_POLICY_SUFFIX)
    }
    return folder.joinpath(_SCHEMA_NAME).read_text(encoding="utf-8"), tuple(sorted(texts.items()))


def check_policy_set(
    schema: str, policies: Sequence[tuple[str, str]], *, samples: Sequence[Facts] = (SAMPLE_FACTS, FULL_FACTS)
) -> CheckedPolicySet:
    """Return the set as one that is safe to evaluate. Blocks for the life of a child process, about 0.1 s.

    Args:
        schema: Cedar schema text.
        policies: (name, text) pairs; each text is one policy whose `@id` is the name. May be empty: an empty set denies.
        samples: Facts that every policy must evaluate without an error.

    Raises:
        PolicyRefusedError: ``agent.policy.too_large``, ``.nesting``, ``.name``, ``.duplicate``, ``.syntax``, ``.invalid``, ``.crash``.
    """
    _check_caps(schema, policies)
    answer = _run_child(schema, policies, samples)
    errors = answer.get("errors")
    if errors:
        code, name, message = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        subject = f"policy {name}" if name else "the schema"
        raise PolicyRefusedError(
            f"agent.policy.{code}", f"{subject} {message}{more}", details={"policy": name, "errors": len(errors)}
        )
    document = answer["document"]
    return CheckedPolicySet(schema, json.dumps(document), _rules(document["staticPolicies"]))


def _check_caps(schema: str, policies: Sequence[tuple[str, str]]) -> None:
    _check_text("the schema", schema, POLICY_SCHEMA_BYTES_MAX)
    if len(policies) > POLICIES_MAX:
        raise PolicyRefusedError(
            "agent.policy.too_large", "a set holds too many policies", expected=POLICIES_MAX, actual=len(policies)
        )
    names: set[str] = set()
    for name, text in policies:
        try:
            as_identifier(name, "the policy's name")
        except MalformedError as error:
            raise PolicyRefusedError("agent.policy.name", error.message) from None
        if name in names:
            raise PolicyRefusedError("agent.policy.duplicate", f"policy {name} occurs twice in the set")
        names.add(name)
        _check_text(f"policy {name}", text, POLICY_BYTES_MAX)
    total = len(schema) + sum(len(text) for _, text in policies)
    if total > POLICY_SET_BYTES_MAX:
        raise PolicyRefusedError(
            "agent.policy.too_large",
            "the set is too large",
            expected=f"at most {POLICY_SET_BYTES_MAX} bytes",
            actual=total,
        )


def _check_text(subject: str, text: str, bytes_max: int) -> None:
    try:
        length = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise PolicyRefusedError("agent.policy.syntax", f"{subject} holds a lone surrogate") from None
    if length > bytes_max:
        raise PolicyRefusedError(
            "agent.policy.too_large", f"{subject} is too large", expected=f"at most {bytes_max} bytes", actual=length
        )
    # Counting every opener, also in strings and comments, bounds the nesting from above and cannot be fooled.
    brackets = sum(map(text.count, "([{<"))
    if brackets > POLICY_BRACKETS_MAX or len(_CONDITIONAL.findall(text)) > POLICY_CONDITIONALS_MAX:
        raise PolicyRefusedError(
            "agent.policy.nesting",
            f"{subject} has too many opening brackets or conditionals to be parsed safely",
            expected=f"at most {POLICY_BRACKETS_MAX}",
            actual=brackets,
            hint="split it into several policies",
        )


def _run_child(schema: str, policies: Sequence[tuple[str, str]], samples: Sequence[Facts]) -> dict[str, Any]:
    # A schema of before there were rollbacks does not name them; hosts then deny every one.
    undone = [replace(facts, action=ACTION_ROLLBACK) for facts in samples] if ACTION_ROLLBACK in schema else []
    # The same for hosts that go on without the ledger.
    alone = [
        replace(facts, system=replace(facts.system, unacknowledged_intents=1))
        for facts in samples
        if _UNACKNOWLEDGED in schema
    ]
    tried = (*samples, *undone, *alone)
    requests = [[one.request, one.entities] for facts in tried for one in cedar_requests(facts)]
    question = json.dumps({"schema": schema, "policies": [list(each) for each in policies], "requests": requests})
    try:
        done = subprocess.run(
            _CHILD, input=question.encode(), capture_output=True, timeout=POLICY_CHILD_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise PolicyRefusedError("agent.policy.crash", "checking the policy set took too long") from None
    if done.returncode != 0 or len(done.stdout) > _CHILD_OUTPUT_BYTES_MAX:
        raise PolicyRefusedError(
            "agent.policy.crash", "checking the policy set ended its process", details={"exit": done.returncode}
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _rules(policies: Mapping[str, Any]) -> dict[str, Rule]:
    rules = {}
    for name, policy in policies.items():
        annotations = policy.get("annotations") or {}
        needed = annotations.get("needs_approvals") or "0"
        rules[name] = Rule(
            name=name,
            effect=str(policy["effect"]),
            reason=annotations.get("reason") or "",
            needs_approvals=int(needed) if needed.isdecimal() else 0,
            needs_role=annotations.get("needs_role") or "",
        )
    return rules
