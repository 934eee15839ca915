"""Who can decide: how many votes a proposal needs, which votes count, and that some proposal can always pass.

A vote counts while its organisation has one, and while a key of who cast it counts at the height where it was cast, as the ledger knows
it now. A key that is rotated, or revoked from a later height on, takes no vote back; one that is revoked from before the vote does,
because somebody else may have cast it.

Whatever governance decides, enough organisations that can vote are left to decide the next thing. An organisation *can act* when an active
administrator of it has a key that counts in the next block; its own changes leave it one (`ledger.rules_identity`), so only governance
could take the last.

Source: docs/spec/governance.md 2, 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ledger.keyspace import GOVERNANCE_KEY, identity_key, key_key, organisation_key
from ledger.records import Governance, IdentityRecord, KeyRecord, Organisation, ProposalRecord, Record
from ledger.rules_common import refuse
from ledger.state import StateView
from wire.certificate import majority


@dataclass(frozen=True, slots=True)
class Tally:
    """The votes on a proposal as they count now."""

    approvals: int
    """Organisations whose vote is for it."""
    rejections: int
    """Organisations whose vote is against it."""
    needed: int
    """Approvals that decide."""
    members: int
    """Organisations that have a vote."""

    @property
    def is_reached(self) -> bool:
        """Whether it is decided for."""
        return self.approvals >= self.needed

    @property
    def is_out_of_reach(self) -> bool:
        """Whether all votes that are left could not decide for it."""
        return self.members - self.rejections < self.needed


def votes_needed(threshold: str, organisations: int) -> int:
    """Return how many of so many organisations must approve.

    Args:
        threshold: One of `ledger.actions.THRESHOLDS`.
        organisations: How many there are, at least 1.
    """
    match threshold:
        case "two-thirds":
            return (2 * organisations + 2) // 3
        case "unanimous":
            return organisations
        case _:
            return majority(organisations)


def is_counted(view: StateView, governance: Governance, vote: tuple[str, str, bool, int]) -> bool:
    """Return whether a vote of a `ProposalRecord` counts now."""
    organisation, voter, _, height = vote
    identity = view.identity(voter)
    if organisation not in governance.organisations or identity is None:
        return False
    keys = (view.key(key_id) for key_id in identity.key_ids)
    return any(key is not None and key.is_valid_at(height) for key in keys)


def count_votes(view: StateView, proposal: ProposalRecord) -> Tally:
    """Return how the votes on the proposal stand."""
    governance = view.governance()
    counted = [vote[2] for vote in proposal.votes if is_counted(view, governance, vote)]
    members = len(governance.organisations)
    approvals = sum(counted)
    return Tally(approvals, len(counted) - approvals, votes_needed(governance.threshold, members), members)


def find_acting_administrator(view: StateView, name: str, height: int, changed: Mapping[bytes, Record]) -> str | None:
    """Return an administrator of the organisation who has a key that counts at `height`, or None; see `acting_administrators`."""
    return next(acting_administrators(view, name, height, changed), None)


def acting_administrators(view: StateView, name: str, height: int, changed: Mapping[bytes, Record]) -> Iterator[str]:
    """Yield the lasting administrators of the organisation who have a key that counts at `height`, in order.

    Args:
        view: What the ledger knows.
        name: The organisation, a member.
        height: Mostly that of the next block.
        changed: Records, by state key, that are to be taken instead of the view's.
    """
    organisation = changed.get(organisation_key(name)) or view.organisation(name)
    assert isinstance(organisation, Organisation), "who has a vote is on the ledger"
    for identity_id in organisation.administrators:
        identity = changed.get(identity_key(identity_id)) or view.identity(identity_id)
        assert isinstance(identity, IdentityRecord), "administrators are on the ledger"
        keys = (changed.get(key_key(key_id)) or view.key(key_id) for key_id in identity.key_ids)
        if any(isinstance(key, KeyRecord) and key.is_valid_at(height) for key in keys):
            yield identity_id


def check_quorum_kept(view: StateView, height: int, changed: Mapping[bytes, Record]) -> None:
    """Return only when after `changed` enough organisations can act to decide anything at all.

    Args:
        view: What the ledger knows.
        height: Of the block that would change it.
        changed: What an action of governance would change, by state key.

    Raises:
        TransactionRefusedError: ``ledger.proposal.quorum_lost``.
    """
    if not any(isinstance(record, Governance | Organisation | KeyRecord) for record in changed.values()):
        return
    governance = changed.get(GOVERNANCE_KEY) or view.governance()
    assert isinstance(governance, Governance), "the key holds this record"
    names = governance.organisations
    acting = sum(find_acting_administrator(view, name, height + 1, changed) is not None for name in names)
    needed = votes_needed(governance.threshold, len(names)) if names else 1
    if acting < needed:
        raise refuse(
            "proposal.quorum_lost",
            "no proposal could pass any more: too few organisations would be left with an administrator who can act",
            f"at least {needed} of {len(names)}",
            acting,
            hint="give an organisation an administrator first (add-administrator), or lower the threshold",
        )
