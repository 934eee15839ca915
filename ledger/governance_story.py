"""The story of each proposal: who proposed, who voted what under which key, what decided it, and what became of it.

A story is told from two things that everybody has: the proposal's record, and its own transactions in order. So a live node, which finds
the transactions by its history, and a replay of an archive, which passes by every transaction, tell the same (`find_story`,
`StoryCollector`).

Source: docs/spec/governance.md 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ledger.bodies import ProposalCreate, ProposalVote, ProposalWithdraw
from ledger.keyspace import proposal_key
from ledger.limits import PROPOSAL_LIFETIME
from ledger.quorum import Tally, count_votes
from ledger.records import OPEN, WITHDRAWN, ProposalRecord
from ledger.state import StateView
from ledger.transaction import Transaction, decode_transaction_untrusted
from wire.keys import KeyId

EXPIRED: Final = "expired"
PROPOSED: Final = "proposed"
FOR: Final = "for"
AGAINST: Final = "against"


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction about a proposal."""

    what: str
    """``proposed``, ``for``, ``against`` or ``withdrawn``."""
    tx_id: bytes
    """32 bytes."""
    height: int
    """Height of its block."""
    index: int
    """Its place in the block, from 0."""
    time_ms: int
    """That block's time, milliseconds since epoch, UTC."""
    key_id: KeyId
    """The key that signed it, 32 bytes."""
    identity: str
    """Whose key that is."""
    organisation: str
    """The identity's organisation."""
    is_in_force: bool
    """For a vote: whether it is the organisation's last one; True for everything else."""
    is_key_counted: bool
    """Whether the key counts at `height` as the ledger knows it now: False once it was revoked from before."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a proposal stopped being open."""

    height: int
    """Height of the block that closed it; of the last one in which it could be voted on when it expired."""
    time_ms: int | None
    """That block's time; None where its header is not kept."""
    tx_id: bytes | None
    """The deciding vote or the withdrawal, 32 bytes; None when it expired, or where the transaction is not kept."""


@dataclass(frozen=True, slots=True)
class Story:
    """What is known about one proposal."""

    record: ProposalRecord
    """Its record in the state."""
    status: str
    """``open``, ``executed``, ``rejected``, ``withdrawn`` or ``expired``."""
    steps: tuple[Step, ...]
    """Its transactions in order; empty or cut where history is pruned."""
    tally: Tally | None
    """How the votes stand while it is open, else None."""
    ended: Ended | None
    """How it stopped being open, or None."""
    is_complete: bool
    """Whether `steps` begins with the proposal itself."""


@dataclass(frozen=True, slots=True)
class _Found:
    """One transaction about a proposal, and where it stands."""

    transaction: Transaction
    height: int
    index: int
    time_ms: int


def proposal_status(record: ProposalRecord, height: int) -> str:
    """Return the record's status, or ``expired`` for an open one on which nobody can vote after `height` any more."""
    return EXPIRED if record.status == OPEN and height >= record.expires_height else record.status


def find_story(view: StateView, record: ProposalRecord) -> Story:
    """Return the story of a proposal from a ledger with history.

    Args:
        view: Over a `RangeReader`.
        record: One of the view's proposals.

    Raises:
        LedgerCorruptionError: The ledger is damaged.
    """
    found = []
    for entry in view.history(proposal_key(record.proposal_id)):
        block = view.block(entry.height)
        if block is not None:
            transaction = decode_transaction_untrusted(block.transactions[entry.index])
            found.append(_Found(transaction, entry.height, entry.index, block.header.time_ms))
    header = view.header_at(record.expires_height)
    return _tell(view, view.height, record, found, None if header is None else header.time_ms)


class StoryCollector:
    """Passes by every transaction of a chain, in order, and remembers those about proposals."""

    __slots__ = ("_expiry_times", "_found", "_height", "_stays_open_to")

    def __init__(self) -> None:
        self._found: dict[bytes, list[_Found]] = {}
        self._height = 0
        self._stays_open_to: set[int] = set()
        self._expiry_times: dict[int, int] = {}

    def feed(self, height: int, time_ms: int, transactions: tuple[bytes, ...]) -> None:
        """Take note of a block's transactions, which were executed.

        Raises:
            RejectedError: One of them has not its form.
        """
        self._height = height
        if height in self._stays_open_to:
            self._expiry_times[height] = time_ms
        for index, raw in enumerate(transactions):
            transaction = decode_transaction_untrusted(raw)
            match transaction.body:
                case ProposalCreate():
                    proposal_id = bytes(transaction.tx_id)
                    self._stays_open_to.add(height + PROPOSAL_LIFETIME)
                case ProposalVote(proposal_id=proposal_id) | ProposalWithdraw(proposal_id=proposal_id):
                    pass
                case _:
                    continue
            self._found.setdefault(proposal_id, []).append(_Found(transaction, height, index, time_ms))

    def stories(self, view: StateView) -> Iterator[Story]:
        """Yield the story of each proposal in order of `story_place`; `view` is the state after the last block fed, blocks or not."""
        records = [record for proposal_id in self._found if (record := view.proposal(proposal_id)) is not None]
        for record in sorted(records, key=story_place):
            found = self._found[record.proposal_id]
            yield _tell(view, self._height, record, found, self._expiry_times.get(record.expires_height))


def story_place(record: ProposalRecord) -> tuple[int, bytes]:
    """Return where a proposal's story stands among all: by the height that created it, then by id."""
    return record.created_height, record.proposal_id


def _tell(
    view: StateView, height: int, record: ProposalRecord, found: list[_Found], expiry_time_ms: int | None
) -> Story:
    status = proposal_status(record, height)
    last_votes = {_signer(view, each)[1]: each for each in found if isinstance(each.transaction.body, ProposalVote)}
    steps = tuple(_step(view, each, last_votes) for each in found)
    return Story(
        record=record,
        status=status,
        steps=steps,
        tally=count_votes(view, record) if status == OPEN else None,
        ended=_ended(record, status, steps, expiry_time_ms),
        is_complete=bool(steps) and steps[0].what == PROPOSED,
    )


def _ended(record: ProposalRecord, status: str, steps: tuple[Step, ...], expiry_time_ms: int | None) -> Ended | None:
    if status == EXPIRED:
        return Ended(record.expires_height, expiry_time_ms, None)
    if record.closed_height is None:
        return None
    # Nothing is taken after what closes a proposal, so it is the last.
    last = steps[-1] if steps and steps[-1].height == record.closed_height else None
    return Ended(record.closed_height, None if last is None else last.time_ms, None if last is None else last.tx_id)


def _signer(view: StateView, found: _Found) -> tuple[str, str]:
    """Return identity and organisation of who signed; a key belongs to one identity for ever."""
    key = view.key(found.transaction.signer_key_id)
    identity = "" if key is None else key.identity_id
    return identity, identity.partition("@")[2]


def _step(view: StateView, found: _Found, last_votes: dict[str, _Found]) -> Step:
    identity, organisation = _signer(view, found)
    key = view.key(found.transaction.signer_key_id)
    body = found.transaction.body
    match body:
        case ProposalVote(approve=approve):
            what = FOR if approve else AGAINST
        case ProposalWithdraw():
            what = WITHDRAWN
        case _:
            what = PROPOSED
    return Step(
        what=what,
        tx_id=found.transaction.tx_id,
        height=found.height,
        index=found.index,
        time_ms=found.time_ms,
        key_id=found.transaction.signer_key_id,
        identity=identity,
        organisation=organisation,
        is_in_force=not isinstance(body, ProposalVote) or last_votes[organisation] is found,
        is_key_counted=key is not None and key.is_valid_at(found.height),
    )
