"""Recovering a network whose majority is lost for good: making the statement, collecting signatures, and putting the block on a survivor.

::

    propose   a stopped survivor  ──►  a file: what is kept, who decides from now on, everything that signers need to check it
    sign      an administrator    ──►  the file with one more signature; no node is needed
    apply     a stopped survivor  ──►  the recovery block on its disk, committed by the operator's hand

Everything here blocks. Source: docs/spec/recovery.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from consensus.effects import Persist, hard_state_after_snapshot
from ledger.block import decode_block_untrusted
from ledger.configuration import Configuration, Validator, make_validator_set
from ledger.configuration_history import (
    ConfigurationProof,
    build_configuration_proof,
    verify_configuration_proof,
)
from ledger.errors import ProofRefusedError
from ledger.genesis import Genesis
from ledger.keyspace import GOVERNANCE_KEY
from ledger.proof_json import ProofReader, to_base64
from ledger.quorum import votes_needed
from ledger.recovery import (
    TERMS_AHEAD,
    Approval,
    Recovery,
    RecoveryStatement,
    approve,
    build_candidates,
    check_administrator,
    check_recovery,
    governance_of,
)
from ledger.recovery_block import find_recovery
from ledger.state import StateView
from ledger.state_tree import prove
from ledger.transition import build_recovery_block
from node.errors import RecoveryRefusedError
from node.storage.block_store import BlockStore
from node.storage.snapshot_files import write_file
from wire import canonical_json
from wire.certificate import decode_commit_certificate_untrusted
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.keys import Signer
from wire.limits import MEBIBYTE

FILE_BYTES_MAX: Final = 8 * MEBIBYTE
"""A recovery with the proof of its validators and of every administrator."""
FILE_VERSION: Final = 1
DROPPED: Final = "recovery"
"""The directory of a home that keeps the blocks which a recovery dropped."""
_MEMBERS: Final = frozenset({"version", "chain_id", "recovery", "configuration", "candidates"})
_VALUE_BYTES_MAX: Final = 4 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class RecoveryFile:
    """A recovery on its way from signer to signer."""

    recovery: Recovery
    """The statement, with the signatures so far."""
    proof: ConfigurationProof
    """What leads from the founding validators to those of the header that is kept."""
    candidates: tuple[Approval, ...]
    """Everybody who may sign, unsigned."""

    @property
    def needed(self) -> int:
        """How many organisations must sign."""
        governance = governance_of(self.recovery)
        return votes_needed(governance.threshold, len(governance.organisations))

    @property
    def is_signed(self) -> bool:
        """Whether enough organisations have."""
        return len(self.recovery.approvals) >= self.needed

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json.encode(
            {
                "version": FILE_VERSION,
                "chain_id": self.recovery.header.chain_id,
                "recovery": to_base64(encode(self.recovery.to_value())),
                "configuration": to_base64(encode(self.proof.to_value())),
                "candidates": [to_base64(encode(each.to_value())) for each in self.candidates],
            }
        )

    @classmethod
    def decode_untrusted(cls, data: bytes) -> RecoveryFile:
        """Return what the file holds; nothing is verified.

        Raises:
            ProofRefusedError: ``node.recovery.malformed``.
        """
        reader = ProofReader(_malformed)
        try:
            members = reader.members(
                canonical_json.decode_untrusted(data, bytes_max=FILE_BYTES_MAX), _MEMBERS, frozenset()
            )
            candidates = members["candidates"]
            if members["version"] != FILE_VERSION or not isinstance(candidates, list):
                raise _malformed("the version is not known, or candidates is no list")

            def value_of(name: str) -> object:
                return decode_untrusted(reader.base64(members, name), bytes_max=_VALUE_BYTES_MAX)

            file = cls(
                Recovery.from_value_untrusted(value_of("recovery")),
                ConfigurationProof.from_value_untrusted(value_of("configuration")),
                tuple(
                    Approval.from_value_untrusted(
                        decode_untrusted(reader.base64({"candidate": each}, "candidate"), bytes_max=_VALUE_BYTES_MAX)
                    )
                    for each in candidates
                ),
            )
        except RejectedError as error:
            if error.code == "node.recovery.malformed":
                raise
            raise _malformed(error.message) from error
        if members["chain_id"] != file.recovery.header.chain_id:
            raise _malformed("chain_id is not the header's")
        return file

    def verify(self, genesis: Genesis) -> None:
        """Return only when everything in the file but the number of signatures holds for the network that `genesis` founded.

        Raises:
            RejectedError: ``ledger.recovery.*``, ``ledger.proof.*``, ``wire.*``.
        """
        header = self.recovery.header
        if header.chain_id != genesis.chain_id:
            raise ProofRefusedError(
                "ledger.proof.wrong_chain",
                "the recovery is of another network",
                expected=genesis.chain_id,
                actual=header.chain_id,
            )
        configuration = verify_configuration_proof(self.proof, genesis.chain_id, genesis.validators)
        if configuration != self.recovery.configuration:
            raise ProofRefusedError(
                "ledger.proof.configuration", "the proof of the validators leads to others than the recovery's"
            )
        check_recovery(self.recovery)
        governance = governance_of(self.recovery)
        for candidate in self.candidates:
            check_administrator(candidate, header, governance)

    def signed(self, key: Signer) -> RecoveryFile:
        """Return the file with the signature of an administrator.

        Raises:
            RecoveryRefusedError: ``node.recovery.not_a_signer``.
        """
        for candidate in self.candidates:
            if candidate.key_id == key.public_key.key_id:
                return replace(self, recovery=approve(self.recovery, candidate, key))
        raise _refuse(
            "not_a_signer",
            "this key is not that of an administrator who could sign",
            expected=" or ".join(each.identity_id for each in self.candidates),
            actual=key.public_key.key_id,
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """What a survivor stands at after a recovery."""

    height: int
    """Height of the recovery block."""
    block_hash: str
    """Its hash: every survivor must have the same."""
    dropped: tuple[int, ...]
    """Heights of the blocks that were dropped from the log."""
    dropped_transactions: int
    """Transactions in them."""
    is_new: bool
    """False when it had been applied before."""


def propose_recovery(
    blocks: BlockStore, survivors: tuple[str, ...], newcomers: tuple[Validator, ...], reason: str, now_ms: int
) -> RecoveryFile:
    """Return the unsigned recovery at the committed height of a stopped node.

    Args:
        blocks: Its blocks.
        survivors: Names of validators that are left.
        newcomers: New validators, where nobody is left or more are wanted.
        reason: Why, for people.
        now_ms: The clock.

    Raises:
        RecoveryRefusedError: ``node.recovery.not_certified``, ``node.recovery.unknown_survivor``.
        RejectedError: ``ledger.recovery.*``.
    """
    view = StateView(blocks)
    header = view.header
    raw = view.certificate(header.height)
    if raw is None:
        raise _refuse(
            "not_certified",
            f"block {header.height}, the last one here, has no certificate",
            hint="use another survivor",
        )
    configuration = view.configuration()
    statement = RecoveryStatement(
        header=header,
        term=max(header.term, blocks.load().hard_state.term, blocks.term_and_hash(blocks.last_height)[0]) + TERMS_AHEAD,
        time_ms=max(now_ms, header.time_ms),
        voters=make_validator_set((*(_survivor(configuration, name) for name in survivors), *newcomers)),
        log_height=blocks.last_height,
        reason=reason,
    )
    recovery = Recovery(
        statement, configuration, decode_commit_certificate_untrusted(raw), prove(blocks, GOVERNANCE_KEY), ()
    )
    check_recovery(recovery)
    return RecoveryFile(recovery, build_configuration_proof(blocks, header.height), _candidates(blocks, view))


def _survivor(configuration: Configuration, name: str) -> Validator:
    found = configuration.nodes.find_name(name)
    if found is None:
        names = " or ".join(each.name for each in configuration.nodes)
        raise _refuse("unknown_survivor", "there is no such validator", expected=names, actual=name)
    return found


def _candidates(blocks: BlockStore, view: StateView) -> tuple[Approval, ...]:
    found = []
    for name in view.governance().organisations:
        organisation = view.organisation(name)
        for identity_id in () if organisation is None else organisation.administrators:
            identity = view.identity(identity_id)
            if identity is not None and identity.is_active:
                keys = [view.key(key_id) for key_id in identity.key_ids]
                found.append((identity, [key for key in keys if key is not None and key.is_valid_at(view.height + 1)]))
    return build_candidates(blocks, found)


def apply_recovery(blocks: BlockStore, recovery: Recovery, home: Path) -> Applied:
    """Put the recovery block on a stopped survivor, committed, in one durable step; blocks above it in its log are kept as files.

    Args:
        blocks: The survivor's blocks.
        recovery: Verified by the caller, and with enough signatures.
        home: The survivor's home.

    Raises:
        RecoveryRefusedError: ``node.recovery.behind``, ``node.recovery.ahead``, ``node.recovery.other_block``, ``node.recovery.term``.
        RejectedError: ``ledger.recovery.*``.
        StorageFailedError: ``node.storage.write_failed``.
    """
    statement = recovery.statement
    kept, committed = recovery.header.height, blocks.committed_height
    if committed < kept:
        raise _refuse(
            "behind",
            "this node has not got so far",
            hint="restore a backup of a survivor, or join as a new node by governance",
            expected=f"height {kept}",
            actual=committed,
        )
    if blocks.term_and_hash(kept)[1] != recovery.header.hash():
        raise _refuse("other_block", f"this node has another block at height {kept} than the recovery keeps")
    if committed > kept:
        above = StateView(blocks).block(kept + 1)
        if above is not None and find_recovery(above) == recovery:
            return Applied(statement.height, above.block_hash.hex(), (), 0, is_new=False)
        raise _refuse(
            "ahead",
            "this node knows certified blocks that the recovery would give up",
            hint="propose the recovery from this node",
            expected=f"height {kept}",
            actual=committed,
        )
    last_term = blocks.term_and_hash(blocks.last_height)[0]
    if last_term >= statement.term:
        # It may have acknowledged them, and would vote for less afterwards (docs/spec/accountability.md 2).
        raise _refuse(
            "term",
            "this node's log holds blocks of a later term than the recovery's",
            hint="propose the recovery from this node",
            expected=f"below {statement.term}",
            actual=last_term,
        )
    executed = build_recovery_block(blocks, recovery)
    dropped = tuple(range(kept + 1, blocks.last_height + 1))
    transactions = _keep_dropped(blocks, dropped, home / DROPPED)
    # A vote in a later term, given before the recovery was applied here, stays: it was for a log that has it.
    hard_state = hard_state_after_snapshot(blocks.load().hard_state, statement.term)
    persist = Persist(hard_state, kept + 1 if dropped else None)
    blocks.write((persist,), (((executed,), None),))
    return Applied(statement.height, executed.block_hash.hex(), dropped, transactions, is_new=True)


def _keep_dropped(blocks: BlockStore, heights: tuple[int, ...], directory: Path) -> int:
    """Write each of these blocks into a file, and return how many transactions they hold."""
    count = 0
    for height in heights:
        directory.mkdir(mode=0o700, exist_ok=True)
        entry = blocks.entry(height)
        write_file(directory / f"{height:012}-{entry.block_hash.hex()[:16]}.block", entry.data)
        count += len(decode_block_untrusted(entry.data).transactions)
    return count


def _malformed(why: str) -> ProofRefusedError:
    return ProofRefusedError("node.recovery.malformed", f"the file does not hold a recovery: {why}")


def _refuse(
    rule: str, sentence: str, *, hint: str = "", expected: object = None, actual: object = None
) -> RecoveryRefusedError:
    return RecoveryRefusedError(f"node.recovery.{rule}", sentence, hint=hint, expected=expected, actual=actual)
