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

Signatures go to a *verifier* in batches, one for each block: the validators' and at ``full`` the transactions'. It may check them elsewhere
and later (worker processes); up to `PENDING_BLOCKS_MAX` blocks may be on their way while the replay goes on.

A replay can stop between any two blocks (`Auditor.suspend`) and go on later, in another process, with the tables that it left.

Source: docs/spec/ledger.md 13; docs/spec/audit.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, zip_longest
from operator import attrgetter
from typing import Final, Protocol, Self, TypeAlias

from ledger.audit_membership import ConfigurationFollower
from ledger.audit_signatures import Judgement, SignatureRecorder, SignedBlock
from ledger.audit_state import FINDINGS_MAX, AuditState, Finding, RecoveryMark, Sort, mark_of
from ledger.block import Block, Header, decode_block_untrusted
from ledger.certificate import check_certificate_subject
from ledger.configuration import Configuration
from ledger.errors import BlockRefusedError
from ledger.execution import Execution
from ledger.genesis import Genesis, genesis_block
from ledger.keyspace import MemoryStore, Reader, Table, WriteSet
from ledger.recovery_block import find_recovery
from ledger.state import StateView, Tip
from ledger.transaction import (
    SignatureJob,
    Transaction,
    check_signatures,
    decode_transaction_untrusted,
    signature_job,
)
from ledger.transition import derived_refusals, link_refusals, refused_transaction, size_refusals
from wire.certificate import decode_commit_certificate_untrusted
from wire.errors import PatchwardenError, RejectedError
from wire.hashing import Digest
from wire.merkle import Frontier, leaf_hash
from wire.merkle import root as merkle_root

PENDING_BLOCKS_MAX: Final = 64
"""Blocks whose signatures may be on their way: enough to keep a pool of workers busy, few megabytes of jobs."""

Verifier: TypeAlias = Callable[[Sequence[SignatureJob]], Callable[[], Sequence[bool]]]
"""Takes the jobs of a block, and returns how to wait for the answers, in the same order."""

_KEPT: Final = frozenset({Table.META, Table.STATE, Table.STATE_NODE})
"""What executing the first block needs; the rest of what genesis writes is for queries."""
_EXECUTED: Final = b""
"""Stands in TX_INDEX for every executed transaction: nobody asks an audit where, only whether."""
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
    """What does not hold, by height, the first divergence first; empty for a valid chain."""
    omitted: int = 0
    """Further findings, beyond the `FINDINGS_MAX` of each sort that are kept."""
    recoveries: tuple[RecoveryMark, ...] = ()
    """Where the organisations went on without a majority of the validators."""


class AuditStore(Reader, Protocol):
    """The tables of a replay."""

    def apply(self, writes: Mapping[tuple[Table, bytes], bytes | None]) -> None:
        """Make every change of `writes` visible."""
        ...


def verify_here(jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
    """Return the answers, found at once in this process: the verifier for small chains and for tests."""
    results = check_signatures(jobs)
    return lambda: results


@dataclass(frozen=True, slots=True)
class _Pending:
    """A block whose signatures are on their way."""

    height: int
    signed: SignedBlock
    judgement: Judgement
    """What does not hold if the validators' signatures do."""
    validator_jobs: int
    """How many of the answers are about those; the others are about transactions."""
    indexes: Sequence[int]
    """Which transactions."""
    wait_results: Callable[[], Sequence[bool]]


class Auditor:
    """A replay in progress.

    Args:
        genesis: The founding document that the caller trusts.
        level: How much is checked.
        verifier: Who checks the signatures.
        store: Empty tables for the state, or those that a replay before has left (`resume`); in memory by default.
        pending_blocks_max: How many blocks' signatures may be on their way.
    """

    def __init__(
        self,
        genesis: Genesis,
        *,
        level: AuditLevel = AuditLevel.FULL,
        verifier: Verifier = verify_here,
        store: AuditStore | None = None,
        pending_blocks_max: int = PENDING_BLOCKS_MAX,
    ) -> None:
        block, writes = genesis_block(genesis)
        self._level = level
        self._verifier = verifier
        self._pending_blocks_max = pending_blocks_max
        # The validators after the block before; below ``full`` the follower says who they are, there the state does.
        self._configuration = Configuration(genesis.validators)
        self._follower = ConfigurationFollower(self._configuration)
        self._store: AuditStore = MemoryStore() if store is None else store
        if level is AuditLevel.FULL:
            self._store.apply({key: value for key, value in writes.items() if key[0] in _KEPT})
        # Two views of the block before: as the chain says it, for its links, and as the audit derived it, for its contents.
        self._claimed: Tip | None = Tip(block.header, block.block_hash, Frontier())
        self._derived = self._claimed
        self._height = 0
        self._transactions = 0
        self._certified_height = 0
        self._last_header = block.header
        self._latched: set[str] = set()
        self._findings: dict[Sort, list[Finding]] = {sort: [] for sort in Sort}
        self._omitted = 0
        self._fresh: list[Finding] = []
        self._recoveries: list[RecoveryMark] = []
        self._recorder = SignatureRecorder()
        self._pending: deque[_Pending] = deque()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far, by height; answers that are on their way are missing."""
        return tuple(sorted(chain.from_iterable(self._findings.values()), key=attrgetter("height")))

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
        """The state as derived so far; without history and without lists of blocks. Only at level ``full`` is there one."""
        return StateView(self._store)

    def feed(self, block_raw: bytes, certificate_raw: bytes | None) -> tuple[Finding, ...]:
        """Check the next block and return what was found meanwhile, also about earlier blocks' signatures.

        Args:
            block_raw: The block's wire form.
            certificate_raw: Its encoded commit certificate, or None where a later one covers it.
        """
        try:
            block = decode_block_untrusted(block_raw)
        except BlockRefusedError as error:
            return self.feed_unreadable(error)
        self._height += 1
        self._transactions += len(block.transactions)
        claimed, before = self._claimed, self._configuration
        if claimed is not None:
            for refusal in link_refusals(claimed, block, now_ms=None):
                self._find(Sort.LINK, refusal)
        jobs, indexes = self._check_contents(block)
        if self._level is AuditLevel.HEADERS:
            self._check_subject(block, certificate_raw)
        else:
            signed = SignedBlock(claimed, before, self._configuration, block, certificate_raw)
            judgement, validator_jobs = signed.judge_later(self._recorder)
            wait = self._verifier([*validator_jobs, *jobs])
            self._pending.append(_Pending(self._height, signed, judgement, len(validator_jobs), indexes, wait))
        self._last_header = block.header
        if (recovery := find_recovery(block)) is not None:
            self._recoveries.append(mark_of(recovery))
        while len(self._pending) > self._pending_blocks_max:
            self._collect()
        return self._take_fresh()

    def feed_unreadable(self, error: PatchwardenError) -> tuple[Finding, ...]:
        """Take it that the next block is there and cannot be read, for the reason given; return what was found meanwhile."""
        self._height += 1
        self._find(Sort.LINK, error)
        # Nothing is known about what came of it, so the next block's links and derived fields cannot be judged.
        self._claimed = None
        self._latched |= _LATCHED
        return self._take_fresh()

    def note(self, finding: Finding) -> None:
        """Add what the caller found where the chain comes from, such as the end of an archive that was cut."""
        self._keep(Sort.LINK, finding)

    def suspend(self) -> AuditState:
        """Wait for every answer, and return what the replay knows; with the tables as they are now it can be resumed."""
        self._settle()
        return AuditState(
            height=self._height,
            transactions=self._transactions,
            certified_height=self._certified_height,
            claimed=self._claimed,
            derived=self._derived,
            last_header=self._last_header,
            latched=frozenset(self._latched),
            configuration=self._configuration,
            actions=self._follower.actions,
            findings=tuple(tuple(self._findings[sort]) for sort in Sort),
            omitted=self._omitted,
            recoveries=tuple(self._recoveries),
        )

    @classmethod
    def resume(
        cls,
        genesis: Genesis,
        state: AuditState,
        store: AuditStore,
        *,
        level: AuditLevel,
        verifier: Verifier = verify_here,
    ) -> Self:
        """Return a replay that goes on behind ``state.height``.

        Args:
            genesis: The founding document with which it began.
            state: What `suspend` returned.
            store: The tables as they were then.
            level: That with which it began.
            verifier: Who checks the signatures.
        """
        auditor = cls(genesis, level=AuditLevel.HEADERS, verifier=verifier, store=store)
        auditor._level = level
        auditor._height = state.height
        auditor._transactions = state.transactions
        auditor._certified_height = state.certified_height
        auditor._claimed = state.claimed
        auditor._derived = state.derived
        auditor._last_header = state.last_header
        auditor._latched = set(state.latched)
        auditor._configuration = state.configuration
        auditor._follower = ConfigurationFollower(state.configuration, state.actions)
        auditor._findings = {sort: list(found) for sort, found in zip(Sort, state.findings, strict=True)}
        auditor._omitted = state.omitted
        auditor._recoveries = list(state.recoveries)
        return auditor

    def finish(self) -> AuditSummary:
        """Wait for every answer and return what the replay came to."""
        self._settle()
        if self._certified_height < self._height:
            self._keep(
                Sort.CERTIFICATE,
                Finding(
                    self._height,
                    "ledger.audit.not_certified",
                    f"no certificate covers the blocks after {self._certified_height}",
                    f"a certificate of block {self._height}",
                    f"the last one is of block {self._certified_height}",
                ),
            )
        return AuditSummary(
            self._height,
            self._transactions,
            self._height,
            self._certified_height,
            self._last_header,
            self._derived.header.state_root,
            self.findings,
            self._omitted,
            tuple(self._recoveries),
        )

    def _check_contents(self, block: Block) -> tuple[list[SignatureJob], list[int]]:
        """Derive what the block leads to, compare, and go on from what was derived; return the signatures to check, and whose they are."""
        jobs: list[SignatureJob] = []
        indexes: list[int] = []
        header, before = block.header, self._derived
        is_full = self._level is AuditLevel.FULL
        decoded = [_decode(raw) for raw in block.transactions] if is_full else []
        leaves = [
            leaf_hash(raw) if transaction is None or isinstance(transaction, RejectedError) else transaction.leaf_hash
            for raw, transaction in zip_longest(block.transactions, decoded)
        ]
        frontier, _ = before.frontier.extend(leaves)
        derived = replace(
            header,
            transactions_root=merkle_root(leaves),
            log_size=frontier.size,
            log_root=frontier.root(),
        )
        if is_full:
            # The log holds every transaction, also one that is refused here; state and policy follow from those that are not.
            derived = self._execute(block, decoded, derived, jobs, indexes)
        else:
            self._configuration = self._follower.follow(block)
            derived = replace(derived, validators_hash=self._configuration.hash)
        for refusal in derived_refusals(header, derived):
            if refusal.code in _LATCHED:
                if refusal.code in self._latched:
                    continue
                self._latched.add(refusal.code)
            self._find(Sort.CONTENT, refusal)
        self._claimed = Tip(header, block.block_hash, frontier)
        self._derived = Tip(derived, block.block_hash, frontier)
        return jobs, indexes

    def _execute(
        self,
        block: Block,
        decoded: Sequence[Transaction | RejectedError],
        derived: Header,
        jobs: list[SignatureJob],
        indexes: list[int],
    ) -> Header:
        execution = Execution(self._store, block.header, self._derived)
        for refusal in size_refusals(execution, block):
            self._find(Sort.CONTENT, refusal)
        for index, transaction in enumerate(decoded):
            if isinstance(transaction, RejectedError):
                self._find(Sort.CONTENT, refused_transaction(index, b"", transaction), index)
                continue
            key = execution.find_key(transaction)
            if key is not None:
                jobs.append(signature_job(transaction, key))
                indexes.append(index)
            try:
                # Taken as signed for now: the verifier's answer comes later and changes no state.
                execution.execute(transaction, verified=True)
            except RejectedError as error:
                self._find(Sort.CONTENT, refused_transaction(index, transaction.tx_id, error), index)
        after = execution.derive()
        writes: WriteSet = after.writes
        if after.executed is not None:
            writes.update(dict.fromkeys([(Table.TX_INDEX, tx_id) for tx_id in after.executed.tx_ids], _EXECUTED))
        self._store.apply(writes)
        if after.configuration is not None:
            self._configuration = after.configuration
        return replace(
            derived,
            state_root=after.state_root,
            policy_hash=after.policy_hash,
            validators_hash=after.validators_hash,
        )

    def _check_subject(self, block: Block, certificate_raw: bytes | None) -> None:
        """Check what the certificate is about and nobody's signature."""
        if certificate_raw is None:
            return
        try:
            check_certificate_subject(decode_commit_certificate_untrusted(certificate_raw), block.header)
        except RejectedError as error:
            self._find(Sort.CERTIFICATE, error)
        else:
            self._certified_height = self._height

    def _settle(self) -> None:
        while self._pending:
            self._collect()

    def _collect(self) -> None:
        pending = self._pending.popleft()
        height, judgement = pending.height, pending.judgement
        results = pending.wait_results()
        if not all(results[: pending.validator_jobs]):
            judgement = pending.signed.judge()
        for refusal in judgement.refusals:
            self._keep(Sort.VALIDATOR, _finding(height, refusal))
        if judgement.certificate is not None:
            self._keep(Sort.CERTIFICATE, _finding(height, judgement.certificate))
        if judgement.is_certified:
            self._certified_height = height
        for index, is_valid in zip(pending.indexes, results[pending.validator_jobs :], strict=True):
            if not is_valid:
                sentence = f"the signature of transaction {index} of block {height} does not hold"
                self._keep(Sort.SIGNATURE, Finding(height, "ledger.tx.bad_signature", sentence, "", "", index))

    def _find(self, sort: Sort, error: PatchwardenError, index: int | None = None) -> None:
        self._keep(sort, _finding(self._height, error, index))

    def _keep(self, sort: Sort, finding: Finding) -> None:
        if len(self._findings[sort]) < FINDINGS_MAX:
            self._findings[sort].append(finding)
            self._fresh.append(finding)
        else:
            self._omitted += 1

    def _take_fresh(self) -> tuple[Finding, ...]:
        fresh, self._fresh = self._fresh, []
        return tuple(fresh)


def _finding(height: int, error: PatchwardenError, index: int | None = None) -> Finding:
    details = error.details
    expected, actual = str(details.get("expected", "")), str(details.get("actual", ""))
    return Finding(height, error.code, error.message, expected, actual, index)


def _decode(raw: bytes) -> Transaction | RejectedError:
    try:
        return decode_transaction_untrusted(raw)
    except RejectedError as error:
        return error
