"""Small networks in memory for tests: a founding document, people with keys, blocks with certificates, and everything signed for real.

Everything is deterministic: keys come from names, nonces from a counter, times from heights. A `Chain` starts at genesis::

    chain = Chain()                                                # 4 validators, organisations acme, beta and gamma
    chain.register("alice@acme", "developer")                      # by ada@acme, committed in a block of its own
    chain.submit(bodies.HostReport(...), by="web1@acme")           # sign, build, execute, certify, apply
    chain.view.identity("alice@acme")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from ledger import bodies
from ledger.actions import Action, AddLearner, Administrator
from ledger.block import Block, build_raw_block
from ledger.bodies import Body
from ledger.configuration import Configuration, Validator
from ledger.configuration_history import build_configuration_proof
from ledger.errors import BlockRefusedError
from ledger.genesis import Genesis, GenesisOrganisation, build_genesis, genesis_block
from ledger.keyspace import MemoryStore, Table, height_key
from ledger.settlement import find_settlement
from ledger.state import StateView
from ledger.transaction import Transaction, build_transaction
from ledger.transition import Built, Executed, build_block, check_transaction, execute_block
from provenance.layout import split_patch_file_untrusted
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from wire.certificate import (
    CommitCertificate,
    ElectionCertificate,
    acknowledgement_message,
    encode_commit_certificate,
    encode_election_certificate,
    majority,
    proposal_message,
    vote_message,
)
from wire.errors import RejectedError
from wire.hashing import sha256
from wire.keys import Algorithm, KeyId, PrivateKey, private_key_from_seed

CHAIN_ID = "test-net"
FOUNDED = "2026-11-22T06:00:00Z"
BLOCK_MS = 1000
"""Time between the blocks of a test chain."""
ORGANISATIONS = ("acme", "beta", "gamma")
ADMINISTRATORS = {"acme": "ada@acme", "beta": "ben@beta", "gamma": "gil@gamma"}
ZEROS = bytes(32)


def key_of(name: str, algorithm: Algorithm = Algorithm.ED25519) -> PrivateKey:
    """Return the key that a name has in tests; the people of `tests.testkit.patches` keep theirs."""
    known = {
        "alice@acme": patches.ALICE,
        "bob@beta": patches.BOB,
        "ci@acme": patches.CAROL,
        "dave@acme": patches.DAVE,
    }
    return known.get(name) or private_key_from_seed(algorithm, sha256(name.encode()))


def node_key(index: int) -> PrivateKey:
    """Return the node key of validator ``v<index>``, counted from 1."""
    return key_of(f"node v{index}")


def make_genesis(
    *,
    validators: int = 4,
    organisations: Sequence[str] = ORGANISATIONS,
    chain_id: str = CHAIN_ID,
    policies: Sequence[tuple[str, str]] = (("allow", "permit (principal, action, resource);"),),
    policy_schema: str = "",
    threshold: str = "majority",
    limits: dict[str, int] | None = None,
    ca_certificates: Sequence[bytes] = (),
    validator_keys: Sequence[PrivateKey] | None = None,
    addresses: Sequence[str] | None = None,
) -> Genesis:
    """Return a founding document with one administrator for each organisation; `ca_certificates` are the first organisation's."""
    keys = validator_keys or [node_key(index + 1) for index in range(validators)]
    return build_genesis(
        chain_id=chain_id,
        time=FOUNDED,
        organisations=[
            GenesisOrganisation(
                name,
                name.capitalize(),
                (
                    Administrator(
                        administrator_of(name), administrator_of(name), key_of(administrator_of(name)).public_key.spki
                    ),
                ),
                tuple(ca_certificates) if index == 0 else (),
            )
            for index, name in enumerate(organisations)
        ],
        validators=[
            Validator(
                f"v{index + 1}",
                organisations[index % len(organisations)],
                key.public_key.spki,
                addresses[index] if addresses else f"/ip4/127.0.0.1/tcp/{4001 + index}",
            )
            for index, key in enumerate(keys)
        ],
        policy_schema=policy_schema,
        policies=policies,
        threshold=threshold,
        limits=limits,
    )


def validator(index: int, organisation: str = "acme") -> Validator:
    """Return the validator ``v<index>`` as the founding documents here describe it."""
    return Validator(f"v{index}", organisation, node_key(index).public_key.spki, f"/ip4/127.0.0.1/tcp/{4000 + index}")


def administrator_of(organisation: str) -> str:
    """Return the id of an organisation's founding administrator."""
    return ADMINISTRATORS.get(organisation, f"admin@{organisation}")


def make_election(
    genesis_or_chain_id: str, voters: Sequence[PrivateKey], term: int, candidate: PrivateKey, parent: Block
) -> bytes:
    """Return an encoded election certificate signed by `voters`."""
    last = parent.header
    candidate_id = candidate.public_key.key_id
    message = vote_message(genesis_or_chain_id, term, candidate_id, last.term, last.height, parent.block_hash)
    certificate = ElectionCertificate(
        term, candidate_id, last.term, last.height, parent.block_hash, sign_all(voters, message)
    )
    return encode_election_certificate(certificate)


def make_certificate(chain_id: str, signers: Sequence[PrivateKey], block: Block) -> CommitCertificate:
    """Return a commit certificate of the block, signed by `signers`."""
    header = block.header
    message = acknowledgement_message(chain_id, header.term, header.height, block.block_hash)
    return CommitCertificate(header.term, header.height, block.block_hash, sign_all(signers, message))


def sign_all(keys: Iterable[PrivateKey], message: bytes) -> tuple[tuple[KeyId, bytes], ...]:
    """Return (key id, signature) of each, in order of key id."""
    return tuple(sorted((key.public_key.key_id, key.sign(message)) for key in keys))


@dataclass
class Chain:
    """A whole network in one object: every validator signs, one of them proposes."""

    genesis: Genesis = field(default_factory=make_genesis)
    store: MemoryStore = field(default_factory=MemoryStore)
    blocks: list[Block] = field(default_factory=list)
    keys: dict[str, PrivateKey] = field(default_factory=dict)
    node_keys: list[PrivateKey] = field(default_factory=list)
    term: int = 1
    leader: int = 0
    nonces: int = 0

    def __post_init__(self) -> None:
        block, writes = genesis_block(self.genesis)
        self.store.apply(writes)
        self.blocks.append(block)
        by_id = {validator.key_id for validator in self.genesis.validators.validators}
        candidates = [node_key(index + 1) for index in range(len(by_id))]
        self.node_keys = self.node_keys or [key for key in candidates if key.public_key.key_id in by_id]

    # Reading

    @property
    def view(self) -> StateView:
        """The ledger at the tip."""
        return StateView(self.store)

    @property
    def height(self) -> int:
        return self.blocks[-1].header.height

    @property
    def voters(self) -> list[PrivateKey]:
        """Just enough validators to decide after the tip, the leader among them if it has a vote."""
        return self.signers(self.view.configuration())

    def signers(self, configuration: Configuration) -> list[PrivateKey]:
        """Return just enough validators to decide under the configuration, the leader among them if it has a vote."""
        chosen: list[PrivateKey] = []
        for key in self.node_keys[self.leader :] + self.node_keys[: self.leader]:
            lacking = [
                group
                for group in configuration.quorums
                if sum(each.public_key.key_id in group for each in chosen) < majority(len(group))
            ]
            if any(key.public_key.key_id in group for group in lacking):
                chosen.append(key)
        return chosen

    def key(self, identity_id: str) -> PrivateKey:
        """Return the key that the identity signs with now."""
        return self.keys.get(identity_id) or key_of(identity_id)

    # Signing

    def sign(self, body: Body, by: str, **changes: object) -> Transaction:
        """Return the transaction that `by` says; `changes` replaces chain_id, key, nonce, not_after_height or client_time_ms."""
        self.nonces += 1
        arguments: dict[str, object] = {
            "chain_id": self.genesis.chain_id,
            "key": self.key(by),
            "nonce": self.nonces.to_bytes(16, "big"),
            "not_after_height": self.height + 1000,
            "client_time_ms": self.genesis.time_ms,
        }
        arguments |= changes
        return build_transaction(kind=body.KIND, body=body, **arguments)  # type: ignore[arg-type]

    # Blocks

    def build(self, *transactions: Transaction, **changes: object) -> Built:
        """Return the next block of these transactions, built by the leader; nothing is applied."""
        parent = self.blocks[-1]
        leader = self.node_keys[self.leader]
        election = None
        if self.term > parent.header.term:
            election = make_election(self.genesis.chain_id, self.voters, self.term, leader, parent)
        arguments: dict[str, object] = {
            "term": self.term,
            "time_ms": parent.header.time_ms + BLOCK_MS,
            "proposer": leader,
            "election": election,
        }
        arguments |= changes
        return build_block(self.store, transactions, **arguments)  # type: ignore[arg-type]

    def apply(self, block: Block, *, certify: bool = True) -> Executed:
        """Execute the block as a follower does, store it with a certificate, and return what it led to."""
        executed = execute_block(self.store, block, now_ms=block.header.time_ms)
        self.store.apply(executed.writes)
        if certify:
            certificate = encode_commit_certificate(self.certificate(block))
            self.store.apply({(Table.CERTIFICATE, height_key(block.header.height)): certificate})
        self.blocks.append(block)
        return executed

    def commit(self, *transactions: Transaction) -> Executed:
        """Put the transactions into the next block and apply it; a refused one raises."""
        built = self.build(*transactions)
        if built.refused:
            raise built.refused[0][1]
        assert not built.left, "a test block holds everything that is put into it"
        return self.apply(built.block)

    def submit(self, body: Body, by: str) -> Transaction:
        """Sign, commit in a block of its own, and return the transaction; a refusal raises."""
        transaction = self.sign(body, by)
        self.commit(transaction)
        return transaction

    def certificate(self, block: Block) -> CommitCertificate:
        """Return a certificate of the block, of this chain or the next one of it, by just enough validators."""
        height = min(block.header.height, self.view.height)
        configuration = build_configuration_proof(self.store, height).configuration
        return make_certificate(self.genesis.chain_id, self.signers(configuration), block)

    def elect(self, leader: int) -> None:
        """Let another validator lead from the next block on, in a new term."""
        self.term += 1
        self.leader = leader

    # Governance and validators

    def adopt(self, action: Action) -> Executed:
        """Propose the action and let two organisations vote for it; return the deciding block."""
        proposal = self.submit(bodies.ProposalCreate(action, ""), "ada@acme").tx_id
        for voter in ("ada@acme", "ben@beta"):
            last = self.commit(self.sign(bodies.ProposalVote(proposal, True), voter))
        return last

    def add_learner(self, index: int, organisation: str = "acme") -> Validator:
        """Make ``v<index>`` a learner; its key signs for it from now on."""
        learner = validator(index, organisation)
        self.adopt(AddLearner(learner))
        self.node_keys.append(node_key(index))
        return learner

    def sign_settlement(self, by: PrivateKey | None = None, **changes: object) -> Transaction:
        """Return the transaction by which a validator, else the leader, ends the change under way."""
        body = find_settlement(self.store)
        assert body is not None, "a change is under way and its block certified"
        return self.sign(body, "", key=by or self.node_keys[self.leader], **changes)

    def settle(self) -> Executed:
        """End the change of the validators that is under way."""
        return self.commit(self.sign_settlement())

    # Refusals

    def refusal(self, transaction: Transaction) -> RejectedError:
        """Return why the transaction is refused, after showing that everybody refuses it alike and nothing changes.

        Admission, the leader and a follower (who gets it in a block that a bad leader signed) must give the same code.
        """
        before = self.store.dump()
        with pytest.raises(RejectedError) as admission:
            check_transaction(self.store, transaction, verified=False)
        built = self.build(transaction)
        assert built.block.transactions == ()
        ((refused, error),) = built.refused
        assert refused is transaction
        empty = self.build()
        assert built.block == empty.block, "a refused transaction leaves no trace in the block"
        with pytest.raises(BlockRefusedError) as follower:
            execute_block(self.store, self.forge(empty.block, transactions=(transaction.raw,)), now_ms=None)
        assert follower.value.code == "ledger.block.transaction"
        assert follower.value.details["cause"] == admission.value.code == error.code
        assert self.store.dump() == before
        return error

    def refused(self, body: Body, by: str, **changes: object) -> str:
        """Return the code with which what `by` says is refused; see `refusal`."""
        return self.refusal(self.sign(body, by, **changes)).code

    def forge(self, block: Block, **changes: object) -> Block:
        """Return a block with other parts, honestly signed by the leader: fields of the header, transactions, election or signature."""
        parts: dict[str, object] = {
            name: changes.pop(name, getattr(block, name)) for name in ("transactions", "election")
        }
        signature = changes.pop("proposer_signature", None)
        signer = changes.pop("signer", self.node_keys[self.leader])
        header = replace(block.header, **changes)  # type: ignore[arg-type]
        if signature is None:
            assert isinstance(signer, PrivateKey)
            signature = signer.sign(proposal_message(header.hash()))
        return build_raw_block(header, parts["transactions"], signature, parts["election"])  # type: ignore[arg-type]

    # People and patches

    def register(self, identity_id: str, *roles: str, algorithm: Algorithm = Algorithm.ED25519) -> PrivateKey:
        """Register the identity by its organisation's administrator and return its key."""
        key = self.keys.get(identity_id) or key_of(identity_id, algorithm)
        self.keys[identity_id] = key
        body = bodies.IdentityRegister(identity_id, identity_id.partition("@")[0], roles, key.public_key.spki)
        self.submit(body, by=administrator_of(identity_id.partition("@")[2]))
        return key

    def register_patch_people(self) -> None:
        """Register those who make and vouch for the patches of `tests.testkit.patches`, and the host web1@acme."""
        self.register("alice@acme", "developer")
        self.register("bob@beta", "attestor:security-review")
        self.register("ci@acme", "attestor:tests")
        self.register("dave@acme", "developer", "attestor:release")
        self.register("web1@acme", "host")

    def publish(self, data: bytes, by: str = "alice@acme") -> bytes:
        """Publish a patch file and return its patch id, 32 bytes."""
        body = publish_body(data)
        self.submit(body, by)
        return body.patch_id

    def attest(self, data: bytes, by: str, line: int = -1) -> bytes:
        """Record one attestation line of a published patch file; return its payload digest."""
        body = attest_body(data, line)
        self.submit(body, by)
        return self.view.attestation_list(body.patch_id).payload_digests[-1]


def publish_body(data: bytes) -> bodies.PatchPublish:
    """Return the body that publishes a patch file."""
    patch = verify_patch_untrusted(data)
    return bodies.PatchPublish(
        patch_id=bytes.fromhex(patch.patch_id),
        file_digest=sha256(data),
        file_bytes=len(data),
        envelope=patch.file.trailer[0],
        attestation_digests=tuple(each.payload_digest for each in patch.attestations),
    )


def attest_body(data: bytes, line: int = -1) -> bodies.PatchAttest:
    """Return the body that records one trailer line of a patch file."""
    file = split_patch_file_untrusted(data)
    return bodies.PatchAttest(bytes.fromhex(file.patch_id), file.trailer[line])
