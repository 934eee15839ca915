"""Proofs of what must not happen come onto the ledger, once, whoever submits them, and false ones do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import actions, bodies
from ledger.blame import Blame, BlameKind, find_guilty
from ledger.blame_proof import Vote
from ledger.block import ZERO_DIGEST
from ledger.checkpoint import SplitView
from ledger.keyspace import VALIDATORS_KEY, height_key
from ledger.limits import EVIDENCE_BYTES_MAX
from tests.testkit.forks import Branch, id_of
from tests.testkit.ledger import Chain, make_genesis, node_key
from wire.canonical_json import encode
from wire.certificate import vote_message
from wire.errors import MalformedError
from wire.hashing import sha256


@pytest.fixture
def chain() -> Chain:
    """Three validators, the learner v4, and a host that may do nothing but report."""
    chain = Chain(make_genesis(validators=3))
    chain.add_learner(4)
    chain.register("web1@acme", "host")
    return chain


def double_vote(number: int) -> Blame:
    """Return a proof against ``v<number>``."""
    votes = []
    for candidate in (1, 2):
        message = vote_message("test-net", 9, id_of(candidate), 0, 0, ZERO_DIGEST)
        votes.append(Vote(9, id_of(candidate), 0, 0, ZERO_DIGEST, node_key(number).sign(message)))
    return Blame(BlameKind.DOUBLE_VOTE, "test-net", id_of(number), tuple(votes))


def evidence(blame: Blame | SplitView) -> bodies.EvidenceSubmit:
    return bodies.EvidenceSubmit(encode(blame.to_json()))


def test_anybody_registered_puts_a_proof_on_record(chain: Chain) -> None:
    body = evidence(double_vote(2))
    tx_id = chain.submit(body, "web1@acme").tx_id
    record = chain.view.evidence(id_of(2))
    assert record is not None
    assert (record.kind, record.validator, record.fork_height) == ("double_vote", id_of(2), None)
    assert (record.proof_digest, record.submitter) == (sha256(body.proof), "web1@acme")
    assert (record.recorded_height, record.tx_id) == (chain.height, tx_id)
    assert list(chain.view.evidences()) == [record]
    assert [each.tx_id for each in chain.view.history(VALIDATORS_KEY)][-1] == tx_id
    # It changes nobody's rights: who is to leave is for the organisations to decide.
    assert len(chain.view.configuration().voters) == 3


def test_what_a_comparison_of_histories_finds_can_be_submitted(chain: Chain) -> None:
    ours, theirs = Branch.of(chain), Branch.of(chain)
    ours.add([1, 2])
    theirs.add([2, 3], term=2, leader=3, voters=[2, 3])
    (blame,) = find_guilty(ours.history(), theirs.history(), chain.genesis).blames
    chain.submit(evidence(blame), "web1@acme")
    assert chain.view.evidence(id_of(2)) is not None


def test_one_proof_for_each_validator(chain: Chain) -> None:
    chain.submit(evidence(double_vote(2)), "web1@acme")
    assert chain.refused(evidence(double_vote(2)), "ada@acme") == "ledger.evidence.recorded"
    chain.submit(evidence(double_vote(3)), "ada@acme")
    assert {each.validator for each in chain.view.evidences()} == {id_of(2), id_of(3)}


def test_learners_leaving_and_retired_nodes_are_known(chain: Chain) -> None:
    chain.submit(evidence(double_vote(4)), "web1@acme")
    chain.adopt(actions.ReplaceValidator("v3", "v4"))
    chain.settle()
    chain.submit(evidence(double_vote(3)), "web1@acme")
    chain.adopt(actions.RemoveValidator("v2"))
    chain.settle()
    chain.add_learner(5)
    chain.adopt(actions.RemoveValidator("v5"))
    chain.submit(evidence(double_vote(5)), "web1@acme")
    assert chain.view.retired_validator(id_of(5)) is not None
    assert chain.view.evidence(id_of(5)) is not None


def test_false_proofs_are_refused(chain: Chain) -> None:
    good = double_vote(2)
    first, last = good.statements
    assert isinstance(last, Vote)
    forged = replace(last, signature=bytes(64))
    cases = {
        "ledger.blame.signature": evidence(replace(good, statements=(first, forged))),
        "ledger.blame.no_contradiction": evidence(replace(good, statements=(first, first))),
        "ledger.blame.wrong_chain": evidence(replace(good, chain_id="other-net")),
        "ledger.blame.malformed": bodies.EvidenceSubmit(b"{}"),
        "ledger.evidence.unknown_validator": evidence(double_vote(7)),
        "ledger.evidence.malformed": bodies.EvidenceSubmit(b"{ }"),
    }
    for code, body in cases.items():
        assert chain.refused(body, "web1@acme") == code
    assert list(chain.view.evidences()) == []


def test_a_split_view_is_recorded_once_for_each_height(chain: Chain) -> None:
    ours, theirs = Branch.of(chain), Branch.of(chain)
    ours.add([1, 2])
    theirs.add([2, 3], term=2, leader=3, voters=[2, 3])
    split = SplitView(ours.checkpoint(), theirs.checkpoint())
    body = evidence(split)
    chain.submit(body, "web1@acme")
    record = chain.view.evidence(height_key(split.height))
    assert record is not None
    assert (record.kind, record.validator, record.fork_height) == ("split-view", None, split.height)
    assert record.proof_digest == sha256(body.proof)
    assert chain.refused(body, "ada@acme") == "ledger.evidence.recorded"


def test_a_split_view_that_is_none_is_refused(chain: Chain) -> None:
    ours, theirs = Branch.of(chain), Branch.of(chain)
    ours.add([1, 2])
    theirs.add([2, 3], term=2, leader=3, voters=[2, 3])
    one, other = ours.checkpoint(), theirs.checkpoint()
    assert chain.refused(evidence(SplitView(one, one)), "web1@acme") == "ledger.checkpoint.no_split"
    few = replace(other, certificate=replace(other.certificate, signatures=other.certificate.signatures[:1]))
    assert chain.refused(evidence(SplitView(one, few)), "web1@acme") == "wire.certificate.too_few"
    broken = bodies.EvidenceSubmit(encode(SplitView(one, other).to_json() | {"version": 2}))
    assert chain.refused(broken, "web1@acme") == "ledger.checkpoint.malformed"


def test_a_proof_has_a_longest_form() -> None:
    assert bodies.EvidenceSubmit.from_value_untrusted((bytes(EVIDENCE_BYTES_MAX),)).proof
    with pytest.raises(MalformedError) as error:
        bodies.EvidenceSubmit.from_value_untrusted((bytes(EVIDENCE_BYTES_MAX + 1),))
    assert error.value.code == "wire.field.length"
