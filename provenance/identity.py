"""Who made the patch, as its metadata says it: the field `creator_identity`.

Two kinds, and in both the signing key follows from the field itself: a did:key *is* the key, and a certificate chain ends in a leaf that
carries it. Whether that key belongs to anybody is the ledger's answer, not this module's.

Source: docs/spec/patch-file.md 4.2.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from provenance.errors import InvalidMetadataError, refuse_as
from provenance.limits import DID_BYTES_MAX, EMAIL_BYTES_MAX, PERSON_NAME_BYTES_MAX
from provenance.members import read_choice, read_line, read_list, read_object, refuse_field
from wire.canonical_json import JsonValue
from wire.errors import RejectedError
from wire.hashing import sha256
from wire.keys import PublicKey, public_key_from_did_untrusted
from wire.limits import X509_CERTIFICATE_BYTES_MAX, X509_CHAIN_LENGTH_MAX
from wire.x509 import certificate_chain_untrusted

_PERSON: Final = ("name", "email")
_MEMBERS_DID: Final = frozenset({"kind", "did", *_PERSON})
_MEMBERS_X509: Final = frozenset({"kind", "certificate_chain", *_PERSON})

_NAME_FORBIDDEN: Final = re.compile(r'[<>"\\@]|=\?')
"""What would end the name early in a `From:` line, or make a mail reader decode it (RFC 5322 3.2.4, RFC 2047 2)."""
_NAME_SPECIALS: Final = re.compile(r"[()\[\]:;,.]")
"""What RFC 5322 3.2.3 allows in a name only between quotes."""
_EMAIL: Final = re.compile(
    r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*",
    re.ASCII,
)


class CreatorKind(StrEnum):
    """How a creator's key is given."""

    DID = "did"
    X509 = "x509"


@dataclass(frozen=True, slots=True)
class CreatorIdentity:
    """The author as the metadata names them."""

    kind: CreatorKind
    """Which of the two following fields is set."""
    did: str | None
    """``did:key:z…`` of the signing key; None for x509."""
    certificate_chain: tuple[bytes, ...]
    """DER certificates, leaf first, at most `X509_CHAIN_LENGTH_MAX`; empty for did."""
    name: str
    """The person, for the `From:` line; at most `PERSON_NAME_BYTES_MAX` bytes."""
    email: str
    """Their address, for the `From:` line; ASCII."""

    @classmethod
    def from_key(cls, key: PublicKey, name: str, email: str) -> CreatorIdentity:
        """Return the identity of kind did that `key` makes by itself."""
        return cls(CreatorKind.DID, key.did, (), name, email)

    @classmethod
    def from_certificates(cls, certificates: Sequence[bytes], name: str, email: str) -> CreatorIdentity:
        """Return the identity of kind x509 whose leaf, the first of the DER `certificates`, carries the signing key."""
        return cls(CreatorKind.X509, None, tuple(certificates), name, email)

    def public_key(self) -> PublicKey:
        """Return the key that must have signed the patch.

        Raises:
            InvalidMetadataError: The code of `wire.keys` or `wire.x509`: no acceptable key follows from the field.
        """
        try:
            if self.did is not None:
                return public_key_from_did_untrusted(self.did)
            return certificate_chain_untrusted(self.certificate_chain).public_key
        except RejectedError as error:
            raise refuse_as(InvalidMetadataError, error, "creator_identity") from error

    def label(self) -> str:
        """Return who signs, in one line for a reader: the did, or the leaf's digest where a chain is too long to show."""
        return self.did if self.did is not None else f"x509 certificate sha256:{self.leaf_sha256()}"

    def leaf_sha256(self) -> str:
        """Return the SHA-256 of the leaf certificate's DER as hexadecimal digits; only for kind x509."""
        return sha256(self.certificate_chain[0]).hex()

    def mail_address(self) -> str:
        """Return name and address as a `From:` line holds them, the name between quotes where a mail reader needs them."""
        name = f'"{self.name}"' if _NAME_SPECIALS.search(self.name) else self.name
        return f"{name} <{self.email}>"

    def to_json(self) -> dict[str, JsonValue]:
        """Return the field's JSON form."""
        person: dict[str, JsonValue] = {"name": self.name, "email": self.email}
        if self.did is not None:
            return {"kind": self.kind.value, "did": self.did, **person}
        chain: list[JsonValue] = [encode_base64(der) for der in self.certificate_chain]
        return {"kind": self.kind.value, "certificate_chain": chain, **person}

    @classmethod
    def from_json_untrusted(cls, value: object) -> CreatorIdentity:
        """Return the checked record; the key itself is read by `public_key`.

        Raises:
            InvalidMetadataError: ``provenance.field.*``.
        """
        name = "creator_identity"
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if kind == CreatorKind.X509:
            members = read_object(value, name, _MEMBERS_X509)
            chain = read_list(members["certificate_chain"], f"{name}.certificate_chain", X509_CHAIN_LENGTH_MAX, 1)
            did, ders = (
                None,
                tuple(_read_certificate(item, f"{name}.certificate_chain[{i}]") for i, item in enumerate(chain)),
            )
        else:
            members = read_object(value, name, _MEMBERS_DID)
            did, ders = read_line(members["did"], f"{name}.did", DID_BYTES_MAX), ()
        checked_kind = CreatorKind(read_choice(members["kind"], f"{name}.kind", tuple(CreatorKind)))
        return cls(checked_kind, did, ders, *_read_person(members, name))


def encode_base64(data: bytes) -> str:
    """Return `data` in canonical base64 (RFC 4648 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64_untrusted(value: object, name: str) -> bytes:
    """Return the bytes of a text in canonical base64.

    Raises:
        InvalidMetadataError: ``provenance.field.base64``, also for unused bits that are not zero: four texts would stand for one value.
    """
    if not isinstance(value, str):
        raise refuse_field("base64", name, "is not base64", "base64", type(value).__name__)
    try:
        data = binascii.a2b_base64(value, strict_mode=True)
    except ValueError:  # binascii.Error, and a text that is not ASCII
        raise refuse_field("base64", name, "is not base64", None, value) from None
    if encode_base64(data) != value:
        raise refuse_field("base64", name, "is not canonical base64", None, value)
    return data


def _read_person(members: Mapping[str, object], name: str) -> tuple[str, str]:
    person = read_line(members["name"], f"{name}.name", PERSON_NAME_BYTES_MAX)
    if found := _NAME_FORBIDDEN.search(person):
        raise refuse_field(
            "person_name", f"{name}.name", "has a character that no From line can hold", None, found.group()
        )
    email = read_line(members["email"], f"{name}.email", EMAIL_BYTES_MAX)
    if _EMAIL.fullmatch(email) is None:
        raise refuse_field("email", f"{name}.email", "is not an address", "local-part@domain in ASCII", email)
    return person, email


def _read_certificate(value: object, name: str) -> bytes:
    """Return the bytes of a canonical base64 text."""
    # Four characters carry three bytes; refuse a long text before decoding it.
    if isinstance(value, str) and len(value) > (X509_CERTIFICATE_BYTES_MAX + 2) // 3 * 4:
        raise refuse_field("length", name, "is too long", f"at most {X509_CERTIFICATE_BYTES_MAX} bytes", len(value))
    return decode_base64_untrusted(value, name)
