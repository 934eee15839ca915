"""Patches on the ledger: publishing, attesting and withdrawing, and every way in which they are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger import bodies
from ledger.keyspace import patch_key
from ledger.limits import ATTESTATIONS_PER_PATCH_MAX
from provenance import patchfile
from provenance.attestation import build_predicate_attestation
from provenance.diff_model import FileState
from provenance.limits import COMPONENTS_SUMMARISED_MIN
from provenance.metadata import CreatorIdentity
from provenance.patchfile import build_patch_file
from provenance.predicates import PREDICATE_VULNS
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.certificates import make_chain
from tests.testkit.ledger import Chain, attest_body, key_of, publish_body
from wire.envelope import encode_envelope, sign_envelope
from wire.hashing import sha256


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    return chain


def test_publishing_records_what_the_author_signed(chain: Chain) -> None:
    data = patches.make_released_patch()
    verified = verify_patch_untrusted(data)
    transaction = chain.submit(publish_body(data), by="alice@acme")
    record = chain.view.patch(bytes.fromhex(verified.patch_id))
    assert record is not None
    assert record.author == "alice@acme"
    assert record.organisation == "acme"
    assert record.author_key_id == patches.ALICE.public_key.key_id
    assert record.author_payload_digest == verified.author_payload_digest
    assert record.diff_digest.hex() == verified.metadata.patch_diff.sha256
    assert (record.file_digest, record.file_bytes) == (sha256(data), len(data))
    assert record.attestation_digests == tuple(each.payload_digest for each in verified.attestations)
    assert len(record.attestation_digests) == 2
    assert record.components == ("pkg:deb/debian/foo@1.2",)
    assert (record.release_counter, record.published_height, record.tx_id) == (1, chain.height, transaction.tx_id)
    assert (record.superseded_by, record.withdrawn_height, record.withdrawn_reason) == (None, None, "")
    assert chain.view.release_counter("pkg:deb/debian/foo@1.2") == 1
    assert chain.view.release_counter("pkg:deb/debian/bar@1") == 0
    assert [each.patch_id for each in chain.view.patches()] == [record.patch_id]
    assert list(chain.view.patches(after=record.patch_id)) == []


def test_a_patch_is_published_once(chain: Chain) -> None:
    data = patches.make_patch()
    chain.publish(data)
    assert chain.refused(publish_body(data), "alice@acme") == "ledger.patch.exists"


def change_payload(data: bytes, change: object, key: object = patches.ALICE) -> bodies.PatchPublish:
    """Return the publication of a patch whose author's statement was changed and honestly signed again."""
    line = patches.resign(data, change, key).rstrip(b"\n").rsplit(b"\n", 1)[1]  # type: ignore[arg-type]
    return replace(publish_body(data), envelope=line)


def test_the_envelope_must_be_an_author_s_statement_of_this_patch(chain: Chain) -> None:
    data = patches.make_patch()
    body = publish_body(data)
    assert chain.refused(replace(body, envelope=b"{}"), "alice@acme") == "ledger.patch.bad_envelope"
    assert chain.refused(replace(body, patch_id=bytes(32)), "alice@acme") == "ledger.patch.wrong_subject"
    text = encode_envelope(sign_envelope(b"{}", patches.ALICE, "text/plain"))
    assert chain.refused(replace(body, envelope=text), "alice@acme") == "ledger.patch.bad_envelope"
    no_statement = encode_envelope(sign_envelope(b"{}", patches.ALICE))
    assert chain.refused(replace(body, envelope=no_statement), "alice@acme") == "ledger.patch.bad_envelope"
    review = encode_envelope(patches.sign_raw(verify_patch_untrusted(data), lambda payload: None, patches.ALICE))
    assert chain.refused(replace(body, envelope=review), "alice@acme") == "ledger.patch.bad_envelope"

    def unknown_member(payload: dict[str, dict[str, object]]) -> None:
        payload["predicate"]["more"] = 1

    assert chain.refused(change_payload(data, unknown_member), "alice@acme") == "ledger.patch.bad_envelope"


def test_the_author_s_signature_must_hold(chain: Chain) -> None:
    data = patches.make_patch()
    body = publish_body(data)
    line = bytearray(body.envelope)
    place = line.index(b'"sig":"') + 10
    line[place] = ord("A") if line[place] != ord("A") else ord("B")
    assert chain.refused(replace(body, envelope=bytes(line)), "alice@acme") == "ledger.patch.bad_signature"


def test_a_patch_is_published_by_its_author_alone(chain: Chain) -> None:
    body = publish_body(patches.make_patch())
    assert chain.refused(body, "dave@acme") == "ledger.patch.wrong_author"
    assert chain.refused(body, "bob@beta") == "ledger.tx.not_authorised"
    assert chain.refused(body, "ada@acme") == "ledger.tx.not_authorised"


def test_an_unknown_author_s_key_is_refused() -> None:
    chain = Chain()
    chain.register("dave@acme", "developer")
    assert chain.refused(publish_body(patches.make_patch()), "dave@acme") == "ledger.patch.unknown_key"


def test_a_retired_author_s_key_is_refused_at_the_heights_after(chain: Chain) -> None:
    new = key_of("alice second")
    old_id = patches.ALICE.public_key.key_id
    chain.submit(bodies.IdentityRotateKey("alice@acme", old_id, new.public_key.spki), by="alice@acme")
    chain.keys["alice@acme"] = new
    assert chain.refused(publish_body(patches.make_patch()), "alice@acme") == "ledger.patch.key_not_valid"


def test_the_metadata_must_name_the_signing_key(chain: Chain) -> None:
    data = patches.make_patch()

    def other_creator(payload: dict[str, dict[str, dict[str, str]]]) -> None:
        payload["predicate"]["creator_identity"]["did"] = patches.DAVE.public_key.did

    assert chain.refused(change_payload(data, other_creator), "alice@acme") == "ledger.patch.wrong_creator"

    def no_key(payload: dict[str, dict[str, dict[str, str]]]) -> None:
        payload["predicate"]["creator_identity"]["did"] = "did:key:zNothing"

    assert chain.refused(change_payload(data, no_key), "alice@acme") == "ledger.patch.bad_envelope"


def test_a_creator_with_certificates_is_known_by_the_leaf_s_key(chain: Chain) -> None:
    leaf, authority = make_chain(patches.ALICE)
    creator = CreatorIdentity.from_certificates((leaf, authority), "Alice Example", "alice@acme.example")
    data = patches.make_patch(creator_identity=creator)
    chain.publish(data)


def test_an_expired_patch_is_refused_by_the_block_s_time(chain: Chain) -> None:
    data = patches.make_patch(not_after="2026-11-22T06:50:01Z")
    body = publish_body(data)
    transaction = chain.sign(body, "alice@acme")
    in_time, late = 1_795_330_201_000, 1_795_330_201_001
    assert chain.build(transaction, time_ms=in_time).refused == ()
    ((_, error),) = chain.build(transaction, time_ms=late).refused
    assert error.code == "ledger.patch.expired"


def test_release_counters_only_rise(chain: Chain) -> None:
    first = patches.make_patch(release_counter=5)
    chain.publish(first)
    for counter in (1, 5):
        again = patches.make_patch(release_counter=counter, creation_timestamp="2026-11-23T00:00:00Z")
        assert chain.refused(publish_body(again), "alice@acme") == "ledger.patch.counter_not_increasing"
    chain.publish(patches.make_patch(release_counter=6))
    assert chain.view.release_counter("pkg:deb/debian/foo@1.2") == 6


def test_a_counter_counts_against_patches_of_the_same_block(chain: Chain) -> None:
    one = chain.sign(publish_body(patches.make_patch(release_counter=2)), "alice@acme")
    two = chain.sign(publish_body(patches.make_patch(release_counter=1)), "alice@acme")
    built = chain.build(one, two)
    ((refused, error),) = built.refused
    assert (refused, error.code) == (two, "ledger.patch.counter_not_increasing")


def test_prerequisites_and_superseded_patches_must_be_published(chain: Chain) -> None:
    unknown = "ab" * 32
    data = patches.make_patch(prerequisites=(unknown,))
    assert chain.refused(publish_body(data), "alice@acme") == "ledger.patch.unknown_prerequisite"
    data = patches.make_patch(supersedes=(unknown,))
    assert chain.refused(publish_body(data), "alice@acme") == "ledger.patch.unknown_superseded"
    first = chain.publish(patches.make_patch(release_counter=1))
    second = chain.publish(patches.make_patch(release_counter=2, prerequisites=(first.hex(),)))
    third = chain.publish(patches.make_patch(release_counter=3, supersedes=(first.hex(),)))
    view = chain.view
    records = {patch_id: view.patch(patch_id) for patch_id in (first, second, third)}
    assert all(records.values())
    assert records[first].superseded_by == third  # type: ignore[union-attr]
    assert records[second].prerequisites == (first,)  # type: ignore[union-attr]
    assert records[third].supersedes == (first,)  # type: ignore[union-attr]
    assert [each.height for each in view.history(patch_key(first))] == [chain.height - 2, chain.height]


def test_nobody_supersedes_another_organisation_s_patch(chain: Chain) -> None:
    first = chain.publish(patches.make_patch())
    author = chain.register("dora@beta", "developer")
    creator = CreatorIdentity.from_key(author.public_key, "Dora", "dora@beta.example")
    data = patches.make_patch(key=author, creator_identity=creator, release_counter=2, supersedes=(first.hex(),))
    assert chain.refused(publish_body(data), "dora@beta") == "ledger.patch.supersedes_foreign"


def test_an_attestation_is_recorded_with_its_height_and_verdict(chain: Chain) -> None:
    data = patches.approve(patches.add_test_result(patches.make_patch()))
    patch_id = chain.publish(data)
    review = chain.attest(data, by="bob@beta")
    tests = chain.attest(data, by="ci@acme", line=1)
    both = chain.view.attestations(patch_id)
    assert [each.payload_digest for each in both] == [review, tests]
    assert [(each.identity_id, each.role, each.verdict, each.current) for each in both] == [
        ("bob@beta", "security-review", "approve", True),
        ("ci@acme", "tests", "approve", True),
    ]
    assert both[0].recorded_height == chain.height - 1
    assert both[0].organisation == "beta"
    assert chain.view.attestation(review) == both[0]
    assert chain.view.attestation(bytes(32)) is None
    assert chain.view.attestations(bytes(32)) == ()


def test_a_verdict_that_is_neither_is_recorded_as_none(chain: Chain) -> None:
    data = patches.add_test_result(patches.make_patch(), "WARNED")
    patch_id = chain.publish(data)
    chain.attest(data, by="ci@acme")
    (record,) = chain.view.attestations(patch_id)
    assert record.verdict == "none"


def test_a_reject_replaces_the_approval_only_by_the_attestor_s_own_hand(chain: Chain) -> None:
    data = patches.make_patch()
    approved, rejected = patches.approve(data), patches.approve(data, verdict="reject")
    patch_id = chain.publish(data)
    first = chain.attest(approved, by="dave@acme")  # relayed by a developer: the first word may be
    assert chain.refused(attest_body(rejected), "dave@acme") == "ledger.patch.relay_not_first"
    second = chain.attest(rejected, by="bob@beta")
    states = [(each.payload_digest, each.verdict, each.current) for each in chain.view.attestations(patch_id)]
    assert states == [(first, "approve", False), (second, "reject", True)]
    assert chain.view.attestation_list(patch_id).current == (("bob@beta", "security-review", second),)
    # The old approval cannot be played again, by nobody.
    for by in ("dave@acme", "bob@beta"):
        assert chain.refused(attest_body(approved), by) == "ledger.patch.duplicate_attestation"


def test_one_person_s_two_roles_are_two_verdicts(chain: Chain) -> None:
    chain.submit(
        bodies.IdentityUpdateRoles("bob@beta", ("attestor:compliance", "attestor:security-review")), by="ben@beta"
    )
    data = patches.make_patch()
    patch_id = chain.publish(data)
    chain.attest(patches.approve(data), by="bob@beta")
    chain.attest(patches.approve(data, role="compliance", verdict="reject"), by="bob@beta")
    assert [each.current for each in chain.view.attestations(patch_id)] == [True, True]


def test_one_person_s_attestations_of_different_kinds_stand_side_by_side(chain: Chain) -> None:
    """A scan or a test result takes no review back, and a newer result takes back the older result alone."""
    data = patches.make_patch()
    patch_id = chain.publish(data)
    verified = verify_patch_untrusted(data)
    predicate = b'{"scanner":{"uri":"pkg:x","result":[]}}'
    kinds = (PREDICATE_VULNS, "https://example.org/licence/v1")
    chain.attest(patches.approve(data), by="bob@beta")
    for kind in kinds:
        envelope = build_predicate_attestation(
            verified, kind, predicate, "security-review", key_of("bob@beta"), "bob@beta", "", patches.LATER
        )
        chain.submit(bodies.PatchAttest(patch_id, encode_envelope(envelope)), by="bob@beta")
    assert [(each.verdict, each.current) for each in chain.view.attestations(patch_id)] == [
        ("approve", True),
        ("none", True),
        ("none", True),
    ]
    chain.attest(patches.approve(data, verdict="reject"), by="bob@beta")
    records = chain.view.attestations(patch_id)
    assert [each.current for each in records] == [False, True, True, True]
    listed = chain.view.attestation_list(patch_id).current
    assert listed == tuple((each.identity_id, each.role, each.payload_digest) for each in records[1:])
    # Whoever relays may bring a first word of a kind, and no second.
    newer = build_predicate_attestation(
        verified, kinds[0], predicate, "security-review", key_of("bob@beta"), "bob@beta", "again", patches.LATER
    )
    assert (
        chain.refused(bodies.PatchAttest(patch_id, encode_envelope(newer)), "dave@acme")
        == "ledger.patch.relay_not_first"
    )


def test_who_may_submit_an_attestation(chain: Chain) -> None:
    data = patches.approve(patches.make_patch())
    chain.publish(data)
    assert chain.refused(attest_body(data), "web1@acme") == "ledger.tx.not_authorised"
    assert chain.refused(attest_body(data), "ada@acme") == "ledger.tx.not_authorised"
    chain.attest(data, by="alice@acme")


def test_attestations_of_unpublished_and_withdrawn_patches_are_refused(chain: Chain) -> None:
    data = patches.approve(patches.make_patch())
    assert chain.refused(attest_body(data), "bob@beta") == "ledger.patch.not_found"
    patch_id = chain.publish(data)
    chain.submit(bodies.PatchWithdraw(patch_id, "broken"), by="alice@acme")
    assert chain.refused(attest_body(data), "bob@beta") == "ledger.patch.withdrawn"


def test_an_attestation_does_not_move_to_another_patch(chain: Chain) -> None:
    one, two = patches.make_patch(release_counter=1), patches.make_patch(release_counter=2)
    chain.publish(one)
    other = chain.publish(two)
    moved = replace(attest_body(patches.approve(one)), patch_id=other)
    assert chain.refused(moved, "bob@beta") == "ledger.patch.wrong_subject"


@pytest.mark.parametrize("subject", [1, 2])
def test_every_subject_of_an_attestation_is_compared(chain: Chain, subject: int) -> None:
    """Body, diff and author's statement: the body is the case above."""
    data = patches.make_patch()
    chain.publish(data)

    def change(payload: dict[str, list[dict[str, dict[str, str]]]]) -> None:
        payload["subject"][subject]["digest"]["sha256"] = "00" * 32

    envelope = encode_envelope(patches.sign_raw(verify_patch_untrusted(data), change))
    body = bodies.PatchAttest(publish_body(data).patch_id, envelope)
    assert chain.refused(body, "bob@beta") == "ledger.patch.wrong_subject"


@pytest.mark.parametrize("member", ["identity", "did"])
def test_an_attestation_names_the_one_who_signed_it(chain: Chain, member: str) -> None:
    data = patches.make_patch()
    chain.publish(data)
    values = {"identity": "ci@acme", "did": patches.CAROL.public_key.did}

    def change(payload: dict[str, dict[str, dict[str, str]]]) -> None:
        payload["predicate"]["attestor"][member] = values[member]

    envelope = encode_envelope(patches.sign_raw(verify_patch_untrusted(data), change))
    body = bodies.PatchAttest(publish_body(data).patch_id, envelope)
    assert chain.refused(body, "bob@beta") == "ledger.patch.wrong_attestor"


def test_the_attestor_s_role_is_the_ledger_s_not_the_statement_s(chain: Chain) -> None:
    data = patches.make_patch()
    chain.publish(data)
    claimed = patches.approve(data, role="compliance")
    assert chain.refused(attest_body(claimed), "bob@beta") == "ledger.patch.not_attestor"


def test_nobody_attests_their_own_patch(chain: Chain) -> None:
    """Alice holds the role; the statement is honestly hers; only that she is the author stands against it."""
    chain.submit(bodies.IdentityUpdateRoles("alice@acme", ("attestor:security-review", "developer")), by="ada@acme")
    data = patches.make_patch()
    patch_id = chain.publish(data)
    second = key_of("alice second")

    def by_alice(payload: dict[str, dict[str, dict[str, str]]]) -> None:
        payload["predicate"]["attestor"] = {"identity": "alice@acme", "did": patches.ALICE.public_key.did}

    def by_her_other_key(payload: dict[str, dict[str, dict[str, str]]]) -> None:
        payload["predicate"]["attestor"] = {"identity": "alice@acme", "did": second.public_key.did}

    verified = verify_patch_untrusted(data)
    own = bodies.PatchAttest(patch_id, encode_envelope(patches.sign_raw(verified, by_alice, patches.ALICE)))
    assert chain.refused(own, "alice@acme") == "ledger.patch.self_approval"
    assert chain.refused(own, "dave@acme") == "ledger.patch.self_approval"
    old_id = patches.ALICE.public_key.key_id
    chain.submit(bodies.IdentityRotateKey("alice@acme", old_id, second.public_key.spki), by="alice@acme")
    chain.keys["alice@acme"] = second
    disguised = bodies.PatchAttest(patch_id, encode_envelope(patches.sign_raw(verified, by_her_other_key, second)))
    assert chain.refused(disguised, "alice@acme") == "ledger.patch.self_approval"


def test_attestors_must_be_active_with_a_valid_key_now(chain: Chain) -> None:
    data = patches.approve(patches.make_patch())
    chain.publish(data)
    chain.submit(bodies.IdentitySuspend("bob@beta", ""), by="ben@beta")
    assert chain.refused(attest_body(data), "alice@acme") == "ledger.patch.attestor_not_active"
    chain.submit(bodies.IdentityResume("bob@beta"), by="ben@beta")
    key_id = patches.BOB.public_key.key_id
    chain.submit(bodies.IdentityRevoke("bob@beta", key_id, chain.height, "stolen"), by="ben@beta")
    assert chain.refused(attest_body(data), "alice@acme") == "ledger.patch.key_not_valid"


def test_a_seal_and_an_author_s_line_are_no_attestations(chain: Chain) -> None:
    data = patches.make_released_patch()
    chain.publish(data)
    assert chain.refused(attest_body(data), "alice@acme") == "ledger.patch.not_an_attestation"
    assert chain.refused(attest_body(data, 0), "alice@acme") == "ledger.patch.bad_envelope"
    garbage = bodies.PatchAttest(publish_body(data).patch_id, b"[]")
    assert chain.refused(garbage, "alice@acme") == "ledger.patch.bad_envelope"


def test_an_attestation_with_a_broken_signature_is_refused(chain: Chain) -> None:
    """The envelope names Bob's key over a payload that Carol signed."""
    data = patches.make_patch()
    chain.publish(data)
    envelope = patches.sign_raw(verify_patch_untrusted(data), lambda payload: None, patches.CAROL)
    signature = replace(envelope.signatures[0], keyid=patches.ALICE.public_key.key_id_hex)
    line = encode_envelope(replace(envelope, signatures=(signature,)))
    body = bodies.PatchAttest(publish_body(data).patch_id, line)
    assert chain.refused(body, "bob@beta") == "ledger.patch.bad_signature"
    stranger = patches.sign_raw(verify_patch_untrusted(data), lambda payload: None, key_of("stranger"))
    body = replace(body, envelope=encode_envelope(stranger))
    assert chain.refused(body, "bob@beta") == "ledger.patch.unknown_key"


def test_attestations_of_a_patch_are_bounded(chain: Chain) -> None:
    data = patches.make_patch()
    patch_id = chain.publish(data)
    verified = verify_patch_untrusted(data)
    lines = []
    for index in range(ATTESTATIONS_PER_PATCH_MAX + 1):

        def comment(payload: dict[str, dict[str, str]], text: str = f"look {index}") -> None:
            payload["predicate"]["comment"] = text

        lines.append(encode_envelope(patches.sign_raw(verified, comment)))
    chain.commit(*(chain.sign(bodies.PatchAttest(patch_id, line), "bob@beta") for line in lines[:-1]))
    records = chain.view.attestations(patch_id)
    assert [each.current for each in records] == [False] * (ATTESTATIONS_PER_PATCH_MAX - 1) + [True]
    last = bodies.PatchAttest(patch_id, lines[-1])
    assert chain.refused(last, "bob@beta") == "ledger.patch.too_many_attestations"


def test_withdrawal_is_the_author_s_or_their_administrator_s(chain: Chain) -> None:
    data = patches.make_patch()
    patch_id = chain.publish(data)
    body = bodies.PatchWithdraw(patch_id, "breaks the build")
    for stranger in ("dave@acme", "ben@beta", "bob@beta"):
        assert chain.refused(body, stranger) == "ledger.tx.not_authorised"
    assert chain.refused(bodies.PatchWithdraw(bytes(32), ""), "alice@acme") == "ledger.patch.not_found"
    chain.submit(body, by="ada@acme")
    record = chain.view.patch(patch_id)
    assert record is not None
    assert (record.withdrawn_height, record.withdrawn_reason) == (chain.height, "breaks the build")
    assert chain.refused(body, "alice@acme") == "ledger.patch.withdrawn"
    assert chain.refused(publish_body(data), "alice@acme") == "ledger.patch.exists"


def test_a_wide_patch_is_counted_by_the_names_that_its_statement_gives(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of files is not on the ledger, the components are; a second patch with the same counter is refused for each."""
    count = COMPONENTS_SUMMARISED_MIN
    after = {f"src/{i}": FileState(0o100644, b"%d\n" % i) for i in range(count)}
    metadata, diff = patches.make_metadata({}, after)
    components = (replace(metadata.affected_components[0], name="another"), *metadata.affected_components[1:])
    monkeypatch.setattr(patchfile, "COMPONENTS_MAX", count - 1)
    data = build_patch_file(replace(metadata, affected_components=components), diff, patches.ALICE)
    body = publish_body(data)
    assert len(body.envelope) < 4096
    chain.submit(body, by="alice@acme")
    record = chain.view.patch(body.patch_id)
    assert record is not None
    assert record.components == ("another", "pkg:deb/debian/foo@1.2")
    assert chain.view.release_counter("another") == chain.view.release_counter("pkg:deb/debian/foo@1.2") == 1
    again = patches.make_patch()
    assert chain.refused(publish_body(again), "alice@acme") == "ledger.patch.counter_not_increasing"


def test_a_summary_out_of_form_is_not_published(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    count = COMPONENTS_SUMMARISED_MIN
    after = {f"src/{i}": FileState(0o100644, b"%d\n" % i) for i in range(count)}
    monkeypatch.setattr(patchfile, "COMPONENTS_MAX", count - 1)
    data = patches.make_patch({}, after)

    def fewer(payload: dict[str, Any]) -> None:
        payload["predicate"]["affected_components"]["files"] -= 1

    assert chain.refused(change_payload(data, fewer), "alice@acme") == "ledger.patch.bad_envelope"
