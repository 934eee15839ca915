"""The list of faults of docs/spec/audit.md 6: each is found, at its height, with its code, at every level that claims to find it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger import bodies
from ledger.archive import MAGIC, ArchiveEncoder
from ledger.audit import AuditLevel, verify_here
from ledger.block import Block, build_raw_block, hash_election
from ledger.errors import ArchiveRefusedError
from ledger.transaction import decode_transaction_untrusted
from node.cli.audit_run import run_replay
from node.cli.chain import open_archive
from node.cli.output import Output
from node.config import Home
from node.keystore import save_key
from tests.testkit import damage
from tests.testkit.cli import run
from tests.testkit.ledger import Chain, make_certificate, make_election, make_genesis, node_key
from tests.testkit.node import open_replica, write_archive
from wire.certificate import encode_commit_certificate, proposal_message
from wire.codec import decode_untrusted, encode
from wire.hashing import Digest
from wire.limits import MEBIBYTE
from wire.merkle import leaf_hash
from wire.merkle import root as merkle_root

Blocks = list[tuple[bytes, bytes | None]]
HEADERS, SIGNATURES, FULL = AuditLevel
WRONG = Digest(b"\x07" * 32)
AT = 6
"""Where the faults are planted: in the middle of the first term."""


@pytest.fixture(scope="module")
def chain() -> Chain:
    """Four validators, two terms, each block with a report or two."""
    chain = Chain()
    chain.register("web1@acme", "host")
    for index in range(8):
        body = bodies.HostReport("drift", f"t{index}", b"")
        chain.commit(chain.sign(body, "web1@acme"), chain.sign(body, "web1@acme"))
    chain.elect(1)
    for index in range(3):
        chain.submit(bodies.HostReport("drift", f"u{index}", b""), "web1@acme")
    return chain


def sound(chain: Chain) -> Blocks:
    return [(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]


def certificate(chain: Chain, block: Block, signers: int) -> bytes:
    return encode_commit_certificate(make_certificate(chain.genesis.chain_id, chain.node_keys[:signers], block))


def with_block(chain: Chain, block: Block, height: int = AT, signers: int = 3) -> Blocks:
    """Return the chain with another block at a height, certified by so many validators."""
    blocks = sound(chain)
    blocks[height - 1] = (block.raw, certificate(chain, block, signers))
    return blocks


def forged(chain: Chain, height: int = AT, signers: int = 3, **changes: object) -> Blocks:
    """Return the chain with a block whose proposer and so many validators have signed something else."""
    signer = chain.node_keys[0 if chain.blocks[height].header.term == 1 else 1]
    return with_block(chain, chain.forge(chain.blocks[height], signer=signer, **changes), height, signers)


def with_transactions(chain: Chain, transactions: tuple[bytes, ...], *, fits: bool = True) -> Blocks:
    """Return the chain with other transactions in a block, and a header that fits them if `fits`, the state aside."""
    root = merkle_root([leaf_hash(raw) for raw in transactions])
    changes: dict[str, object] = {"transactions": transactions}
    return forged(chain, **changes, **({"transactions_root": root} if fits else {}))


def unsigned(raw: bytes) -> bytes:
    values = decode_untrusted(raw, bytes_max=MEBIBYTE)
    assert isinstance(values, tuple)
    return encode((*values[:8], bytes(64)))


def stolen(chain: Chain, keys: int) -> Blocks:
    """Return history written anew from a height on by whoever has the keys of so few validators, the leader's among them."""
    thief = Chain(chain.genesis)
    for block in chain.blocks[1:AT]:
        thief.apply(block)
    thief.nonces = 10_000
    while thief.height < chain.height:
        body = bodies.HostReport("drift", "site", b"nothing happened")
        block = thief.build(thief.sign(body, "web1@acme", key=chain.key("web1@acme"))).block
        thief.apply(block, certify=False)
    rewritten = [(block.raw, certificate(chain, block, keys)) for block in thief.blocks[AT:]]
    return [*sound(chain)[: AT - 1], *rewritten]


def elected_by_few(chain: Chain) -> Blocks:
    """Return the chain with its second term begun by a minority's election, everything else signed as it should be."""
    height = next(block.header.height for block in chain.blocks if block.header.term == 2)
    few = make_election(chain.genesis.chain_id, chain.node_keys[:2], 2, chain.node_keys[1], chain.blocks[height - 1])
    return forged(chain, height, election=few, election_hash=hash_election(few))


def stranger_proposes(chain: Chain) -> Blocks:
    block = chain.blocks[AT]
    raw = build_raw_block(
        block.header, block.transactions, node_key(9).sign(proposal_message(block.block_hash)), block.election
    )
    return with_block(chain, raw)


@dataclass(frozen=True)
class Fault:
    plant: Callable[[Chain], Blocks]
    level: AuditLevel
    """The lowest level that finds it."""
    code: str
    height: int = AT
    index: int | None = None


def moved(order: Callable[[Blocks], Blocks]) -> Callable[[Chain], Blocks]:
    return lambda chain: order(sound(chain))


def cut(chain: Chain, height: int, signers: int | None) -> Blocks:
    """Return the chain with a certificate cut down to so many signatures, or taken away with all behind it."""
    blocks = sound(chain)
    if signers is None:
        return [(raw, proof if at < height else None) for at, (raw, proof) in enumerate(blocks, start=1)]
    blocks[height - 1] = (blocks[height - 1][0], certificate(chain, chain.blocks[height], signers))
    return blocks


FAULTS: dict[str, Fault] = {
    "block dropped": Fault(moved(lambda b: [*b[: AT - 1], *b[AT:]]), HEADERS, "ledger.block.wrong_height"),
    "blocks swapped": Fault(
        moved(lambda b: [*b[: AT - 1], b[AT], b[AT - 1], *b[AT + 1 :]]), HEADERS, "ledger.block.wrong_height"
    ),
    "block duplicated": Fault(moved(lambda b: [*b[:AT], *b[AT - 1 :]]), HEADERS, "ledger.block.wrong_height", AT + 1),
    "last blocks dropped": Fault(
        moved(lambda b: [*b[:AT], (b[AT][0], None)]), HEADERS, "ledger.audit.not_certified", AT + 1
    ),
    "block of another chain": Fault(
        lambda chain: with_block(chain, sound_block_of_another_chain()), HEADERS, "ledger.block.wrong_previous"
    ),
    "transactions root forged": Fault(
        lambda chain: forged(chain, transactions_root=WRONG), HEADERS, "ledger.block.transactions_root"
    ),
    "log root forged": Fault(lambda chain: forged(chain, log_root=WRONG), HEADERS, "ledger.block.log_root"),
    "log size forged": Fault(lambda chain: forged(chain, log_size=5), HEADERS, "ledger.block.log_size"),
    "validators hash forged": Fault(
        lambda chain: forged(chain, validators_hash=WRONG), HEADERS, "ledger.block.validators_hash"
    ),
    "state root forged": Fault(lambda chain: forged(chain, state_root=WRONG), FULL, "ledger.block.state_root"),
    "policy hash forged": Fault(lambda chain: forged(chain, policy_hash=WRONG), FULL, "ledger.block.policy_hash"),
    "certificate cut": Fault(lambda chain: cut(chain, AT, 2), SIGNATURES, "wire.certificate.too_few"),
    "certificates taken away": Fault(lambda chain: cut(chain, AT, None), HEADERS, "ledger.audit.not_certified", 12),
    "certificate of another block": Fault(
        moved(lambda b: [*b[: AT - 1], (b[AT - 1][0], b[AT][1]), *b[AT:]]), HEADERS, "ledger.proof.certificate"
    ),
    "backdated": Fault(lambda chain: forged(chain, time_ms=1), HEADERS, "ledger.block.time_backwards"),
    "backdated with a minority": Fault(
        lambda chain: forged(chain, time_ms=chain.blocks[AT - 1].header.time_ms, signers=2),
        SIGNATURES,
        "wire.certificate.too_few",
    ),
    "history rewritten with stolen minority keys": Fault(
        lambda chain: stolen(chain, 2), SIGNATURES, "wire.certificate.too_few"
    ),
    "leader elected by a minority": Fault(elected_by_few, SIGNATURES, "ledger.block.bad_election", 10),
    "proposer forged": Fault(stranger_proposes, SIGNATURES, "ledger.block.bad_proposer_signature"),
    "transaction left out": Fault(
        lambda chain: with_transactions(chain, chain.blocks[AT].transactions[1:], fits=False),
        HEADERS,
        "ledger.block.transactions_root",
    ),
    "transaction left out, its root made to fit": Fault(
        lambda chain: with_transactions(chain, chain.blocks[AT].transactions[1:]), HEADERS, "ledger.block.log_size"
    ),
    "transaction executed twice": Fault(
        lambda chain: with_transactions(chain, (*chain.blocks[AT].transactions, chain.blocks[AT - 1].transactions[0])),
        FULL,
        "ledger.block.transaction",
        index=2,
    ),
    "transaction's signature forged": Fault(
        lambda chain: with_transactions(
            chain, (chain.blocks[AT].transactions[0], unsigned(chain.blocks[AT].transactions[1]))
        ),
        FULL,
        "ledger.tx.bad_signature",
        index=1,
    ),
    "transaction that is none": Fault(
        lambda chain: with_transactions(chain, (b"garbage", *chain.blocks[AT].transactions)),
        FULL,
        "ledger.block.transaction",
        index=0,
    ),
    "block unreadable": Fault(
        moved(lambda b: [*b[: AT - 1], (b"garbage", None), *b[AT:]]), HEADERS, "ledger.block.malformed"
    ),
}


def sound_block_of_another_chain() -> Block:
    other = Chain()
    for index in range(AT):
        other.register(f"p{index}@acme", "developer")
    return other.blocks[AT]


def audit(archive: Path, genesis: Path, level: AuditLevel) -> list[tuple[int, str, int | None]]:
    with open_archive(archive) as source:
        document = run_replay(source, genesis, str(level), verify_here, Output(as_json=True))
    return [(each["height"], each["what"], each["index"]) for each in document["findings"]]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_of_the_list_is_found_where_it_is(chain: Chain, name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    archive = write_archive(tmp_path / "a", chain, fault.plant(chain))
    genesis = tmp_path / "g"
    genesis.write_bytes(chain.genesis.document)
    levels = list(AuditLevel)
    for level in levels[levels.index(fault.level) :]:
        found = audit(archive, genesis, level)
        assert (fault.height, fault.code, fault.index) in found
        assert found[0][0] == fault.height, "nothing is wrong before it"


def test_the_sound_chain_has_no_finding(chain: Chain, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a", chain, sound(chain))
    genesis = tmp_path / "g"
    genesis.write_bytes(chain.genesis.document)
    assert all(audit(archive, genesis, level) == [] for level in AuditLevel)
    assert decode_transaction_untrusted(chain.blocks[AT].transactions[0]).kind == "host.report"


def test_the_page_lists_these_faults_and_no_other(repository_root: Path) -> None:
    page = (repository_root / "docs" / "spec" / "audit.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \| [^|]+ \| `([\w.]+)` \|$", page, re.MULTILINE)
    assert rows == [(name, str(fault.level), fault.code) for name, fault in FAULTS.items()]


def test_the_documented_replay_is_the_real_one(chain: Chain, tmp_path: Path, repository_root: Path) -> None:
    fault = FAULTS["history rewritten with stolen minority keys"]
    archive = write_archive(tmp_path / "rewritten.archive", chain, fault.plant(chain))
    (tmp_path / "genesis.json").write_bytes(chain.genesis.document)
    page = (repository_root / "docs" / "operations" / "cli.md").read_text()
    command = "$ patchwarden audit replay --archive rewritten.archive --genesis genesis.json --report audit.html\n"
    shown = page.partition(command)[2].partition("```")[0]
    answer = run("audit", "replay", "--archive", archive, "--genesis", tmp_path / "genesis.json")

    def comparable(text: str) -> list[str]:
        text = text.replace(str(archive), "rewritten.archive")
        return re.sub(r"transactions in .*", "transactions in … s", text).splitlines()

    assert comparable(shown) == comparable(answer.out)


# -- any byte anywhere -------------------------------------------------------------------------------------------------

FLIPS = 250
"""Places tried in the archive, one bit each; every bit of every byte was tried once (24,408 flips), see docs/spec/audit.md 6."""


@pytest.fixture(scope="module")
def small() -> Chain:
    """One validator, two terms, few blocks: little enough to try many places."""
    chain = Chain(make_genesis(validators=1, organisations=["acme"], policies=()))
    chain.register("web1@acme", "host")
    chain.submit(bodies.HostReport("drift", "t", b""), "web1@acme")
    chain.term += 1
    chain.submit(bodies.HostReport("inventory", "t", b""), "web1@acme")
    return chain


def borders(chain: Chain, blocks: Blocks) -> list[int]:
    """Return where each frame of the archive begins: the founding document, each block, the closing record."""
    encoder = ArchiveEncoder()
    ends = [len(MAGIC), len(encoder.begin(chain.genesis.document))]
    for block in blocks:
        ends.append(ends[-1] + len(encoder.block(*block)))
    return ends


@pytest.mark.slow
def test_any_flipped_byte_of_an_archive_is_found_in_its_place(small: Chain, tmp_path: Path) -> None:
    blocks = sound(small)
    data = write_archive(tmp_path / "a", small, blocks).read_bytes()
    genesis = tmp_path / "g"
    genesis.write_bytes(small.genesis.document)
    begins = borders(small, blocks)
    step = max(1, len(data) // FLIPS)
    for position in range(0, len(data), step):
        bit = 1 << (position // step) % 8
        (tmp_path / "a").write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        place = sum(position >= begin for begin in begins) - 1
        try:
            found = audit(tmp_path / "a", genesis, FULL)
        except ArchiveRefusedError:
            # It never begins: not an archive, or nothing whole where the founding document should be.
            assert place <= 0, f"byte {position}"
            continue
        assert found, f"byte {position} bit {bit}"
        assert found[0][0] == place, f"byte {position} bit {bit}: {found}"


@pytest.mark.slow
def test_no_flipped_byte_of_a_home_passes_for_another_chain(small: Chain, tmp_path: Path) -> None:
    """What is in a database's files: rows of the chain are found, and what has no meaning changes nothing."""
    home = Home(tmp_path / "v1")
    home.path.mkdir()
    home.genesis.write_bytes(small.genesis.document)
    save_key(home.node_key, node_key(1))
    again = Chain(genesis=small.genesis)
    with open_replica(home.data, small.genesis) as replica:
        for block in small.blocks[1:]:
            replica.store.commit([again.apply(block)], small.certificate(block))
    damage.compact(home.data)
    files = sorted(path for path in damage.database_of(home.data).iterdir() if path.suffix == ".ldb")
    content = {path: path.read_bytes() for path in files}
    outcomes = []
    for path, data in content.items():
        for position in range(0, len(data), max(1, len(data) // 20)):
            copy = Home(tmp_path / "copy")
            shutil.copytree(home.path, copy.path)
            (damage.database_of(copy.data) / path.name).write_bytes(
                data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
            )
            answer = run("audit", "replay", "--home", copy.path, "-o", "json")
            outcomes.append(answer.code)
            if answer.code == 0:
                document = answer.document
                assert (document["block_hash"], document["transactions"]) == (small.view.tip.block_hash.hex(), 3)
            shutil.rmtree(copy.path)
    assert set(outcomes) <= {0, 4}
    assert outcomes.count(4) > len(outcomes) * 0.8
