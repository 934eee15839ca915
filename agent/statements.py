"""What attestations say beyond yes and no: the statements themselves, found by the digest that the ledger recorded.

A record names its statement by digest, so whoever has the bytes has the statement: the patch file in hand, or else the transaction that
recorded it. So a scan that somebody stripped from the file counts all the same. A node that pruned that block says that it cannot read it.

Source: docs/spec/agent.md 4.1; docs/spec/policy.md 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.facts import FindingFacts, StatementFacts
from ledger.bodies import PatchAttest
from ledger.records import AttestationRecord
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from provenance.intoto import decode_statement_untrusted
from provenance.limits import ENVELOPE_LINE_BYTES_MAX
from provenance.predicates import Reading, read_predicate_untrusted
from provenance.statement import ATTESTATION_SUBJECTS, PREDICATE_REVIEW
from wire.envelope import Envelope, decode_envelope_untrusted
from wire.errors import RejectedError


def is_statement(record: AttestationRecord) -> bool:
    """Return whether the record is of anything else than a review, which says no more than its record does."""
    return record.predicate_type != PREDICATE_REVIEW


def payloads_of(envelopes: tuple[Envelope, ...]) -> Mapping[bytes, bytes]:
    """Return the payloads by their digests."""
    return {envelope.payload_digest: envelope.payload for envelope in envelopes}


def read_statement(view: StateView, record: AttestationRecord, payloads: Mapping[bytes, bytes]) -> StatementFacts:
    """Return what policy may see of one recorded statement.

    Args:
        view: The replica; its blocks are read when `payloads` lacks the statement.
        record: An attestation that counts.
        payloads: Payloads at hand, by digest.
    """
    payload = payloads.get(record.payload_digest) or _recorded_payload(view, record)
    reading = _read(record, payload)
    return StatementFacts(
        identity=record.identity_id,
        organisation=record.organisation,
        role=record.role,
        predicate_type=record.predicate_type,
        recorded_height=record.recorded_height,
        readable=reading is not None,
        findings=()
        if reading is None
        else tuple(FindingFacts(each.finding_id, each.severity) for each in reading.findings),
        properties=() if reading is None else reading.properties,
    )


def _read(record: AttestationRecord, payload: bytes | None) -> Reading | None:
    if payload is None:
        return None
    try:
        statement = decode_statement_untrusted(payload, ATTESTATION_SUBJECTS)
        return read_predicate_untrusted(record.predicate_type, statement.predicate)
    except RejectedError:
        # The ledger has refused such statements when it recorded them; one of before that rule is as good as unread.
        return None


def _recorded_payload(view: StateView, record: AttestationRecord) -> bytes | None:
    location = view.location(record.tx_id)
    block = None if location is None else view.block(location.height)
    if location is None or block is None:
        return None
    body = decode_transaction_untrusted(block.transactions[location.index]).body
    assert isinstance(body, PatchAttest), "an attestation's record names the transaction that recorded it"
    return decode_envelope_untrusted(body.envelope, bytes_max=ENVELOPE_LINE_BYTES_MAX).payload
