"""Replaying a chain from its founding document, and telling everything that does not hold.

The auditor is fed one block after the other and believes none: links, roots, signatures, state, elections and commit certificates are all
derived again. A finding does not end the replay; what can still be checked after it is checked.

==============  ============================================================================================
level           checks
==============  ============================================================================================
``headers``     form, links, heights, times, roots over the transactions; no signatures
``signatures``  and those of the validators: proposers, elections, commit certificates
``full``        and every transaction: its form, signature and rule, and the state, policy and validators after it
==============  ============================================================================================

Signatures of transactions go to a *verifier* in batches, one for each block. It may check them elsewhere and later (worker processes); up
to `PENDING_BLOCKS_MAX` blocks may be on their way while the replay goes on.

Source: docs/spec/ledger.md 13.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from ledger.audit_membership import ConfigurationFollower
from ledger.block import Block, Header, decode_block_untrusted
from ledger.certificate import check_certificate_subject, verify_block_certificate
from ledger.configuration import Configuration
from ledger.errors import BlockRefusedError
from ledger.execution import Execution
from ledger.genesis import Genesis, genesis_block
from ledger.keyspace import MemoryStore, Table
from ledger.state import StateView, Tip
from ledger.transaction import (
    SignatureJob,
    Transaction,
    check_signatures,
    decode_transaction_untrusted,
    signature_job,
)
from ledger.transition import derived_refusals, link_refusals, refused_transaction, size_refusals, validator_refusals
from wire.certificate import decode_commit_certificate_untrusted
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.merkle import Frontier, leaf_hash
from wire.merkle import root as merkle_root

PENDING_BLOCKS_MAX: Final = 64
"""Blocks whose signatures may be on their way: enough to keep a pool of workers busy, few megabytes of jobs."""

Verifier: TypeAlias = Callable[[Sequence[SignatureJob]], Callable[[], Sequence[bool]]]
"""Takes the jobs of a block, and returns how to wait for the answers, in the same order."""

_KEPT: Final = frozenset({Table.META, Table.STATE, Table.STATE_NODE, Table.TX_INDEX})
"""What executing the next block needs; the rest of what a block writes is for queries."""
_LATCHED: Final = frozenset(
    f"ledger.block.{name}" for name in ("log_size", "log_root", "state_root", "policy_hash", "validators_hash")
)
"""Once these differ they go on to differ: only the first of each is told."""


class AuditLevel(StrEnum):
    """How much is checked."""

    HEADERS = "headers"
    SIGNATURES = "signatures"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold."""

    height: int
    """The block."""
    what: str
    """The stable code of the refusal, such as ``ledger.block.state_root``."""
    message: str
    """One sentence."""
    expected: str
    """What the audit derived, or empty where the sentence says it all."""
    actual: str
    """What the chain says, or empty."""
    index: int | None = None
    """The transaction in the block, or None when the whole block is meant."""


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """What was replayed."""

    blocks: int
    """Blocks after genesis."""
    transactions: int
    """Transactions in them."""
    height: int
    """Height of the last block, readable or not."""
    certified_height: int
    """The highest height that a valid certificate proves; 0 when none does."""
    tip: Header
    """The last header that could be read, as the chain says it."""
    state_root: Digest
    """The state root that the audit derived for it."""
    findings: tuple[Finding, ...]
    """Everything that does not hold, in the order of discovery; empty for a valid chain."""


def verify_here(jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
    """Return the answers, found at once in this process: the verifier for small chains and for tests."""
    results = check_signatures(jobs)
    return lambda: results


class Auditor:
    """A replay in progress.

    Args:
        genesis: The founding document that the caller trusts.
        level: How much is checked.
        verifier: Who checks the transactions' signatures.
        pending_blocks_max: How many blocks' signatures may be on their way.
    """

    def __init__(
        self,
        genesis: Genesis,
        *,
        level: AuditLevel = AuditLevel.FULL,
        verifier: Verifier = verify_here,
        pending_blocks_max: int = PENDING_BLOCKS_MAX,
    ) -> None:
        block, writes = genesis_block(genesis)
        self._level = level
        self._verifier = verifier
        self._pending_blocks_max = pending_blocks_max
        # The validators after the block before; below ``full`` the follower says who they are, there the state does.
        self._configuration = Configuration(genesis.validators)
        self._follower = ConfigurationFollower(self._configuration)
        self._store = MemoryStore()
        self._store.apply({key: value for key, value in writes.items() if key[0] in _KEPT})
        # Two views of the block before: as the chain says it, for its links, and as the audit derived it, for its contents.
        self._claimed: Tip | None = Tip(block.header, block.block_hash, Frontier())
        self._derived = self._claimed
        self._height = 0
        self._transactions = 0
        self._certified_height = 0
        self._last_header = block.header
        self._latched: set[str] = set()
        self._findings: list[Finding] = []
        self._pending: deque[tuple[int, list[int], Callable[[], Sequence[bool]]]] = deque()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far; answers that are on their way are missing."""
        return tuple(self._findings)

    @property
    def height(self) -> int:
        """How many blocks were fed."""
        return self._height

    @property
    def transactions(self) -> int:
        """How many transactions were fed."""
        return self._transactions

    @property
    def view(self) -> StateView:
        """The state as derived so far; without history and without lists of blocks. Only at level ``full`` does it move."""
        return StateView(self._store)

    def feed(self, block_raw: bytes, certificate_raw: bytes | None) -> tuple[Finding, ...]:
        """Check the next block and return what was found meanwhile, also about earlier blocks' signatures.

        Args:
            block_raw: The block's wire form.
            certificate_raw: Its encoded commit certificate, or None where a later one covers it.
        """
        known = len(self._findings)
        self._height += 1
        try:
            block = decode_block_untrusted(block_raw)
        except BlockRefusedError as error:
            self._find(error)
            # Nothing is known about what came of it, so the next block's links and derived fields cannot be judged.
            self._claimed = None
            self._latched |= _LATCHED
            return tuple(self._findings[known:])
        self._transactions += len(block.transactions)
        self._check_header(block)
        self._check_contents(block)
        if certificate_raw is not None:
            self._check_certificate(block, certificate_raw)
        self._last_header = block.header
        while len(self._pending) > self._pending_blocks_max:
            self._collect()
        return tuple(self._findings[known:])

    def finish(self) -> AuditSummary:
        """Wait for every answer and return what the replay came to."""
        while self._pending:
            self._collect()
        if self._certified_height < self._height:
            self._findings.append(
                Finding(
                    self._height,
                    "ledger.audit.not_certified",
                    f"no certificate covers the blocks after {self._certified_height}",
                    f"a certificate of block {self._height}",
                    f"the last one is of block {self._certified_height}",
                )
            )
        return AuditSummary(
            self._height,
            self._transactions,
            self._height,
            self._certified_height,
            self._last_header,
            self._derived.header.state_root,
            tuple(self._findings),
        )

    def _check_header(self, block: Block) -> None:
        claimed = self._claimed
        if claimed is not None:
            for refusal in link_refusals(claimed, block, now_ms=None):
                self._find(refusal)
            if self._level is not AuditLevel.HEADERS:
                for refusal in validator_refusals(claimed, self._configuration, block):
                    self._find(refusal)

    def _check_contents(self, block: Block) -> None:
        """Derive what the block leads to, compare, and go on from what was derived."""
        header, before = block.header, self._derived
        leaves = [leaf_hash(raw) for raw in block.transactions]
        frontier, _ = before.frontier.extend(leaves)
        derived = replace(
            header,
            transactions_root=merkle_root(leaves),
            log_size=frontier.size,
            log_root=frontier.root(),
        )
        if self._level is AuditLevel.FULL:
            # The log holds every transaction, also one that is refused here; state and policy follow from those that are not.
            derived = self._execute(block, derived)
            self._configuration = StateView(self._store).configuration()
        else:
            self._configuration = self._follower.follow(block)
            derived = replace(derived, validators_hash=self._configuration.hash)
        for refusal in derived_refusals(header, derived):
            if refusal.code in _LATCHED:
                if refusal.code in self._latched:
                    continue
                self._latched.add(refusal.code)
            self._find(refusal)
        self._claimed = Tip(header, block.block_hash, frontier)
        self._derived = Tip(derived, block.block_hash, frontier)

    def _execute(self, block: Block, derived: Header) -> Header:
        execution = Execution(self._store, block.header, self._derived)
        for refusal in size_refusals(execution, block):
            self._find(refusal)
        jobs: list[SignatureJob] = []
        indexes: list[int] = []
        for index, transaction in self._decoded(block):
            key = execution.find_key(transaction)
            if key is not None:
                jobs.append(signature_job(transaction, key))
                indexes.append(index)
            try:
                # Taken as signed for now: the verifier's answer comes later and changes no state.
                execution.execute(transaction, verified=True)
            except RejectedError as error:
                self._find(refused_transaction(index, transaction.tx_id, error), index)
        if jobs:
            self._pending.append((self._height, indexes, self._verifier(jobs)))
        sealed = execution.seal()
        self._store.apply({key: value for key, value in sealed.writes.items() if key[0] in _KEPT})
        return replace(
            derived,
            state_root=sealed.header.state_root,
            policy_hash=sealed.header.policy_hash,
            validators_hash=sealed.header.validators_hash,
        )

    def _decoded(self, block: Block) -> Iterator[tuple[int, Transaction]]:
        for index, raw in enumerate(block.transactions):
            try:
                transaction = decode_transaction_untrusted(raw)
            except RejectedError as error:
                self._find(refused_transaction(index, b"", error), index)
            else:
                yield index, transaction

    def _check_certificate(self, block: Block, raw: bytes) -> None:
        try:
            certificate = decode_commit_certificate_untrusted(raw)
            if self._level is AuditLevel.HEADERS:
                check_certificate_subject(certificate, block.header)
            else:
                verify_block_certificate(certificate, block.header, self._configuration)
        except RejectedError as error:
            self._find(error)
        else:
            self._certified_height = self._height

    def _collect(self) -> None:
        height, indexes, wait_results = self._pending.popleft()
        for index, is_valid in zip(indexes, wait_results(), strict=True):
            if not is_valid:
                self._findings.append(
                    Finding(
                        height,
                        "ledger.tx.bad_signature",
                        f"the signature of transaction {index} of block {height} does not hold",
                        "",
                        "",
                        index,
                    )
                )

    def _find(self, error: RejectedError, index: int | None = None) -> None:
        details = error.details
        self._findings.append(
            Finding(
                self._height,
                error.code,
                error.message,
                str(details.get("expected", "")),
                str(details.get("actual", "")),
                index,
            )
        )
