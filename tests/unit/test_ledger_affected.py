"""What a revocation takes back, from a ledger that lists and from a replay, and how keys were known at a past height."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ledger import bodies
from ledger.actions import RevokeKey
from ledger.affected import Affected, IndexCollector, cut_keys, find_affected, index_of_view
from ledger.errors import HistoryPrunedError
from ledger.identity_past import identity_then
from ledger.keyspace import HISTORY_KEY, Table, height_key
from node.identity_documents import AFFECTED_MAX, affected_document
from node.identity_services import IdentityServices
from tests.testkit import patches
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import ZEROS, Chain, key_of
from tests.unit.test_cli_audit import raw_blocks, write_archive
from wire.errors import RejectedError

BOB = patches.BOB.public_key.key_id


def apply_on_host(chain: Chain, patch_id: bytes, target: str = "site") -> int:
    """Record that web1@acme applied the patch; return the outcome's height."""
    host = chain.view.host("web1@acme")
    counter, previous = (0, ZEROS) if host is None else (host.counter, host.last_tx_id)
    intent = bodies.DeploymentIntent(counter + 1, previous, target, patch_id, b"\x01" * 32, b"{}")
    opened = chain.submit(intent, by="web1@acme").tx_id
    outcome = bodies.DeploymentOutcome(
        counter + 2, opened, target, patch_id, opened, "SUCCESS", b"\x01" * 32, b"\x02" * 32, b"{}"
    )
    chain.submit(outcome, by="web1@acme")
    return chain.height


@pytest.fixture
def chain() -> Chain:
    """Two patches with Bob's approval each; the second, with one of gamma's too, is installed on a host."""
    chain = Chain()
    chain.register_patch_people()
    chain.register("gus@gamma", "attestor:security-review")
    first = patches.approve(patches.make_patch())
    chain.publish(first)
    chain.attest(first, "bob@beta")
    second = patches.approve(patches.make_patch(release_counter=2))
    second = patches.approve(second, key_of("gus@gamma"), "gus@gamma")
    patch_id = chain.publish(second)
    chain.attest(second, "bob@beta", -2)
    chain.attest(second, "gus@gamma")
    apply_on_host(chain, patch_id)
    return chain


def recorded(chain: Chain) -> list[tuple[bytes, int]]:
    """Return (patch id, height of Bob's approval) of each patch, in order of publication."""
    records = sorted(chain.view.patches(), key=lambda each: each.published_height)
    return [(each.patch_id, chain.view.attestations(each.patch_id)[0].recorded_height) for each in records]


def both_ways(chain: Chain, identity: str, key_id: bytes | None = None, height: int | None = None) -> Affected:
    """Return what is affected, after showing that lists and a replay say the same."""
    keys = cut_keys(chain.view, chain.height, identity, key_id, height)
    lowest = min(key.last_valid_height or 0 for key in keys)
    listed = find_affected(chain.view, index_of_view(chain.view, identity, lowest + 1), identity, keys)
    collector = IndexCollector()
    for block in chain.blocks:
        collector.feed(block.header.height, block.transactions)
    assert find_affected(chain.view, collector.index(chain.view, identity), identity, keys) == listed
    return listed


def test_attestations_after_the_point_of_compromise_are_found_with_where_the_patch_is(chain: Chain) -> None:
    (_, before), (patch_id, after) = recorded(chain)
    found = both_ways(chain, "bob@beta", height=before)
    assert found.keys == ((BOB, before),)
    (affected,) = found.patches
    assert (affected.patch.patch_id, affected.is_author, affected.approvals_left) == (patch_id, False, 1)
    assert [(each.identity_id, each.recorded_height) for each in affected.attestations] == [("bob@beta", after)]
    assert [(each.host, each.target) for each in affected.installed] == [("web1@acme", "site")]
    assert [(each.kind, each.height, each.about) for each in found.acts] == [("patch.attest", after, patch_id.hex())]


def test_point_before_everything_takes_both_patches(chain: Chain) -> None:
    (first, height), (second, _) = recorded(chain)
    found = both_ways(chain, "bob@beta", height=height - 1)
    assert [each.patch.patch_id for each in found.patches] == [first, second]
    assert [each.approvals_left for each in found.patches] == [0, 1]
    assert found.patches[0].installed == ()


def test_point_after_everything_takes_nothing(chain: Chain) -> None:
    found = both_ways(chain, "bob@beta", height=chain.height)
    assert (found.patches, found.acts) == ((), ())


def test_what_is_revoked_on_the_ledger_is_what_was_asked_before(chain: Chain) -> None:
    (_, before), _ = recorded(chain)
    asked = both_ways(chain, "bob@beta", height=before)
    chain.submit(bodies.IdentityRevoke("bob@beta", BOB, before, "stolen"), by="ben@beta")
    assert both_ways(chain, "bob@beta") == asked
    # The lower of what is and what is asked counts.
    assert both_ways(chain, "bob@beta", height=chain.height) == asked


def test_patches_of_a_compromised_author_and_hosts_that_run_them(chain: Chain) -> None:
    (first, _), (second, _) = recorded(chain)
    published = chain.view.patch(first)
    assert published is not None
    found = both_ways(chain, "alice@acme", height=published.published_height)
    (affected,) = found.patches
    assert (affected.patch.patch_id, affected.is_author, affected.attestations) == (second, True, ())
    assert affected.approvals_left == 2
    assert len(affected.installed) == 1
    assert [each.kind for each in found.acts] == ["patch.publish"]


def test_replaced_verdicts_count_for_nothing_before_and_after(chain: Chain) -> None:
    (first, height), _ = recorded(chain)
    data = patches.approve(patches.make_patch(), verdict="reject")
    chain.attest(data, "bob@beta")
    found = both_ways(chain, "bob@beta", height=height - 1)
    (affected, _) = found.patches
    assert affected.patch.patch_id == first
    assert [each.verdict for each in affected.attestations] == ["reject"]


def test_what_a_compromised_administrator_did_is_listed(chain: Chain) -> None:
    point = chain.height
    chain.register("mallory@acme", "developer", "attestor:release")
    chain.submit(bodies.IdentitySuspend("alice@acme", "no reason"), by="ada@acme")
    found = both_ways(chain, "ada@acme", height=point)
    assert [(each.kind, each.about) for each in found.acts] == [
        ("identity.register", "mallory@acme"),
        ("identity.suspend", "alice@acme"),
    ]


def test_records_of_a_compromised_host_are_listed(chain: Chain) -> None:
    point = chain.height
    chain.submit(bodies.HostReport("drift", "site", b"{}"), by="web1@acme")
    found = both_ways(chain, "web1@acme", height=point)
    assert [(each.kind, each.about) for each in found.acts] == [("host.report", "site")]


@pytest.mark.parametrize(
    ("identity", "key_id", "height", "code"),
    [
        ("nobody@acme", None, 1, "ledger.identity.not_found"),
        ("bob@beta", patches.ALICE.public_key.key_id, 1, "ledger.identity.key_not_found"),
        ("bob@beta", None, 10_000, "ledger.identity.future_height"),
        ("bob@beta", None, None, "ledger.identity.no_point"),
        ("bob@beta", BOB, None, "ledger.identity.no_point"),
    ],
)
def test_questions_without_an_answer(
    chain: Chain, identity: str, key_id: bytes | None, height: int | None, code: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        cut_keys(chain.view, chain.height, identity, key_id, height)
    assert caught.value.code == code


def test_pruned_history_is_said_and_not_taken_for_nothing(chain: Chain) -> None:
    chain.store.apply({(Table.META, HISTORY_KEY): height_key(5)})
    with pytest.raises(HistoryPrunedError):
        index_of_view(chain.view, "bob@beta", 4)
    assert index_of_view(chain.view, "bob@beta", 5).patch_ids


def test_very_long_lists_are_cut_and_their_counts_are_not(chain: Chain) -> None:
    (_, before), _ = recorded(chain)
    found = both_ways(chain, "bob@beta", height=before)
    many = Affected(found.identity_id, found.keys, found.patches * (AFFECTED_MAX + 1), found.acts * (AFFECTED_MAX + 1))
    document = affected_document(many)
    assert (document["patch_count"], document["act_count"]) == (AFFECTED_MAX + 1, AFFECTED_MAX + 1)
    assert (len(document["patches"]), len(document["acts"])) == (AFFECTED_MAX, AFFECTED_MAX)
    assert document["targets"] == [{"host": "web1@acme", "target": "site"}]


# Asked of a node, and offline


def ask(chain: Chain, **params: Any) -> dict[str, Any]:
    @contextmanager
    def view() -> Any:
        yield chain.view

    services = IdentityServices(SimpleNamespace(replica=SimpleNamespace(view=view)))  # type: ignore[arg-type]
    document: dict[str, Any] = trio.run(services.methods()["identities.affected"], params)
    return document


def test_node_and_archive_give_the_same_answer(chain: Chain, tmp_path: Path) -> None:
    (_, before), _ = recorded(chain)
    archive = write_archive(tmp_path / "chain.archive", chain, raw_blocks(chain))
    asked = ("identity", "affected", "bob@beta", "--last-valid-height", before, "--archive", archive)
    document = run_json(*asked)
    assert {**ask(chain, identity="bob@beta", last_valid_height=before), "replayed": True, "findings": []} == document
    assert run_json(*asked, "--key-id", BOB.hex()) == document
    text = run(*asked).out
    assert "INSTALLED on web1@acme, target site" in text
    assert "approve as security-review" in text
    assert "1 patches affected, installed on 1 targets of 1 hosts; 1 transactions" in text
    assert "the chain holds" in text


def test_chain_that_does_not_hold_is_told(chain: Chain, tmp_path: Path) -> None:
    blocks = raw_blocks(chain)
    archive = write_archive(tmp_path / "cut.archive", chain, [*blocks[:-1], (blocks[-1][0], None)])
    asked = ("identity", "affected", "bob@beta", "--last-valid-height", 3, "--archive", archive)
    assert "THE CHAIN DOES NOT HOLD" in run(*asked).out
    assert run_json(*asked, code=1)["findings"]


def test_refusals_on_the_command_line(chain: Chain, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "chain.archive", chain, raw_blocks(chain))
    affected = ("identity", "affected", "bob@beta")
    assert refused(*affected, "--archive", archive) == "ledger.identity.no_point"
    assert refused(*affected, "--archive", archive, "--rpc", "http://127.0.0.1:1", code=2) == "cli.usage"
    assert refused(*affected, "--rpc", "http://127.0.0.1:1", "--genesis", archive, code=2) == "cli.usage"


# Keys as they were known


def known(chain: Chain, identity: str, height: int) -> list[tuple[int | None, int | None, str]]:
    found = identity_then(chain.view, identity, height)
    assert found is not None
    return [(key.retired_height, key.last_valid_height, key.reason) for key in found[1]]


def test_revocation_is_not_known_before_it_was_decided(chain: Chain) -> None:
    chain.submit(bodies.IdentityRevoke("bob@beta", BOB, 5, "stolen"), by="ben@beta")
    first = chain.height
    chain.submit(bodies.IdentityRevoke("bob@beta", None, 2, "stolen long ago"), by="ben@beta")
    second = chain.height
    assert known(chain, "bob@beta", first - 1) == [(None, None, "")]
    assert known(chain, "bob@beta", first) == [(None, 5, "stolen")]
    assert known(chain, "bob@beta", second) == [(None, 2, "stolen long ago")]
    then = identity_then(chain.view, "bob@beta", first)
    assert then is not None
    assert then[0].status == "active"


def test_revocation_by_vote_is_not_known_before_it_was_decided(chain: Chain) -> None:
    chain.adopt(RevokeKey(BOB, 4, "found in a dump"))
    assert known(chain, "bob@beta", chain.height - 1) == [(None, None, "")]
    assert known(chain, "bob@beta", chain.height) == [(None, 4, "found in a dump")]


def test_rotation_is_known_from_its_own_height_on(chain: Chain) -> None:
    chain.submit(bodies.IdentityRotateKey("bob@beta", BOB, key_of("bob 2").public_key.spki), by="bob@beta")
    rotated = chain.height
    chain.submit(bodies.IdentitySuspend("bob@beta", "on leave"), by="ben@beta")
    assert known(chain, "bob@beta", rotated - 1) == [(None, None, "")]
    assert known(chain, "bob@beta", rotated) == [(rotated, None, ""), (None, None, "")]
    assert identity_then(chain.view, "bob@beta", 0) is None


def test_a_votes_proposal_about_another_key_changes_nothing(chain: Chain) -> None:
    chain.adopt(RevokeKey(key_of("gus@gamma").public_key.key_id, 4, "lost"))
    assert known(chain, "ada@acme", 1) == [(None, None, "")]
    assert known(chain, "bob@beta", chain.height) == [(None, None, "")]


def test_what_pruned_history_cannot_tell_is_refused(chain: Chain) -> None:
    chain.submit(bodies.IdentityRevoke("bob@beta", BOB, 5, "stolen"), by="ben@beta")
    height = chain.height
    chain.store.apply({(Table.META, HISTORY_KEY): height_key(height)})
    assert known(chain, "bob@beta", height) == [(None, 5, "stolen")]
    with pytest.raises(HistoryPrunedError):
        identity_then(chain.view, "bob@beta", height - 1)
