"""Putting on record that a validator broke the rules, or that two certified histories exist.

The record changes nobody's rights: what is to follow from it is decided by proposal and vote. It makes the proof as lasting and as public
as the ledger, with a receipt of its own, and it is made once for each validator and for each height.

Source: docs/spec/ledger.md 5.5; docs/spec/accountability.md 5.
"""

from __future__ import annotations

from typing import Final

from ledger.blame_proof import Blame, check_blame
from ledger.bodies import EvidenceSubmit
from ledger.checkpoint import SplitView, verify_split_view
from ledger.errors import TransactionRefusedError
from ledger.genesis import decode_genesis_untrusted
from ledger.keyspace import VALIDATORS_KEY, evidence_key, height_key
from ledger.limits import EVIDENCE_BYTES_MAX
from ledger.records import EvidenceRecord
from ledger.rules_common import Context, Effects, refuse
from ledger.state import StateView
from ledger.trust import TrustedHead
from wire.canonical_json import JsonValue, decode_untrusted
from wire.errors import MalformedError
from wire.hashing import sha256
from wire.keys import PublicKey

SPLIT_VIEW_KIND: Final = "split-view"
"""What a split view's document says it is."""


def submit_evidence(view: StateView, context: Context, body: EvidenceSubmit) -> Effects:
    """Return the record of a proof that holds.

    Raises:
        RejectedError: ``ledger.evidence.malformed``, ``ledger.evidence.unknown_validator``, ``ledger.evidence.recorded``; of a proof
            against a validator ``ledger.blame.*``; of a split view ``ledger.checkpoint.*``, ``ledger.proof.*``, ``wire.certificate.*``.
    """
    try:
        document = decode_untrusted(body.proof, bytes_max=EVIDENCE_BYTES_MAX)
    except MalformedError as error:
        raise refuse("evidence.malformed", f"the proof is not canonical JSON: {error.message}") from error
    if isinstance(document, dict) and document.get("kind") == SPLIT_VIEW_KIND:
        return _split_view(view, context, body, document)
    blame = Blame.from_json_untrusted(document)
    subject = evidence_key(blame.validator)
    if view.evidence(blame.validator) is not None:
        raise _recorded("the validator is convicted already")
    key = _key_of(view, blame.validator)
    if key is None:
        raise refuse(
            "evidence.unknown_validator", "the proof is about nobody who was a validator", actual=blame.validator
        )
    check_blame(blame, view.chain_id, key)
    record = EvidenceRecord(
        kind=str(blame.kind),
        validator=blame.validator,
        fork_height=None,
        proof_digest=sha256(body.proof),
        submitter=context.signer.identity_id,
        recorded_height=context.height,
        tx_id=context.tx_id,
    )
    return Effects({subject: record}, (subject, VALIDATORS_KEY))


def _split_view(view: StateView, context: Context, body: EvidenceSubmit, document: JsonValue) -> Effects:
    split = SplitView.from_json_untrusted(document)
    if view.evidence(height_key(split.height)) is not None:
        raise _recorded(f"a split view at height {split.height} is recorded already")
    # From the founding document, since a former set of validators may have made it.
    founding = TrustedHead.founding(decode_genesis_untrusted(view.genesis_document))
    height = verify_split_view(split, founding)
    record = EvidenceRecord(
        kind=SPLIT_VIEW_KIND,
        validator=None,
        fork_height=height,
        proof_digest=sha256(body.proof),
        submitter=context.signer.identity_id,
        recorded_height=context.height,
        tx_id=context.tx_id,
    )
    subject = evidence_key(height_key(height))
    return Effects({subject: record}, (subject, VALIDATORS_KEY))


def _key_of(view: StateView, key_id: bytes) -> PublicKey | None:
    """Return the key of a node that is or was a validator, or is a learner."""
    configuration = view.configuration()
    for group in (configuration.nodes, configuration.leaving):
        validator = group.find(key_id)
        if validator is not None:
            return validator.public_key
    retired = view.retired_validator(key_id)
    return None if retired is None else retired.public_key


def _recorded(sentence: str) -> TransactionRefusedError:
    return refuse("evidence.recorded", sentence, hint="one proof is enough; nothing more is to be done")
