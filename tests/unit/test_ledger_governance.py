"""Governance: proposals, votes, thresholds, every action, and what is refused."""

from __future__ import annotations

import pytest

from ledger import actions, bodies
from ledger.actions import Administrator
from ledger.errors import TransactionRefusedError
from ledger.keyspace import proposal_key
from ledger.limits import ADMINISTRATORS_MAX, CA_CERTIFICATES_MAX, ORGANISATIONS_MAX, PROPOSAL_LIFETIME
from ledger.quorum import votes_needed
from ledger.records import Governance, hash_policy
from ledger.rules_common import Context
from ledger.rules_governance import execute_action, vote_on_proposal
from ledger.state import StateView
from tests.testkit import patches
from tests.testkit.certificates import make_chain
from tests.testkit.ledger import Chain, key_of, make_genesis
from wire.hashing import sha256

POLICY = actions.SetPolicy("", (("deny", "forbid (principal, action, resource);"),))
CA = make_chain(key_of("x@acme"))[1]


@pytest.fixture
def chain() -> Chain:
    return Chain()


def propose(chain: Chain, action: actions.Action, by: str = "ada@acme") -> bytes:
    return chain.submit(bodies.ProposalCreate(action, "why\nin lines"), by).tx_id


def adopt(chain: Chain, action: actions.Action) -> bytes:
    """Return the id of a proposal that two of three organisations voted through."""
    proposal_id = propose(chain, action)
    for voter in ("ada@acme", "ben@beta"):
        chain.submit(bodies.ProposalVote(proposal_id, True), voter)
    record = chain.view.proposal(proposal_id)
    assert record is not None
    assert record.status == "executed"
    return proposal_id


def test_the_deciding_vote_executes_in_its_own_block(chain: Chain) -> None:
    before = chain.view.policy()
    proposal_id = propose(chain, POLICY)
    record = chain.view.proposal(proposal_id)
    assert record is not None
    assert (record.status, record.votes, record.proposer, record.organisation) == ("open", (), "ada@acme", "acme")
    assert (record.description, record.expires_height) == ("why\nin lines", 1 + PROPOSAL_LIFETIME)
    chain.submit(bodies.ProposalVote(proposal_id, True), "ada@acme")
    assert chain.view.policy() == before
    header = chain.commit(chain.sign(bodies.ProposalVote(proposal_id, True), "gil@gamma")).block.header
    policy = chain.view.policy()
    assert (policy.version, policy.policies, policy.adopted_height) == (1, POLICY.policies, header.height)
    assert policy.policy_hash == header.policy_hash == hash_policy("", POLICY.policies)
    assert chain.view.policy(0) == before
    record = chain.view.proposal(proposal_id)
    assert record is not None
    assert (record.status, record.closed_height) == ("executed", header.height)
    assert record.votes == (("acme", "ada@acme", True, 2), ("gamma", "gil@gamma", True, 3))
    assert [each.height for each in chain.view.history(proposal_key(proposal_id))] == [1, 2, 3]
    assert [each.proposal_id for each in chain.view.proposals()] == [proposal_id]
    # The hash stays in the headers that follow.
    assert chain.commit().block.header.policy_hash == policy.policy_hash


def test_an_organisation_has_one_vote_and_can_change_it(chain: Chain) -> None:
    chain.register("eve@acme", "administrator")
    proposal_id = propose(chain, POLICY)
    chain.submit(bodies.ProposalVote(proposal_id, False), "ada@acme")
    assert chain.refused(bodies.ProposalVote(proposal_id, False), "eve@acme") == "ledger.proposal.already_voted"
    chain.submit(bodies.ProposalVote(proposal_id, True), "eve@acme")
    record = chain.view.proposal(proposal_id)
    assert record is not None
    assert [vote[:3] for vote in record.votes] == [("acme", "eve@acme", True)]


def test_a_proposal_that_cannot_win_any_more_is_rejected(chain: Chain) -> None:
    proposal_id = propose(chain, POLICY)
    chain.submit(bodies.ProposalVote(proposal_id, False), "ada@acme")
    chain.submit(bodies.ProposalVote(proposal_id, False), "ben@beta")
    record = chain.view.proposal(proposal_id)
    assert record is not None
    assert (record.status, record.closed_height) == ("rejected", chain.height)
    assert chain.refused(bodies.ProposalVote(proposal_id, True), "gil@gamma") == "ledger.proposal.closed"
    assert chain.refused(bodies.ProposalWithdraw(proposal_id), "ada@acme") == "ledger.proposal.closed"


def test_withdrawal_is_the_proposing_organisation_s(chain: Chain) -> None:
    proposal_id = propose(chain, POLICY)
    assert chain.refused(bodies.ProposalWithdraw(proposal_id), "ben@beta") == "ledger.tx.not_authorised"
    chain.submit(bodies.ProposalWithdraw(proposal_id), "ada@acme")
    record = chain.view.proposal(proposal_id)
    assert record is not None
    assert record.status == "withdrawn"
    assert chain.refused(bodies.ProposalVote(proposal_id, True), "ben@beta") == "ledger.proposal.closed"


def test_only_administrators_take_part(chain: Chain) -> None:
    chain.register("alice@acme", "developer")
    proposal_id = propose(chain, POLICY)
    for body in (
        bodies.ProposalCreate(POLICY, ""),
        bodies.ProposalVote(proposal_id, True),
        bodies.ProposalWithdraw(proposal_id),
    ):
        assert chain.refused(body, "alice@acme") == "ledger.tx.not_authorised"
    for body in (bodies.ProposalVote(bytes(32), True), bodies.ProposalWithdraw(bytes(32))):
        assert chain.refused(body, "ada@acme") == "ledger.proposal.not_found"


def test_a_proposal_expires(chain: Chain) -> None:
    """The rule alone: a chain of a hundred thousand blocks would prove no more."""
    proposal_id = propose(chain, POLICY)
    signer = chain.view.identity("ada@acme")
    key = chain.view.key(key_of("ada@acme").public_key.key_id)
    assert signer is not None
    assert key is not None
    vote = bodies.ProposalVote(proposal_id, True)
    last = Context(bytes(32), signer, key, 1 + PROPOSAL_LIFETIME, 0)
    assert vote_on_proposal(chain.view, last, vote).records
    late = Context(bytes(32), signer, key, 2 + PROPOSAL_LIFETIME, 0)
    with pytest.raises(TransactionRefusedError) as refused:
        vote_on_proposal(chain.view, late, vote)
    assert refused.value.code == "ledger.proposal.expired"


@pytest.mark.parametrize("count", range(1, 10))
def test_thresholds_against_their_definition(count: int) -> None:
    for threshold, enough in (
        ("majority", lambda votes: 2 * votes > count),
        ("two-thirds", lambda votes: 3 * votes >= 2 * count),
        ("unanimous", lambda votes: votes == count),
    ):
        assert votes_needed(threshold, count) == min(votes for votes in range(1, count + 1) if enough(votes))


def test_a_network_of_one_decides_alone_but_still_votes() -> None:
    chain = Chain(make_genesis(validators=1, organisations=["acme"]))
    proposal_id = propose(chain, POLICY)
    assert chain.view.policy().version == 0
    chain.submit(bodies.ProposalVote(proposal_id, True), "ada@acme")
    assert chain.view.policy().version == 1


def test_thresholds_change_and_count_for_open_proposals(chain: Chain) -> None:
    waiting = propose(chain, POLICY)
    chain.submit(bodies.ProposalVote(waiting, True), "ada@acme")
    adopt(chain, actions.SetThreshold("unanimous"))
    assert chain.view.governance().threshold == "unanimous"
    chain.submit(bodies.ProposalVote(waiting, True), "ben@beta")
    record = chain.view.proposal(waiting)
    assert record is not None
    assert record.status == "open"
    chain.submit(bodies.ProposalVote(waiting, True), "gil@gamma")
    assert chain.view.policy().version == 1


def test_a_new_organisation_acts_and_votes(chain: Chain) -> None:
    key = key_of("dan@delta").public_key
    action = actions.AddOrganisation("delta", "Delta", (Administrator("dan@delta", "Dan", key.spki),), (CA,))
    adopt(chain, action)
    organisation = chain.view.organisation("delta")
    assert organisation is not None
    assert (organisation.admitted_height, organisation.ca_certificates) == (chain.height, (CA,))
    assert organisation.administrators == ("dan@delta",)
    assert chain.view.governance().organisations == ("acme", "beta", "delta", "gamma")
    chain.submit(
        bodies.IdentityRegister("dev@delta", "Dev", ("developer",), key_of("dev@delta").public_key.spki), "dan@delta"
    )
    chain.submit(bodies.ProposalVote(propose(chain, POLICY, "dan@delta"), True), "dan@delta")
    # Four organisations: two votes are no majority any more.
    assert chain.view.policy().version == 0


def test_an_administrator_is_added_from_outside_and_brings_an_organisation_back(chain: Chain) -> None:
    """Acme's only key is declared compromised by the others; then they give acme a new administrator."""
    ada = key_of("ada@acme").public_key.key_id
    proposal_id = propose(chain, actions.RevokeKey(ada, 1, "stolen"), "ben@beta")
    for voter in ("ben@beta", "gil@gamma"):
        chain.submit(bodies.ProposalVote(proposal_id, True), voter)
    key = chain.view.key(ada)
    assert key is not None
    assert (key.last_valid_height, key.reason) == (1, "stolen")
    assert chain.refused(bodies.ProposalCreate(POLICY, ""), "ada@acme") == "ledger.tx.key_not_valid"
    new = key_of("abe@acme")
    action = actions.AddAdministrator("acme", Administrator("abe@acme", "Abe", new.public_key.spki))
    proposal_id = propose(chain, action, "ben@beta")
    for voter in ("ben@beta", "gil@gamma"):
        chain.submit(bodies.ProposalVote(proposal_id, True), voter)
    organisation = chain.view.organisation("acme")
    assert organisation is not None
    assert organisation.administrators == ("abe@acme", "ada@acme")
    chain.submit(bodies.IdentityRevoke("ada@acme", None, 1, "stolen"), "abe@acme")


def test_ca_certificates_come_and_go(chain: Chain) -> None:
    adopt(chain, actions.AddCaCertificate("beta", CA))
    organisation = chain.view.organisation("beta")
    assert organisation is not None
    assert organisation.ca_certificates == (CA,)
    again = bodies.ProposalCreate(actions.AddCaCertificate("beta", CA), "")
    assert chain.refused(again, "ada@acme") == "ledger.proposal.certificate_exists"
    adopt(chain, actions.RemoveCaCertificate("beta", sha256(CA)))
    organisation = chain.view.organisation("beta")
    assert organisation is not None
    assert organisation.ca_certificates == ()


def test_a_patch_is_withdrawn_by_vote(chain: Chain) -> None:
    chain.register_patch_people()
    patch_id = chain.publish(patches.make_patch())
    adopt(chain, actions.WithdrawPatch(patch_id, "malicious"))
    record = chain.view.patch(patch_id)
    assert record is not None
    assert (record.withdrawn_height, record.withdrawn_reason) == (chain.height, "malicious")


ADA_KEY = key_of("ada@acme").public_key
NEW_SPKI = key_of("new").public_key.spki


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (actions.SetThreshold("majority"), "ledger.proposal.no_change"),
        (actions.SetPolicy("", (("allow", "permit (principal, action, resource);"),)), "ledger.proposal.no_change"),
        (
            actions.AddOrganisation("acme", "A", (Administrator("x@acme", "X", NEW_SPKI),), ()),
            "ledger.proposal.organisation_exists",
        ),
        (
            actions.AddOrganisation("delta", "D", (Administrator("x@acme", "X", NEW_SPKI),), ()),
            "ledger.proposal.foreign_administrator",
        ),
        (
            actions.AddOrganisation("delta", "D", (Administrator("x@delta", "X", ADA_KEY.spki),), ()),
            "ledger.identity.key_exists",
        ),
        (
            actions.AddOrganisation(
                "delta", "D", (Administrator("x@delta", "X", NEW_SPKI), Administrator("y@delta", "Y", NEW_SPKI)), ()
            ),
            "ledger.proposal.repeated_administrator",
        ),
        (
            actions.AddOrganisation("delta", "D", (Administrator("x@delta", "X", NEW_SPKI),), (b"not a certificate",)),
            "wire.x509.malformed",
        ),
        (
            actions.AddAdministrator("delta", Administrator("x@delta", "X", NEW_SPKI)),
            "ledger.proposal.organisation_not_found",
        ),
        (
            actions.AddAdministrator("acme", Administrator("x@beta", "X", NEW_SPKI)),
            "ledger.proposal.foreign_administrator",
        ),
        (actions.AddAdministrator("acme", Administrator("ada@acme", "X", NEW_SPKI)), "ledger.identity.exists"),
        (
            actions.AddAdministrator("acme", Administrator("x@acme", "X", ADA_KEY.spki)),
            "ledger.identity.key_exists",
        ),
        (actions.AddCaCertificate("delta", CA), "ledger.proposal.organisation_not_found"),
        (actions.AddCaCertificate("acme", b"not a certificate"), "wire.x509.malformed"),
        (actions.RemoveCaCertificate("acme", bytes(32)), "ledger.proposal.certificate_not_found"),
        (actions.RevokeKey(bytes(32), 0, ""), "ledger.identity.key_not_found"),
        (actions.RevokeKey(ADA_KEY.key_id, 9, ""), "ledger.identity.future_height"),
        (actions.WithdrawPatch(bytes(32), ""), "ledger.patch.not_found"),
    ],
)
def test_an_action_that_does_not_fit_cannot_be_proposed(chain: Chain, action: actions.Action, code: str) -> None:
    assert chain.refused(bodies.ProposalCreate(action, ""), "ada@acme") == code


def test_an_action_that_no_longer_fits_refuses_the_deciding_vote(chain: Chain) -> None:
    """Two proposals for the same certificate: the second one's deciding vote comes too late and changes nothing."""
    action = actions.AddCaCertificate("beta", CA)
    waiting = propose(chain, action)
    chain.submit(bodies.ProposalVote(waiting, True), "ada@acme")
    adopt(chain, action)
    vote = bodies.ProposalVote(waiting, True)
    assert chain.refused(vote, "ben@beta") == "ledger.proposal.certificate_exists"
    record = chain.view.proposal(waiting)
    assert record is not None
    assert record.status == "open"
    chain.submit(bodies.ProposalWithdraw(waiting), "ada@acme")


def test_a_key_is_revoked_further_back_but_not_twice_the_same(chain: Chain) -> None:
    key_id = chain.register("alice@acme", "developer").public_key.key_id
    adopt(chain, actions.RevokeKey(key_id, 1, "lost"))
    again = bodies.ProposalCreate(actions.RevokeKey(key_id, 1, "lost"), "")
    assert chain.refused(again, "ada@acme") == "ledger.identity.already_revoked"
    adopt(chain, actions.RevokeKey(key_id, 0, "never ours"))
    key = chain.view.key(key_id)
    assert key is not None
    assert not any(key.is_valid_at(height) for height in range(9))


class FullView(StateView):
    """A view of a network in which everything that is bounded is full."""

    def governance(self) -> Governance:
        return Governance("majority", tuple(f"o{index:03}" for index in range(ORGANISATIONS_MAX)), 0)

    def organisation(self, name: str):  # type: ignore[no-untyped-def]
        found = super().organisation(name)
        if found is None:
            return None
        certificates = tuple(b"%d" % index for index in range(CA_CERTIFICATES_MAX))
        names = tuple(f"a{index:02}@acme" for index in range(ADMINISTRATORS_MAX))
        return type(found)(found.name, found.display_name, 0, certificates, names)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (
            actions.AddOrganisation("delta", "D", (Administrator("x@delta", "X", NEW_SPKI),), ()),
            "ledger.proposal.too_many_organisations",
        ),
        (actions.AddCaCertificate("acme", CA), "ledger.proposal.too_many_certificates"),
        (
            actions.AddAdministrator("acme", Administrator("x@acme", "X", NEW_SPKI)),
            "ledger.identity.too_many_administrators",
        ),
    ],
)
def test_everything_is_bounded(chain: Chain, action: actions.Action, code: str) -> None:
    view = FullView(chain.store)
    signer, key = view.identity("ada@acme"), view.key(ADA_KEY.key_id)
    assert signer is not None
    assert key is not None
    with pytest.raises(TransactionRefusedError) as refused:
        execute_action(view, Context(bytes(32), signer, key, 1, 0), action)
    assert refused.value.code == code
