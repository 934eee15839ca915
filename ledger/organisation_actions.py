"""What a proposal of governance can do to the organisations of a network.

==========================  ===============================================================================
action                      effect
==========================  ===============================================================================
``add-organisation``        a member more, with its first administrators: one vote more
``rename-organisation``     another name for people; the identifier stays
``suspend-organisation``    it has no vote and its people cannot speak, until it is resumed
``resume-organisation``     as before the suspension
``remove-organisation``     the same for ever; its identifier never comes back
``add-administrator``       the way back for one whose administrators' keys are all lost or revoked
``add-ca-certificate``      chains of its identities may lead to one more CA
``remove-ca-certificate``   new chains may no longer lead to it; who is registered stays
==========================  ===============================================================================

Source: docs/spec/ledger.md 6.1; docs/spec/governance.md 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeAlias

from ledger.errors import TransactionRefusedError
from ledger.limits import ADMINISTRATORS_MAX, CA_CERTIFICATES_MAX, REASON_BYTES_MAX
from wire.codec import Value
from wire.fields import as_bytes, as_digest, as_identifier, as_identity_id, as_text, as_tuple
from wire.limits import NAME_BYTES_MAX, SPKI_BYTES_MAX, X509_CERTIFICATE_BYTES_MAX


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
class RenameOrganisation:
    """Give an organisation another name for people; its identifier, by which identities are named, stays."""

    NAME: ClassVar[str] = "rename-organisation"
    organisation: str
    """Identifier."""
    display_name: str
    """The new name for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.organisation, self.display_name)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> RenameOrganisation:
        """Return the action; raises `MalformedError`."""
        _, organisation, display_name = as_tuple(value, "action", length=3)
        return cls(
            as_identifier(organisation, "organisation"), as_text(display_name, "display_name", NAME_BYTES_MAX, 1)
        )


@dataclass(frozen=True, slots=True)
class _Exclusion:
    """What suspends or removes an organisation."""

    NAME: ClassVar[str]
    organisation: str
    """Identifier."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.organisation, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> Self:
        """Return the action; raises `MalformedError`."""
        _, organisation, reason = as_tuple(value, "action", length=3)
        return cls(as_identifier(organisation, "organisation"), as_text(reason, "reason", REASON_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class SuspendOrganisation(_Exclusion):
    """Take an organisation's vote, and its people's word, until it is resumed."""

    NAME: ClassVar[str] = "suspend-organisation"


@dataclass(frozen=True, slots=True)
class RemoveOrganisation(_Exclusion):
    """End an organisation's membership for ever; what it signed before stays what it was."""

    NAME: ClassVar[str] = "remove-organisation"


@dataclass(frozen=True, slots=True)
class ResumeOrganisation:
    """Let a suspended organisation vote and speak again."""

    NAME: ClassVar[str] = "resume-organisation"
    organisation: str
    """Identifier."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.organisation)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> ResumeOrganisation:
        """Return the action; raises `MalformedError`."""
        _, organisation = as_tuple(value, "action", length=2)
        return cls(as_identifier(organisation, "organisation"))


OrganisationAction: TypeAlias = (
    AddOrganisation
    | AddAdministrator
    | AddCaCertificate
    | RemoveCaCertificate
    | RenameOrganisation
    | SuspendOrganisation
    | ResumeOrganisation
    | RemoveOrganisation
)
"""Everything that a proposal can do to the organisations."""

ORGANISATION_ACTIONS: Final = (
    AddOrganisation,
    AddAdministrator,
    AddCaCertificate,
    RemoveCaCertificate,
    RenameOrganisation,
    SuspendOrganisation,
    ResumeOrganisation,
    RemoveOrganisation,
)
"""The same, to go through."""


def _as_administrator(value: object) -> Administrator:
    identity_id, display_name, spki = as_tuple(value, "administrator", length=3)
    return Administrator(
        as_identity_id(identity_id, "administrator identity"),
        as_text(display_name, "administrator name", NAME_BYTES_MAX, 1),
        as_bytes(spki, "administrator key", bytes_max=SPKI_BYTES_MAX),
    )
