"""Validators come and go: actions, joint configurations, their certificates and elections, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger import actions, bodies
from ledger.block import Block, Header
from ledger.certificate import verify_block_certificate
from ledger.configuration import (
    Configuration,
    Validator,
    ValidatorSet,
    decode_configuration_untrusted,
    make_validator_set,
)
from ledger.configuration_history import build_configuration_proof, read_configuration_row
from ledger.errors import BlockRefusedError, LedgerCorruptionError
from ledger.keyspace import CONFIGURATION_KEY, VALIDATORS_KEY, MemoryStore, Overlay, Table, height_key
from ledger.limits import LEARNERS_MAX
from ledger.membership import change_configuration, settle_configuration
from ledger.records import OPEN
from ledger.settlement import find_settlement
from ledger.state import StateView
from ledger.transaction import SignatureJob, Transaction, check_signatures, decode_transaction_untrusted
from ledger.transition import build_block, execute_block, signature_jobs
from tests.testkit.ledger import (
    Chain,
    key_of,
    make_certificate,
    make_election,
    make_genesis,
    node_key,
    validator,
)
from wire.codec import encode
from wire.errors import InvalidCertificateError, MalformedError, RejectedError
from wire.hashing import Digest
from wire.keys import Algorithm, PrivateKey
from wire.limits import VALIDATORS_MAX


@pytest.fixture
def chain() -> Chain:
    """Voters v1 to v3 and the learner v4."""
    chain = Chain(make_genesis(validators=3))
    chain.add_learner(4)
    return chain


def names(validators: ValidatorSet | None) -> list[str] | None:
    return None if validators is None else sorted(each.name for each in validators)


def sets(configuration: Configuration) -> tuple[list[str] | None, ...]:
    """Return the names of voters, incoming, learners and those leaving."""
    parts = (configuration.voters, configuration.incoming, configuration.learners, configuration.leaving)
    return tuple(names(part) for part in parts)


def proposed(action: actions.Action) -> bodies.ProposalCreate:
    return bodies.ProposalCreate(action, "")


# What the actions do


def test_a_mere_set_of_voters_keeps_the_short_form() -> None:
    configuration = Configuration(make_genesis().validators)
    rows = tuple((each.name, each.organisation, each.spki, each.address) for each in configuration.voters)
    assert configuration.encode() == encode((1, rows))
    assert Configuration.decode(configuration.encode()) is Configuration.decode(configuration.encode())
    joint = replace(configuration, incoming=ValidatorSet(configuration.voters.validators[:1]))
    assert joint.encode() == encode((2, rows, rows[:1], (), ()))
    assert Configuration.decode(joint.encode()) == joint
    assert joint.hash != configuration.hash


def test_a_learner_is_there_at_once_and_decides_nothing(chain: Chain) -> None:
    configuration = chain.view.configuration()
    assert sets(configuration) == (["v1", "v2", "v3"], None, ["v4"], [])
    assert not configuration.is_joint
    assert chain.view.validators() == configuration.voters == chain.genesis.validators
    assert names(configuration.nodes) == ["v1", "v2", "v3", "v4"]
    assert configuration.learners.find_name("v4") == validator(4)
    learner = node_key(4).public_key.key_id
    assert learner not in configuration.members
    assert learner not in configuration.proposers
    assert configuration.quorums == (chain.genesis.validators.public_keys,)
    assert chain.blocks[-1].header.validators_hash == configuration.hash
    # The subject of its history is the configuration itself.
    assert [each.height for each in chain.view.history(VALIDATORS_KEY)] == [chain.height]


def test_a_promotion_goes_through_a_joint_configuration(chain: Chain) -> None:
    executed = chain.adopt(actions.PromoteLearner("v4"))
    joint = chain.view.configuration()
    assert executed.configuration == joint
    assert sets(joint) == (["v1", "v2", "v3"], ["v1", "v2", "v3", "v4"], [], [])
    assert joint.is_joint
    assert len(joint.quorums) == 2
    assert names(joint.nodes) == ["v1", "v2", "v3", "v4"]
    assert set(joint.members) == set(joint.proposers) == set(joint.nodes.public_keys)
    assert executed.block.header.validators_hash == joint.hash
    assert chain.commit().configuration is None, "an empty block changes nothing"
    settled = chain.settle()
    assert settled.configuration == chain.view.configuration()
    assert sets(chain.view.configuration()) == (["v1", "v2", "v3", "v4"], None, [], [])
    assert settled.block.header.validators_hash == chain.view.configuration().hash
    assert list(chain.view.retired_validators()) == []
    assert [each.height for each in chain.view.history(VALIDATORS_KEY)] == [3, executed.height, settled.height]


def test_a_voter_is_removed_and_its_key_never_comes_back(chain: Chain) -> None:
    chain.adopt(actions.RemoveValidator("v3"))
    assert sets(chain.view.configuration()) == (["v1", "v2", "v3"], ["v1", "v2"], ["v4"], [])
    assert chain.view.retired_validator(node_key(3).public_key.key_id) is None, "it still has a vote"
    chain.settle()
    assert sets(chain.view.configuration()) == (["v1", "v2"], None, ["v4"], ["v3"])
    retired = chain.view.retired_validator(node_key(3).public_key.key_id)
    assert retired is not None
    assert (retired.name, retired.retired_height) == ("v3", chain.height)
    assert list(chain.view.retired_validators()) == [retired]
    again = replace(validator(9), spki=node_key(3).public_key.spki)
    assert chain.refused(proposed(actions.AddLearner(again)), "ada@acme") == "ledger.proposal.validator_key_retired"
    # Its name and address are free at once, for a new incarnation.
    chain.adopt(actions.AddLearner(replace(validator(3), spki=node_key(33).public_key.spki)))
    assert sets(chain.view.configuration()) == (["v1", "v2"], None, ["v3", "v4"], ["v3"])


def test_a_learner_is_removed_at_once_and_for_ever(chain: Chain) -> None:
    chain.adopt(actions.RemoveValidator("v4"))
    assert sets(chain.view.configuration()) == (["v1", "v2", "v3"], None, [], [])
    assert chain.view.configuration().hash == chain.blocks[0].header.validators_hash
    refused = chain.refused(proposed(actions.AddLearner(validator(4))), "ada@acme")
    assert refused == "ledger.proposal.validator_key_retired"


def test_a_replacement_is_one_change(chain: Chain) -> None:
    chain.adopt(actions.ReplaceValidator("v1", "v4"))
    assert sets(chain.view.configuration()) == (["v1", "v2", "v3"], ["v2", "v3", "v4"], [], [])
    chain.settle()
    assert sets(chain.view.configuration()) == (["v2", "v3", "v4"], None, [], ["v1"])
    # Those leaving are forgotten when the next change ends.
    chain.elect(1)
    chain.adopt(actions.RemoveValidator("v3"))
    assert sets(chain.view.configuration()) == (["v2", "v3", "v4"], ["v2", "v4"], [], ["v1"])
    chain.settle()
    assert sets(chain.view.configuration()) == (["v2", "v4"], None, [], ["v3"])
    assert len(list(chain.view.retired_validators())) == 2


def test_a_network_of_one_replaces_its_only_validator() -> None:
    chain = Chain(make_genesis(validators=1))
    refused = chain.refused(proposed(actions.RemoveValidator("v1")), "ada@acme")
    assert refused == "ledger.proposal.last_validator"
    chain.add_learner(2)
    chain.adopt(actions.ReplaceValidator("v1", "v2"))
    joint = chain.view.configuration()
    assert len(chain.signers(joint)) == 2
    chain.settle()
    chain.elect(1)
    chain.commit()
    assert chain.blocks[-1].header.proposer == node_key(2).public_key.key_id


def test_a_block_changes_who_votes_once(chain: Chain) -> None:
    """A change that ends and one that begins are two blocks, whoever leads; what changes no vote may stand beside either."""
    waiting = chain.submit(proposed(actions.RemoveValidator("v3")), "ada@acme").tx_id
    learner = chain.submit(proposed(actions.AddLearner(validator(5))), "ada@acme").tx_id
    for proposal in (waiting, learner):
        chain.submit(bodies.ProposalVote(proposal, True), "ada@acme")
    chain.adopt(actions.ReplaceValidator("v2", "v4"))
    vote, welcome = (chain.sign(bodies.ProposalVote(each, True), "ben@beta") for each in (waiting, learner))
    settle = chain.sign_settlement()
    assert [error.code for _, error in chain.build(vote, settle).refused] == ["ledger.proposal.configuration_busy"]
    built = chain.build(settle, vote, welcome)
    assert [error.code for _, error in built.refused] == ["ledger.validator.changed_in_block"]
    assert built.executed.transactions == (settle, welcome)
    chain.apply(built.block)
    assert sets(chain.view.configuration()) == (["v1", "v3", "v4"], None, ["v5"], ["v2"])
    assert chain.view.proposal(waiting).status == OPEN  # type: ignore[union-attr]
    begun = chain.commit(vote)
    assert sets(chain.view.configuration()) == (["v1", "v3", "v4"], ["v1", "v4"], ["v5"], ["v2"])
    assert read_configuration_row(chain.store, begun.height).change is None


def test_a_leader_that_puts_two_changes_into_a_block_is_refused(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = chain.submit(proposed(actions.RemoveValidator("v3")), "ada@acme").tx_id
    chain.submit(bodies.ProposalVote(waiting, True), "ada@acme")
    chain.adopt(actions.ReplaceValidator("v2", "v4"))
    vote = chain.sign(bodies.ProposalVote(waiting, True), "ben@beta")
    with monkeypatch.context() as lawless:
        lawless.setattr("ledger.execution.check_one_change", lambda *configurations: None)
        built = chain.build(chain.sign_settlement(), vote)
    assert len(built.executed.transactions) == 2
    before = chain.store.dump()
    with pytest.raises(BlockRefusedError) as refused:
        execute_block(chain.store, built.block, now_ms=None)
    assert refused.value.code == "ledger.block.transaction"
    assert refused.value.details["cause"] == "ledger.validator.changed_in_block"
    assert refused.value.details["index"] == 1
    assert chain.store.dump() == before


# What is refused


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (actions.AddLearner(replace(validator(9), name="v1")), "ledger.proposal.validator_name_exists"),
        (actions.AddLearner(replace(validator(9), name="v4")), "ledger.proposal.validator_name_exists"),
        (
            actions.AddLearner(replace(validator(9), spki=node_key(4).public_key.spki)),
            "ledger.proposal.validator_key_exists",
        ),
        (
            actions.AddLearner(replace(validator(9), address=validator(2).address)),
            "ledger.proposal.validator_address_exists",
        ),
        (actions.AddLearner(validator(9, "delta")), "ledger.proposal.organisation_not_found"),
        (actions.AddLearner(replace(validator(9), spki=b"no key")), "wire.key.spki"),
        (
            actions.AddLearner(replace(validator(9), spki=key_of("p", Algorithm.P256).public_key.spki)),
            "wire.key.algorithm",
        ),
        (actions.PromoteLearner("v9"), "ledger.proposal.learner_not_found"),
        (actions.PromoteLearner("v1"), "ledger.proposal.learner_not_found"),
        (actions.RemoveValidator("v9"), "ledger.proposal.validator_not_found"),
        (actions.ReplaceValidator("v9", "v4"), "ledger.proposal.validator_not_found"),
        (actions.ReplaceValidator("v4", "v4"), "ledger.proposal.validator_not_found"),
        (actions.ReplaceValidator("v1", "v2"), "ledger.proposal.learner_not_found"),
    ],
)
def test_an_action_that_does_not_fit_is_refused(chain: Chain, action: actions.Action, code: str) -> None:
    assert chain.refused(proposed(action), "ada@acme") == code


EVERY_ACTION = (
    actions.AddLearner(validator(5)),
    actions.PromoteLearner("v4"),
    actions.RemoveValidator("v1"),
    actions.RemoveValidator("v4"),
    actions.ReplaceValidator("v1", "v4"),
)


@pytest.mark.parametrize("action", EVERY_ACTION)
def test_while_joint_the_deciding_vote_for_any_change_is_refused(chain: Chain, action: actions.Action) -> None:
    waiting = chain.submit(proposed(action), "ada@acme").tx_id
    chain.submit(bodies.ProposalVote(waiting, True), "ada@acme")
    chain.adopt(actions.RemoveValidator("v2"))
    vote = bodies.ProposalVote(waiting, True)
    assert chain.refused(vote, "ben@beta") == "ledger.proposal.configuration_busy"
    assert chain.refused(proposed(action), "ada@acme") == "ledger.proposal.configuration_busy"
    chain.settle()
    chain.submit(vote, "ben@beta")
    record = chain.view.proposal(waiting)
    assert record is not None
    assert record.status == "executed"


def many(count: int, start: int = 100) -> tuple[Validator, ...]:
    return tuple(validator(start + index) for index in range(count))


def test_sets_are_bounded() -> None:
    full = Configuration(make_validator_set(many(VALIDATORS_MAX)), learners=ValidatorSet((validator(5),)))
    crowded = replace(full, learners=make_validator_set(many(LEARNERS_MAX, 200)))
    for configuration, action, code in (
        (full, actions.PromoteLearner("v5"), "ledger.proposal.too_many_validators"),
        (full, actions.ReplaceValidator("v100", "v5"), "ledger.proposal.too_many_validators"),
        (crowded, actions.AddLearner(validator(5)), "ledger.proposal.too_many_learners"),
    ):
        with pytest.raises(RejectedError) as refused:
            change_configuration(configuration, action)
        assert refused.value.code == code
    smaller = replace(full, voters=make_validator_set(many(VALIDATORS_MAX - 1)))
    assert len(change_configuration(smaller, actions.PromoteLearner("v5")).members) == VALIDATORS_MAX
    with pytest.raises(AssertionError):
        settle_configuration(full)


# The end of a change


def test_a_change_ends_by_a_certificate_of_both_groups(chain: Chain) -> None:
    """A majority of the voters alone, or of the incoming alone, is not enough."""
    chain.adopt(actions.ReplaceValidator("v1", "v4"))
    joint, block = chain.view.configuration(), chain.blocks[-1]
    v1, v2, v3, v4 = (node_key(index) for index in range(1, 5))
    for signers, holds in (
        ((v1, v2), False),  # of the incoming, only v2
        ((v2, v4), False),  # of the voters, only v2
        ((v1, v4), False),
        ((v2, v3), True),
        ((v1, v2, v4), True),
    ):
        certificate = make_certificate(chain.genesis.chain_id, signers, block)
        settle = chain.sign(bodies.ValidatorSettle(block.header, certificate), "", key=v2)
        if holds:
            verify_block_certificate(certificate, block.header, joint)
            assert chain.build(settle).refused == ()
        else:
            with pytest.raises(InvalidCertificateError) as refused:
                verify_block_certificate(certificate, block.header, joint)
            assert refused.value.code == chain.refusal(settle).code == "wire.certificate.too_few"


def test_a_later_block_of_the_same_change_serves_as_well(chain: Chain) -> None:
    chain.adopt(actions.PromoteLearner("v4"))
    chain.elect(1)
    later = chain.commit().block
    settle = chain.sign(bodies.ValidatorSettle(later.header, chain.certificate(later)), "", key=node_key(4))
    chain.commit(settle)
    assert not chain.view.configuration().is_joint


def test_only_who_has_a_vote_ends_a_change(chain: Chain) -> None:
    chain.add_learner(5)
    chain.adopt(actions.ReplaceValidator("v1", "v4"))
    for stranger in (node_key(5), key_of("ada@acme"), node_key(9)):
        assert chain.refusal(chain.sign_settlement(stranger)).code == "ledger.tx.unknown_signer"
    for member in (node_key(1), node_key(4)):
        assert chain.build(chain.sign_settlement(member)).refused == ()
    # A node's key says nothing else, although it is a validator's.
    assert chain.refused(bodies.HostReport("drift", "t", b""), "", key=node_key(2)) == "ledger.tx.unknown_signer"


def test_what_ends_no_change_is_refused(chain: Chain) -> None:
    plain = chain.blocks[-1]
    body = bodies.ValidatorSettle(plain.header, chain.certificate(plain))
    assert chain.refused(body, "", key=node_key(1)) == "ledger.validator.not_joint"
    assert find_settlement(chain.store) is None
    chain.adopt(actions.PromoteLearner("v4"))
    good = find_settlement(chain.store)
    assert good is not None
    assert good.header == chain.blocks[-1].header
    foreign = replace(good.header, chain_id="other-net")
    for wrong, code in (
        (replace(good, header=foreign), "ledger.validator.wrong_chain"),
        (replace(good, header=replace(good.header, term=good.header.term + 1)), "ledger.validator.later_term"),
        (body, "ledger.proof.validators"),
        (replace(good, certificate=body.certificate), "ledger.proof.certificate"),
        (replace(good, header=replace(good.header, time_ms=1)), "ledger.proof.certificate"),
    ):
        assert chain.refused(wrong, "", key=node_key(1)) == code
    forged = replace(chain.sign_settlement(), signature=bytes(64))
    assert check_signatures([_only_job(chain, chain.sign_settlement())]) == (True,)
    assert check_signatures([_only_job(chain, forged)]) == (False,)
    chain.settle()
    assert chain.refused(good, "", key=node_key(1)) == "ledger.validator.not_joint"


def _only_job(chain: Chain, transaction: Transaction) -> SignatureJob:
    (job,) = signature_jobs(chain.store, [transaction])
    return job


def test_a_bad_signature_ends_nothing(chain: Chain) -> None:
    chain.adopt(actions.PromoteLearner("v4"))
    good = chain.sign_settlement(node_key(2))
    flipped = bytearray(good.raw)
    flipped[-1] ^= 1
    assert chain.refusal(decode_transaction_untrusted(bytes(flipped))).code == "ledger.tx.bad_signature"


def test_one_key_may_be_a_node_s_and_a_person_s(chain: Chain) -> None:
    """The kind of the transaction says whose word it is; neither record is asked for the other."""
    key = node_key(1)
    chain.keys["twin@acme"] = key
    chain.register("twin@acme", "host")
    chain.adopt(actions.PromoteLearner("v4"))
    report = chain.sign(bodies.HostReport("drift", "t", b""), "twin@acme")
    settle = chain.sign_settlement(key)
    assert len(signature_jobs(chain.store, [report, settle])) == 2
    chain.commit(report, settle)
    assert not chain.view.configuration().is_joint


def test_no_block_is_certified_yet(chain: Chain) -> None:
    vote = deciding_vote(chain, actions.PromoteLearner("v4"))
    chain.apply(chain.build(vote).block, certify=False)
    assert find_settlement(chain.store) is None
    second = chain.apply(chain.build().block)
    found = find_settlement(chain.store)
    assert found is not None
    assert found.header == second.block.header
    chain.store.apply({(Table.HEADER, height_key(chain.height)): None})
    with pytest.raises(LedgerCorruptionError) as error:
        find_settlement(chain.store)
    assert error.value.code == "ledger.corruption.missing"
    assert find_settlement(MemoryStore()) is None


def deciding_vote(chain: Chain, action: actions.Action) -> Transaction:
    proposal = chain.submit(proposed(action), "ada@acme").tx_id
    chain.submit(bodies.ProposalVote(proposal, True), "ada@acme")
    return chain.sign(bodies.ProposalVote(proposal, True), "ben@beta")


# Blocks under a joint configuration


def built_by(chain: Chain, proposer: PrivateKey, voters: list[PrivateKey], term: int) -> Block:
    """Return an empty block that `proposer`, elected by `voters`, puts on the tip."""
    election = make_election(chain.genesis.chain_id, voters, term, proposer, chain.blocks[-1])
    return build_block(chain.store, [], term=term, time_ms=2**41, proposer=proposer, election=election).block


def refusal_of(chain: Chain, block: Block) -> tuple[str, str]:
    with pytest.raises(BlockRefusedError) as refused:
        execute_block(chain.store, block, now_ms=None)
    return refused.value.code, str(refused.value.details.get("cause", ""))


def test_elections_need_both_groups_too(chain: Chain) -> None:
    chain.adopt(actions.ReplaceValidator("v1", "v4"))
    v1, v2, v3, v4 = (node_key(index) for index in range(1, 5))
    for voters in ([v1, v2], [v2, v4], [v1, v4]):
        refused = refusal_of(chain, built_by(chain, v2, voters, 7))
        assert refused == ("ledger.block.bad_election", "wire.certificate.too_few")
    stranger = refusal_of(chain, built_by(chain, v2, [v2, v3, node_key(9)], 7))
    assert stranger == ("ledger.block.bad_election", "wire.certificate.stranger")
    for proposer in (v1, v4):
        execute_block(chain.store, built_by(chain, proposer, [v2, v3], 7), now_ms=None)


def test_learners_and_strangers_propose_nothing(chain: Chain) -> None:
    for proposer in (node_key(4), node_key(9)):
        refused = refusal_of(chain, built_by(chain, proposer, [node_key(1), node_key(2)], 7))
        assert refused == ("ledger.block.unknown_proposer", "")


def test_a_leader_that_leaves_proposes_the_end_and_goes_on(chain: Chain) -> None:
    """It needs the votes of the others for everything, its own counts no more; the next change makes it a stranger."""
    chain.adopt(actions.RemoveValidator("v1"))
    settled = chain.settle().block
    v1, v2, v3 = (node_key(index) for index in range(1, 4))
    assert settled.header.proposer == v1.public_key.key_id
    configuration = chain.view.configuration()
    with pytest.raises(InvalidCertificateError) as refused:
        verify_block_certificate(
            make_certificate(chain.genesis.chain_id, [v1, v2], settled), settled.header, configuration
        )
    assert refused.value.code == "wire.certificate.stranger"
    assert chain.commit().block.header.proposer == v1.public_key.key_id
    # It may even have to be elected again, if it alone holds the end of the change.
    execute_block(chain.store, built_by(chain, v1, [v2, v3], 7), now_ms=None)
    assert refusal_of(chain, built_by(chain, v1, [v1, v2], 7)) == (
        "ledger.block.bad_election",
        "wire.certificate.stranger",
    )
    chain.elect(1)
    chain.adopt(actions.PromoteLearner("v4"))
    assert v1.public_key.key_id in chain.view.configuration().proposers
    chain.settle()
    assert refusal_of(chain, built_by(chain, v1, [v2, v3, node_key(4)], 7)) == ("ledger.block.unknown_proposer", "")


def test_a_block_that_hides_its_change_is_refused(chain: Chain) -> None:
    vote = deciding_vote(chain, actions.PromoteLearner("v4"))
    honest = chain.build(vote).block
    forged = chain.forge(honest, validators_hash=chain.view.configuration().hash)
    assert refusal_of(chain, forged)[0] == "ledger.block.validators_hash"


def test_stacked_blocks_see_the_change_below_them(chain: Chain) -> None:
    """The block after the one that begins a change is executed before either is committed."""
    first = chain.build(deciding_vote(chain, actions.PromoteLearner("v4")))
    over = Overlay(chain.store, first.executed.writes)
    assert StateView(over).configuration().is_joint
    assert not chain.view.configuration().is_joint
    second = build_block(over, [], term=1, time_ms=0, proposer=node_key(1), election=None)
    assert second.block.header.validators_hash == StateView(over).configuration().hash
    assert build_configuration_proof(over, chain.height + 1).configuration.is_joint
    assert not build_configuration_proof(over, chain.height).configuration.is_joint


# Forms


def rows(*indexes: int) -> list[tuple[object, ...]]:
    chosen = make_validator_set(tuple(validator(index) for index in indexes))
    return [(each.name, each.organisation, each.spki, each.address) for each in chosen]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (5, "wire.field.tuple"),
        ((), "wire.field.int"),
        ((3, tuple(rows(1))), "wire.field.range"),
        ((1, tuple(rows(1)), None), "wire.field.length"),
        ((2, tuple(rows(1)), None, ()), "wire.field.length"),
        ((1, 2, 3, 4, 5, 6), "wire.field.length"),
        ((1, tuple(reversed(rows(1, 2)))), "wire.field.order"),
        ((1, tuple(rows(1) * 2)), "wire.field.order"),
        ((2, tuple(rows(1)), None, (), ()), "wire.codec.not_canonical"),
        ((1, (("V1", *rows(1)[0][1:]),)), "wire.field.identifier"),
        ((1, ((*rows(1)[0][:3], ""),)), "wire.field.length"),
        ((1, ((*rows(1)[0][:2], b"", "/ip4"),)), "wire.key.spki"),
        ((1, ((*rows(1)[0][:2], key_of("p", Algorithm.P256).public_key.spki, "/ip4"),)), "wire.key.algorithm"),
        ((2, tuple(rows(1)), None, tuple(rows(*range(100, 117))), ()), "wire.field.length"),
    ],
)
def test_a_configuration_has_one_form(value: object, code: str) -> None:
    raw = encode(value)  # type: ignore[arg-type]
    with pytest.raises(MalformedError) as refused:
        decode_configuration_untrusted(raw)
    assert refused.value.code == code
    with pytest.raises(LedgerCorruptionError) as error:
        Configuration.decode(raw)
    assert error.value.code == "ledger.corruption.record"


def test_a_settlement_has_its_form(chain: Chain) -> None:
    chain.adopt(actions.PromoteLearner("v4"))
    body = find_settlement(chain.store)
    assert body is not None
    header, certificate = body.to_value()
    read: Callable[[object], bodies.ValidatorSettle] = bodies.ValidatorSettle.from_value_untrusted
    assert read((header, certificate)) == body
    for value in ((header,), (header, None), (None, certificate), (b"", certificate), (header, b"\xc0")):
        with pytest.raises(MalformedError):
            read(value)


def test_missing_or_unreadable_rows_are_corruption(chain: Chain) -> None:
    with pytest.raises(LedgerCorruptionError) as error:
        build_configuration_proof(MemoryStore(), 0)
    assert error.value.code == "ledger.corruption.missing"
    newest = chain.store.get(Table.META, CONFIGURATION_KEY)
    assert newest == height_key(chain.height)
    for row, code in ((b"\xc0", "record"), (None, "missing")):
        chain.store.apply({(Table.CONFIGURATION, height_key(chain.height)): row})
        with pytest.raises(LedgerCorruptionError) as error:
            build_configuration_proof(chain.store, chain.height)
        assert error.value.code == f"ledger.corruption.{code}"


def test_a_header_of_the_future_form_is_no_settlement() -> None:
    header = Chain().blocks[0].header
    assert isinstance(header, Header)
    with pytest.raises(MalformedError):
        bodies.ValidatorSettle.from_value_untrusted((encode((2, *header.to_value()[1:])), Digest(bytes(32))))
