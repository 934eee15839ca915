"""Proof that a validator broke the rules: what it signed, and nothing that one would have to believe.

A proof holds one or two statements under one key which nobody signs who follows docs/spec/consensus.md:

=========================  ==========================================  ================================================================
kind                       statements                                  why they convict
=========================  ==========================================  ================================================================
``double_proposal``        two proposals                               of one term and height, and not of the same block
``double_vote``            two votes                                   in one term, for other candidates or upon other blocks
``double_acknowledgement`` two acknowledgements                        of one term and height, and not of the same block
``acknowledged_then_voted``  an acknowledgement, a vote of a later term  the vote is upon a position below what was acknowledged
``not_extending_election`` a proposal or acknowledgement               of a block that does not extend what its proposer was elected on
``invalid_block``          a proposal or acknowledgement               of a block that cannot follow the one before
=========================  ==========================================  ================================================================

The last two carry what shows it: the header before, the block's own, and the configuration and the election by which they are judged.
Nobody is convicted for what stands upon such a block: who began with a snapshot has not seen it. Everything else is in the statements.
Whose key it is follows from the founding document and the changes of the validators since; on the ledger the state knows.

Source: docs/spec/accountability.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from ledger.blame_json import from_base64, from_hex, from_number, malformed, members, to_base64
from ledger.block import HEADER_BYTES_MAX, Header, build_raw_block, decode_header_untrusted, hash_election
from ledger.configuration import (
    CONFIGURATION_BYTES_MAX,
    Configuration,
    Validator,
    decode_configuration_untrusted,
)
from ledger.configuration_history import ConfigurationChange, ConfigurationProof, verify_configuration_proof
from ledger.errors import BlockRefusedError, ProofRefusedError
from ledger.genesis import Genesis
from ledger.recovery import Recovery
from ledger.state import Tip
from ledger.succession import header_refusals
from wire.certificate import acknowledgement_message, proposal_message, vote_message
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.keys import KeyId, PublicKey
from wire.limits import CERTIFICATE_BYTES_MAX, MEBIBYTE, SIGNATURE_BYTES_MAX
from wire.merkle import Frontier

BLAME_VERSION: Final = 1
BLAME_BYTES_MAX: Final = 4 * MEBIBYTE
"""A proof as a JSON document, with every change of the validators that it may need."""

_MEMBERS: Final = frozenset({"version", "chain_id", "kind", "validator", "statements"})
_CONTEXT: Final = "context"
"""A member of proofs about blocks that cannot follow."""
_CONFIGURATION: Final = "configuration"
"""A member that leads to validators who are not founding ones."""
_UNPROVABLE: Final = frozenset({"ledger.block.bad_proposer_signature", "ledger.block.election_hash"})
"""Whoever hands a block on can spoil these, so they prove nothing against who signed its hash."""
_NOT_EXTENDING: Final = frozenset(
    f"ledger.block.{rule}" for rule in ("election_term", "election_candidate", "election_parent")
)


class BlameKind(StrEnum):
    """Which rule was broken."""

    DOUBLE_PROPOSAL = "double_proposal"
    DOUBLE_VOTE = "double_vote"
    DOUBLE_ACKNOWLEDGEMENT = "double_acknowledgement"
    ACKNOWLEDGED_THEN_VOTED = "acknowledged_then_voted"
    NOT_EXTENDING_ELECTION = "not_extending_election"
    INVALID_BLOCK = "invalid_block"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A validator stood behind a block as its proposer."""

    TYPE = "proposal"
    header: Header
    """The block's."""
    signature: bytes
    """Over `proposal_message` of its hash."""

    def message(self, chain_id: str) -> Digest:
        """Return what was signed; the hash covers the chain id."""
        del chain_id
        return proposal_message(self.header.hash())

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "type": self.TYPE,
            "header": to_base64(self.header.encode()),
            "signature": to_base64(self.signature),
        }


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A validator had a block of the current term on its disk, valid, with everything below."""

    TYPE = "acknowledgement"
    term: int
    """The block's term."""
    height: int
    """The block's height."""
    block_hash: Digest
    """The block, 32 bytes."""
    signature: bytes
    """Over `acknowledgement_message`."""

    @property
    def position(self) -> tuple[int, int]:
        """Term and height."""
        return self.term, self.height

    def message(self, chain_id: str) -> Digest:
        """Return what was signed."""
        return acknowledgement_message(chain_id, self.term, self.height, self.block_hash)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form: terms and heights as texts, since they may lie beyond what every JSON reader keeps exactly."""
        return {
            "type": self.TYPE,
            "term": str(self.term),
            "height": str(self.height),
            "block_hash": self.block_hash.hex(),
            "signature": to_base64(self.signature),
        }


@dataclass(frozen=True, slots=True)
class Vote:
    """A validator voted for a candidate whose log ended as it says."""

    TYPE = "vote"
    term: int
    """Of the election."""
    candidate: KeyId
    """Key id, 32 bytes."""
    last_term: int
    """Term of the candidate's last block."""
    last_height: int
    """Its height."""
    last_hash: Digest
    """Its hash, 32 bytes."""
    signature: bytes
    """Over `vote_message`."""

    @property
    def position(self) -> tuple[int, int]:
        """Where the candidate's log ended: term and height."""
        return self.last_term, self.last_height

    @property
    def choice(self) -> tuple[KeyId, int, int, Digest]:
        """What the vote is for, its term aside."""
        return self.candidate, self.last_term, self.last_height, self.last_hash

    def message(self, chain_id: str) -> Digest:
        """Return what was signed."""
        return vote_message(chain_id, self.term, *self.choice)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "type": self.TYPE,
            "term": str(self.term),
            "candidate": self.candidate.hex(),
            "last_term": str(self.last_term),
            "last_height": str(self.last_height),
            "last_hash": self.last_hash.hex(),
            "signature": to_base64(self.signature),
        }


Statement: TypeAlias = Proposal | Acknowledgement | Vote
"""What a validator can sign, without the signer."""


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What shows that a block cannot follow the one before."""

    parent: Header
    """The block before."""
    header: Header
    """The block."""
    configuration: Configuration
    """The one after the block before, which its header names."""
    election: bytes | None
    """What the block carries: an encoded election certificate or nothing."""

    @property
    def is_linked(self) -> bool:
        """Whether the parts belong together, each named by the hash that the headers hold."""
        return (
            self.header.previous_hash == self.parent.hash()
            and self.parent.validators_hash == self.configuration.hash
            and self.header.election_hash == hash_election(self.election)
        )

    def refusal(self) -> BlockRefusedError | None:
        """Return why the block cannot follow its parent, or None when nothing here shows that it cannot."""
        # The proposer's signature is not looked at: a stranger could have taken it away. Neither is a state needed, nor a frontier.
        block = build_raw_block(self.header, (), b"", self.election)
        parent = Tip(self.parent, self.parent.hash(), Frontier())
        for refusal in header_refusals(parent, self.configuration, block, now_ms=None):
            if refusal.code not in _UNPROVABLE:
                return refusal
        return None

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "parent": to_base64(self.parent.encode()),
            "header": to_base64(self.header.encode()),
            "configuration": to_base64(self.configuration.encode()),
            "election": None if self.election is None else to_base64(self.election),
        }


@dataclass(frozen=True, slots=True)
class Blame:
    """The proof against one validator; `verify_blame` says whether it holds."""

    kind: BlameKind
    """The rule that was broken."""
    chain_id: str
    """The network; signatures cover it."""
    validator: KeyId
    """Whose statements these are, 32 bytes."""
    statements: tuple[Statement, ...]
    """What it signed: one or two, by kind."""
    context: BlockContext | None = None
    """For the two kinds about blocks that cannot follow."""
    changes: tuple[ConfigurationChange | Recovery, ...] = ()
    """What leads from the founding validators to a set with this one; empty for a founding validator."""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form: digests in hexadecimal, longer bytes in base64."""
        document: dict[str, object] = {
            "version": BLAME_VERSION,
            "chain_id": self.chain_id,
            "kind": str(self.kind),
            "validator": self.validator.hex(),
            "statements": [each.to_json() for each in self.statements],
        }
        if self.context is not None:
            document[_CONTEXT] = self.context.to_json()
        if self.changes:
            document[_CONFIGURATION] = to_base64(encode(self._proof().to_value()))
        return document

    def _proof(self) -> ConfigurationProof:
        # What is no change has no incoming validators, and is refused as none.
        return ConfigurationProof(self.changes, Configuration(self.changes[-1].after))

    @classmethod
    def from_json_untrusted(cls, value: object) -> Blame:
        """Return the proof of good form. Nothing is verified.

        Raises:
            ProofRefusedError: ``ledger.blame.malformed``.
        """
        document = members(value, "a proof", _MEMBERS, frozenset({_CONTEXT, _CONFIGURATION}))
        if type(document["version"]) is not int or document["version"] != BLAME_VERSION:
            raise malformed("the version is not known")
        chain_id, kind, statements = document["chain_id"], document["kind"], document["statements"]
        if not isinstance(chain_id, str):
            raise malformed("chain_id is not a text")
        if kind not in tuple(BlameKind):
            raise malformed("the kind is not known")
        if not isinstance(statements, list) or not 1 <= len(statements) <= 2:
            raise malformed("statements is not a list of one or two")
        try:
            changes: tuple[ConfigurationChange | Recovery, ...] = ()
            if _CONFIGURATION in document:
                raw = from_base64(document, _CONFIGURATION, BLAME_BYTES_MAX)
                changes = ConfigurationProof.from_value_untrusted(
                    decode_untrusted(raw, bytes_max=BLAME_BYTES_MAX)
                ).changes
            return cls(
                BlameKind(str(kind)),
                chain_id,
                KeyId(from_hex(document, "validator")),
                tuple(_statement(each) for each in statements),
                _context(document[_CONTEXT]) if _CONTEXT in document else None,
                changes,
            )
        except RejectedError as error:
            if isinstance(error, ProofRefusedError):
                raise
            raise malformed(error.message) from error


def verify_blame(blame: Blame, genesis: Genesis) -> Validator:
    """Return the validator that the proof convicts, on the chain that `genesis` founded.

    Args:
        blame: From anybody.
        genesis: The founding document that the caller trusts.

    Raises:
        ProofRefusedError: ``ledger.blame.wrong_chain``, ``ledger.blame.unknown_validator`` (the key is no founding validator's and no
            change of the validators in the proof brings it), ``ledger.blame.signature``, ``ledger.blame.no_contradiction``,
            ``ledger.proof.*`` for the changes.
        InvalidCertificateError: ``wire.certificate.*``, for the changes.
    """
    sets = [genesis.validators]
    if blame.changes:
        verify_configuration_proof(blame._proof(), genesis.chain_id, genesis.validators)
        sets += [each.after for each in blame.changes]
    for group in sets:
        validator = group.find(blame.validator)
        if validator is not None:
            check_blame(blame, genesis.chain_id, validator.public_key)
            return validator
    raise ProofRefusedError(
        "ledger.blame.unknown_validator", "the proof is about nobody who was a validator", actual=blame.validator
    )


def check_blame(blame: Blame, chain_id: str, key: PublicKey) -> None:
    """Return only when the owner of `key` signed what nobody signs who follows the rules. That it is a validator's is not checked.

    Raises:
        ProofRefusedError: ``ledger.blame.wrong_chain``, ``ledger.blame.signature``, ``ledger.blame.no_contradiction``.
    """
    if blame.chain_id != chain_id:
        raise ProofRefusedError(
            "ledger.blame.wrong_chain", "the proof is about another network", expected=chain_id, actual=blame.chain_id
        )
    _check_contradiction(blame)
    for statement in blame.statements:
        if not key.is_valid(statement.message(chain_id), statement.signature):
            raise ProofRefusedError(
                "ledger.blame.signature",
                f"the validator's signature under the {statement.TYPE} does not hold",
                actual=blame.validator,
            )


def _check_contradiction(blame: Blame) -> None:
    kind, statements = blame.kind, blame.statements
    match kind:
        case BlameKind.DOUBLE_PROPOSAL:
            match statements:
                case (Proposal(first), Proposal(second)) if (
                    first.chain_id == second.chain_id == blame.chain_id
                    and (first.term, first.height) == (second.term, second.height)
                    and first != second
                ):
                    return
        case BlameKind.DOUBLE_VOTE:
            match statements:
                case (Vote() as one, Vote() as other) if one.term == other.term and one.choice != other.choice:
                    return
        case BlameKind.DOUBLE_ACKNOWLEDGEMENT:
            match statements:
                case (Acknowledgement() as this, Acknowledgement() as that) if (
                    this.position == that.position and this.block_hash != that.block_hash
                ):
                    return
        case BlameKind.ACKNOWLEDGED_THEN_VOTED:
            match statements:
                case (Acknowledgement() as acknowledged, Vote() as vote) if (
                    vote.term > acknowledged.term and vote.position < acknowledged.position
                ):
                    return
        case BlameKind.NOT_EXTENDING_ELECTION | BlameKind.INVALID_BLOCK:
            if blame.context is not None and _is_invalid(blame, blame.context):
                return
        case _:
            assert_never(kind)
    raise ProofRefusedError(
        "ledger.blame.no_contradiction", f"the statements do not show what the proof says: {kind}", actual=kind
    )


def _is_invalid(blame: Blame, context: BlockContext) -> bool:
    if context.parent.chain_id != blame.chain_id or not context.is_linked:
        return False
    match blame.statements:
        case (Proposal(proposed),) if proposed == context.header:
            pass
        case (Acknowledgement() as acknowledged,) if acknowledged.block_hash == context.header.hash():
            pass
        case _:
            return False
    refusal = context.refusal()
    return refusal is not None and kind_of_refusal(refusal) is blame.kind


def kind_of_refusal(refusal: BlockRefusedError) -> BlameKind:
    """Return the kind of proof that shows this."""
    return BlameKind.NOT_EXTENDING_ELECTION if refusal.code in _NOT_EXTENDING else BlameKind.INVALID_BLOCK


def describe_blame(blame: Blame) -> str:
    """Return the offence as one sentence without its subject, of a proof that holds."""
    first, last = blame.statements[0], blame.statements[-1]
    if blame.context is not None:
        header, refusal = blame.context.header, blame.context.refusal()
        verb = "proposed" if isinstance(first, Proposal) else "acknowledged"
        why = "nothing is wrong with it" if refusal is None else refusal.message
        return f"{verb} block {header.height} of term {header.term}, {header.hash().hex()[:16]}: {why}"
    if isinstance(first, Proposal) and isinstance(last, Proposal):
        header = first.header
        hashes = f"{header.hash().hex()[:16]} and {last.header.hash().hex()[:16]}"
        return f"proposed two different blocks of term {header.term} and height {header.height}, {hashes}"
    if isinstance(first, Vote) and isinstance(last, Vote):
        return f"voted twice in term {first.term}: {_vote_text(first)}, and {_vote_text(last)}"
    if isinstance(first, Acknowledgement) and isinstance(last, Acknowledgement):
        hashes = f"{first.block_hash.hex()[:16]} and {last.block_hash.hex()[:16]}"
        return f"acknowledged two different blocks of term {first.term} and height {first.height}, {hashes}"
    if isinstance(first, Acknowledgement) and isinstance(last, Vote):
        return f"acknowledged block {first.height} of term {first.term}, and then voted in term {last.term} {_vote_text(last)}"
    return "said something that contradicts nothing"


def _vote_text(vote: Vote) -> str:
    return (
        f"for {vote.candidate.hex()[:16]}, whose log ended with block {vote.last_height} of term {vote.last_term} "
        f"({vote.last_hash.hex()[:16]})"
    )


def _statement(value: object) -> Statement:
    kind = value.get("type") if isinstance(value, dict) else None
    match kind:
        case Proposal.TYPE:
            document = members(value, "a proposal", frozenset({"type", "header", "signature"}))
            return Proposal(_header(document["header"]), _signature(document))
        case Acknowledgement.TYPE:
            names = frozenset({"type", "term", "height", "block_hash", "signature"})
            document = members(value, "an acknowledgement", names)
            return Acknowledgement(
                from_number(document, "term"),
                from_number(document, "height"),
                from_hex(document, "block_hash"),
                _signature(document),
            )
        case Vote.TYPE:
            names = frozenset({"type", "term", "candidate", "last_term", "last_height", "last_hash", "signature"})
            document = members(value, "a vote", names)
            return Vote(
                from_number(document, "term"),
                KeyId(from_hex(document, "candidate")),
                from_number(document, "last_term"),
                from_number(document, "last_height"),
                from_hex(document, "last_hash"),
                _signature(document),
            )
        case _:
            raise malformed("a statement's type is not known")


def _context(value: object) -> BlockContext:
    document = members(value, "a context", frozenset({"parent", "header", "configuration", "election"}))
    election = None
    if document["election"] is not None:
        election = from_base64(document, "election", CERTIFICATE_BYTES_MAX)
    return BlockContext(
        _header(document["parent"]),
        _header(document["header"]),
        decode_configuration_untrusted(from_base64(document, "configuration", CONFIGURATION_BYTES_MAX)),
        election,
    )


def _header(value: object) -> Header:
    return decode_header_untrusted(from_base64({"header": value}, "header", HEADER_BYTES_MAX))


def _signature(document: dict[str, object]) -> bytes:
    return from_base64(document, "signature", SIGNATURE_BYTES_MAX)
