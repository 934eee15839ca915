"""Organisations are renamed, suspended, resumed and removed by vote, and limits are set: what changes, and what does not."""

from __future__ import annotations

import pytest

from ledger import actions, bodies
from ledger.actions import Administrator
from ledger.keyspace import Table, height_key, organisation_key
from ledger.limits import NETWORK_LIMITS
from ledger.records import ProposalRecord, Standing
from tests.testkit import patches
from tests.testkit.ledger import Chain, attest_body, key_of, make_certificate, make_genesis, validator
from wire.certificate import encode_commit_certificate

POLICY = actions.SetPolicy("", (("deny", "forbid (principal, action, resource);"),))
NEW = Administrator("new@gamma", "New", key_of("new").public_key.spki)


@pytest.fixture
def chain() -> Chain:
    """Four validators of acme (two), beta and gamma; two organisations decide."""
    return Chain()


def without_nodes() -> Chain:
    """Return a network whose only validator is acme's, so that the others may leave."""
    return Chain(make_genesis(validators=1))


def proposal(chain: Chain, proposal_id: bytes) -> ProposalRecord:
    record = chain.view.proposal(proposal_id)
    assert record is not None
    return record


def test_a_name_for_people_changes_and_the_identifier_stays(chain: Chain) -> None:
    chain.adopt(actions.RenameOrganisation("beta", "Beta & Daughters"))
    organisation = chain.view.organisation("beta")
    assert organisation is not None
    assert (organisation.name, organisation.display_name) == ("beta", "Beta & Daughters")
    assert organisation.administrators == ("ben@beta",)
    assert [each.height for each in chain.view.history(organisation_key("beta"))][-1] == chain.height
    again = bodies.ProposalCreate(actions.RenameOrganisation("beta", "Beta & Daughters"), "")
    assert chain.refused(again, "ada@acme") == "ledger.proposal.no_change"


def test_a_suspended_organisation_has_no_vote_and_no_word(chain: Chain) -> None:
    chain.register("gus@gamma", "developer")
    chain.adopt(actions.SuspendOrganisation("gamma", "under investigation"))
    standing = chain.view.standing("gamma")
    assert standing == Standing("gamma", "suspended", chain.height, "under investigation")
    assert chain.view.governance().organisations == ("acme", "beta")
    assert chain.view.organisation_status("beta") == "active"
    assert chain.refused(bodies.ProposalCreate(POLICY, ""), "gil@gamma") == "ledger.tx.organisation_suspended"
    assert chain.refused(bodies.IdentitySuspend("gus@gamma", ""), "gil@gamma") == "ledger.tx.organisation_suspended"
    # Its validators go on: who decides about blocks is another question, and another proposal.
    assert "gamma" in {each.organisation for each in chain.view.validators().validators}
    chain.adopt(actions.ResumeOrganisation("gamma"))
    assert chain.view.standing("gamma") == Standing("gamma", "active", chain.height, "")
    assert chain.view.governance().organisations == ("acme", "beta", "gamma")
    chain.submit(bodies.ProposalCreate(POLICY, ""), "gil@gamma")


def test_the_hosts_of_a_suspended_organisation_still_say_what_has_happened(chain: Chain) -> None:
    chain.register_patch_people()
    chain.register("web2@gamma", "host")
    patch_id = chain.publish(patches.make_patch())
    intent = bodies.DeploymentIntent(1, bytes(32), "site", patch_id, bytes(32), b"{}")
    opened = chain.submit(intent, "web2@gamma").tx_id
    chain.adopt(actions.SuspendOrganisation("gamma", "why"))
    body = bodies.DeploymentOutcome(2, opened, "site", patch_id, opened, "SUCCESS", bytes(32), b"\x01" * 32, b"{}")
    outcome = chain.submit(body, "web2@gamma").tx_id
    chain.submit(bodies.HostReport("drift", "site", b"{}"), "web2@gamma")
    further = bodies.DeploymentIntent(3, outcome, "site", patch_id, b"\x01" * 32, b"{}")
    assert chain.refused(further, "web2@gamma") == "ledger.tx.organisation_suspended"


def test_nobody_passes_on_what_a_suspended_organisation_attests(chain: Chain) -> None:
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    chain.publish(data)
    proposed = chain.submit(bodies.ProposalCreate(actions.SuspendOrganisation("beta", ""), ""), "ada@acme").tx_id
    for voter in ("ada@acme", "gil@gamma"):
        chain.submit(bodies.ProposalVote(proposed, True), voter)
    assert chain.refused(attest_body(data), "alice@acme") == "ledger.patch.attestor_not_active"


def test_a_removed_organisation_is_gone_for_ever_and_what_it_said_stays() -> None:
    chain = without_nodes()
    proposed = chain.submit(bodies.ProposalCreate(POLICY, ""), "gil@gamma").tx_id
    chain.submit(bodies.ProposalVote(proposed, True), "gil@gamma")
    chain.adopt(actions.RemoveOrganisation("gamma", "merged into beta"))
    assert chain.view.organisation_status("gamma") == "removed"
    assert chain.view.organisation("gamma") is not None
    for body in (bodies.ProposalVote(proposed, False), bodies.HostReport("drift", "site", b"")):
        assert chain.refused(body, "gil@gamma") == "ledger.tx.organisation_removed"
    for action in (
        actions.ResumeOrganisation("gamma"),
        actions.SuspendOrganisation("gamma", ""),
        actions.RemoveOrganisation("gamma", ""),
        actions.RenameOrganisation("gamma", "Gamma again"),
        actions.AddAdministrator("gamma", NEW),
        actions.AddCaCertificate("gamma", b""),
        actions.RemoveCaCertificate("gamma", bytes(32)),
        actions.AddLearner(validator(9, "gamma")),
    ):
        refused = chain.refused(bodies.ProposalCreate(action, ""), "ada@acme")
        assert refused == "ledger.proposal.organisation_removed", action
    again = actions.AddOrganisation("gamma", "Gamma", (NEW,), ())
    assert chain.refused(bodies.ProposalCreate(again, ""), "ada@acme") == "ledger.proposal.organisation_exists"
    # Its vote is on record and does not count; two of the two that are left decide.
    chain.submit(bodies.ProposalVote(proposed, True), "ada@acme")
    assert proposal(chain, proposed).status == "open"
    chain.submit(bodies.ProposalVote(proposed, True), "ben@beta")
    record = proposal(chain, proposed)
    assert (record.status, [vote[0] for vote in record.votes]) == ("executed", ["acme", "beta", "gamma"])


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (actions.RenameOrganisation("delta", "D"), "organisation_not_found"),
        (actions.SuspendOrganisation("delta", ""), "organisation_not_found"),
        (actions.ResumeOrganisation("delta"), "organisation_not_found"),
        (actions.RemoveOrganisation("delta", ""), "organisation_not_found"),
        (actions.ResumeOrganisation("gamma"), "no_change"),
        (actions.RemoveOrganisation("gamma", ""), "organisation_has_validators"),
        (actions.SetLimits(*(most for _, most in NETWORK_LIMITS.values())), "no_change"),
    ],
)
def test_an_action_that_does_not_fit_cannot_be_proposed(chain: Chain, action: actions.Action, code: str) -> None:
    assert chain.refused(bodies.ProposalCreate(action, ""), "ada@acme") == f"ledger.proposal.{code}"


def test_a_suspended_organisation_gets_no_new_node_and_is_suspended_once(chain: Chain) -> None:
    chain.adopt(actions.SuspendOrganisation("gamma", ""))
    for action, code in (
        (actions.SuspendOrganisation("gamma", "again"), "no_change"),
        (actions.AddLearner(validator(9, "gamma")), "organisation_not_active"),
    ):
        assert chain.refused(bodies.ProposalCreate(action, ""), "ada@acme") == f"ledger.proposal.{code}"
    # What brings it back to itself is possible meanwhile.
    chain.adopt(actions.AddAdministrator("gamma", NEW))


def test_no_limit_keeps_a_change_of_many_validators_from_its_end() -> None:
    """All of 50 validators have signed: their certificate alone is longer than the shortest longest transaction."""
    chain = Chain(make_genesis(validators=50))
    chain.adopt(actions.SetLimits(4096, 65536, 2))
    chain.adopt(actions.RemoveValidator("v50"))
    block = chain.blocks[-1]
    certificate = make_certificate(chain.genesis.chain_id, chain.node_keys, block)
    row = (Table.CERTIFICATE, height_key(block.header.height))
    chain.store.apply({row: encode_commit_certificate(certificate)})
    settlement = chain.sign_settlement()
    assert len(settlement.raw) > 4096
    chain.commit(settlement)
    assert len(chain.view.validators().validators) == 49


def test_limits_count_from_the_next_block_on(chain: Chain) -> None:
    long = bodies.ProposalCreate(POLICY, "x" * 8000)
    chain.adopt(actions.SetLimits(4096, 65536, 2))
    network = chain.view.network
    assert (network.transaction_bytes_max, network.block_bytes_max, network.block_transactions_max) == (4096, 65536, 2)
    assert network.chain_id == chain.genesis.chain_id
    assert chain.refused(long, "ada@acme") == "ledger.tx.too_large"
    chain.register("web1@acme", "host")
    reports = [chain.sign(bodies.HostReport("drift", f"t{index}", b""), "web1@acme") for index in range(3)]
    built = chain.build(*reports)
    assert (len(built.block.transactions), len(built.left)) == (2, 1)
    chain.adopt(actions.SetLimits(8192, 65536, 2))
    assert chain.refused(long, "ada@acme") == "ledger.tx.too_large"
    chain.adopt(actions.SetLimits(65536, 131072, 2))
    chain.submit(long, "ada@acme")
