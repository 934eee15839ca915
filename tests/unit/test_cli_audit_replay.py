"""`patchwarden audit replay`: damage is a finding with a place, an interrupted replay goes on, reports are whole and harmless."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger import bodies
from ledger.archive import ArchiveEncoder
from ledger.audit import AuditLevel, Auditor, verify_here
from ledger.audit_state import Finding
from ledger.keyspace import Table, height_key, identity_key, target_key
from node.cli import audit_resume, audit_store
from node.cli.audit_home import _shown
from node.cli.audit_report import ROWS_MAX, render_html
from node.cli.audit_run import run_replay
from node.cli.audit_store import AuditTables
from node.cli.chain import from_node, open_archive
from node.cli.errors import CommandError
from node.cli.output import Output
from node.config import Home
from node.local.protocol import encode_blob
from node.storage.leveldb import Store
from tests.testkit import damage
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, make_genesis, node_key
from tests.testkit.node import raw_blocks, stopped_home, write_archive
from wire.errors import UnavailableError

Blocks = list[tuple[bytes, bytes | None]]


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain(make_genesis(validators=1, organisations=["acme", "beta"]))
    chain.register("web1@acme", "host")
    for index in range(11):
        chain.submit(bodies.HostReport("drift", f"t{index}", b""), "web1@acme")
    return chain


@pytest.fixture
def archive(tmp_path: Path, chain: Chain) -> Path:
    return write_archive(tmp_path / "chain.archive", chain, raw_blocks(chain))


@pytest.fixture
def genesis(tmp_path: Path, chain: Chain) -> Path:
    path = tmp_path / "genesis.json"
    path.write_bytes(chain.genesis.document)
    return path


def replay(*arguments: object, code: int = 0) -> dict[str, Any]:
    """Return the answer without what differs from run to run."""
    document: dict[str, Any] = run_json("audit", "replay", *arguments, code=code)
    for name in ("seconds", "transactions_per_second"):
        del document[name]
    return document


def places(document: dict[str, Any]) -> list[tuple[int, str]]:
    return [(each["height"], each["what"]) for each in document["findings"]]


# -- damage ------------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-10], "ledger.archive.truncated"),
    "longer": (lambda data: data + bytes(4), "ledger.archive.trailing"),
    "changed": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "ledger.archive.digest"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_behind_the_chain_is_a_finding_behind_its_last_block(archive: Path, chain: Chain, name: str) -> None:
    damage, code = DAMAGES[name]
    archive.write_bytes(damage(archive.read_bytes()))
    document = replay("--archive", archive, code=1)
    assert places(document) == [(chain.height + 1, code)]
    assert document["certified_height"] == chain.height


def test_damage_in_the_middle_hides_nothing_before_it(archive: Path, chain: Chain) -> None:
    data = bytearray(archive.read_bytes())
    place = data.find(chain.blocks[5].raw[:40])
    data[place - 8] = 0xFF  # Within the frame's length.
    archive.write_bytes(bytes(data))
    document = replay("--archive", archive, code=1)
    assert places(document)[0] == (5, "ledger.archive.malformed")
    assert "where block 5 should begin" in document["findings"][0]["message"]


def test_frame_that_is_no_block_does_not_end_the_replay(tmp_path: Path, chain: Chain) -> None:
    data = write_archive(tmp_path / "a", chain, raw_blocks(chain)).read_bytes()
    place = data.find(chain.blocks[5].raw[:40]) - 4
    (tmp_path / "a").write_bytes(data[:place] + b"\x93" + data[place + 1 :])
    document = replay("--archive", tmp_path / "a", code=1)
    assert places(document)[0] == (5, "ledger.archive.malformed")
    assert document["height"] == chain.height
    assert places(document)[-1] == (chain.height + 1, "ledger.archive.digest")


def test_other_founding_document_is_a_finding_with_both_hashes(archive: Path, tmp_path: Path, chain: Chain) -> None:
    other = Chain(make_genesis(validators=1)).genesis
    path = tmp_path / "other.json"
    path.write_bytes(other.document)
    finding = replay("--archive", archive, "--genesis", path, code=1)["findings"][0]
    assert (finding["height"], finding["what"]) == (0, "cli.audit.other_genesis")
    assert (finding["expected"], finding["actual"]) == (other.genesis_hash.hex(), chain.genesis.genesis_hash.hex())
    assert "founding document" in run("audit", "replay", "--archive", archive, "--genesis", path).out


def test_first_divergence_is_told_with_both_values(tmp_path: Path, chain: Chain, genesis: Path) -> None:
    forged = chain.forge(chain.blocks[4], signer=chain.node_keys[0], log_root=bytes(32))
    blocks = raw_blocks(chain)
    blocks[3] = (forged.raw, blocks[3][1])
    archive = write_archive(tmp_path / "a", chain, blocks)
    answer = run("audit", "replay", "--archive", archive, "--genesis", genesis)
    assert answer.code == 1
    assert "first divergence: block 4: block 4 claims another log_root" in answer.out
    assert f"derived:    {chain.blocks[4].header.log_root.hex()}" in answer.out
    assert f"chain says: {bytes(32).hex()}" in answer.out


# -- homes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, chain: Chain) -> Home:
    """The home of a node that was stopped, with the whole chain committed."""
    return stopped_home(tmp_path / "v1", chain)


@pytest.mark.parametrize("level", ["headers", "signatures", "full"])
def test_home_of_a_stopped_node_replays(home: Home, chain: Chain, level: str) -> None:
    document = replay("--home", home.path, "--level", level)
    assert (document["valid"], document["height"], document["source_kind"]) == (True, chain.height, "home")


def test_damaged_and_missing_blocks_of_a_home_hide_nothing_behind_them(home: Home, chain: Chain) -> None:
    damage.damage_row(home.data, Table.BLOCK, height_key(3))
    damage.remove_row(home.data, Table.BLOCK, height_key(6))
    damage.damage_row(home.data, Table.CERTIFICATE, height_key(8))
    document = replay("--home", home.path, "--level", "signatures", code=4)
    assert places(document) == [
        (3, "node.storage.checksum"),
        (6, "node.storage.missing_row"),
        (8, "node.storage.checksum"),
    ]
    assert document["certified_height"] == chain.height


def test_damaged_rows_besides_the_blocks_are_found_at_level_full(home: Home, chain: Chain) -> None:
    damage.damage_row(home.data, Table.HEADER, height_key(4))
    damage.damage_row(home.data, Table.STATE, identity_key("web1@acme"))
    assert replay("--home", home.path, "--level", "signatures")["valid"] is True
    document = replay("--home", home.path, code=4)
    assert (4, "node.storage.checksum") in places(document)
    assert (chain.height, "node.storage.checksum") in places(document)


def test_state_that_the_blocks_do_not_lead_to_is_found(home: Home, chain: Chain) -> None:
    """Somebody changed a row and its checksum: the store itself sees nothing."""
    identity = chain.view.identity("web1@acme")
    assert identity is not None
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    forged = replace(identity, roles=("administrator",)).encode()
    gone = target_key("web1@acme", "t3")
    kept = store.get(Table.STATE, gone)
    assert kept is not None
    changes = {identity_key("web1@acme"): forged, identity_key("eve@acme"): forged, gone: None}
    store.write({(Table.STATE, key): value for key, value in changes.items()})
    store.close()
    document = replay("--home", home.path, code=1)
    assert places(document) == [(chain.height, "cli.audit.other_state")] * 3
    assert {(each["expected"], each["actual"]) for each in document["findings"]} == {
        (_shown(identity.encode()), _shown(forged)),
        ("no such row", _shown(forged)),
        (_shown(kept), "no such row"),
    }


# -- going on ----------------------------------------------------------------------------------------------------------


class LostError(Exception):
    """Stands for whatever ends a process between two blocks."""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point every two blocks."""
    monkeypatch.setattr(audit_resume, "BLOCKS_MAX", 2)


def interrupted(archive: Path, resume: Path, level: str, height: int) -> None:
    """Replay up to `height`, then lose the process: nothing is kept but what was durable."""
    document: list[int] = []

    class Stops(Auditor):
        def feed(self, block_raw: bytes, certificate_raw: bytes | None) -> tuple[Finding, ...]:
            if self.height == height:
                raise LostError
            document.append(self.height)
            return super().feed(block_raw, certificate_raw)

    with open_archive(archive) as source, pytest.raises(LostError):
        run_replay(source, None, level, verify_here, Output(as_json=True), resume, auditor_class=Stops)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("level", ["headers", "signatures", "full"])
@pytest.mark.parametrize("fault", [False, True])
def test_interrupted_replay_goes_on_and_reports_the_same(tmp_path: Path, chain: Chain, level: str, fault: bool) -> None:
    blocks = raw_blocks(chain)
    if fault:
        del blocks[4]
    archive = write_archive(tmp_path / "a", chain, blocks)
    expected = replay("--archive", archive, "--level", level, code=int(fault))
    resume = tmp_path / "chain.audit"
    for height in (1, 4, 5, 9):
        interrupted(archive, resume, level, height)
    assert resume.stat().st_size > 500
    assert replay("--archive", archive, "--level", level, "--resume", resume, code=int(fault)) == expected
    # Finished, and asked again: nothing is left to do, and the answer is the same.
    size = resume.stat().st_size
    assert replay("--archive", archive, "--level", level, "--resume", resume, code=int(fault)) == expected
    assert resume.stat().st_size == size


@pytest.mark.usefixtures("often")
def test_replay_goes_on_where_the_chain_has_grown(tmp_path: Path, chain: Chain) -> None:
    resume = tmp_path / "chain.audit"
    shorter = write_archive(tmp_path / "short", chain, raw_blocks(chain)[:7])
    assert replay("--archive", shorter, "--resume", resume)["height"] == 7
    longer = write_archive(tmp_path / "long", chain, raw_blocks(chain))
    answer = run("audit", "replay", "--archive", longer, "--resume", resume)
    assert answer.code == 0
    assert "going on behind block 7" in answer.err
    assert replay("--archive", longer, "--resume", resume) == replay("--archive", longer)


@pytest.mark.usefixtures("often")
def test_home_replay_goes_on(home: Home, tmp_path: Path) -> None:
    resume = tmp_path / "home.audit"
    expected = replay("--home", home.path)
    assert replay("--home", home.path, "--resume", resume) == expected
    assert replay("--home", home.path, "--resume", resume) == expected
    assert refused("audit", "replay", "--home", home.path, "--level", "headers", "--resume", resume) == (
        "cli.resume.foreign"
    )


class LiveNode:
    """A live node that answers from a chain in memory, as far as it has come, and remembers what it was asked."""

    def __init__(self, chain: Chain, height: int) -> None:
        self.blocks = raw_blocks(chain)[:height]
        self.genesis = chain.genesis.document
        self.asked: list[int] = []
        self.lost_at: int | None = None

    def call(self, method: str, **params: Any) -> Any:
        if method == "status":
            return {"height": len(self.blocks)}
        if method == "genesis.get":
            return {"genesis": encode_blob(self.genesis)}
        assert method == "blocks.raw"
        start = params["from"]
        self.asked.append(start)
        if self.lost_at is not None and start >= self.lost_at:
            raise UnavailableError("node.local.unreachable", "nobody answers")
        page = self.blocks[start - 1 : start - 1 + min(params["limit"], 3)]
        return [
            {
                "height": height,
                "block": encode_blob(block),
                "certificate": None if certificate is None else encode_blob(certificate),
            }
            for height, (block, certificate) in enumerate(page, start=start)
        ]

    def stream(self, method: str, **params: Any) -> Iterator[Any]:
        raise AssertionError(method)

    def close(self) -> None:
        pass


def live_replay(node: LiveNode, resume: Path | None, name: str = "http://127.0.0.1:7080") -> dict[str, Any]:
    document = run_replay(from_node(node, name), None, "full", verify_here, Output(as_json=True), resume)
    return {name: document[name] for name in document if name not in ("seconds", "transactions_per_second")}


@pytest.mark.usefixtures("often")
def test_live_node_is_asked_only_for_what_is_new(chain: Chain, tmp_path: Path) -> None:
    resume = tmp_path / "live.audit"
    node = LiveNode(chain, 10)
    node.lost_at = 7
    with pytest.raises(UnavailableError):
        live_replay(node, resume)
    node = LiveNode(chain, chain.height)
    assert live_replay(node, resume) == live_replay(LiveNode(chain, chain.height), None)
    assert node.asked[0] == 6, "the block up to which the replay had come, to be compared"
    # The same node with nothing new: one question.
    node = LiveNode(chain, chain.height)
    assert live_replay(node, resume)["valid"] is True
    assert node.asked == [chain.height]
    # Another node, or one whose last block is another now, is no continuation.
    for other, name, code in (
        (LiveNode(chain, chain.height), "http://127.0.0.1:7081", "cli.resume.foreign"),
        (LiveNode(chain, chain.height - 2), "http://127.0.0.1:7080", "cli.resume.other_chain"),
    ):
        with pytest.raises(CommandError) as caught:
            live_replay(other, resume, name)
        assert caught.value.code == code
    node = LiveNode(chain, chain.height)
    node.blocks[-1] = node.blocks[-2]
    with pytest.raises(CommandError) as caught:
        live_replay(node, resume)
    assert caught.value.code == "cli.resume.other_chain"


@pytest.mark.slow
def test_killed_replay_goes_on(tmp_path: Path) -> None:
    """A process that is killed between two points, and one that goes on where it was."""
    chain = Chain(make_genesis(validators=1, organisations=["acme"]))
    encoder = ArchiveEncoder()
    path, resume = tmp_path / "long.archive", tmp_path / "long.audit"
    with path.open("wb") as stream:
        stream.write(encoder.begin(chain.genesis.document))
        for _ in range(2 * audit_resume.BLOCKS_MAX + 100):
            block = chain.commit().block
            stream.write(encoder.block(block.raw, chain.view.certificate(block.header.height)))
        stream.write(encoder.end())
    command = [sys.executable, "-m", "node.cli", "audit", "replay", "--archive", str(path), "--resume", str(resume)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        first = 1000  # More than the file's own head: a point is there.
        while process.poll() is None and not (resume.exists() and resume.stat().st_size > first):
            time.sleep(0.005)
        process.kill()
    assert process.returncode in (-signal.SIGKILL, 0), (
        "killed on its way, unless this test slept longer than the replay took"
    )
    answer = run("audit", "replay", "--archive", path, "--resume", resume)
    assert answer.code == 0
    assert "going on behind block" in answer.err
    assert replay("--archive", path, "--resume", resume) == replay("--archive", path)


@pytest.mark.usefixtures("often")
def test_resume_file_of_another_audit_is_refused(tmp_path: Path, chain: Chain, archive: Path, genesis: Path) -> None:
    resume = tmp_path / "chain.audit"
    replay("--archive", archive, "--resume", resume)
    assert refused("audit", "replay", "--archive", archive, "--level", "headers", "--resume", resume) == (
        "cli.resume.foreign"
    )
    genesis.write_bytes(Chain(make_genesis(validators=2)).genesis.document)
    assert refused("audit", "replay", "--archive", archive, "--genesis", genesis, "--resume", resume) == (
        "cli.resume.foreign"
    )
    blocks = raw_blocks(chain)
    other = write_archive(tmp_path / "other", chain, [(blocks[0][0], None), *blocks[1:]])
    assert refused("audit", "replay", "--archive", other, "--resume", resume) == "cli.resume.other_chain"
    shorter = write_archive(tmp_path / "shorter", chain, blocks[:5])
    assert refused("audit", "replay", "--archive", shorter, "--resume", resume) == "cli.resume.other_chain"


@pytest.mark.usefixtures("often")
def test_resume_file_that_is_not_as_it_was_written_is_refused_or_cut(tmp_path: Path, archive: Path) -> None:
    resume = tmp_path / "chain.audit"
    expected = replay("--archive", archive, "--level", "signatures", "--resume", resume)
    data = resume.read_bytes()
    outcomes = set()
    for position in range(0, len(data), len(data) // 60 + 1):
        resume.write_bytes(data[:position] + bytes([data[position] ^ 0x41]) + data[position + 1 :])
        answer = run("audit", "replay", "--archive", archive, "--level", "signatures", "--resume", resume, "-o", "json")
        if answer.code == 0:
            # The length before a record grew, so the file seems to end in it: the replay goes on from the point before.
            assert {**answer.document, **expected} == answer.document
            outcomes.add("cut")
        else:
            outcomes.add(answer.error["code"])
    assert "cli.resume.damaged" in outcomes
    assert outcomes <= {"cli.resume.damaged", "cli.resume.foreign", "cut"}


@pytest.mark.usefixtures("often")
def test_resume_file_that_was_being_written_goes_on_from_the_point_before(tmp_path: Path, archive: Path) -> None:
    resume = tmp_path / "chain.audit"
    expected = replay("--archive", archive, "--resume", resume)
    data = resume.read_bytes()
    for length in range(0, len(data), len(data) // 9 + 1):
        resume.write_bytes(data[:length])
        assert replay("--archive", archive, "--resume", resume) == expected
        assert resume.read_bytes().startswith(data[: min(length, 20)])


def test_resume_file_has_one_owner(tmp_path: Path, archive: Path) -> None:
    resume = tmp_path / "chain.audit"
    with resume.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert refused("audit", "replay", "--archive", archive, "--resume", resume) == "cli.resume.in_use"
    assert refused("audit", "replay", "--archive", archive, "--resume", tmp_path / "no" / "f") == "cli.file.unwritable"


# -- memory ------------------------------------------------------------------------------------------------------------


def test_tables_that_moved_to_a_database_answer_the_same(chain: Chain) -> None:
    with AuditTables(hot_bytes_max=2000) as small:
        auditor = Auditor(chain.genesis, store=small)
        for block in raw_blocks(chain):
            assert auditor.feed(*block) == ()
        summary = auditor.finish()
        assert small.has_spilled
        assert auditor.view.target("web1@acme", "t3") == chain.view.target("web1@acme", "t3")
        known = list(small.keys(Table.META))
        small.apply({(Table.META, b"a"): b"1", (Table.META, b"b"): bytes(3000)})
        small.apply({(Table.META, b"a"): None})
        assert small.get(Table.META, b"a") is None
        small.apply({(Table.META, b"c"): bytes(3000)})
        assert (small.get(Table.META, b"a"), small.get(Table.META, b"b")) == (None, bytes(3000))
        assert sorted(small.keys(Table.META)) == sorted([b"b", b"c", *known])
        path = small._cold.path if small._cold else None
    assert path is not None
    assert not path.exists()
    auditor = Auditor(chain.genesis, level=AuditLevel.FULL)
    for block in raw_blocks(chain):
        auditor.feed(*block)
    assert auditor.finish() == summary
    assert audit_store.HOT_BYTES_MAX < 128 * 1024 * 1024


# -- reports -----------------------------------------------------------------------------------------------------------


def test_reports_are_written_in_both_forms_at_once(archive: Path, tmp_path: Path) -> None:
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    answer = run_json("audit", "replay", "--archive", archive, "--report", page, "--report", data)
    assert json.loads(data.read_text()) == answer
    text = page.read_text()
    assert "The chain holds." in text
    for value in (answer["block_hash"], answer["genesis_hash"], answer["state_root"]):
        assert value in text


def test_report_escapes_what_the_chain_says_and_loads_nothing() -> None:
    nasty = "<script>alert(1)</script>\u202e\u200b\x1b[2J"
    finding = {"height": 1, "index": 2, "what": nasty, "message": nasty, "expected": nasty, "actual": '"&'}
    mark = {"height": 7, "kept_height": 6, "lost": [nasty], "signers": [nasty], "reason": nasty}
    document = {
        "recoveries": [mark],
        "valid": False, "chain_id": nasty, "source": nasty, "genesis_hash": "g", "genesis_given": False, "level": "full", "blocks": 1,
        "transactions": 0, "certified_height": 0, "block_hash": "h", "time_ms": 2**62, "state_root": None, "seconds": 0.1,
        "transactions_per_second": None, "codes": {nasty: 1, "b": 2}, "findings_omitted": 5, "findings": [finding] * (ROWS_MAX + 1),
    }  # fmt: skip
    page = render_html(document)
    for text in ("<script", "\u202e", "\u200b", "\x1b", "http:", "https:", "src=", "url(", "@import", "href"):
        assert text not in page
    assert "default-src &#x27;none&#x27;" in page
    assert f"{ROWS_MAX + 6:,} findings" in page
    assert "RECOVERED at height 7" in page
    assert "6 more are not shown" in page
    assert page.count("<td>block 1, transaction 2</td>") == ROWS_MAX
    assert "1 finding." in render_html({**document, "findings": [finding], "findings_omitted": 0, "codes": {"b": 1}})
