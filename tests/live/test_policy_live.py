"""The life of a policy set on a real network: cases, proposal, review, votes, the height at which it is in force, and what hosts do."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.testkit import patches
from tests.testkit.agent import Tree, read_tree, write_tree
from tests.testkit.cli import refused, run, run_json
from tests.testkit.devnet import Devnet, running_devnet, wait_for
from tests.testkit.pages import Answer, check_answer, crawl
from tests.testkit.patches import AFTER, BEFORE

pytestmark = [pytest.mark.live, pytest.mark.slow]

COMPONENT = "pkg:deb/debian/frames@1.4"
INVARIANTS = [{"name": "nobody approves", "expect": "deny", "facts": {"approvals": []}}]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    with running_devnet(tmp_path_factory.mktemp("pl") / "net", "--validators", "3", "--hosts", "1") as devnet:
        yield devnet


def vote(net: Devnet, proposal: str) -> int:
    """Let two of three organisations vote for it; return the height of the deciding block."""
    heights = [
        run_json("governance", "vote", proposal, "--approve", "--key", net.key(f"admin@{each}"), "--rpc", net.rpc())
        for each in ("acme", "beta")
    ]
    return int(heights[-1]["height"])


def wait_for_host(net: Devnet) -> None:
    """Return when the host's replica has everything that the validator that was asked has now."""
    height = run_json("node", "status", "--rpc", net.rpc())["height"]
    home = net.home("web1")
    wait_for(lambda: run_json("node", "status", "--home", home)["height"] >= height, f"the host is at height {height}")


def release(net: Devnet, workshop: Path, before: Tree, after: Tree, counter: int) -> Path:
    """Return a published patch from one tree to the other, with two approvals and without a scan."""
    node, base, out = ("--rpc", net.rpc()), workshop / f"source{counter}", workshop / f"{counter}.patch"
    write_tree(base, before)
    (workshop / f"{counter}.diff").write_bytes(patches.make_metadata(before, after)[1])
    (workshop / "environment.json").write_text('{"compiler": "gcc"}')
    run_json(
        "patch", "create", "--diff", workshop / f"{counter}.diff", "--base", base, "--category", "bug-fix",
        "--reason", "Check the length\n\nIt read one element too far.", "--component", COMPONENT,
        "--build-env", workshop / "environment.json", "--tests", base, "--author", "Alice <alice@acme.example>",
        "--release-counter", counter, "--key", net.key("alice@acme"), "--out", out, *node,
    )  # fmt: skip
    run_json("patch", "publish", out, "--key", net.key("alice@acme"), *node)
    for identity, role in (("bob@beta", "security-review"), ("carol@gamma", "qa")):
        run_json("patch", "attest", out, "--role", role, "--verdict", "approve", "--key", net.key(identity), *node)
    wait_for_host(net)
    return out


def look_at_the_explorer(net: Devnet) -> None:
    """The pages of a validator's real gateway: sound, each link resolves, and they say what the commands said."""
    assert f"\nexplorer: {net.rpc()}/explorer/\n" in net.log()
    with httpx.Client(base_url=net.rpc(), timeout=30) as client:

        def get(address: str) -> Answer:
            response = client.get(address)
            return Answer(response.status_code, dict(response.headers), response.text)

        found = crawl(get, pages_max=40)
        rollout, host = found["/explorer/rollouts/spring@acme"], check_answer("host", get("/explorer/hosts/web1@acme"))
        for words in ("Hosts by state over time", "complete", "canary", "web1@acme", "A stack of 1 host,", "applied 1"):
            assert words in rollout.words, words
        assert "SUCCESS" in host.words
        missing = get("/explorer/hosts/nobody@acme")
        assert missing.status == 404
        assert "node.host.not_found" in check_answer("missing", missing).words
        posted = client.post("/explorer/rollouts", content=b"x")
        assert (posted.status_code, posted.json()["code"]) == (405, "node.http.method_not_allowed")


def browse(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what a browser says. It is root in some places, where its sandbox does not start; what it opens is ours."""
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
    ]
    try:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("chromium does not answer here")


def test_a_browser_shows_the_explorer_in_light_and_dark(net: Devnet, tmp_path: Path) -> None:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    if browse(profile, "--dump-dom", "about:blank").returncode != 0:
        pytest.skip("chromium does not start here")
    address = f"{net.rpc()}/explorer/"
    shown = browse(profile, "--dump-dom", address)
    if shown.returncode != 0:
        pytest.skip("chromium broke down")
    assert "Newest blocks" in shown.stdout
    assert "Content Security Policy" not in shown.stderr, "everything a page asks for is allowed"
    pictures = []
    for scheme in ("1", "0"):
        picture = tmp_path / f"{scheme}.png"
        browse(
            profile, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}",
            "--window-size=400,800", f"{net.rpc()}/explorer/nothing",
        )  # fmt: skip
        if not picture.exists():
            pytest.skip("chromium made no picture")
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1], "light is not dark"


def test_policy_set_from_its_cases_to_what_hosts_refuse(net: Devnet, tmp_path: Path) -> None:
    node, host = ("--rpc", net.rpc()), ("--home", net.home("web1"))
    write_tree(tmp_path / "target", BEFORE)
    run_json("agent", "target", "add", "app", tmp_path / "target", "--component", COMPONENT, *host)

    # The network's own cases, and a set that breaks one of them.
    (tmp_path / "cases.json").write_text(json.dumps(INVARIANTS))
    admin = ("--key", net.key("admin@gamma"))
    vote(net, run_json("policy", "propose-cases", tmp_path / "cases.json", *admin, *node)["tx_id"])
    lax = tmp_path / "lax"
    run_json("policy", "init", lax)
    for name in ("two-independent-approvals", "security-review-approval"):
        (lax / f"{name}.cedar").unlink()
    assert refused("policy", "propose", lax, *admin, *node) == "cli.policy.cases_failed"

    # A patch that the set in force lets in, and the next one would not.
    patch = release(net, tmp_path, BEFORE, AFTER, 1)
    allowed = run_json("agent", "explain", patch, "--target", "app", *host)
    assert allowed["decision"]["verdict"] == "allow"
    assert allowed["decision"]["engine"].startswith("cedarpy ")
    strict = tmp_path / "strict"
    run_json("policy", "init", strict, "--template", "vulnerability-gate")
    height = int(run_json("node", "status", *node)["height"]) + 12
    proposal = run_json("policy", "propose", strict, "--activate", height, *admin, *node)["tx_id"]
    assert run_json("policy", "review", proposal, *node)["sound"] is True
    assert vote(net, proposal) < height
    assert [each["status"] for each in run_json("policy", "history", *node)] == ["in force", "waits"]
    applied = run_json("agent", "apply", patch, "--target", "app", *host)
    assert applied["code"] == "SUCCESS"
    changed = run_json("policy", "what-if", proposal, *host)
    assert [(row["host"], row["change"]) for row in changed["rows"]] == [("web1@acme", "would be refused")]
    explained = run_json("policy", "explain", "--deployment", changed["rows"][0]["deployment_id"], *host)
    assert (explained["verdict"], explained["recorded"]["agrees"]) == ("allow", True)

    # The first block at its height puts it in force, on validators and on the host.
    key = run_json("key", "generate", "--out", tmp_path / "scan.key", "--no-passphrase")["public_file"]
    registered = 0
    while registered < height:
        identity = f"scan{registered}@beta"
        registered = int(
            run_json("identity", "register", identity, "--public-key", key, "--role", "attestor:vulnerability-scan",
                     "--key", net.key("admin@beta"), *node)["height"]
        )  # fmt: skip
        key = run_json("key", "generate", "--out", tmp_path / f"{registered}.key", "--no-passphrase")["public_file"]
    assert [each["status"] for each in run_json("policy", "history", *node)] == ["former", "in force"]
    second = release(net, tmp_path, AFTER, BEFORE, 2)
    document = run_json("agent", "apply", second, "--target", "app", *host, code=1)
    assert (document["code"], document["reason"]) == ("ERROR_POLICY_DENIED", "agent.policy.scanned")
    assert document["decision"]["policy_version"] == 1


def test_a_rollout_comes_to_a_host_by_itself(net: Devnet, tmp_path: Path) -> None:
    """Nobody touches the host: it is in a group, a release manager begins a rollout, its node takes its turn."""
    node, admin = ("--rpc", net.rpc()), ("--key", net.key("admin@acme"))
    if len(run_json("policy", "history", *node)) > 1:
        # The story above demands scans.
        run_json("policy", "init", tmp_path / "plain")
        vote(net, run_json("policy", "propose", tmp_path / "plain", "--key", net.key("admin@gamma"), *node)["tx_id"])
    write_tree(tmp_path / "fleet", BEFORE)
    home = ("--home", net.home("web1"))
    if any(each["name"] == "app" for each in run_json("agent", "target", "list", *home)):
        # The story above leaves it with a tree that this patch does not fit, and a host is what the worst of its targets is.
        run_json("agent", "target", "remove", "app", *home)
    run_json("agent", "target", "add", "fleet", tmp_path / "fleet", "--component", COMPONENT, *home)
    patch = release(net, tmp_path, BEFORE, AFTER, 3)
    patch_id = run_json("patch", "show", patch)["patch_id"]
    public = run_json("key", "generate", "--out", tmp_path / "rita.key", "--no-passphrase")["public_file"]
    run_json("identity", "register", "rita@acme", "--public-key", public, "--role", "release-manager", *admin, *node)
    manager = ("--key", tmp_path / "rita.key")
    run_json("rollout", "assign", "web@acme", "web1@acme", *admin, *node)
    create = ("rollout", "create", "spring@acme", "--patch", patch_id, "--group", "web@acme", "--budget", 0)
    assert refused(*create, "--wave", "half:50%", *manager, *node) == "ledger.rollout.bad_waves"
    run_json(*create, "--wave", "canary:1:blocks=1", "--wave", "all:all", *manager, *node)
    found: dict[str, Any] = {}

    def is_applied() -> bool:
        found.update(run_json("rollout", "status", "spring@acme", *node))
        return bool(found["waves"][0]["applied"])

    wait_for(is_applied, "the host has taken its turn", timeout_s=120.0)
    assert (found["status"], found["complete"], found["failures"]) == ("running", True, 0)
    assert read_tree(tmp_path / "fleet") == AFTER
    # The ledger knows it a moment before the host has noted it for itself.
    wait_for(lambda: run_json("agent", "history", "--target", "fleet", *home), "the host has noted it")
    (latest, *_) = run_json("agent", "history", "--target", "fleet", *home)
    assert (latest["code"], latest["patch_id"]) == ("SUCCESS", patch_id)
    turn = run_json("rollout", "turn", "spring@acme", "--host", "web1@acme", *node)
    assert (turn["wave"], turn["state"], turn["targets"]) == (
        "canary", "applied", [{"target": "fleet", "state": "applied"}],
    )  # fmt: skip
    assert run("rollout", "status", "spring@acme", *node).out.count("|") == 4
    assert [each["rollout_id"] for each in run_json("rollout", "status", *node)] == ["spring@acme"]
    (group,) = run_json("rollout", "groups", *node)
    assert (group["hosts"], group["rollouts"]) == (1, ["spring@acme"])
    assert run_json("rollout", "groups", "web@acme", *node)["members"] == ["web1@acme"]
    look_at_the_explorer(net)
    for decision, status in (("halt", "halted"), ("resume", "running"), ("withdraw", "withdrawn")):
        run_json("rollout", decision, "spring@acme", "--reason", "enough", *manager, *node)
        assert run_json("rollout", "status", "spring@acme", *node)["status"] == status
    assert refused("rollout", "halt", "spring@acme", *manager, *node) == "ledger.rollout.withdrawn"
    run_json("rollout", "unassign", "web1@acme", *admin, *node)
    assert refused("rollout", "status", "other@acme", *node) == "node.rollout.not_found"
    assert refused("rollout", "groups", "other@acme", *node) == "node.group.not_found"
    assert refused("rollout", "turn", "spring@acme", "--host", "web1@acme", *node) == "node.turn.not_found"
