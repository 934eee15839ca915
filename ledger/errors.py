"""Why the ledger refuses: one class for each thing that can be refused, so that a caller can tell a bad transaction from a bad block.

============================  =====================================================================  ==================
class                         codes                                                                  who must act
============================  =====================================================================  ==================
``TransactionRefusedError``   ``ledger.tx.*``, ``ledger.identity.*``, ``ledger.patch.*``,            the submitter
                              ``ledger.proposal.*``, ``ledger.host.*``, ``ledger.validator.*``,
                              ``ledger.evidence.*``
``BlockRefusedError``         ``ledger.block.*``                                                     the proposer
``GenesisRefusedError``       ``ledger.genesis.*``                                                   the founder
``ProofRefusedError``         ``ledger.proof.*``, ``ledger.receipt.*``, ``ledger.blame.*``,          who sent the proof
                              ``ledger.light.*``
``ArchiveRefusedError``       ``ledger.archive.*``, ``ledger.bundle.*``                              who sent the file
``SnapshotRefusedError``      ``ledger.snapshot.*``                                                  who sent it
``AuditStateError``           ``ledger.audit.state``                                                 who kept it
``NotYetAvailableError``      ``ledger.mempool.full``, ``ledger.receipt.not_certified``,             the caller, later
                              ``ledger.snapshot.not_certified``
``HistoryPrunedError``        ``ledger.history.pruned``                                              the caller, elsewhere
``LedgerCorruptionError``     ``ledger.corruption.*``                                                the operator
============================  =====================================================================  ==================
"""

from __future__ import annotations

from wire.errors import CorruptionError, RejectedError, UnavailableError


class TransactionRefusedError(RejectedError):
    """The transaction breaks a rule at the height where it would be executed; it changed nothing."""


class BlockRefusedError(RejectedError):
    """The block is not the one valid successor that its header claims to be; it changed nothing."""


class GenesisRefusedError(RejectedError):
    """The founding document breaks a rule; details name the field."""


class ProofRefusedError(RejectedError):
    """A receipt or state proof does not prove what it claims."""


class ArchiveRefusedError(RejectedError):
    """The bytes are not a whole, undamaged archive of a chain, or bundle to be carried."""


class SnapshotRefusedError(RejectedError):
    """The bytes are not a snapshot of this network's certified state."""


class AuditStateError(RejectedError):
    """The bytes are not the state of a replay that was interrupted."""


class HistoryPrunedError(UnavailableError):
    """This node no longer keeps what was asked for, or never had it; one with the full history has."""


class NotYetAvailableError(UnavailableError):
    """What was asked for cannot be had now; the same call may succeed later."""


class LedgerCorruptionError(CorruptionError):
    """A stored record is missing or is not one that this program wrote."""
