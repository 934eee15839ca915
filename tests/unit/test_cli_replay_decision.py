"""`patchwarden audit replay-decision`: an honest history comes out the same, and every kind of lie is found where it stands."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from agent import pipeline
from agent.facts import Requester
from agent.limits import DECISION_AGE_MS_MAX
from agent.policy_text import default_policy_set
from agent.results import ResultCode
from ledger import bodies
from ledger.actions import SetPolicy
from ledger.transaction import decode_transaction_untrusted
from provenance import patchfile
from provenance.diff_model import FileState
from provenance.layout import split_patch_file_untrusted
from provenance.limits import COMPONENTS_SUMMARISED_MIN
from tests.testkit import patches
from tests.testkit.agent import HOST, OPERATOR, TARGET, TREE, World, write_tree
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import BLOCK_MS, Chain, attest_body
from tests.testkit.node import raw_blocks, stopped_home, write_archive
from wire import canonical_json

REFUSALS = 30
"""Refusals of each kind: together some hundred decisions."""
NOBODY = Requester("mallory", ("guest",), "socket")


@dataclass
class History:
    """A chain with honest decisions of every kind, and what is needed to add dishonest ones."""

    chain: Chain
    archive: Path
    decisions: int


def content(text: bytes) -> dict[str, FileState]:
    """Return the tree of the test patches with another text in its first file."""
    state = patches.AFTER["src/frame.c"]
    assert isinstance(state, FileState)
    return {"src/frame.c": replace(state, content=text)}


async def apply(world: World, data: bytes, code: ResultCode, requester: Requester = OPERATOR) -> None:
    # A real node's replica is as old as its newest block says.
    world.now_ms = world.chain.view.header.time_ms + world.ledger.age_ms
    outcome = await world.agent.apply(data, TARGET, requester)
    assert outcome.code is code, outcome.message


async def live(world: World) -> None:
    """Let a host decide some hundred times: allowed, refused for many reasons, before and after changes of people and policy."""
    denied = ResultCode.POLICY_DENIED
    world.chain.register("ci@acme", "attestor:tests")
    await world.add_target()
    first = patches.add_test_result(patches.make_patch())
    first = world.release(first)
    await apply(world, first, denied, NOBODY)
    await apply(world, first, ResultCode.SUCCESS)
    second = patches.make_patch(
        patches.AFTER,
        content(b"int x;\n"),
        release_counter=2,
        prerequisites=(split_patch_file_untrusted(first).patch_id,),
    )
    second = world.release(second, attest=False)
    world.chain.submit(attest_body(second, 1), "alice@acme")
    for _ in range(REFUSALS):
        await apply(world, second, denied)
    world.chain.submit(bodies.IdentitySuspend("bob@beta", "on leave"), "ben@beta")
    for _ in range(REFUSALS):
        await apply(world, second, denied)
    world.chain.submit(bodies.IdentityResume("bob@beta"), "ben@beta")
    schema, texts = default_policy_set()
    world.chain.adopt(SetPolicy(schema, tuple(each for each in texts if each[0] != "requester-is-operator")))
    for _ in range(REFUSALS):
        await apply(world, second, denied, NOBODY)
    (world.root / "README").write_bytes(b"somebody else was here\n")
    await apply(world, second, denied)
    await world.agent.adopt_target(TARGET)
    world.chain.submit(attest_body(second, 2), "alice@acme")
    # Nobody needs to be an operator any more.
    await apply(world, second, ResultCode.SUCCESS, NOBODY)
    await apply(world, second, ResultCode.INVALID_METADATA)
    world.chain.adopt(SetPolicy(schema, texts))
    third = world.release(patches.make_patch(content(b"int x;\n"), content(b"int y;\n"), release_counter=3))
    for _ in range(REFUSALS):
        await apply(world, third, denied, NOBODY)
    await apply(world, third, ResultCode.SUCCESS)
    world.agent.close()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    directory = tmp_path_factory.mktemp("history")
    world = World(directory)
    trio.run(live, world)
    archive = write_archive(directory / "chain.archive", world.chain)
    return History(world.chain, archive, 4 * REFUSALS + 5)


def before_the_last(history: History) -> Chain:
    """Return a copy of the chain up to the block before the last application was announced, to be continued otherwise."""
    chain = Chain(genesis=history.chain.genesis)
    for block in history.chain.blocks[1 : records(history.chain)[-1][0]]:
        chain.apply(block)
    return chain


def records(chain: Chain) -> list[tuple[int, Any]]:
    """Return height and transaction of every record that carries a decision of its own."""
    found = []
    for block in chain.blocks[1:]:
        for raw in block.transactions:
            transaction = decode_transaction_untrusted(raw)
            body = transaction.body
            if isinstance(body, bodies.DeploymentIntent) or (
                isinstance(body, bodies.DeploymentOutcome) and body.result == "ERROR_POLICY_DENIED"
            ):
                found.append((block.header.height, transaction))
    return found


def decision_of(body: Any) -> dict[str, Any]:
    raw = body.decision if isinstance(body, bodies.DeploymentIntent) else body.detail
    document: dict[str, Any] = json.loads(raw)
    return document if isinstance(body, bodies.DeploymentIntent) else document["decision"]


def fresh(history: History) -> dict[str, Any]:
    """Return the last refusal's decision: nobody who may operate the host had asked."""
    decision = decision_of(records(history.chain)[-2][1].body)
    assert decision["verdict"] == "deny"
    return decision


# -- an honest history -------------------------------------------------------------------------------------------------


def test_every_decision_of_an_honest_history_comes_out_the_same(history: History) -> None:
    document = run_json("audit", "replay-decision", "--all", "--archive", history.archive)
    assert document["findings"] == []
    assert (document["decisions"], document["same"], document["different"]) == (history.decisions, history.decisions, 0)
    assert (document["intents"], document["refusals"]) == (3, history.decisions - 3)
    assert (document["allowed"], document["denied"]) == (3, history.decisions - 3)
    assert (document["hosts"], document["other_refusals"], document["unjudged"]) == (1, 1, 0)
    assert document["valid"]
    assert document["chain_valid"]


def test_the_home_of_a_stopped_node_says_the_same(tmp_path: Path, history: History) -> None:
    stopped_home(tmp_path / "home", history.chain)
    document = run_json("audit", "replay-decision", "--all", "--home", tmp_path / "home")
    assert (document["decisions"], document["same"], document["source_kind"]) == (
        history.decisions,
        history.decisions,
        "home",
    )


def test_one_decision_is_judged_and_shown(history: History) -> None:
    _, intent = records(history.chain)[-1]
    document = run_json("audit", "replay-decision", intent.tx_id.hex(), "--archive", history.archive)
    assert (document["decisions"], document["same"], document["allowed"]) == (1, 1, 1)
    assert document["decision"]["facts"] == decision_of(intent.body)["facts"]
    answer = run("audit", "replay-decision", intent.tx_id.hex(), "--archive", history.archive)
    assert "decision: allowed by permit-published-patch" in answer.out
    assert "every decision comes out as it was recorded" in answer.out


def test_what_is_no_decision_is_refused(history: History) -> None:
    replay = ("audit", "replay-decision")
    assert refused(*replay, "ab" * 32, "--archive", history.archive) == "cli.decision.not_found"
    outcome = next(
        transaction
        for block in history.chain.blocks[1:]
        for transaction in map(decode_transaction_untrusted, block.transactions)
        if isinstance(transaction.body, bodies.DeploymentOutcome) and transaction.body.result == "SUCCESS"
    )
    assert refused(*replay, outcome.tx_id.hex(), "--archive", history.archive) == "cli.decision.not_found"
    assert run(*replay, "--archive", history.archive).code == 2
    assert run(*replay, "ab" * 32, "--all", "--archive", history.archive).code == 2


# -- lies --------------------------------------------------------------------------------------------------------------


Change = Callable[[dict[str, Any]], None]


def allow(decision: dict[str, Any]) -> None:
    decision.update(verdict="allow", allowed_by=["permit-published-patch"], forbidden_by=[], missing=[])


def with_operator(decision: dict[str, Any]) -> None:
    """Say that an operator asked: the policy allows that, and the ledger knows nothing of requesters."""
    allow(decision)
    decision["facts"]["requester"]["roles"] = ["operator"]


def with_fact(path: str, value: object) -> Change:
    def change(decision: dict[str, Any]) -> None:
        with_operator(decision)
        *parents, last = path.split(".")
        place: Any = decision["facts"]
        for name in parents:
            place = place[int(name)] if name.isdigit() else place[name]
        place[int(last) if last.isdigit() else last] = value

    return change


def with_approval(decision: dict[str, Any]) -> None:
    with_operator(decision)
    decision["facts"]["approvals"][1].update(identity="eve@delta", organisation="delta")


def with_policy_hash(decision: dict[str, Any]) -> None:
    with_operator(decision)
    decision["policy_hash"] = "5c" * 32


def with_older_policy(decision: dict[str, Any]) -> None:
    """Say that the set was in force under which nobody needed to be an operator; the verdict is what that one would say."""
    decision["policy_version"] -= 1
    allow(decision)


def at_height(height: int) -> Change:
    def change(decision: dict[str, Any]) -> None:
        with_operator(decision)
        decision["height"] = decision["facts"]["height"] = height

    return change


def an_hour_later(decision: dict[str, Any]) -> None:
    with_operator(decision)
    decision["facts"]["now_ms"] += 3_600_000


FACTS, SUBJECT, HEIGHT, POLICY = (f"agent.replay.{name}" for name in ("facts", "subject", "height", "policy"))
VERDICT = ("agent.replay.verdict", "verdict")
COUNTER = "facts.components.pkg:deb/debian/foo@1.2.installed_counter"

STATEMENT = {
    "identity": "ci@acme",
    "organisation": "acme",
    "role": "tests",
    "predicate_type": "https://in-toto.io/attestation/test-result/v0.1",
    "recorded_height": 9,
    "readable": True,
    "findings": [],
    "properties": [],
}

LIES: dict[str, tuple[Change, list[tuple[str, str]]]] = {
    "allowed although denied": (allow, [VERDICT]),
    "announced although denied": (lambda _: None, [("agent.replay.result", "verdict")]),
    "invented approval": (with_approval, [(FACTS, "facts.approvals")]),
    "hidden approval": (with_fact("approvals.1", None), [("agent.replay.form", "")]),
    "wrong policy hash": (with_policy_hash, [(POLICY, "policy_hash")]),
    "older policy": (with_older_policy, [(POLICY, "policy_hash"), VERDICT]),
    "author's roles": (with_fact("author.roles", ["developer", "saint"]), [(FACTS, "facts.author")]),
    "category": (with_fact("patch.category", "bug-fix"), [(FACTS, "facts.patch.category")]),
    "fewer lines": (with_fact("patch.lines_added", 0), [(FACTS, "facts.patch.lines_added")]),
    "other path": (with_fact("components.0.paths", ["README"]), [(FACTS, "facts.components")]),
    "installed counter": (with_fact("components.0.installed_counter", 0), [(FACTS, COUNTER)]),
    "installed patches": (with_fact("system.installed", []), [(FACTS, "facts.system.installed")]),
    "drift": (with_fact("system.drifted", True), [(FACTS, "facts.system.drifted"), VERDICT]),
    "invented canary": (
        with_fact("rollout.succeeded", ["canary1@acme"]),
        [(FACTS, "facts.rollout.succeeded")],
    ),
    "invented failure": (with_fact("rollout.failed", ["canary1@acme"]), [(FACTS, "facts.rollout.failed")]),
    "invented statement": (with_fact("statements", [STATEMENT]), [(FACTS, "facts.statements")]),
    "unknown patch": (
        with_fact("patch.id", "ab" * 32),
        [(SUBJECT, "facts.patch.id"), (FACTS, "facts.patch.id")],
    ),
    "host's organisation": (with_fact("system.host_organisation", "beta"), [(FACTS, "facts.system.host_organisation")]),
    "another host": (with_fact("system.host", "web9@acme"), [(SUBJECT, "facts.system.host")]),
    "another target": (with_fact("system.target", "db"), [(SUBJECT, "facts.system.target")]),
    "another tree": (with_fact("system.tree_digest", "ab" * 32), [(SUBJECT, "facts.system.tree_digest")]),
    "a height to come": (at_height(100_000), [(HEIGHT, "height")]),
    "an older height": (
        at_height(3),
        [(POLICY, "policy_hash"), (FACTS, "facts.patch.id"), (HEIGHT, "height"), (HEIGHT, "height")],
    ),
    "the founding document": (at_height(0), [(HEIGHT, "height"), (HEIGHT, "height")]),
    "an hour later": (an_hour_later, [(HEIGHT, "height")]),
    "before its block": (with_fact("now_ms", 1), [(HEIGHT, "height")]),
}


@pytest.fixture(scope="module")
def found(history: History, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    """What one replay finds in a chain in which an honest history is followed by every lie, one intent each."""
    chain = before_the_last(history)
    places = {}
    for name, (change, _) in LIES.items():
        decision = fresh(history)
        truth = fresh(history)["facts"]
        change(decision)
        places[announce(chain, decision, truth)] = name
    for name, raw in (("no decision", {"version": 2}), ("a list", []), ("a text", "yes")):
        places[announce(chain, raw, fresh(history)["facts"])] = name
    refusal = fresh(history)
    with_operator(refusal)
    places[refuse(chain, refusal)] = "refused although allowed"
    archive = write_archive(tmp_path_factory.mktemp("lies") / "chain.archive", chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive, code=1)
    assert document["chain_valid"], document["chain_findings"]
    assert {each["host"] for each in document["findings"]} == {HOST}
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in places.values()}
    for each in document["findings"]:
        assert each["target"] == TARGET
        place = chain.blocks[each["height"]].transactions[each["index"]]
        assert decode_transaction_untrusted(place).tx_id.hex() == each["tx_id"]
        # Nothing honest is accused: each finding stands at a lie.
        found[places[each["height"]]].append((each["code"], each["member"]))
    assert document["different"] == len({each["height"] for each in document["findings"]})
    assert document["same"] == document["decisions"] - document["different"]
    return found


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found_where_it_stands(found: dict[str, list[tuple[str, str]]], name: str) -> None:
    assert sorted(found[name]) == sorted(LIES[name][1])


@pytest.mark.parametrize("name", ["no decision", "a list", "a text"])
def test_what_is_no_decision_is_found(found: dict[str, list[tuple[str, str]]], name: str) -> None:
    assert found[name] == [("agent.replay.form", "")]


def test_a_refusal_that_its_decision_allows_is_found(found: dict[str, list[tuple[str, str]]]) -> None:
    assert found["refused although allowed"] == [("agent.replay.result", "verdict")]


def announce(chain: Chain, decision: Any, truth: dict[str, Any]) -> int:
    """Put an intent about what really was there, with this decision, on the ledger; return its height."""
    host = chain.view.host(HOST)
    assert host is not None
    body = bodies.DeploymentIntent(
        counter=host.counter + 1,
        previous=host.last_tx_id,
        target=TARGET,
        patch_id=bytes.fromhex(truth["patch"]["id"]),
        tree_before=bytes.fromhex(truth["system"]["tree_digest"]),
        decision=canonical_json.encode(decision),
    )
    chain.submit(body, HOST)
    return chain.height


def refuse(chain: Chain, decision: Any) -> int:
    """Put a refusal by policy with this decision on the ledger; return its height."""
    host = chain.view.host(HOST)
    assert host is not None
    tree = bytes.fromhex(decision["facts"]["system"]["tree_digest"])
    body = bodies.DeploymentOutcome(
        counter=host.counter + 1,
        previous=host.last_tx_id,
        target=TARGET,
        patch_id=bytes.fromhex(decision["facts"]["patch"]["id"]),
        intent_tx_id=None,
        result="ERROR_POLICY_DENIED",
        tree_before=tree,
        tree_after=tree,
        detail=canonical_json.encode({"version": 1, "decision": decision}),
    )
    chain.submit(body, HOST)
    return chain.height


# -- decisions and what came of them -----------------------------------------------------------------------------------


def close(chain: Chain, height: int, result: str, **detail: object) -> None:
    """Put an outcome that closes the intent of this height on the ledger."""
    intent = decode_transaction_untrusted(chain.blocks[height].transactions[0])
    assert isinstance(intent.body, bodies.DeploymentIntent)
    host = chain.view.host(HOST)
    assert host is not None
    body = bodies.DeploymentOutcome(
        counter=host.counter + 1,
        previous=host.last_tx_id,
        target=TARGET,
        patch_id=intent.body.patch_id,
        intent_tx_id=intent.tx_id,
        result=result,
        tree_before=intent.body.tree_before,
        tree_after=bytes(32) if result in ("SUCCESS", "ROLLED_BACK") else intent.body.tree_before,
        detail=canonical_json.encode({"version": 1, **detail}),
    )
    chain.submit(body, HOST)


def roll_back(decision: dict[str, Any]) -> None:
    """Make it a decision to undo the patch, which the default set lets an operator do to anybody's patch, approved or not."""
    allow(decision)
    decision["allowed_by"] = ["permit-rollback"]
    decision["facts"]["requester"]["roles"] = ["operator"]
    decision["facts"]["action"] = "rollback_patch"


def roll_back_installed(decision: dict[str, Any]) -> None:
    roll_back(decision)
    decision["facts"]["system"]["installed"].append(decision["facts"]["patch"]["id"])


def apply_installed(decision: dict[str, Any]) -> None:
    with_operator(decision)
    decision["facts"]["system"]["installed"].append(decision["facts"]["patch"]["id"])


def with_higher_counter(decision: dict[str, Any]) -> None:
    with_operator(decision)
    decision["facts"]["components"][0]["installed_counter"] = decision["facts"]["patch"]["release_counter"]


DATE = ("agent.replay.date", "facts.now_ms")
NOT_APPLICABLE = ("agent.replay.applicable", "facts.patch.id")
OTHER_ACTION = ("agent.replay.result", "facts.action")
INSTALLED = (FACTS, "facts.system.installed")
MONTH_MS = 30 * 86_400_000

ENDINGS: dict[str, tuple[Change, int, str, dict[str, object], list[tuple[str, str]]]] = {
    # change, milliseconds until the intent, result, detail, findings
    "honest": (with_operator, 0, "SUCCESS", {}, []),
    "honest and slow": (with_operator, DECISION_AGE_MS_MAX - 3 * BLOCK_MS, "SUCCESS", {}, []),
    "given up and told late": (with_operator, MONTH_MS, "ERROR_LEDGER_UNAVAILABLE", {}, []),
    "applied as a rollback": (roll_back, 0, "SUCCESS", {}, [NOT_APPLICABLE, OTHER_ACTION]),
    "undone what is not there": (roll_back, 0, "ROLLED_BACK", {}, [NOT_APPLICABLE]),
    "undone what is said to be there": (roll_back_installed, 0, "ROLLED_BACK", {}, [INSTALLED]),
    "undone as an application": (with_operator, 0, "ROLLED_BACK", {}, [OTHER_ACTION]),
    "dated back": (with_operator, MONTH_MS, "SUCCESS", {}, [DATE]),
    "dated back a little": (with_operator, DECISION_AGE_MS_MAX, "SUCCESS", {}, [DATE]),
    "dated back by a recovery": (with_operator, MONTH_MS, "SUCCESS", {"step": "recovery"}, [DATE]),
    "dated back and alone": (
        with_operator,
        MONTH_MS,
        "SUCCESS",
        {"unacknowledged": 1},
        [("agent.replay.verdict", "unacknowledged")],
    ),
    "applied again": (apply_installed, 0, "SUCCESS", {}, [NOT_APPLICABLE, INSTALLED]),
    "an older release": (with_higher_counter, 0, "SUCCESS", {}, [NOT_APPLICABLE, VERDICT, (FACTS, COUNTER)]),
}


@pytest.fixture(scope="module")
def refusal(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A chain whose last record refuses a patch, because nobody who may operate the host had asked."""

    async def live(world: World) -> None:
        await world.add_target()
        await apply(world, world.release(), ResultCode.POLICY_DENIED, NOBODY)
        world.agent.close()

    world = World(tmp_path_factory.mktemp("refusal"))
    trio.run(live, world)
    return world.chain


@pytest.mark.parametrize("name", ENDINGS)
def test_a_decision_fits_what_came_of_it(tmp_path: Path, refusal: Chain, name: str) -> None:
    change, later_ms, result, detail, expected = ENDINGS[name]
    chain = Chain(genesis=refusal.genesis)
    for block in refusal.blocks[1:]:
        chain.apply(block)
    told = records(chain)[-1][1].body
    decision, truth = decision_of(told), decision_of(told)["facts"]
    change(decision)
    if later_ms:
        chain.apply(chain.build(time_ms=chain.view.header.time_ms + later_ms).block)
    height = announce(chain, decision, truth)
    close(chain, height, result, **detail)
    archive = write_archive(tmp_path / "chain.archive", chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive, code=1 if expected else 0)
    assert sorted((each["code"], each["member"]) for each in document["findings"]) == sorted(expected)
    assert {each["height"] for each in document["findings"]} <= {height}
    assert document["different"] == bool(expected)
    intent = decode_transaction_untrusted(chain.blocks[height].transactions[0]).tx_id.hex()
    alone = run_json("audit", "replay-decision", intent, "--archive", archive, code=1 if expected else 0)
    assert alone["findings"] == document["findings"]


async def leave_out_checks(world: World) -> None:
    """Let a host apply, without looking, a patch whose prerequisite is missing and one that has expired."""
    await world.add_target()
    latin = TREE["data/latin1.txt"]
    missing = patches.make_patch({"data/latin1.txt": latin}, {"data/latin1.txt": FileState(0o100644, b"z\n")})
    needing = patches.make_patch(
        prerequisites=(split_patch_file_untrusted(world.release(missing)).patch_id,), release_counter=2
    )
    needing = world.release(needing)
    readme = {"README": TREE["README"]}, {"README": FileState(0o100644, b"2\n")}
    expired = world.release(patches.make_patch(*readme, release_counter=3, not_after="2026-11-22T06:50:01Z"))
    world.chain.apply(world.chain.build(time_ms=world.chain.view.header.time_ms + 3_600_000).block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "check_applicable", lambda *_: None)
        await apply(world, needing, ResultCode.SUCCESS)
        await apply(world, expired, ResultCode.SUCCESS)
    world.agent.close()


def test_checks_that_a_host_left_out_are_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    trio.run(leave_out_checks, world)
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive, code=1)
    found = [(each["code"], each["derived"]) for each in document["findings"]]
    rules = ("prerequisite_missing", "expired")
    assert found == [("agent.replay.applicable", f"agent.metadata.{rule}") for rule in rules]


# -- more than one target ----------------------------------------------------------------------------------------------


async def change_two_at_once(world: World) -> None:
    """Let the decision about one target be taken, then all of another one, a block later, and only then go on with the first."""
    await world.add_target()
    other = world.directory / "srv" / "other"
    write_tree(other, TREE)
    await world.add_target(name="other", root=str(other))
    data = world.release()
    judge, decided, go_on = world.agent._lifecycle._judge, threading.Event(), threading.Event()

    def judge_slowly(slot: Any, *rest: Any) -> Any:
        judged = judge(slot, *rest)
        if slot.config.name == TARGET:
            decided.set()
            assert go_on.wait(60)
        return judged

    world.agent._lifecycle._judge = judge_slowly  # type: ignore[method-assign]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(apply, world, data, ResultCode.SUCCESS)
            assert await trio.to_thread.run_sync(decided.wait, 60)
            world.chain.register("dora@acme", "developer")
            world.now_ms = world.chain.view.header.time_ms + world.ledger.age_ms
            outcome = await world.agent.apply(data, "other", OPERATOR)
            assert outcome.code is ResultCode.SUCCESS, outcome.message
            go_on.set()
    finally:
        go_on.set()
        world.agent.close()


def test_two_targets_that_are_changed_at_once_are_two_stories(tmp_path: Path) -> None:
    world = World(tmp_path)
    trio.run(change_two_at_once, world)
    heights = [decision_of(transaction.body)["height"] for _, transaction in records(world.chain)]
    assert heights[0] > heights[1], "the later decision stands first"
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert (document["decisions"], document["same"]) == (2, 2)


class Story:
    """What one honest host does with two targets, in an order that a seed decides."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.releases = 0
        self.roots = {TARGET: world.root, "other": world.directory / "srv" / "other"}

    async def live(self) -> None:
        for name, root in self.roots.items():
            write_tree(root, TREE)
            await self.add(name)
        for number in range(STEPS):
            # Each of them, and then as it comes.
            lose = (self.lose_record, self.lose_all)
            acts = (
                self.apply,
                self.apply,
                self.come_back,
                self.roll_back,
                self.begin_anew,
                self.adopt,
                self.apply,
                *lose,
            )
            act = acts[number] if number < len(acts) else self.chance.choice(acts)
            await act(TARGET if number < len(acts) else self.chance.choice(sorted(self.roots)))
            await self.check()
        self.world.agent.close()

    async def add(self, name: str) -> None:
        await self.world.add_target(name=name, root=str(self.roots[name]))

    async def apply(self, name: str) -> None:
        """Apply a release of its own, which needs what is installed there."""
        self.releases += 1
        before = (self.roots[name] / "README").read_bytes()
        states = [{"README": FileState(0o100644, text)} for text in (before, b"release %d\n" % self.releases)]
        needed = tuple(sorted(await self.installed(name)))
        patch = patches.make_patch(*states, release_counter=self.releases, prerequisites=needed)
        data = self.world.release(patch)
        self.now()
        outcome = await self.world.agent.apply(data, name, OPERATOR)
        assert outcome.code is ResultCode.SUCCESS, outcome.message

    async def roll_back(self, name: str) -> None:
        if installed := await self.installed(name):
            self.now()
            (outcome,) = await self.world.agent.rollback(installed[-1], name, OPERATOR)
            assert outcome.code is ResultCode.ROLLED_BACK, outcome.message

    async def come_back(self, name: str) -> None:
        """Take the target out, and in again as it is."""
        await self.world.agent.remove_target(name)
        await self.add(name)

    async def begin_anew(self, name: str) -> None:
        """Install the application afresh."""
        await self.world.agent.remove_target(name)
        write_tree(self.roots[name], TREE)
        await self.add(name)

    async def adopt(self, name: str) -> None:
        (self.roots[name] / "bin/tool").write_bytes(b"#!/bin/sh\necho %d\n" % self.releases)
        await self.world.agent.adopt_target(name)

    async def lose_record(self, name: str) -> None:
        (self.world.directory / "home" / "agent" / "targets" / name / "state.json").unlink()
        self.world.reopen()
        await self.world.agent.adopt_target(name)

    async def lose_all(self, _: str) -> None:
        """Begin with a new disk, and the identity and the trees of before."""
        self.world.agent.close()
        shutil.rmtree(self.world.directory / "home" / "agent")
        self.world.agent = self.world.open()
        for name in self.roots:
            await self.add(name)

    async def installed(self, name: str) -> list[str]:
        return [each.patch_id for each in (await self.world.agent.show_target(name)).state.installed]

    async def check(self) -> None:
        """What the host has installed is what the ledger says of it."""
        await self.world.agent._delivery.deliver(5.0)
        for name in self.roots:
            known = self.world.chain.view.target(HOST, name)
            assert known is not None
            assert [each.hex() for each, _ in known.installed] == await self.installed(name)

    def now(self) -> None:
        self.world.now_ms = self.world.chain.view.header.time_ms + self.world.ledger.age_ms


STEPS = 24


@pytest.mark.parametrize("seed", range(2))
def test_whatever_an_honest_host_does_nobody_accuses_it(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path)
    trio.run(Story(world, seed).live)
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert document["decisions"] == document["same"] == len(records(world.chain)) > 3


async def set_up_anew(world: World) -> None:
    """Apply a patch, install the application afresh, and ask for another one."""
    await world.add_target()
    await apply(world, world.release(), ResultCode.SUCCESS)
    await world.agent.remove_target(TARGET)
    write_tree(world.root, TREE)
    await world.add_target()
    readme = {"README": TREE["README"]}, {"README": FileState(0o100644, b"2\n")}
    await apply(world, world.release(patches.make_patch(*readme, release_counter=2)), ResultCode.POLICY_DENIED, NOBODY)
    world.agent.close()


def test_what_another_tree_had_is_not_installed(tmp_path: Path) -> None:
    world = World(tmp_path)
    trio.run(set_up_anew, world)
    decision = decision_of(records(world.chain)[-1][1].body)
    truth = decision_of(records(world.chain)[-1][1].body)["facts"]
    with_operator(decision)
    decision["facts"]["system"]["installed"] = [world.intents()[0].patch_id.hex()]
    height = announce(world.chain, decision, truth)
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive, code=1)
    assert [(each["height"], each["code"], each["member"]) for each in document["findings"]] == [(height, *INSTALLED)]


def test_a_chain_that_does_not_hold_is_told_too(tmp_path: Path, history: History) -> None:
    blocks = raw_blocks(history.chain)
    archive = write_archive(tmp_path / "cut.archive", history.chain, [*blocks[:-1], (blocks[-1][0], None)])
    answer = run("audit", "replay-decision", "--all", "--archive", archive)
    assert answer.code == 1
    assert "THE CHAIN DOES NOT HOLD: 1 findings" in answer.out
    assert "different:         0" in answer.out


# -- wide patches: the statement on the ledger has their paths by digest only -------------------------------------------


async def live_wide(world: World) -> None:
    """Apply a wide patch under a set that looks at no path, and another one under a set that does."""
    await world.add_target()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patchfile, "COMPONENTS_MAX", 1)
        for counter in (1, 2):
            after = {f"src/{counter}/{i}": FileState(0o100644, b"x\n") for i in range(COMPONENTS_SUMMARISED_MIN)}
            data = world.release(patches.make_patch({}, after, release_counter=counter))
            await apply(world, data, ResultCode.SUCCESS)
            if counter == 1:
                schema, texts = default_policy_set()
                rule = '@id("no-keys") forbid (principal, action, resource) when { resource.paths.contains("keys") };'
                world.chain.adopt(SetPolicy(schema, tuple(sorted((*texts, ("no-keys", rule))))))
    world.agent.close()


def test_a_wide_patch_is_judged_from_the_ledger_unless_a_rule_looks_at_paths(tmp_path: Path) -> None:
    world = World(tmp_path)
    trio.run(live_wide, world)
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive, code=1)
    assert document["findings"] == []
    assert (document["decisions"], document["same"], document["unjudged"]) == (2, 1, 1)
