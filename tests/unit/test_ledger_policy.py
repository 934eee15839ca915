"""Policy sets that come into force later, and the network's own cases, on the ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import actions, bodies
from ledger.actions import SetPolicy, SetPolicyCases, action_from_value_untrusted
from ledger.audit import AuditLevel, Auditor
from ledger.block import build_raw_block
from ledger.errors import TransactionRefusedError
from ledger.limits import POLICY_ACTIVATION_AHEAD_MAX
from ledger.records import hash_policy
from tests.testkit.ledger import Chain
from wire.certificate import proposal_message
from wire.errors import MalformedError

DENY = (("deny", "forbid (principal, action, resource);"),)
ALLOW = (("allow", "permit (principal, action, resource);"),)
OTHER = (("other", "permit (principal, action, resource);"),)


def in_force(chain: Chain) -> tuple[int, bytes]:
    """Return version and hash of the set in force; header and state must agree on it."""
    version = chain.view.policy_version()
    assert chain.view.header.policy_hash == version.policy_hash
    assert chain.view.policy().policy_hash == version.policy_hash
    return version.version, version.policy_hash


def test_set_comes_into_force_with_the_first_block_at_its_height() -> None:
    chain = Chain()
    before = in_force(chain)
    height = chain.height + 6
    chain.adopt(SetPolicy("", DENY, height))
    assert in_force(chain) == before
    waiting = chain.view.policy_pending()
    assert waiting is not None
    assert (waiting.version, waiting.policy_hash, waiting.activate_height) == (1, hash_policy("", DENY), height)
    while chain.height < height - 1:
        chain.commit()
        assert in_force(chain) == before
    chain.commit()
    assert (chain.height, in_force(chain)) == (height, (1, hash_policy("", DENY)))
    assert chain.view.policy_pending() is None
    assert chain.view.policy().adopted_height == height
    assert [each.version for each in chain.view.policies()] == [0, 1]


def test_first_block_above_the_height_does_it_too_and_only_once() -> None:
    chain = Chain()
    chain.adopt(SetPolicy("", DENY, chain.height + 6))
    while chain.view.policy_pending() is not None:
        chain.commit()
    root = chain.view.header.state_root
    chain.commit()
    assert chain.view.header.state_root == root


def test_height_that_has_passed_when_the_vote_comes_means_at_once() -> None:
    chain = Chain()
    chain.adopt(SetPolicy("", DENY, 1))
    assert in_force(chain) == (1, hash_policy("", DENY))
    assert chain.view.policy().adopted_height == chain.height


def test_set_adopted_meanwhile_takes_the_place_of_the_one_that_waits() -> None:
    chain = Chain()
    height = chain.height + 40
    chain.adopt(SetPolicy("", DENY, height))
    chain.adopt(SetPolicy("", ALLOW))
    assert in_force(chain) == (2, hash_policy("", ALLOW))
    assert chain.view.policy_pending() is None
    while chain.height <= height:
        chain.commit()
    assert in_force(chain) == (2, hash_policy("", ALLOW))
    chain.adopt(SetPolicy("", OTHER))
    assert in_force(chain) == (3, hash_policy("", OTHER))


def test_set_that_waits_is_replaced_by_a_later_one_or_taken_back() -> None:
    chain = Chain()
    founding = chain.view.policy()
    height = chain.height + 40
    chain.adopt(SetPolicy("", DENY, height))
    chain.adopt(SetPolicy("", OTHER, height))
    waiting = chain.view.policy_pending()
    assert waiting is not None
    assert (waiting.version, waiting.policy_hash) == (2, hash_policy("", OTHER))
    # Adopting what is in force again is how one takes back what waits.
    chain.adopt(SetPolicy(founding.schema, founding.policies))
    assert in_force(chain) == (3, founding.policy_hash)
    assert chain.view.policy_pending() is None


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (lambda height: SetPolicy("", DENY, height + POLICY_ACTIVATION_AHEAD_MAX + 2), "activation_too_far"),
        (lambda height: SetPolicyCases(""), "no_change"),
    ],
)
def test_refused_and_nothing_changed(action: object, code: str) -> None:
    chain = Chain()
    root = chain.view.header.state_root
    assert callable(action)
    with pytest.raises(TransactionRefusedError) as caught:
        chain.submit(bodies.ProposalCreate(action(chain.height), "why"), "ada@acme")
    assert caught.value.code == f"ledger.proposal.{code}"
    assert chain.view.header.state_root == root


def test_same_set_for_the_same_height_is_no_change() -> None:
    chain = Chain()
    height = chain.height + 40
    chain.adopt(SetPolicy("", DENY, height))
    with pytest.raises(TransactionRefusedError) as caught:
        chain.submit(bodies.ProposalCreate(SetPolicy("", DENY, height), "why"), "ada@acme")
    assert caught.value.code == "ledger.proposal.no_change"


def test_cases_are_adopted_replaced_and_taken_away() -> None:
    chain = Chain()
    assert (chain.view.policy_cases().cases, chain.view.policy_cases().adopted_height) == ("", 0)
    for text in ('[{"expect": "allow"}]', '[\n{"expect": "deny"}]', ""):
        chain.adopt(SetPolicyCases(text))
        record = chain.view.policy_cases()
        assert (record.cases, record.adopted_height) == (text, chain.height)


@pytest.mark.parametrize("action", [SetPolicy("s", DENY), SetPolicy("s", DENY, 7), SetPolicyCases("[]")])
def test_action_reads_back(action: actions.Action) -> None:
    assert action_from_value_untrusted(action.to_value()) == action


def test_set_without_a_height_has_the_form_of_before() -> None:
    assert SetPolicy("s", DENY).to_value() == ("set-policy", "s", DENY)


@pytest.mark.parametrize(
    "value",
    [
        ("set-policy", "", DENY, 0),
        ("set-policy", "", DENY, -1),
        ("set-policy", "", DENY, "9"),
        ("set-policy", "", DENY, 9, 9),
        ("set-policy", ""),
        ("set-policy-cases",),
        ("set-policy-cases", 1),
        ("set-policy-cases", "x" * (256 * 1024 + 1)),
    ],
)
def test_action_out_of_form_is_refused(value: tuple[object, ...]) -> None:
    with pytest.raises(MalformedError):
        action_from_value_untrusted(value)


def test_replay_and_a_block_that_forgets_the_change() -> None:
    chain = Chain()
    chain.adopt(SetPolicy("", DENY, chain.height + 6))
    while chain.view.policy_pending() is not None:
        chain.commit()
    blocks = [(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]
    auditor = Auditor(chain.genesis, level=AuditLevel.FULL)
    for raw, certificate in blocks:
        auditor.feed(raw, certificate)
    assert auditor.finish().findings == ()
    # The same block with the header of one that knows nothing of the waiting set.
    auditor = Auditor(chain.genesis, level=AuditLevel.FULL)
    for raw, certificate in blocks[:-1]:
        auditor.feed(raw, certificate)
    last, before = chain.blocks[-1], chain.blocks[-2].header
    header = replace(last.header, policy_hash=before.policy_hash, state_root=before.state_root)
    signature = chain.node_keys[chain.leader].sign(proposal_message(header.hash()))
    auditor.feed(build_raw_block(header, last.transactions, signature, None).raw, None)
    assert {each.what for each in auditor.finish().findings} >= {"ledger.block.policy_hash", "ledger.block.state_root"}
