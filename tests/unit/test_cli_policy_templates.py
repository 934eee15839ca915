"""`patchwarden policy init` with several templates: any of them make one set whose cases hold and show each of its rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.facts import facts_from_json_untrusted
from agent.gallery import list_templates
from agent.policy import PolicyEngine
from agent.policy_cases import CasesRun, run_cases
from agent.policy_text import CheckedPolicySet, check_policy_set
from agent.sample_facts import SAMPLE_FACTS
from node.cli.policy_source import find_cases
from tests.testkit.cli import run, run_json

TEMPLATES = tuple(each.name for each in list_templates())


def as_written(folder: Path) -> tuple[CheckedPolicySet, CasesRun]:
    """Return the set that `policy init` wrote with what its cases come to, as `policy test` has it but checked once."""
    schema = (folder / "schema.cedarschema").read_text()
    checked = check_policy_set(schema, [(path.stem, path.read_text()) for path in sorted(folder.glob("*.cedar"))])
    return checked, run_cases(PolicyEngine(checked), checked.rules, find_cases(folder, ()))


@pytest.mark.parametrize("one", TEMPLATES)
def test_any_two_templates_together_pass_their_cases_and_show_every_rule(tmp_path: Path, one: str) -> None:
    for other in (each for each in TEMPLATES if each > one):
        # Which of the two is named first makes no difference to what is written.
        names = (one, other) if len(one) % 2 else (other, one)
        run_json("policy", "init", tmp_path / other, *(part for name in names for part in ("--template", name)))
        _, done = as_written(tmp_path / other)
        assert ([each for each in done.results if not each.passed], done.uncovered) == ([], ()), other


def test_all_templates_together_pass_their_cases_and_say_what_holds_for_emergencies(tmp_path: Path) -> None:
    options = [part for name in TEMPLATES for part in ("--template", name)]
    document = run_json("policy", "init", tmp_path / "all", *options)
    done = run_json("policy", "test", tmp_path / "all", "--require-coverage")
    assert (done["failed"], done["uncovered"]) == (0, [])
    assert document["replaced"] == [
        {"template": "emergency", "other": "two-person-rule", "policies": ["two-people-of-two-organisations"]}
    ]
    still = ["build-is-verified", "canaries-have-it", "canaries-have-run-it", "owner-of-foo", "qa-approval", "scanned"]
    assert document["emergency_forbidden_by"] == still


def test_an_emergency_goes_in_under_the_two_person_rule_and_nothing_else_does(tmp_path: Path) -> None:
    names = ("--template", "two-person-rule", "--template", "emergency")
    said = run("policy", "init", tmp_path / "set", *names).out
    assert "emergency has its own form of two-people-of-two-organisations of two-person-rule" in said
    assert "must still satisfy" not in said
    engine = PolicyEngine(as_written(tmp_path / "set")[0])
    emergency = SAMPLE_FACTS.to_json() | {
        "approvals": [{"identity": "eve@beta", "organisation": "beta", "role": "emergency", "recorded_height": 3}]
    }
    assert engine.evaluate(facts_from_json_untrusted(emergency)).forbidden_by == ()
    for change, rule in (
        ({"category": "feature"}, "two-people-of-two-organisations"),
        ({"sealed": False}, "release-is-sealed"),
    ):
        facts = facts_from_json_untrusted(emergency | {"patch": emergency["patch"] | change})
        assert rule in [name for name, _ in engine.evaluate(facts).forbidden_by]
    # Alone, the two-person rule knows no exception.
    run_json("policy", "init", tmp_path / "alone", "--template", "two-person-rule")
    alone = PolicyEngine(as_written(tmp_path / "alone")[0]).evaluate(facts_from_json_untrusted(emergency))
    assert "two-people-of-two-organisations" in [name for name, _ in alone.forbidden_by]
