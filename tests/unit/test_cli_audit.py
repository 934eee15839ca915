"""`patchwarden audit` and `receipt verify` over archives and receipts: what holds is told to hold, what does not is found."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ledger import bodies, rollout_bodies
from ledger.checkpoint import build_checkpoint
from ledger.proofs import build_receipt
from ledger.rollout_waves import Wave
from ledger.transaction import decode_transaction_untrusted, signature_job
from node.cli.audit_trace import summary_of
from node.cli.chain import RawBlock, _certified
from node.cli.verify_pool import INLINE_MAX, VerifyPool
from tests.testkit import patches
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, make_genesis
from tests.testkit.node import raw_blocks, write_archive
from wire.errors import UnavailableError

REPORT = bodies.HostReport("inventory", "app", b"{}")


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    chain.publish(data)
    chain.attest(data, "bob@beta")
    return chain


@pytest.fixture
def archive(tmp_path: Path, chain: Chain) -> Path:
    return write_archive(tmp_path / "chain.archive", chain, raw_blocks(chain))


@pytest.fixture
def genesis(tmp_path: Path, chain: Chain) -> Path:
    path = tmp_path / "genesis.json"
    path.write_bytes(chain.genesis.document)
    return path


@pytest.mark.parametrize("level", ["headers", "signatures", "full"])
def test_valid_chain_replays_without_a_finding(archive: Path, genesis: Path, chain: Chain, level: str) -> None:
    document = run_json("audit", "replay", "--archive", archive, "--genesis", genesis, "--level", level)
    assert document["valid"] is True
    assert document["findings"] == []
    assert document["blocks"] == document["certified_height"] == chain.height
    assert document["genesis_given"] is True
    assert document["block_hash"] == chain.view.tip.block_hash.hex()
    assert document["state_root"] == (chain.view.header.state_root.hex() if level == "full" else None)


def test_founding_document_of_the_source_is_marked_as_such(archive: Path) -> None:
    assert run_json("audit", "replay", "--archive", archive)["genesis_given"] is False
    assert "as the source tells it" in run("audit", "replay", "--archive", archive).out


def test_chain_of_other_founders_does_not_hold(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(Chain(make_genesis(validators=1)).genesis.document)
    document = run_json("audit", "replay", "--archive", archive, "--genesis", other, code=1)
    assert document["valid"] is False
    assert document["findings"]


def test_forged_block_is_found_and_told(tmp_path: Path, chain: Chain) -> None:
    blocks = raw_blocks(chain)
    raw, certificate = blocks[3]
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    blocks[3] = (bytes(flipped), certificate)
    archive = write_archive(tmp_path / "forged.archive", chain, blocks)
    report = tmp_path / "report.html"
    answer = run("audit", "replay", "--archive", archive, "--report", report)
    assert answer.code == 1
    assert "THE CHAIN DOES NOT HOLD" in answer.out
    assert "block 4" in answer.out
    page = report.read_text()
    assert "The chain does not hold" in page
    document = run_json("audit", "replay", "--archive", archive, "--report", tmp_path / "report.json", code=1)
    assert json.loads((tmp_path / "report.json").read_text())["findings"] == document["findings"]
    assert {4} <= {each["height"] for each in document["findings"]}


def test_missing_block_is_found(tmp_path: Path, chain: Chain) -> None:
    blocks = raw_blocks(chain)
    del blocks[2]
    document = run_json("audit", "replay", "--archive", write_archive(tmp_path / "a", chain, blocks), code=1)
    assert document["findings"][0]["height"] == 3


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another file": (lambda data: b"x" + data[1:], "ledger.archive.magic"),
    "empty": (lambda data: b"", "ledger.archive.truncated"),
    "without a chain": (lambda data: data[:100], "ledger.archive.truncated"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_archive_that_never_begins_is_refused(archive: Path, name: str) -> None:
    damage, code = DAMAGES[name]
    archive.write_bytes(damage(archive.read_bytes()))
    assert refused("audit", "replay", "--archive", archive) == code


def test_usage_of_replay(archive: Path, tmp_path: Path) -> None:
    assert refused("audit", "replay", "--archive", archive, "--rpc", "http://127.0.0.1:1", code=2) == "cli.usage"
    assert refused("audit", "replay", "--archive", archive, "--report", tmp_path / "r.txt", code=2) == "cli.usage"
    assert refused("audit", "replay", "--archive", tmp_path / "missing") == "cli.file.unreadable"
    assert refused("audit", "replay", "--home", tmp_path) == "cli.store.missing"


def test_archive_is_copied_whole_and_transactions_are_exported(archive: Path, tmp_path: Path, chain: Chain) -> None:
    copy = tmp_path / "copy.archive"
    run_json("audit", "export", "--format", "archive", "--archive", archive, "--out", copy)
    assert copy.read_bytes() == archive.read_bytes()
    lines, rows = tmp_path / "tx.jsonl", tmp_path / "tx.csv"
    document = run_json("audit", "export", "--format", "jsonl", "--archive", archive, "--out", lines)
    loaded = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(loaded) == document["transactions"] == chain.view.header.log_size
    assert [each["height"] for each in loaded] == sorted(each["height"] for each in loaded)
    assert loaded[-1]["kind"] == "patch.attest"
    run_json("audit", "export", "--format", "csv", "--archive", archive, "--out", rows)
    with rows.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["tx_id"] for row in table] == [each["tx_id"] for each in loaded]
    some = run_json(
        "audit", "export", "--format", "jsonl", "--archive", archive, "--from", 2, "--to", 3, "--out", lines
    )
    assert some["blocks"] == 2
    assert {json.loads(line)["height"] for line in lines.read_text().splitlines()} == {2, 3}
    assert (
        refused("audit", "export", "--format", "archive", "--archive", archive, "--from", 2, "--out", copy, code=2)
        == "cli.usage"
    )


def test_export_that_fails_leaves_no_file(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-20])
    out = tmp_path / "out" / "copy.archive"
    out.parent.mkdir()
    assert (
        refused("audit", "export", "--format", "archive", "--archive", archive, "--out", out)
        == "ledger.archive.truncated"
    )
    assert list(out.parent.iterdir()) == []


def test_formula_in_a_cell_is_defused(tmp_path: Path) -> None:
    from node.cli.audit_export import COLUMNS, _csv_row

    row = dict.fromkeys(COLUMNS, 1) | {"summary": "=HYPERLINK(1)"}
    assert b"'=HYPERLINK" in _csv_row(row)


def test_blocks_without_a_certificate_at_the_end_are_left_out() -> None:
    blocks = [RawBlock(1, b"a", None), RawBlock(2, b"b", b"c"), RawBlock(3, b"d", None)]
    assert list(_certified(iter(blocks))) == blocks[:2]


# -- receipts ----------------------------------------------------------------------------------------------------------


def write_receipt(path: Path, chain: Chain, kind: str) -> Path:
    for height in range(1, chain.height + 1):
        block = chain.view.block(height)
        assert block is not None
        for raw in block.transactions:
            transaction = decode_transaction_untrusted(raw)
            if transaction.kind == kind:
                path.write_text(json.dumps(build_receipt(chain.store, transaction.tx_id).to_json()))
                return path
    raise AssertionError(f"the chain has no {kind}")


def test_receipt_holds_with_the_founding_document_alone(tmp_path: Path, chain: Chain, genesis: Path) -> None:
    receipt = write_receipt(tmp_path / "receipt.json", chain, "patch.publish")
    document = run_json("receipt", "verify", receipt, "--genesis", genesis)
    assert document["valid"] is True
    assert document["kind"] == "patch.publish"


def test_changed_receipt_and_other_founders_are_refused(tmp_path: Path, chain: Chain, genesis: Path) -> None:
    receipt = write_receipt(tmp_path / "receipt.json", chain, "patch.publish")
    good = json.loads(receipt.read_text())
    receipt.write_text(json.dumps({**good, "log_index": good["log_index"] + 1}))
    assert refused("receipt", "verify", receipt, "--genesis", genesis).startswith("wire.merkle.")
    receipt.write_text(json.dumps({**good, "extra": 1}))
    assert refused("receipt", "verify", receipt, "--genesis", genesis) == "ledger.receipt.malformed"
    receipt.write_text("not json")
    assert refused("receipt", "verify", receipt, "--genesis", genesis) == "cli.file.not_json"
    receipt.write_text(json.dumps(good))
    genesis.write_bytes(Chain(make_genesis(validators=1)).genesis.document)
    assert refused("receipt", "verify", receipt, "--genesis", genesis) == "ledger.proof.validators"


def test_patch_is_verified_offline_with_receipts(tmp_path: Path, chain: Chain, genesis: Path) -> None:
    patch = tmp_path / "fix.patch"
    patch.write_bytes(patches.approve(patches.make_patch()))
    publish = write_receipt(tmp_path / "publish.json", chain, "patch.publish")
    attest = write_receipt(tmp_path / "attest.json", chain, "patch.attest")
    register = write_receipt(tmp_path / "register.json", chain, "identity.register")
    arguments = ("patch", "verify", patch, "--genesis", genesis)
    document = run_json(*arguments, "--receipt", publish, "--receipt", attest)
    assert document["valid"] is True
    assert [step["result"] for step in document["steps"][-2:]] == ["passed", "passed"]
    assert run_json(*arguments, "--receipt", register, code=1)["steps"][-1]["code"] == "cli.verify.receipt"
    checkpoint = tmp_path / "now.checkpoint"
    checkpoint.write_bytes(build_checkpoint(chain.store).to_text())
    document = run_json("patch", "verify", patch, "--checkpoint", checkpoint, "--receipt", publish)
    assert document["steps"][-1]["result"] == "passed"
    assert refused("patch", "verify", patch, "--checkpoint", checkpoint, code=2) == "cli.usage"
    patch.write_bytes(patches.make_patch(release_counter=2))
    assert run_json(*arguments, "--receipt", publish, code=1)["steps"][-1]["code"] == "cli.verify.receipt"


# -- telling and verifying ---------------------------------------------------------------------------------------------


def test_every_kind_of_transaction_has_its_words() -> None:
    digest = bytes(32)
    for body in (
        bodies.IdentityRegister("a@b", "A", ("developer",), b""),
        bodies.IdentityUpdateRoles("a@b", ("auditor",)),
        bodies.IdentityRotateKey("a@b", digest, b""),
        bodies.IdentitySuspend("a@b", "why"),
        bodies.IdentitySetRoleTerm("a@b", "developer", None, 1),
        bodies.AdministrationSetThreshold("b", 2),
        bodies.AdministrationPropose(bodies.IdentityResume("a@b")),
        bodies.AdministrationApprove(bytes(32)),
        bodies.AdministrationWithdraw(bytes(32)),
        bodies.IdentityPublishCrl("b", b"crl", (bytes(32),)),
        bodies.IdentityResume("a@b"),
        bodies.IdentityRevoke("a@b", None, 3, "why"),
        bodies.IdentityRevoke("a@b", digest, 3, "why"),
        bodies.ProposalVote(digest, True),
        bodies.ProposalWithdraw(digest),
        bodies.PatchPublish(digest, digest, 1, b"", ()),
        bodies.PatchAttest(digest, b"no envelope"),
        bodies.PatchWithdraw(digest, "why"),
        bodies.DeploymentIntent(1, digest, "app", digest, digest, b""),
        bodies.DeploymentOutcome(1, digest, "app", digest, None, "SUCCESS", digest, digest, b""),
        rollout_bodies.GroupAssign("web@b", ("web1@b",)),
        rollout_bodies.RolloutCreate(
            "spring@b", digest, ("web@b",), (Wave("all", None, None, 10_000, 0, 0, 0),), 2, ""
        ),
        rollout_bodies.RolloutDecide("spring@b", "halt", "why"),
        REPORT,
    ):
        assert len(summary_of(body)) > 8
    assert {type(body).KIND for body in (REPORT,)} <= set(bodies.BODY_READERS)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_find_the_same_forged_signatures_as_this_process(start: str) -> None:
    chain = Chain()
    chain.register("web1@acme", "host")
    key = chain.key("web1@acme").public_key
    good = [signature_job(chain.sign(REPORT, "web1@acme"), key) for _ in range(40)]
    jobs = [replace(job, signature=bytes(64)) if index % 7 == 3 else job for index, job in enumerate(good)]
    expected = [index % 7 != 3 for index in range(len(jobs))]
    with VerifyPool(1) as alone:
        assert list(alone(jobs)()) == expected
    with VerifyPool(2, may_fork=start == "fork") as pool:
        if start == "spawn":
            # As where other threads run in this process: nothing is forked, and few checks start nothing.
            assert list(pool(jobs)()) == expected
            pool._checked = INLINE_MAX
        waits = [pool(jobs[: 7 + turn]) for turn in range(30)]
        assert all(list(wait()) == expected[: 7 + turn] for turn, wait in reversed(list(enumerate(waits))))
        processes = [worker._process for worker in pool._workers]
        assert len(processes) == 2
    assert all(process.exitcode == 0 for process in processes)


@pytest.mark.slow
def test_lost_worker_is_told() -> None:
    chain = Chain()
    chain.register("web1@acme", "host")
    jobs = [signature_job(chain.sign(REPORT, "web1@acme"), chain.key("web1@acme").public_key) for _ in range(64)]
    with VerifyPool(2, may_fork=True) as pool:
        for worker in pool._workers:
            worker._process.kill()
            worker._process.join()
        with pytest.raises(UnavailableError) as caught:
            [wait() for wait in [pool(jobs), pool(jobs)]]
        assert caught.value.code == "cli.audit.worker_lost"
