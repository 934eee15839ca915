"""What hosts record: intents, outcomes and reports, without gaps and without changes that nobody announced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import bodies
from ledger.keyspace import TRANSACTION_CHAIN_KEY, Table, patch_key, target_key
from ledger.limits import INSTALLED_MAX
from ledger.records import TargetRecord
from ledger.rules_common import Context
from ledger.rules_host import record_outcome
from ledger.state import StateView
from tests.testkit import patches
from tests.testkit.ledger import ZEROS, Chain

BEFORE, AFTER = b"\x01" * 32, b"\x02" * 32


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    return chain


@pytest.fixture
def patch_id(chain: Chain) -> bytes:
    return chain.publish(patches.make_patch())


def intent(patch_id: bytes, counter: int = 1, previous: bytes = ZEROS, target: str = "site") -> bodies.DeploymentIntent:
    return bodies.DeploymentIntent(counter, previous, target, patch_id, BEFORE, b'{"verdict":"allow"}')


def outcome(  # noqa: PLR0917 - the order of the wire form
    patch_id: bytes,
    opened: bytes | None,
    counter: int = 2,
    previous: bytes | None = None,
    result: str = "SUCCESS",
    target: str = "site",
) -> bodies.DeploymentOutcome:
    link = (opened or ZEROS) if previous is None else previous
    return bodies.DeploymentOutcome(counter, link, target, patch_id, opened, result, BEFORE, AFTER, b"{}")


def test_intent_and_outcome_make_a_deployment_and_move_the_target(chain: Chain, patch_id: bytes) -> None:
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    deployment = chain.view.deployment(opened)
    assert deployment is not None
    assert (deployment.intent_height, deployment.outcome_height, deployment.result) == (chain.height, None, "")
    assert chain.view.target("web1@acme", "site") is None
    closed = chain.submit(outcome(patch_id, opened), by="web1@acme").tx_id
    deployment = chain.view.deployment(opened)
    assert deployment is not None
    assert (deployment.outcome_height, deployment.outcome_tx_id) == (chain.height, closed)
    assert (deployment.result, deployment.tree_before, deployment.tree_after) == ("SUCCESS", BEFORE, AFTER)
    host = chain.view.host("web1@acme")
    assert host is not None
    assert (host.counter, host.last_tx_id, host.changed_height) == (2, closed, chain.height)
    target = chain.view.target("web1@acme", "site")
    assert target == TargetRecord("web1@acme", "site", AFTER, ((patch_id, chain.height),), chain.height, "", None, None)
    for subject in (patch_key(patch_id), target_key("web1@acme", "site")):
        assert [each.tx_id for each in chain.view.history(subject)][-2:] == [opened, closed]
    assert [each.deployment_id for each in chain.view.deployments()] == [opened]
    assert [each.host for each in chain.view.hosts()] == ["web1@acme"]
    assert list(chain.view.targets()) == list(chain.view.targets("web1@acme")) == [target]
    assert list(chain.view.targets("web2@acme")) == []


def test_a_failure_leaves_the_target_as_it_was(chain: Chain, patch_id: bytes) -> None:
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    chain.submit(outcome(patch_id, opened, result="ERROR_APPLY_FAILED"), by="web1@acme")
    assert chain.view.target("web1@acme", "site") is None


def test_a_rollback_takes_the_patch_off_the_list(chain: Chain, patch_id: bytes) -> None:
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    last = chain.submit(outcome(patch_id, opened), by="web1@acme").tx_id
    again = chain.submit(replace(intent(patch_id, 3, last), tree_before=AFTER), by="web1@acme").tx_id
    body = replace(outcome(patch_id, again, 4, again, "ROLLED_BACK"), tree_before=AFTER, tree_after=BEFORE)
    chain.submit(body, by="web1@acme")
    target = chain.view.target("web1@acme", "site")
    assert target is not None
    assert (target.tree_digest, target.installed) == (BEFORE, ())


def test_a_refusal_needs_no_intent_and_no_published_patch(chain: Chain) -> None:
    body = outcome(ZEROS, None, 1, ZEROS, "ERROR_POLICY_DENIED")
    refused = chain.submit(body, by="web1@acme").tx_id
    deployment = chain.view.deployment(refused)
    assert deployment is not None
    assert (deployment.intent_height, deployment.outcome_tx_id) == (None, refused)
    assert deployment.result == "ERROR_POLICY_DENIED"
    # It closed itself: nothing can close it again.
    again = outcome(ZEROS, refused, 2, refused, "ERROR_APPLY_FAILED")
    assert chain.refused(again, "web1@acme") == "ledger.host.intent_not_found"


@pytest.mark.parametrize("result", ["SUCCESS", "ROLLED_BACK"])
def test_a_change_without_an_announcement_is_refused(chain: Chain, patch_id: bytes, result: str) -> None:
    body = outcome(patch_id, None, 1, ZEROS, result)
    assert chain.refused(body, "web1@acme") == "ledger.host.intent_required"


def test_records_are_numbered_and_linked_without_gaps(chain: Chain, patch_id: bytes) -> None:
    assert chain.refused(intent(patch_id, 2), "web1@acme") == "ledger.host.counter_gap"
    assert chain.refused(intent(patch_id, 1, AFTER), "web1@acme") == "ledger.host.wrong_previous"
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    for counter in (1, 3):
        assert chain.refused(outcome(patch_id, opened, counter), "web1@acme") == "ledger.host.counter_gap"
    assert chain.refused(outcome(patch_id, opened, 2, ZEROS), "web1@acme") == "ledger.host.wrong_previous"


def test_hosts_count_for_themselves(chain: Chain, patch_id: bytes) -> None:
    chain.register("web2@acme", "host")
    chain.submit(intent(patch_id), by="web1@acme")
    chain.submit(intent(patch_id), by="web2@acme")
    assert [each.counter for each in chain.view.hosts()] == [1, 1]


def test_an_outcome_fits_its_intent(chain: Chain, patch_id: bytes) -> None:
    chain.register("web2@acme", "host")
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    unknown = outcome(patch_id, AFTER, 2, opened)
    assert chain.refused(unknown, "web1@acme") == "ledger.host.intent_not_found"
    for body, by in (
        (outcome(patch_id, opened, target="other"), "web1@acme"),
        (outcome(AFTER, opened), "web1@acme"),
        (replace(outcome(patch_id, opened), tree_before=ZEROS), "web1@acme"),
        (outcome(patch_id, opened, 1, ZEROS), "web2@acme"),
    ):
        assert chain.refused(body, by) == "ledger.host.intent_mismatch"
    closed = chain.submit(outcome(patch_id, opened), by="web1@acme").tx_id
    assert chain.refused(outcome(patch_id, opened, 3, closed), "web1@acme") == "ledger.host.intent_closed"


@pytest.mark.parametrize("result", ["SUCCESS", "ROLLED_BACK"])
def test_a_change_that_changed_nothing_is_refused(chain: Chain, patch_id: bytes, result: str) -> None:
    """A host that says that it has applied what it has not must at least invent a tree, which anybody with the files can recompute."""
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    body = replace(outcome(patch_id, opened, result=result), tree_after=BEFORE)
    before = chain.store.dump()
    assert chain.refused(body, "web1@acme") == "ledger.host.unchanged"
    assert chain.store.dump() == before
    deployment = chain.view.deployment(opened)
    assert deployment is not None
    assert (deployment.outcome_height, chain.view.target("web1@acme", "site")) == (None, None)


def test_an_intent_names_a_published_patch_that_is_not_withdrawn(chain: Chain, patch_id: bytes) -> None:
    assert chain.refused(intent(AFTER), "web1@acme") == "ledger.patch.not_found"
    chain.submit(bodies.PatchWithdraw(patch_id, ""), by="alice@acme")
    assert chain.refused(intent(patch_id), "web1@acme") == "ledger.patch.withdrawn"


def test_a_withdrawn_patch_may_be_undone_where_it_is_installed_and_nowhere_else(chain: Chain, patch_id: bytes) -> None:
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    last = chain.submit(outcome(patch_id, opened), by="web1@acme").tx_id
    chain.submit(bodies.PatchWithdraw(patch_id, "breaks the build"), by="alice@acme")
    elsewhere = replace(intent(patch_id, 3, last), target="other")
    assert chain.refused(elsewhere, "web1@acme") == "ledger.patch.withdrawn"
    again = chain.submit(replace(intent(patch_id, 3, last), tree_before=AFTER), by="web1@acme").tx_id
    body = replace(outcome(patch_id, again, 4, again, "ROLLED_BACK"), tree_before=AFTER, tree_after=BEFORE)
    gone = chain.submit(body, by="web1@acme").tx_id
    assert chain.refused(intent(patch_id, 5, gone), "web1@acme") == "ledger.patch.withdrawn"


@pytest.mark.parametrize("by", ["alice@acme", "ada@acme"])
def test_only_hosts_record(chain: Chain, patch_id: bytes, by: str) -> None:
    for body in (
        intent(patch_id),
        outcome(patch_id, None, 1, ZEROS, "ERROR_POLICY_DENIED"),
        bodies.HostReport("drift", "site", b""),
    ):
        assert chain.refused(body, by) == "ledger.tx.not_authorised"


@pytest.mark.parametrize("kind", ["adopt", "drift", "rollback"])
def test_a_report_stands_at_its_target(chain: Chain, kind: str) -> None:
    transaction = chain.submit(bodies.HostReport(kind, "site", b"{}"), by="web1@acme")
    target = chain.view.target("web1@acme", "site")
    assert target is not None
    assert (target.report_kind, target.report_tx_id, target.report_height) == (kind, transaction.tx_id, chain.height)
    assert (target.tree_digest, target.installed) == (None, ())


@pytest.mark.parametrize(
    ("kind", "body", "is_empty"),
    [
        ("adopt", b'{"installed":[],"version":1}', True),
        ("adopt", b'{"version":1}', False),
        ("adopt", b'{"installed":["ab"],"version":1}', False),
        ("adopt", b'{"installed":{},"version":1}', False),
        ("adopt", b'{"installed":null,"version":1}', False),
        ("adopt", b'{"installed": [],"version":1}', False),
        ("adopt", b'["installed"]', False),
        ("adopt", b"[" * 4096, False),
        ("adopt", b"\xff", False),
        ("adopt", b"", False),
        ("drift", b'{"installed":[],"version":1}', False),
        ("repair", b'{"installed":[],"version":1}', False),
        ("rollback", b'{"installed":[],"version":1}', False),
        ("inventory", b'{"installed":[],"version":1}', False),
    ],
)
def test_an_adopted_tree_with_nothing_installed_has_nothing_installed(
    chain: Chain, patch_id: bytes, kind: str, body: bytes, *, is_empty: bool
) -> None:
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    chain.submit(outcome(patch_id, opened), by="web1@acme")
    installed = ((patch_id, chain.height),)
    chain.submit(bodies.HostReport(kind, "other", body), by="web1@acme")
    chain.submit(bodies.HostReport(kind, "site", body), by="web1@acme")
    target = chain.view.target("web1@acme", "site")
    assert target is not None
    assert (target.installed, target.tree_digest) == (() if is_empty else installed, AFTER)


def test_an_inventory_changes_nothing_but_the_chain_of_transactions(chain: Chain) -> None:
    executed = chain.commit(chain.sign(bodies.HostReport("inventory", "site", b"x" * 300), by="web1@acme"))
    assert [key for table, key in executed.writes if table is Table.STATE] == [TRANSACTION_CHAIN_KEY]
    assert chain.view.target("web1@acme", "site") is None


def test_the_list_of_installed_patches_keeps_the_newest(chain: Chain, patch_id: bytes) -> None:
    """The rule alone, over a target that is full: a thousand real deployments would prove no more."""
    opened = chain.submit(intent(patch_id), by="web1@acme").tx_id
    installed = tuple((index.to_bytes(32, "big"), index) for index in range(INSTALLED_MAX))
    full = TargetRecord("web1@acme", "site", BEFORE, installed, 1, "", None, None)
    view = chain.view
    signer, key = view.identity("web1@acme"), view.key(chain.key("web1@acme").public_key.key_id)
    assert signer is not None
    assert key is not None
    context = Context(AFTER, signer, key, chain.height + 1, 0)

    class FullTarget(StateView):
        def target(self, host: str, target: str) -> TargetRecord:
            return full

    effects = record_outcome(FullTarget(chain.store), context, outcome(patch_id, opened))
    changed = effects.records[target_key("web1@acme", "site")]
    assert isinstance(changed, TargetRecord)
    assert changed.installed == (*installed[1:], (patch_id, chain.height + 1))
