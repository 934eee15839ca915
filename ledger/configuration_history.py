"""How the validators came to be who they are: a row for each block that changed their configuration, and the proof that follows.

A stranger who trusts the founding document follows the validators change by change. Entering a change is certified by a majority of the
voters that are trusted already, and by the incoming, in one certificate: that of the joint configuration. It stands on the ledger, in the
transaction that ended the change (`ledger.bodies.ValidatorSettle`). What the joint configuration says comes next is trusted from there on::

    founding voters A B C                      trusted: A B C
    change 1: joint A B C / A B D, certified   trusted: A B D
    change 2: joint A B D / A B D E, certified trusted: A B D E
    a header under voters A B D E              certified by a majority of them

What the proof cannot show is that no later change took the trust away again: who holds the keys of a former majority can sign for it
for ever.

Source: docs/spec/ledger.md 14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.block import HEADER_BYTES_MAX, Header
from ledger.certificate import verify_block_certificate
from ledger.configuration import (
    CONFIGURATION_BYTES_MAX,
    NOBODY,
    Configuration,
    ValidatorSet,
    decode_configuration_untrusted,
)
from ledger.errors import LedgerCorruptionError, ProofRefusedError
from ledger.keyspace import CONFIGURATION_KEY, Reader, Table, WriteSet, height_key, read_height
from ledger.limits import CONFIGURATION_CHANGES_MAX
from ledger.recovery import RECOVERY_FIELDS, Recovery
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted, encode_commit_certificate
from wire.codec import Value, decode_untrusted, encode
from wire.errors import RejectedError
from wire.fields import as_bytes, as_int, as_optional, as_tuple
from wire.limits import CERTIFICATE_BYTES_MAX, TX_BYTES_MAX

_ROW_BYTES_MAX: Final = 3 * CONFIGURATION_BYTES_MAX + TX_BYTES_MAX
"""A row with a recovery, which fits a transaction."""


@dataclass(frozen=True, slots=True)
class ConfigurationChange:
    """A finished change of the validators: the joint configuration, and what proves that the network committed to it."""

    configuration: Configuration
    """The joint configuration."""
    header: Header
    """A header under it."""
    certificate: CommitCertificate
    """That header's commit certificate."""

    @property
    def since(self) -> int:
        """The first height at which it is proven."""
        return self.header.height

    @property
    def after(self) -> ValidatorSet:
        """Who is trusted after it; nobody, where it is no change."""
        return self.configuration.incoming or NOBODY

    def verify(self) -> None:
        """Return only when the change holds for whoever trusts the voters of `configuration`.

        Raises:
            ProofRefusedError: ``ledger.proof.*``.
            InvalidCertificateError: ``wire.certificate.*``.
        """
        if self.configuration.incoming is None:
            raise _refuse("a change is none: its configuration is not joint", None, None)
        verify_block_certificate(self.certificate, self.header, self.configuration)

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.configuration.encode(), self.header.encode(), encode_commit_certificate(self.certificate))

    @classmethod
    def from_value_untrusted(cls, value: object, name: str = "configuration change") -> ConfigurationChange:
        """Return the change; nothing is verified. Raises `MalformedError`."""
        configuration, header, certificate = as_tuple(value, name, length=3)
        raw = as_bytes(header, "header", bytes_max=HEADER_BYTES_MAX)
        return cls(
            decode_configuration_untrusted(as_bytes(configuration, "configuration", bytes_max=CONFIGURATION_BYTES_MAX)),
            Header.from_value_untrusted(decode_untrusted(raw, bytes_max=HEADER_BYTES_MAX)),
            decode_commit_certificate_untrusted(as_bytes(certificate, "certificate", bytes_max=CERTIFICATE_BYTES_MAX)),
        )


def change_from_value_untrusted(value: object) -> ConfigurationChange | Recovery:
    """Return the finished change or the recovery that stands in a proof or a row; nothing is verified. Raises `MalformedError`."""
    values = as_tuple(value, "configuration change")
    if len(values) == RECOVERY_FIELDS:
        return Recovery.from_value_untrusted(values)
    return ConfigurationChange.from_value_untrusted(values)


@dataclass(frozen=True, slots=True)
class ConfigurationProof:
    """Leads from the founding validators to a configuration. It proves nothing without a certified header under that configuration."""

    changes: tuple[ConfigurationChange | Recovery, ...]
    """Every finished change and every recovery since the founding, oldest first."""
    configuration: Configuration
    """What it leads to."""

    @property
    def recoveries(self) -> tuple[Recovery, ...]:
        """The recoveries among the changes: whoever follows this proof believes them."""
        return tuple(each for each in self.changes if isinstance(each, Recovery))

    @property
    def is_founding(self) -> bool:
        """Whether it leads nowhere: the configuration is that of the founding document."""
        return not self.changes and self.configuration == Configuration(self.configuration.voters)

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (tuple(each.to_value() for each in self.changes), self.configuration.encode())

    @classmethod
    def from_value_untrusted(cls, value: object, name: str = "configuration proof") -> ConfigurationProof:
        """Return the proof; nothing is verified. Raises `MalformedError`."""
        changes, configuration = as_tuple(value, name, length=2)
        return cls(
            tuple(
                change_from_value_untrusted(each)
                for each in as_tuple(changes, "changes", length_max=CONFIGURATION_CHANGES_MAX)
            ),
            decode_configuration_untrusted(as_bytes(configuration, "configuration", bytes_max=CONFIGURATION_BYTES_MAX)),
        )


@dataclass(frozen=True, slots=True)
class ConfigurationRow:
    """What the table CONFIGURATION holds for a block that changed the configuration."""

    before: int | None
    """The height of the row before, or None for the first."""
    configuration: Configuration
    """What holds from this height on."""
    change: ConfigurationChange | Recovery | None
    """The change that this block ended, the recovery that it is, or None."""

    def writes(self, height: int) -> WriteSet:
        """Return the rows that make this the newest, of block `height`."""
        change = None if self.change is None else self.change.to_value()
        row = encode((self.before, self.configuration.encode(), change))
        return {(Table.CONFIGURATION, height_key(height)): row, (Table.META, CONFIGURATION_KEY): height_key(height)}


def newest_configuration_height(reader: Reader) -> int | None:
    """Return the height of the last block that changed the configuration; None when the reader holds no such rows."""
    raw = reader.get(Table.META, CONFIGURATION_KEY)
    return None if raw is None else read_height(raw)


def read_configuration_row(reader: Reader, height: int) -> ConfigurationRow:
    """Return the row of a block that changed the configuration.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.missing``, ``ledger.corruption.record``.
    """
    raw = reader.get(Table.CONFIGURATION, height_key(height))
    if raw is None:
        raise LedgerCorruptionError("ledger.corruption.missing", f"the configuration of height {height} is missing")
    try:
        before, configuration, change = as_tuple(decode_untrusted(raw, bytes_max=_ROW_BYTES_MAX), "row", length=3)
        return ConfigurationRow(
            as_optional(before, "before", _as_height),
            decode_configuration_untrusted(as_bytes(configuration, "configuration")),
            None if change is None else change_from_value_untrusted(change),
        )
    except RejectedError as error:
        raise LedgerCorruptionError(
            "ledger.corruption.record", f"the configuration of height {height} cannot be read: {error.message}"
        ) from error


def build_configuration_proof(reader: Reader, height: int) -> ConfigurationProof:
    """Return what leads from the founding validators to the configuration after block `height`.

    Args:
        reader: A store with the blocks' rows.
        height: 0 to the tip's; at least the snapshot's where the store began with one.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.missing``, ``ledger.corruption.record``.
    """
    at = newest_configuration_height(reader)
    configuration: Configuration | None = None
    changes: list[ConfigurationChange | Recovery] = []
    while at is not None:
        row = read_configuration_row(reader, at)
        if at <= height:
            configuration = configuration or row.configuration
            if row.change is not None:
                changes.append(row.change)
        at = row.before
    if configuration is None:
        raise LedgerCorruptionError("ledger.corruption.missing", f"the configuration of height {height} is missing")
    return ConfigurationProof(tuple(reversed(changes)), configuration)


def verify_configuration_proof(proof: ConfigurationProof, chain_id: str, founders: ValidatorSet) -> Configuration:
    """Return the configuration to which the proof leads: trust it for headers that are certified under it.

    Args:
        proof: From anybody.
        chain_id: The network's name.
        founders: The founding validators.

    Raises:
        ProofRefusedError: ``ledger.proof.configuration`` (does not follow from the one before), ``ledger.proof.validators``,
            ``ledger.proof.certificate``.
        InvalidCertificateError: ``wire.certificate.*``.
    """
    trusted = founders
    height = 0
    for index, change in enumerate(proof.changes):
        header = change.header
        if header.chain_id != chain_id:
            raise _refuse(f"change {index} is of another network", chain_id, header.chain_id)
        if header.height <= height:
            raise _refuse(f"change {index} is not later than the one before", f"above {height}", header.height)
        _check_follows(change.configuration, trusted, f"change {index}")
        change.verify()
        trusted, height = change.after, change.since
    _check_follows(proof.configuration, trusted, "the configuration")
    return proof.configuration


def _check_follows(configuration: Configuration, trusted: ValidatorSet, what: str) -> None:
    if configuration.voters != trusted:
        raise _refuse(
            f"{what} does not follow from the validators before", _names(trusted), _names(configuration.voters)
        )


def _names(validators: ValidatorSet) -> str:
    return ", ".join(f"{each.name} {each.key_id.hex()[:16]}" for each in validators)


def _as_height(value: object, name: str) -> int:
    return as_int(value, name)


def _refuse(sentence: str, expected: object, actual: object) -> ProofRefusedError:
    return ProofRefusedError("ledger.proof.configuration", sentence, expected=expected, actual=actual)
