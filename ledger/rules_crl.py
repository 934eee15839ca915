"""Revocation lists of certificate authorities: put on the ledger, where they end keys and keep revoked certificates out.

A list is proof by itself, so any identity of the organisation may bring it. What it takes back ends at the height that records it: no clock
is asked, and whoever knows of an earlier compromise says so with `identity.revoke`. A certificate that was taken back once stays so.

Source: docs/spec/ledger.md 5.7.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies import IdentityPublishCrl
from ledger.errors import TransactionRefusedError
from ledger.keyspace import identity_key, key_key, organisation_key, revocations_key
from ledger.limits import REVOKED_SERIALS_MAX
from ledger.quorum import acting_administrators
from ledger.records import KeyRecord, Organisation, Record, Revocations
from ledger.rules_common import Context, Effects, not_authorised, refuse
from ledger.state import StateView
from wire.errors import RejectedError
from wire.hashing import sha256
from wire.x509_crl import RevocationList, issuer_bytes, serial_bytes, subject_bytes, verify_revocation_list

CRL_REASON: Final = "its CA has revoked the certificate"
"""The reason that a key's record gives."""


def publish_crl(view: StateView, context: Context, body: IdentityPublishCrl) -> Effects:
    """Return what the CA has taken back, and the keys that end with this height.

    Raises:
        RejectedError: ``ledger.tx.not_authorised``, ``ledger.identity.unknown_issuer``, ``ledger.identity.crl_not_newer``,
            ``ledger.identity.crl_time``, ``ledger.identity.too_many_revocations``, ``ledger.identity.key_not_found``,
            ``ledger.identity.certificate_not_revoked``, ``ledger.identity.already_revoked``, ``ledger.identity.last_administrator``,
            ``ledger.identity.too_few_administrators``, ``wire.x509.*``.
    """
    name = body.organisation
    if context.signer.organisation != name:
        raise not_authorised(context, f"speak for the certificate authorities of {name}", f"an identity of {name}")
    organisation = view.organisation(name)
    assert organisation is not None, "the signer's organisation is on the ledger"
    authority, found = _verify(organisation, body.crl)
    issuer = sha256(subject_bytes(authority))
    before = view.revocations(name, issuer)
    if before is not None and found.number <= before.number:
        raise refuse(
            "identity.crl_not_newer",
            "a list of this CA as new is here",
            f"a number above {before.number}",
            found.number,
        )
    now = context.time_ms // 1000
    # A list that is younger than the block is as good: on a quiet chain the tip is old, and admission goes by it.
    if now > found.next_update:
        raise refuse(
            "identity.crl_time", "the list is out of date", f"a next update of at least {now}", found.next_update,
            hint="have the CA make a new list",
        )  # fmt: skip
    serials = tuple(sorted({*found.serials, *(() if before is None else before.serials)}))
    if len(serials) > REVOKED_SERIALS_MAX:
        raise refuse(
            "identity.too_many_revocations",
            "the CA has taken back too many",
            f"at most {REVOKED_SERIALS_MAX}",
            len(serials),
        )
    revocations = Revocations(name, issuer, found.number, found.this_update, found.next_update, context.height, serials)
    records: dict[bytes, Record] = {revocations_key(name, issuer): revocations}
    identities: dict[bytes, None] = {}
    for key_id in body.key_ids:
        key = _ended_key(view, context, revocations, key_id)
        records[key_key(key_id)] = key
        identities[identity_key(key.identity_id)] = None
    _check_administrators_left(view, context, name, records)
    return Effects(records, (organisation_key(name), *identities))


def check_not_revoked(view: StateView, organisation: str, ders: tuple[bytes, ...]) -> None:
    """Return unless a list on the ledger has taken one of the certificates back.

    Args:
        view: What the ledger knows.
        organisation: Whose CAs count.
        ders: A chain that was verified.

    Raises:
        TransactionRefusedError: ``ledger.identity.certificate_revoked``.
    """
    for der in ders:
        revocations = view.revocations(organisation, sha256(issuer_bytes(der)))
        if revocations is not None and serial_bytes(der) in revocations.serials:
            raise refuse(
                "identity.certificate_revoked",
                f"its CA has taken a certificate of the chain back with list {revocations.number}",
                actual=serial_bytes(der),
            )


def _verify(organisation: Organisation, crl: bytes) -> tuple[bytes, RevocationList]:
    """Return the CA certificate whose key signed the list, and the list."""
    last: RejectedError | None = None
    for authority in organisation.ca_certificates:
        try:
            return authority, verify_revocation_list(crl, authority)
        except RejectedError as error:
            if last is None or last.code in ("wire.x509.crl_issuer", "wire.x509.crl_signature"):
                last = error
    if last is None or last.code in ("wire.x509.crl_issuer", "wire.x509.crl_signature"):
        raise refuse("identity.unknown_issuer", f"the list is not signed by a CA of {organisation.name}") from last
    raise last


def _ended_key(view: StateView, context: Context, revocations: Revocations, key_id: bytes) -> KeyRecord:
    key = view.key(key_id)
    if key is None or key.identity_id.partition("@")[2] != revocations.organisation:
        raise refuse("identity.key_not_found", f"{revocations.organisation} has no such key", actual=key_id)
    if not any(
        sha256(issuer_bytes(der)) == revocations.issuer and serial_bytes(der) in revocations.serials
        for der in key.certificate_chain
    ):
        raise refuse(
            "identity.certificate_not_revoked",
            f"the list names no certificate of this key of {key.identity_id}",
            actual=key_id,
        )
    if key.last_valid_height is not None:
        raise refuse("identity.already_revoked", f"the key of {key.identity_id} is revoked already", actual=key_id)
    return replace(key, last_valid_height=context.height, reason=CRL_REASON)


def _check_administrators_left(view: StateView, context: Context, name: str, records: dict[bytes, Record]) -> None:
    needed = view.administration_threshold(name)
    left = sum(1 for _ in acting_administrators(view, name, context.height + 1, records))
    if left < needed:
        raise _too_few(name, left, needed)


def _too_few(name: str, left: int, needed: int) -> TransactionRefusedError:
    return refuse(
        "identity.too_few_administrators",
        f"{name} would be left with fewer administrators who can act than must agree",
        f"at least {needed}",
        left,
        hint="give them keys with other certificates first",
    )
