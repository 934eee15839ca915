"""The gallery: every template passes the network's checks, its cases hold, and they show each of its rules."""

from __future__ import annotations

import json

import pytest

from agent.errors import PolicyRefusedError
from agent.gallery import Template, default_cases, get_template, list_templates, with_templates
from agent.policy import PolicyEngine
from agent.policy_cases import CasesRun, laid_over, read_cases_untrusted, run_cases
from agent.policy_text import check_policy_set, default_policy_set
from wire.errors import MalformedError

TEMPLATES = list_templates()
PERMIT = '@id("permit") permit (principal, action, resource);'


def run(policies: tuple[str, tuple[tuple[str, str], ...]], cases: bytes) -> CasesRun:
    checked = check_policy_set(*policies)
    return run_cases(PolicyEngine(checked), checked.rules, read_cases_untrusted(cases))


def test_gallery_has_the_usual_regimes() -> None:
    assert [each.name for each in TEMPLATES] == [
        "canary-then-fleet",
        "component-owners",
        "emergency",
        "freeze-and-windows",
        "licence-gate",
        "offline-hosts",
        "separation-of-duties",
        "two-person-rule",
        "verified-builds",
        "vulnerability-gate",
    ]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: each.name)
def test_cases_of_a_template_hold_and_show_each_of_its_rules(template: Template) -> None:
    done = run(with_templates([template]), template.cases)
    assert [each.name for each in done.results if not each.passed] == []
    own = {name for name, _ in template.policies}
    assert own & set(done.uncovered) == set()
    # Each rule decides some case by itself, so a template from which it was taken would fail.
    assert {each.name for each in done.coverage if each.name in own and each.alone == 0} <= {
        "two-independent-approvals",
        "security-review-approval",
    }
    assert min(len(template.title), len(template.about)) > 20


def test_default_cases_hold_and_cover_every_rule() -> None:
    done = run(default_policy_set(), default_cases())
    assert (done.failed, done.uncovered) == (0, ())


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: each.name)
def test_template_without_one_of_its_rules_fails_its_cases(template: Template) -> None:
    schema, policies = with_templates([template])
    defaults = dict(default_policy_set()[1])
    for name, _ in template.policies:
        rest = tuple(
            (each, defaults.get(each, text) if each == name else text)
            for each, text in policies
            if each != name or name in defaults
        )
        assert run((schema, rest), template.cases).failed > 0, name


def test_all_templates_together_are_one_set_that_the_network_accepts() -> None:
    checked = check_policy_set(*with_templates(TEMPLATES))
    assert len(checked.rules) == len(with_templates(TEMPLATES)[1])


def test_two_templates_with_one_name_are_refused() -> None:
    one = get_template("two-person-rule")
    other = Template("other", "", "", (("release-is-sealed", PERMIT),), b"")
    with pytest.raises(PolicyRefusedError) as caught:
        with_templates([one, other])
    assert caught.value.code == "agent.policy.template_conflict"


def test_unknown_template_is_refused() -> None:
    with pytest.raises(PolicyRefusedError) as caught:
        get_template("nothing")
    assert caught.value.code == "agent.policy.template"


def test_case_looks_only_at_the_rules_it_names() -> None:
    frozen = {"name": "frozen", "facts": {"system": {"frozen": True}}}
    cases = [
        {**frozen, "expect": "allow", "among": ["no-drift"]},
        {
            **frozen,
            "name": "both",
            "expect": "deny",
            "forbidden_by": ["not-frozen"],
            "among": ["not-frozen", "no-drift"],
        },
    ]
    assert run(default_policy_set(), json.dumps(cases).encode()).failed == 0
    # What no policy decided is never out of sight.
    nothing = run((default_policy_set()[0], ()), json.dumps(cases[:1]).encode())
    assert [each.forbidden_by for each in nothing.results] == [("default-deny",)]


def test_coverage_tells_rules_that_no_case_shows() -> None:
    cases = [{"expect": "allow"}, {"name": "frozen", "expect": "deny", "facts": {"system": {"frozen": True}}}]
    done = run(default_policy_set(), json.dumps(cases).encode())
    by_name = {each.name: each for each in done.coverage}
    assert (by_name["not-frozen"].spoke, by_name["not-frozen"].silent, by_name["not-frozen"].alone) == (1, 1, 1)
    assert "no-drift" in done.uncovered
    assert "not-frozen" not in done.uncovered
    assert "permit-published-patch" not in done.uncovered


@pytest.mark.parametrize(
    "cases",
    [
        b"{}",
        b"[]",
        b'["x"]',
        b'[{"name": "no expectation"}]',
        b'[{"expect": "maybe"}]',
        b'[{"expect": "allow", "typo": 1}]',
        b'[{"expect": "allow", "name": ""}]',
        b'[{"expect": "allow", "name": 1}]',
        b'[{"expect": "deny", "forbidden_by": "x"}]',
        b'[{"expect": "deny", "among": [1]}]',
        b'[{"expect": "allow", "facts": {"unknown": 1}}]',
        b'[{"expect": "allow", "facts": []}]',
        b'[{"expect": "allow", "name": "a"}, {"expect": "deny", "name": "a"}]',
    ],
)
def test_cases_without_their_form_are_refused(cases: bytes) -> None:
    with pytest.raises(PolicyRefusedError) as caught:
        read_cases_untrusted(cases)
    assert caught.value.code == "agent.policy.cases"


def test_cases_that_are_too_large_are_refused_before_they_are_read() -> None:
    with pytest.raises(MalformedError):
        read_cases_untrusted(b"[" + b" " * (1 << 20) + b"]")


def test_laying_over_replaces_lists_and_descends_into_objects() -> None:
    assert laid_over({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": 4}) == {"a": {"b": 1, "c": [3]}, "d": 4}
