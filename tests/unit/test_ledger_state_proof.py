"""State proofs: presence and absence under a certified header, offline; and every forgery refused."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from ledger import bodies
from ledger.actions import SetPolicy
from ledger.errors import NotYetAvailableError, ProofRefusedError
from ledger.keyspace import Table, height_key
from ledger.records import IdentityRecord, KeyRecord, PatchRecord, PolicySet, PolicyVersion
from ledger.state_proof import (
    SUBJECTS,
    CertifiedStateProof,
    build_certified_state_proof,
    subject_key_untrusted,
    verify_certified_state_proof,
)
from ledger.state_tree import prove
from tests.testkit import patches
from tests.testkit.ledger import Chain, make_certificate, make_genesis
from wire.errors import RejectedError
from wire.hashing import Digest

NOBODY = "nobody@acme"


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    patch_id = chain.publish(data)
    chain.attest(data, "bob@beta")
    chain.submit(bodies.PatchWithdraw(patch_id, "broken"), "alice@acme")
    chain.submit(bodies.IdentitySuspend("bob@beta", "on leave"), "ben@beta")
    chain.submit(bodies.HostReport("adopt", "site", b"x"), "web1@acme")
    chain.adopt(SetPolicy("", (("deny", "forbid (principal, action, resource);"),)))
    return chain


def patch_name(chain: Chain) -> str:
    return next(iter(chain.store.iterate(Table.STATE, b"p", b"q")))[0][1:].hex()


def prove_it(chain: Chain, subject: str, name: str) -> CertifiedStateProof:
    """Return the proof after a journey as JSON."""
    proof = build_certified_state_proof(chain.store, subject, name)
    travelled = CertifiedStateProof.from_json_untrusted(json.loads(json.dumps(proof.to_json())))
    assert travelled == proof
    return travelled


def test_presence_shows_the_record_at_the_certified_height(chain: Chain) -> None:
    identity = verify_certified_state_proof(prove_it(chain, "identity", "bob@beta"), chain.genesis)
    assert isinstance(identity.record, IdentityRecord)
    assert (identity.record.identity_id, identity.record.status) == ("bob@beta", "suspended")
    assert identity.head.height == chain.height
    key = verify_certified_state_proof(prove_it(chain, "key", identity.record.key_ids[0].hex()), chain.genesis).record
    assert isinstance(key, KeyRecord)
    assert key.identity_id == "bob@beta"
    patch = verify_certified_state_proof(prove_it(chain, "patch", patch_name(chain)), chain.genesis).record
    assert isinstance(patch, PatchRecord)
    assert patch.withdrawn_reason == "broken"


def test_the_policy_in_force_is_proven_with_its_texts(chain: Chain) -> None:
    proof = prove_it(chain, "policy", "current")
    version = verify_certified_state_proof(proof, chain.genesis).record
    assert isinstance(version, PolicyVersion)
    policy = verify_certified_state_proof(prove_it(chain, "policy", str(version.version)), chain.genesis).record
    assert isinstance(policy, PolicySet)
    assert policy.policy_hash == version.policy_hash == proof.header.policy_hash
    assert policy.policies[0][0] == "deny"


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("identity", NOBODY),
        ("organisation", "nowhere"),
        ("standing", "acme"),
        ("key", "00" * 32),
        ("patch", "11" * 32),
        ("attestations", "11" * 32),
        ("policy", "99"),
        ("proposal", "22" * 32),
        ("target", "web1@acme/other"),
    ],
)
def test_absence_is_proven(chain: Chain, subject: str, name: str) -> None:
    proof = prove_it(chain, subject, name)
    assert proof.proof.value is None
    assert verify_certified_state_proof(proof, chain.genesis).record is None


def test_every_subject_is_tested() -> None:
    subjects = {"identity", "organisation", "standing", "key", "patch", "attestations", "policy", "proposal", "target"}
    assert set(SUBJECTS) == subjects


def test_what_is_there_is_found(chain: Chain) -> None:
    for subject, name in (
        ("organisation", "acme"),
        ("target", "web1@acme/site"),
        ("attestations", patch_name(chain)),
        ("proposal", next(iter(chain.store.iterate(Table.STATE, b"r", b"s")))[0][1:].hex()),
    ):
        assert verify_certified_state_proof(prove_it(chain, subject, name), chain.genesis).record is not None


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("weather", "x"),
        ("identity", "no identity"),
        ("identity", ""),
        ("organisation", "a/b"),
        ("key", "AB" * 32),
        ("patch", "12"),
        ("policy", "01"),
        ("policy", "newest"),
        ("policy", "9" * 16),
        ("target", "web1@acme"),
        ("target", "web1@acme/A B"),
    ],
)
def test_ids_without_form_are_refused(chain: Chain, subject: str, name: str) -> None:
    with pytest.raises(ProofRefusedError) as refused:
        build_certified_state_proof(chain.store, subject, name)
    assert refused.value.code == "ledger.proof.subject"


def test_an_uncertified_tip_has_no_proof_yet(chain: Chain) -> None:
    store = type(chain.store)()
    store.apply(chain.store.dump())
    store.apply({(Table.CERTIFICATE, height_key(chain.height)): None})
    with pytest.raises(NotYetAvailableError) as unavailable:
        build_certified_state_proof(store, "identity", "bob@beta")
    assert unavailable.value.code == "ledger.proof.not_certified"


def domain(name: bytes, data: bytes) -> bytes:
    return hashlib.sha256(bytes([len(name)]) + name + data).digest()


def root_by_the_specification(document: dict[str, Any], kind: bytes) -> bytes:
    """Return the root to which a proof leads, by docs/spec/ledger.md 8 and proofs.md 3 alone."""
    place = domain(b"patchwarden/state-key/1", kind + document["id"].encode())
    if document["value"] is not None:
        content = domain(b"patchwarden/state-value/1", base64.b64decode(document["value"]))
        node = hashlib.sha256(b"\x00" + place + content).digest()
    elif document["other_leaf"] is not None:
        node = hashlib.sha256(b"\x00" + bytes.fromhex("".join(document["other_leaf"]))).digest()
    else:
        node = bytes(32)
    bits = "".join(f"{byte:08b}" for byte in place)
    for bit, sibling in reversed(list(zip(bits, document["siblings"], strict=False))):
        pair = (node, bytes.fromhex(sibling)) if bit == "0" else (bytes.fromhex(sibling), node)
        node = hashlib.sha256(b"\x01" + b"".join(pair)).digest()
    return node


def test_proofs_hold_by_the_specification_alone(chain: Chain) -> None:
    for name, present in (("bob@beta", True), ("alice@acme", True), (NOBODY, False), ("x@y", False)):
        document = build_certified_state_proof(chain.store, "identity", name).to_json()
        header = msgpack.unpackb(base64.b64decode(str(document["header"])))
        assert root_by_the_specification(document, b"i") == header[10]
        assert (document["value"] is not None) == present


def test_every_forged_part_is_refused(chain: Chain) -> None:
    """Nothing can be shown that is not so: not another record, not absence of what is there, not presence of what is not."""
    here, absent = prove_it(chain, "identity", "bob@beta"), prove_it(chain, "identity", NOBODY)
    other = prove_it(chain, "identity", "alice@acme")
    header = here.header
    old_record = IdentityRecord.decode(here.proof.value or b"")
    active = replace(old_record, status="active").encode()
    zeros = Digest(bytes(32))
    for forged, code in (
        (replace(here, proof=replace(here.proof, value=active)), "ledger.proof.state"),
        (replace(here, proof=replace(here.proof, value=None)), "ledger.proof.state"),
        (replace(here, proof=replace(here.proof, value=None, other_leaf=(zeros, zeros))), "ledger.proof.state"),
        (replace(here, proof=other.proof), "ledger.proof.subject"),
        (replace(here, name="alice@acme"), "ledger.proof.subject"),
        (replace(here, subject="organisation"), "ledger.proof.subject"),
        (replace(here, proof=replace(here.proof, siblings=here.proof.siblings[1:])), "ledger.proof.state"),
        (replace(absent, proof=replace(absent.proof, value=active)), "ledger.proof.state"),
        (replace(here, header=replace(header, state_root=zeros)), "ledger.proof.certificate"),
        (replace(here, header=replace(header, chain_id="other-net")), "ledger.proof.wrong_chain"),
        (replace(here, header=replace(header, validators_hash=zeros)), "ledger.proof.validators"),
        (
            replace(here, certificate=replace(here.certificate, signatures=here.certificate.signatures[1:])),
            "wire.certificate.too_few",
        ),
    ):
        with pytest.raises(RejectedError) as refused:
            verify_certified_state_proof(forged, chain.genesis)
        assert refused.value.code == code


def test_a_certified_record_that_is_none_is_refused(chain: Chain) -> None:
    """Only validators that collude can certify it."""
    here = prove_it(chain, "identity", "bob@beta")
    key = subject_key_untrusted("identity", "bob@beta")
    from ledger.state_tree import update

    root, writes = update(chain.store, {key: b"nonsense"})
    store = type(chain.store)()
    store.apply(chain.store.dump())
    store.apply({**writes, (Table.STATE, key): b"nonsense"})
    block = chain.forge(chain.blocks[-1], state_root=root)
    certificate = make_certificate(chain.genesis.chain_id, chain.voters, block)
    forged = replace(here, proof=prove(store, key), header=block.header, certificate=certificate)
    with pytest.raises(ProofRefusedError) as refused:
        verify_certified_state_proof(forged, chain.genesis)
    assert refused.value.code == "ledger.proof.record"


def test_a_proof_holds_for_its_own_network_only(chain: Chain) -> None:
    for genesis, code in (
        (make_genesis(chain_id="other-net"), "ledger.proof.wrong_chain"),
        (make_genesis(validators=3), "ledger.proof.validators"),
    ):
        with pytest.raises(ProofRefusedError) as refused:
            verify_certified_state_proof(prove_it(chain, "identity", NOBODY), genesis)
        assert refused.value.code == code


def change(document: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {**document, **members}


def test_the_json_form_is_strict(chain: Chain) -> None:
    document = build_certified_state_proof(chain.store, "identity", NOBODY).to_json()
    for wrong in (
        None,
        [],
        {name: value for name, value in document.items() if name != "value"},
        change(document, more=1),
        change(document, version=2),
        change(document, subject=1),
        change(document, id=None),
        change(document, value=1),
        change(document, value="="),
        change(document, siblings=["00"]),
        change(document, siblings="00" * 32),
        change(document, siblings=["00" * 32] * 257),
        change(document, other_leaf=["00" * 32]),
        change(document, other_leaf=["0" * 63, "00" * 32]),
        change(document, header="AAAA"),
        change(document, certificate=None),
        change(document, chain_id="x"),
        change(document, configuration="AAAA"),
    ):
        with pytest.raises(ProofRefusedError) as refused:
            CertifiedStateProof.from_json_untrusted(wrong)
        assert refused.value.code == "ledger.proof.malformed"
