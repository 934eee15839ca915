"""Everything bad that a user or an attacker can send to a running network: refused with its code, recorded, and nothing else happens.

One network for the whole module. After every test each node must still be the process that it was, answer on every door, and have met no
bug; the last test asks every node for everything that was ever acknowledged, and applies one good patch.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from ledger import bodies
from node.local.client import LocalClient
from node.local.protocol import BLOB_BYTES_MAX, error_from_json
from node.net.address import key_id_of, parse_address_untrusted
from provenance.attestation import build_attestation
from provenance.diff_model import FileState
from provenance.layout import split_patch_file_untrusted
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.bad_input import Siege, call
from tests.testkit.cluster import NodeProcess
from tests.testkit.ledger import key_of, publish_body
from tests.testkit.net import Member, raw_key_of, seed_of
from tests.testkit.scene import git_tree, running_scene, write_tree
from wire import canonical_json
from wire.codec import encode
from wire.envelope import encode_envelope, sign_envelope
from wire.errors import PatchwardenError, RejectedError
from wire.keys import Algorithm, private_key_from_seed
from wire.limits import PATCH_FILE_BYTES_MAX, TX_BYTES_MAX

pytestmark = pytest.mark.live

HOSTILE = Path(__file__).parent.parent / "vectors" / "patches" / "hostile"
SEED = 20261122
STALE_MS = 4000
"""How old the second host's replica may be; the leader certifies an empty block every 2 s."""
PEOPLE = (
    ("sue@acme", "developer"),
    ("rex@acme", "developer"),
    ("kim@acme", "developer"),
    ("tom@acme", "developer"),
    ("eve@acme", "attestor:qa"),
    ("sam@beta", "attestor:security-review"),
    ("ron@gamma", "attestor:qa"),
)


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with running_scene(tmp_path_factory.mktemp("bad"), patches.BEFORE, validators=3) as scene:
        siege = Siege(scene)
        siege.commit(*(register(name, role) for name, role in PEOPLE))
        yield siege


@pytest.fixture(autouse=True)
def _everything_still_stands(siege: Siege) -> Iterator[None]:
    yield
    siege.check_alive()
    assert git_tree(siege.scene.tree) == siege.tree


def register(name: str, *roles: str) -> tuple[bodies.Body, str]:
    organisation = name.partition("@")[2]
    administrator = {"acme": "ada@acme", "beta": "ben@beta", "gamma": "gil@gamma"}[organisation]
    return bodies.IdentityRegister(name, name, roles, key_of(name).public_key.spki), administrator


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def attestation(data: bytes, name: str, role: str, **claims: str) -> bytes:
    """Return the envelope in which `name` approves; `claims` replaces what it says about its attestor."""
    key = key_of(name)
    # Our own builder would not write an author's approval, so Bob's is changed into it.
    built = build_attestation(verify_patch_untrusted(data), role, "approve", patches.BOB, "bob@beta", "", patches.LATER)
    payload = json.loads(built.payload)
    payload["predicate"]["attestor"].update({"identity": name, "did": key.public_key.did} | claims)
    return encode_envelope(sign_envelope(canonical_json.encode(payload), key))


def attest(data: bytes, envelope: bytes) -> bodies.PatchAttest:
    return bodies.PatchAttest(bytes.fromhex(split_patch_file_untrusted(data).patch_id), envelope)


def with_line(data: bytes, line: bytes) -> bytes:
    return data + line + b"\n"


def broken_signature(line: bytes) -> bytes:
    """Return a trailer line whose signature is another one of the same form."""
    envelope = json.loads(line)
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[-1] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return canonical_json.encode(envelope)


# Tampered files


def test_tampered_body_and_diff(siege: Siege) -> None:
    data = siege.release()
    for place in (data.index(b"Found by fuzzing"), data.index(b"+    for (int i") + 10, data.index(b"@@ -3") + 4):
        siege.decline(flip(data, place), "ERROR_INVALID_SIGNATURE", "provenance.signature.body")
    patch_id = split_patch_file_untrusted(data).patch_id
    tampered = siege.client.put(f"{siege.rpc}/v1/patches/{patch_id}", content=flip(data, data.index(b"Found by")))
    assert (tampered.status_code, tampered.json()["code"]) == (422, "node.patch.wrong_digest")
    shortened = patches.with_lines(data, patches.trailer_lines(data)[:-1])
    other_file = siege.client.put(f"{siege.rpc}/v1/patches/{patch_id}", content=shortened)
    assert (other_file.status_code, other_file.json()["code"]) == (422, "node.patch.wrong_digest")
    unpublished = siege.patch()
    unknown = siege.client.put(
        f"{siege.rpc}/v1/patches/{split_patch_file_untrusted(unpublished).patch_id}", content=unpublished
    )
    assert (unknown.status_code, unknown.json()["code"]) == (422, "node.patch.not_published")
    siege.decline(unpublished, "ERROR_INVALID_METADATA", "agent.metadata.not_published")


def test_tampered_metadata(siege: Siege) -> None:
    data = siege.release()
    payload = patches.author_payload(data)
    payload["predicate"]["release_counter"] += 1
    envelope = json.loads(patches.trailer_lines(data)[0])
    envelope["payload"] = base64.b64encode(canonical_json.encode(payload)).decode()
    unsigned = patches.with_lines(data, [canonical_json.encode(envelope)])
    siege.decline(unsigned, "ERROR_INVALID_SIGNATURE", "provenance.signature.invalid")

    def lie(payload: dict[str, Any]) -> None:
        payload["predicate"]["patch_diff"]["lines_added"] += 1

    siege.decline(patches.resign(data, lie), "ERROR_INVALID_METADATA", "provenance.metadata.diff_lines_added")
    other_words = split_patch_file_untrusted(data).body.replace(b"Found by fuzzing", b"Found by chance!")
    siege.decline(patches.resign_body(data, other_words), "ERROR_INVALID_METADATA", "provenance.preamble.not_equal")

    def other_base(payload: dict[str, Any]) -> None:
        payload["predicate"]["affected_components"][0]["pre"]["sha256"] = "5a" * 32

    siege.decline(patches.resign(data, other_base), "ERROR_INVALID_METADATA", "agent.metadata.other_statement")
    fresh = siege.patch()
    body = publish_body(fresh)
    broken = bodies.PatchPublish(body.patch_id, body.file_digest, body.file_bytes, broken_signature(body.envelope), ())
    elsewhere = bodies.PatchPublish(b"\1" * 32, body.file_digest, body.file_bytes, body.envelope, ())
    siege.refuse(
        (siege.sign(broken, "alice@acme"), "ledger.patch.bad_signature"),
        (siege.sign(elsewhere, "alice@acme"), "ledger.patch.wrong_subject"),
        (siege.sign(body, "kim@acme"), "ledger.patch.wrong_author"),
    )


def test_tampered_attestation(siege: Siege) -> None:
    data = siege.release()
    lines = patches.trailer_lines(data)
    tampered = patches.with_lines(data, [lines[0], broken_signature(lines[1]), lines[2]])
    outcome = siege.decline(tampered, "ERROR_POLICY_DENIED", "agent.policy.attestations-intact")
    assert any("trailer line 2" in sentence for sentence in outcome["decision"]["set_aside"])
    other = siege.publish(siege.patch())
    moved = with_line(other, lines[1])
    outcome = siege.decline(moved, "ERROR_POLICY_DENIED", "agent.policy.attestations-intact")
    assert any("another patch" in sentence for sentence in outcome["decision"]["set_aside"])
    own = attestation(other, "bob@beta", "security-review")
    siege.refuse(
        (siege.sign(attest(other, broken_signature(own)), "bob@beta"), "ledger.patch.bad_signature"),
        (siege.sign(attest(other, lines[1]), "bob@beta"), "ledger.patch.wrong_subject"),
        (siege.sign(attest(siege.patch(), own), "bob@beta"), "ledger.patch.not_found"),
    )


# Signers


def test_unknown_signers(siege: Siege) -> None:
    forged = siege.patch(author="mallory@evil")
    siege.decline(forged, "ERROR_INVALID_DEVELOPER", "agent.developer.unknown_key")
    data = siege.publish(siege.patch())
    stranger = attestation(data, "mallory@evil", "security-review")
    impostor = attestation(data, "mallory@evil", "security-review", identity="bob@beta")
    siege.refuse(
        (siege.sign(publish_body(forged), "mallory@evil"), "ledger.tx.unknown_signer"),
        (siege.sign(publish_body(forged), "alice@acme"), "ledger.patch.unknown_key"),
        (siege.sign(attest(data, stranger), "alice@acme"), "ledger.patch.unknown_key"),
        (siege.sign(attest(data, impostor), "alice@acme"), "ledger.patch.unknown_key"),
        (siege.sign(bodies.IdentityRegister("x@acme", "x", ("developer",), key_of("x").public_key.spki), "mallory@evil"),
         "ledger.tx.unknown_signer"),
    )  # fmt: skip
    in_file_only = with_line(with_line(data, stranger), attestation(data, "bob@beta", "security-review"))
    outcome = siege.decline(in_file_only, "ERROR_POLICY_DENIED", "agent.policy.security-review-approval")
    assert sum("not recorded on the ledger" in each for each in outcome["decision"]["set_aside"]) == 2


def test_suspended_author(siege: Siege) -> None:
    data = siege.release(siege.patch(author="sue@acme"), author="sue@acme")
    later = siege.patch(author="sue@acme")
    siege.commit((bodies.IdentitySuspend("sue@acme", "on leave"), "ada@acme"))
    siege.scene.wait_level()
    siege.decline(data, "ERROR_INVALID_DEVELOPER", "agent.developer.suspended")
    siege.refuse((siege.sign(publish_body(later), "sue@acme"), "ledger.tx.signer_suspended"))
    siege.commit((bodies.IdentityResume("sue@acme"), "ada@acme"))
    siege.scene.wait_level()
    assert siege.scene.agent("explain", data)["code"] == "SUCCESS"


def test_author_revoked_by_height(siege: Siege) -> None:
    early = siege.release(siege.patch(author="kim@acme"), author="kim@acme")
    last_valid = siege.height()
    late = siege.release(siege.patch(author="kim@acme"), author="kim@acme")
    unpublished = siege.patch(author="kim@acme")
    key_id = key_of("kim@acme").public_key.key_id
    siege.commit((bodies.IdentityRevoke("kim@acme", key_id, last_valid, "stolen"), "ada@acme"))
    siege.scene.wait_level()
    assert siege.scene.agent("explain", early)["code"] == "SUCCESS", "recorded while the key was valid"
    siege.decline(late, "ERROR_INVALID_DEVELOPER", "agent.developer.key_not_valid")
    siege.refuse((siege.sign(publish_body(unpublished), "kim@acme"), "ledger.tx.key_not_valid"))


def test_revoked_author(siege: Siege) -> None:
    data = siege.release(siege.patch(author="rex@acme"), author="rex@acme")
    siege.commit((bodies.IdentityRevoke("rex@acme", None, siege.height(), "left"), "ada@acme"))
    siege.scene.wait_level()
    assert siege.scene.agent("explain", data)["code"] == "SUCCESS", "recorded up to the last valid height"
    siege.commit((bodies.IdentityRevoke("rex@acme", None, 0, "never was trustworthy"), "ada@acme"))
    siege.scene.wait_level()
    siege.decline(data, "ERROR_INVALID_DEVELOPER", "agent.developer.revoked")
    again = bodies.IdentityResume("rex@acme")
    siege.refuse(
        (siege.sign(publish_body(siege.patch(author="rex@acme")), "rex@acme"), "ledger.tx.key_not_valid"),
        (siege.sign(again, "ada@acme"), "ledger.identity.revoked"),
        (siege.sign(register("rex@acme", "developer")[0], "ada@acme"), "ledger.identity.exists"),
    )


def test_wrong_roles(siege: Siege) -> None:
    data = siege.release(siege.patch(author="tom@acme"), author="tom@acme")
    siege.commit((bodies.IdentityUpdateRoles("tom@acme", ("auditor",)), "ada@acme"))
    siege.scene.wait_level()
    siege.decline(data, "ERROR_INVALID_DEVELOPER", "agent.developer.wrong_role")
    plain = siege.publish(siege.patch())
    other_role = attestation(plain, "carol@gamma", "security-review")
    no_role = attestation(plain, "web1@acme", "qa")
    siege.refuse(
        (siege.sign(publish_body(siege.patch(author="tom@acme")), "tom@acme"), "ledger.tx.not_authorised"),
        (siege.sign(attest(plain, other_role), "alice@acme"), "ledger.patch.not_attestor"),
        (siege.sign(attest(plain, no_role), "alice@acme"), "ledger.patch.not_attestor"),
        (siege.sign(register("zed@beta", "developer")[0], "ada@acme"), "ledger.tx.not_authorised"),
        (siege.sign(register("zed@acme", "developer")[0], "alice@acme"), "ledger.tx.not_authorised"),
        (siege.sign(bodies.HostReport("inventory", "app", b"x"), "alice@acme"), "ledger.tx.not_authorised"),
    )
    signed = with_line(with_line(plain, other_role), attestation(plain, "bob@beta", "security-review"))
    siege.decline(signed, "ERROR_POLICY_DENIED", "agent.policy.security-review-approval")


def test_suspended_and_revoked_attestors(siege: Siege) -> None:
    data = patches.approve(siege.patch(), key_of("sam@beta"), "sam@beta", "security-review")
    data = siege.publish(patches.approve(data, key_of("ron@gamma"), "ron@gamma", "qa"))
    assert siege.scene.agent("explain", data)["code"] == "SUCCESS"
    other = siege.publish(siege.patch())
    siege.commit((bodies.IdentitySuspend("sam@beta", "under inquiry"), "ben@beta"))
    siege.scene.wait_level()
    outcome = siege.decline(data, "ERROR_POLICY_DENIED", "agent.policy.security-review-approval")
    assert "sam@beta's approval as security-review does not count" in outcome["decision"]["set_aside"][0]
    key_id = key_of("ron@gamma").public_key.key_id
    siege.commit(
        (bodies.IdentityResume("sam@beta"), "ben@beta"),
        (bodies.IdentityRevoke("ron@gamma", key_id, 3, "stolen laptop"), "gil@gamma"),
    )
    siege.scene.wait_level()
    outcome = siege.decline(data, "ERROR_POLICY_DENIED", "agent.policy.two-independent-approvals")
    assert "was revoked with last valid height 3" in outcome["decision"]["set_aside"][0]
    siege.commit((bodies.IdentitySuspend("sam@beta", "again"), "ben@beta"))
    siege.refuse(
        (siege.sign(attest(other, attestation(other, "ron@gamma", "qa")), "alice@acme"), "ledger.patch.key_not_valid"),
        (siege.sign(attest(other, attestation(other, "sam@beta", "security-review")), "alice@acme"),
         "ledger.patch.attestor_not_active"),
        (siege.sign(attest(other, attestation(other, "sam@beta", "security-review")), "sam@beta"),
         "ledger.tx.signer_suspended"),
    )  # fmt: skip


# Approvals


def test_same_approval_twice(siege: Siege) -> None:
    data = siege.publish(patches.approve(siege.patch()))
    line = patches.trailer_lines(data)[1]
    siege.refuse(
        (siege.sign(attest(data, line), "alice@acme"), "ledger.patch.duplicate_attestation"),
        (siege.sign(attest(data, line), "bob@beta"), "ledger.patch.duplicate_attestation"),
        (siege.sign(attest(data, attestation(data, "bob@beta", "security-review")), "alice@acme"),
         "ledger.patch.relay_not_first"),
    )  # fmt: skip
    outcome = siege.decline(with_line(data, line), "ERROR_POLICY_DENIED", "agent.policy.two-independent-approvals")
    assert [each["identity"] for each in outcome["decision"]["facts"]["approvals"]] == ["bob@beta"]
    repeated = siege.client.get(f"{siege.rpc}/v1/patches/{outcome['patch_id']}/attestations").json()
    assert len(repeated) == 1


def test_self_approval(siege: Siege) -> None:
    siege.commit((bodies.IdentityUpdateRoles("alice@acme", ("attestor:qa", "developer")), "ada@acme"))
    data = siege.publish(patches.approve(siege.patch()))
    own = attestation(data, "alice@acme", "qa")
    colleague = attestation(data, "eve@acme", "qa")
    siege.refuse((siege.sign(attest(data, own), "alice@acme"), "ledger.patch.self_approval"))
    siege.commit((attest(data, colleague), "eve@acme"))
    siege.scene.wait_level()
    outcome = siege.decline(
        with_line(with_line(data, own), colleague), "ERROR_POLICY_DENIED", "agent.policy.two-independent-approvals"
    )
    said = " ".join(outcome["decision"]["set_aside"])
    assert "the author's organisation acme" in said
    assert "author" in said
    assert [each["identity"] for each in outcome["decision"]["facts"]["approvals"]] == ["bob@beta"]


# The target


def test_diff_that_does_not_fit(siege: Siege) -> None:
    other = {"src/frame.c": FileState(0o100644, patches.FRAME_BEFORE.replace(b"sum += data", b"sum ^= data"))}
    after = {"src/frame.c": FileState(0o100644, b"int frame_parse;\n")}
    missing = {"src/none.c": FileState(0o100644, b"one\n")}
    siege.decline(siege.release(siege.patch(other, after)), "ERROR_APPLY_FAILED", "agent.apply.pre_image")
    siege.decline(
        siege.release(siege.patch(missing, {"src/none.c": FileState(0o100644, b"two\n")})),
        "ERROR_APPLY_FAILED",
        "agent.apply.pre_image",
    )
    added = siege.patch({"src/frame.c": None}, {"src/frame.c": FileState(0o100644, b"new\n")})
    siege.decline(siege.release(added), "ERROR_APPLY_FAILED", "agent.apply.pre_image")
    elsewhere = siege.release(siege.patch(), "alice@acme")
    with pytest.raises(RejectedError) as caught:
        call(siege.scene.host, "agent.apply", target="other", file=base64.b64encode(elsewhere).decode())
    assert caught.value.code == "agent.target.unknown"


def test_links_on_the_target(siege: Siege, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "linked"
    write_tree(outside, patches.BEFORE)
    root.mkdir()
    (root / "src").symlink_to(outside / "src")
    call(siege.scene.host, "agent.target.add", name="linked", root=str(root), components=["pkg:deb/debian/foo@1.2"])
    siege.decline(siege.release(), "ERROR_APPLY_FAILED", "agent.apply.link", target="linked")
    assert (outside / "src/frame.c").read_bytes() == patches.FRAME_BEFORE
    (tmp_path / "link").symlink_to(outside)
    for path, code in (
        (tmp_path / "link", "agent.target.link"),
        (outside / ".." / "outside", "agent.target.root"),
        (siege.scene.host.home, "agent.target.overlap"),
        (siege.scene.tree / "src", "agent.target.overlap"),
        (tmp_path / "missing", "agent.target.missing"),
    ):
        with pytest.raises(RejectedError) as caught:
            call(siege.scene.host, "agent.target.add", name="bad", root=str(path), components=["x"])
        assert caught.value.code == code, path
    call(siege.scene.host, "agent.target.remove", target="linked")


HOSTILE_PATHS = {
    "absolute-path": "provenance.diff.path_absolute",
    "parent-directory": "provenance.diff.path_component",
    "parent-directory-inside": "provenance.diff.path_component",
    "rename-out-of-the-tree": "provenance.diff.path_component",
    "git-hooks": "provenance.diff.path_control",
    "git-in-a-subdirectory": "provenance.diff.path_control",
    "git-config-upper-case": "provenance.diff.path_control",
    "git-short-name": "provenance.diff.path_control",
    "symlink-to-passwd": "provenance.diff.file_type",
    "becomes-symlink": "provenance.diff.file_type",
    "symlink-and-write-through": "provenance.diff.file_type",
}


@pytest.mark.parametrize("name", HOSTILE_PATHS)
def test_traversal_links_and_git_directories_in_a_signed_diff(siege: Siege, name: str) -> None:
    data = siege.patch_of_diff((HOSTILE / f"{name}.diff").read_bytes())
    siege.decline(data, "ERROR_MALFORMED_PATCH", HOSTILE_PATHS[name])


def test_every_hostile_diff_is_refused_by_a_running_agent(siege: Siege) -> None:
    expected = json.loads((HOSTILE / "index.json").read_text())
    with LocalClient(siege.scene.host.socket) as client:
        for path in sorted(HOSTILE.glob("*.diff")):
            diff = path.read_bytes()
            file = base64.b64encode(siege.patch_of_diff(diff)).decode()
            answer = client.call("agent.explain", target="app", file=file)
            assert answer["code"] == "ERROR_MALFORMED_PATCH", (path.name, answer)
            # A diff that does not begin or end as one makes the file around it another one, which is found out before.
            has_ends = diff.startswith(b"diff --git ") and diff.endswith(b"\n")
            if not has_ends:
                assert answer["reason"].startswith("provenance.file."), (path.name, answer)
            else:
                assert answer["reason"] == expected[path.stem]["code"], path.name


# A second host: first one that nobody registered, then one whose validators fall silent


@pytest.fixture(scope="module")
def second(siege: Siege) -> Iterator[NodeProcess]:
    host = siege.scene.cluster.add_host("web2@acme")
    siege.scene.cluster.hosts.remove(host)
    with (host.home / "config.toml").open("a") as config:
        config.write(f"replica_age_max_ms = {STALE_MS}\n")
    host.start()
    try:
        siege.wait(host.is_up, "the second host runs")
        yield host
    finally:
        host.stop()


def test_host_that_nobody_registered(siege: Siege, second: NodeProcess) -> None:
    before = metric(siege, siege.scene.cluster.validators[0], "strangers_refused")
    siege.wait(lambda: metric(siege, siege.scene.cluster.validators[0], "strangers_refused") > before, "it is refused")
    assert siege.status(second)["height"] == 0
    raw = siege.sign(bodies.IdentityResume("bob@beta"), "ben@beta").raw
    response = siege.post([raw], second, timeout_ms=500)
    assert (response.status_code, response.json()["code"]) == (503, "node.net.unreachable")
    assert int(response.headers["retry-after"]) >= 1


def test_stale_replica(siege: Siege, second: NodeProcess, tmp_path: Path) -> None:
    validators, client = siege.scene.cluster.validators, siege.client
    siege.commit(register("web2@acme", "host"))
    data = siege.release()
    tree = tmp_path / "app2"
    write_tree(tree, patches.BEFORE)
    file = base64.b64encode(data).decode()
    siege.wait(lambda: second.status(client)["height"] >= siege.height(), "the second host follows")
    call(second, "agent.target.add", name="app2", root=str(tree), components=["pkg:deb/debian/foo@1.2"])
    explained = lambda: call(second, "agent.explain", target="app2", file=file)["code"]  # noqa: E731
    siege.wait(lambda: explained() == "SUCCESS", "the replica is fresh")
    siege.wait(lambda: call(second, "agent.status")["records_waiting"] == 0, "its target is on the ledger")
    for node in validators:
        node.signal(signal.SIGSTOP)
    try:
        siege.wait(lambda: second.status(client)["replica_age_ms"] > STALE_MS, "the replica is old")
        outcome = call(second, "agent.apply", target="app2", file=file)
        assert (outcome["code"], outcome["reason"]) == ("ERROR_STALE_REPLICA", "agent.replica.stale")
        assert outcome["recorded_height"] is None, "nobody could take the record"
        assert (tree / "src/frame.c").read_bytes() == patches.FRAME_BEFORE
    finally:
        for node in validators:
            node.signal(signal.SIGCONT)
    assert siege.record(outcome)["result"] == "ERROR_STALE_REPLICA"
    siege.wait(lambda: explained() == "SUCCESS", "the replica is fresh again")


# Files and messages without form


def test_malformed_and_oversized_patch_files(siege: Siege) -> None:
    data = siege.release()
    body, author = split_patch_file_untrusted(data).body, patches.trailer_lines(data)[0]
    doubled = author.replace(b'{"payload":', b'{"payload":"","payload":', 1)
    payload = canonical_json.encode(patches.author_payload(data))
    twice = payload.replace(b'"release_counter":', b'"release_counter":0,"release_counter":', 1)
    for file, reason in (
        (b"", "provenance.file.start"),
        (b"\0" * 1000, "provenance.file.start"),
        (data[: data.index(b"@@")], "provenance.file.no_end"),
        (data[:-100], "provenance.file.trailer_end"),
        (body, "provenance.file.no_author"),
        (data.replace(b"\n", b"\r\n"), "provenance.file.start"),
        (data + b"trailing words\n", "provenance.file.trailer_line"),
        (body + doubled + b"\n", "wire.json.duplicate_member"),
        (patches.with_author_payload(data, twice), "wire.json.duplicate_member"),
        (patches.with_author_payload(data, payload.replace(b":", b": ", 1)), "wire.json.not_canonical"),
        (patches.with_author_payload(data, b"[" * 5000), "wire.json.too_deep"),
        (body + b'{"payload":"' + b"A" * 2**20 + b'"}\n', "provenance.file.trailer_line_length"),
    ):
        siege.decline(file, "ERROR_MALFORMED_PATCH", reason)
    with pytest.raises(RejectedError) as caught:
        siege.scene.agent("apply", bytes(BLOB_BYTES_MAX + 1))
    assert caught.value.code == "node.param.too_large"
    large = siege.client.put(f"{siege.rpc}/v1/patches/{'0' * 64}", content=bytes(PATCH_FILE_BYTES_MAX + 1))
    assert (large.status_code, large.json()["code"]) == (413, "node.http.body_too_large")


def test_transactions_without_form(siege: Siege) -> None:
    good = siege.sign(publish_body(siege.patch()), "alice@acme").raw
    envelope = siege.patch()
    body = publish_body(envelope)
    doubled = body.envelope.replace(b'{"payload":', b'{"payload":"","payload":', 1)
    report = encode((1, "live-net", "host.report", ("x",), bytes(32), bytes(16), 5, 5, bytes(64)))
    siege.refuse(
        (b"", "ledger.tx.malformed"),
        (os.urandom(300), "ledger.tx.malformed"),
        (good[:-1], "ledger.tx.malformed"),
        (good + b"\0", "ledger.tx.malformed"),
        (good.replace(b"patch.publish", b"patch.perform"), "ledger.tx.unknown_kind"),
        (report, "ledger.tx.malformed"),
        (bytes(TX_BYTES_MAX), "ledger.tx.malformed"),
        (siege.sign(bodies.PatchPublish(body.patch_id, body.file_digest, 1, doubled, ()), "alice@acme"),
         "ledger.patch.bad_envelope"),
        (flip(good, len(good) - 1), "ledger.tx.bad_signature"),
        (flip(good, good.index(b"live-net") + 7), "ledger.tx.wrong_chain"),
    )  # fmt: skip
    response = siege.post([bytes(TX_BYTES_MAX + 1)])
    assert (response.status_code, response.json()["code"]) == (413, "node.param.too_large")


JSON_BODIES = {
    "nothing": b"",
    "half an object": b'{"transactions": [',
    "a list": b"[]",
    "not UTF-8": b'{"transactions": ["\xff\xfe"]}',
    "a number": b"7",
    "not base64": b'{"transactions": ["*"]}',
    "no transactions": b'{"transactions": []}',
    "an unknown member": b'{"transactions": ["AAAA"], "force": true}',
    "a lone surrogate": b'{"transactions": ["AAAA"], "\\ud800": 1}',
    "another type": b'{"transactions": ["AAAA"], "timeout_ms": "1"}',
    "deep nesting": b"[" * 100_000,
    "not a number": b'{"transactions": ["AAAA"], "timeout_ms": NaN}',
    "a huge number": b'{"transactions": ["AAAA"], "timeout_ms": ' + b"9" * 5000 + b"}",
    "one member twice": b'{"transactions": ["AAAA"], "wait": "none", "wait": "committed"}',
}


@pytest.mark.parametrize("kind", JSON_BODIES)
def test_json_without_form_over_http(siege: Siege, kind: str) -> None:
    for path in ("/v1/transactions", "/v1/agent/explain"):
        token = (siege.scene.host.home / "rpc.token").read_text().strip()
        response = siege.client.post(
            f"{siege.scene.host.rpc}{path}",
            content=JSON_BODIES[kind],
            headers={"content-type": "application/json", "authorization": f"Bearer {token}"},
        )
        assert response.status_code in (400, 422), response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "node.http.invalid_request"


def test_oversized_json_over_http(siege: Siege) -> None:
    for content in (b"[" + b" " * (17 * 2**20), b'{"transactions": ["' + b"A" * (17 * 2**20) + b'"]}'):
        response = siege.client.post(f"{siege.rpc}/v1/transactions", content=content)
        assert (response.status_code, response.json()["code"]) == (413, "node.http.body_too_large")
    many = {"transactions": ["AAAA"] * 2000}
    response = siege.client.post(f"{siege.rpc}/v1/transactions", json=many)
    assert response.status_code == 422
    assert response.json()["code"] == "node.http.invalid_request"


def test_paths_and_tokens_over_http(siege: Siege) -> None:
    for path in (
        "/v1/patches/..%2f..%2f..%2fnode.key",
        "/v1/patches/../../../../etc/passwd",
        "/v1/identities/..%2fnode.key",
        "/v1/identities/%00",
        "/v1/identities/%ff%fe",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/blocks/-1",
        "/v1/blocks/99999999999999999999999",
        f"/v1/transactions/{'A' * 64}",
    ):
        with socket.create_connection(address_of(siege.rpc), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = read_all(connection)
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 422", b"HTTP/1.1 400")), (path, answer)
        assert b'"code":"node.' in answer, (path, answer)
        assert b"PRIVATE KEY" not in answer
        assert b"root:" not in answer
    for token in (None, "Bearer wrong", "Bearer \xff", "Basic YTpi"):
        headers = {} if token is None else {"authorization": token.encode("latin-1")}
        response = siege.client.post(
            f"{siege.scene.host.rpc}/v1/agent/apply", json={"target": "app", "file": "AAAA"}, headers=headers
        )
        assert (response.status_code, response.json()["code"]) == (401, "node.auth.required")


# Replays


def test_duplicate_and_replayed_transactions(siege: Siege) -> None:
    transaction = siege.sign(bodies.HostReport("inventory", "app", b"once"), "web1@acme")
    (first,) = siege.scene.cluster.submit([transaction])
    siege.acknowledged.add(first["tx_id"])
    siege.scene.cluster.wait_equal()
    size = siege.log_size()
    for node in siege.nodes:
        assert siege.scene.cluster.submit([transaction, transaction], to=node) == [first, first]
    assert siege.log_size() == size
    height = siege.height()
    far = siege.sign(bodies.HostReport("inventory", "app", b"far"), "web1@acme", not_after_height=height + 200_000)
    old = siege.sign(bodies.HostReport("inventory", "app", b"old"), "web1@acme", not_after_height=height - 1)
    foreign = siege.sign(bodies.HostReport("inventory", "app", b"foreign"), "web1@acme", chain_id="other-net")
    siege.refuse(
        (foreign, "ledger.tx.wrong_chain"),
        (old, "ledger.tx.expired"),
        (far, "ledger.tx.not_after_too_far"),
    )


def test_replayed_and_invented_host_records(siege: Siege) -> None:
    data = siege.publish(siege.patch())
    outcome = siege.decline(data, "ERROR_POLICY_DENIED", "agent.policy.security-review-approval")
    committed = siege.client.get(f"{siege.rpc}/v1/transactions/{outcome['outcome_tx']}").json()
    raw = base64.b64decode(committed["raw"])
    size = siege.log_size()
    (again,) = siege.post([raw]).json()["results"]
    assert (again["tx_id"], again["height"]) == (outcome["outcome_tx"], committed["height"])
    assert siege.log_size() == size
    patch_id = bytes.fromhex(outcome["patch_id"])
    zeros = bytes(32)
    counter = call(siege.scene.host, "agent.status")["counter"]
    success = bodies.DeploymentOutcome(
        counter + 1, bytes.fromhex(outcome["outcome_tx"]), "app", patch_id, None, "SUCCESS", zeros, zeros, b"{}"
    )
    replayed = bodies.DeploymentOutcome(1, zeros, "app", patch_id, None, "ERROR_POLICY_DENIED", zeros, zeros, b"{}")
    gap = bodies.DeploymentIntent(counter + 2, zeros, "app", patch_id, zeros, b"{}")
    other = bodies.DeploymentIntent(counter + 1, b"\7" * 32, "app", patch_id, zeros, b"{}")
    siege.refuse(
        (siege.sign(success, "web1@acme"), "ledger.host.intent_required"),
        (siege.sign(replayed, "web1@acme"), "ledger.host.counter_gap"),
        (siege.sign(gap, "web1@acme"), "ledger.host.counter_gap"),
        (siege.sign(other, "web1@acme"), "ledger.host.wrong_previous"),
        (siege.sign(success, "alice@acme"), "ledger.tx.not_authorised"),
    )


def test_one_patch_asked_for_many_times_at_once_is_applied_once(siege: Siege, tmp_path: Path) -> None:
    root = tmp_path / "twin"
    write_tree(root, patches.BEFORE)
    call(siege.scene.host, "agent.target.add", name="twin", root=str(root), components=["pkg:deb/debian/foo@1.2"])
    file = base64.b64encode(siege.release()).decode()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(call, siege.scene.host, "agent.apply", target="twin", file=file) for _ in range(8)]
        outcomes = [each.result() for each in asked]
    assert sorted(each["reason"] for each in outcomes) == ["", *["agent.metadata.already_applied"] * 7]
    results = [siege.record(each)["result"] for each in outcomes]
    assert sorted(results) == [*["ERROR_INVALID_METADATA"] * 7, "SUCCESS"]
    assert (root / "src/frame.c").read_bytes() == patches.AFTER["src/frame.c"].content  # type: ignore[union-attr]
    call(siege.scene.host, "agent.target.remove", target="twin")


# Peers


def metric(siege: Siege, node: NodeProcess, name: str) -> float:
    for line in siege.client.get(f"{node.rpc}/metrics").text.splitlines():
        if line.startswith(f"patchwarden_{name} "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


async def ask(siege: Siege, member: Member, node: NodeProcess, method: str, payload: bytes) -> bytes:
    address = siege.status(node)["multiaddr"]
    raw_key = parse_address_untrusted(address).raw_key
    assert raw_key is not None
    member.members.add(raw_key)
    return await member.network.request(key_id_of(raw_key), method, payload, timeout_s=10, address=address)


async def code_of(siege: Siege, member: Member, node: NodeProcess, method: str, payload: bytes) -> str:
    with pytest.raises(PatchwardenError) as caught:
        await ask(siege, member, node, method, payload)
    return caught.value.code


CUT = ("node.net.unreachable", "node.net.connection_lost")
"""What a node hears that is cut off: Noise tells who dials only in its last message, so the connection may stand for a moment before."""


async def test_stranger_and_lying_member_over_libp2p(siege: Siege) -> None:
    node = siege.scene.cluster.validators[0]
    nobody = Member("nobody")
    key = private_key_from_seed(Algorithm.ED25519, seed_of("guest"))
    guest = Member("guest")
    identity = bodies.IdentityRegister("guest@acme", "guest", ("host",), key.public_key.spki)
    async with trio.open_nursery() as nursery:
        await nursery.start(nobody.run)
        await nursery.start(guest.run)
        for target in (node, siege.scene.host):
            before = metric(siege, target, "strangers_refused")
            assert await code_of(siege, nobody, target, "status.get", encode(())) in CUT
            assert await code_of(siege, guest, target, "status.get", encode(())) in CUT
            assert metric(siege, target, "strangers_refused") >= before + 2
        siege.commit((identity, "ada@acme"))
        siege.scene.wait_level()
        height = siege.status(node)["height"]
        assert await ask(siege, guest, node, "status.get", encode(()))
        for method, payload, code in (
            ("status.get", b"", "wire.codec.malformed"),
            ("status.get", b"\x90" + os.urandom(500), "wire.codec.malformed"),
            ("status.get", bytes(2000), "wire.codec.too_large"),
            ("status.get", encode((1,)), "wire.field.length"),
            ("no.such.method", b"", "node.net.unknown_method"),
            ("blocks.get", encode((0, None, 1, 0)), "wire.field.range"),
            ("blocks.get", encode(("x", None, 1, 0)), "wire.field.int"),
            ("patch.get", encode((bytes(32), 0, 100)), "node.net.unknown_method"),
            ("patch.find", encode((b"../../node.key", None, False)), "wire.field.length"),
            ("patch.find", encode((bytes(32), "/ip4/" * 100, False)), "wire.field.length"),
            ("patch.list", encode((bytes(32),)), "node.patch.busy"),
            ("patch.chunk", encode((b"../../node.key", 0)), "wire.field.length"),
            ("patch.chunk", encode((bytes(32), 1 << 40)), "wire.field.range"),
            ("patch.chunk", encode((bytes(32), 0)), "node.patch.busy"),
            ("patch.done", encode((bytes(32), 1)), "wire.field.bool"),
            ("tx.submit", encode((True, (bytes(TX_BYTES_MAX + 1),))), "wire.field.length"),
            ("tx.submit", encode((True, ("text",))), "wire.field.bytes"),
        ):
            found = await code_of(siege, guest, node, method, payload)
            assert found == code, (method, payload[:50])
        forged = siege.sign(bodies.HostReport("inventory", "app", b"x"), "web1@acme")
        answer = await ask(siege, guest, node, "tx.submit", encode((True, (flip(forged.raw, len(forged.raw) - 1),))))
        assert b"ledger.tx.bad_signature" in answer
        siege.commit((bodies.IdentityRevoke("guest@acme", None, height, "misbehaved"), "ada@acme"))
        with trio.fail_after(20):
            while True:
                try:
                    await ask(siege, guest, node, "status.get", encode(()))
                except PatchwardenError:
                    break
                await trio.sleep(0.2)
        assert await code_of(siege, guest, node, "status.get", encode(())) in CUT
        nursery.cancel_scope.cancel()
    assert raw_key_of("nobody") != raw_key_of("guest")


# Garbage on ports


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("//")[2].rpartition(":")
    return host, int(port)


def read_all(connection: socket.socket, limit: int = 1 << 20) -> bytes:
    answer = b""
    with suppress(TimeoutError, ConnectionError):
        while len(answer) < limit and (part := connection.recv(65536)):
            answer += part
    return answer


def test_garbage_on_the_libp2p_port(siege: Siege) -> None:
    chance = random.Random(SEED)
    multistream, noise_name = b"\x13/multistream/1.0.0\n", b"\x07/noise\n"
    openings = [
        b"",
        multistream,
        multistream + noise_name,
        multistream + noise_name + b"\x00\x20",
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    for node in (siege.scene.cluster.validators[0], siege.scene.host):
        port = parse_address_untrusted(siege.status(node)["multiaddr"]).port
        held = []
        for number in range(60):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            with suppress(OSError):
                garbage = chance.randbytes(chance.choice((0, 1, 50, 5000, 200_000)))
                connection.settimeout(1)
                connection.sendall(openings[number % len(openings)] + garbage)
            held.append(connection)
        assert siege.status(node)["name"] == node.name
        siege.commit((bodies.HostReport("inventory", "app", chance.randbytes(20)), "web1@acme"))
        for connection in held:
            connection.close()


def test_garbage_on_the_http_port(siege: Siege) -> None:
    chance = random.Random(SEED)
    requests = [
        b"\x00" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500),
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"GET /v1/status\r\n\r\n",
        b"\xff\xfe /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nffffffffffffffff\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        *(chance.randbytes(chance.randrange(1, 3000)) for _ in range(10)),
    ]
    for node in (siege.scene.cluster.validators[0], siege.scene.host):
        connections = [socket.create_connection(address_of(node.rpc), timeout=5) for _ in requests]
        for request, connection in zip(requests, connections, strict=True):
            with suppress(OSError):  # It may be cut before everything is sent.
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
        for request, connection in zip(requests, connections, strict=True):
            with connection:
                answer = read_all(connection)
            assert b" 500 " not in answer[:20], (request[:80], answer[:500])
            if answer and b"HTTP/1.1 200" not in answer:
                assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), (request[:80], answer[:200])
        silent = [socket.create_connection(address_of(node.rpc), timeout=10) for _ in range(50)]
        for connection in silent:
            connection.sendall(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert siege.status(node)["name"] == node.name
        for connection in silent:
            connection.close()


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def raw_call(node: NodeProcess, method: str, params: dict[str, Any]) -> None:
    """Ask with escapes that our own client would not send, and raise what the core refuses with."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(str(node.socket))
        connection.sendall(frame(json.dumps({"id": 1, "method": method, "params": params}).encode()))
        with connection.makefile("rb") as stream:
            answer = json.loads(stream.read(int.from_bytes(stream.read(4), "big")))
    if "error" in answer:
        raise error_from_json(answer["error"])


def test_garbage_on_the_unix_socket(siege: Siege) -> None:
    chance = random.Random(SEED)
    cut = [
        b"\xff\xff\xff\xff" + b"x" * 100,
        frame(b""),
        frame(b"null"),
        frame(b"[1]"),
        frame(b"{" * 100_000),
        frame(b'{"id":1,"method":"status","params":{},"params":{"a":1}}'),
        frame(b'{"id":1,"id":2,"method":"status","params":{}}'),
        frame(b'{"id":1,"method":"status","params":{"x":NaN}}'),
        frame(b'{"id":true,"method":"status","params":{}}'),
        frame(b'{"id":1.5,"method":"status","params":{}}'),
        frame('{"id":1,"method":"status","params":{}}'.encode("utf-16")),
        frame(b'{"id":1,"method":"status","params":{"x":"\xff"}}'),
        frame(b'{"id":' + b"9" * 5000 + b',"method":"status"}'),
        frame(b'{"id":1,"method":7,"params":{}}'),
        frame(b'{"id":1,"method":"status","params":[]}'),
        *(frame(chance.randbytes(200)) for _ in range(10)),
    ]
    for node in (siege.scene.cluster.validators[0], siege.scene.host):
        for garbage in cut:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(5)
                connection.connect(str(node.socket))
                connection.sendall(garbage)
                assert read_all(connection) == b"", (garbage[:80], "neither answered nor left open")
        for method, params, code in (
            ("no.such", {}, "node.local.unknown_method"),
            ("\ud800", {}, "node.local.unknown_method"),
            ("identities.get", {"identity": "\ud800"}, "node.param.text"),
            ("identities.get", {"identity": 7}, "node.param.text"),
            ("identities.get", {"identity": "x" * 10_000}, "node.param.text"),
            ("history", {"subject": "identity", "id": "\udfff"}, "node.param.text"),
            ("targets.get", {"host": "\ud800", "target": "x"}, "node.param.text"),
            ("deployments.list", {"host": "a@b", "patch": "\ud800"}, "node.param.text"),
            ("blocks.get", {"height": 10**30}, "node.param.integer"),
            ("blocks.get", {"height": -1}, "node.param.integer"),
            ("blocks.raw", {"from": 1.5}, "node.param.integer"),
            ("tx.submit", {"transactions": ["\ud800"]}, "node.param.not_base64"),
            ("tx.submit", {"transactions": ["AAAA"], "wait": "\ud800"}, "node.param.text"),
            ("tx.submit", {"transactions": "AAAA"}, "node.param.list"),
            ("patches.get", {"patch_id": "../../node.key"}, "node.param.digest"),
            ("patches.put", {"file": "AAAA", "patch_id": "\ud800"}, "provenance.file.start"),
        ):
            with pytest.raises(RejectedError) as caught:
                raw_call(node, method, params)
            assert caught.value.code == code, (method, params)
    for method, params, code in (
        ("agent.apply", {"target": "\ud800", "file": "AAAA"}, "node.param.text"),
        ("agent.apply", {"target": "../app", "file": "AAAA"}, "agent.target.unknown"),
        ("agent.apply", {"target": "app"}, "node.param.patch"),
        ("agent.apply", {"target": "app", "file": "*"}, "node.param.not_base64"),
        ("agent.target.add", {"name": "\ud800", "root": "/tmp/x", "components": ["x"]}, "wire.field.identifier"),
        ("agent.target.add", {"name": "x", "root": "/tmp/\ud800", "components": ["x"]}, "wire.field.characters"),
    ):
        with pytest.raises(RejectedError) as caught:
            raw_call(siege.scene.host, method, params)
        assert caught.value.code == code, (method, params)


# And still


def test_nothing_acknowledged_is_lost_and_a_good_patch_is_applied(siege: Siege) -> None:
    outcome = siege.scene.agent("apply", siege.release())
    assert outcome["code"] == "SUCCESS", outcome
    siege.tree = git_tree(siege.scene.tree)
    assert outcome["tree_after"] == siege.tree
    assert siege.record(outcome)["result"] == "SUCCESS"
    siege.scene.cluster.wait_equal()
    assert len(siege.acknowledged) > 100
    for node in siege.nodes:
        for tx_id in siege.acknowledged:
            document = siege.client.get(f"{node.rpc}/v1/transactions/{tx_id}").json()
            assert document["status"] == "committed", (node.name, document)
