"""Every command that talks to a node, against a real network: over HTTP and over the socket, answers and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.blame_proof import Blame, BlameKind
from ledger.blame_proof import Vote as BlameVote
from ledger.block import ZERO_DIGEST
from node.config import Home
from node.keystore import load_key
from node.local.protocol import decode_blob_untrusted
from tests.testkit import patches
from tests.testkit.cli import refused, run, run_json
from tests.testkit.devnet import Devnet, running_devnet, wait_for
from tests.testkit.patches import BEFORE
from wire.certificate import vote_message
from wire.keys import KeyId

pytestmark = pytest.mark.live

COMPONENT = "pkg:deb/debian/frames@1.4"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    with running_devnet(tmp_path_factory.mktemp("dc") / "net", "--validators", "3") as devnet:
        yield devnet


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a source tree, a diff and a build environment."""
    root = tmp_path_factory.mktemp("workshop")
    for base in ("source", "target"):
        for name, state in BEFORE.items():
            assert state is not None
            place = root / base / name
            place.parent.mkdir(parents=True)
            place.write_bytes(state.content)
            place.chmod(0o644)
    (root / "tests").mkdir()
    (root / "tests" / "t").write_text("assert")
    (root / "fix.diff").write_bytes(patches.make_metadata()[1])
    (root / "environment.json").write_text('{"compiler": "gcc"}')
    return root


def create(net: Devnet, workshop: Path, out: str) -> dict[str, Any]:
    document: dict[str, Any] = run_json(
        "patch", "create", "--diff", workshop / "fix.diff", "--base", workshop / "source", "--category", "bug-fix",
        "--reason", "Check the length\n\nIt read one element too far.", "--component", COMPONENT,
        "--build-env", workshop / "environment.json", "--tests", workshop / "tests", "--author", "Alice <alice@acme.example>",
        "--key", net.key("alice@acme"), "--out", workshop / out, "--rpc", net.rpc(),
    )  # fmt: skip
    return document


# -- identities --------------------------------------------------------------------------------------------------------


def test_identity_from_registration_to_revocation(net: Devnet, tmp_path: Path) -> None:
    node, admin = ("--rpc", net.rpc("v2")), ("--key", net.key("admin@beta"))
    first = run_json("key", "generate", "--out", tmp_path / "eve.key", "--no-passphrase")
    second = run_json("key", "generate", "--out", tmp_path / "eve-2.key", "--no-passphrase", "--algorithm", "p256")
    registered = run_json(
        "identity", "register", "eve@beta", "--public-key", first["public_file"], "--role", "developer", "--role", "auditor",
        "--name", "Eve Example", *admin, *node,
    )  # fmt: skip
    shown = run_json("identity", "show", "eve@beta", *node)
    assert (shown["roles"], shown["status"], shown["display_name"]) == (
        ["auditor", "developer"],
        "active",
        "Eve Example",
    )
    assert shown["registered_height"] == registered["height"]
    run_json("identity", "set-roles", "eve@beta", "--role", "developer", *admin, *node)
    rotated = run_json(
        "identity", "rotate-key", "eve@beta", "--new-key", second["did"], "--key", tmp_path / "eve.key", *node
    )
    run_json("identity", "suspend", "eve@beta", "--reason", "drill", *admin, *node)
    assert run_json("identity", "show", "eve@beta", *node)["status"] == "suspended"
    run_json("identity", "resume", "eve@beta", *admin, *node)
    run_json("identity", "revoke", "eve@beta", "--reason", "left", *admin, *node)
    after = run_json("identity", "show", "eve@beta", *node)
    assert after["status"] == "revoked"
    keys = {key["key_id"]: key for key in after["keys"]}
    assert keys[first["key_id"]]["retired_height"] is not None
    assert keys[second["key_id"]]["last_valid_height"] == 0, "nothing that was recorded of it counts"
    before = run_json("identity", "show", "eve@beta", "--height", rotated["height"] - 1, *node)
    assert before["status"] == "active"
    kinds = [each["kind"] for each in run_json("identity", "history", "eve@beta", *node)]
    assert kinds == [
        f"identity.{name}" for name in ("register", "update-roles", "rotate-key", "suspend", "resume", "revoke")
    ]
    text = run("identity", "show", "eve@beta", *node).out
    assert "revoked after" in text


def test_refusals_of_the_ledger_reach_the_user(net: Devnet, tmp_path: Path) -> None:
    node = ("--home", net.home("v1"))
    key = run_json("key", "generate", "--out", tmp_path / "k.key", "--no-passphrase")["public_file"]
    by_other = ("--role", "developer", "--key", net.key("admin@acme"))
    assert (
        refused("identity", "register", "x@beta", "--public-key", key, *by_other, *node) == "ledger.tx.not_authorised"
    )
    by_stranger = ("--role", "developer", "--key", tmp_path / "k.key")
    assert (
        refused("identity", "register", "x@beta", "--public-key", key, *by_stranger, *node)
        == "ledger.tx.unknown_signer"
    )
    taken = ("--public-key", net.key("alice@acme"), "--role", "developer", "--key", net.key("admin@acme"))
    assert refused("identity", "register", "y@acme", *taken, *node) == "ledger.identity.key_exists"
    assert refused(
        "identity", "register", "y@acme", "--public-key", key, "--role", "king", "--key", net.key("admin@acme"), *node
    ) == ("ledger.identity.bad_role")
    assert refused("identity", "show", "nobody@acme", *node) == "node.identity.not_found"
    assert (
        refused("identity", "register", "y@acme", "--role", "developer", "--key", net.key("admin@acme"), *node, code=2)
        == "cli.usage"
    )


def test_transaction_is_signed_here_and_submitted_later(net: Devnet, tmp_path: Path) -> None:
    key = run_json("key", "generate", "--out", tmp_path / "k.key", "--no-passphrase")["public_file"]
    written = run_json(
        "identity", "register", "later@acme", "--public-key", key, "--role", "auditor", "--key", net.key("admin@acme"),
        "--rpc", net.rpc(), "--write-transaction", tmp_path / "later.tx",
    )  # fmt: skip
    assert written["height"] is None
    assert refused("tx", "show", written["tx_id"], "--rpc", net.rpc()) == "node.transaction.not_found"
    assert refused("tx", "wait", written["tx_id"], "--rpc", net.rpc(), "--timeout", "0.3", code=3) == "cli.tx.timeout"
    for _ in range(2):  # Submitting again is harmless and gives the first answer.
        (result,) = run_json("tx", "submit", tmp_path / "later.tx", "--rpc", net.rpc("v3"))
        assert (result["tx_id"], result["status"]) == (written["tx_id"], "committed")
    shown = run_json("tx", "wait", written["tx_id"], "--rpc", net.rpc())
    assert (shown["kind"], shown["signer"]) == ("identity.register", "admin@acme")
    assert "admin@acme" in run("tx", "show", written["tx_id"], "--rpc", net.rpc()).out
    assert refused("tx", "submit", net.key("admin@acme"), "--rpc", net.rpc()) == "ledger.tx.malformed"


# -- blocks and receipts -----------------------------------------------------------------------------------------------


def test_blocks_are_shown_listed_and_followed(net: Devnet) -> None:
    for node in (("--rpc", net.rpc("v2")), ("--home", net.home("v2"))):
        listed = run_json("block", "list", "--limit", "3", *node)
        assert [each["height"] for each in listed] == sorted((each["height"] for each in listed), reverse=True)
        latest = run_json("block", "show", "latest", *node)
        assert latest["height"] >= listed[0]["height"]
        assert run_json("block", "show", "1", *node)["height"] == 1
        events = [
            json.loads(line)
            for line in run("block", "follow", "--from", "1", "--count", "3", "-o", "json", *node).out.splitlines()
        ]
        assert [event["height"] for event in events] == [1, 2, 3]
    by_hash = run_json("block", "show", latest["block_hash"], "--home", net.home("v2"))
    assert by_hash["height"] == latest["height"]
    assert refused("block", "show", "999999", "--rpc", net.rpc()) == "node.block.not_found"
    assert refused("block", "show", "soon", "--rpc", net.rpc(), code=2) == "cli.usage"


def test_receipt_is_got_and_holds_offline(net: Devnet, tmp_path: Path) -> None:
    (event,) = run_json("identity", "history", "alice@acme", "--rpc", net.rpc())
    run_json("receipt", "get", event["tx_id"], "--rpc", net.rpc("v3"), "--out", tmp_path / "receipt.json")
    verified = run_json("receipt", "verify", tmp_path / "receipt.json", "--genesis", net.document["genesis"])
    assert (verified["valid"], verified["tx_id"], verified["kind"]) == (True, event["tx_id"], "identity.register")
    assert refused("receipt", "get", "00" * 32, "--rpc", net.rpc()) == "node.transaction.not_found"


def test_cose_receipts_are_signed_by_a_majority(net: Devnet, tmp_path: Path) -> None:
    """Three validators: any node collects two signatures, over HTTP and the socket; asked again it has them."""
    (event,) = run_json("identity", "history", "alice@acme", "--rpc", net.rpc())
    for node in (("--rpc", net.rpc("v1")), ("--rpc", net.rpc("v1")), ("--home", net.home("v2"))):
        file = tmp_path / "receipt.cbor"
        run_json("receipt", "get", event["tx_id"], "--format", "cose", "--out", file, *node)
        verified = run_json("receipt", "verify", file, "--genesis", net.document["genesis"])
        assert (verified["valid"], verified["tx_id"], verified["format"]) == (True, event["tx_id"], "cose")
    missing = ("receipt", "get", "00" * 32, "--format", "cose", "--out", tmp_path / "none", "--rpc", net.rpc())
    assert refused(*missing) == "node.transaction.not_found"


def test_proofs_need_no_trust_in_the_node(net: Devnet, tmp_path: Path) -> None:
    """Over HTTP and the socket; what they say is verified from a checkpoint of another node."""
    genesis, checkpoint = net.document["genesis"], tmp_path / "now.checkpoint"
    got = run_json("checkpoint", "get", "--out", checkpoint, "--rpc", net.rpc("v2"))
    assert run_json("checkpoint", "verify", checkpoint, "--genesis", genesis)["block_hash"] == got["block_hash"]
    for name, node, present in (
        ("alice@acme", ("--rpc", net.rpc("v1")), True),
        ("nobody@acme", ("--home", net.home("v3")), False),
    ):
        file = tmp_path / f"{name}.proof"
        run_json("identity", "show", name, "--proof", file, *node)
        assert run_json("proof", "verify", file, "--checkpoint", checkpoint)["present"] is present
    run_json("policy", "show", "--proof", tmp_path / "policy.proof", "--rpc", net.rpc())
    assert run_json("proof", "verify", tmp_path / "policy.proof", "--genesis", genesis)["in_force"] is True
    early = tmp_path / "early.checkpoint"
    run_json("checkpoint", "get", "--height", "2", "--out", early, "--rpc", net.rpc("v3"))
    joined = run_json("checkpoint", "verify", checkpoint, "--checkpoint", early, "--rpc", net.rpc("v1"))
    assert joined["consistent"] is True
    assert (
        refused("proof", "consistency", "--from", "1", "--to", "999999", "--rpc", net.rpc()) == "ledger.proof.log_size"
    )


def test_light_client_follows_two_nodes_and_believes_none(net: Devnet, tmp_path: Path) -> None:
    nodes = ("--rpc", net.rpc("v1"), "--rpc", net.rpc("v2"))
    state = ("--state", tmp_path / "net.light")
    synced = run_json("light", "sync", *state, "--genesis", net.document["genesis"], *nodes)
    assert [each["outcome"] for each in synced["nodes"]] == ["agrees", "agrees"]
    shown = run_json("light", "show", "identity", "alice@acme", *state, *nodes)
    assert (shown["record"]["status"], shown["height"] >= synced["height"]) == ("active", True)
    assert run_json("light", "show", "identity", "nobody@acme", *state, *nodes)["present"] is False
    (event,) = run_json("identity", "history", "alice@acme", "--rpc", net.rpc())
    receipt = tmp_path / "receipt.json"
    run_json("receipt", "get", event["tx_id"], "--out", receipt, "--rpc", net.rpc("v3"))
    assert run_json("light", "verify", receipt, *state)["tx_id"] == event["tx_id"]


# -- governance --------------------------------------------------------------------------------------------------------


def test_organisations_vote_on_a_policy(net: Devnet, tmp_path: Path) -> None:
    node = ("--rpc", net.rpc())
    folder = tmp_path / "policies"
    folder.mkdir()
    document = run_json("policy", "show", *node)
    for each in document["policies"]:
        (folder / f"{each['name']}.cedar").write_text(each["text"])
    (folder / "no-features.cedar").write_text(
        '@id("no-features")\n@reason("no features now")\nforbid (principal, action == Action::"apply_patch", resource)\n'
        'when { context.patch.category == "feature" };\n'
    )
    proposed = run_json(
        "governance",
        "propose",
        "set-policy",
        folder,
        "--description",
        "freeze features",
        "--key",
        net.key("admin@acme"),
        *node,
    )
    proposal = proposed["tx_id"]
    listed = run_json("governance", "list", *node)
    assert (listed[0]["proposal_id"], listed[0]["status"], listed[0]["action"][0]) == (proposal, "open", "set-policy")
    run_json("governance", "vote", proposal, "--reject", "--key", net.key("admin@gamma"), *node)
    run_json("governance", "vote", proposal, "--approve", "--key", net.key("admin@acme"), *node)
    decided = run_json("governance", "vote", proposal, "--approve", "--key", net.key("admin@beta"), *node)
    shown = run_json("governance", "show", proposal, *node)
    assert (shown["status"], shown["closed_height"]) == ("executed", decided["height"])
    assert len(shown["votes"]) == 3
    now = run_json("policy", "show", *node)
    assert (now["version"], now["adopted_height"]) == (1, decided["height"])
    assert "no-features" in {each["name"] for each in now["policies"]}
    assert run_json("policy", "show", "--version", "0", *node)["policy_hash"] == document["policy_hash"]
    assert refused("governance", "vote", proposal, "--approve", "--key", net.key("admin@gamma"), *node).startswith(
        "ledger.proposal."
    )


def test_proposals_of_every_kind_are_opened_and_withdrawn(net: Devnet, tmp_path: Path) -> None:
    common = ("--key", net.key("admin@beta"), "--rpc", net.rpc())
    key = run_json("key", "generate", "--out", tmp_path / "d.key", "--no-passphrase")
    alice = run_json("key", "show", net.key("alice@acme"))["key_id"]
    for arguments in (
        ("add-organisation", "delta", "Delta SA", "--administrator", "admin@delta", "Dora", key["public_file"]),
        ("set-threshold", "two-thirds"),
        ("revoke-key", alice, "--last-valid-height", "1", "--reason", "drill"),
    ):
        proposal = run_json("governance", "propose", *arguments, *common)["tx_id"]
        run_json("governance", "withdraw", proposal, *common)
        assert run_json("governance", "show", proposal, "--rpc", net.rpc())["status"] == "withdrawn"
    assert refused("governance", "propose", "withdraw-patch", "00" * 32, "--reason", "x", *common) in (
        "ledger.patch.not_found",
        "",
    )


# -- patches and the agent ---------------------------------------------------------------------------------------------


def test_patch_from_publication_to_withdrawal(net: Devnet, workshop: Path, tmp_path: Path) -> None:
    node, host = ("--rpc", net.rpc()), ("--home", net.home("web1"))
    created = create(net, workshop, "fix.patch")
    patch, patch_id = workshop / "fix.patch", created["patch_id"]
    run_json(
        "patch",
        "attest",
        patch,
        "--role",
        "security-review",
        "--verdict",
        "approve",
        "--identity",
        "bob@beta",
        "--key",
        net.key("bob@beta"),
    )
    unpublished = run_json("patch", "verify", patch, *node)
    assert [step["result"] for step in unpublished["steps"] if step["step"] == "publication"] == ["warning"]
    assert refused("patch", "publish", patch, "--key", net.key("bob@beta"), *node) == "cli.publish.not_author"

    # Publishing passes on what the file carries; doing it again changes nothing.
    published = run_json("patch", "publish", patch, "--key", net.key("alice@acme"), *node)
    assert [each["status"] for each in published["attestations"]] == ["recorded"]
    again = run_json("patch", "publish", patch, "--key", net.key("alice@acme"), *node)
    assert (again["published"], [each["status"] for each in again["attestations"]]) == (None, ["known"])
    assert create(net, workshop, "next.patch")["release_counter"] == created["release_counter"] + 1

    # An attestation with a node goes to the file and to the ledger; the identity is looked up by the key.
    attested = run_json(
        "patch", "attest", patch, "--role", "qa", "--verdict", "reject", "--key", net.key("carol@gamma"), *node
    )
    assert (attested["identity"], attested["recorded"]["kind"]) == ("carol@gamma", "patch.attest")
    record = run_json("patch", "show", patch_id, *node)
    assert [(each["identity"], each["verdict"]) for each in record["attestations"]] == [
        ("bob@beta", "approve"),
        ("carol@gamma", "reject"),
    ]
    verified = run_json("patch", "verify", patch, *node)
    assert {step["result"] for step in verified["steps"]} == {"passed"}

    # The published file comes back byte for byte, from a node that never had it.
    run_json("patch", "fetch", patch_id, "--out", tmp_path / "fetched.patch", "--home", net.home("v3"))
    assert patch.read_bytes().startswith((tmp_path / "fetched.patch").read_bytes())

    added = run_json("agent", "target", "add", "frames", workshop / "target", "--component", COMPONENT, *host)
    wait_for(lambda: run_json("node", "status", *host)["height"] >= attested["recorded"]["height"], "the host follows")
    refused_outcome = run_json("agent", "apply", patch, "--target", "frames", *host, code=1)
    rules = [rule for rule, _ in refused_outcome["decision"]["forbidden_by"]]
    assert rules == ["no-rejection", "two-independent-approvals"]
    text = run("agent", "explain", patch, "--target", "frames", *host)
    assert text.code == 1
    assert "forbidden by no-rejection" in text.out

    # The attestor changes her mind; the later word counts.
    changed = run_json(
        "patch", "attest", patch, "--role", "qa", "--verdict", "approve", "--key", net.key("carol@gamma"), *node
    )
    wait_for(lambda: run_json("node", "status", *host)["height"] >= changed["recorded"]["height"], "the host follows")

    # A patch after which the target is not healthy is taken back, and the ledger is told why.
    hook = ("agent", "target", "hook", "frames", "health")
    assert refused(*hook, *host, "--", workshop / "target" / "src" / "frame.c") == "agent.hook.inside_target"
    words = ("--", "/bin/sh", "-c", "echo token=abc; echo no answer >&2; exit 7")
    assert run(*hook, "--retries", 1, *host, *words).code == 0
    hooked = run_json("agent", "target", "show", "frames", *host)
    assert hooked["hooks"]["health"]["retries"] == 1
    before = (workshop / "target/src/frame.c").read_bytes()
    taken_back = run_json("agent", "apply", patch_id, "--target", "frames", *host, code=1)
    assert (taken_back["code"], taken_back["reason"]) == ("ERROR_APPLY_FAILED", "agent.hook.health_failed")
    (ran,) = taken_back["hooks"]
    assert (ran["exit"], ran["runs"], ran["output"]) == (7, 2, "token=[redacted]\nno answer")
    assert taken_back["tree_after"] == taken_back["tree_before"] == added["tree_digest"]
    assert (workshop / "target/src/frame.c").read_bytes() == before
    assert taken_back["recorded_height"] is not None
    assert run_json(*hook, "--remove", *host)["hooks"] == {}

    applied = run_json("agent", "apply", patch_id, "--target", "frames", *host)
    assert applied["code"] == "SUCCESS"
    assert (workshop / "target/src/frame.c").read_bytes() == patches.AFTER["src/frame.c"].content  # type: ignore[union-attr]
    assert applied["tree_before"] == added["tree_digest"]
    history = run_json("agent", "history", "--target", "frames", *host)
    assert [each["code"] for each in history] == ["SUCCESS", "ERROR_APPLY_FAILED", "ERROR_POLICY_DENIED"]
    status = run_json("agent", "status", *host)
    assert [each["patch_id"] for each in status["targets"][0]["installed"]] == [patch_id]

    withdrawn = run_json("patch", "withdraw", patch_id, "--reason", "superseded", "--key", net.key("alice@acme"), *node)
    assert run_json("patch", "show", patch_id, *node)["withdrawn_height"] == withdrawn["height"]
    after = run_json("patch", "verify", patch, *node, code=1)
    assert [step["code"] for step in after["steps"] if step["result"] == "failed"] == ["cli.verify.withdrawn"]
    assert patch_id[:16] in run("patch", "list", *node).out

    # What was withdrawn can be undone where it is installed.
    wait_for(lambda: run_json("node", "status", *host)["height"] >= withdrawn["height"], "the host follows")
    explained = run("agent", "rollback", patch_id, "--target", "frames", "--explain", *host)
    assert (explained.code, "allowed by permit-rollback" in explained.out) == (0, True)
    (undone,) = run_json("agent", "rollback", patch_id, "--target", "frames", *host)["outcomes"]
    assert (undone["code"], undone["tree_after"]) == ("ROLLED_BACK", added["tree_digest"])
    assert (workshop / "target/src/frame.c").read_bytes() == before
    assert refused("agent", "rollback", patch_id, "--target", "frames", *host) == "agent.rollback.not_installed"
    height = undone["recorded_height"]
    wait_for(lambda: run_json("node", "status", *node)["height"] >= height, "the validator follows")

    story = run_json("audit", "trace", "patch", patch_id, *node, "--genesis", net.document["genesis"])
    assert story["valid"] is True
    assert (story["events"][0]["kind"], story["events"][-1]["kind"]) == ("patch.publish", "deployment.outcome")
    told = run("audit", "trace", "patch", patch_id, *node).out
    assert f"rollback of {patch_id[:12]} on frames decided and announced" in told
    assert f"ROLLED_BACK for {patch_id[:12]} on frames" in told
    assert f"ERROR_APPLY_FAILED for {patch_id[:12]} on frames" in told
    for subject, name in (("host", "web1@acme"), ("identity", "carol@gamma"), ("organisation", "acme")):
        found = run_json("audit", "trace", subject, name, "--home", net.home("v2"))
        assert found["valid"] is True, subject
        assert found["events"], subject


def test_trace_of_nobody(net: Devnet) -> None:
    assert refused("audit", "trace", "identity", "nobody@acme", "--rpc", net.rpc()) == "cli.trace.not_found"
    assert refused("audit", "trace", "patch", "zz", "--rpc", net.rpc()) in (
        "node.param.digest",
        "node.http.invalid_request",
    )


def test_targets_of_a_host(net: Devnet, tmp_path: Path) -> None:
    host = ("--home", net.home("web1"))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("one")
    run_json(
        "agent",
        "target",
        "add",
        "other",
        tmp_path / "tree",
        "--component",
        "x*",
        "--window",
        "mon-fri 22:00-04:00",
        *host,
    )
    assert "other" in [each["name"] for each in run_json("agent", "target", "list", *host)]
    assert run_json("agent", "target", "show", "other", *host)["drifted"] is False
    (tmp_path / "tree" / "file").write_text("two")
    drifted = run_json("agent", "target", "show", "other", *host, code=1)
    assert drifted["drifted_paths"] == ["file"]
    (found,) = run_json("agent", "drift", "--target", "other", "--full", *host, code=1)
    assert (found["drifted_paths"], found["drifted_count"]) == (["file"], 1)
    (tmp_path / "tree" / "file").write_text("one")
    assert run("agent", "drift", "--target", "other", *host).out == "no target has drifted\n"
    (tmp_path / "tree" / "file").write_text("two")
    run_json("agent", "target", "adopt", "other", *host)
    assert run_json("agent", "target", "show", "other", *host)["drifted"] is False
    run_json("agent", "target", "freeze", "other", *host)
    assert run_json("agent", "target", "show", "other", *host)["frozen"] is True
    run_json("agent", "target", "thaw", "other", *host)
    run_json("agent", "target", "remove", "other", *host)
    assert refused("agent", "target", "show", "other", *host) == "agent.target.unknown"
    assert refused("agent", "status", "--home", net.home("v1")) == "node.local.unknown_method"


def test_agent_over_http_needs_the_homes_token(net: Devnet, workshop: Path) -> None:
    create(net, workshop, "http.patch")
    arguments = ("agent", "explain", workshop / "http.patch", "--target", "nothing", "--rpc", net.rpc("web1"))
    assert refused(*arguments) == "node.auth.required"
    host = ("--rpc", net.rpc("web1"), "--home", net.home("web1"))
    assert refused(*arguments, *host[2:]) == "agent.target.unknown"
    assert (
        refused("agent", "rollback", "0" * 64, "--target", "nothing", "--rpc", net.rpc("web1")) == "node.auth.required"
    )
    assert refused("agent", "rollback", "0" * 64, "--target", "nothing", *host) == "agent.target.unknown"
    assert refused("agent", "drift", "--target", "nothing", *host) == "agent.target.unknown"
    assert run_json("agent", "drift", "--full", *host) == []
    assert isinstance(run_json("agent", "outbox", *host), list)


# -- nodes and audits --------------------------------------------------------------------------------------------------


def double_vote(net: Devnet, name: str) -> Blame:
    """Return the proof that a validator voted twice: made with its own key, as if it had lied."""
    home = Home(Path(net.home(name)))
    key, chain_id = load_key(home.node_key), str(net.document["chain_id"])
    candidates = (key.public_key.key_id, KeyId(bytes(32)))
    votes = tuple(
        BlameVote(2**40, each, 0, 0, ZERO_DIGEST, key.sign(vote_message(chain_id, 2**40, each, 0, 0, ZERO_DIGEST)))
        for each in candidates
    )
    return Blame(BlameKind.DOUBLE_VOTE, chain_id, key.public_key.key_id, votes)


def test_nodes_do_not_contradict_each_other_and_a_liar_comes_on_record(net: Devnet, tmp_path: Path) -> None:
    trust = ("--genesis", net.document["genesis"])
    document = run_json("audit", "blame", net.rpc(), net.home("v2"), net.rpc("v3"), *trust)
    assert (len(document["comparisons"]), document["conflict"], document["findings"]) == (3, False, 0)
    proof = tmp_path / "proof.json"
    blame = double_vote(net, "v3")
    proof.write_text(json.dumps(blame.to_json()))
    assert run_json("audit", "verify-blame", proof, *trust)["name"] == "v3"
    signed = ("--key", net.key("alice@acme"), "--rpc", net.rpc())
    committed = run_json("audit", "accuse", proof, *signed)
    assert committed["kind"] == "evidence.submit"
    assert refused("audit", "accuse", proof, *signed) == "ledger.evidence.recorded"
    assert run("tx", "show", committed["tx_id"], "--rpc", net.rpc()).code == 0
    told = run_json("audit", "trace", "identity", "alice@acme", "--rpc", net.rpc())
    assert f"evidence of double_vote submitted against {blame.validator.hex()[:12]}" in {
        each["summary"] for each in told["events"]
    }


def test_node_tells_about_itself(net: Devnet) -> None:
    for node in (("--rpc", net.rpc("v2")), ("--home", net.home("v2"))):
        assert run_json("node", "status", *node)["name"] == "v2"
        assert {each["name"] for each in run_json("node", "validators", *node)} == {"v1", "v2", "v3"}
        peers = run_json("node", "peers", *node)
        assert {each["name"] for each in peers if each["connected"]} >= {"v1", "v3"}
    text = run("node", "status", "--rpc", net.rpc("v2")).out
    assert "v2 (" in text


@pytest.mark.parametrize("way", ["rpc", "home"])
def test_live_chain_replays_and_goes_on(net: Devnet, way: str, tmp_path: Path) -> None:
    node = ("--rpc", net.rpc("v3")) if way == "rpc" else ("--home", net.home("v3"))
    command = ("audit", "replay", *node, "--genesis", net.document["genesis"], "--resume", tmp_path / "v3.audit")
    document = run_json(*command)
    assert document["valid"] is True
    assert document["certified_height"] == document["height"] > 0
    again = run_json(*command)
    assert again["valid"] is True
    assert again["height"] >= document["height"]
    exported = run_json("audit", "export", *node, "--format", "parquet", "--out", tmp_path / "v3.parquet")
    assert exported["transactions"] >= document["transactions"]


def test_archive_of_a_live_chain_replays_elsewhere(net: Devnet, tmp_path: Path) -> None:
    exported = run_json(
        "audit", "export", "--format", "archive", "--rpc", net.rpc(), "--out", tmp_path / "chain.archive"
    )
    document = run_json(
        "audit", "replay", "--archive", tmp_path / "chain.archive", "--genesis", net.document["genesis"]
    )
    assert (document["valid"], document["blocks"]) == (True, exported["blocks"])


def test_store_of_a_running_node_is_not_opened(net: Devnet) -> None:
    assert refused("node", "verify-store", "--home", net.home("v1")) == "node.storage.in_use"


def test_founding_document_over_both_ways_is_the_same(net: Devnet) -> None:
    from node.cli.rpc import RpcClient
    from node.local.client import LocalClient

    client = RpcClient(net.rpc())
    with LocalClient(Path(net.home("v1")) / "core.sock") as local:
        for method in ("genesis.get", "validators", "policy.get"):
            over_http, over_socket = client.call(method), local.call(method)
            for document in (over_http, over_socket):
                if isinstance(document, dict):
                    document.pop("as_of", None)  # When it was read, which differs.
            assert over_http == over_socket
    data = decode_blob_untrusted(client.call("genesis.get")["genesis"], "genesis", bytes_max=1 << 20)
    assert data == Path(net.document["genesis"]).read_bytes()
    client.close()
