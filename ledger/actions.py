"""What a proposal of governance does when enough organisations have voted for it.

An action's wire form is a tuple that begins with its name. Names that the protocol reserves but this version cannot execute are refused
with their own code, so that nobody takes "not yet" for "wrong". The actions about validators stand in `ledger.validator_actions` and are
re-exported here.

Source: docs/spec/ledger.md 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from ledger.errors import TransactionRefusedError
from ledger.limits import (
    ADMINISTRATORS_MAX,
    CA_CERTIFICATES_MAX,
    POLICIES_MAX,
    POLICY_BYTES_MAX,
    POLICY_SCHEMA_BYTES_MAX,
    POLICY_SET_BYTES_MAX,
    REASON_BYTES_MAX,
)
from ledger.validator_actions import (
    VALIDATOR_ACTIONS,
    AddLearner,
    PromoteLearner,
    RemoveValidator,
    ReplaceValidator,
    ValidatorAction,
)
from wire.codec import Value
from wire.fields import as_bytes, as_digest, as_identifier, as_identity_id, as_int, as_text, as_tuple
from wire.limits import NAME_BYTES_MAX, SPKI_BYTES_MAX, X509_CERTIFICATE_BYTES_MAX

THRESHOLDS: Final = ("majority", "two-thirds", "unanimous")
__all__ = [
    "RESERVED",
    "THRESHOLDS",
    "Action",
    "AddAdministrator",
    "AddCaCertificate",
    "AddLearner",
    "AddOrganisation",
    "Administrator",
    "PromoteLearner",
    "RemoveCaCertificate",
    "RemoveValidator",
    "ReplaceValidator",
    "RevokeKey",
    "SetPolicy",
    "SetThreshold",
    "ValidatorAction",
    "WithdrawPatch",
    "action_from_value_untrusted",
    "as_policies",
    "as_policy_schema",
    "as_threshold",
]

RESERVED: Final = frozenset({"remove-organisation", "set-limits"})
"""Actions of the protocol that this version refuses with ``ledger.proposal.unsupported_action``."""


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Adopt another policy set."""

    NAME: ClassVar[str] = "set-policy"
    schema: str
    """Cedar schema text."""
    policies: tuple[tuple[str, str], ...]
    """Name (identifier) and text of each policy, in order of name."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.schema, self.policies)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> SetPolicy:
        """Return the action; raises `MalformedError` or ``ledger.proposal.bad_policy_set``."""
        _, schema, policies = as_tuple(value, "action", length=3)
        return cls(as_policy_schema(schema, "schema"), as_policies(policies, "policies"))


@dataclass(frozen=True, slots=True)
class Administrator:
    """A first administrator of an organisation."""

    identity_id: str
    """Id of the organisation, such as ``ada@acme``."""
    display_name: str
    """Name for people."""
    spki: bytes
    """Its public key as DER SubjectPublicKeyInfo."""


@dataclass(frozen=True, slots=True)
class AddOrganisation:
    """Admit an organisation with its first administrators."""

    NAME: ClassVar[str] = "add-organisation"
    organisation: str
    """Identifier."""
    display_name: str
    """Name for people."""
    administrators: tuple[Administrator, ...]
    """At least one."""
    ca_certificates: tuple[bytes, ...]
    """DER certificates, maybe none."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        administrators = tuple((each.identity_id, each.display_name, each.spki) for each in self.administrators)
        return (self.NAME, self.organisation, self.display_name, administrators, self.ca_certificates)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> AddOrganisation:
        """Return the action; raises `MalformedError`, or ``ledger.proposal.no_administrator``."""
        _, organisation, display_name, administrators, certificates = as_tuple(value, "action", length=5)
        rows = as_tuple(administrators, "administrators", length_max=ADMINISTRATORS_MAX)
        if not rows:
            raise TransactionRefusedError(
                "ledger.proposal.no_administrator", "an organisation needs at least one administrator"
            )
        return cls(
            as_identifier(organisation, "organisation"),
            as_text(display_name, "display_name", NAME_BYTES_MAX, 1),
            tuple(_as_administrator(row) for row in rows),
            tuple(
                as_bytes(der, "ca_certificate", bytes_max=X509_CERTIFICATE_BYTES_MAX)
                for der in as_tuple(certificates, "ca_certificates", length_max=CA_CERTIFICATES_MAX)
            ),
        )


@dataclass(frozen=True, slots=True)
class AddAdministrator:
    """Give an organisation one more administrator: the way back for one whose administrators' keys are all lost or revoked."""

    NAME: ClassVar[str] = "add-administrator"
    organisation: str
    """Identifier."""
    administrator: Administrator
    """Who; never registered before."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        new = self.administrator
        return (self.NAME, self.organisation, (new.identity_id, new.display_name, new.spki))

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> AddAdministrator:
        """Return the action; raises `MalformedError`."""
        _, organisation, administrator = as_tuple(value, "action", length=3)
        return cls(as_identifier(organisation, "organisation"), _as_administrator(administrator))


@dataclass(frozen=True, slots=True)
class AddCaCertificate:
    """Let an organisation's identities be anchored in one more CA certificate."""

    NAME: ClassVar[str] = "add-ca-certificate"
    organisation: str
    """Identifier."""
    certificate: bytes
    """DER certificate."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.organisation, self.certificate)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> AddCaCertificate:
        """Return the action; raises `MalformedError`."""
        _, organisation, certificate = as_tuple(value, "action", length=3)
        return cls(
            as_identifier(organisation, "organisation"),
            as_bytes(certificate, "certificate", bytes_max=X509_CERTIFICATE_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class RemoveCaCertificate:
    """No longer accept new chains anchored in a CA certificate; identities registered under it stay."""

    NAME: ClassVar[str] = "remove-ca-certificate"
    organisation: str
    """Identifier."""
    certificate_digest: bytes
    """SHA-256 of the DER certificate, 32 bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.organisation, self.certificate_digest)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> RemoveCaCertificate:
        """Return the action; raises `MalformedError`."""
        _, organisation, digest = as_tuple(value, "action", length=3)
        return cls(as_identifier(organisation, "organisation"), as_digest(digest, "certificate_digest"))


@dataclass(frozen=True, slots=True)
class SetThreshold:
    """Change how many organisations decide."""

    NAME: ClassVar[str] = "set-threshold"
    threshold: str
    """One of `THRESHOLDS`."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.threshold)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> SetThreshold:
        """Return the action; raises `MalformedError` or ``ledger.proposal.bad_threshold``."""
        _, threshold = as_tuple(value, "action", length=2)
        return cls(as_threshold(threshold))


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Revoke any identity's key, the last administrator's included: how a compromise is declared from outside."""

    NAME: ClassVar[str] = "revoke-key"
    key_id: bytes
    """The key, 32 bytes."""
    last_valid_height: int
    """The last height at which it counts; may lie in the past."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.key_id, self.last_valid_height, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> RevokeKey:
        """Return the action; raises `MalformedError`."""
        _, key_id, last_valid_height, reason = as_tuple(value, "action", length=4)
        return cls(
            as_digest(key_id, "key_id"),
            as_int(last_valid_height, "last_valid_height"),
            as_text(reason, "reason", REASON_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class WithdrawPatch:
    """Withdraw any patch."""

    NAME: ClassVar[str] = "withdraw-patch"
    patch_id: bytes
    """The patch, 32 bytes."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.patch_id, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> WithdrawPatch:
        """Return the action; raises `MalformedError`."""
        _, patch_id, reason = as_tuple(value, "action", length=3)
        return cls(as_digest(patch_id, "patch_id"), as_text(reason, "reason", REASON_BYTES_MAX))


Action: TypeAlias = (
    SetPolicy
    | AddOrganisation
    | AddAdministrator
    | AddCaCertificate
    | RemoveCaCertificate
    | SetThreshold
    | RevokeKey
    | WithdrawPatch
    | ValidatorAction
)
"""Everything that a proposal can do in this version."""

_READERS: Final[dict[str, Callable[[tuple[object, ...]], Action]]] = {
    SetPolicy.NAME: SetPolicy.from_value_untrusted,
    AddOrganisation.NAME: AddOrganisation.from_value_untrusted,
    AddAdministrator.NAME: AddAdministrator.from_value_untrusted,
    AddCaCertificate.NAME: AddCaCertificate.from_value_untrusted,
    RemoveCaCertificate.NAME: RemoveCaCertificate.from_value_untrusted,
    SetThreshold.NAME: SetThreshold.from_value_untrusted,
    RevokeKey.NAME: RevokeKey.from_value_untrusted,
    WithdrawPatch.NAME: WithdrawPatch.from_value_untrusted,
    **{action.NAME: action.from_value_untrusted for action in VALIDATOR_ACTIONS},
}


def action_from_value_untrusted(value: object) -> Action:
    """Return the action whose wire form is `value`.

    Raises:
        MalformedError: ``wire.field.*``.
        TransactionRefusedError: ``ledger.proposal.unsupported_action`` (reserved, for a later version),
            ``ledger.proposal.unknown_action``, and the codes of the action's own rules.
    """
    parts = as_tuple(value, "action")
    name = as_text(parts[0] if parts else None, "action name", NAME_BYTES_MAX)
    reader = _READERS.get(name)
    if reader is None:
        if name in RESERVED:
            raise TransactionRefusedError(
                "ledger.proposal.unsupported_action",
                f"proposals cannot {name} in this version",
                hint="change the founding document of a new network instead",
            )
        raise TransactionRefusedError(
            "ledger.proposal.unknown_action",
            "the proposal's action is not known",
            expected=" or ".join(_READERS),
            actual=name,
        )
    return reader(parts)


def as_threshold(value: object) -> str:
    """Return `value`, one of `THRESHOLDS`; raises ``ledger.proposal.bad_threshold``."""
    if not isinstance(value, str) or value not in THRESHOLDS:
        raise TransactionRefusedError(
            "ledger.proposal.bad_threshold",
            "the threshold is not known",
            expected=" or ".join(THRESHOLDS),
            actual=value,
        )
    return value


def as_policy_schema(value: object, name: str) -> str:
    """Return `value`, a policy schema's text; raises `MalformedError`."""
    return as_text(value, name, POLICY_SCHEMA_BYTES_MAX, multiline=True)


def as_policies(value: object, name: str) -> tuple[tuple[str, str], ...]:
    """Return `value`, named policy texts in order of name, without repeats.

    Raises:
        MalformedError: ``wire.field.*``.
        TransactionRefusedError: ``ledger.proposal.bad_policy_set`` (order, repeats, or too large together).
    """
    policies = tuple(_as_policy(item, name) for item in as_tuple(value, name, length_max=POLICIES_MAX))
    names = [each for each, _ in policies]
    if names != sorted(set(names)):
        raise TransactionRefusedError(
            "ledger.proposal.bad_policy_set",
            f"{name} must stand in order of name, each name once",
            actual=", ".join(names),
        )
    total_bytes = sum(len(text.encode()) for _, text in policies)
    if total_bytes > POLICY_SET_BYTES_MAX:
        raise TransactionRefusedError(
            "ledger.proposal.bad_policy_set",
            f"{name} are too large together",
            expected=f"at most {POLICY_SET_BYTES_MAX} bytes",
            actual=total_bytes,
        )
    return policies


def _as_policy(value: object, name: str) -> tuple[str, str]:
    policy_name, text = as_tuple(value, name, length=2)
    return as_identifier(policy_name, f"{name} name"), as_text(
        text, f"{name} text", POLICY_BYTES_MAX, 1, multiline=True
    )


def _as_administrator(value: object) -> Administrator:
    identity_id, display_name, spki = as_tuple(value, "administrator", length=3)
    return Administrator(
        as_identity_id(identity_id, "administrator identity"),
        as_text(display_name, "administrator name", NAME_BYTES_MAX, 1),
        as_bytes(spki, "administrator key", bytes_max=SPKI_BYTES_MAX),
    )
