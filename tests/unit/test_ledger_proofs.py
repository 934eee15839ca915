"""Receipts and certificates: what a stranger can check with the founding document alone, and every forgery refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ledger import bodies
from ledger.certificate import verify_block_certificate
from ledger.configuration import Configuration
from ledger.errors import LedgerCorruptionError, NotYetAvailableError, ProofRefusedError
from ledger.keyspace import Table, height_key, log_node_key
from ledger.proofs import Receipt, build_consistency_proof, build_receipt, verify_receipt
from ledger.transaction import Transaction, decode_transaction_untrusted
from tests.testkit.ledger import Chain, make_certificate, make_genesis
from wire.errors import InvalidCertificateError, InvalidProofError, RejectedError
from wire.hashing import Digest
from wire.merkle import verify_consistency


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for count in (3, 1, 0, 5):
        chain.commit(*(report(chain) for _ in range(count)))
    return chain


def report(chain: Chain) -> Transaction:
    return chain.sign(bodies.HostReport("inventory", "site", b"x"), "web1@acme")


def all_transactions(chain: Chain) -> list[bytes]:
    return [tx_id for block in chain.blocks[1:] for tx_id in tx_ids(chain, block.header.height)]


def tx_ids(chain: Chain, height: int) -> list[bytes]:
    return [decode_transaction_untrusted(raw).tx_id for raw in chain.blocks[height].transactions]


def test_every_transaction_has_a_receipt_that_a_stranger_verifies(chain: Chain) -> None:
    ids = all_transactions(chain)
    assert len(ids) == 10
    for tx_id in ids:
        receipt = build_receipt(chain.store, tx_id)
        travelled = Receipt.from_json_untrusted(json.loads(json.dumps(receipt.to_json())))
        assert travelled == receipt
        assert verify_receipt(travelled, chain.genesis).tx_id == tx_id


def test_a_later_certified_header_covers_earlier_blocks() -> None:
    chain = Chain()
    chain.register("web1@acme", "host")
    transaction = report(chain)
    chain.apply(chain.build(transaction).block, certify=False)
    with pytest.raises(NotYetAvailableError) as unavailable:
        build_receipt(chain.store, transaction.tx_id)
    assert unavailable.value.code == "ledger.receipt.not_certified"
    chain.commit(report(chain))
    receipt = build_receipt(chain.store, transaction.tx_id)
    assert (receipt.header.height, receipt.header.log_size, receipt.log_index) == (3, 3, 1)
    assert verify_receipt(receipt, chain.genesis) == transaction


def test_unknown_transactions_have_no_receipt(chain: Chain) -> None:
    with pytest.raises(ProofRefusedError) as refused:
        build_receipt(chain.store, bytes(32))
    assert refused.value.code == "ledger.receipt.not_found"


def test_missing_rows_are_corruption() -> None:
    for table, key in ((Table.BLOCK, height_key(1)), (Table.LOG_NODE, log_node_key(0, 1))):
        chain = Chain()
        chain.register("web1@acme", "host")
        chain.commit(report(chain))
        tx_id = tx_ids(chain, 1)[0]
        chain.store.apply({(table, key): None, (Table.CERTIFICATE, height_key(1)): None})
        with pytest.raises(LedgerCorruptionError) as error:
            build_receipt(chain.store, tx_id)
        assert error.value.code == "ledger.corruption.missing"


def test_every_forged_part_of_a_receipt_is_refused(chain: Chain) -> None:
    first, other = (build_receipt(chain.store, tx_id) for tx_id in all_transactions(chain)[1:3])
    header = first.header
    signatures = first.certificate.signatures
    for forged, code in (
        (replace(first, transaction=other.transaction), "wire.merkle.root"),
        (replace(first, log_index=first.log_index + 1), "wire.merkle.root"),
        (replace(first, audit_path=first.audit_path[1:]), "wire.merkle.length"),
        (replace(first, audit_path=(Digest(bytes(32)), *first.audit_path[1:])), "wire.merkle.root"),
        (replace(first, header=replace(header, log_root=Digest(bytes(32)))), "ledger.proof.certificate"),
        (replace(first, header=replace(header, height=9)), "ledger.proof.certificate"),
        (replace(first, header=replace(header, validators_hash=Digest(bytes(32)))), "ledger.proof.validators"),
        (replace(first, certificate=replace(first.certificate, term=2)), "ledger.proof.certificate"),
        (replace(first, certificate=replace(first.certificate, signatures=signatures[1:])), "wire.certificate.too_few"),
        (replace(first, transaction=b"garbage"), "ledger.tx.malformed"),
        (replace(first, header=replace(header, chain_id="other-net")), "ledger.receipt.wrong_chain"),
    ):
        with pytest.raises(RejectedError) as refused:
            verify_receipt(forged, chain.genesis)
        assert refused.value.code == code


def test_a_receipt_holds_for_its_own_network_only(chain: Chain) -> None:
    receipt = build_receipt(chain.store, all_transactions(chain)[0])
    with pytest.raises(ProofRefusedError) as refused:
        verify_receipt(receipt, make_genesis(chain_id="other-net"))
    assert refused.value.code == "ledger.receipt.wrong_chain"
    with pytest.raises(ProofRefusedError) as refused:
        verify_receipt(receipt, make_genesis(validators=3))
    assert refused.value.code == "ledger.proof.validators"


def test_a_transaction_of_another_network_in_the_log_is_refused() -> None:
    """Only validators that collude could put it there; the receipt is refused all the same."""
    chain = Chain()
    chain.register("web1@acme", "host")
    foreign = chain.sign(bodies.HostReport("inventory", "site", b"x"), "web1@acme", chain_id="other-net")
    block = chain.build(report(chain)).block
    header = replace(block.header, log_size=1, log_root=foreign.leaf_hash)
    forged = chain.forge(block, log_size=1, log_root=foreign.leaf_hash)
    certificate = make_certificate("test-net", chain.voters, forged)
    with pytest.raises(ProofRefusedError) as refused:
        verify_receipt(Receipt(foreign.raw, 0, (), header, certificate), chain.genesis)
    assert refused.value.code == "ledger.receipt.wrong_chain"


def change(document: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {**document, **members}


def test_the_json_form_is_strict(chain: Chain) -> None:
    document = build_receipt(chain.store, all_transactions(chain)[0]).to_json()
    without = {name: value for name, value in document.items() if name != "header"}
    padded = str(document["transaction"])
    for wrong in (
        None,
        [],
        without,
        change(document, more=1),
        change(document, version=2),
        change(document, log_index=-1),
        change(document, log_index=True),
        change(document, audit_path="x"),
        change(document, audit_path=["00" * 32] * 129),
        change(document, audit_path=["00"]),
        change(document, audit_path=["AA" * 32]),
        change(document, audit_path=["zz" * 32]),
        change(document, audit_path=[5]),
        change(document, chain_id="other-net"),
        change(document, transaction=5),
        change(document, transaction="é"),
        change(document, transaction="A"),
        change(document, transaction=padded + "\n"),
        change(document, header="AAAA"),
        change(document, header="QR=="),
        change(document, certificate="AAAA"),
    ):
        with pytest.raises(ProofRefusedError) as refused:
            Receipt.from_json_untrusted(wrong)
        assert refused.value.code == "ledger.receipt.malformed"


def test_logs_are_consistent_across_heights(chain: Chain) -> None:
    headers = [block.header for block in chain.blocks]
    last = headers[-1]
    for header in headers[1:]:
        proof = build_consistency_proof(chain.store, header.log_size, last.log_size)
        verify_consistency(header.log_size, header.log_root, last.log_size, last.log_root, proof)
    with pytest.raises(InvalidProofError):
        verify_consistency(
            1, Digest(bytes(32)), last.log_size, last.log_root, build_consistency_proof(chain.store, 1, 10)
        )


def test_block_certificates_are_about_their_block_and_its_validators(chain: Chain) -> None:
    block, other = chain.blocks[2], chain.blocks[3]
    validators = chain.view.configuration()
    certificate = chain.certificate(block)
    verify_block_certificate(certificate, block.header, validators)
    with pytest.raises(ProofRefusedError) as refused:
        verify_block_certificate(certificate, other.header, validators)
    assert refused.value.code == "ledger.proof.certificate"
    with pytest.raises(ProofRefusedError) as refused:
        verify_block_certificate(certificate, block.header, Configuration(make_genesis(validators=3).validators))
    assert refused.value.code == "ledger.proof.validators"
    foreign = make_certificate("other-net", chain.voters, block)
    with pytest.raises(InvalidCertificateError):
        verify_block_certificate(foreign, block.header, validators)
