"""What a revocation takes back: everything the ledger recorded under a key after the last height at which the key counts.

The point of compromise may lie in the past, so what came after it looked right when it was recorded. Found again are

* the patches that were published under such a key: no agent applies them any more;
* the attestations under such a key: they do not count, so a patch may lack an approval, or a rejection;
* what else such a key signed: identities that it registered, votes, deployment records;
* the trees on which those patches are installed.

The answer comes from the state and from the transactions' bare facts. So a node, which lists its tables, and a replay of an archive, which
passes by every transaction, come to the same (`index_of_view`, `IndexCollector`).

Source: docs/spec/ledger.md 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ledger import bodies, rollout_bodies
from ledger.errors import TransactionRefusedError
from ledger.keyspace import identity_key
from ledger.records import ACTIVE, AttestationRecord, KeyRecord, PatchRecord, TargetRecord
from ledger.rules_common import refuse
from ledger.state import StateView
from ledger.transaction import Transaction, decode_transaction_untrusted

APPROVE = "approve"


@dataclass(frozen=True, slots=True)
class Act:
    """One transaction that an identity signed."""

    height: int
    """Height of its block."""
    index: int
    """Its place in the block, from 0."""
    tx_id: bytes
    """32 bytes."""
    kind: str
    """What it says, such as ``identity.register``."""
    key_id: bytes
    """The key that signed it, 32 bytes."""
    about: str
    """Whom or what it is about: an identity id, or a patch's, proposal's or target's; empty for others."""


@dataclass(frozen=True, slots=True)
class LedgerIndex:
    """Where to look in the state."""

    patch_ids: tuple[bytes, ...]
    """All published patches, 32 bytes each."""
    targets: tuple[tuple[str, str], ...]
    """All trees about which there is a record: host and name."""
    acts: tuple[Act, ...]
    """What the identity in question signed, in order."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tree on which a patch is installed."""

    host: str
    """Identity id."""
    target: str
    """The tree's name on its host."""
    height: int
    """Height at which the ledger recorded that it was applied."""


@dataclass(frozen=True, slots=True)
class AffectedPatch:
    """A patch that does not stand as it did."""

    patch: PatchRecord
    """Its record."""
    is_author: bool
    """Whether it was published under such a key, so that no agent applies it any more."""
    attestations: tuple[AttestationRecord, ...]
    """Its current attestations under such a key, which do not count any more."""
    approvals_left: int
    """Approvals of different people outside the author's organisation that still count."""
    installed: tuple[Place, ...]
    """Where it is installed, as the ledger heard."""


@dataclass(frozen=True, slots=True)
class Affected:
    """What a revocation takes back."""

    identity_id: str
    """Whose keys they are."""
    keys: tuple[tuple[bytes, int], ...]
    """Key id and last valid height of each key that is looked at."""
    patches: tuple[AffectedPatch, ...]
    """In order of publication."""
    acts: tuple[Act, ...]
    """Every transaction signed under such a key after its last valid height, in order."""


class IndexCollector:
    """Passes by every transaction of a chain, in order, and remembers where to look."""

    __slots__ = ("_acts", "_patch_ids", "_targets")

    def __init__(self) -> None:
        self._patch_ids: list[bytes] = []
        self._targets: dict[tuple[bytes, str], None] = {}
        self._acts: dict[bytes, list[Act]] = {}

    def feed(self, height: int, transactions: tuple[bytes, ...]) -> None:
        """Take note of a block's transactions, which were executed.

        Raises:
            RejectedError: One of them has not its form.
        """
        for index, raw in enumerate(transactions):
            transaction = decode_transaction_untrusted(raw)
            body = transaction.body
            if isinstance(body, bodies.PatchPublish):
                self._patch_ids.append(body.patch_id)
            elif isinstance(body, bodies.DeploymentIntent | bodies.HostReport):
                self._targets[transaction.signer_key_id, body.target] = None
            self._acts.setdefault(transaction.signer_key_id, []).append(_act(transaction, height, index))

    def index(self, view: StateView, identity_id: str) -> LedgerIndex:
        """Return the index for one identity; `view` is the state after the last block fed."""
        identity = view.identity(identity_id)
        key_ids = () if identity is None else identity.key_ids
        acts = sorted((act for key_id in key_ids for act in self._acts.get(key_id, ())), key=_place)
        targets = {
            (key.identity_id, target): None for key_id, target in self._targets if (key := view.key(key_id)) is not None
        }
        return LedgerIndex(tuple(self._patch_ids), tuple(sorted(targets)), tuple(acts))


def index_of_view(view: StateView, identity_id: str, height_from: int) -> LedgerIndex:
    """Return the index for one identity from a ledger that lists, with what it signed from `height_from` on.

    Raises:
        HistoryPrunedError: ``ledger.history.pruned``: the history from there on is not kept.
    """
    view.check_kept(height_from)
    identity = view.identity(identity_id)
    key_ids = frozenset(() if identity is None else identity.key_ids)
    acts = []
    for entry in view.history(identity_key(identity_id), height_from):
        block = view.block(entry.height)
        assert block is not None, "history is kept with its blocks"
        transaction = decode_transaction_untrusted(block.transactions[entry.index])
        if transaction.signer_key_id in key_ids:  # Others speak about it too.
            acts.append(_act(transaction, entry.height, entry.index))
    return LedgerIndex(
        tuple(patch.patch_id for patch in view.patches()),
        tuple((target.host, target.target) for target in view.targets()),
        tuple(acts),
    )


def cut_keys(
    view: StateView, height: int, identity_id: str, key_id: bytes | None, last_valid_height: int | None
) -> tuple[KeyRecord, ...]:
    """Return the keys of the identity that are revoked, or would be, with the last height at which each counts.

    Args:
        view: What the ledger knows.
        height: Of the last block that it knows.
        identity_id: Whose keys.
        key_id: Only this key, 32 bytes; None for all.
        last_valid_height: What would be if they were revoked from there; None for what is.

    Raises:
        TransactionRefusedError: ``ledger.identity.not_found``, ``ledger.identity.key_not_found``, ``ledger.identity.future_height``,
            ``ledger.identity.no_point``: nothing is revoked, and no height was named.
    """
    identity = view.identity(identity_id)
    if identity is None:
        raise refuse("identity.not_found", f"{identity_id} is not registered")
    if key_id is not None and key_id not in identity.key_ids:
        raise refuse("identity.key_not_found", f"{identity_id} has no such key", actual=key_id)
    if last_valid_height is not None and last_valid_height > height:
        raise refuse(
            "identity.future_height",
            "the height is not reached",
            f"at most {height}",
            last_valid_height,
        )
    keys = []
    for each in identity.key_ids if key_id is None else (key_id,):
        key = view.key(each)
        assert key is not None, "an identity's keys are on the ledger"
        heights = [at for at in (key.last_valid_height, last_valid_height) if at is not None]
        if heights:
            keys.append(replace(key, last_valid_height=min(heights)))
    if not keys:
        raise _no_point(identity_id)
    return tuple(keys)


def find_affected(view: StateView, index: LedgerIndex, identity_id: str, keys: Iterable[KeyRecord]) -> Affected:
    """Return what the ledger recorded under these keys after their last valid heights.

    Args:
        view: The state; it need not list.
        index: Where to look.
        identity_id: Whose keys they are.
        keys: What `cut_keys` returned.
    """
    cuts: dict[bytes, int] = {key.key_id: key.last_valid_height or 0 for key in keys}
    targets = [found for host, name in index.targets if (found := view.target(host, name)) is not None]
    patches = []
    for patch_id in index.patch_ids:
        patch = view.patch(patch_id)
        assert patch is not None, "the index names published patches"
        is_author = _is_after(cuts, patch.author_key_id, patch.published_height)
        attestations = [each for each in view.attestations(patch_id) if each.current]
        lost = tuple(each for each in attestations if _is_after(cuts, each.key_id, each.recorded_height))
        if is_author or lost:
            left = {each.identity_id for each in attestations if each not in lost and _counts(view, patch, each)}
            places = tuple(_places(patch_id, targets))
            patches.append(AffectedPatch(patch, is_author, lost, len(left), places))
    patches.sort(key=lambda each: (each.patch.published_height, each.patch.patch_id))
    acts = tuple(each for each in index.acts if _is_after(cuts, each.key_id, each.height))
    return Affected(identity_id, tuple(sorted(cuts.items())), tuple(patches), acts)


def _is_after(cuts: dict[bytes, int], key_id: bytes, height: int) -> bool:
    return key_id in cuts and height > cuts[key_id]


def _counts(view: StateView, patch: PatchRecord, attestation: AttestationRecord) -> bool:
    """Return whether an approval counts at an agent (docs/spec/agent.md 4.1)."""
    identity, key = view.identity(attestation.identity_id), view.key(attestation.key_id)
    return (
        attestation.verdict == APPROVE
        and attestation.organisation != patch.organisation
        and identity is not None
        and view.recorded_status(identity) == ACTIVE
        and key is not None
        and key.is_valid_at(attestation.recorded_height)
    )


def _places(patch_id: bytes, targets: Iterable[TargetRecord]) -> Iterable[Place]:
    for target in targets:
        for installed, height in target.installed:
            if installed == patch_id:
                yield Place(target.host, target.target, height)


def _act(transaction: Transaction, height: int, index: int) -> Act:
    about = _about(transaction.body)
    return Act(height, index, transaction.tx_id, transaction.kind, transaction.signer_key_id, about)


def _about(body: bodies.Body) -> str:
    match body:
        case (
            bodies.IdentityRegister()
            | bodies.IdentityUpdateRoles()
            | bodies.IdentitySetRoleTerm()
            | bodies.IdentityRotateKey()
            | bodies.IdentitySuspend()
            | bodies.IdentityResume()
            | bodies.IdentityRevoke()
        ):
            return body.identity_id
        case bodies.AdministrationPropose():
            return _about(body.act)
        case bodies.AdministrationSetThreshold() | bodies.IdentityPublishCrl():
            return body.organisation
        case bodies.AdministrationApprove() | bodies.AdministrationWithdraw():
            return body.act_id.hex()
        case bodies.PatchPublish() | bodies.PatchAttest() | bodies.PatchWithdraw() | bodies.DeploymentIntent():
            return body.patch_id.hex()
        case rollout_bodies.RolloutCreate() | rollout_bodies.RolloutDecide():
            return body.rollout_id
        case rollout_bodies.GroupAssign():
            return body.group_id or ", ".join(body.hosts)
        case bodies.ProposalVote() | bodies.ProposalWithdraw():
            return body.proposal_id.hex()
        case bodies.DeploymentOutcome() | bodies.HostReport():
            return body.target
        case _:
            return ""


def _place(act: Act) -> tuple[int, int]:
    return act.height, act.index


def _no_point(identity_id: str) -> TransactionRefusedError:
    return refuse(
        "identity.no_point",
        f"no key of {identity_id} is revoked",
        hint="name a height to see what a revocation from there would take back: --last-valid-height",
    )
