"""`patchwarden policy` against a network: proposing with checks, reviewing, history, differences, past decisions, explanations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agent.decision import make_decision
from agent.facts import PathsDigest, facts_from_json_untrusted
from agent.pipeline import encode_decision
from agent.policy import PolicyEngine
from agent.policy_text import check_policy_set, default_policy_set
from agent.sample_facts import SAMPLE_FACTS
from ledger import bodies
from ledger.actions import SetPolicy, SetPolicyCases, SetThreshold
from ledger.block import ZERO_DIGEST, Block
from ledger.bodies import ProposalCreate
from ledger.governance_story import find_story
from ledger.records import hash_policy
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from node import documents
from node.cli import client as client_module
from node.cli import policy_explain, policy_what_if
from node.cli.command import Session
from node.cli.errors import CommandError
from node.cli.output import Output
from node.cli.policy_replay import open_policy_ledger
from node.governance_documents import story_document
from node.policy_services import PolicyServices
from provenance import patchfile
from provenance.component_listing import component_paths
from provenance.diff_model import FileState
from provenance.limits import COMPONENTS_SUMMARISED_MIN
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, make_genesis, publish_body
from tests.testkit.node import raw_blocks, stopped_home, write_archive
from wire import canonical_json
from wire.errors import RejectedError

SET = default_policy_set()
HOST = "web1@acme"
CASES = [
    {"name": "nobody approves", "expect": "deny", "facts": {"approvals": []}},
    {"name": "somebody rejects", "expect": "deny", "facts": {"rejections": [
        {"identity": "eve@acme", "organisation": "acme", "role": "qa", "recorded_height": 3}]}},
]  # fmt: skip


class PolicyNode:
    """A node that answers about policy from a chain in memory, with the methods and documents of a real one."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.kept: StateView | None = None
        self.methods = PolicyServices(SimpleNamespace(replica=SimpleNamespace(view=self._view))).methods()  # type: ignore[arg-type]

    @contextmanager
    def _view(self) -> Iterator[StateView]:
        yield self.kept or self.chain.view

    def call(self, method: str, **params: Any) -> Any:
        view = self.chain.view
        if method == "policy.get":
            version = params["version"]
            return documents.policy_document(view.policy(version))
        if method == "governance.get":
            proposal = view.proposal(bytes.fromhex(params["proposal_id"]))
            assert proposal is not None
            return story_document(find_story(view, proposal))
        if method == "status":
            return {"chain_id": view.chain_id, "height": view.height}
        if method == "blocks.list":
            return [documents.header_document(view.header)]
        return trio.run(self.methods[method], params)

    def close(self) -> None:
        pass


@cache
def engine() -> PolicyEngine:
    return PolicyEngine(check_policy_set(*SET))


def decided(chain: Chain, facts: Any) -> bytes:
    """Return the decision of the chain's set on `facts`, as a host records it."""
    policy = chain.view.policy()
    verdict = engine().evaluate(facts)
    return encode_decision(make_decision(verdict, facts, (), policy.version, policy.policy_hash))


@pytest.fixture
def chain() -> Chain:
    """The default set in force, one application and one refusal by policy, and a refusal before policy was asked."""
    chain = Chain()
    chain.adopt(SetPolicy(*SET))
    chain.register("alice@acme", "developer")
    chain.register(HOST, "host")
    body = publish_body(patches.make_patch())
    chain.submit(body, "alice@acme")
    allow, lonely = decided(chain, SAMPLE_FACTS), decided(chain, replace_approvals())
    intent = chain.submit(bodies.DeploymentIntent(1, ZERO_DIGEST, "app", body.patch_id, ZERO_DIGEST, allow), HOST).tx_id
    first = chain.submit(outcome(2, intent, body.patch_id, intent, "SUCCESS", b"{}"), HOST).tx_id
    detail = canonical_json.encode({"decision": canonical_json.decode_untrusted(lonely), "version": 1})
    second = chain.submit(outcome(3, first, body.patch_id, None, "ERROR_POLICY_DENIED", detail), HOST).tx_id
    third = chain.submit(
        outcome(4, second, body.patch_id, None, "ERROR_INVALID_METADATA", b'{"version":1}'), HOST
    ).tx_id
    cut = canonical_json.encode({"decision_bytes": 300_000, "version": 1})
    chain.submit(outcome(5, third, body.patch_id, None, "ERROR_POLICY_DENIED", cut), HOST)
    return chain


def replace_approvals() -> Any:
    return replace(SAMPLE_FACTS, approvals=SAMPLE_FACTS.approvals[:1])


def outcome(  # noqa: PLR0917 - what differs between outcomes, in their order
    counter: int, previous: bytes, patch: bytes, intent: bytes | None, result: str, detail: bytes
) -> bodies.DeploymentOutcome:
    after = b"\1" * 32 if result == "SUCCESS" else ZERO_DIGEST
    return bodies.DeploymentOutcome(counter, previous, "app", patch, intent, result, ZERO_DIGEST, after, detail)


@pytest.fixture(autouse=True)
def node(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> PolicyNode:
    found = PolicyNode(chain)
    monkeypatch.setattr(client_module, "open_client", lambda session: found)
    return found


def write_set(folder: Path, policies: Any = SET[1], **more: str) -> Path:
    folder.mkdir()
    for name, text in (*policies, *more.items()):
        (folder / f"{name.replace('_', '-')}.cedar").write_text(text)
    return folder


def without(name: str) -> list[tuple[str, str]]:
    return [each for each in SET[1] if each[0] != name]


NOBODY = '@id("nobody")\n@reason("nothing goes in")\nforbid (principal, action == Action::"apply_patch", resource);\n'


DEEP = f'@id("deep") permit (principal, action, resource) when {{ {"(" * 390}true{")" * 390} }};'


# -- looking -----------------------------------------------------------------------------------------------------------


def test_history_tells_every_set_and_what_became_of_it(chain: Chain) -> None:
    chain.adopt(SetPolicy("", (("deny", "forbid (principal, action, resource);"),), chain.height + 100))
    chain.adopt(SetPolicy(SET[0], SET[1][:5]))
    chain.adopt(SetPolicy("", (), chain.height + 100))
    assert [(each["version"], each["status"]) for each in run_json("policy", "history")] == [
        (0, "former"),
        (1, "former"),
        (2, "replaced before it came into force"),
        (3, "in force"),
        (4, "waits"),
    ]
    assert "replaced before it came into force" in run("policy", "history").out


def test_difference_names_policies_and_shows_their_texts(tmp_path: Path) -> None:
    policies = [*without("no-drift"), ("nobody", NOBODY)]
    policies[0] = (policies[0][0], policies[0][1].replace("altered", "changed"))
    document = run_json("policy", "diff", write_set(tmp_path / "set", policies))
    assert (document["old"], document["added"], document["removed"]) == ("version 1", ["nobody"], ["no-drift"])
    assert document["changed"] == [policies[0][0]]
    assert document["schema_changed"] is False
    assert '+@reason("nothing goes in")' in document["diff"]
    nothing = run_json("policy", "diff", "default", "current")
    assert (nothing["added"], nothing["removed"], nothing["changed"], nothing["diff"]) == ([], [], [], [])
    assert run_json("policy", "diff", "0", "1")["schema_changed"] is True


def test_what_names_no_set_is_refused(chain: Chain) -> None:
    assert refused("policy", "diff", "nothing") == "cli.policy.source"
    other = chain.submit(ProposalCreate(SetThreshold("unanimous"), ""), "ada@acme").tx_id.hex()
    assert refused("policy", "diff", other) == "cli.policy.source"


# -- the network's cases -----------------------------------------------------------------------------------------------


def test_cases_of_the_network_are_run_over_any_set(chain: Chain, tmp_path: Path) -> None:
    assert "no cases of its own" in run("policy", "cases").out
    chain.adopt(SetPolicyCases(json.dumps(CASES)))
    assert run_json("policy", "cases")["failed"] == 0
    lax = write_set(tmp_path / "lax", without("no-rejection"))
    document = run_json("policy", "cases", lax, code=1)
    assert [each["name"] for each in document["cases"] if not each["passed"]] == ["somebody rejects"]
    assert json.loads(run("policy", "cases", "--full").out) == CASES


# -- what would have been ----------------------------------------------------------------------------------------------


def test_past_decisions_under_a_stricter_and_a_laxer_set(tmp_path: Path) -> None:
    strict = write_set(tmp_path / "strict", [*SET[1], ("nobody", NOBODY)])
    document = run_json("policy", "what-if", strict)
    counted = {
        name: document[name]
        for name in ("decisions", "would_be_refused", "would_be_let_in", "same", "cannot_be_judged")
    }
    assert counted == {"decisions": 3, "would_be_refused": 1, "would_be_let_in": 0, "same": 1, "cannot_be_judged": 1}
    refused_row = next(row for row in document["rows"] if row["change"] == "would be refused")
    assert (refused_row["recorded"], refused_row["forbidden_by"][0][0]) == ("allow", "nobody")
    lax = write_set(tmp_path / "lax", without("two-independent-approvals"))
    document = run_json("policy", "what-if", lax)
    assert (document["would_be_refused"], document["would_be_let_in"]) == (0, 1)
    text = run("policy", "what-if", lax).out
    assert "3 decisions" in text
    assert "would be let in" in text
    assert run_json("policy", "what-if", "current")["would_be_refused"] == 0


def test_past_decisions_are_chosen_by_height_time_and_host(chain: Chain) -> None:
    heights = [row["height"] for row in run_json("policy", "what-if", "current", "--all")["rows"]]
    assert len(heights) == 3
    for options, count in (
        (("--from", heights[1]), 2),
        (("--to", heights[0]), 1),
        (("--from", heights[1], "--to", heights[1]), 1),
        (("--host", "other@acme"), 0),
        (("--days", 1), 3),
    ):
        assert run_json("policy", "what-if", "current", *options)["decisions"] == count, options
    assert chain.height > heights[-1] - 1


def test_pages_of_decisions_neither_repeat_nor_skip(node: PolicyNode) -> None:
    found: list[str] = []
    params: dict[str, Any] = {"limit": 1}
    while page := node.call("policy.decisions", **params)["decisions"]:
        found.append(page[0]["deployment_id"])
        params = {"limit": 1, "from": page[0]["height"], "after": page[0]["deployment_id"]}
    whole = node.call("policy.decisions")["decisions"]
    assert found == [each["deployment_id"] for each in whole]
    assert [each["decision"] is None for each in whole] == [False, False, True]


class PrunedView(StateView):
    """A replica that keeps no blocks."""

    def block(self, height: int) -> Block | None:
        return None

    @property
    def history_start(self) -> int:
        return self.height


def test_node_that_has_pruned_its_blocks_says_so(node: PolicyNode, chain: Chain) -> None:
    whole = node.call("policy.decisions")["decisions"]
    node.kept = PrunedView(chain.store)
    document = run_json("policy", "what-if", "current")
    assert (document["decisions"], document["history_start"]) == (0, chain.height)
    assert f"keeps no decisions below height {chain.height}" in run("policy", "what-if", "current").out
    assert refused("policy", "explain", "--deployment", whole[0]["deployment_id"], code=3) == "ledger.history.pruned"


# -- explaining --------------------------------------------------------------------------------------------------------


def test_recorded_decision_is_explained_and_comes_out_the_same(node: PolicyNode) -> None:
    allowed, denied, unkept = node.call("policy.decisions")["decisions"]
    document = run_json("policy", "explain", "--deployment", allowed["deployment_id"])
    assert (document["verdict"], document["recorded"]["agrees"]) == ("allow", True)
    assert document["recorded"]["engine"].startswith("cedarpy ")
    document = run_json("policy", "explain", "--deployment", denied["deployment_id"])
    said = {each["rule"]: each["said"] for each in document["rules"]}
    assert (document["verdict"], said["two-independent-approvals"], said["no-drift"]) == ("deny", "forbade", "-")
    assert document["missing"] == ["needs 1 more approval from another organisation than acme"]
    assert (
        "approvals that count: 1 people of 1 organisations"
        in run("policy", "explain", "--deployment", denied["deployment_id"]).out
    )
    assert refused("policy", "explain", "--deployment", unkept["deployment_id"]) == "cli.policy.no_decision"
    assert refused("policy", "explain", "--deployment", "00" * 32) == "node.deployment.not_found"


def test_decision_that_its_own_set_does_not_take_is_told(chain: Chain, node: PolicyNode) -> None:
    lie = canonical_json.decode_untrusted(decided(chain, replace_approvals()))
    assert isinstance(lie, dict)
    lie |= {"verdict": "allow", "allowed_by": ["permit-published-patch"], "forbidden_by": [], "missing": []}
    host = chain.view.host(HOST)
    assert host is not None
    patch_id = publish_body(patches.make_patch()).patch_id
    intent = bodies.DeploymentIntent(
        host.counter + 1, host.last_tx_id, "app", patch_id, ZERO_DIGEST, canonical_json.encode(lie)
    )
    tx_id = chain.submit(intent, HOST).tx_id.hex()
    assert run_json("policy", "explain", "--deployment", tx_id, code=1)["recorded"]["agrees"] is False
    # Under another set than its own a decision may come out otherwise.
    run_json("policy", "explain", "default", "--deployment", tx_id)


# -- from blocks alone -------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(node: PolicyNode, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which methods the node was asked from now on."""
    methods: list[str] = []
    call = node.call

    def noted(method: str, **params: Any) -> Any:
        methods.append(method)
        return call(method, **params)

    monkeypatch.setattr(node, "call", noted)
    return methods


def told_by_node(document: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what it says about where it comes from."""
    return {name: value for name, value in document.items() if not name.startswith(("replayed", "chain_"))}


def test_a_replay_answers_as_the_node_does(chain: Chain, tmp_path: Path, node: PolicyNode) -> None:
    proposal = chain.submit(
        ProposalCreate(SetPolicy(SET[0], tuple(sorted((*SET[1], ("nobody", NOBODY))))), ""), "ada@acme"
    ).tx_id.hex()
    archive = write_archive(tmp_path / "chain.archive", chain)
    whole = node.call("policy.decisions")["decisions"]
    heights, ids = [each["height"] for each in whole], [each["deployment_id"] for each in whole]
    everything = {"from": None, "after": None, "to": None, "host": None, "limit": 10}
    questions: list[tuple[str, dict[str, Any]]] = [
        ("blocks.list", {"limit": 1}),
        ("policy.get", {"version": None}),
        ("policy.get", {"version": 0}),
        *(("policy.decision", {"deployment_id": each}) for each in ids),
        *(
            ("policy.decisions", {**everything, **chosen})
            for chosen in (
                {},
                {"limit": 1},
                {"limit": 1, "from": heights[0], "after": ids[0]},
                {"from": heights[2], "after": ids[2]},
                {"from": heights[1]},
                {"to": heights[0]},
                {"from": heights[1], "to": heights[1]},
                {"host": HOST},
                {"host": "other@acme"},
            )
        ),
    ]
    session = Session(output=Output(as_json=True))
    with open_policy_ledger(session, proposal.upper(), archive, None, replay=False) as ledger:
        assert ledger.is_replayed
        for method, params in questions:
            assert ledger.call(method, **params) == node.call(method, **params), (method, params)
        story = node.call("governance.get", proposal_id=proposal)
        assert ledger.call("governance.get", proposal_id=proposal)["action"] == story["action"]
        missing = {"policy.get": {"version": 99}, "policy.decision": {"deployment_id": "ab" * 32}}
        for method, params in missing.items():
            with pytest.raises(RejectedError) as caught:
                ledger.call(method, **params)
            assert caught.value.code in {"node.policy.not_found", "node.deployment.not_found"}
    with open_policy_ledger(session, "ab" * 32, archive, None, replay=False) as ledger:
        with pytest.raises(RejectedError) as caught:
            ledger.call("governance.get", proposal_id="ab" * 32)
        assert caught.value.code == "node.proposal.not_found"


def test_an_archive_and_a_stopped_home_are_judged_as_a_network_is(
    chain: Chain, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = write_set(tmp_path / "strict", [*SET[1], ("nobody", NOBODY)])
    archive = write_archive(tmp_path / "chain.archive", chain)
    genesis = tmp_path / "genesis.json"
    genesis.write_bytes(chain.genesis.document)
    what_if = ("policy", "what-if", strict, "--all")
    judged = run_json(*what_if)
    explain = ("policy", "explain", "--deployment", judged["rows"][1]["deployment_id"])
    explained = run_json(*explain)
    assert (judged["replayed"], explained["replayed"], judged["chain_findings"]) == (False, False, [])
    asked.clear()
    home = stopped_home(tmp_path / "home", chain)
    derived = run_json(*what_if, "--archive", archive, "--genesis", genesis)
    assert (derived["replayed"], derived["replayed_height"]) == (True, chain.height)
    assert told_by_node(derived) == told_by_node(judged)
    assert told_by_node(run_json(*explain, "--archive", archive)) == told_by_node(explained)
    monkeypatch.setenv("PATCHWARDEN_HOME", str(home.path))
    answer = run(*explain)
    assert (answer.code, asked) == (0, [])
    assert f"derived from the founding document up to height {chain.height}; the chain holds" in answer.out
    unkept = ("policy", "explain", "--deployment", judged["rows"][2]["deployment_id"], "--archive", archive)
    assert refused(*unkept) == "cli.policy.no_decision"


def test_a_chain_that_does_not_hold_is_told(chain: Chain, tmp_path: Path) -> None:
    blocks = raw_blocks(chain)
    last = len(blocks) - 1
    damaged = [(block, b"" if place == last else certificate) for place, (block, certificate) in enumerate(blocks)]
    archive = write_archive(tmp_path / "bad.archive", chain, damaged)
    document = run_json("policy", "what-if", "default", "--archive", archive, code=1)
    assert document["chain_findings"]
    assert "THE CHAIN DOES NOT HOLD" in run("policy", "what-if", "default", "--archive", archive).out
    whole = run_json("policy", "what-if", "default", "--all", "--archive", archive, code=1)["rows"]
    explained = ("policy", "explain", "--deployment", whole[0]["deployment_id"], "--archive", archive)
    assert run_json(*explained, code=1)["recorded"]["agrees"] is True
    genesis = tmp_path / "other.json"
    genesis.write_bytes(make_genesis(validators=1).document)
    good = write_archive(tmp_path / "good.archive", chain)
    findings = run_json("policy", "what-if", "default", "--archive", good, "--genesis", genesis, code=1)[
        "chain_findings"
    ]
    assert "cli.audit.other_genesis" in {each["what"] for each in findings}


def test_options_of_a_replay_exclude_what_is_believed(tmp_path: Path) -> None:
    archive = ("--archive", tmp_path / "a")
    rpc = ("--rpc", "http://127.0.0.1:1")
    deployment = ("policy", "explain", "--deployment", "00" * 32)
    for command in (("policy", "what-if", "default"), deployment):
        assert refused(*command, *archive, *rpc, code=2) == "cli.usage"
        assert refused(*command, "--genesis", tmp_path / "g", *rpc, code=2) == "cli.usage"
        assert refused(*command, *archive) == "cli.file.unreadable"
    facts = tmp_path / "facts.json"
    facts.write_text("{}")
    assert refused("policy", "explain", "--facts", facts, *archive, code=2) == "cli.usage"


def test_facts_are_explained_without_a_network(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text('{"system": {"frozen": true}}')
    document = run_json("policy", "explain", "--facts", facts)
    assert [each["rule"] for each in document["rules"] if each["said"] == "forbade"] == ["not-frozen"]
    assert refused("policy", "explain", code=2) == "cli.usage"


# -- proposing and reviewing -------------------------------------------------------------------------------------------


@pytest.fixture
def admin(tmp_path: Path) -> tuple[object, ...]:
    document = run_json("key", "generate", "--out", tmp_path / "k.key", "--no-passphrase")
    assert document["file"]
    return ("--key", tmp_path / "k.key", "--write-transaction", tmp_path / "tx")


def proposed(tmp_path: Path) -> Any:
    body = decode_transaction_untrusted((tmp_path / "tx").read_bytes()).body
    assert isinstance(body, ProposalCreate)
    return body


def test_set_that_passes_is_proposed_with_its_height(tmp_path: Path, chain: Chain, admin: tuple[object, ...]) -> None:
    chain.adopt(SetPolicyCases(json.dumps(CASES)))
    folder = tmp_path / "set"
    run_json("policy", "init", folder, "--template", "vulnerability-gate")
    run_json("policy", "propose", folder, "--activate", 5000, "--description", "scan first", *admin)
    body = proposed(tmp_path)
    assert (body.action.activate_height, body.description) == (5000, "scan first")
    assert {"scanned", "no-grave-finding"} <= {name for name, _ in body.action.policies}


def test_set_that_fails_a_case_is_not_proposed(tmp_path: Path, chain: Chain, admin: tuple[object, ...]) -> None:
    lax = write_set(tmp_path / "lax", without("no-rejection"))
    (lax / "cases").mkdir()
    (lax / "cases" / "own.json").write_text(
        '[{"name": "frozen", "expect": "allow", "facts": {"system": {"frozen": true}}}]'
    )
    assert refused("policy", "propose", lax, *admin) == "cli.policy.cases_failed"
    (lax / "cases" / "own.json").unlink()
    chain.adopt(SetPolicyCases(json.dumps(CASES)))
    assert refused("policy", "propose", lax, *admin) == "cli.policy.cases_failed"
    (lax / "broken.cedar").write_text("permit (")
    assert refused("policy", "propose", lax, *admin) == "agent.policy.syntax"
    assert not (tmp_path / "tx").exists()


@pytest.mark.usefixtures("chain")
def test_set_that_denies_everything_is_proposed_only_when_asked_for(tmp_path: Path, admin: tuple[object, ...]) -> None:
    (tmp_path / "mistyped").mkdir()
    assert refused("policy", "propose", tmp_path / "mistyped", *admin) == "cli.policy.empty"
    assert not (tmp_path / "tx").exists()
    said = run("policy", "propose", tmp_path / "mistyped", "--deny-everything", *admin)
    assert "policy set of 0 policies: it denies everything" in said.out
    assert proposed(tmp_path).action.policies == ()


def test_cases_are_proposed_only_when_they_read(tmp_path: Path, admin: tuple[object, ...]) -> None:
    file = tmp_path / "cases.json"
    file.write_text('[{"expect": "perhaps"}]')
    assert refused("policy", "propose-cases", file, *admin) == "agent.policy.cases"
    file.write_text(json.dumps(CASES))
    run_json("policy", "propose-cases", file, *admin)
    assert proposed(tmp_path).action == SetPolicyCases(json.dumps(CASES))


@pytest.mark.parametrize(
    ("policies", "sound", "refusal"),
    [
        (SET[1], True, None),
        (without("no-rejection"), False, None),
        ((("broken", "permit ("),), False, "agent.policy.syntax"),
        ((("deep", DEEP),), False, "agent.policy.crash"),
    ],
    ids=["sound", "fails a case", "does not parse", "crashes its reader"],
)  # fmt: skip
def test_review_judges_what_stands_on_the_ledger(
    chain: Chain, policies: tuple[tuple[str, str], ...], sound: bool, refusal: str | None
) -> None:
    chain.adopt(SetPolicyCases(json.dumps(CASES)))
    action = SetPolicy(SET[0] + "\n", tuple(policies), 900)
    proposal = chain.submit(ProposalCreate(action, ""), "ada@acme").tx_id.hex()
    document = run_json("policy", "review", proposal, code=0 if sound else 1)
    assert (document["sound"], document["activate_height"]) == (sound, 900)
    assert (document["refusal"] or {}).get("code") == refusal
    if sound:
        assert run_json("policy", "diff", proposal)["schema_changed"] is True
        assert hash_policy(action.schema, action.policies) != chain.view.policy().policy_hash


def test_review_says_when_a_set_denies_everything(chain: Chain) -> None:
    proposal = chain.submit(ProposalCreate(SetPolicy(SET[0], (), 900), ""), "ada@acme").tx_id.hex()
    assert "policies:  none: this set denies everything" in run("policy", "review", proposal).out


# -- templates ---------------------------------------------------------------------------------------------------------


def test_templates_are_listed_and_shown() -> None:
    assert "canary-then-fleet" in run("policy", "templates").out
    document = run_json("policy", "templates", "canary-then-fleet")
    assert len(document["cases"]) > 4
    assert "canary1@acme" in run("policy", "templates", "canary-then-fleet").out
    assert refused("policy", "templates", "nothing") == "agent.policy.template"


@pytest.mark.parametrize("names", [(), ("emergency",), ("canary-then-fleet", "vulnerability-gate")])
def test_written_set_passes_its_own_cases(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "set"
    run_json("policy", "init", folder, *(part for name in names for part in ("--template", name)))
    document = run_json("policy", "test", folder)
    assert (document["failed"], document["uncovered"]) == (0, [])
    run_json("policy", "test", folder, "--require-coverage")
    assert refused("policy", "init", folder) == "cli.policy.not_empty"


def test_set_without_cases_says_where_they_belong(tmp_path: Path) -> None:
    assert refused("policy", "test", write_set(tmp_path / "set")) == "cli.policy.no_cases"


def test_the_paths_of_a_wide_patch_are_taken_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = {f"src/{i}": FileState(0o100644, b"%d\n" % i) for i in range(COMPONENTS_SUMMARISED_MIN)}
    monkeypatch.setattr(patchfile, "COMPONENTS_MAX", 1)
    data = patches.make_patch({}, after)
    (tmp_path / "wide.patch").write_bytes(data)
    (tmp_path / "other.patch").write_bytes(patches.make_patch())
    patch = verify_patch_untrusted(data)
    ((name, paths),) = component_paths(patch.metadata.affected_components).items()
    component = replace(SAMPLE_FACTS.components[0], name=name, paths=paths, paths_digest=PathsDigest.of(paths))
    whole = replace(SAMPLE_FACTS, patch=replace(SAMPLE_FACTS.patch, id=patch.patch_id), components=(component,))
    recorded = facts_from_json_untrusted(json.loads(json.dumps(whole.to_json())))
    assert recorded.lacks_paths
    assert policy_explain.complete(recorded, tmp_path / "wide.patch") == whole
    schema, rules = default_policy_set()
    rule = '@id("r") forbid (principal, action, resource) when { resource.paths.contains("x") };'
    engine = PolicyEngine(check_policy_set(schema, [*rules, ("r", rule)]))
    decision = make_decision(engine.evaluate(whole), whole, (), 1, bytes(32))
    names = ("deployment_id", "host", "target", "patch_id", "height", "time_ms", "result")
    row = policy_what_if.judge(engine, {**dict.fromkeys(names), "decision": json.loads(encode_decision(decision))})
    assert (row["change"], row["verdict"], "policy explain --patch" in row["message"]) == (
        "cannot be judged",
        None,
        True,
    )
    for place, code in ((None, "cli.policy.paths_elsewhere"), (tmp_path / "other.patch", "cli.policy.other_patch")):
        with pytest.raises(CommandError) as caught:
            policy_explain.complete(recorded, place)
        assert caught.value.code == code
