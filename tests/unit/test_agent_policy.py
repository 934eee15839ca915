"""Policy: the default set says yes only when every requirement holds, and whatever goes wrong denies."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cedar_request import cedar_requests
from agent.errors import PolicyRefusedError
from agent.facts import (
    ACTION_APPLY,
    ACTION_ROLLBACK,
    AttestorFacts,
    ComponentFacts,
    Facts,
    facts_from_json_untrusted,
)
from agent.policy import RULE_DEFAULT, RULE_ERROR, PolicyEngine
from agent.policy_text import CheckedPolicySet, check_policy_set, default_policy_set
from agent.sample_facts import FULL_FACTS, SAMPLE_FACTS
from wire import canonical_json
from wire.errors import RejectedError
from wire.limits import JSON_BYTES_MAX, JSON_DEPTH_MAX

SCHEMA, DEFAULT_POLICIES = default_policy_set()
PERMIT = '@id("permit") permit (principal, action, resource);'


@pytest.fixture(scope="module")
def checked() -> CheckedPolicySet:
    return check_policy_set(SCHEMA, DEFAULT_POLICIES)


@pytest.fixture(scope="module")
def engine(checked: CheckedPolicySet) -> PolicyEngine:
    return PolicyEngine(checked)


def with_system(**changes: Any) -> Facts:
    return replace(SAMPLE_FACTS, system=replace(SAMPLE_FACTS.system, **changes))


def with_patch(**changes: Any) -> Facts:
    return replace(SAMPLE_FACTS, patch=replace(SAMPLE_FACTS.patch, **changes))


def with_component(**changes: Any) -> Facts:
    return replace(SAMPLE_FACTS, components=(replace(SAMPLE_FACTS.components[0], **changes),))


def test_default_set_allows_the_sample_and_names_the_rule(engine: PolicyEngine) -> None:
    verdict = engine.evaluate(SAMPLE_FACTS)
    assert verdict.allowed
    assert verdict.allowed_by == ("permit-published-patch",)
    assert verdict.forbidden_by == ()
    assert verdict.missing == ()


SECURITY, QUALITY = SAMPLE_FACTS.approvals
REFUSED = [
    ("author-is-developer", replace(SAMPLE_FACTS, author=replace(SAMPLE_FACTS.author, roles=("auditor",)))),
    ("two-independent-approvals", replace(SAMPLE_FACTS, approvals=(SECURITY,))),
    # One person with two roles is one person.
    ("two-independent-approvals", replace(SAMPLE_FACTS, approvals=(SECURITY, replace(SECURITY, role="qa")))),
    ("security-review-approval", replace(SAMPLE_FACTS, approvals=(QUALITY, replace(QUALITY, identity="dan@delta")))),
    ("no-rejection", replace(SAMPLE_FACTS, rejections=(AttestorFacts("eve@acme", "acme", "compliance", 3),))),
    ("attestations-intact", with_patch(attestations_damaged=1)),
    ("no-hidden-text", with_patch(hidden_text=("bidirectional", "mixed_script"))),
    ("no-hidden-text", with_patch(hidden_text=("carriage_return",))),
    ("not-frozen", with_system(frozen=True)),
    ("in-maintenance-window", with_system(in_maintenance_window=False)),
    ("intents-acknowledged", with_system(unacknowledged_intents=1)),
    ("fresh-replica", with_system(replica_age_ms=60_001)),
    ("no-drift", with_system(drifted=True)),
    ("component-is-listed", with_component(listed=False)),
    ("release-counter-increases", with_component(installed_counter=7)),
    ("requester-is-operator", replace(SAMPLE_FACTS, requester=replace(SAMPLE_FACTS.requester, roles=("viewer",)))),
]


@pytest.mark.parametrize(("rule", "facts"), REFUSED, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(REFUSED)])
def test_default_set_denies_by_exactly_the_rule_that_is_broken(engine: PolicyEngine, rule: str, facts: Facts) -> None:
    verdict = engine.evaluate(facts)
    assert not verdict.allowed
    assert verdict.allowed_by == ()
    assert [name for name, _ in verdict.forbidden_by] == [rule]
    assert "pkg:deb/debian/foo@1.2" in verdict.forbidden_by[0][1]


def test_every_default_rule_is_shown_to_forbid() -> None:
    permits = {"permit-published-patch", "permit-rollback"}
    assert {name for name, _ in DEFAULT_POLICIES} == {rule for rule, _ in REFUSED} | permits


ROLLBACK = replace(SAMPLE_FACTS, action=ACTION_ROLLBACK)
WATCHED = {"not-frozen", "fresh-replica", "intents-acknowledged", "no-drift", "requester-is-operator"}


def test_default_set_lets_an_installed_patch_be_undone(engine: PolicyEngine) -> None:
    verdict = engine.evaluate(ROLLBACK)
    assert (verdict.allowed, verdict.allowed_by) == (True, ("permit-rollback",))


@pytest.mark.parametrize(("rule", "facts"), REFUSED, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(REFUSED)])
def test_only_rules_about_the_host_forbid_a_rollback(engine: PolicyEngine, rule: str, facts: Facts) -> None:
    verdict = engine.evaluate(replace(facts, action=ACTION_ROLLBACK))
    assert [name for name, _ in verdict.forbidden_by] == ([rule] if rule in WATCHED else [])
    assert verdict.allowed == (rule not in WATCHED)


def test_a_set_that_permits_applications_only_denies_a_rollback_by_default() -> None:
    permit = '@id("permit") permit (principal, action == Action::"apply_patch", resource);'
    engine = PolicyEngine(check_policy_set(SCHEMA, (("permit", permit),)))
    assert engine.evaluate(SAMPLE_FACTS).allowed
    assert engine.evaluate(ROLLBACK).forbidden_by == (
        (RULE_DEFAULT, "no rule permits a rollback of pkg:deb/debian/foo@1.2"),
    )


def test_a_schema_without_rollbacks_is_used_and_denies_them() -> None:
    before = SCHEMA.replace('action "apply_patch", "rollback_patch"', 'action "apply_patch"').replace(
        "rollback_patch", ""
    )
    engine = PolicyEngine(check_policy_set(before, (("permit", PERMIT),)))
    assert engine.evaluate(SAMPLE_FACTS).allowed
    assert [rule for rule, _ in engine.evaluate(ROLLBACK).forbidden_by] == [RULE_ERROR]


def test_a_schema_whose_rollbacks_do_not_fit_the_facts_is_refused() -> None:
    other = SCHEMA.replace('action "apply_patch", "rollback_patch"', 'action "apply_patch"')
    other += 'action "rollback_patch" appliesTo { principal: Identity, resource: Component, context: { now: Long } };'
    with pytest.raises(PolicyRefusedError) as refused:
        check_policy_set(other, (("permit", PERMIT),))
    assert refused.value.code == "agent.policy.invalid"


def test_facts_say_a_rollback_in_one_form_only() -> None:
    assert "action" not in SAMPLE_FACTS.to_json()
    assert ROLLBACK.to_json()["action"] == ACTION_ROLLBACK
    assert facts_from_json_untrusted(ROLLBACK.to_json()) == ROLLBACK
    assert facts_from_json_untrusted(SAMPLE_FACTS.to_json()) == SAMPLE_FACTS
    for action in (ACTION_APPLY, "else", "", 1, None):
        with pytest.raises(PolicyRefusedError) as refused:
            facts_from_json_untrusted({**SAMPLE_FACTS.to_json(), "action": action})
        assert refused.value.code == "agent.policy.facts"


def test_refusal_names_every_unmet_requirement_and_what_is_missing(engine: PolicyEngine) -> None:
    verdict = engine.evaluate(replace(with_system(frozen=True), approvals=()))
    assert [name for name, _ in verdict.forbidden_by] == [
        "not-frozen",
        "security-review-approval",
        "two-independent-approvals",
    ]
    assert verdict.missing == (
        "needs an approval with role security-review from another organisation than acme",
        "needs 2 more approvals from another organisation than acme",
    )
    one = engine.evaluate(replace(SAMPLE_FACTS, approvals=(SECURITY,)))
    assert one.missing == ("needs 1 more approval from another organisation than acme",)


def test_one_forbidden_component_denies_the_whole_patch(engine: PolicyEngine) -> None:
    other = ComponentFacts("zlib", ("z.c",), ("add",), False, -1)
    verdict = engine.evaluate(replace(SAMPLE_FACTS, components=(*SAMPLE_FACTS.components, other)))
    assert [name for name, _ in verdict.forbidden_by] == ["component-is-listed"]
    assert verdict.forbidden_by[0][1].startswith("zlib:")


def test_empty_set_denies() -> None:
    verdict = PolicyEngine(check_policy_set(SCHEMA, ())).evaluate(SAMPLE_FACTS)
    assert not verdict.allowed
    assert [name for name, _ in verdict.forbidden_by] == [RULE_DEFAULT]


def test_set_without_permit_denies() -> None:
    policies = tuple(each for each in DEFAULT_POLICIES if each[0] != "permit-published-patch")
    verdict = PolicyEngine(check_policy_set(SCHEMA, policies)).evaluate(SAMPLE_FACTS)
    assert [name for name, _ in verdict.forbidden_by] == [RULE_DEFAULT]


def test_forbid_that_errs_is_not_skipped() -> None:
    # Cedar skips an erring policy: with the permit alone left, the naive answer is Allow.
    overflow = (
        '@id("overflow") forbid (principal, action, resource) when { context.patch.files * 9223372036854775807 > 0 };'
    )
    engine = PolicyEngine(check_policy_set(SCHEMA, [("permit", PERMIT), ("overflow", overflow)]))
    verdict = engine.evaluate(with_patch(files=2))
    assert not verdict.allowed
    assert [name for name, _ in verdict.forbidden_by] == [RULE_ERROR]


MALFORMED = [
    with_patch(files="one"),
    with_patch(references=("\ud800",)),
    with_patch(references=(1,)),
    with_patch(sealed=None),
    with_patch(files=1 << 70),
    with_patch(created_ms=1 << 60),
    with_system(replica_age_ms=1.5),
    with_system(frozen="no"),
    replace(SAMPLE_FACTS, components=()),
    replace(SAMPLE_FACTS, now_ms=1 << 62),
    replace(SAMPLE_FACTS, requester=replace(SAMPLE_FACTS.requester, roles=(None,))),
    with_component(installed_counter=None),
]


@pytest.mark.parametrize("facts", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_facts_deny(engine: PolicyEngine, facts: Facts) -> None:
    verdict = engine.evaluate(facts)
    assert not verdict.allowed
    assert [name for name, _ in verdict.forbidden_by] == [RULE_ERROR]


def test_facts_that_another_schema_does_not_know_deny() -> None:
    other = SCHEMA.replace("records_waiting: Long,", "records_waiting: Long, moon_phase: Long,")
    assert other != SCHEMA
    engine = PolicyEngine(check_policy_set(other, [("permit", PERMIT)], samples=()))
    verdict = engine.evaluate(SAMPLE_FACTS)
    assert [name for name, _ in verdict.forbidden_by] == [RULE_ERROR]
    assert "moon_phase" in verdict.forbidden_by[0][1]


def refuse(policies: list[tuple[str, str]], schema: str = SCHEMA) -> PolicyRefusedError:
    with pytest.raises(PolicyRefusedError) as caught:
        check_policy_set(schema, policies)
    return caught.value


def nested(depth: int) -> str:
    return f'@id("deep") permit (principal, action, resource) when {{ {"(" * depth}true{")" * depth} }};'


BAD_SETS = [
    ("agent.policy.syntax", [("broken", '@id("broken") permit (')], "policy broken"),
    ("agent.policy.syntax", [("two", PERMIT.replace('"permit"', '"two"') * 2)], "exactly one policy"),
    ("agent.policy.syntax", [("none", "// nothing")], "exactly one policy"),
    ("agent.policy.syntax", [("slot", '@id("slot") permit (principal == ?principal, action, resource);')], "slots"),
    ("agent.policy.syntax", [("lone", "\ud800")], "surrogate"),
    ("agent.policy.name", [("renamed", PERMIT)], "@id"),
    ("agent.policy.name", [("Not A Name", PERMIT)], "name"),
    ("agent.policy.duplicate", [("permit", PERMIT), ("permit", PERMIT)], "twice"),
    (
        "agent.policy.invalid",
        [("typo", '@id("typo") permit (principal, action, resource) when { context.sytem.frozen };')],
        "sytem",
    ),
    ("agent.policy.too_large", [("permit", PERMIT + "//" + "x" * 70_000)], "too large"),
    ("agent.policy.too_large", [(f"p{i}", PERMIT) for i in range(300)], "too many"),
    ("agent.policy.too_large", [(f"p{i}", PERMIT + "//" + "x" * 60_000) for i in range(10)], "the set is too large"),
    ("agent.policy.nesting", [("deep", nested(700))], "brackets"),
    ("agent.policy.nesting", [("deep", f"// {'{' * 401}\n{PERMIT}")], "brackets"),
    (
        "agent.policy.nesting",
        [
            (
                "deep",
                f'@id("deep") permit (principal, action, resource) when {{ {"if true then true else " * 450} true }};',
            )
        ],
        "conditionals",
    ),
    ("agent.policy.crash", [("deep", nested(390))], "ended its process"),
]


@pytest.mark.parametrize(("code", "policies", "part"), BAD_SETS, ids=range(len(BAD_SETS)))
def test_bad_policy_text_is_refused_with_its_code(code: str, policies: list[tuple[str, str]], part: str) -> None:
    error = refuse(policies)
    assert error.code == code
    assert part in error.message


def test_bad_schema_is_refused() -> None:
    assert refuse([], "entity ;").code == "agent.policy.syntax"
    assert refuse([], "x" * 200_000).code == "agent.policy.too_large"
    deep = "entity A = { a: " + "Set<" * 500 + "Long" + ">" * 500 + "};"
    assert refuse([], deep).code == "agent.policy.nesting"
    # A schema that cannot take our requests is refused before anybody adopts it, not at the first patch.
    assert refuse([("permit", PERMIT)], SCHEMA.replace("frozen: Bool", "icy: Bool")).code == "agent.policy.invalid"


def test_first_error_is_told_and_the_others_are_counted() -> None:
    error = refuse([("a", "("), ("b", "(")])
    assert error.message.startswith("policy a ")
    assert "1 more" in error.message
    assert error.details["errors"] == 2


@pytest.mark.parametrize("facts", [SAMPLE_FACTS, FULL_FACTS], ids=["sample", "full"])
def test_facts_survive_canonical_json(facts: Facts) -> None:
    raw = canonical_json.encode(facts.to_json())
    document = canonical_json.decode_untrusted(raw, bytes_max=JSON_BYTES_MAX, depth_max=JSON_DEPTH_MAX, canonical=True)
    assert facts_from_json_untrusted(document) == facts


def documents() -> list[tuple[str, Any]]:
    plain = SAMPLE_FACTS.to_json()

    def changed(*path: Any, value: Any) -> Any:
        document = SAMPLE_FACTS.to_json()
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return document

    without = SAMPLE_FACTS.to_json()
    del without["patch"]
    return [
        ("facts", []),
        ("facts", None),
        ("facts.patch", without),
        ("facts.extra", {**plain, "extra": 1}),
        ("facts.version", changed("version", value=1)),
        ("facts.height", changed("height", value=True)),
        ("facts.height", changed("height", value=-1)),
        ("facts.now_ms", changed("now_ms", value=1 << 53)),
        ("facts.system.frozen", changed("system", "frozen", value=0)),
        ("facts.patch.references", changed("patch", "references", value="CVE")),
        ("facts.patch.references", changed("patch", "references", value=[1])),
        ("facts.patch.references", changed("patch", "references", value=["x"] * 4097)),
        ("facts.patch.id", changed("patch", "id", value="\ud800")),
        ("facts.patch.id", changed("patch", "id", value="x" * 5000)),
        ("facts.patch.id", changed("patch", "id", value="é" * 4000)),
        ("facts.components.listed", changed("components", 0, "listed", value="yes")),
        ("facts.approvals", changed("approvals", 0, value=3)),
        ("facts.requester.x", changed("requester", "x", value=3)),
        ("facts.rollout.first_success_ms", changed("rollout", "first_success_ms", value=-2)),
        ("facts.statements", changed("statements", value={})),
        (
            "facts.statements.readable",
            changed("statements", value=[{**asdict(FULL_FACTS.statements[0]), "readable": 1}]),
        ),
        (
            "facts.system.emergencies.x",
            changed("system", "emergencies", value=[{"patch": "", "applied_ms": 1, "x": 1}]),
        ),
    ]


@pytest.mark.parametrize(("member", "document"), documents())
def test_facts_refuse_what_is_not_their_form(member: str, document: Any) -> None:
    with pytest.raises(PolicyRefusedError) as caught:
        facts_from_json_untrusted(document)
    assert caught.value.code == "agent.policy.facts"
    assert caught.value.details["member"] == member


@pytest.mark.parametrize("facts", [SAMPLE_FACTS, FULL_FACTS], ids=["sample", "full"])
def test_requests_name_every_entity_they_use(facts: Facts) -> None:
    (request,) = cedar_requests(facts)
    known = {(each["uid"]["type"], each["uid"]["id"]) for each in request.entities}  # type: ignore[index,call-overload]

    def references(value: Any) -> set[tuple[str, str]]:
        if isinstance(value, dict):
            if "__entity" in value:
                return {(value["__entity"]["type"], value["__entity"]["id"])}
            if set(value) == {"type", "id"}:
                return {(value["type"], value["id"])}
            return set().union(*map(references, value.values())) if value else set()
        if isinstance(value, list):
            return set().union(*map(references, value)) if value else set()
        return set()

    used = references(request.request) | references(request.entities)
    assert used - known == {("Action", "apply_patch")}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    member=st.sampled_from(sorted(SAMPLE_FACTS.to_json())),
    inner=st.integers(min_value=0, max_value=20),
    value=json_values,
)
def test_whatever_stands_in_the_facts_they_are_refused_or_judged(
    engine: PolicyEngine, member: str, inner: int, value: Any
) -> None:
    document: dict[str, Any] = dict(SAMPLE_FACTS.to_json())
    part = document[member]
    if isinstance(part, dict):
        document[member] = {**part, sorted(part)[inner % len(part)]: value}
    else:
        document[member] = value
    try:
        facts = facts_from_json_untrusted(document)
    except RejectedError:
        return
    verdict = engine.evaluate(facts)
    assert verdict.allowed == bool(verdict.allowed_by)
    assert verdict.allowed == (not verdict.forbidden_by)


_EVALUATE = """
from agent.decision import make_decision
from agent.gallery import list_templates, with_templates
from agent.pipeline import encode_decision
from agent.policy import PolicyEngine
from agent.policy_text import check_policy_set
from agent.sample_facts import FULL_FACTS
from wire.hashing import sha256
policies = with_templates(list_templates())
verdict = PolicyEngine(check_policy_set(*policies)).evaluate(FULL_FACTS)
print(len(verdict.forbidden_by), sha256(encode_decision(make_decision(verdict, FULL_FACTS, (), 1, bytes(32)))).hex())
"""


def test_every_process_comes_to_the_same_bytes(repository_root: Path) -> None:
    """Sets and dictionaries have another order in each process; a decision has not."""
    said = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(repository_root)}
        done = subprocess.run(
            [sys.executable, "-c", _EVALUATE], env=environment, capture_output=True, text=True, check=True
        )
        said.add(done.stdout)
    (answer,) = said
    # Many rules forbid, so their order had every chance to differ.
    assert int(answer.split()[0]) > 5
