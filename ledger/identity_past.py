"""An identity's keys as the ledger knew them after a past block.

A key's record says what is known now: a revocation of today may name a height of last month, and at that height nobody knew. So what was
decided later is taken back, by the transactions that decided it.

Source: docs/spec/ledger.md 4.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ledger.actions import RevokeKey, action_from_value_untrusted
from ledger.bodies import AdministrationApprove, AdministrationPropose, IdentityPublishCrl, IdentityRevoke, ProposalVote
from ledger.keyspace import identity_key
from ledger.records import EXECUTED, IdentityRecord, KeyRecord
from ledger.rules_crl import CRL_REASON
from ledger.state import StateView
from ledger.transaction import Transaction, decode_transaction_untrusted


@dataclass(frozen=True, slots=True)
class Revocation:
    """One decision that a key counts only up to some height."""

    height: int
    """Height of the block that decided it."""
    key_id: bytes | None
    """The key, 32 bytes, or None for every key that the identity had."""
    last_valid_height: int
    """The last height at which it counts."""
    reason: str
    """Why, for people."""


def identity_then(
    view: StateView, identity_id: str, height: int
) -> tuple[IdentityRecord, tuple[KeyRecord, ...]] | None:
    """Return the identity and its keys as they were after block `height`, or None before its registration.

    Args:
        view: Over a `RangeReader` with the history from `height` on; with all of it where a key was revoked after `height`.
        identity_id: Such as ``alice@acme``.
        height: At most the view's.

    Raises:
        HistoryPrunedError: ``ledger.history.pruned``.
    """
    identity = view.identity_at(identity_id, height)
    if identity is None:
        return None
    revocations = tuple(_revocations(view, identity_id))
    keys = (view.key(key_id) for key_id in identity.key_ids)
    return identity, tuple(_key_then(view, key, revocations, height) for key in keys if key is not None)


def _key_then(view: StateView, key: KeyRecord, revocations: tuple[Revocation, ...], height: int) -> KeyRecord:
    # A rotation is known from the very height that it names; a revocation is not.
    retired = key.retired_height if key.retired_height is not None and key.retired_height <= height else None
    about = [each for each in revocations if each.key_id in (None, key.key_id)]
    if all(each.height <= height for each in about):
        return replace(key, retired_height=retired)
    view.check_kept(key.added_height)
    known = [each for each in about if key.added_height <= each.height <= height]
    lowest = min(known, key=lambda each: (each.last_valid_height, each.height), default=None)
    return replace(
        key,
        retired_height=retired,
        last_valid_height=None if lowest is None else lowest.last_valid_height,
        reason="" if lowest is None else lowest.reason,
    )


def _revocations(view: StateView, identity_id: str) -> Iterator[Revocation]:
    """Yield what was decided about keys of the identity, the oldest first, as far back as history is kept."""
    for entry in view.history(identity_key(identity_id)):
        block = view.block(entry.height)
        assert block is not None, "history is kept with its blocks"
        transaction = decode_transaction_untrusted(block.transactions[entry.index])
        body = transaction.body
        if isinstance(body, IdentityPublishCrl):
            yield from (Revocation(entry.height, key_id, entry.height, CRL_REASON) for key_id in body.key_ids)
            continue
        found = _revocation(view, identity_id, transaction, entry.height)
        if found is not None:
            yield found


def _revocation(view: StateView, identity_id: str, transaction: Transaction, height: int) -> Revocation | None:
    """Return the revocation that a transaction about the identity decided in the block of `height`, or None."""
    match transaction.body:
        case IdentityRevoke() as body:
            return _of_identity(body, identity_id, height)
        case AdministrationPropose():
            return _by_act(view, identity_id, transaction.tx_id, height)
        case AdministrationApprove(act_id=act_id):
            return _by_act(view, identity_id, act_id, height)
        case ProposalVote(proposal_id=proposal_id):
            proposal = view.proposal(proposal_id)
            if proposal is None or proposal.status != EXECUTED or proposal.closed_height != height:
                return None
            action = action_from_value_untrusted(proposal.action)
            if isinstance(action, RevokeKey):
                return Revocation(height, action.key_id, action.last_valid_height, action.reason)
    return None


def _by_act(view: StateView, identity_id: str, act_id: bytes, height: int) -> Revocation | None:
    act = view.pending_act(act_id)
    if act is None or act.status != EXECUTED or act.closed_height != height or act.kind != IdentityRevoke.KIND:
        return None
    return _of_identity(IdentityRevoke.from_value_untrusted(act.body), identity_id, height)


def _of_identity(body: IdentityRevoke, identity_id: str, height: int) -> Revocation | None:
    if body.identity_id != identity_id:
        return None
    return Revocation(height, body.key_id, body.last_valid_height, body.reason)
