"""Which nodes validate: the configuration that rules at a height, and its one encoding.

The validators change in two steps, as in Raft's joint consensus. While the change is under way the configuration is *joint*: elections and
commit certificates need a majority of the voters before **and** a majority of those after. So at no moment can two disjoint groups decide::

    plain      voters A B C                    a majority of A B C
    joint      voters A B C, incoming A B D    a majority of A B C and a majority of A B D
    plain      voters A B D, leaving C         a majority of A B D

*Learners* receive blocks and decide nothing. The ones *leaving* were voters until the last change ended: they decide nothing either, but
one of them may be the leader that has to see that change through, so its blocks are still accepted.

Source: docs/spec/ledger.md 14.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Final, final

from ledger.limits import ADDRESS_BYTES_MAX, LEARNERS_MAX
from ledger.record import RECORD_VERSION, Record, corrupt_record
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.fields import as_bytes, as_identifier, as_int, as_optional, as_text, as_tuple
from wire.hashing import DOMAIN_VALIDATORS, Digest, hash_domain
from wire.keys import Algorithm, KeyId, PublicKey, public_key_from_spki_untrusted
from wire.limits import KIBIBYTE, SPKI_BYTES_MAX, VALIDATORS_MAX

CONFIGURATION_VERSION: Final = 2
"""Of a configuration that is more than a set of voters; a mere set keeps `RECORD_VERSION` and its shorter form."""
CONFIGURATION_BYTES_MAX: Final = 128 * KIBIBYTE
"""An encoded configuration: at most three sets of `VALIDATORS_MAX` and the learners, under 500 bytes each."""

_PLAIN_FIELDS: Final = 2
_FIELDS: Final = 5


@dataclass(frozen=True, slots=True)
class Validator:
    """A node that votes on blocks, will, or did."""

    name: str
    """The node's name, unique in a configuration."""
    organisation: str
    """The organisation that runs it."""
    spki: bytes
    """Its Ed25519 node key as DER SubjectPublicKeyInfo."""
    address: str
    """Where its peers reach it: a multiaddr."""

    @property
    def public_key(self) -> PublicKey:
        """Its node key."""
        return public_key_from_spki_untrusted(self.spki)

    @property
    def key_id(self) -> KeyId:
        """SHA-256 of `spki`, 32 bytes: its name in headers and certificates."""
        return self.public_key.key_id


@dataclass(frozen=True)
class ValidatorSet:
    """Nodes in order of key id.

    Not slotted: the map derived from it is computed once and kept.
    """

    validators: tuple[Validator, ...] = ()
    """In order of key id."""

    @cached_property
    def public_keys(self) -> Mapping[KeyId, PublicKey]:
        """Key id to key, in order of key id."""
        return MappingProxyType({validator.key_id: validator.public_key for validator in self.validators})

    def __iter__(self) -> Iterator[Validator]:
        return iter(self.validators)

    def __len__(self) -> int:
        return len(self.validators)

    def find(self, key_id: bytes) -> Validator | None:
        """Return the validator with this key, or None."""
        return next((validator for validator in self.validators if validator.key_id == key_id), None)

    def find_name(self, name: str) -> Validator | None:
        """Return the validator with this name, or None."""
        return next((validator for validator in self.validators if validator.name == name), None)

    def with_validator(self, validator: Validator) -> ValidatorSet:
        """Return the set with one more."""
        return make_validator_set((*self.validators, validator))

    def without(self, validator: Validator) -> ValidatorSet:
        """Return the set without this one."""
        return ValidatorSet(tuple(each for each in self.validators if each != validator))


def make_validator_set(validators: tuple[Validator, ...]) -> ValidatorSet:
    """Return the set of these, in order."""
    return ValidatorSet(tuple(sorted(validators, key=lambda each: each.key_id)))


NOBODY: Final = ValidatorSet()


@final
@dataclass(frozen=True)
class Configuration(Record):
    """Who decides after a block, and who may come to. The block that changes it is the first to be decided under it.

    Not slotted: what is derived from it is computed once and kept.
    """

    voters: ValidatorSet
    """Who votes on blocks and in elections; while joint, those before the change."""
    incoming: ValidatorSet | None = None
    """While a change is under way, those after it, who vote too; otherwise None."""
    learners: ValidatorSet = NOBODY
    """Who receives blocks without a vote, to be promoted later; at most `LEARNERS_MAX`."""
    leaving: ValidatorSet = NOBODY
    """Who lost the vote when the last change ended, until the next one ends. No vote, but one of them may still lead."""

    @property
    def is_joint(self) -> bool:
        """Whether a change is under way."""
        return self.incoming is not None

    def has_voters_of(self, other: Configuration) -> bool:
        """Return whether the same nodes vote, before and after the change under way; learners and those leaving may differ."""
        return self.voters == other.voters and self.incoming == other.incoming

    @cached_property
    def quorums(self) -> tuple[Mapping[KeyId, PublicKey], ...]:
        """The groups of which each must agree by majority: one, or two while joint."""
        if self.incoming is None:
            return (self.voters.public_keys,)
        return (self.voters.public_keys, self.incoming.public_keys)

    @cached_property
    def members(self) -> Mapping[KeyId, PublicKey]:
        """Everybody with a vote: voters and incoming."""
        return _merge(self.voters, self.incoming or NOBODY)

    @cached_property
    def proposers(self) -> Mapping[KeyId, PublicKey]:
        """Everybody whose blocks are accepted: the members, and those leaving."""
        return _merge(self.voters, self.incoming or NOBODY, self.leaving)

    @cached_property
    def nodes(self) -> ValidatorSet:
        """Everybody that receives blocks: voters, incoming and learners, in order of key id."""
        found = {each.key_id: each for group in (self.voters, self.incoming or NOBODY, self.learners) for each in group}
        return make_validator_set(tuple(found.values()))

    @cached_property
    def hash(self) -> Digest:
        """Domain-separated SHA-256 of the encoding, 32 bytes; stands in every header."""
        return hash_domain(DOMAIN_VALIDATORS, self.encode())

    def encode(self) -> bytes:
        """Return the canonical encoding; without incoming, learners and leaving it is the short form of a mere set."""
        if self.incoming is None and not self.learners and not self.leaving:
            return encode((RECORD_VERSION, _rows(self.voters)))
        incoming = None if self.incoming is None else _rows(self.incoming)
        return encode((CONFIGURATION_VERSION, _rows(self.voters), incoming, _rows(self.learners), _rows(self.leaving)))

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """Return the configuration that `encode` made `data` from; the same bytes give the same object.

        Raises:
            LedgerCorruptionError: ``ledger.corruption.record``.
        """
        try:
            return decode_configuration_untrusted(data)
        except RejectedError as error:
            raise corrupt_record(cls, error.message) from error


@dataclass(frozen=True, slots=True)
class RetiredValidator(Record):
    """A node that was a validator or a learner once. Its key is never one again: a node that comes back has lost what it knew."""

    name: str
    """The name it had."""
    organisation: str
    """The organisation that ran it."""
    spki: bytes
    """Its node key as DER SubjectPublicKeyInfo."""
    address: str
    """The address it had."""
    retired_height: int
    """Height of the block that took it out of the configuration."""

    @property
    def public_key(self) -> PublicKey:
        """The node key it had."""
        return public_key_from_spki_untrusted(self.spki)


@lru_cache(maxsize=16)
def decode_configuration_untrusted(data: bytes) -> Configuration:
    """Return the configuration whose one encoding is `data`; the same bytes give the same object.

    Raises:
        MalformedError: ``wire.codec.*``, ``wire.field.*``, ``wire.key.*``.
    """
    values = as_tuple(decode_untrusted(data, bytes_max=CONFIGURATION_BYTES_MAX), "configuration", length_max=_FIELDS)
    version = as_int(values[0] if values else None, "configuration version", RECORD_VERSION, CONFIGURATION_VERSION)
    as_tuple(values, "configuration", length=_PLAIN_FIELDS if version == RECORD_VERSION else _FIELDS)
    if version == RECORD_VERSION:
        return Configuration(_set_from_value_untrusted(values[1], "voters"))
    configuration = Configuration(
        _set_from_value_untrusted(values[1], "voters"),
        as_optional(values[2], "incoming", _set_from_value_untrusted),
        _set_from_value_untrusted(values[3], "learners", LEARNERS_MAX),
        _set_from_value_untrusted(values[4], "leaving"),
    )
    if configuration.encode() != data:
        raise MalformedError("wire.codec.not_canonical", "a mere set of voters is written in the long form")
    return configuration


def _set_from_value_untrusted(value: object, name: str, count_max: int = VALIDATORS_MAX) -> ValidatorSet:
    validators = tuple(_validator_from_value_untrusted(row) for row in as_tuple(value, name, length_max=count_max))
    if any(before.key_id >= after.key_id for before, after in pairwise(validators)):
        raise MalformedError("wire.field.order", f"{name} must ascend by key id, each once", details={"field": name})
    return ValidatorSet(validators)


def _validator_from_value_untrusted(value: object) -> Validator:
    name, organisation, spki, address = as_tuple(value, "validator", length=4)
    validator = Validator(
        as_identifier(name, "validator name"),
        as_identifier(organisation, "validator organisation"),
        as_bytes(spki, "validator key", bytes_max=SPKI_BYTES_MAX),
        as_text(address, "validator address", ADDRESS_BYTES_MAX, 1),
    )
    check_node_key(validator.spki)
    return validator


def check_node_key(spki: bytes) -> PublicKey:
    """Return the key that a node can have: an acceptable one of Ed25519.

    Raises:
        MalformedError: ``wire.key.*``.
    """
    key = public_key_from_spki_untrusted(spki)
    if key.algorithm is not Algorithm.ED25519:
        raise MalformedError(
            "wire.key.algorithm",
            "a node's key is of another algorithm",
            expected=str(Algorithm.ED25519),
            actual=str(key.algorithm),
        )
    return key


def _rows(validators: ValidatorSet) -> Value:
    return tuple((each.name, each.organisation, each.spki, each.address) for each in validators)


def _merge(*groups: ValidatorSet) -> Mapping[KeyId, PublicKey]:
    return MappingProxyType({key_id: key for group in groups for key_id, key in group.public_keys.items()})
