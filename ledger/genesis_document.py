"""The founding document of a network: reading it, with the field at fault in every refusal, and writing it.

A JSON document, written by people, hashed in its RFC 8785 form. Everything that must be agreed before the first block stands in it::

    {"version": 1, "chain_id": "demo", "time": "2026-11-22T06:50:00Z",
     "organisations": [{"name": "acme", "display_name": "Acme Ltd", "ca_certificates": ["<base64 DER>"],
                        "administrators": [{"identity": "ada@acme", "name": "Ada", "public_key": "did:key:z…"}]}],
     "validators": [{"name": "v1", "organisation": "acme", "public_key": "did:key:z…", "address": "/ip4/…"}],
     "governance": {"threshold": "majority"},
     "policy": {"schema": "…", "policies": [{"name": "approvals", "text": "…"}]},
     "limits": {}}

A public key is a did:key or a PEM block; a validator's is Ed25519. ``limits`` may lower ``transaction_bytes_max``, ``block_bytes_max`` and
``block_transactions_max``. Unknown members are refused.

Source: docs/spec/ledger.md 9.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from ledger.actions import Administrator, as_policies, as_policy_schema, as_threshold
from ledger.errors import GenesisRefusedError
from ledger.limits import (
    ADDRESS_BYTES_MAX,
    ADMINISTRATORS_MAX,
    BLOCK_ROOM_BYTES,
    CA_CERTIFICATES_MAX,
    GENESIS_BYTES_MAX,
    NETWORK_LIMITS,
    ORGANISATIONS_MAX,
    POLICIES_MAX,
)
from ledger.records import (
    Validator,
    ValidatorSet,
)
from provenance.timestamp import seconds_from_timestamp
from wire import canonical_json
from wire.errors import RejectedError
from wire.fields import as_identifier, as_identity_id, as_text
from wire.hashing import DOMAIN_GENESIS, Digest, hash_domain
from wire.keys import Algorithm, PublicKey, public_key_from_did_untrusted, public_key_from_spki_untrusted
from wire.limits import (
    JSON_DEPTH_MAX,
    KIBIBYTE,
    NAME_BYTES_MAX,
    VALIDATORS_MAX,
    X509_CERTIFICATE_BYTES_MAX,
)
from wire.x509 import anchor_untrusted

T = TypeVar("T")

GENESIS_VERSION: Final = 1

_PEM_HEAD: Final = "-----BEGIN PUBLIC KEY-----"
_PEM_TAIL: Final = "-----END PUBLIC KEY-----"


@dataclass(frozen=True, slots=True)
class GenesisOrganisation:
    """A founding member."""

    name: str
    """Identifier."""
    display_name: str
    """Name for people."""
    administrators: tuple[Administrator, ...]
    """Its first administrators, at least one."""
    ca_certificates: tuple[bytes, ...] = ()
    """DER CA certificates, maybe none."""


@dataclass(frozen=True, slots=True)
class Genesis:
    """A founding document that breaks no rule."""

    chain_id: str
    """The network's name."""
    time: str
    """When it was founded: RFC 3339 in UTC."""
    organisations: tuple[GenesisOrganisation, ...]
    """The founders, in the document's order."""
    validators: ValidatorSet
    """The nodes that vote on blocks."""
    threshold: str
    """How many organisations decide: see `ledger.actions.THRESHOLDS`."""
    policy_schema: str
    """Cedar schema text."""
    policies: tuple[tuple[str, str], ...]
    """Name and text of each policy, in order of name."""
    limits: tuple[int, int, int]
    """transaction_bytes_max, block_bytes_max, block_transactions_max."""
    document: bytes
    """The document in its RFC 8785 form."""

    @property
    def genesis_hash(self) -> Digest:
        """Domain-separated SHA-256 of `document`, 32 bytes: the genesis block's previous hash."""
        return hash_domain(DOMAIN_GENESIS, self.document)

    @property
    def time_ms(self) -> int:
        """`time` in milliseconds since epoch."""
        return seconds_from_timestamp(self.time) * 1000


def build_genesis(
    *,
    chain_id: str,
    time: str,
    organisations: Sequence[GenesisOrganisation],
    validators: Sequence[Validator],
    policy_schema: str,
    policies: Sequence[tuple[str, str]],
    threshold: str = "majority",
    limits: Mapping[str, int] | None = None,
) -> Genesis:
    """Return the founding document that says this; `Genesis.document` is what to write to ``genesis.json``.

    Raises:
        GenesisRefusedError: What `decode_genesis_untrusted` would say about it.
    """
    document = {
        "version": GENESIS_VERSION,
        "chain_id": chain_id,
        "time": time,
        "organisations": [
            {
                "name": each.name,
                "display_name": each.display_name,
                "administrators": [
                    {
                        "identity": administrator.identity_id,
                        "name": administrator.display_name,
                        "public_key": public_key_from_spki_untrusted(administrator.spki).did,
                    }
                    for administrator in each.administrators
                ],
                "ca_certificates": [_to_base64(der) for der in each.ca_certificates],
            }
            for each in organisations
        ],
        "validators": [
            {
                "name": each.name,
                "organisation": each.organisation,
                "public_key": each.public_key.did,
                "address": each.address,
            }
            for each in validators
        ],
        "governance": {"threshold": threshold},
        "policy": {
            "schema": policy_schema,
            "policies": [{"name": name, "text": text} for name, text in sorted(policies)],
        },
        "limits": dict(limits or {}),
    }
    return decode_genesis_untrusted(canonical_json.encode(document))


def decode_genesis_untrusted(data: bytes) -> Genesis:
    """Return the founding document in `data`: JSON in any layout.

    Raises:
        GenesisRefusedError: ``ledger.genesis.json`` (not acceptable JSON), ``ledger.genesis.members``, ``ledger.genesis.field`` (a value
            breaks the rule of its field), ``ledger.genesis.key``, ``ledger.genesis.certificate``, ``ledger.genesis.repeated``,
            ``ledger.genesis.unknown_organisation``, ``ledger.genesis.no_administrator``, ``ledger.genesis.no_validator``;
            details name the field.
    """
    try:
        value = canonical_json.decode_untrusted(
            data, bytes_max=GENESIS_BYTES_MAX, depth_max=JSON_DEPTH_MAX, canonical=False
        )
        document = canonical_json.encode(value)
    except RejectedError as error:
        raise _refuse("json", "document", error.message, cause=error) from error
    members = _object(
        value,
        "document",
        ("version", "chain_id", "time", "organisations", "validators", "governance", "policy", "limits"),
    )
    _integer(members["version"], "version", GENESIS_VERSION, GENESIS_VERSION)
    organisations = tuple(
        _read_organisation(item, f"organisations[{index}]")
        for index, item in enumerate(_list(members["organisations"], "organisations", ORGANISATIONS_MAX))
    )
    validators = tuple(
        _read_validator(item, f"validators[{index}]")
        for index, item in enumerate(_list(members["validators"], "validators", VALIDATORS_MAX))
    )
    governance = _object(members["governance"], "governance", ("threshold",))
    policy = _object(members["policy"], "policy", ("schema", "policies"))
    limits = members["limits"]
    if not isinstance(limits, dict) or not limits.keys() <= NETWORK_LIMITS.keys():
        raise _refuse("members", "limits", "must be an object", f"some of {', '.join(NETWORK_LIMITS)}", _keys(limits))
    genesis = Genesis(
        chain_id=_field("chain_id", lambda: as_identifier(members["chain_id"], "chain_id")),
        time=_read_time(members["time"]),
        organisations=organisations,
        validators=ValidatorSet(tuple(sorted(validators, key=lambda each: each.key_id))),
        threshold=_field("governance.threshold", lambda: as_threshold(governance["threshold"])),
        policy_schema=_field("policy.schema", lambda: as_policy_schema(policy["schema"], "policy.schema")),
        policies=_read_policies(policy["policies"]),
        limits=cast(
            "tuple[int, int, int]",
            tuple(
                _integer(limits.get(name, maximum), f"limits.{name}", minimum, maximum)
                for name, (minimum, maximum) in NETWORK_LIMITS.items()
            ),
        ),
        document=document,
    )
    _check_together(genesis)
    return genesis


def _read_organisation(value: object, name: str) -> GenesisOrganisation:
    members = _object(value, name, ("name", "display_name", "administrators", "ca_certificates"))
    administrators = tuple(
        _read_administrator(item, f"{name}.administrators[{index}]")
        for index, item in enumerate(_list(members["administrators"], f"{name}.administrators", ADMINISTRATORS_MAX))
    )
    certificates = tuple(
        _read_certificate(item, f"{name}.ca_certificates[{index}]")
        for index, item in enumerate(_list(members["ca_certificates"], f"{name}.ca_certificates", CA_CERTIFICATES_MAX))
    )
    display = f"{name}.display_name"
    return GenesisOrganisation(
        _field(f"{name}.name", lambda: as_identifier(members["name"], f"{name}.name")),
        _field(display, lambda: as_text(members["display_name"], display, NAME_BYTES_MAX, 1)),
        administrators,
        certificates,
    )


def _read_administrator(value: object, name: str) -> Administrator:
    members = _object(value, name, ("identity", "name", "public_key"))
    return Administrator(
        _field(f"{name}.identity", lambda: as_identity_id(members["identity"], f"{name}.identity")),
        _field(f"{name}.name", lambda: as_text(members["name"], f"{name}.name", NAME_BYTES_MAX, 1)),
        _read_key(members["public_key"], f"{name}.public_key").spki,
    )


def _read_validator(value: object, name: str) -> Validator:
    members = _object(value, name, ("name", "organisation", "public_key", "address"))
    key = _read_key(members["public_key"], f"{name}.public_key")
    if key.algorithm is not Algorithm.ED25519:
        raise _refuse("key", f"{name}.public_key", "must be a node's key", str(Algorithm.ED25519), str(key.algorithm))
    organisation = f"{name}.organisation"
    return Validator(
        _field(f"{name}.name", lambda: as_identifier(members["name"], f"{name}.name")),
        _field(organisation, lambda: as_identifier(members["organisation"], organisation)),
        key.spki,
        _field(f"{name}.address", lambda: as_text(members["address"], f"{name}.address", ADDRESS_BYTES_MAX, 1)),
    )


def _read_key(value: object, name: str) -> PublicKey:
    text = _field(name, lambda: as_text(value, name, KIBIBYTE, 1, multiline=True))
    try:
        if not text.startswith(_PEM_HEAD):
            return public_key_from_did_untrusted(text)
        lines = text.strip().split("\n")
        if lines[0] != _PEM_HEAD or lines[-1] != _PEM_TAIL:
            raise _refuse("key", name, "is not one PEM block of a public key")
        return public_key_from_spki_untrusted(_from_base64("".join(lines[1:-1]), "key", name))
    except RejectedError as error:
        if isinstance(error, GenesisRefusedError):
            raise
        raise _refuse("key", name, f"is not an acceptable public key: {error.message}", cause=error) from error


def _read_certificate(value: object, name: str) -> bytes:
    text = _field(name, lambda: as_text(value, name, 2 * X509_CERTIFICATE_BYTES_MAX, 1))
    der = _from_base64(text, "certificate", name)
    try:
        anchor_untrusted(der)
    except RejectedError as error:
        raise _refuse(
            "certificate", name, f"is not an acceptable CA certificate: {error.message}", cause=error
        ) from error
    return der


def _read_time(value: object) -> str:
    text = _field("time", lambda: as_text(value, "time", 64, 1))
    _field("time", lambda: seconds_from_timestamp(text, "time"))
    return text


def _read_policies(value: object) -> tuple[tuple[str, str], ...]:
    rows = []
    for index, item in enumerate(_list(value, "policy.policies", POLICIES_MAX)):
        members = _object(item, f"policy.policies[{index}]", ("name", "text"))
        rows.append((members["name"], members["text"]))
    return _field("policy.policies", lambda: as_policies(tuple(rows), "policy.policies"))


def _check_together(genesis: Genesis) -> None:
    """Return when the parts fit each other: nothing twice, everything owned, somebody to act."""
    names = [each.name for each in genesis.organisations]
    _check_unique("organisations", names)
    _check_unique("validators", [each.name for each in genesis.validators.validators])
    _check_unique("validators", [each.key_id.hex() for each in genesis.validators.validators])
    _check_unique("validators", [each.address for each in genesis.validators.validators])
    administrators = [each for organisation in genesis.organisations for each in organisation.administrators]
    _check_unique("administrators", [each.identity_id for each in administrators])
    _check_unique("administrators", [each.spki.hex() for each in administrators])
    transaction_bytes_max, block_bytes_max, _ = genesis.limits
    if block_bytes_max < transaction_bytes_max + BLOCK_ROOM_BYTES:
        raise _refuse(
            "field",
            "limits.block_bytes_max",
            "leaves no room for the longest transaction",
            f"at least {transaction_bytes_max + BLOCK_ROOM_BYTES}",
            block_bytes_max,
        )
    if not genesis.validators.validators:
        raise _refuse("no_validator", "validators", "must name at least one validator")
    for validator in genesis.validators.validators:
        if validator.organisation not in names:
            raise _refuse(
                "unknown_organisation", "validators", "must belong to an organisation of the document",
                " or ".join(names), validator.organisation,
            )  # fmt: skip
    for organisation in genesis.organisations:
        if not organisation.administrators:
            raise _refuse(
                "no_administrator", "organisations", f"must each have an administrator: {organisation.name} has none",
            )  # fmt: skip
        for administrator in organisation.administrators:
            if administrator.identity_id.partition("@")[2] != organisation.name:
                raise _refuse(
                    "unknown_organisation", "administrators", "must belong to the organisation that names them",
                    f"…@{organisation.name}", administrator.identity_id,
                )  # fmt: skip


def _check_unique(name: str, items: list[str]) -> None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise _refuse("repeated", name, "hold something twice", None, item)
        seen.add(item)


def _object(value: object, name: str, members: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, dict) or value.keys() != set(members):
        raise _refuse("members", name, "must be an object of these members", ", ".join(members), _keys(value))
    return value


def _keys(value: object) -> str:
    return ", ".join(value) if isinstance(value, dict) else type(value).__name__


def _list(value: object, name: str, length_max: int) -> Sequence[object]:
    if not isinstance(value, list) or len(value) > length_max:
        actual = len(value) if isinstance(value, list) else type(value).__name__
        raise _refuse("field", name, "must be a list", f"at most {length_max} items", actual)
    return value


def _integer(value: object, name: str, minimum: int, maximum: int) -> int:
    if type(value) is not int or not minimum <= value <= maximum:
        raise _refuse("field", name, "is not an accepted number", f"{minimum} to {maximum}", value)
    return value


def _field(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except RejectedError as error:
        raise _refuse("field", name, f"breaks a rule: {error.message}", cause=error) from error


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _from_base64(text: str, rule: str, name: str) -> bytes:
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _refuse(rule, name, "is not base64") from None
    if _to_base64(data) != text:
        raise _refuse(rule, name, "is not in the one canonical form of base64")
    return data


def _refuse(
    rule: str,
    name: str,
    sentence: str,
    expected: object = None,
    actual: object = None,
    *,
    cause: RejectedError | None = None,
) -> GenesisRefusedError:
    details = {"field": name} if cause is None else {"field": name, "cause": cause.code}
    return GenesisRefusedError(
        f"ledger.genesis.{rule}", f"{name} {sentence}", expected=expected, actual=actual, details=details
    )
