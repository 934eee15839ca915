"""What a validator's node says to end a change of the validators that is under way.

Source: docs/spec/ledger.md 14.
"""

from __future__ import annotations

from ledger.bodies import ValidatorSettle
from ledger.configuration_history import newest_configuration_height
from ledger.errors import LedgerCorruptionError
from ledger.keyspace import Reader
from ledger.state import StateView
from wire.certificate import decode_commit_certificate_untrusted


def find_settlement(reader: Reader) -> ValidatorSettle | None:
    """Return what ends the change under way, or None when there is none or no block under it is certified yet.

    A node whose key has a vote signs it with `ledger.transaction.build_transaction` and offers it like any transaction. It asks again after
    each certified block until the configuration is plain: one lost with a former leader is made anew by the next.

    Args:
        reader: The committed ledger with its certificates.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.missing``: the reader lacks a certified header.
    """
    view = StateView(reader)
    begun = newest_configuration_height(reader)
    if begun is None or not view.configuration().is_joint:
        return None
    for height in range(begun, view.height + 1):
        raw = view.certificate(height)
        if raw is not None:
            header = view.header_at(height)
            if header is None:
                raise LedgerCorruptionError("ledger.corruption.missing", f"header {height} is missing")
            return ValidatorSettle(header, decode_commit_certificate_untrusted(raw))
    return None
