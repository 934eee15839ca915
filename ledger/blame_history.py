"""Following one history for `ledger.blame`: who its validators are, and what they signed in the part that another history lacks.

Nothing is executed and nothing is believed. A statement is kept as it stands; whether its signature holds is asked when it is held against
another. What does not hold in the history is told as a problem: it can be anybody's doing, and accuses nobody by itself.

Source: docs/spec/accountability.md 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ledger.archive import ArchivedBlock
from ledger.audit_membership import ConfigurationFollower
from ledger.blame_proof import Acknowledgement, BlockContext, Proposal, Vote
from ledger.block import Block, Header, decode_block_untrusted
from ledger.bodies import ValidatorSettle
from ledger.certificate import verify_block_certificate
from ledger.configuration import Configuration, ValidatorSet
from ledger.configuration_history import ConfigurationChange, ConfigurationProof, verify_configuration_proof
from ledger.errors import ProofRefusedError
from ledger.genesis import Genesis, genesis_block
from ledger.recovery import Recovery
from ledger.recovery_block import find_recovery
from ledger.state import Tip
from ledger.succession import header_refusals
from ledger.transaction import decode_transaction_untrusted
from wire.certificate import (
    CommitCertificate,
    decode_commit_certificate_untrusted,
    decode_election_certificate_untrusted,
)
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.keys import KeyId, PublicKey
from wire.merkle import Frontier


@dataclass(frozen=True, slots=True)
class HistoryBase:
    """Where a history begins whose older blocks are gone: a certified header."""

    header: Header
    """The last one before the history's first block."""
    certificate: CommitCertificate
    """Its commit certificate."""
    proof: ConfigurationProof
    """What leads from the founding validators to the configuration after it."""


@dataclass(frozen=True, slots=True)
class History:
    """A chain as somebody has it."""

    name: str
    """Where it comes from, for people."""
    blocks: Iterable[ArchivedBlock]
    """In order, from the one after `base` on; gone through once."""
    base: HistoryBase | None = None
    """What the first block stands upon, or None when that is the founding block."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a history that does not hold."""

    history: str
    """The history's name."""
    height: int
    """The block."""
    code: str
    """The stable code of the refusal."""
    message: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How it is known that a key is a validator's."""

    key: PublicKey
    """The key."""
    changes: tuple[ConfigurationChange | Recovery, ...]
    """The changes of the validators that lead to it from the founding ones."""


class FollowedHistory:
    """One history up to the last block that was read, with everything signed in the part that is kept.

    Args:
        history: From anybody.
        genesis: The founding document that the caller trusts.

    Raises:
        RejectedError: Its base does not hold: ``ledger.proof.*``, ``wire.certificate.*``.
    """

    def __init__(self, history: History, genesis: Genesis) -> None:
        self.name = history.name
        self.proposals: dict[int, Proposal] = {}
        """By height."""
        self.acknowledgements: list[tuple[KeyId, Acknowledgement]] = []
        """With who is said to have signed them; so are the votes."""
        self.votes: list[tuple[KeyId, Vote]] = []
        self.invalid: list[BlockContext] = []
        """Blocks that cannot follow the one before, in a way that can be shown."""
        self.problems: list[Problem] = []
        self.recoveries: list[Recovery] = []
        """By which the organisations went on without a majority of the validators, in the kept part."""
        self.named: list[tuple[int, Digest]] = []
        """The blocks that prove the changes which both began and ended in the kept part: (height, hash)."""
        self.certified_height = 0
        """Of the kept part; 0 when no certificate in it holds."""
        self.origins: dict[KeyId, Origin] = {}
        """Everybody who was a validator in this history."""
        self.tip: Header = genesis_block(genesis)[0].header
        """The header of the last block that was read."""
        self.tip_hash: Digest = self.tip.hash()
        self._hashes: set[Digest] = set()
        self._blocks = iter(history.blocks)
        self._changes: tuple[ConfigurationChange | Recovery, ...] = ()
        self._joint_since = 0
        self._kept_since: int | None = None
        configuration = Configuration(genesis.validators)
        self._know(genesis.validators)
        if history.base is not None:
            configuration = self._begin(history.base, genesis)
        self._configuration = configuration
        self._follower = ConfigurationFollower(configuration)

    @property
    def height(self) -> int:
        """Height of the last block that was read."""
        return self.tip.height

    @property
    def missing(self) -> tuple[tuple[int, Digest], ...]:
        """Blocks that prove a change and stand outside this history."""
        return tuple(each for each in self.named if each[1] not in self._hashes)

    def read(self) -> tuple[Block, bytes | None] | None:
        """Return the next block with its encoded certificate, or None at the end or where no block can be read."""
        item = next(self._blocks, None)
        if item is None:
            return None
        try:
            return decode_block_untrusted(item.block), item.certificate
        except RejectedError as error:
            self._problem(self.height + 1, error)
            self._blocks = iter(())
            return None

    def share(self, block: Block) -> None:
        """Follow a block that both histories have: of it only the validators matter."""
        self._follow(block)
        self.tip, self.tip_hash = block.header, block.block_hash

    def keep(self, block: Block, certificate_raw: bytes | None) -> None:
        """Follow a block of this history alone, and keep what was signed about it."""
        header, before = block.header, self._configuration
        if self._kept_since is None:
            self._kept_since = header.height
        refusals = list(header_refusals(Tip(self.tip, self.tip_hash, Frontier()), before, block, now_ms=None))
        for refusal in refusals:
            self._problem(header.height, refusal)
        self.proposals[header.height] = Proposal(header, block.proposer_signature)
        self._hashes.add(block.block_hash)
        self._keep_votes(block)
        context = BlockContext(self.tip, header, before, block.election)
        if refusals and context.is_linked and context.refusal() is not None:
            self.invalid.append(context)
        self._follow(block)
        if header.validators_hash != self._configuration.hash:
            wrong = ProofRefusedError(
                "ledger.proof.validators",
                f"block {header.height} names validators to which nothing in it leads",
                expected=self._configuration.hash,
                actual=header.validators_hash,
            )
            self._problem(header.height, wrong)
        if certificate_raw is not None:
            self._keep_certificate(header, certificate_raw)
        self.tip, self.tip_hash = header, block.block_hash

    def keep_rest(self) -> None:
        """Keep everything up to the end."""
        while (item := self.read()) is not None:
            self.keep(*item)

    def forget(self) -> None:
        """Forget what was kept: the blocks so far turned out to be common to both."""
        self.proposals.clear()
        self.acknowledgements.clear()
        self.votes.clear()
        self.invalid.clear()
        self.problems.clear()
        self.recoveries.clear()
        self.named.clear()
        self._hashes.clear()
        self.certified_height = 0
        self._kept_since = None

    def _begin(self, base: HistoryBase, genesis: Genesis) -> Configuration:
        configuration = verify_configuration_proof(base.proof, genesis.chain_id, genesis.validators)
        verify_block_certificate(base.certificate, base.header, configuration)
        for count, change in enumerate(base.proof.changes, start=1):
            self._changes = base.proof.changes[:count]
            self._know(change.after)
        self.tip, self.tip_hash = base.header, base.header.hash()
        self._hashes.add(self.tip_hash)
        self._keep_acknowledgements(base.certificate)
        self.certified_height = base.header.height
        self._prove_incoming(configuration, base.header, base.certificate)
        return configuration

    def _follow(self, block: Block) -> None:
        before = self._configuration
        after = self._configuration = self._follower.follow(block)
        recovery = find_recovery(block)
        if recovery is not None and after != before:
            self._changes = (*self._changes, recovery)
            self._know(recovery.after)
            if self._kept_since is not None:
                self.recoveries.append(recovery)
            return
        if after.is_joint and not before.is_joint:
            self._joint_since = block.header.height
        if before.is_joint and not after.is_joint:
            for change in _settlements(block, before):
                self._changes = (*self._changes, change)
                self._know(after.voters)
                if self._kept_since is not None:
                    self._keep_acknowledgements(change.certificate)
                    if self._joint_since >= self._kept_since:
                        self.named.append((change.header.height, change.header.hash()))

    def _keep_votes(self, block: Block) -> None:
        if block.election is None:
            return
        try:
            election = decode_election_certificate_untrusted(block.election)
        except RejectedError:
            return  # told as the block's problem
        for voter, signature in election.signatures:
            vote = Vote(
                election.term,
                election.candidate,
                election.last_term,
                election.last_height,
                election.last_hash,
                signature,
            )
            self.votes.append((voter, vote))

    def _keep_certificate(self, header: Header, raw: bytes) -> None:
        try:
            certificate = decode_commit_certificate_untrusted(raw)
            # Each signature in it is a statement, whatever the certificate as a whole is worth.
            self._keep_acknowledgements(certificate)
            verify_block_certificate(certificate, header, self._configuration)
        except RejectedError as error:
            self._problem(header.height, error)
            return
        self.certified_height = header.height
        self._prove_incoming(self._configuration, header, certificate)

    def _keep_acknowledgements(self, certificate: CommitCertificate) -> None:
        for signer, signature in certificate.signatures:
            acknowledged = Acknowledgement(certificate.term, certificate.height, certificate.block_hash, signature)
            self.acknowledgements.append((signer, acknowledged))

    def _prove_incoming(self, configuration: Configuration, header: Header, certificate: CommitCertificate) -> None:
        """Know those who come in with a change under way: a certified header under it is what proves it, ended or not."""
        if configuration.incoming is not None:
            self._know(configuration.incoming, ConfigurationChange(configuration, header, certificate))

    def _know(self, group: ValidatorSet | None, *pending: ConfigurationChange) -> None:
        for key_id, key in (group or ValidatorSet()).public_keys.items():
            if key_id not in self.origins:
                self.origins[key_id] = Origin(key, (*self._changes, *pending))

    def _problem(self, height: int, error: RejectedError) -> None:
        self.problems.append(Problem(self.name, height, error.code, error.message))


def _settlements(block: Block, joint: Configuration) -> Iterator[ConfigurationChange]:
    """Yield the change that the block ended; the validator's signature under it does not matter, the certificate in it does."""
    for raw in block.transactions:
        try:
            body = decode_transaction_untrusted(raw).body
        except RejectedError:
            continue
        if isinstance(body, ValidatorSettle):
            yield ConfigurationChange(joint, body.header, body.certificate)
            return
