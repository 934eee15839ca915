"""The JSON documents that the local socket and the HTTP API answer with: pure functions from ledger records.

Identifiers, digests and hashes are lower-case hexadecimal; blobs are base64; heights, counts and milliseconds are integers. A field that
does
not apply is null, never absent, so a reader can rely on the names. Source: docs/spec/api.md.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, cast

from ledger.block import Block, Header
from ledger.records import (
    AttestationRecord,
    DeploymentRecord,
    IdentityRecord,
    KeyRecord,
    Organisation,
    PatchRecord,
    PolicySet,
    ProposalRecord,
    Record,
    TargetRecord,
    Validator,
)
from ledger.transaction import Transaction
from node.local.protocol import encode_blob
from wire.certificate import CommitCertificate
from wire.codec import Value
from wire.hashing import sha256

Document = dict[str, Any]

VALUE_BYTES_SHOWN_MAX: Final = 256
"""Byte strings inside a transaction's body are shown up to this length; the whole body stands in `raw`."""


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def header_document(header: Header) -> Document:
    """Return a block header with its hash."""
    return {
        "chain_id": header.chain_id,
        "height": header.height,
        "term": header.term,
        "block_hash": header.hash().hex(),
        "previous_hash": header.previous_hash.hex(),
        "time_ms": header.time_ms,
        "proposer": header.proposer.hex(),
        "transactions_root": header.transactions_root.hex(),
        "log_size": header.log_size,
        "log_root": header.log_root.hex(),
        "state_root": header.state_root.hex(),
        "validators_hash": header.validators_hash.hex(),
        "policy_hash": header.policy_hash.hex(),
        "election_hash": header.election_hash.hex(),
    }


def block_document(block: Block, tx_ids: list[str], certificate: CommitCertificate | None) -> Document:
    """Return a block with the ids of its transactions."""
    return {
        **header_document(block.header),
        "transactions": tx_ids,
        "election_certificate": None if block.election is None else encode_blob(block.election),
        "certificate": None if certificate is None else certificate_document(certificate),
        "size_bytes": len(block.raw),
    }


def certificate_document(certificate: CommitCertificate) -> Document:
    """Return a commit certificate."""
    return {
        "term": certificate.term,
        "height": certificate.height,
        "block_hash": certificate.block_hash.hex(),
        "signatures": [
            {"validator": key_id.hex(), "signature": encode_blob(signature)}
            for key_id, signature in certificate.signatures
        ],
    }


def transaction_document(
    transaction: Transaction, *, signer: str | None, height: int | None, index: int | None
) -> Document:
    """Return a transaction, its signer's identity and where it stands."""
    return {
        "tx_id": transaction.tx_id.hex(),
        "status": "committed" if height is not None else "pending",
        "height": height,
        "index": index,
        "kind": transaction.kind,
        "body": _value(transaction.body.to_value()),
        "signer": signer,
        "signer_key_id": transaction.signer_key_id.hex(),
        "not_after_height": transaction.not_after_height,
        "client_time_ms": transaction.client_time_ms,
        "raw": encode_blob(transaction.raw),
    }


def identity_document(identity: IdentityRecord, keys: list[KeyRecord]) -> Document:
    """Return an identity with every key it ever had."""
    return {
        "identity": identity.identity_id,
        "organisation": identity.organisation,
        "display_name": identity.display_name,
        "roles": list(identity.roles),
        "role_terms": [
            {"role": role, "from_ms": from_ms, "until_ms": until_ms} for role, from_ms, until_ms in identity.role_terms
        ],
        "status": identity.status,
        "registered_height": identity.registered_height,
        "changed_height": identity.changed_height,
        "keys": [key_document(key) for key in keys],
    }


def key_document(key: KeyRecord) -> Document:
    """Return a key and the heights between which it counts."""
    public_key = key.public_key
    return {
        "key_id": key.key_id.hex(),
        "algorithm": str(public_key.algorithm),
        "did": public_key.did,
        "added_height": key.added_height,
        "retired_height": key.retired_height,
        "last_valid_height": key.last_valid_height,
        "reason": key.reason,
        "certificate_chain": [encode_blob(certificate) for certificate in key.certificate_chain],
    }


def organisation_document(organisation: Organisation, status: str) -> Document:
    """Return an organisation; `status` is what `StateView.organisation_status` says."""
    return {
        "name": organisation.name,
        "display_name": organisation.display_name,
        "status": status,
        "admitted_height": organisation.admitted_height,
        "administrators": list(organisation.administrators),
        "ca_certificates": [encode_blob(certificate) for certificate in organisation.ca_certificates],
    }


def patch_document(patch: PatchRecord, attestations: list[AttestationRecord]) -> Document:
    """Return a published patch and its attestations in the order in which they were recorded."""
    return {
        "patch_id": patch.patch_id.hex(),
        "author": patch.author,
        "organisation": patch.organisation,
        "author_key_id": patch.author_key_id.hex(),
        "author_payload_digest": patch.author_payload_digest.hex(),
        "file_digest": patch.file_digest.hex(),
        "file_bytes": patch.file_bytes,
        "published_height": patch.published_height,
        "tx_id": patch.tx_id.hex(),
        "components": list(patch.components),
        "release_counter": patch.release_counter,
        "supersedes": [patch_id.hex() for patch_id in patch.supersedes],
        "prerequisites": [patch_id.hex() for patch_id in patch.prerequisites],
        "superseded_by": _hex(patch.superseded_by),
        "withdrawn_height": patch.withdrawn_height,
        "withdrawn_reason": patch.withdrawn_reason,
        "attestations": [attestation_document(attestation) for attestation in attestations],
    }


def attestation_document(attestation: AttestationRecord) -> Document:
    """Return one recorded attestation."""
    return {
        "payload_digest": attestation.payload_digest.hex(),
        "identity": attestation.identity_id,
        "organisation": attestation.organisation,
        "key_id": attestation.key_id.hex(),
        "role": attestation.role,
        "verdict": attestation.verdict,
        "predicate_type": attestation.predicate_type,
        "recorded_height": attestation.recorded_height,
        "tx_id": attestation.tx_id.hex(),
        "current": attestation.current,
    }


def deployment_document(deployment: DeploymentRecord) -> Document:
    """Return one deployment record; without an outcome it is still open."""
    return {
        "deployment_id": deployment.deployment_id.hex(),
        "host": deployment.host,
        "target": deployment.target,
        "patch_id": deployment.patch_id.hex(),
        "counter": deployment.counter,
        "intent_height": deployment.intent_height,
        "outcome_height": deployment.outcome_height,
        "outcome_tx_id": _hex(deployment.outcome_tx_id),
        "result": deployment.result or None,
        "tree_before": deployment.tree_before.hex(),
        "tree_after": _hex(deployment.tree_after),
    }


def target_document(target: TargetRecord) -> Document:
    """Return what the ledger knows of one target."""
    return {
        "host": target.host,
        "target": target.target,
        "tree_digest": _hex(target.tree_digest),
        "installed": [{"patch_id": patch_id.hex(), "height": height} for patch_id, height in target.installed],
        "changed_height": target.changed_height,
        "report_kind": target.report_kind or None,
        "report_tx_id": _hex(target.report_tx_id),
        "report_height": target.report_height,
    }


def policy_document(policy: PolicySet) -> Document:
    """Return one version of the policy set."""
    return {
        "version": policy.version,
        "policy_hash": policy.policy_hash.hex(),
        "adopted_height": policy.adopted_height,
        "schema": policy.schema,
        "policies": [{"name": name, "text": text} for name, text in policy.policies],
    }


def proposal_document(proposal: ProposalRecord, status: str) -> Document:
    """Return a proposal of governance with its votes; `status` is what `ledger.governance_story.proposal_status` says."""
    return {
        "proposal_id": proposal.proposal_id.hex(),
        "proposer": proposal.proposer,
        "organisation": proposal.organisation,
        "action": _value(proposal.action),
        "description": proposal.description,
        "created_height": proposal.created_height,
        "expires_height": proposal.expires_height,
        "status": status,
        "votes": [
            {"organisation": organisation, "identity": identity, "approve": approve, "height": height}
            for organisation, identity, approve, height in proposal.votes
        ],
        "closed_height": proposal.closed_height,
    }


def validator_document(validator: Validator) -> Document:
    """Return a validator."""
    return {
        "name": validator.name,
        "organisation": validator.organisation,
        "key_id": validator.key_id.hex(),
        "did": validator.public_key.did,
        "address": validator.address,
    }


def record_document(record: Record) -> Document:
    """Return a record of the state by its fields' names; long byte strings by their length and SHA-256."""
    return {each.name: _value(getattr(record, each.name)) for each in fields(cast(Any, record))}


def show_values(values: tuple[Value, ...]) -> list[Any]:
    """Return values for JSON: bytes as hexadecimal digits, long ones by their length and SHA-256."""
    return [_value(each) for each in values]


def _value(value: Value) -> Any:
    match value:
        case tuple():
            return [_value(item) for item in value]
        case bytes():
            if len(value) <= VALUE_BYTES_SHOWN_MAX:
                return value.hex()
            return {"bytes": len(value), "sha256": sha256(value).hex()}
        case _:
            return value
