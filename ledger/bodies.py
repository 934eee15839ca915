"""What a transaction says, one frozen record for each kind.

A body's wire form is the tuple of its fields in the order in which they stand here; positions never change. `from_value_untrusted` checks
form only: whether the signer may say it, and whether it fits what the ledger knows, is decided at execution (`ledger.rules_*`).

======================  ==========================================================================================
kind                    who may (details in docs/spec/ledger.md 5)
======================  ==========================================================================================
``identity.*``          an administrator of the identity's organisation; ``rotate-key`` also the old key itself
``administration.*``    an administrator of the organisation; as many as it demands must agree
``proposal.*``          an administrator of any organisation
``patch.publish``       the developer who signed the patch
``patch.attest``        the attestor, or any developer or attestor who passes the envelope on
``patch.withdraw``      the author, or an administrator of the author's organisation
``deployment.*``        a host, about itself
``host.report``         a host, about itself
``group.assign``        an administrator of the hosts' organisation
``rollout.create``      a release manager, for groups of its organisation
``rollout.decide``      a release manager or administrator of the releasing organisation
``evidence.submit``     anybody registered
``validator.settle``    a validator's node key, while a change of the validators is under way
======================  ==========================================================================================

Source: docs/spec/ledger.md 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from ledger.actions import Action, action_from_value_untrusted
from ledger.block import HEADER_BYTES_MAX, Header
from ledger.limits import (
    ADMINISTRATORS_MAX,
    ATTESTATION_DIGESTS_MAX,
    CRL_KEYS_MAX,
    DECISION_BYTES_MAX,
    DESCRIPTION_BYTES_MAX,
    DETAIL_BYTES_MAX,
    ENVELOPE_BYTES_MAX,
    EVIDENCE_BYTES_MAX,
    REASON_BYTES_MAX,
    REPORT_BYTES_MAX,
    RESULT_BYTES_MAX,
    TERM_MS_MAX,
)
from ledger.recovery import Recovery
from ledger.roles import as_role, as_roles, normalise_roles
from ledger.rollout_bodies import GroupAssign, RolloutBody, RolloutCreate, RolloutDecide
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted, encode_commit_certificate
from wire.codec import Value, decode_untrusted
from wire.errors import MalformedError
from wire.fields import (
    as_bool,
    as_bytes,
    as_digest,
    as_identifier,
    as_identity_id,
    as_int,
    as_optional,
    as_text,
    as_tuple,
)
from wire.limits import (
    CERTIFICATE_BYTES_MAX,
    NAME_BYTES_MAX,
    PATCH_FILE_BYTES_MAX,
    SPKI_BYTES_MAX,
    X509_CERTIFICATE_BYTES_MAX,
    X509_CHAIN_LENGTH_MAX,
    X509_CRL_BYTES_MAX,
)

REPORT_KINDS: Final = ("adopt", "drift", "inventory", "repair", "rollback")
_RESULT: Final = re.compile(rf"[A-Z][A-Z0-9_]{{0,{RESULT_BYTES_MAX - 1}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class IdentityRegister:
    """Register an identity of the administrator's organisation with its first key."""

    KIND: ClassVar[str] = "identity.register"
    identity_id: str
    """Such as ``alice@acme``; never registered before."""
    display_name: str
    """Name for people."""
    roles: tuple[str, ...]
    """See `ledger.roles`; put into order when encoded."""
    spki: bytes
    """Public key as DER SubjectPublicKeyInfo; never registered before."""
    certificate_chain: tuple[bytes, ...] = ()
    """DER certificates, leaf first, or empty for a bare key."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        roles = normalise_roles(self.roles)
        return (self.identity_id, self.display_name, roles, self.spki, self.certificate_chain)

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentityRegister:
        """Return the body; raises `MalformedError` or ``ledger.identity.bad_role``."""
        identity_id, display_name, roles, spki, chain = as_tuple(value, "body", length=5)
        return cls(
            as_identity_id(identity_id, "identity_id"),
            as_text(display_name, "display_name", NAME_BYTES_MAX, 1),
            as_roles(roles, "roles"),
            as_bytes(spki, "spki", bytes_max=SPKI_BYTES_MAX),
            _as_chain(chain),
        )


@dataclass(frozen=True, slots=True)
class IdentityUpdateRoles:
    """Replace an identity's roles."""

    KIND: ClassVar[str] = "identity.update-roles"
    identity_id: str
    """The identity."""
    roles: tuple[str, ...]
    """All roles it holds from now on; put into order when encoded."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.identity_id, normalise_roles(self.roles))

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentityUpdateRoles:
        """Return the body; raises `MalformedError` or ``ledger.identity.bad_role``."""
        identity_id, roles = as_tuple(value, "body", length=2)
        return cls(as_identity_id(identity_id, "identity_id"), as_roles(roles, "roles"))


@dataclass(frozen=True, slots=True)
class IdentitySetRoleTerm:
    """Bind a role that an identity holds to a time, or take the bounds away."""

    KIND: ClassVar[str] = "identity.set-role-term"
    identity_id: str
    """The identity."""
    role: str
    """One of its roles."""
    from_ms: int | None
    """The first block time at which it counts, milliseconds since epoch, UTC; None for no bound."""
    until_ms: int | None
    """The last block time at which it counts; None for no bound."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.identity_id, self.role, self.from_ms, self.until_ms)

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentitySetRoleTerm:
        """Return the body; raises `MalformedError` or ``ledger.identity.bad_role``."""
        identity_id, role, from_ms, until_ms = as_tuple(value, "body", length=4)
        return cls(
            as_identity_id(identity_id, "identity_id"),
            as_role(role, "role"),
            as_optional(from_ms, "from_ms", _as_term_ms),
            as_optional(until_ms, "until_ms", _as_term_ms),
        )


@dataclass(frozen=True, slots=True)
class IdentityRotateKey:
    """Add a key and retire an old one in one step."""

    KIND: ClassVar[str] = "identity.rotate-key"
    identity_id: str
    """The identity."""
    old_key_id: bytes
    """The key that retires, 32 bytes."""
    new_spki: bytes
    """The new public key as DER SubjectPublicKeyInfo; never registered before."""
    certificate_chain: tuple[bytes, ...] = ()
    """DER certificates for the new key, leaf first, or empty."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.identity_id, self.old_key_id, self.new_spki, self.certificate_chain)

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentityRotateKey:
        """Return the body; raises `MalformedError`."""
        identity_id, old_key_id, new_spki, chain = as_tuple(value, "body", length=4)
        return cls(
            as_identity_id(identity_id, "identity_id"),
            as_digest(old_key_id, "old_key_id"),
            as_bytes(new_spki, "new_spki", bytes_max=SPKI_BYTES_MAX),
            _as_chain(chain),
        )


@dataclass(frozen=True, slots=True)
class IdentitySuspend:
    """Stop an identity from acting until it is resumed."""

    KIND: ClassVar[str] = "identity.suspend"
    identity_id: str
    """The identity."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.identity_id, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentitySuspend:
        """Return the body; raises `MalformedError`."""
        identity_id, reason = as_tuple(value, "body", length=2)
        return cls(as_identity_id(identity_id, "identity_id"), _as_reason(reason))


@dataclass(frozen=True, slots=True)
class IdentityResume:
    """Let a suspended identity act again."""

    KIND: ClassVar[str] = "identity.resume"
    identity_id: str
    """The identity."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.identity_id,)

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentityResume:
        """Return the body; raises `MalformedError`."""
        (identity_id,) = as_tuple(value, "body", length=1)
        return cls(as_identity_id(identity_id, "identity_id"))


@dataclass(frozen=True, slots=True)
class IdentityRevoke:
    """Revoke one key of an identity, or the identity with all its keys, from a height on. Not reversible."""

    KIND: ClassVar[str] = "identity.revoke"
    identity_id: str
    """The identity."""
    key_id: bytes | None
    """The key, 32 bytes, or None for all keys and the identity itself."""
    last_valid_height: int
    """The last height at which the keys count: what was recorded up to there stays valid. At most the executing height."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.identity_id, self.key_id, self.last_valid_height, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentityRevoke:
        """Return the body; raises `MalformedError`."""
        identity_id, key_id, last_valid_height, reason = as_tuple(value, "body", length=4)
        return cls(
            as_identity_id(identity_id, "identity_id"),
            as_optional(key_id, "key_id", as_digest),
            as_int(last_valid_height, "last_valid_height"),
            _as_reason(reason),
        )


@dataclass(frozen=True, slots=True)
class IdentityPublishCrl:
    """Put a CA's revocation list on the ledger, and end the keys whose certificates it takes back."""

    KIND: ClassVar[str] = "identity.publish-crl"
    organisation: str
    """Whose CA it is."""
    crl: bytes
    """The list in DER."""
    key_ids: tuple[bytes, ...]
    """Keys of the organisation whose certificate chain names a certificate of the list, 32 bytes each, in order."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.organisation, self.crl, self.key_ids)

    @classmethod
    def from_value_untrusted(cls, value: object) -> IdentityPublishCrl:
        """Return the body; raises `MalformedError`."""
        organisation, crl, key_ids = as_tuple(value, "body", length=3)
        checked = tuple(as_digest(each, "key_ids") for each in as_tuple(key_ids, "key_ids", length_max=CRL_KEYS_MAX))
        if list(checked) != sorted(set(checked)):
            raise MalformedError("wire.field.repeated", "key_ids are in order, and none stands twice")
        return cls(
            as_identifier(organisation, "organisation"), as_bytes(crl, "crl", bytes_max=X509_CRL_BYTES_MAX), checked
        )


@dataclass(frozen=True, slots=True)
class AdministrationSetThreshold:
    """Say how many administrators of an organisation must agree on what changes its identities."""

    KIND: ClassVar[str] = "administration.set-threshold"
    organisation: str
    """Identifier; the administrators' own."""
    threshold: int
    """1 to `ADMINISTRATORS_MAX`."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.organisation, self.threshold)

    @classmethod
    def from_value_untrusted(cls, value: object) -> AdministrationSetThreshold:
        """Return the body; raises `MalformedError`."""
        organisation, threshold = as_tuple(value, "body", length=2)
        return cls(as_identifier(organisation, "organisation"), as_int(threshold, "threshold", 1, ADMINISTRATORS_MAX))


AdministrativeBody: TypeAlias = (
    IdentityRegister
    | IdentityUpdateRoles
    | IdentitySetRoleTerm
    | IdentityRotateKey
    | IdentityResume
    | IdentityRevoke
    | AdministrationSetThreshold
)
"""What as many administrators as their organisation demands must agree on. Suspending is not among it: one alone can stop somebody."""

ADMINISTRATIVE_READERS: Final[dict[str, Callable[[object], AdministrativeBody]]] = {
    IdentityRegister.KIND: IdentityRegister.from_value_untrusted,
    IdentityUpdateRoles.KIND: IdentityUpdateRoles.from_value_untrusted,
    IdentitySetRoleTerm.KIND: IdentitySetRoleTerm.from_value_untrusted,
    IdentityRotateKey.KIND: IdentityRotateKey.from_value_untrusted,
    IdentityResume.KIND: IdentityResume.from_value_untrusted,
    IdentityRevoke.KIND: IdentityRevoke.from_value_untrusted,
    AdministrationSetThreshold.KIND: AdministrationSetThreshold.from_value_untrusted,
}
"""Kind to the reader of its body."""


def administrative_body_untrusted(kind: object, value: object) -> AdministrativeBody:
    """Return the body of an act of administration; raises `MalformedError` (``wire.field.choice`` for another kind) or its codes."""
    reader = ADMINISTRATIVE_READERS.get(kind) if type(kind) is str else None
    if reader is None:
        raise MalformedError(
            "wire.field.choice",
            "this is no act of administration",
            expected=" or ".join(ADMINISTRATIVE_READERS),
            actual=kind,
        )
    return reader(value)


@dataclass(frozen=True, slots=True)
class AdministrationPropose:
    """Propose an act of administration and agree to it; its id is this transaction's id."""

    KIND: ClassVar[str] = "administration.propose"
    act: AdministrativeBody
    """What is done once enough have agreed."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return ((self.act.KIND, self.act.to_value()),)

    @classmethod
    def from_value_untrusted(cls, value: object) -> AdministrationPropose:
        """Return the body; raises as `administrative_body_untrusted`."""
        (act,) = as_tuple(value, "body", length=1)
        kind, body = as_tuple(act, "act", length=2)
        return cls(administrative_body_untrusted(kind, body))


@dataclass(frozen=True, slots=True)
class AdministrationApprove:
    """Agree to an act of administration; the approval that is still lacking executes it."""

    KIND: ClassVar[str] = "administration.approve"
    act_id: bytes
    """tx_id of its proposal, 32 bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.act_id,)

    @classmethod
    def from_value_untrusted(cls, value: object) -> AdministrationApprove:
        """Return the body; raises `MalformedError`."""
        (act_id,) = as_tuple(value, "body", length=1)
        return cls(as_digest(act_id, "act_id"))


@dataclass(frozen=True, slots=True)
class AdministrationWithdraw:
    """Close an act of administration without effect."""

    KIND: ClassVar[str] = "administration.withdraw"
    act_id: bytes
    """tx_id of its proposal, 32 bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.act_id,)

    @classmethod
    def from_value_untrusted(cls, value: object) -> AdministrationWithdraw:
        """Return the body; raises `MalformedError`."""
        (act_id,) = as_tuple(value, "body", length=1)
        return cls(as_digest(act_id, "act_id"))


@dataclass(frozen=True, slots=True)
class ProposalCreate:
    """Open a proposal; its id is this transaction's id. Creating is not voting."""

    KIND: ClassVar[str] = "proposal.create"
    action: Action
    """What it does when it is executed."""
    description: str
    """Why, for people; several lines."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.action.to_value(), self.description)

    @classmethod
    def from_value_untrusted(cls, value: object) -> ProposalCreate:
        """Return the body; raises `MalformedError` or the codes of `action_from_value_untrusted`."""
        action, description = as_tuple(value, "body", length=2)
        return cls(
            action_from_value_untrusted(action),
            as_text(description, "description", DESCRIPTION_BYTES_MAX, multiline=True),
        )


@dataclass(frozen=True, slots=True)
class ProposalVote:
    """Cast or change the vote of the signer's organisation; the deciding vote executes the proposal."""

    KIND: ClassVar[str] = "proposal.vote"
    proposal_id: bytes
    """tx_id of its creation, 32 bytes."""
    approve: bool
    """For or against."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.proposal_id, self.approve)

    @classmethod
    def from_value_untrusted(cls, value: object) -> ProposalVote:
        """Return the body; raises `MalformedError`."""
        proposal_id, approve = as_tuple(value, "body", length=2)
        return cls(as_digest(proposal_id, "proposal_id"), as_bool(approve, "approve"))


@dataclass(frozen=True, slots=True)
class ProposalWithdraw:
    """Close an open proposal of the signer's organisation without effect."""

    KIND: ClassVar[str] = "proposal.withdraw"
    proposal_id: bytes
    """tx_id of its creation, 32 bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.proposal_id,)

    @classmethod
    def from_value_untrusted(cls, value: object) -> ProposalWithdraw:
        """Return the body; raises `MalformedError`."""
        (proposal_id,) = as_tuple(value, "body", length=1)
        return cls(as_digest(proposal_id, "proposal_id"))


@dataclass(frozen=True, slots=True)
class PatchPublish:
    """Record a patch by its author's envelope: everything but the diff's text."""

    KIND: ClassVar[str] = "patch.publish"
    patch_id: bytes
    """SHA-256 of the patch file's body, 32 bytes; equal to the statement's subject."""
    file_digest: bytes
    """SHA-256 of the whole patch file, 32 bytes: under this digest nodes keep and fetch it."""
    file_bytes: int
    """Size of that file, at most `PATCH_FILE_BYTES_MAX`."""
    envelope: bytes
    """The author's DSSE envelope: the first trailer line without its line feed."""
    attestation_digests: tuple[bytes, ...]
    """Payload digests of the attestations in the file, in its order, 32 bytes each, without repeats."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.patch_id, self.file_digest, self.file_bytes, self.envelope, self.attestation_digests)

    @classmethod
    def from_value_untrusted(cls, value: object) -> PatchPublish:
        """Return the body; raises `MalformedError`."""
        patch_id, file_digest, file_bytes, envelope, digests = as_tuple(value, "body", length=5)
        attestation_digests = tuple(
            as_digest(digest, "attestation_digests")
            for digest in as_tuple(digests, "attestation_digests", length_max=ATTESTATION_DIGESTS_MAX)
        )
        if len(set(attestation_digests)) != len(attestation_digests):
            raise MalformedError("wire.field.repeated", "attestation_digests holds one digest twice")
        return cls(
            as_digest(patch_id, "patch_id"),
            as_digest(file_digest, "file_digest"),
            as_int(file_bytes, "file_bytes", 1, PATCH_FILE_BYTES_MAX),
            as_bytes(envelope, "envelope", bytes_max=ENVELOPE_BYTES_MAX),
            attestation_digests,
        )


@dataclass(frozen=True, slots=True)
class PatchAttest:
    """Record one attestation of a published patch."""

    KIND: ClassVar[str] = "patch.attest"
    patch_id: bytes
    """The patch, 32 bytes."""
    envelope: bytes
    """The attestor's DSSE envelope: a trailer line without its line feed."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.patch_id, self.envelope)

    @classmethod
    def from_value_untrusted(cls, value: object) -> PatchAttest:
        """Return the body; raises `MalformedError`."""
        patch_id, envelope = as_tuple(value, "body", length=2)
        return cls(as_digest(patch_id, "patch_id"), as_bytes(envelope, "envelope", bytes_max=ENVELOPE_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class PatchWithdraw:
    """Stop every agent from applying a patch from this height on."""

    KIND: ClassVar[str] = "patch.withdraw"
    patch_id: bytes
    """The patch, 32 bytes."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.patch_id, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: object) -> PatchWithdraw:
        """Return the body; raises `MalformedError`."""
        patch_id, reason = as_tuple(value, "body", length=2)
        return cls(as_digest(patch_id, "patch_id"), _as_reason(reason))


@dataclass(frozen=True, slots=True)
class DeploymentIntent:
    """Announce an application before anything changes on the host."""

    KIND: ClassVar[str] = "deployment.intent"
    counter: int
    """The host's last counter plus one, so that a gap is visible."""
    previous: bytes
    """tx_id of the host's last deployment record, 32 bytes; zeros for the first."""
    target: str
    """The tree's name on the host."""
    patch_id: bytes
    """A published patch that is not withdrawn, 32 bytes."""
    tree_before: bytes
    """Digest of the tree as it is, 32 bytes."""
    decision: bytes
    """The decision in canonical JSON, at most `DECISION_BYTES_MAX` bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.counter, self.previous, self.target, self.patch_id, self.tree_before, self.decision)

    @classmethod
    def from_value_untrusted(cls, value: object) -> DeploymentIntent:
        """Return the body; raises `MalformedError`."""
        counter, previous, target, patch_id, tree_before, decision = as_tuple(value, "body", length=6)
        return cls(
            as_int(counter, "counter", 1),
            as_digest(previous, "previous"),
            as_identifier(target, "target"),
            as_digest(patch_id, "patch_id"),
            as_digest(tree_before, "tree_before"),
            as_bytes(decision, "decision", bytes_max=DECISION_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class DeploymentOutcome:
    """Tell how an application ended, or that one was refused."""

    KIND: ClassVar[str] = "deployment.outcome"
    counter: int
    """The host's last counter plus one."""
    previous: bytes
    """tx_id of the host's last deployment record, 32 bytes; zeros for the first."""
    target: str
    """The tree's name on the host."""
    patch_id: bytes
    """The patch, 32 bytes; zeros when a refused file had none."""
    intent_tx_id: bytes | None
    """The intent that this closes, 32 bytes, or None for a refusal before any intent."""
    result: str
    """``SUCCESS``, ``ROLLED_BACK`` or a code of refusal or failure."""
    tree_before: bytes
    """Digest of the tree before, 32 bytes."""
    tree_after: bytes
    """Digest of the tree as it is now, 32 bytes."""
    detail: bytes
    """More in canonical JSON, at most `DETAIL_BYTES_MAX` bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (
            self.counter,
            self.previous,
            self.target,
            self.patch_id,
            self.intent_tx_id,
            self.result,
            self.tree_before,
            self.tree_after,
            self.detail,
        )

    @classmethod
    def from_value_untrusted(cls, value: object) -> DeploymentOutcome:
        """Return the body; raises `MalformedError`."""
        counter, previous, target, patch_id, intent, result, before, after, detail = as_tuple(value, "body", length=9)
        return cls(
            as_int(counter, "counter", 1),
            as_digest(previous, "previous"),
            as_identifier(target, "target"),
            as_digest(patch_id, "patch_id"),
            as_optional(intent, "intent_tx_id", as_digest),
            _as_result(result),
            as_digest(before, "tree_before"),
            as_digest(after, "tree_after"),
            as_bytes(detail, "detail", bytes_max=DETAIL_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class HostReport:
    """Tell what a host saw outside a deployment."""

    KIND: ClassVar[str] = "host.report"
    report_kind: str
    """One of `REPORT_KINDS`."""
    target: str
    """The tree's name on the host."""
    body: bytes
    """The report, at most `REPORT_BYTES_MAX` bytes; the ledger reads of it only whether an adopted tree has nothing installed."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.report_kind, self.target, self.body)

    @classmethod
    def from_value_untrusted(cls, value: object) -> HostReport:
        """Return the body; raises `MalformedError`."""
        report_kind, target, body = as_tuple(value, "body", length=3)
        if report_kind not in REPORT_KINDS:
            raise MalformedError(
                "wire.field.choice",
                "report_kind is not known",
                expected=" or ".join(REPORT_KINDS),
                actual=report_kind,
                details={"field": "report_kind"},
            )
        return cls(
            str(report_kind), as_identifier(target, "target"), as_bytes(body, "body", bytes_max=REPORT_BYTES_MAX)
        )


@dataclass(frozen=True, slots=True)
class EvidenceSubmit:
    """Record a proof that a validator broke the rules, or that there are two certified histories."""

    KIND: ClassVar[str] = "evidence.submit"
    proof: bytes
    """Canonical JSON of a `ledger.blame_proof.Blame` or a `ledger.checkpoint.SplitView`, at most `EVIDENCE_BYTES_MAX` bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.proof,)

    @classmethod
    def from_value_untrusted(cls, value: object) -> EvidenceSubmit:
        """Return the body; raises `MalformedError`."""
        (proof,) = as_tuple(value, "body", length=1)
        return cls(as_bytes(proof, "proof", bytes_max=EVIDENCE_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class ValidatorSettle:
    """End the change of the validators that is under way, by proof that the network has committed to it.

    It is signed by the node key of a voter or incoming validator, which is on no identity's record.
    """

    KIND: ClassVar[str] = "validator.settle"
    header: Header
    """A header under the joint configuration: of the block that began the change, or of a later one."""
    certificate: CommitCertificate
    """Its commit certificate, by a majority of the voters and a majority of the incoming."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.header.encode(), encode_commit_certificate(self.certificate))

    @classmethod
    def from_value_untrusted(cls, value: object) -> ValidatorSettle:
        """Return the body; raises `MalformedError`."""
        header, certificate = as_tuple(value, "body", length=2)
        raw = as_bytes(header, "header", bytes_max=HEADER_BYTES_MAX)
        return cls(
            Header.from_value_untrusted(decode_untrusted(raw, bytes_max=HEADER_BYTES_MAX)),
            decode_commit_certificate_untrusted(as_bytes(certificate, "certificate", bytes_max=CERTIFICATE_BYTES_MAX)),
        )


MemberBody: TypeAlias = (
    IdentityRegister
    | IdentityUpdateRoles
    | IdentitySetRoleTerm
    | IdentityRotateKey
    | IdentitySuspend
    | IdentityResume
    | IdentityRevoke
    | IdentityPublishCrl
    | AdministrationSetThreshold
    | AdministrationPropose
    | AdministrationApprove
    | AdministrationWithdraw
    | ProposalCreate
    | ProposalVote
    | ProposalWithdraw
    | PatchPublish
    | PatchAttest
    | PatchWithdraw
    | DeploymentIntent
    | DeploymentOutcome
    | HostReport
    | RolloutBody
    | EvidenceSubmit
)
"""Everything that an identity can say."""

Body: TypeAlias = MemberBody | ValidatorSettle | Recovery
"""Everything that a transaction can say."""

BODY_READERS: Final[dict[str, Callable[[object], Body]]] = {
    IdentityRegister.KIND: IdentityRegister.from_value_untrusted,
    IdentityUpdateRoles.KIND: IdentityUpdateRoles.from_value_untrusted,
    IdentitySetRoleTerm.KIND: IdentitySetRoleTerm.from_value_untrusted,
    IdentityRotateKey.KIND: IdentityRotateKey.from_value_untrusted,
    IdentitySuspend.KIND: IdentitySuspend.from_value_untrusted,
    IdentityResume.KIND: IdentityResume.from_value_untrusted,
    IdentityRevoke.KIND: IdentityRevoke.from_value_untrusted,
    IdentityPublishCrl.KIND: IdentityPublishCrl.from_value_untrusted,
    AdministrationSetThreshold.KIND: AdministrationSetThreshold.from_value_untrusted,
    AdministrationPropose.KIND: AdministrationPropose.from_value_untrusted,
    AdministrationApprove.KIND: AdministrationApprove.from_value_untrusted,
    AdministrationWithdraw.KIND: AdministrationWithdraw.from_value_untrusted,
    ProposalCreate.KIND: ProposalCreate.from_value_untrusted,
    ProposalVote.KIND: ProposalVote.from_value_untrusted,
    ProposalWithdraw.KIND: ProposalWithdraw.from_value_untrusted,
    PatchPublish.KIND: PatchPublish.from_value_untrusted,
    PatchAttest.KIND: PatchAttest.from_value_untrusted,
    PatchWithdraw.KIND: PatchWithdraw.from_value_untrusted,
    DeploymentIntent.KIND: DeploymentIntent.from_value_untrusted,
    DeploymentOutcome.KIND: DeploymentOutcome.from_value_untrusted,
    HostReport.KIND: HostReport.from_value_untrusted,
    GroupAssign.KIND: GroupAssign.from_value_untrusted,
    RolloutCreate.KIND: RolloutCreate.from_value_untrusted,
    RolloutDecide.KIND: RolloutDecide.from_value_untrusted,
    EvidenceSubmit.KIND: EvidenceSubmit.from_value_untrusted,
    ValidatorSettle.KIND: ValidatorSettle.from_value_untrusted,
    Recovery.KIND: Recovery.from_value_untrusted,
}
"""Kind to the reader of its body."""


def _as_term_ms(value: object, name: str) -> int:
    return as_int(value, name, 0, TERM_MS_MAX)


def _as_reason(value: object) -> str:
    return as_text(value, "reason", REASON_BYTES_MAX)


def _as_chain(value: object) -> tuple[bytes, ...]:
    return tuple(
        as_bytes(der, "certificate_chain", bytes_max=X509_CERTIFICATE_BYTES_MAX)
        for der in as_tuple(value, "certificate_chain", length_max=X509_CHAIN_LENGTH_MAX)
    )


def _as_result(value: object) -> str:
    if not isinstance(value, str) or _RESULT.fullmatch(value) is None:
        raise MalformedError(
            "wire.field.result",
            "result is not a result code",
            expected=f"1 to {RESULT_BYTES_MAX} of A-Z 0-9 _",
            actual=value,
            details={"field": "result"},
        )
    return value
