"""What a replay knows between two blocks, and its one encoding: a replay that was interrupted goes on from it as if it never had been.

    (1, height, transactions, certified height, claimed tip or nil, derived tip, last header, latched codes,
     configuration, ((proposal id, action), …), ((finding, …), …), findings left out, (recovery, …))

A tip is that of META (docs/spec/ledger.md 3), a finding its six fields; findings stand by sort. The tables that stand beside it are kept by
whoever keeps this.

Source: docs/spec/audit.md 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.actions import action_from_value_untrusted
from ledger.block import Header, decode_header_untrusted
from ledger.configuration import Configuration, decode_configuration_untrusted
from ledger.errors import AuditStateError, LedgerCorruptionError
from ledger.limits import REASON_BYTES_MAX
from ledger.recovery import Recovery
from ledger.state import Tip
from ledger.validator_actions import VALIDATOR_ACTIONS, ValidatorAction
from wire.codec import Value, decode_untrusted, encode
from wire.errors import RejectedError
from wire.fields import as_bytes, as_digest, as_int, as_optional, as_text, as_tuple
from wire.limits import MEBIBYTE

FINDINGS_MAX: Final = 2_000
"""Findings kept of each sort; one divergence at the beginning of a long chain leads to one for nearly every transaction."""
STATE_BYTES_MAX: Final = 64 * MEBIBYTE
"""An encoded state: two thousand findings of each sort, and every proposal about validators."""

STATE_VERSION: Final = 2
_STATE_FIELDS: Final = 13
_MARK_FIELDS: Final = 8
_FINDING_FIELDS: Final = 6


class Sort(IntEnum):
    """What a finding is about, in the order in which those at one height are told."""

    LINK = 0
    """The block's form and how it follows the one before; where the chain cannot be read."""
    VALIDATOR = 1
    """Who proposed it and was elected."""
    CONTENT = 2
    """Its transactions and what follows from them."""
    CERTIFICATE = 3
    """Its certificate, or that there is none."""
    SIGNATURE = 4
    """Its transactions' signatures."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold."""

    height: int
    """The block; one above the last where the chain cannot be read further."""
    what: str
    """The stable code of the refusal, such as ``ledger.block.state_root``."""
    message: str
    """One sentence."""
    expected: str
    """What the audit derived, or empty where the sentence says it all."""
    actual: str
    """What the chain says, or empty."""
    index: int | None = None
    """The transaction in the block, or None when the whole block is meant."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the fields in their order."""
        return (self.height, self.what, self.message, self.expected, self.actual, self.index)


@dataclass(frozen=True, slots=True)
class RecoveryMark:
    """That the organisations went on without a majority of the validators: no finding, and nothing to overlook."""

    height: int
    """Height of the recovery block."""
    term: int
    """Its term."""
    kept_height: int
    """The last certified height that was kept; what was certified above it by the validators before is given up."""
    log_height: int
    """Height of the last block in the survivor's log; those above the kept one were dropped."""
    voters: tuple[str, ...]
    """Names of the validators since."""
    lost: tuple[str, ...]
    """Names of the validators that are so no more."""
    signers: tuple[str, ...]
    """Identities of the administrators who signed, one for each organisation."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the fields in their order."""
        return (
            self.height,
            self.term,
            self.kept_height,
            self.log_height,
            self.voters,
            self.lost,
            self.signers,
            self.reason,
        )


def mark_of(recovery: Recovery) -> RecoveryMark:
    """Return what is told of a recovery."""
    statement, before = recovery.statement, recovery.configuration
    members = [each for each in before.nodes if each.key_id in before.members]
    return RecoveryMark(
        height=statement.height,
        term=statement.term,
        kept_height=statement.header.height,
        log_height=statement.log_height,
        voters=tuple(sorted(each.name for each in statement.voters)),
        lost=tuple(sorted(each.name for each in members if statement.voters.find(each.key_id) is None)),
        signers=tuple(each.identity_id for each in recovery.approvals),
        reason=statement.reason,
    )


@dataclass(frozen=True, slots=True)
class AuditState:
    """A replay between two blocks, with every signature answered for; its tables aside."""

    height: int
    """Blocks fed."""
    transactions: int
    """Transactions in them."""
    certified_height: int
    """The highest height that a valid certificate proves; 0 when none does."""
    claimed: Tip | None
    """The last block as the chain says it; None when it could not be read."""
    derived: Tip
    """The same as the audit derived it."""
    last_header: Header
    """The last header that could be read, as the chain says it."""
    latched: frozenset[str]
    """Codes of differences that are told once."""
    configuration: Configuration
    """Who decides after the last block."""
    actions: tuple[tuple[bytes, ValidatorAction], ...]
    """Below level ``full``: what was proposed about validators, by proposal id."""
    findings: tuple[tuple[Finding, ...], ...]
    """What was found, for each `Sort`."""
    omitted: int
    """Findings beyond `FINDINGS_MAX`."""
    recoveries: tuple[RecoveryMark, ...] = ()
    """Recoveries so far."""

    def encode(self) -> bytes:
        """Return the one encoding."""
        return encode(
            (
                STATE_VERSION,
                self.height,
                self.transactions,
                self.certified_height,
                None if self.claimed is None else self.claimed.encode(),
                self.derived.encode(),
                self.last_header.encode(),
                tuple(sorted(code.encode() for code in self.latched)),
                self.configuration.encode(),
                tuple((bytes(proposal_id), action.to_value()) for proposal_id, action in self.actions),
                tuple(tuple(each.to_value() for each in sort) for sort in self.findings),
                self.omitted,
                tuple(each.to_value() for each in self.recoveries),
            )
        )


def decode_audit_state_untrusted(data: bytes) -> AuditState:
    """Return the state that `data` encodes. That it belongs to the chain and the tables at hand is the caller's to know.

    Raises:
        AuditStateError: ``ledger.audit.state``.
    """
    try:
        values = as_tuple(decode_untrusted(data, bytes_max=STATE_BYTES_MAX), "audit state", length=_STATE_FIELDS)
        as_int(values[0], "version", STATE_VERSION, STATE_VERSION)
        claimed = as_optional(values[4], "claimed tip", as_bytes)
        return AuditState(
            height=as_int(values[1], "height"),
            transactions=as_int(values[2], "transactions"),
            certified_height=as_int(values[3], "certified height"),
            claimed=None if claimed is None else Tip.decode(claimed),
            derived=Tip.decode(as_bytes(values[5], "derived tip")),
            last_header=decode_header_untrusted(as_bytes(values[6], "last header")),
            latched=frozenset(as_bytes(each, "code").decode("ascii") for each in as_tuple(values[7], "latched codes")),
            configuration=decode_configuration_untrusted(as_bytes(values[8], "configuration")),
            actions=tuple(_action(each) for each in as_tuple(values[9], "actions")),
            findings=tuple(
                tuple(_finding(each) for each in as_tuple(sort, "findings"))
                for sort in as_tuple(values[10], "findings", length=len(Sort))
            ),
            omitted=as_int(values[11], "findings left out"),
            recoveries=tuple(_mark(each) for each in as_tuple(values[12], "recoveries")),
        )
    except (RejectedError, LedgerCorruptionError) as error:
        raise AuditStateError("ledger.audit.state", f"the state of a replay cannot be read: {error.message}") from error
    except UnicodeDecodeError as error:
        raise AuditStateError("ledger.audit.state", "the state of a replay names a code that is none") from error


def _mark(value: object) -> RecoveryMark:
    height, term, kept, log_height, voters, lost, signers, reason = as_tuple(value, "recovery", length=_MARK_FIELDS)
    return RecoveryMark(
        as_int(height, "height"),
        as_int(term, "term"),
        as_int(kept, "kept height"),
        as_int(log_height, "log height"),
        tuple(str(each) for each in as_tuple(voters, "voters")),
        tuple(str(each) for each in as_tuple(lost, "lost")),
        tuple(str(each) for each in as_tuple(signers, "signers")),
        as_text(reason, "reason", REASON_BYTES_MAX),
    )


def _action(value: object) -> tuple[bytes, ValidatorAction]:
    proposal_id, raw = as_tuple(value, "action", length=2)
    action = action_from_value_untrusted(raw)
    if not isinstance(action, VALIDATOR_ACTIONS):
        raise AuditStateError("ledger.audit.state", "the state of a replay follows an action that changes no validator")
    return as_digest(proposal_id, "proposal id"), action


def _finding(value: object) -> Finding:
    height, what, message, expected, actual, index = as_tuple(value, "finding", length=_FINDING_FIELDS)
    for text in (what, message, expected, actual):
        if type(text) is not str:
            raise AuditStateError("ledger.audit.state", "a finding's texts are texts")
    # Not `as_text`: a finding may quote what the chain says.
    return Finding(
        as_int(height, "height"),
        str(what),
        str(message),
        str(expected),
        str(actual),
        as_optional(index, "index", as_int),
    )
