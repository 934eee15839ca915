"""Receipts and audits across changes of the validators: a stranger with the founding document follows each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger import actions, bodies
from ledger.audit import AuditLevel, Auditor
from ledger.audit_membership import CANDIDATES_MAX, ConfigurationFollower
from ledger.configuration import Configuration, ValidatorSet
from ledger.configuration_history import (
    ConfigurationChange,
    ConfigurationProof,
    build_configuration_proof,
    verify_configuration_proof,
)
from ledger.errors import ProofRefusedError
from ledger.proofs import Receipt, build_receipt, verify_receipt
from ledger.transaction import decode_transaction_untrusted
from tests.testkit.ledger import Chain, key_of, make_certificate, make_genesis, node_key, sign_all, validator
from wire.certificate import CommitCertificate, acknowledgement_message, encode_commit_certificate
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.limits import MEBIBYTE


@pytest.fixture(scope="module")
def chain() -> Chain:
    """Every founding validator is replaced, one after the other, with learners in between; a transaction in each era."""
    chain = Chain(make_genesis(validators=3))
    chain.register("web1@acme", "host")
    for old, new in ((1, 4), (2, 5), (3, 6)):
        chain.elect(old)  # counted from 0: the validator after the one that goes
        chain.add_learner(new)
        note(chain, f"learner-{new}")
        chain.adopt(actions.ReplaceValidator(f"v{old}", f"v{new}"))
        note(chain, f"joint-{new}")
        chain.settle()
        note(chain, f"plain-{new}")
    chain.elect(4)
    chain.add_learner(7)
    chain.add_learner(8)
    chain.adopt(actions.PromoteLearner("v7"))
    note(chain, "still-joint")
    return chain


def note(chain: Chain, target: str) -> None:
    chain.submit(bodies.HostReport("drift", target, b""), "web1@acme")


def tx_ids(chain: Chain) -> list[bytes]:
    return [decode_transaction_untrusted(raw).tx_id for block in chain.blocks for raw in block.transactions]


def travelled(receipt: Receipt) -> Receipt:
    return Receipt.from_json_untrusted(json.loads(json.dumps(receipt.to_json())))


def test_every_transaction_of_every_era_has_a_receipt(chain: Chain) -> None:
    changes = set()
    for tx_id in tx_ids(chain):
        receipt = travelled(build_receipt(chain.store, tx_id))
        assert verify_receipt(receipt, chain.genesis).tx_id == tx_id
        changes.add(0 if receipt.configuration is None else len(receipt.configuration.changes))
    assert changes == {0, 1, 2, 3}
    assert "configuration" not in build_receipt(chain.store, tx_ids(chain)[0]).to_json()


def test_the_proof_ends_with_the_configuration_of_its_height(chain: Chain) -> None:
    for block in chain.blocks:
        proof = build_configuration_proof(chain.store, block.header.height)
        assert proof.configuration.hash == block.header.validators_hash
        assert proof.is_founding == (block.header.validators_hash == chain.blocks[0].header.validators_hash)
        read = ConfigurationProof.from_value_untrusted(decode_untrusted(encode(proof.to_value()), bytes_max=MEBIBYTE))
        assert read == proof
        assert verify_configuration_proof(read, chain.genesis.chain_id, chain.genesis.validators) == proof.configuration


def change_at(proof: ConfigurationProof, index: int, **parts: object) -> ConfigurationProof:
    changes = list(proof.changes)
    changes[index] = replace(changes[index], **parts)  # type: ignore[arg-type]
    return replace(proof, changes=tuple(changes))


def own_change(chain: Chain) -> ConfigurationChange:
    """Return a change by which a stranger with good certificates of his own keys takes over."""
    mine = ValidatorSet((validator(9),))
    joint = Configuration(mine, mine)
    header = replace(chain.blocks[-1].header, validators_hash=joint.hash)
    message = acknowledgement_message(header.chain_id, header.term, header.height, header.hash())
    certificate = CommitCertificate(header.term, header.height, header.hash(), sign_all([node_key(9)], message))
    return ConfigurationChange(joint, header, certificate)


TAMPERED: list[tuple[str, Callable[[ConfigurationProof, Chain], ConfigurationProof], str]] = [
    ("a change is left out", lambda proof, _: replace(proof, changes=proof.changes[1:]), "ledger.proof.configuration"),
    (
        "the last one is left out",
        lambda proof, _: replace(proof, changes=proof.changes[:-1]),
        "ledger.proof.configuration",
    ),
    (
        "two stand in the wrong order",
        lambda proof, _: replace(proof, changes=(proof.changes[1], proof.changes[0], proof.changes[2])),
        "ledger.proof.configuration",
    ),
    (
        "one stands twice",
        lambda proof, _: replace(proof, changes=(proof.changes[0], *proof.changes)),
        "ledger.proof.configuration",
    ),
    (
        "a stranger takes over",
        lambda proof, chain: replace(proof, changes=(*proof.changes, own_change(chain))),
        "ledger.proof.configuration",
    ),
    (
        "another network",
        lambda proof, _: change_at(proof, 0, header=replace(proof.changes[0].header, chain_id="other-net")),
        "ledger.proof.configuration",
    ),
    (
        "no joint configuration",
        lambda proof, _: change_at(proof, 0, configuration=Configuration(proof.changes[0].configuration.voters)),
        "ledger.proof.configuration",
    ),
    (
        "other incoming validators",
        lambda proof, _: change_at(
            proof, 0, configuration=replace(proof.changes[0].configuration, incoming=ValidatorSet((validator(9),)))
        ),
        "ledger.proof.validators",
    ),
    (
        "another header",
        lambda proof, _: change_at(proof, 0, header=replace(proof.changes[0].header, time_ms=5)),
        "ledger.proof.certificate",
    ),
    (
        "the end is another configuration",
        lambda proof, _: replace(proof, configuration=Configuration(ValidatorSet((validator(9),)))),
        "ledger.proof.configuration",
    ),
]


@pytest.mark.parametrize(("what", "tamper", "code"), TAMPERED, ids=[name for name, _, _ in TAMPERED])
def test_a_tampered_proof_is_refused(
    chain: Chain, what: str, tamper: Callable[[ConfigurationProof, Chain], ConfigurationProof], code: str
) -> None:
    proof = build_configuration_proof(chain.store, chain.height)
    with pytest.raises(RejectedError) as refused:
        verify_configuration_proof(tamper(proof, chain), chain.genesis.chain_id, chain.genesis.validators)
    assert refused.value.code == code, what


def test_a_change_without_both_majorities_is_refused(chain: Chain) -> None:
    proof = build_configuration_proof(chain.store, chain.height)
    change = proof.changes[0]
    only_old = replace(
        change.certificate,
        signatures=make_certificate(
            chain.genesis.chain_id, [node_key(1), node_key(2)], _block(chain, change)
        ).signatures,
    )
    with pytest.raises(RejectedError) as refused:
        verify_configuration_proof(
            change_at(proof, 0, certificate=only_old), chain.genesis.chain_id, chain.genesis.validators
        )
    assert refused.value.code == "wire.certificate.too_few"


def _block(chain: Chain, change: ConfigurationChange):  # type: ignore[no-untyped-def]
    return chain.blocks[change.header.height]


def test_a_receipt_does_not_do_without_its_proof(chain: Chain) -> None:
    receipt = build_receipt(chain.store, tx_ids(chain)[-1])
    for without in (
        replace(receipt, configuration=None),
        replace(receipt, configuration=build_configuration_proof(chain.store, 20)),
    ):
        with pytest.raises(ProofRefusedError) as refused:
            verify_receipt(without, chain.genesis)
        assert refused.value.code == "ledger.proof.validators"
    with pytest.raises(ProofRefusedError) as refused:
        verify_receipt(receipt, make_genesis(validators=4))
    assert refused.value.code == "ledger.proof.configuration"


@pytest.mark.parametrize("value", ["", "AA==", "wCA=", 5])
def test_a_proof_in_a_receipt_has_its_form(chain: Chain, value: object) -> None:
    document = build_receipt(chain.store, tx_ids(chain)[-1]).to_json()
    with pytest.raises(ProofRefusedError) as refused:
        Receipt.from_json_untrusted({**document, "configuration": value})
    assert refused.value.code == "ledger.receipt.malformed"


def test_forms_of_proofs_are_checked() -> None:
    for value in (None, (), ((), b""), ((5,), b"\xc0"), (((b"", b"", b""),), b"\xc0")):
        with pytest.raises(MalformedError):
            ConfigurationProof.from_value_untrusted(value)


# Audits


def fed(chain: Chain) -> list[tuple[bytes, bytes | None]]:
    return [(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]


@pytest.mark.parametrize("level", list(AuditLevel))
def test_an_audit_follows_every_change(chain: Chain, level: AuditLevel) -> None:
    auditor = Auditor(chain.genesis, level=level)
    for block, certificate in fed(chain):
        assert auditor.feed(block, certificate) == ()
    summary = auditor.finish()
    assert summary.findings == ()
    assert summary.certified_height == chain.height


@pytest.mark.parametrize("level", [AuditLevel.SIGNATURES, AuditLevel.FULL])
def test_old_validators_certify_nothing_new(chain: Chain, level: AuditLevel) -> None:
    blocks = fed(chain)
    last = chain.blocks[-1]
    old = make_certificate(chain.genesis.chain_id, [node_key(1), node_key(2)], last)
    blocks[-1] = (last.raw, encode_commit_certificate(old))
    auditor = Auditor(chain.genesis, level=level)
    for block, certificate in blocks:
        auditor.feed(block, certificate)
    found = auditor.finish().findings
    assert [(each.height, each.what) for each in found] == [
        (last.header.height, "wire.certificate.stranger"),
        (last.header.height, "ledger.audit.not_certified"),
    ]


@pytest.mark.parametrize("level", list(AuditLevel))
def test_a_configuration_that_follows_from_nothing_is_found(chain: Chain, level: AuditLevel) -> None:
    """Validators that collude name other validators than their blocks lead to."""
    at = next(index for index, block in enumerate(chain.blocks) if index and block.header.proposer)
    mine = Configuration(ValidatorSet((validator(9),)))
    block = chain.blocks[at]
    proposer = next(key for key in chain.node_keys if key.public_key.key_id == block.header.proposer)
    forged = chain.forge(block, signer=proposer, validators_hash=mine.hash)
    auditor = Auditor(chain.genesis, level=level)
    for raw, certificate in [(block.raw, None) for block in chain.blocks[1:at]] + [(forged.raw, None)]:
        auditor.feed(raw, certificate)
    (found, *_) = auditor.finish().findings
    assert (found.height, found.what, found.actual) == (at, "ledger.block.validators_hash", mine.hash.hex())


def test_the_follower_bears_garbage_and_bounds_its_search() -> None:
    """A block of a dozen learners and as many votes still has an answer; one of more is given up, and nothing breaks."""
    chain = Chain(make_genesis(validators=1))
    follower = ConfigurationFollower(chain.view.configuration())
    learners = [validator(index) for index in range(50, 66)]
    proposals = [chain.sign(bodies.ProposalCreate(actions.AddLearner(each), ""), "ada@acme") for each in learners]
    chain.commit(*proposals)
    follower.follow(chain.blocks[-1])
    for voter in ("ada@acme", "ben@beta"):
        votes = [chain.sign(bodies.ProposalVote(each.tx_id, True), voter) for each in proposals[:10]]
        chain.commit(*votes)
        assert follower.follow(chain.blocks[-1]) == chain.view.configuration()
    assert len(follower.configuration.learners) == 10
    garbage = chain.forge(chain.build().block, transactions=(b"proposal.vote", chain.build().block.raw))
    assert follower.follow(garbage) == follower.configuration
    stranger = chain.sign(bodies.ProposalVote(bytes(32), True), "ada@acme")
    idle = chain.sign(bodies.HostReport("drift", "t", b"proposal.vote"), "ada@acme")
    block = chain.forge(chain.build().block, transactions=(stranger.raw, idle.raw))
    assert follower.follow(block) == follower.configuration
    assert CANDIDATES_MAX >= 2**12


def test_a_settlement_in_a_chain_without_change_leads_nowhere() -> None:
    chain = Chain(make_genesis(validators=1))
    body = bodies.ValidatorSettle(chain.blocks[0].header, make_certificate("x", [key_of("x")], chain.blocks[0]))
    block = chain.forge(chain.build().block, transactions=(chain.sign(body, "", key=node_key(1)).raw,))
    follower = ConfigurationFollower(chain.view.configuration())
    assert follower.follow(block) == chain.view.configuration()


def test_the_follower_s_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both votes for the same learner in one block lead to one configuration; beyond the bound the search gives up."""
    chain = Chain(make_genesis(validators=1))
    proposals = [chain.sign(bodies.ProposalCreate(actions.AddLearner(validator(i)), ""), "ada@acme") for i in (5, 6)]
    first, second = [
        [chain.sign(bodies.ProposalVote(each.tx_id, True), voter) for voter in ("ada@acme", "ben@beta")]
        for each in proposals
    ]
    before = chain.view.configuration()
    chain.commit(*proposals, *first, *second)
    assert ConfigurationFollower(before).follow(chain.blocks[-1]) == chain.view.configuration()
    monkeypatch.setattr("ledger.audit_membership.CANDIDATES_MAX", 2)
    assert ConfigurationFollower(before).follow(chain.blocks[-1]) == before
