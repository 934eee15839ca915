"""Recoveries: who may decide one, which block it makes, and that everybody who verifies a chain follows it and shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import actions, bodies
from ledger.archive import ArchivedBlock
from ledger.audit import AuditLevel, Auditor, AuditSummary
from ledger.audit_state import decode_audit_state_untrusted
from ledger.blame import History, Verdict, find_guilty
from ledger.block import build_raw_block
from ledger.checkpoint import build_checkpoint
from ledger.configuration import Validator, ValidatorSet, make_validator_set
from ledger.configuration_history import (
    ConfigurationProof,
    build_configuration_proof,
    verify_configuration_proof,
)
from ledger.errors import BlockRefusedError, ProofRefusedError
from ledger.keyspace import NETWORK_KEY, MemoryStore
from ledger.light import LightClient
from ledger.proofs import build_receipt, verify_receipt
from ledger.recovery import TERMS_AHEAD, Recovery, approve
from ledger.recovery_block import find_recovery, recovery_transaction
from ledger.snapshot import SnapshotBuilder
from ledger.snapshot_install import SnapshotInstaller
from ledger.state import StateView
from ledger.state_tree import prove
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import build_recovery_block, check_transaction, execute_block
from ledger.trust import TrustedHead
from tests.testkit.ledger import Chain, make_certificate, make_genesis, node_key, validator
from tests.testkit.recovery import SIGNERS, make_recovery, recover, sign, survivors_of
from wire.certificate import encode_commit_certificate
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.limits import TX_BYTES_MAX


@pytest.fixture
def chain() -> Chain:
    """Four validators of three organisations; block 3 is the last."""
    chain = Chain()
    for name in ("dora@acme", "bert@beta", "cleo@gamma"):
        chain.register(name, "developer")
    return chain


def go_on(chain: Chain) -> None:
    """Commit two blocks after a recovery; the first one brings the first election of the new validators."""
    chain.register("erna@acme", "developer")
    chain.register("emil@beta", "developer")


def audit(chain: Chain, level: AuditLevel = AuditLevel.FULL) -> AuditSummary:
    auditor = Auditor(chain.genesis, level=level)
    for block in chain.blocks[1:]:
        certificate = chain.view.certificate(block.header.height)
        auditor.feed(block.raw, certificate)
    return auditor.finish()


def code_of(recovery: Recovery) -> str:
    with pytest.raises(RejectedError) as refusal:
        recovery.verify()
    return refusal.value.code


# Who may decide


def test_a_recovery_holds_with_the_signatures_of_a_governance_quorum(chain: Chain) -> None:
    make_recovery(chain).verify()
    make_recovery(chain, signers=("gil@gamma", "ada@acme")).verify()


@pytest.mark.parametrize("signers", [(), ("ada@acme",)])
def test_too_few_signatures_are_refused(chain: Chain, signers: tuple[str, ...]) -> None:
    assert code_of(make_recovery(chain, signers=signers)) == "ledger.recovery.too_few"


@pytest.mark.parametrize(("threshold", "enough"), [("majority", 2), ("two-thirds", 2), ("unanimous", 3)])
def test_the_threshold_is_that_of_governance(threshold: str, enough: int) -> None:
    chain = Chain(genesis=make_genesis(threshold=threshold))
    chain.register("dora@acme", "developer")
    people = ("ada@acme", "ben@beta", "gil@gamma")
    make_recovery(chain, signers=people[:enough]).verify()
    assert code_of(make_recovery(chain, signers=people[: enough - 1])) == "ledger.recovery.too_few"


def test_two_administrators_of_one_organisation_are_one_signature(chain: Chain) -> None:
    chain.register("anna@acme", "administrator")
    recovery = make_recovery(chain, signers=("ada@acme", "anna@acme"))
    assert [each.identity_id for each in recovery.approvals] == ["anna@acme"]
    twice = replace(recovery, approvals=(*make_recovery(chain, signers=("ada@acme",)).approvals, *recovery.approvals))
    assert code_of(twice) == "ledger.recovery.order"


@pytest.mark.parametrize("name", ["dora@acme", "bert@beta"])
def test_who_is_no_administrator_cannot_sign(chain: Chain, name: str) -> None:
    recovery = make_recovery(chain, signers=("gil@gamma", name))
    assert code_of(recovery) == "ledger.recovery.not_administrator"


def test_a_suspended_administrator_cannot_sign(chain: Chain) -> None:
    chain.register("anna@acme", "administrator")
    chain.submit(bodies.IdentitySuspend("ada@acme", "left"), "anna@acme")
    assert code_of(make_recovery(chain)) == "ledger.recovery.not_administrator"
    make_recovery(chain, signers=("anna@acme", "ben@beta")).verify()


def test_a_revoked_key_cannot_sign(chain: Chain) -> None:
    old = chain.key("ben@beta").public_key.key_id
    chain.adopt(actions.RevokeKey(old, chain.height, "stolen"))
    assert code_of(make_recovery(chain)) == "ledger.recovery.not_administrator"


def test_an_organisation_without_a_vote_cannot_sign(chain: Chain) -> None:
    chain.adopt(actions.SuspendOrganisation("beta", "gone"))
    # Two of two are left, so both must sign.
    assert code_of(make_recovery(chain)) == "ledger.recovery.not_administrator"
    assert code_of(make_recovery(chain, signers=("ada@acme",))) == "ledger.recovery.too_few"
    make_recovery(chain, signers=("ada@acme", "gil@gamma")).verify()


def test_a_signature_of_another_statement_does_not_hold(chain: Chain) -> None:
    recovery = make_recovery(chain)
    assert (
        code_of(replace(recovery, statement=replace(recovery.statement, reason="another"))) == "wire.signature.invalid"
    )


def test_records_must_stand_under_the_header_that_is_kept(chain: Chain) -> None:
    recovery = make_recovery(chain)
    other = Chain(genesis=chain.genesis)
    other.register("zoe@acme", "developer")
    foreign = make_recovery(other)
    assert code_of(replace(recovery, governance=foreign.governance)) == "ledger.proof.state"
    assert code_of(replace(recovery, approvals=foreign.approvals)) == "ledger.proof.state"
    empty = replace(recovery, governance=replace(recovery.governance, value=b"\x90"))
    assert code_of(empty) == "ledger.proof.state"


def test_a_record_that_is_none_is_refused(chain: Chain) -> None:
    """What stands under the state root, at a key that is not asked for."""
    recovery = make_recovery(chain, signers=("ada@acme",))
    (approval,) = recovery.approvals
    network = prove(chain.store, NETWORK_KEY)
    assert code_of(replace(recovery, approvals=(replace(approval, key=network),))) == "ledger.recovery.record"
    absent = replace(recovery, governance=prove(chain.store, b"nothing"))
    assert code_of(absent) == "ledger.recovery.record"


# What may be decided


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"term": 1}, "ledger.recovery.term"),
        ({"time_ms": 0}, "ledger.recovery.time"),
        ({"log_height": 2}, "ledger.recovery.log_height"),
        ({"voters": ValidatorSet()}, "ledger.recovery.voters"),
        ({"voters": make_validator_set((validator(1), replace(validator(9), name="v1")))}, "ledger.recovery.voters"),
        ({"voters": make_validator_set((replace(validator(9), organisation="delta"),))}, "ledger.recovery.voters"),
    ],
)
def test_a_statement_that_cannot_be_made_is_refused(chain: Chain, changes: dict[str, object], code: str) -> None:
    assert code_of(make_recovery(chain, **changes)) == code  # type: ignore[arg-type]


def test_a_recovery_takes_somebody_away(chain: Chain) -> None:
    everybody = ("v1", "v2", "v3", "v4")
    assert code_of(make_recovery(chain, everybody)) == "ledger.recovery.voters"
    more = survivors_of(chain, everybody).with_validator(validator(9))
    assert code_of(make_recovery(chain, more)) == "ledger.recovery.voters"
    make_recovery(chain, ("v1", "v2")).verify()


def test_the_header_must_be_certified_by_the_validators_before(chain: Chain) -> None:
    recovery = make_recovery(chain)
    lone = replace(recovery.certificate, signatures=recovery.certificate.signatures[:1])
    assert code_of(replace(recovery, certificate=lone)) == "wire.certificate.too_few"
    strangers = replace(recovery, configuration=recovery.statement.configuration)
    assert code_of(strangers) == "ledger.proof.validators"


def test_a_recovery_has_one_encoding(chain: Chain) -> None:
    recovery = make_recovery(chain)
    transaction = recovery_transaction(recovery)
    assert decode_transaction_untrusted(transaction.raw).body == recovery
    assert (
        Recovery.from_value_untrusted(decode_untrusted(encode(recovery.to_value()), bytes_max=TX_BYTES_MAX)) == recovery
    )


# The block


def test_the_block_follows_from_the_recovery_alone_and_the_network_goes_on(chain: Chain) -> None:
    recovery = make_recovery(chain)
    block = recover(chain, recovery).block
    twin = Chain(genesis=chain.genesis)
    for each in chain.blocks[1:-1]:
        twin.apply(each)
    assert build_recovery_block(twin.store, recovery).block == block
    executed = execute_block(twin.store, block, now_ms=None)
    assert executed.configuration == recovery.statement.configuration
    assert find_recovery(block) == recovery
    go_on(chain)
    view = chain.view
    assert [each.name for each in view.configuration().voters] == ["v1"]
    assert view.retired_validator(node_key(2).public_key.key_id) is not None
    assert view.retired_validator(node_key(1).public_key.key_id) is None
    assert chain.blocks[-1].header.term == recovery.statement.term + 1


def test_a_leader_cannot_bring_a_recovery(chain: Chain) -> None:
    recovery = make_recovery(chain)
    block = build_recovery_block(chain.store, recovery).block
    with pytest.raises(BlockRefusedError) as refusal:
        execute_block(chain.store, block, now_ms=block.header.time_ms)
    assert refusal.value.code == "ledger.block.recovery_by_hand"
    with pytest.raises(RejectedError) as misplaced:
        check_transaction(chain.store, recovery_transaction(recovery), verified=False)
    assert misplaced.value.code == "ledger.recovery.misplaced"
    built = chain.build(recovery_transaction(recovery))
    assert built.block.transactions == ()


def refused_block(chain: Chain, **changes: object) -> tuple[str, str]:
    """Return the code and the cause with which a recovery block that was changed is refused."""
    block = build_recovery_block(chain.store, make_recovery(chain)).block
    parts = {
        "header": block.header,
        "transactions": block.transactions,
        "proposer_signature": b"",
        "election": None,
        **changes,
    }
    header = parts["header"]
    if isinstance(header, dict):
        parts["header"] = replace(block.header, **header)
    forged = build_raw_block(**parts)  # type: ignore[arg-type]
    with pytest.raises(BlockRefusedError) as refusal:
        execute_block(chain.store, forged, now_ms=None)
    return refusal.value.code, str(refusal.value.details.get("cause", ""))


def test_a_block_without_proposer_is_a_recovery_in_its_one_form(chain: Chain) -> None:
    few = recovery_transaction(make_recovery(chain, signers=("ada@acme",))).raw
    other = chain.sign(bodies.IdentitySuspend("dora@acme", ""), "ada@acme").raw
    assert refused_block(chain, transactions=(few,)) == ("ledger.block.recovery", "ledger.recovery.too_few")
    for transactions in ((), (other,), (few, few)):
        assert refused_block(chain, transactions=transactions)[0] == "ledger.block.recovery"
    for changes in (
        {"proposer_signature": bytes(64)},
        {"election": b"x"},
        {"header": {"term": 7}},
        {"header": {"time_ms": 2**50}},
    ):
        assert refused_block(chain, **changes)[0] == "ledger.block.recovery"
    for changes in ({"header": {"height": 9}}, {"header": {"state_root": bytes(32)}}):
        assert refused_block(chain, **changes)[0].startswith("ledger.block.")


def test_a_recovery_stands_right_above_the_header_that_it_keeps(chain: Chain) -> None:
    recovery = make_recovery(chain)
    twin = Chain(genesis=chain.genesis)
    for name in ("dora@acme", "bert@beta", "carl@gamma"):
        twin.register(name, "developer")
    with pytest.raises(RejectedError) as refusal:
        build_recovery_block(twin.store, recovery)
    assert refusal.value.code == "ledger.recovery.wrong_parent"
    chain.register("late@acme", "developer")
    with pytest.raises(RejectedError) as later:
        build_recovery_block(chain.store, recovery)
    assert later.value.code == "ledger.tx.expired"


def test_another_form_of_the_same_transaction_is_refused(chain: Chain) -> None:
    recovery = make_recovery(chain)
    values = decode_untrusted(recovery_transaction(recovery).raw, bytes_max=TX_BYTES_MAX)
    assert isinstance(values, tuple)
    other = encode((*values[:5], bytes(16), *values[6:]))
    assert refused_block(chain, transactions=(other,)) == ("ledger.block.transaction", "ledger.recovery.form")


def test_no_byte_of_a_recovery_can_be_changed(chain: Chain) -> None:
    block = build_recovery_block(chain.store, make_recovery(chain)).block
    (raw,) = block.transactions
    for place in range(0, len(raw), 11):
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        forged = build_raw_block(block.header, (bytes(changed),), b"", None)
        with pytest.raises(BlockRefusedError):
            execute_block(chain.store, forged, now_ms=None)


def test_a_key_that_left_never_comes_back(chain: Chain) -> None:
    chain.add_learner(5)
    chain.adopt(actions.RemoveValidator("v5"))
    voters = make_validator_set((validator(5),))
    with pytest.raises(RejectedError) as refusal:
        build_recovery_block(chain.store, make_recovery(chain, voters))
    assert refusal.value.code == "ledger.recovery.key_retired"


def test_nobody_need_survive(chain: Chain) -> None:
    """An archive and a new node are enough."""
    fresh = Validator("n1", "gamma", node_key(9).public_key.spki, "/ip4/127.0.0.1/tcp/9")
    chain.node_keys.append(node_key(9))
    recover(chain, make_recovery(chain, make_validator_set((fresh,))))
    go_on(chain)
    assert audit(chain).findings == ()


# Who verifies


@pytest.mark.parametrize("level", list(AuditLevel))
def test_an_audit_passes_and_shows_the_mark(chain: Chain, level: AuditLevel) -> None:
    recover(chain, make_recovery(chain, ("v1", "v2")))
    go_on(chain)
    summary = audit(chain, level)
    assert summary.findings == ()
    assert summary.certified_height == chain.height
    (mark,) = summary.recoveries
    assert (mark.height, mark.kept_height, mark.term) == (4, 3, 1 + TERMS_AHEAD)
    assert mark.signers == SIGNERS
    assert set(mark.voters) == {"v1", "v2"}
    assert mark.reason == "the data centre burnt down"


def test_an_audit_that_goes_on_later_remembers_the_mark(chain: Chain) -> None:
    recover(chain, make_recovery(chain))
    go_on(chain)
    store = MemoryStore()
    auditor = Auditor(chain.genesis, store=store)
    for block in chain.blocks[1:5]:
        auditor.feed(block.raw, chain.view.certificate(block.header.height))
    state = decode_audit_state_untrusted(auditor.suspend().encode())
    resumed = Auditor.resume(chain.genesis, state, store, level=AuditLevel.FULL)
    for block in chain.blocks[5:]:
        resumed.feed(block.raw, chain.view.certificate(block.header.height))
    assert len(resumed.finish().recoveries) == 1


@pytest.mark.parametrize("level", [AuditLevel.SIGNATURES, AuditLevel.FULL])
def test_an_audit_finds_a_recovery_with_too_few_signatures(chain: Chain, level: AuditLevel) -> None:
    honest = Chain(genesis=chain.genesis)
    for block in chain.blocks[1:]:
        honest.apply(block)
    recover(chain, make_recovery(chain))
    forged = chain.blocks[-1]
    few = recovery_transaction(make_recovery(honest, signers=("ada@acme",)))
    auditor = Auditor(chain.genesis, level=level)
    for block in chain.blocks[1:-1]:
        auditor.feed(block.raw, chain.view.certificate(block.header.height))
    auditor.feed(build_raw_block(forged.header, (few.raw,), b"", None).raw, None)
    found = {(each.height, each.what) for each in auditor.finish().findings}
    assert (4, "ledger.block.recovery") in found


def test_the_proof_of_the_validators_leads_across(chain: Chain) -> None:
    recovery = make_recovery(chain)
    recover(chain, recovery)
    go_on(chain)
    proof = build_configuration_proof(chain.store, chain.height)
    assert proof.recoveries == (recovery,)
    again = ConfigurationProof.from_value_untrusted(decode_untrusted(encode(proof.to_value()), bytes_max=TX_BYTES_MAX))
    assert again == proof
    founders = chain.genesis.validators
    assert verify_configuration_proof(proof, chain.genesis.chain_id, founders).voters == recovery.after
    few = replace(proof, changes=(replace(recovery, approvals=recovery.approvals[:1]),))
    with pytest.raises(ProofRefusedError) as refusal:
        verify_configuration_proof(few, chain.genesis.chain_id, founders)
    assert refusal.value.code == "ledger.recovery.too_few"


def test_validators_change_after_a_recovery_and_recover_again(chain: Chain) -> None:
    recover(chain, make_recovery(chain, ("v1", "v2")))
    go_on(chain)
    chain.add_learner(5)
    chain.adopt(actions.PromoteLearner("v5"))
    chain.settle()
    chain.register("fred@acme", "developer")
    recover(chain, make_recovery(chain, ("v5",)))
    chain.register("gwen@acme", "developer")
    summary = audit(chain)
    assert summary.findings == ()
    assert len(summary.recoveries) == 2
    proof = build_configuration_proof(chain.store, chain.height)
    assert len(proof.changes) == 3
    verify_configuration_proof(proof, chain.genesis.chain_id, chain.genesis.validators)


def test_a_recovery_in_the_middle_of_a_change(chain: Chain) -> None:
    chain.add_learner(5)
    chain.adopt(actions.PromoteLearner("v5"))
    assert chain.view.configuration().is_joint
    recover(chain, make_recovery(chain, ("v5", "v1")))
    go_on(chain)
    assert audit(chain).findings == ()
    proof = build_configuration_proof(chain.store, chain.height)
    verify_configuration_proof(proof, chain.genesis.chain_id, chain.genesis.validators)


def test_receipts_verify_from_the_founding_document(chain: Chain) -> None:
    before = decode_transaction_untrusted(chain.blocks[2].transactions[0])
    recover(chain, make_recovery(chain))
    go_on(chain)
    after = decode_transaction_untrusted(chain.blocks[-1].transactions[0])
    mark = decode_transaction_untrusted(chain.blocks[4].transactions[0])
    for each in (before, after, mark):
        assert verify_receipt(build_receipt(chain.store, each.tx_id), chain.genesis) == each


@pytest.mark.parametrize("height", [0, 1, 3])
def test_a_light_client_follows_from_below(chain: Chain, height: int) -> None:
    client = LightClient.from_genesis(chain.genesis)
    if height:
        client = LightClient.from_checkpoint(build_checkpoint(chain.store, height))
    recover(chain, make_recovery(chain))
    go_on(chain)
    checkpoint = build_checkpoint(chain.store)
    head = client.check(checkpoint)
    assert head.height == chain.height
    assert checkpoint.configuration.recoveries


@pytest.mark.parametrize(("rounds", "code"), [(1, "ledger.light.split_view"), (3, "ledger.proof.abandoned")])
def test_a_light_client_that_saw_more_refuses_and_says_why(chain: Chain, rounds: int, code: str) -> None:
    """Where headers contradict each other there is a split view; from a header above all that was seen, the recovery is named."""
    survivor = Chain(genesis=chain.genesis)
    for block in chain.blocks[1:]:
        survivor.apply(block)
    for number in range(4):
        chain.register(f"lost{number}@acme", "developer")
    seen = build_checkpoint(chain.store)
    recover(survivor, make_recovery(survivor))
    for number in range(2 * rounds):
        survivor.register(f"later{number}@acme", "developer")
    client = LightClient.from_genesis(chain.genesis).advance(seen, None)
    with pytest.raises(ProofRefusedError) as refusal:
        client.check(build_checkpoint(survivor.store))
    assert refusal.value.code == code
    with pytest.raises(ProofRefusedError) as begun:
        LightClient.from_checkpoint(seen).check(build_checkpoint(survivor.store))
    assert begun.value.code == "ledger.proof.abandoned"
    assert isinstance(client.head, TrustedHead)


def test_a_node_begins_from_a_snapshot_above_a_recovery(chain: Chain) -> None:
    recover(chain, make_recovery(chain))
    go_on(chain)
    builder = SnapshotBuilder(chain.store)
    chunks = list(builder.chunks())
    store = MemoryStore()
    installer = SnapshotInstaller(builder.manifest(), chain.genesis, store)
    for chunk in chunks:
        store.apply(installer.feed_untrusted(chunk))
    store.apply(installer.finish())
    assert StateView(store).header == chain.view.header
    assert build_configuration_proof(store, chain.height) == build_configuration_proof(chain.store, chain.height)


def test_a_signature_takes_the_place_of_a_colleagues(chain: Chain) -> None:
    chain.register("anna@acme", "administrator")
    recovery = make_recovery(chain)
    again = sign(chain, recovery, "anna@acme")
    assert [each.identity_id for each in again.approvals] == ["anna@acme", "ben@beta"]
    again.verify()
    with pytest.raises(AssertionError):
        approve(recovery, again.approvals[0], node_key(1))


def test_certificates_of_the_new_validators_are_needed_above(chain: Chain) -> None:
    """The lost majority's certificates do not count any more."""
    old_keys = list(chain.node_keys)
    recover(chain, make_recovery(chain))
    chain.register("erna@acme", "developer")
    forged = make_certificate(chain.genesis.chain_id, old_keys[1:4], chain.blocks[-1])
    auditor = Auditor(chain.genesis)
    for block in chain.blocks[1:]:
        own = chain.view.certificate(block.header.height)
        certificate = encode_commit_certificate(forged) if block is chain.blocks[-1] else own
        auditor.feed(block.raw, certificate)
    assert "wire.certificate.stranger" in {each.what for each in auditor.finish().findings}


# Who answers for it


def archived(chain: Chain) -> list[ArchivedBlock]:
    """Return the chain's blocks as a history has them."""
    return [ArchivedBlock(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]


def copy(chain: Chain) -> Chain:
    twin = Chain(genesis=chain.genesis)
    for block in chain.blocks[1:]:
        twin.apply(block)
    return twin


def judge(one: Chain, other: Chain) -> Verdict:
    verdict = find_guilty(History("one", archived(one)), History("other", archived(other)), one.genesis)
    assert verdict.is_conflict
    assert verdict.blames == (), "no validator has lied"
    assert verdict.problems == ()
    return verdict


def test_two_recoveries_that_contradict_each_other_name_those_who_signed_both(chain: Chain) -> None:
    other = copy(chain)
    recover(chain, make_recovery(chain, ("v1",), ("ada@acme", "ben@beta")))
    recover(other, make_recovery(other, ("v2",), ("ben@beta", "gil@gamma")))
    other.leader = 0
    go_on(chain)
    go_on(other)
    verdict = judge(chain, other)
    assert [name for name, _ in verdict.recoveries] == ["one", "other"]
    assert verdict.recovery_signers == ("ben@beta",)


def test_one_statement_under_different_signatures_accuses_no_signer(chain: Chain) -> None:
    """Its validators are the same on both sides, so whoever made both histories is one of them."""
    other = copy(chain)
    recover(chain, make_recovery(chain))
    recover(other, sign(other, make_recovery(other), "gil@gamma"))
    go_on(chain)
    go_on(other)
    verdict = find_guilty(History("one", archived(chain)), History("other", archived(other)), chain.genesis)
    assert verdict.recovery_signers == ()
    assert verdict.guilty == (node_key(1).public_key.key_id,)


def test_a_majority_that_was_not_lost_leaves_the_signers_to_answer(chain: Chain) -> None:
    other = copy(chain)
    recover(chain, make_recovery(chain))
    go_on(chain)
    other.elect(1)
    other.node_keys = [node_key(number) for number in (2, 3, 4)]
    other.leader = 0
    go_on(other)
    verdict = judge(chain, other)
    assert verdict.recovery_signers == SIGNERS


def test_a_survivors_former_promises_do_not_convict_it(chain: Chain) -> None:
    """It acknowledged a block that was dropped, and votes for itself upon the recovery."""
    other = copy(chain)
    other.register("dropped@acme", "developer")
    assert node_key(1).public_key.key_id in dict(other.certificate(other.blocks[-1]).signatures)
    recover(chain, make_recovery(chain, log_height=chain.height + 1))
    go_on(chain)
    assert judge(chain, other).recovery_signers == SIGNERS


def test_a_fork_below_a_recovery_is_not_its_signers_doing(chain: Chain) -> None:
    other = copy(chain)
    other.elect(1)
    chain.register("anna@acme", "developer")
    recover(chain, make_recovery(chain))
    go_on(chain)
    go_on(other)
    verdict = find_guilty(History("one", archived(chain)), History("other", archived(other)), chain.genesis)
    assert verdict.is_conflict
    assert verdict.recovery_signers == ()
    assert verdict.blames, "here validators lied"
