"""Certified headers from a trusted head: what leads on from a checkpoint, over changes of the validators, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import actions, bodies
from ledger.configuration_history import ConfigurationProof, build_configuration_proof
from ledger.errors import ProofRefusedError
from ledger.proofs import build_receipt, verify_receipt
from ledger.transaction import decode_transaction_untrusted
from ledger.trust import TrustedHead, verify_certified_header
from tests.testkit.ledger import Chain, make_certificate, make_genesis
from wire.errors import RejectedError


@pytest.fixture(scope="module")
def chain() -> Chain:
    """Each founding validator is replaced, and the chain ends in the middle of a change."""
    chain = Chain(make_genesis(validators=3))
    chain.register("web1@acme", "host")
    for old, new in ((1, 4), (2, 5), (3, 6)):
        chain.elect(old)
        chain.add_learner(new)
        note(chain)
        chain.adopt(actions.ReplaceValidator(f"v{old}", f"v{new}"))
        note(chain)
        chain.settle()
        note(chain)
    chain.elect(4)
    chain.add_learner(7)
    chain.adopt(actions.PromoteLearner("v7"))
    note(chain)
    return chain


def note(chain: Chain) -> None:
    chain.submit(bodies.HostReport("drift", "site", b""), "web1@acme")


def proof_at(chain: Chain, height: int) -> ConfigurationProof:
    return build_configuration_proof(chain.store, height)


def head_at(chain: Chain, height: int) -> TrustedHead:
    return TrustedHead(chain.genesis.chain_id, proof_at(chain, height).configuration, chain.blocks[height].header)


def verify(chain: Chain, trusted: TrustedHead, height: int) -> TrustedHead:
    block = chain.blocks[height]
    certificate = make_certificate(chain.genesis.chain_id, chain.signers(proof_at(chain, height).configuration), block)
    return verify_certified_header(trusted, block.header, certificate, proof_at(chain, height))


def test_every_head_leads_to_every_later_one(chain: Chain) -> None:
    for trusted in (
        TrustedHead.founding(chain.genesis),
        *(head_at(chain, each) for each in range(1, chain.height + 1)),
    ):
        for height in range(max(1, trusted.height), chain.height + 1):
            assert verify(chain, trusted, height) == head_at(chain, height)


def test_a_head_leads_to_older_headers_of_the_same_validators_only(chain: Chain) -> None:
    newest = head_at(chain, chain.height)
    verified = 0
    for height in range(1, chain.height):
        voters = proof_at(chain, height).configuration.voters
        if voters == newest.configuration.voters:
            assert verify(chain, newest, height) == head_at(chain, height)
            verified += 1
        else:
            with pytest.raises(ProofRefusedError) as refused:
                verify(chain, newest, height)
            assert refused.value.code == "ledger.proof.configuration"
            assert "not older than the checkpoint" in (refused.value.hint or "")
    assert 0 < verified < chain.height - 10


def test_receipts_verify_from_a_head(chain: Chain) -> None:
    newest = head_at(chain, chain.height)
    raw = chain.blocks[-1].transactions[0]
    receipt = build_receipt(chain.store, decode_transaction_untrusted(raw).tx_id)
    assert verify_receipt(receipt, newest).raw == raw
    assert verify_receipt(receipt, head_at(chain, 3)).raw == raw


def test_without_the_changes_nothing_leads_to_new_validators(chain: Chain) -> None:
    block = chain.blocks[-1]
    certificate = make_certificate(chain.genesis.chain_id, chain.voters, block)
    with pytest.raises(ProofRefusedError) as refused:
        verify_certified_header(TrustedHead.founding(chain.genesis), block.header, certificate, None)
    assert refused.value.code == "ledger.proof.validators"


def test_a_header_that_is_older_than_the_changes_it_follows_is_refused(chain: Chain) -> None:
    height = proof_at(chain, chain.height).changes[-1].header.height
    forged = chain.forge(chain.blocks[-1], height=height)
    certificate = make_certificate(chain.genesis.chain_id, chain.voters, forged)
    for trusted in (TrustedHead.founding(chain.genesis), head_at(chain, 2)):
        with pytest.raises(ProofRefusedError) as refused:
            verify_certified_header(trusted, forged.header, certificate, proof_at(chain, chain.height))
        assert refused.value.code == "ledger.proof.configuration"


def test_another_block_of_the_heads_height_is_a_split_view_when_it_is_certified(chain: Chain) -> None:
    newest = head_at(chain, chain.height)
    forged = chain.forge(chain.blocks[-1], time_ms=chain.blocks[-1].header.time_ms + 1)
    certificate = make_certificate(chain.genesis.chain_id, chain.voters, forged)
    with pytest.raises(ProofRefusedError) as refused:
        verify_certified_header(newest, forged.header, certificate, None)
    assert refused.value.code == "ledger.proof.split_view"
    broken = replace(certificate, signatures=certificate.signatures[:1])
    with pytest.raises(RejectedError) as refused_first:
        verify_certified_header(newest, forged.header, broken, None)
    assert refused_first.value.code == "wire.certificate.too_few"


def test_another_network_is_refused(chain: Chain) -> None:
    with pytest.raises(ProofRefusedError) as refused:
        verify(chain, replace(head_at(chain, 5), chain_id="other-net"), 6)
    assert refused.value.code == "ledger.proof.wrong_chain"
