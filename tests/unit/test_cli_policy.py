"""`patchwarden policy`: the checks of the network, and cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.testkit.cli import refused, run, run_json

ONE_APPROVAL = {
    "approvals": [{"identity": "bob@beta", "organisation": "beta", "role": "security-review", "recorded_height": 3}]
}


def write_cases(path: Path, cases: Any) -> Path:
    path.write_text(json.dumps(cases))
    return path


def test_built_in_set_passes_its_own_lint() -> None:
    document = run_json("policy", "lint")
    assert document["valid"] is True
    names = {each["name"] for each in document["policies"]}
    assert {"two-independent-approvals", "security-review-approval", "no-rejection"} <= names
    assert "two different people" in run("policy", "lint").out


def test_cases_are_run_over_the_facts_of_an_ordinary_patch(tmp_path: Path) -> None:
    cases = write_cases(
        tmp_path / "cases.json",
        [
            {"name": "ordinary", "expect": "allow"},
            {
                "name": "one approval",
                "facts": ONE_APPROVAL,
                "expect": "deny",
                "forbidden_by": ["two-independent-approvals"],
            },
            {"name": "frozen", "facts": {"system": {"frozen": True}}, "expect": "deny"},
        ],
    )
    document = run_json("policy", "test", "--cases", cases)
    assert document["failed"] == 0
    assert [each["verdict"] for each in document["cases"]] == ["allow", "deny", "deny"]
    assert "3 of 3 cases" in run("policy", "test", "--cases", cases).out


def test_case_that_comes_out_otherwise_fails(tmp_path: Path) -> None:
    cases = write_cases(
        tmp_path / "cases.json",
        [
            {"name": "wrong verdict", "facts": ONE_APPROVAL, "expect": "allow"},
            {"name": "wrong rule", "facts": ONE_APPROVAL, "expect": "deny", "forbidden_by": ["not-frozen"]},
            {"name": "right", "expect": "allow"},
        ],
    )
    document = run_json("policy", "test", "--cases", cases, code=1)
    assert document["failed"] == 2
    assert [each["passed"] for each in document["cases"]] == [False, False, True]
    assert (
        "FAIL  wrong verdict: deny (two-independent-approvals), expected allow"
        in run("policy", "test", "--cases", cases).out
    )


@pytest.mark.parametrize(
    "cases",
    [
        {},
        [],
        ["x"],
        [{"name": "no expectation"}],
        [{"expect": "maybe"}],
        [{"expect": "allow", "typo": 1}],
        [{"expect": "deny", "forbidden_by": "x"}],
        [{"expect": "allow", "facts": {"unknown": 1}}],
        [{"expect": "allow", "facts": {"author": {"roles": "developer"}}}],
    ],
)
def test_cases_without_their_form_are_refused(tmp_path: Path, cases: Any) -> None:
    assert refused("policy", "test", "--cases", write_cases(tmp_path / "cases.json", cases)) == "agent.policy.cases"


def test_own_set_is_tested(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "none.cedar").write_text('@id("none")\nforbid (principal, action == Action::"apply_patch", resource);\n')
    cases = write_cases(tmp_path / "cases.json", [{"expect": "deny", "forbidden_by": ["none"]}])
    assert run_json("policy", "test", folder, "--cases", cases)["failed"] == 0
    (folder / "none.cedar").write_text('@id("other")\nforbid (principal, action, resource);\n')
    assert refused("policy", "lint", folder).startswith("agent.policy.")


def test_directory_without_policies_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    assert refused("policy", "lint", tmp_path) == "cli.policy.empty"
    assert refused("policy", "test", tmp_path) == "cli.policy.empty"
    assert refused("policy", "diff", tmp_path, "default") == "cli.policy.empty"
    assert refused("governance", "propose", "set-policy", tmp_path, "--key", "none") == "cli.policy.empty"
    assert run_json("policy", "lint", tmp_path, "--deny-everything")["policies"] == []
    assert "this set denies everything" in run("policy", "lint", tmp_path, "--deny-everything").out
    assert "denies everything" not in run("policy", "lint").out


def test_facts_are_a_beginning_for_cases(tmp_path: Path) -> None:
    facts = json.loads(run("policy", "facts").out)
    cases = write_cases(tmp_path / "cases.json", [{"expect": "allow", "facts": facts}])
    assert run_json("policy", "test", "--cases", cases)["failed"] == 0
