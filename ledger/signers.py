"""Whose key must have signed a transaction: an identity's, or for a validator's own word the node's.

Source: docs/spec/ledger.md 2.3, 14.
"""

from __future__ import annotations

from ledger.bodies import ValidatorSettle
from ledger.records import KeyRecord
from ledger.recovery import Recovery
from ledger.state import StateView
from ledger.transaction import Transaction
from wire.keys import PublicKey


def find_signing_key(view: StateView, transaction: Transaction) -> KeyRecord | PublicKey | None:
    """Return the key that the transaction names, or None where nobody has it who could say such a thing.

    A node's key counts while it has a vote: as long as the configuration says so, and no record of an identity is asked.
    """
    if isinstance(transaction.body, Recovery):
        return None  # Who signed stands in it, and its rule asks.
    if isinstance(transaction.body, ValidatorSettle):
        return view.configuration().members.get(transaction.signer_key_id)
    return view.key(transaction.signer_key_id)
