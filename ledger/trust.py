"""What a stranger trusts, and what follows from it: a certified header is believed because of validators that are trusted already.

Trust begins with the founding document, which names the first validators, or with a *head*: a certified header that was verified before, or
that came on a way that the stranger trusts (a checkpoint carried by hand), and the configuration of the validators after it. A proof brings
a header, its certificate, and the changes of the validators since the founding; those that came after the head are followed, the ones
before it are not needed.

Source: docs/spec/proofs.md 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.block import Header
from ledger.certificate import verify_block_certificate
from ledger.configuration import Configuration
from ledger.configuration_history import ConfigurationChange, ConfigurationProof, verify_configuration_proof
from ledger.errors import ProofRefusedError
from ledger.genesis import Genesis
from ledger.recovery import Recovery
from wire.certificate import CommitCertificate

_GET_NEWER: Final = "ask for the proof under a header that is not older than the checkpoint"


@dataclass(frozen=True, slots=True)
class TrustedHead:
    """What somebody believes of a chain: who its validators are, and since when."""

    chain_id: str
    """The network."""
    configuration: Configuration
    """The validators after `header`."""
    header: Header | None = None
    """The newest certified header that is believed; None: nothing but the founding document."""

    @classmethod
    def founding(cls, genesis: Genesis) -> TrustedHead:
        """Return what somebody believes who has the founding document alone."""
        return cls(genesis.chain_id, Configuration(genesis.validators))

    @property
    def height(self) -> int:
        """Height of `header`, 0 for the founding document."""
        return 0 if self.header is None else self.header.height


def verify_certified_header(
    trusted: TrustedHead,
    header: Header,
    certificate: CommitCertificate,
    configuration: ConfigurationProof | None,
) -> TrustedHead:
    """Return the head that the proof leads to: its block is committed, if the validators that are trusted are.

    The header may also be an older one than the trusted head's, as long as the same validators decided about it.

    Args:
        trusted: What the caller believes.
        header: From anybody, as all that follows.
        certificate: The header's commit certificate.
        configuration: What leads from the founding validators to those of the header; None when they are the trusted ones.

    Raises:
        ProofRefusedError: ``ledger.proof.wrong_chain``, ``ledger.proof.split_view`` (of the head's height, and not the head),
            ``ledger.proof.configuration``, ``ledger.proof.validators``, ``ledger.proof.certificate``.
        InvalidCertificateError: ``wire.certificate.*``.
    """
    if header.chain_id != trusted.chain_id:
        raise ProofRefusedError(
            "ledger.proof.wrong_chain",
            "the header is of another network",
            expected=trusted.chain_id,
            actual=header.chain_id,
        )
    found = trusted.configuration
    if header.validators_hash != found.hash:
        if configuration is not None:
            found, above = follow_configuration(trusted, configuration)
            _check_later(header, above)
        elif trusted.header is not None:
            raise _leads_elsewhere(trusted)  # It is under the founding validators.
    verify_block_certificate(certificate, header, found)
    # Only now: a conflict is news only when somebody has signed it.
    if trusted.header is not None and header.height == trusted.height and header.hash() != trusted.header.hash():
        raise ProofRefusedError(
            "ledger.proof.split_view",
            f"two different blocks are certified at height {header.height}: the validators have shown two histories",
            hint="keep both: `patchwarden audit blame` names who is guilty",
            expected=trusted.header.hash(),
            actual=header.hash(),
        )
    return TrustedHead(trusted.chain_id, found, header)


def follow_configuration(trusted: TrustedHead, proof: ConfigurationProof) -> tuple[Configuration, int]:
    """Return the configuration to which `proof` leads from the trusted validators, and the height that its headers must be above.

    Only the changes after the trusted head are followed.

    Args:
        trusted: What the caller believes.
        proof: From anybody.

    Raises:
        ProofRefusedError: ``ledger.proof.configuration``, ``ledger.proof.validators``, ``ledger.proof.certificate``.
        InvalidCertificateError: ``wire.certificate.*``.
    """
    if proof.configuration == trusted.configuration:
        return trusted.configuration, 0
    changes = proof.changes if trusted.header is None else _changes_since(trusted, proof)
    later = ConfigurationProof(changes, proof.configuration)
    configuration = verify_configuration_proof(later, trusted.chain_id, trusted.configuration.voters)
    return configuration, changes[-1].since if changes else 0


def _changes_since(trusted: TrustedHead, proof: ConfigurationProof) -> tuple[ConfigurationChange | Recovery, ...]:
    """Return the changes that were finished after the trusted head."""
    if trusted.configuration.is_joint:
        # The change under way at the head: its header may be older than the head, its end is not.
        for index, change in enumerate(proof.changes):
            if change.configuration == trusted.configuration:
                return proof.changes[index:]
    later = tuple(change for change in proof.changes if change.since > trusted.height)
    first = later[0].configuration.voters if later else proof.configuration.voters
    if first != trusted.configuration.voters:
        for recovery in proof.recoveries:
            if recovery.since <= trusted.height:
                raise _abandoned(trusted, recovery)
        raise _leads_elsewhere(trusted)
    return later


def _check_later(header: Header, above: int) -> None:
    if above and header.height <= above:
        raise ProofRefusedError(
            "ledger.proof.configuration",
            "the header is not later than the last change of the validators that it is said to follow",
            expected=f"above {above}",
            actual=header.height,
        )


def _abandoned(trusted: TrustedHead, recovery: Recovery) -> ProofRefusedError:
    signers = ", ".join(each.identity_id for each in recovery.approvals)
    return ProofRefusedError(
        "ledger.proof.abandoned",
        f"the network was recovered at height {recovery.since}, which gave up what was certified from there on up to the trusted height"
        f" {trusted.height}",
        hint=f"ask those who signed the recovery ({signers}); who accepts it begins anew from a checkpoint of the recovered chain",
    )


def _leads_elsewhere(trusted: TrustedHead) -> ProofRefusedError:
    return ProofRefusedError(
        "ledger.proof.configuration",
        f"the proof does not lead from the validators at height {trusted.height} to those of its header",
        hint=_GET_NEWER,
    )
