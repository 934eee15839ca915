"""State proofs: what the ledger says of one thing at a certified height, or that it says nothing, for a stranger without the chain.

A proof names a *subject* and an id (an identity, a patch, a key, the policy in force …), which together are a key of the state; it shows
what the state tree holds there under the state root of a header, and joins the header to the validators like a receipt does.

Proofs are about the newest certified header of the node that makes them: the tree keeps no older states. A commit brings its certificate
with it, so that is the tip, except for moments in which a node knows a commit only through a later one.

Source: docs/spec/proofs.md 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ledger import keyspace
from ledger.block import Header
from ledger.configuration_history import ConfigurationProof, build_configuration_proof
from ledger.errors import LedgerCorruptionError, NotYetAvailableError, ProofRefusedError
from ledger.genesis import Genesis
from ledger.keyspace import Reader
from ledger.proof_json import ProofReader, certified_members, to_base64
from ledger.records import (
    AttestationList,
    IdentityRecord,
    KeyRecord,
    Organisation,
    PatchRecord,
    PolicySet,
    PolicyVersion,
    ProposalRecord,
    Record,
    Standing,
    TargetRecord,
)
from ledger.state import StateView
from ledger.state_tree import KEY_BITS, StateProof, prove, verify_state_proof
from ledger.trust import TrustedHead, verify_certified_header
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.errors import RejectedError
from wire.fields import as_identifier, as_identity_id

STATE_PROOF_VERSION: Final = 1
POLICY_IN_FORCE: Final = "current"
"""The id of the policy version that is in force."""
POLICY_DIGITS_MAX: Final = 15
"""The longest version number."""

_MEMBERS: Final = frozenset(
    {"version", "chain_id", "subject", "id", "value", "siblings", "other_leaf", "header", "certificate"}
)
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(rf"0|[1-9][0-9]{{0,{POLICY_DIGITS_MAX - 1}}}")


@dataclass(frozen=True, slots=True)
class CertifiedStateProof:
    """What the state holds for one thing, under a certified header."""

    subject: str
    """One of `SUBJECTS`."""
    name: str
    """The thing's id, as people write it."""
    proof: StateProof
    """The tree's proof; its key is that of subject and name."""
    header: Header
    """The certified header under whose state root it holds."""
    certificate: CommitCertificate
    """The header's commit certificate."""
    configuration: ConfigurationProof | None = None
    """What leads from the founding validators to those of the header, or None when they are the same."""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form: digests in hexadecimal, longer bytes in base64."""
        proof = self.proof
        return {
            "version": STATE_PROOF_VERSION,
            **certified_members(self.header, self.certificate, self.configuration),
            "subject": self.subject,
            "id": self.name,
            "value": None if proof.value is None else to_base64(proof.value),
            "siblings": [digest.hex() for digest in proof.siblings],
            "other_leaf": None if proof.other_leaf is None else [digest.hex() for digest in proof.other_leaf],
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> CertifiedStateProof:
        """Return the proof of good form. Nothing is verified.

        Raises:
            ProofRefusedError: ``ledger.proof.malformed``, ``ledger.proof.subject``.
        """
        reader = ProofReader(_malformed)
        members = reader.members(value, _MEMBERS)
        if members["version"] != STATE_PROOF_VERSION:
            raise _malformed("the version is not known")
        subject, name = members["subject"], members["id"]
        if not isinstance(subject, str) or not isinstance(name, str):
            raise _malformed("subject and id are texts")
        record = None if members["value"] is None else reader.base64(members, "value")
        siblings = reader.digests(members, "siblings", KEY_BITS)
        other_leaf = None
        if members["other_leaf"] is not None:
            leaf = reader.digests(members, "other_leaf", 2)
            if len(leaf) != 2:
                raise _malformed("other_leaf is not two digests")
            other_leaf = (leaf[0], leaf[1])
        header, certificate, configuration = reader.certified(members)
        proof = StateProof(subject_key_untrusted(subject, name), record, siblings, other_leaf)
        return cls(subject, name, proof, header, certificate, configuration)


@dataclass(frozen=True, slots=True)
class ProvenState:
    """What a state proof proved."""

    subject: str
    """What kind of thing it is about."""
    name: str
    """The thing's id."""
    record: Record | None
    """What the state holds, or None: nothing."""
    head: TrustedHead
    """The header under which it holds, and its validators."""


def build_certified_state_proof(reader: Reader, subject: str, name: str) -> CertifiedStateProof:
    """Return the proof of what the state says of a thing at the tip.

    Args:
        reader: A store at one height, with the certificates.
        subject: One of `SUBJECTS`.
        name: The thing's id.

    Raises:
        ProofRefusedError: ``ledger.proof.subject``: no such kind of thing, or no such form of id.
        NotYetAvailableError: ``ledger.proof.not_certified``: the tip is not certified yet.
        LedgerCorruptionError: ``ledger.corruption.*``.
    """
    key = subject_key_untrusted(subject, name)
    view = StateView(reader)
    header = view.header
    raw = view.certificate(header.height)
    if raw is None:
        raise NotYetAvailableError(
            "ledger.proof.not_certified",
            f"block {header.height} is not certified yet, and the state is that after it",
            hint="ask again in a moment",
        )
    configuration = build_configuration_proof(reader, header.height)
    return CertifiedStateProof(
        subject,
        name,
        prove(reader, key),
        header,
        decode_commit_certificate_untrusted(raw),
        None if configuration.is_founding else configuration,
    )


def verify_certified_state_proof(proof: CertifiedStateProof, trusted: Genesis | TrustedHead) -> ProvenState:
    """Return what the proof shows to be in the state, or not to be there, at the height of its header.

    Args:
        proof: From anybody.
        trusted: The founding document, or a head that was verified before.

    Raises:
        RejectedError: ``ledger.proof.*``, ``wire.certificate.*``.
    """
    head = TrustedHead.founding(trusted) if isinstance(trusted, Genesis) else trusted
    verified = verify_certified_header(head, proof.header, proof.certificate, proof.configuration)
    if proof.proof.key != subject_key_untrusted(proof.subject, proof.name):
        raise _not_this_subject("the proof is about another thing than it says", proof.subject, proof.name)
    verify_state_proof(proof.proof, proof.header.state_root)
    record = None if proof.proof.value is None else _decode(proof.subject, proof.name, proof.proof.value)
    return ProvenState(proof.subject, proof.name, record, verified)


def subject_key_untrusted(subject: str, name: str) -> bytes:
    """Return the key of the state at which a thing's record stands.

    Raises:
        ProofRefusedError: ``ledger.proof.subject``: no such kind of thing, or no such form of id.
    """
    kind = SUBJECTS.get(subject)
    if kind is None:
        raise ProofRefusedError(
            "ledger.proof.subject",
            "there are no proofs about this kind of thing",
            expected=", ".join(SUBJECTS),
            actual=subject,
        )
    try:
        return kind[0](name)
    except (RejectedError, ValueError) as error:
        raise _not_this_subject(f"this is not the id of a thing of this kind ({error})", subject, name) from error


def _decode(subject: str, name: str, value: bytes) -> Record:
    record_type = PolicyVersion if (subject, name) == ("policy", POLICY_IN_FORCE) else SUBJECTS[subject][1]
    try:
        return record_type.decode(value)
    except LedgerCorruptionError as error:
        raise ProofRefusedError("ledger.proof.record", f"what is proven is no {subject}: {error.message}") from error


def _identity_key(name: str) -> bytes:
    return keyspace.identity_key(as_identity_id(name, "id"))


def _organisation_key(name: str) -> bytes:
    return keyspace.organisation_key(as_identifier(name, "id"))


def _standing_key(name: str) -> bytes:
    return keyspace.standing_key(as_identifier(name, "id"))


def _target_key(name: str) -> bytes:
    host, _, target = name.partition("/")
    return keyspace.target_key(as_identity_id(host, "host"), as_identifier(target, "target"))


def _policy_key(name: str) -> bytes:
    if name == POLICY_IN_FORCE:
        return keyspace.POLICY_VERSION_KEY
    if _NUMBER.fullmatch(name) is None:
        raise ValueError(f"a version number, or {POLICY_IN_FORCE}")
    return keyspace.policy_key(int(name))


def _by_digest(key: Callable[[bytes], bytes]) -> Callable[[str], bytes]:
    def find(name: str) -> bytes:
        if _HEX_DIGEST.fullmatch(name) is None:
            raise ValueError("64 lower hexadecimal digits")
        return key(bytes.fromhex(name))

    return find


SUBJECTS: Final[dict[str, tuple[Callable[[str], bytes], type[Record]]]] = {
    "identity": (_identity_key, IdentityRecord),
    "organisation": (_organisation_key, Organisation),
    "standing": (_standing_key, Standing),
    "key": (_by_digest(keyspace.key_key), KeyRecord),
    "patch": (_by_digest(keyspace.patch_key), PatchRecord),
    "attestations": (_by_digest(keyspace.attestation_list_key), AttestationList),
    "policy": (_policy_key, PolicySet),
    "proposal": (_by_digest(keyspace.proposal_key), ProposalRecord),
    "target": (_target_key, TargetRecord),
}
"""What can be proven, by the name that requests use: how an id becomes a key of the state, and what stands there."""


def _malformed(why: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.proof.malformed", f"the state proof does not have its form: {why}")


def _not_this_subject(sentence: str, subject: str, name: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.proof.subject", sentence, actual=f"{subject} {name[:80]}")
