"""Putting on record what convicts: a node that may sign for an identity submits what it found; every other one keeps it and says so.

Source: docs/spec/proofs.md 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ledger.bodies import EvidenceSubmit
from ledger.checkpoint import SplitView
from ledger.limits import NONCE_BYTES
from ledger.transaction import build_transaction
from wire import canonical_json
from wire.errors import RejectedError, UnavailableError
from wire.hashing import sha256
from wire.keys import PrivateKey

if TYPE_CHECKING:
    from node.app import Node

RECORDED: Final = "ledger.evidence.recorded"
EVIDENCE_WINDOW: Final = 10_000
"""Heights within which the evidence must be on record."""
SUBMIT_TIMEOUT_MS: Final = 20_000

_log = structlog.get_logger("node.evidence")


async def put_on_record(node: Node, key: PrivateKey, split: SplitView) -> bool:
    """Return whether nothing more is to be done: the ledger has the evidence, or this node cannot bring it there.

    The node's own key signs, so it must be an active identity's: a host's or an auditor's. A validator's key is none.
    """
    view = node.replica.latest_view()
    record = view.key(key.public_key.key_id)
    identity = None if record is None else view.identity(record.identity_id)
    if identity is None or not identity.is_active:
        _log.warning("the evidence is kept for somebody to submit", hint="patchwarden checkpoint accuse FILE --key KEY")
        return True
    try:
        body = EvidenceSubmit(canonical_json.encode(split.to_json()))
        transaction = build_transaction(
            view.chain_id,
            body.KIND,
            body,
            key,
            sha256(body.proof)[:NONCE_BYTES],
            view.height + EVIDENCE_WINDOW,
            node.replica.now_ms(),
        )
        (result,) = await node.submitter.submit([transaction.raw], wait="committed", timeout_ms=SUBMIT_TIMEOUT_MS)
        if result.error is not None:
            raise result.error
    except UnavailableError as error:
        _log.warning("the evidence could not be submitted yet", code=error.code, message=error.message)
        return False
    except RejectedError as error:
        if error.code != RECORDED:
            _log.error("the evidence was refused and is kept", code=error.code, message=error.message)
        return True
    _log.warning("the evidence is on record", height=result.height, tx_id=transaction.tx_id.hex())
    return True
