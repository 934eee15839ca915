"""Commit certificates against the ledger: what proves that a block, and with it every block before, is committed for ever.

`wire.certificate` checks the signatures and the majority; here is checked that they are about this block and by this block's validators.

Source: docs/spec/ledger.md 7.5.
"""

from __future__ import annotations

from ledger.block import Header
from ledger.configuration import Configuration
from ledger.errors import ProofRefusedError
from wire.certificate import CommitCertificate, verify_commit_quorums


def verify_block_certificate(certificate: CommitCertificate, header: Header, configuration: Configuration) -> None:
    """Return only when the certificate proves that the block of `header`, and all its ancestors, are committed.

    Args:
        certificate: From anybody.
        header: The block's.
        configuration: The one after the block, under which the block itself is certified; its hash must be the header's.

    Raises:
        ProofRefusedError: ``ledger.proof.validators`` (another configuration than the header's), ``ledger.proof.certificate`` (about
            another block).
        InvalidCertificateError: ``wire.certificate.*``: a stranger, too few, a bad signature.
    """
    if header.validators_hash != configuration.hash:
        raise ProofRefusedError(
            "ledger.proof.validators",
            f"block {header.height} names another configuration of the validators",
            expected=configuration.hash,
            actual=header.validators_hash,
        )
    check_certificate_subject(certificate, header)
    verify_commit_quorums(certificate, header.chain_id, configuration.quorums)


def check_certificate_subject(certificate: CommitCertificate, header: Header) -> None:
    """Return only when the certificate is about the block of `header`; its signatures are not checked.

    Raises:
        ProofRefusedError: ``ledger.proof.certificate``.
    """
    about = (certificate.height, certificate.term, certificate.block_hash.hex())
    block = (header.height, header.term, header.hash().hex())
    if about != block:
        raise ProofRefusedError(
            "ledger.proof.certificate",
            "the certificate is about another block",
            expected="height {}, term {}, hash {}".format(*block),
            actual="height {}, term {}, hash {}".format(*about),
        )
