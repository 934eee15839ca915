"""Exports for other engines: Parquet holds what the chain says, and the documented queries give the documented answers."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet
import pytest

from ledger import bodies, rollout_bodies
from ledger.archive import ArchiveEncoder
from ledger.rollout_waves import Wave
from node.cli import audit_parquet
from node.cli.audit_export import named_fields
from tests.testkit import patches
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain

PAGE = Path("docs") / "operations" / "audit-export.md"


@pytest.fixture(scope="module")
def chain() -> Chain:
    """The chain of the documented example: a patch, two hosts, one success, one failure, and a second try without an end."""
    chain = Chain()
    chain.register_patch_people()
    chain.register("web2@acme", "host")
    data = patches.approve(patches.make_patch())
    patch_id = chain.publish(data)
    chain.attest(data, "bob@beta")
    for host, result in (("web1@acme", "SUCCESS"), ("web2@acme", "ERROR_APPLY_FAILED")):
        intent = chain.submit(bodies.DeploymentIntent(1, bytes(32), "site", patch_id, bytes(32), b"{}"), host).tx_id
        outcome = bodies.DeploymentOutcome(
            2, intent, "site", patch_id, intent, result, bytes(32), b"\x01" * 32, b'{"code":1}'
        )
        last = chain.submit(outcome, host).tx_id
    chain.submit(bodies.DeploymentIntent(3, last, "site", patch_id, bytes(32), b"{}"), "web2@acme")
    return chain


@pytest.fixture
def archive(tmp_path: Path, chain: Chain) -> Path:
    encoder = ArchiveEncoder()
    blocks = [(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]
    data = [encoder.begin(chain.genesis.document), *(encoder.block(*block) for block in blocks), encoder.end()]
    (tmp_path / "chain.archive").write_bytes(b"".join(data))
    return tmp_path / "chain.archive"


def export(archive: Path, kind: str, *arguments: object) -> Path:
    out = archive.with_name(f"transactions.{kind}")
    run_json("audit", "export", "--archive", archive, "--format", kind, "--out", out, *arguments)
    return out


def test_parquet_holds_what_json_lines_hold(archive: Path, chain: Chain) -> None:
    table = pyarrow.parquet.read_table(export(archive, "parquet"))
    lines = [json.loads(line) for line in export(archive, "jsonl").read_text().splitlines()]
    rows = table.to_pylist()
    assert len(rows) == len(lines) == chain.view.header.log_size
    for row, line in zip(rows, lines, strict=True):
        assert row["raw"] == base64.b64decode(line["raw"])
        assert json.loads(row["body"]) == line["fields"]
        assert round(row["time"].timestamp() * 1000) == line["time_ms"]
        for name in (
            "height",
            "index",
            "tx_id",
            "kind",
            "signer_key_id",
            "not_after_height",
            "client_time_ms",
            "summary",
        ):
            assert row[name] == line[name]
    assert table.schema.metadata[b"chain_id"] == chain.genesis.chain_id.encode()
    assert table.schema.metadata[b"genesis_hash"].decode() == chain.genesis.genesis_hash.hex()


def test_parquet_takes_a_part_and_comes_in_groups(archive: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_parquet, "ROWS_PER_GROUP", 3)
    file = pyarrow.parquet.ParquetFile(export(archive, "parquet", "--from", 2, "--to", 8))
    assert file.metadata.num_row_groups == 3
    assert file.read().column("height").to_pylist() == [2, 3, 4, 5, 6, 7, 8]
    empty = pyarrow.parquet.read_table(export(archive, "parquet", "--from", chain.height + 1))
    assert empty.num_rows == 0
    assert "body" in empty.schema.names


def test_parquet_without_pyarrow_is_refused_and_leaves_nothing(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = archive.with_name("out.parquet")
    arguments = ("audit", "export", "--archive", archive, "--format", "parquet", "--out", out)
    assert refused(*arguments) == "cli.export.no_pyarrow"
    assert "patchwarden[export]" in run(*arguments).err
    assert sorted(path.name for path in archive.parent.iterdir()) == ["chain.archive"]


def test_help_does_not_load_pyarrow() -> None:
    code = "import sys; from tests.testkit.cli import run; print(run('audit', 'export', '--help').code, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_every_body_has_a_value_for_each_field() -> None:
    """`named_fields` pairs them by position."""
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
        bodies.HostReport("inventory", "app", b"{}"),
        bodies.EvidenceSubmit(b"{}"),
    ):
        named = named_fields(body)
        assert list(named) == [each.name for each in dataclasses.fields(body)]
        assert json.dumps(named)
    assert named_fields(bodies.IdentitySuspend("a@b", "why")) == {"identity_id": "a@b", "reason": "why"}


def test_documented_queries_give_the_documented_answers(
    archive: Path, repository_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(archive, "parquet")
    monkeypatch.chdir(archive.parent)
    page = (repository_root / PAGE).read_text()
    examples = re.findall(r"```sql\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(examples) == page.count("```sql") == 4
    with duckdb.connect() as connection:
        for query, expected in examples:
            answer = connection.execute(query)
            assert answer.description is not None
            rows = [[column[0] for column in answer.description], *answer.fetchall()]
            assert [" | ".join(str(cell) for cell in row) for row in rows] == expected.splitlines()
