"""Forks of every sort convict those who made them, and nobody else; proofs are verified with the founding document alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ledger import actions
from ledger.archive import ArchivedBlock
from ledger.blame import Blame, BlameKind, History, Verdict, describe_blame, find_guilty, verify_blame
from ledger.blame_proof import Acknowledgement, Proposal, Vote
from ledger.block import build_raw_block
from ledger.errors import ProofRefusedError
from tests.testkit.forks import Branch, id_of
from tests.testkit.ledger import Chain, key_of, make_certificate, make_genesis, node_key
from wire.certificate import acknowledgement_message, encode_commit_certificate, proposal_message, vote_message
from wire.errors import InvalidCertificateError
from wire.hashing import sha256
from wire.keys import KeyId


@pytest.fixture
def common() -> Chain:
    """Four validators and three blocks of term 1, led by v1."""
    chain = Chain()
    for _ in range(3):
        chain.commit()
    return chain


def compare(common: Chain, ours: Branch, theirs: Branch) -> Verdict:
    """Return the verdict, after showing that it does not depend on the order and that each proof survives the journey as JSON."""
    verdict = find_guilty(ours.history("ours"), theirs.history("theirs"), common.genesis)
    swapped = find_guilty(theirs.history("theirs"), ours.history("ours"), common.genesis)
    assert convicted(verdict) == convicted(swapped)
    assert (verdict.is_fork, verdict.fork_height) == (swapped.is_fork, swapped.fork_height)
    assert verdict.certified_heights == swapped.certified_heights[::-1]
    for blame in verdict.blames:
        told = json.loads(json.dumps(blame.to_json()))
        assert Blame.from_json_untrusted(told).to_json() == told
        assert verify_blame(Blame.from_json_untrusted(told), common.genesis).key_id == blame.validator
        assert "contradicts nothing" not in describe_blame(blame)
    return verdict


def convicted(verdict: Verdict) -> set[tuple[str, KeyId]]:
    return {(str(blame.kind), blame.validator) for blame in verdict.blames}


def named(kind: str, *numbers: int) -> set[tuple[str, KeyId]]:
    return {(kind, id_of(number)) for number in numbers}


# What convicts


def test_two_blocks_of_one_term_convict_their_proposer_and_who_signed_both(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    theirs.add([1, 2, 4], late_ms=1)
    verdict = compare(common, ours, theirs)
    assert verdict.is_conflict
    assert (verdict.fork_height, verdict.certified_heights) == (3, (4, 4))
    assert convicted(verdict) == named("double_proposal", 1) | named("double_acknowledgement", 1, 2)
    assert set(verdict.guilty) == {id_of(1), id_of(2)}
    assert verdict.problems == ()
    assert verdict.missing == ()


def test_blocks_are_compared_at_the_height_at_which_both_stand(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    for _ in range(3):
        ours.add([])
    ours.certify([1, 2, 3])
    theirs.add([], late_ms=1)
    theirs.add([1, 3, 4])
    verdict = compare(common, ours, theirs)
    assert (verdict.fork_height, verdict.certified_heights) == (3, (6, 5))
    assert convicted(verdict) == named("double_proposal", 1)
    (blame,) = verdict.blames
    assert [each.header.height for each in blame.statements if isinstance(each, Proposal)] == [4, 4]


def test_who_acknowledged_a_block_and_voted_for_somebody_without_it(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    theirs.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    verdict = compare(common, ours, theirs)
    assert verdict.is_conflict
    assert convicted(verdict) == named("acknowledged_then_voted", 2, 3)
    blame = verdict.blames[0]
    first, last = blame.statements
    assert isinstance(first, Acknowledgement)
    assert isinstance(last, Vote)
    assert (first.position, last.position, last.term) == ((1, 4), (1, 3), 2)
    assert "acknowledged block 4 of term 1, and then voted in term 2 for" in describe_blame(blame)


def test_the_vote_may_lie_many_terms_and_blocks_before_the_second_certificate(common: Chain) -> None:
    """Nothing after the first election without the block matters, nor who leads in the end."""
    ours, theirs = Branch.of(common), Branch.of(common)
    for _ in range(2):
        ours.add([1, 2, 3])
    theirs.add([], term=4, leader=2, voters=[1, 2, 4])
    theirs.add([], term=7, leader=3, voters=[2, 3, 4])
    theirs.add([2, 3, 4], term=9, leader=4, voters=[2, 3, 4])
    verdict = compare(common, ours, theirs)
    # v1 and v2 voted in term 4 upon block 3; v3 first voted when it had block 4 of term 4, which is a higher position.
    assert convicted(verdict) == named("acknowledged_then_voted", 1, 2)


def test_two_elections_of_one_term_convict_who_voted_in_both(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3], term=2, leader=2, voters=[1, 2, 3])
    theirs.add([1, 3, 4], term=2, leader=3, voters=[1, 3, 4])
    verdict = compare(common, ours, theirs)
    assert convicted(verdict) >= named("double_vote", 1, 3)
    assert set(verdict.guilty) == {id_of(1), id_of(3)}


def test_one_candidate_elected_twice_upon_different_blocks(common: Chain) -> None:
    ours = Branch.of(common)
    theirs = ours.copy()
    ours.add([])
    ours.add([2, 3, 4], term=2, leader=2, voters=[2, 3, 4])
    theirs.add([1, 2, 4], term=2, leader=2, voters=[1, 2, 4])
    verdict = compare(common, ours, theirs)
    # Nobody acknowledged block 4 of term 1, and the blocks of term 2 stand at different heights: the votes are all there is.
    assert convicted(verdict) == named("double_vote", 2, 4)


def test_a_block_that_does_not_extend_what_its_proposer_was_elected_on(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    election = theirs.election([2, 3, 4], 2, 4, parent=ours.blocks[-1])
    theirs.add([2, 3, 4], term=2, leader=4, election=election)
    verdict = compare(common, ours, theirs)
    # The votes were honest: they name block 4 of ours. Who acknowledged the block broke a rule as well as who proposed it.
    assert convicted(verdict) == named("not_extending_election", 2, 3, 4)
    assert [each.code for each in verdict.problems] == ["ledger.block.election_parent"]
    assert "does not extend the block that its proposer was elected on" in describe_blame(verdict.blames[0])


@pytest.mark.parametrize("case", ["no election", "minority", "other proposer", "older term"])
def test_a_block_that_cannot_follow_convicts_proposer_and_signers(common: Chain, case: str) -> None:
    common.elect(1)
    common.commit()
    ours, theirs = Branch.of(common, leader=2), Branch.of(common, leader=2)
    ours.add([1, 2, 3])
    match case:
        case "no election":
            theirs.forge([2, 3, 4], by=2, term=5)
        case "minority":
            theirs.forge([2, 3, 4], by=3, term=5, election=theirs.election([3, 4], 5, 3))
        case "other proposer":
            theirs.forge([2, 3, 4], by=3)
        case "older term":
            theirs.forge([2, 3, 4], by=2, term=1)
    verdict = compare(common, ours, theirs)
    assert convicted(verdict) >= named("invalid_block", 2, 3, 4)
    assert set(verdict.guilty) == {id_of(2), id_of(3), id_of(4)}
    assert verdict.is_conflict


def test_a_network_of_one_convicts_its_only_validator() -> None:
    common = Chain(make_genesis(validators=1))
    common.commit()
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1])
    theirs.add([1], late_ms=1)
    assert set(compare(common, ours, theirs).guilty) == {id_of(1)}
    later = Branch.of(common)
    later.add([1], term=2, voters=[1])
    # After a start it leads a new term: another proposal, but a vote below what it had acknowledged.
    assert convicted(compare(common, ours, later)) == named("acknowledged_then_voted", 1)


def test_histories_may_part_at_the_founding_block() -> None:
    common = Chain(make_genesis(validators=3))
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2], term=1, voters=[1, 2])
    theirs.add([2, 3], term=2, leader=3, voters=[2, 3])
    verdict = compare(common, ours, theirs)
    assert verdict.fork_height == 0
    assert convicted(verdict) == named("acknowledged_then_voted", 2)


# What convicts nobody


def test_one_history_and_its_beginning(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    verdict = compare(common, ours, theirs)
    assert not verdict.is_fork
    assert (verdict.fork_height, verdict.certified_heights, verdict.blames) == (None, (0, 0), ())
    assert not compare(common, ours, ours.copy()).is_fork


def test_another_certificate_of_the_same_block_is_no_fork(common: Chain) -> None:
    ours = Branch.of(common)
    ours.add([1, 2, 3])
    theirs = ours.copy()
    theirs.certify([2, 3, 4])
    assert not compare(common, ours, theirs).is_fork


def test_what_was_never_committed_convicts_nobody(common: Chain) -> None:
    """A leader's last block that nobody else acknowledged, and its successor's: every crash leaves such a fork behind."""
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([])
    theirs.add([2, 3, 4], term=2, leader=2, voters=[2, 3, 4])
    verdict = compare(common, ours, theirs)
    assert verdict.is_fork
    assert not verdict.is_conflict
    assert verdict.certified_heights == (0, 4)
    assert verdict.blames == ()
    # One who was outvoted may have acknowledged it: the vote for another block of its position or above is honest.
    certificate = make_certificate(common.genesis.chain_id, [node_key(1)], ours.blocks[-1])
    ours.certificates[4] = encode_commit_certificate(certificate)
    verdict = compare(common, ours, theirs)
    assert [each.code for each in verdict.problems] == ["wire.certificate.too_few"]
    assert not verdict.is_conflict
    assert verdict.blames == ()


def test_two_proposals_convict_although_neither_was_committed(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([])
    theirs.add([], late_ms=1)
    verdict = compare(common, ours, theirs)
    assert not verdict.is_conflict
    assert convicted(verdict) == named("double_proposal", 1)


def test_forged_signatures_accuse_nobody(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    bad = theirs.add([], late_ms=1)
    theirs.blocks[-1] = build_raw_block(bad.header, (), bytes(64), None)
    names = sorted((id_of(n), bytes(64)) for n in (1, 2, 4))
    forged = make_certificate(common.genesis.chain_id, [node_key(1)], bad)
    theirs.certificates[4] = encode_commit_certificate(replace(forged, signatures=tuple(names)))
    verdict = compare(common, ours, theirs)
    assert verdict.blames == ()
    assert not verdict.is_conflict
    assert [each.code for each in verdict.problems] == [
        "ledger.block.bad_proposer_signature",
        "wire.certificate.signature",
    ]


def test_an_election_that_is_not_what_the_header_names_accuses_nobody(common: Chain) -> None:
    """Whoever hands a block on can exchange what lies beside the header."""
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3], term=2, leader=2, voters=[1, 2, 3])
    good = theirs.add([], term=3, leader=3, voters=[2, 3, 4])
    theirs.blocks[-1] = build_raw_block(good.header, (), good.proposer_signature, b"junk")
    verdict = compare(common, ours, theirs)
    assert verdict.blames == ()
    assert {each.code for each in verdict.problems} == {"ledger.block.election_hash", "ledger.block.bad_election"}


def test_nobody_is_convicted_for_what_stands_upon_an_invalid_block(common: Chain) -> None:
    """Who began with a snapshot above it has never seen it."""
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    theirs.forge([], by=4, term=2)
    theirs.term = 2
    theirs.add([2, 3, 4], leader=4)
    verdict = compare(common, ours, theirs)
    assert convicted(verdict) == named("invalid_block", 4)


def test_a_block_that_cannot_be_read_ends_its_history(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    items = [*theirs.items(), ArchivedBlock(b"junk", None), *theirs.items()]
    verdict = find_guilty(ours.history("ours"), History("theirs", items), common.genesis)
    assert not verdict.is_fork
    assert [(each.history, each.height, each.code) for each in verdict.problems] == [
        ("theirs", 4, "ledger.block.malformed")
    ]


# Histories without a beginning


def test_a_pruned_history_is_followed_from_its_base(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    theirs.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    whole = compare(common, ours, theirs)
    for start, other in ((3, 1), (4, 1), (4, 2), (4, 4)):
        verdict = find_guilty(ours.history(start=start), theirs.history(start=other), common.genesis)
        assert (verdict.fork_height, convicted(verdict)) == (3, convicted(whole))
        assert verdict.is_conflict


def test_a_fork_below_what_is_kept_is_judged_by_what_is_left(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    ours.add([1, 2, 3])
    theirs.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    theirs.add([2, 3, 4])
    # The votes stand in block 4: with it the guilty are found, without it only that there was a fork.
    verdict = find_guilty(ours.history(start=5), theirs.history(), common.genesis)
    assert (verdict.is_conflict, verdict.fork_height) == (True, None)
    assert convicted(verdict) == named("acknowledged_then_voted", 2, 3)
    verdict = find_guilty(ours.history(start=5), theirs.history(start=5), common.genesis)
    assert (verdict.is_conflict, verdict.fork_height, verdict.blames) == (True, None, ())
    # Two that do not overlap cannot be compared.
    short = History("short", common_items(common, 2))
    assert not find_guilty(ours.history(start=5), short, common.genesis).is_fork


def common_items(common: Chain, count: int) -> list[ArchivedBlock]:
    return Branch.of(common).items()[:count]


def test_a_base_that_does_not_hold_is_refused(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    history = theirs.history(start=3)
    assert history.base is not None
    forged = replace(history.base.certificate, signatures=history.base.certificate.signatures[:1])
    with pytest.raises(InvalidCertificateError) as error:
        find_guilty(ours.history(), replace(history, base=replace(history.base, certificate=forged)), common.genesis)
    assert error.value.code == "wire.certificate.too_few"


# Validators that change


@pytest.fixture
def joint() -> Chain:
    """Voters v1 to v3; v4 is coming in, and the block that says so is certified."""
    chain = Chain(make_genesis(validators=3))
    chain.add_learner(4)
    chain.adopt(actions.PromoteLearner("v4"))
    return chain


def test_who_comes_in_is_convicted_while_the_change_is_under_way(joint: Chain) -> None:
    ours, theirs = Branch.of(joint), Branch.of(joint)
    ours.add([1, 2, 4])
    theirs.add([2, 3, 4], term=2, leader=3, voters=[2, 3, 4])
    verdict = compare(joint, ours, theirs)
    assert verdict.is_conflict
    assert convicted(verdict) == named("acknowledged_then_voted", 2, 4)
    blame = next(each for each in verdict.blames if each.validator == id_of(4))
    assert [each.configuration.is_joint for each in blame.changes] == [True]
    assert "configuration" in blame.to_json()
    assert all("configuration" not in each.to_json() for each in verdict.blames if each.validator != id_of(4))
    # Without the change nothing says that v4 ever was a validator.
    with pytest.raises(ProofRefusedError) as error:
        verify_blame(replace(blame, changes=()), joint.genesis)
    assert error.value.code == "ledger.blame.unknown_validator"


def test_who_came_in_is_convicted_after_the_change(joint: Chain) -> None:
    joint.settle()
    joint.commit()
    ours, theirs = Branch.of(joint), Branch.of(joint)
    ours.add([1, 2, 4])
    theirs.add([2, 3, 4], term=2, leader=3, voters=[2, 3, 4])
    verdict = compare(joint, ours, theirs)
    assert convicted(verdict) == named("acknowledged_then_voted", 2, 4)


def test_one_side_ends_the_change_and_the_other_does_not(joint: Chain) -> None:
    """The configurations differ, and still any two majorities share somebody."""
    settlement = joint.sign_settlement()
    ours, theirs = Branch.of(joint), Branch.of(joint)
    ours.add([1, 2, 4], settlement)
    theirs.add([2, 3, 4], term=2, leader=3, voters=[2, 3, 4])
    verdict = compare(joint, ours, theirs)
    assert verdict.is_conflict
    assert convicted(verdict) == named("acknowledged_then_voted", 2, 4)
    assert verdict.missing == ()


def test_a_change_that_begins_and_ends_above_the_fork() -> None:
    common = Chain(make_genesis(validators=3))
    common.add_learner(4)
    fork = common.height
    changed = Chain(common.genesis)
    changed.store.apply(common.store.dump())
    changed.blocks, changed.node_keys, changed.nonces = list(common.blocks), list(common.node_keys), common.nonces
    changed.adopt(actions.ReplaceValidator("v1", "v4"))
    changed.settle()
    ours, theirs = Branch.of(changed), Branch.of(common)
    ours.add([3, 4], term=2, leader=3, voters=[3, 4])
    # v1 and v2 go on as if nothing had been: after the change v1 has no say, and v2 has signed for it.
    theirs.add([1, 2], term=5, leader=2, voters=[1, 2])
    verdict = compare(common, ours, theirs)
    assert (verdict.fork_height, verdict.is_conflict) == (fork, True)
    # Chain's certificates are by the first that suffice: v1 and v2 for the founding voters.
    assert set(verdict.guilty) == {id_of(1), id_of(2)}
    assert verdict.missing == ()


def test_a_settlement_may_name_a_block_of_another_history(joint: Chain) -> None:
    """The block that proves the change need not stand in the chain that ends it; then its own history may be needed."""
    common = Chain(make_genesis(validators=3))
    common.add_learner(4)
    before = Branch.of(common)
    elsewhere = Branch.of(joint)
    named_block = elsewhere.add([1, 2, 3, 4], late_ms=7)
    settlement = Branch.of(joint)
    settlement.certify([1, 2, 3, 4], named_block)
    body = next(iter(settlements(joint, named_block)))
    theirs = Branch.of(joint)
    theirs.add([])
    theirs.add([], body)
    theirs.certify([1, 2, 3])
    before.add([1, 2, 3], late_ms=3)
    verdict = compare(common, before, theirs)
    assert verdict.missing == ((named_block.header.height, named_block.block_hash),)
    assert id_of(1) in verdict.guilty


def settlements(joint: Chain, block: Any) -> Sequence[Any]:
    from ledger.bodies import ValidatorSettle

    certificate = make_certificate(joint.genesis.chain_id, [node_key(n) for n in (1, 2, 3, 4)], block)
    return [joint.sign(ValidatorSettle(block.header, certificate), "", key=node_key(1))]


def test_validators_to_which_nothing_leads_are_told(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    good = theirs.copy().add([], late_ms=1)
    header = replace(good.header, validators_hash=sha256(b"other validators"))
    signature = node_key(1).sign(proposal_message(header.hash()))
    theirs.put(build_raw_block(header, (), signature, None), [1, 2, 4])
    verdict = compare(common, ours, theirs)
    assert {each.code for each in verdict.problems} == {"ledger.proof.validators"}
    assert not verdict.is_conflict
    assert convicted(verdict) == named("double_proposal", 1) | named("double_acknowledgement", 1, 2)


# Proofs by themselves


def acknowledged(number: int, term: int, height: int, text: bytes, chain_id: str = "test-net") -> Acknowledgement:
    digest = sha256(text)
    signature = node_key(number).sign(acknowledgement_message(chain_id, term, height, digest))
    return Acknowledgement(term, height, digest, signature)


def voted(number: int, term: int, candidate: int, last: tuple[int, int, bytes]) -> Vote:
    digest = sha256(last[2])
    message = vote_message("test-net", term, id_of(candidate), last[0], last[1], digest)
    return Vote(term, id_of(candidate), last[0], last[1], digest, node_key(number).sign(message))


def blame_of(kind: BlameKind, *statements: Any, number: int = 1) -> Blame:
    return Blame(kind, "test-net", id_of(number), statements)


HONEST = {
    "the same block twice": blame_of(
        BlameKind.DOUBLE_ACKNOWLEDGEMENT, acknowledged(1, 2, 5, b"x"), acknowledged(1, 2, 5, b"x")
    ),
    "two blocks of different terms": blame_of(
        BlameKind.DOUBLE_ACKNOWLEDGEMENT, acknowledged(1, 2, 5, b"x"), acknowledged(1, 3, 5, b"y")
    ),
    "the same vote twice": blame_of(BlameKind.DOUBLE_VOTE, voted(1, 3, 2, (2, 5, b"x")), voted(1, 3, 2, (2, 5, b"x"))),
    "votes of different terms": blame_of(
        BlameKind.DOUBLE_VOTE, voted(1, 3, 2, (2, 5, b"x")), voted(1, 4, 2, (2, 5, b"y"))
    ),
    "a vote at the position": blame_of(
        BlameKind.ACKNOWLEDGED_THEN_VOTED, acknowledged(1, 2, 5, b"x"), voted(1, 3, 2, (2, 5, b"y"))
    ),
    "a lower height of a later term": blame_of(
        BlameKind.ACKNOWLEDGED_THEN_VOTED, acknowledged(1, 2, 5, b"x"), voted(1, 4, 2, (3, 4, b"y"))
    ),
    "a vote before the acknowledgement": blame_of(
        BlameKind.ACKNOWLEDGED_THEN_VOTED, acknowledged(1, 3, 5, b"x"), voted(1, 3, 2, (2, 4, b"y"))
    ),
    "statements in the wrong order": blame_of(
        BlameKind.ACKNOWLEDGED_THEN_VOTED, voted(1, 4, 2, (2, 4, b"y")), acknowledged(1, 3, 5, b"x")
    ),
    "one statement": blame_of(BlameKind.DOUBLE_VOTE, voted(1, 3, 2, (2, 5, b"x"))),
    "no context": blame_of(BlameKind.INVALID_BLOCK, acknowledged(1, 2, 5, b"x")),
    "two kinds": blame_of(BlameKind.DOUBLE_VOTE, voted(1, 3, 2, (2, 5, b"x")), acknowledged(1, 3, 5, b"x")),
}


@pytest.mark.parametrize("case", list(HONEST))
def test_what_the_honest_sign_is_no_proof(case: str) -> None:
    with pytest.raises(ProofRefusedError) as error:
        verify_blame(HONEST[case], make_genesis())
    assert error.value.code == "ledger.blame.no_contradiction"


def test_a_proof_convicts_only_who_signed() -> None:
    genesis = make_genesis()
    good = blame_of(BlameKind.DOUBLE_VOTE, voted(1, 3, 2, (2, 5, b"x")), voted(1, 3, 3, (2, 5, b"x")))
    assert verify_blame(good, genesis).name == "v1"
    cases = {
        "ledger.blame.signature": replace(good, validator=id_of(2)),
        "ledger.blame.unknown_validator": replace(good, validator=id_of(9)),
        "ledger.blame.wrong_chain": replace(good, chain_id="other-net"),
    }
    for code, blame in cases.items():
        with pytest.raises(ProofRefusedError) as error:
            verify_blame(blame, genesis)
        assert error.value.code == code
    # The signatures cover the chain: in a network of another name the same statements are nobody's.
    other = make_genesis(chain_id="other-net")
    with pytest.raises(ProofRefusedError) as error:
        verify_blame(replace(good, chain_id="other-net"), other)
    assert error.value.code == "ledger.blame.signature"


def test_a_sound_block_convicts_nobody(common: Chain) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    theirs.forge([2, 3, 4], by=4, term=2)
    blame = next(each for each in compare(common, ours, theirs).blames if each.kind is BlameKind.INVALID_BLOCK)
    assert blame.context is not None
    good = ours.blocks[-1]
    mixed = replace(blame.context, header=good.header)
    stranger = replace(blame.context, parent=replace(blame.context.parent, validators_hash=sha256(b"x")))
    proposal = Proposal(good.header, good.proposer_signature)
    for changed in (
        replace(blame, context=mixed),
        replace(blame, context=mixed, statements=(proposal,), validator=id_of(1)),
        replace(blame, context=stranger),
        replace(blame, context=replace(blame.context, election=b"x")),
        replace(blame, kind=BlameKind.NOT_EXTENDING_ELECTION),
        replace(blame, statements=(acknowledged(2, 2, 4, b"x"),)),
        replace(blame, statements=(voted(2, 3, 2, (2, 5, b"x")),)),
    ):
        with pytest.raises(ProofRefusedError) as error:
            verify_blame(changed, common.genesis)
        assert error.value.code == "ledger.blame.no_contradiction"


def test_terms_beyond_what_json_readers_keep_are_told_exactly() -> None:
    term = 2**62
    blame = blame_of(BlameKind.DOUBLE_VOTE, voted(1, term, 2, (2, 5, b"x")), voted(1, term, 3, (2, 5, b"x")))
    told = json.loads(json.dumps(blame.to_json()))
    assert Blame.from_json_untrusted(told) == blame
    assert told["statements"][0]["term"] == str(term)


def _change(path: Sequence[str | int], value: object) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> object:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return document

    return change


MALFORMED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no object": lambda _: [],
    "a member too many": _change(["extra"], 1),
    "another version": _change(["version"], 2),
    "a version that is true": _change(["version"], True),
    "a chain id that is a number": _change(["chain_id"], 7),
    "an unknown kind": _change(["kind"], "lying"),
    "a kind that is a list": _change(["kind"], ["double_vote"]),
    "no statements": _change(["statements"], []),
    "three statements": lambda document: document | {"statements": document["statements"][:1] * 3},
    "statements that are a text": _change(["statements"], "x"),
    "a statement that is a text": _change(["statements", 0], "x"),
    "an unknown statement": _change(["statements", 0, "type"], "oath"),
    "a statement with more": _change(["statements", 0, "extra"], "x"),
    "a number with a zero in front": _change(["statements", 0, "term"], "01"),
    "a number that is one": _change(["statements", 0, "term"], 1),
    "a number too large": _change(["statements", 0, "term"], str(2**63)),
    "a digest in capitals": _change(["statements", 0, "block_hash"], "AB" * 32),
    "a digest too short": _change(["validator"], "ab"),
    "a signature that is no base64": _change(["statements", 0, "signature"], "not base64"),
    "base64 with loose bits": _change(["statements", 0, "signature"], "AB=="),
    "a signature too long": _change(["statements", 0, "signature"], "AAAA" * 25),
    "no context": _change(["context"], "x"),
    "a context without parent": lambda document: (document["context"].pop("parent"), document)[1],
    "a header that is none": _change(["context", "header"], "AAAA"),
    "a header that is a number": _change(["context", "header"], 1),
    "a configuration that is none": _change(["context", "configuration"], "AAAA"),
    "an election that is a number": _change(["context", "election"], 1),
    "changes that are none": _change(["configuration"], "AAAA"),
}


@pytest.mark.parametrize("case", list(MALFORMED))
def test_documents_out_of_form_are_refused(common: Chain, case: str) -> None:
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    theirs.forge([2, 3, 4], by=4, term=2)
    verdict = compare(common, ours, theirs)
    blame = next(each for each in verdict.blames if isinstance(each.statements[0], Acknowledgement))
    document = json.loads(json.dumps(blame.to_json()))
    with pytest.raises(ProofRefusedError) as error:
        Blame.from_json_untrusted(MALFORMED[case](document))
    assert error.value.code == "ledger.blame.malformed"


def test_changes_that_are_none_lead_nowhere(joint: Chain) -> None:
    ours, theirs = Branch.of(joint), Branch.of(joint)
    ours.add([1, 2, 3, 4])
    theirs.add([2, 3, 4], term=2, leader=3, voters=[2, 3, 4])
    blame = next(each for each in compare(joint, ours, theirs).blames if each.validator == id_of(4))
    plain = replace(blame.changes[0].configuration, incoming=None)
    forged = replace(blame, changes=(replace(blame.changes[0], configuration=plain),))
    with pytest.raises(ProofRefusedError) as error:
        verify_blame(Blame.from_json_untrusted(forged.to_json()), joint.genesis)
    assert error.value.code == "ledger.proof.configuration"
    stranger = key_of("a stranger").public_key.key_id
    with pytest.raises(ProofRefusedError) as error:
        verify_blame(replace(blame, validator=stranger), joint.genesis)
    assert error.value.code == "ledger.blame.unknown_validator"
