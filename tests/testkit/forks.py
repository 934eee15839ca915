"""Chains that part, with every signature real: what a few liars, or all validators together, can make out of one honest beginning.

::

    common = Chain()
    common.commit()
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])                                    # the leader's next block, certified by v1, v2 and v3
    theirs.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    find_guilty(ours.history("ours"), theirs.history("theirs"), common.genesis)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ledger.archive import ArchivedBlock, ArchiveEncoder
from ledger.blame import History, HistoryBase
from ledger.block import Block, build_raw_block, hash_election
from ledger.checkpoint import Checkpoint
from ledger.configuration_history import build_configuration_proof
from ledger.execution import block_writes
from ledger.keyspace import MemoryStore, Table, height_key
from ledger.state import StateView, Tip
from ledger.transaction import Transaction
from ledger.transition import build_block
from tests.testkit.ledger import BLOCK_MS, Chain, make_certificate, make_election, node_key
from wire.certificate import decode_commit_certificate_untrusted, encode_commit_certificate, proposal_message
from wire.hashing import Digest
from wire.keys import KeyId, PrivateKey


def keys_of(numbers: Sequence[int]) -> list[PrivateKey]:
    """Return the node keys of ``v<number>``."""
    return [node_key(number) for number in numbers]


def id_of(number: int) -> KeyId:
    """Return the key id of ``v<number>``."""
    return node_key(number).public_key.key_id


@dataclass
class Branch:
    """A chain whose blocks are whatever the test says; nothing in it is checked."""

    chain_id: str
    store: MemoryStore
    blocks: list[Block]
    certificates: dict[int, bytes]
    term: int
    leader: int
    """The number of the validator that proposes."""
    time_step_ms: int = field(default=BLOCK_MS)

    @classmethod
    def of(cls, chain: Chain, leader: int = 1) -> Branch:
        """Return a branch that begins with everything in `chain`."""
        store = MemoryStore()
        store.apply(chain.store.dump())
        certificates = {}
        for block in chain.blocks[1:]:
            raw = store.get(Table.CERTIFICATE, height_key(block.header.height))
            if raw is not None:
                certificates[block.header.height] = raw
        return cls(chain.genesis.chain_id, store, list(chain.blocks), certificates, chain.term, leader)

    def copy(self) -> Branch:
        """Return another branch that begins with everything in this one."""
        store = MemoryStore()
        store.apply(self.store.dump())
        return replace(self, store=store, blocks=list(self.blocks), certificates=dict(self.certificates))

    def election(self, voters: Sequence[int], term: int, leader: int, parent: Block | None = None) -> bytes:
        """Return the encoded election of `leader` upon the last block, or upon `parent`."""
        return make_election(self.chain_id, keys_of(voters), term, node_key(leader), parent or self.blocks[-1])

    def add(
        self,
        signers: Sequence[int],
        *transactions: Transaction,
        term: int | None = None,
        leader: int | None = None,
        voters: Sequence[int] = (),
        election: bytes | None = None,
        late_ms: int = 0,
    ) -> Block:
        """Add a block, certified by `signers` if there are any; a later term is elected by `voters` upon the last block."""
        self.leader = leader or self.leader
        if term is not None:
            self.term = term
        if voters:
            election = self.election(voters, self.term, self.leader)
        built = build_block(
            self.store,
            transactions,
            term=self.term,
            time_ms=self.blocks[-1].header.time_ms + BLOCK_MS + late_ms,
            proposer=node_key(self.leader),
            election=election,
        )
        assert not built.refused, built.refused
        self.store.apply(built.executed.writes)
        return self.put(built.block, signers)

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint of the last block."""
        height = self.blocks[-1].header.height
        return Checkpoint(
            self.blocks[-1].header,
            decode_commit_certificate_untrusted(self.certificates[height]),
            build_configuration_proof(self.store, height),
        )

    def forge(self, signers: Sequence[int], *, by: int, election: bytes | None = None, **changes: object) -> Block:
        """Add an empty block that `by` signed, with other values in its header than belong there."""
        good = self.copy().add([], late_ms=1)
        hashed = {"proposer": id_of(by), "election_hash": hash_election(election)}
        header = replace(good.header, **hashed, **changes)  # type: ignore[arg-type]
        signature = node_key(by).sign(proposal_message(header.hash()))
        block = build_raw_block(header, (), signature, election)
        self.store.apply(block_writes(block, Tip(header, block.block_hash, StateView(self.store).tip.frontier)))
        return self.put(block, signers)

    def put(self, block: Block, signers: Sequence[int]) -> Block:
        """Add a block as it is."""
        self.blocks.append(block)
        if signers:
            self.certify(signers)
        return block

    def certify(self, signers: Sequence[int], block: Block | None = None) -> None:
        """Let `signers` acknowledge the last block, or another one."""
        block = block or self.blocks[-1]
        raw = encode_commit_certificate(make_certificate(self.chain_id, keys_of(signers), block))
        self.certificates[block.header.height] = raw
        self.store.apply({(Table.CERTIFICATE, height_key(block.header.height)): raw})

    def items(self, start: int = 1) -> list[ArchivedBlock]:
        """Return blocks and certificates from a height on."""
        return [ArchivedBlock(block.raw, self.certificates.get(block.header.height)) for block in self.blocks[start:]]

    def history(self, name: str = "history", start: int = 1) -> History:
        """Return the branch as a history; from `start` on when older blocks are gone."""
        base = None
        if start > 1:
            header = self.blocks[start - 1].header
            certificate = decode_commit_certificate_untrusted(self.certificates[start - 1])
            base = HistoryBase(header, certificate, build_configuration_proof(self.store, start - 1))
        return History(name, self.items(start), base)

    def archive(self) -> bytes:
        """Return the branch as an archive."""
        encoder = ArchiveEncoder()
        parts = [encoder.begin(StateView(self.store).genesis_document)]
        parts += [encoder.block(each.block, each.certificate) for each in self.items()]
        return b"".join([*parts, encoder.end()])

    @property
    def tip_hash(self) -> Digest:
        """Hash of the last block."""
        return self.blocks[-1].block_hash
