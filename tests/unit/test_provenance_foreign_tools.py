"""What others do with a patch file without our code: apply it with four tools, verify its lines, read its statements."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from provenance.diff_apply import apply_diff
from provenance.diff_model import FileState
from provenance.verify import verify_patch_untrusted
from tests.testkit.appliers import INSTALLED, Tool, run_tool
from tests.testkit.git_tool import am_file
from tests.testkit.patches import (
    AFTER,
    ALICE,
    BEFORE,
    BOB,
    CAROL,
    DAVE,
    EVERY_KIND_AFTER,
    EVERY_KIND_BEFORE,
    EVERY_KIND_RENAMES,
    Tree,
    make_patch,
    make_released_patch,
    seal,
)

STDIN_TOOLS = tuple(tool for tool in INSTALLED if tool is not Tool.GIT_AM)
# busybox ignores modes and renames and leaves deleted files empty; what it can do, it must do the same.
BUSYBOX_BEFORE: Tree = {
    "src/frame.c": EVERY_KIND_BEFORE["src/frame.c"],
    "docs/new.txt": None,
    "data/latin1.txt": EVERY_KIND_BEFORE["data/latin1.txt"],
}
BUSYBOX_AFTER: Tree = {
    "src/frame.c": EVERY_KIND_AFTER["src/frame.c"],
    "docs/new.txt": FileState(0o100644, b"hello\n"),
    "data/latin1.txt": EVERY_KIND_AFTER["data/latin1.txt"],
}
SIGNATURE_LINES: Tree = {"notes": FileState(0o100644, b"a\n- \npatchwarden 1\n\nb\n- \n")}
SIGNATURE_LINES_AFTER: Tree = {"notes": FileState(0o100644, b"a\npatchwarden 1\n\nb\n")}


def present(tree: Tree) -> dict[str, FileState]:
    return {path: state for path, state in tree.items() if state is not None}


@pytest.mark.parametrize("tool", STDIN_TOOLS, ids=lambda tool: tool.name)
def test_the_released_file_is_applied_unchanged_with_the_same_tree(tool: Tool) -> None:
    data = make_released_patch()
    outcome = run_tool(tool, BEFORE, data)
    assert outcome.accepted, outcome.output
    assert outcome.tree == present(AFTER) == present(apply_diff(verify_patch_untrusted(data).diff, BEFORE))


@pytest.mark.parametrize("tool", STDIN_TOOLS, ids=lambda tool: tool.name)
def test_a_change_of_every_kind_is_applied_with_the_same_tree(tool: Tool) -> None:
    if tool is Tool.BUSYBOX:
        before, after, renames = BUSYBOX_BEFORE, BUSYBOX_AFTER, {}
    else:
        before, after, renames = EVERY_KIND_BEFORE, EVERY_KIND_AFTER, EVERY_KIND_RENAMES
    data = seal(make_patch(before, after, renames))
    outcome = run_tool(tool, before, data)
    assert outcome.accepted, outcome.output
    assert outcome.tree == present(after) == present(apply_diff(verify_patch_untrusted(data).diff, before))


@pytest.mark.parametrize("tool", STDIN_TOOLS, ids=lambda tool: tool.name)
def test_removed_lines_that_read_like_a_mail_signature_are_applied(tool: Tool) -> None:
    data = make_patch(SIGNATURE_LINES, SIGNATURE_LINES_AFTER)
    outcome = run_tool(tool, SIGNATURE_LINES, data)
    assert (outcome.accepted, outcome.tree) == (True, present(SIGNATURE_LINES_AFTER)), outcome.output


def test_git_am_commits_the_same_tree_with_the_authors_name_date_and_reason() -> None:
    for before, after, renames in (
        (BEFORE, AFTER, {}),
        (EVERY_KIND_BEFORE, EVERY_KIND_AFTER, EVERY_KIND_RENAMES),
        (SIGNATURE_LINES, SIGNATURE_LINES_AFTER, {}),
    ):
        data = seal(make_patch(before, after, renames))
        outcome, commit = am_file(before, data)
        assert outcome.accepted, outcome.output
        assert outcome.tree == present(after)
        assert commit.author == "Alice Example <alice@acme.example>"
        assert commit.date == "2026-11-22T06:50:00+00:00"
        assert commit.subject == "CVE-2026-0001: bounds check in the frame parser"
        assert commit.body.startswith(
            "# Reason: The loop read one element past the end of the frame.\n#\n#   Found by fuzzing.\n"
        )


def test_git_am_reads_names_and_titles_beyond_ascii() -> None:
    from provenance.identity import CreatorIdentity
    from provenance.metadata import Category, Reason

    creator = CreatorIdentity.from_key(ALICE.public_key, "Müller, Zoë (Acme)", "zoe@acme.example")
    reason = Reason(Category.BUG_FIX, "Größe prüfen – „sofort“", "Die Größe wurde nicht geprüft.", ())
    outcome, commit = am_file(BEFORE, make_patch(creator_identity=creator, reason_for_patch=reason))
    assert outcome.accepted, outcome.output
    assert commit.author == "Müller, Zoë (Acme) <zoe@acme.example>"
    assert commit.subject == "Größe prüfen – „sofort“"
    assert commit.body.startswith("# Reason: Die Größe wurde nicht geprüft.\n# Category: bug-fix\n")


# The trailer is an in-toto bundle: JSON lines of DSSE envelopes, verified here with nothing of ours.


def dsse_payload(line: bytes, spki: bytes) -> bytes:
    """Return the payload of a DSSE line when the key signed it: the DSSE protocol, written from its specification."""
    envelope = json.loads(line)
    payload_type, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"], validate=True)
    message = b" ".join([b"DSSEv1", b"%d" % len(payload_type), payload_type, b"%d" % len(payload), payload])
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == hashlib.sha256(spki).hexdigest()
    key = load_der_public_key(spki)
    sig = base64.b64decode(signature["sig"], validate=True)
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(sig, message)
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(sig, message, ec.ECDSA(hashes.SHA256()))
    return payload


def test_every_trailer_line_verifies_with_a_plain_dsse_check() -> None:
    data = make_released_patch()
    body, _, trailer = data.partition(b"-- \npatchwarden 1\n\n")
    body += b"-- \npatchwarden 1\n\n"
    diff = body[body.index(b"\ndiff --git ") + 1 : -len(b"-- \npatchwarden 1\n\n")]
    lines = trailer.splitlines()
    keys = [ALICE, CAROL, BOB, DAVE]
    assert len(lines) == len(keys)
    author_payload = dsse_payload(lines[0], ALICE.public_key.spki)
    digests = {
        "patch-body": hashlib.sha256(body).hexdigest(),
        "patch-diff": hashlib.sha256(diff).hexdigest(),
        "author-statement": hashlib.sha256(author_payload).hexdigest(),
    }
    types = []
    for line, key in zip(lines, keys, strict=True):
        statement = json.loads(dsse_payload(line, key.public_key.spki))
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert len(statement["subject"]) == (2 if key is ALICE else 3)
        for subject in statement["subject"]:
            assert subject["digest"] == {"sha256": digests[subject["name"]]}
        types.append(statement["predicateType"])
    assert types == [
        "https://patchwarden.dev/provenance/patch/v1",
        "https://in-toto.io/attestation/test-result/v0.1",
        "https://patchwarden.dev/provenance/review/v1",
        "https://patchwarden.dev/provenance/release-seal/v1",
    ]


def test_the_plain_check_can_fail() -> None:
    line = verify_patch_untrusted(make_released_patch()).file.trailer[0]
    envelope = json.loads(line)
    envelope["payload"] = base64.b64encode(b"{}").decode()
    with pytest.raises(InvalidSignature):
        dsse_payload(json.dumps(envelope).encode(), ALICE.public_key.spki)


def test_the_key_follows_from_the_did_in_the_metadata_without_our_code() -> None:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    statement = json.loads(verify_patch_untrusted(make_patch()).author_envelope.payload)
    number = 0
    for character in statement["predicate"]["creator_identity"]["did"].removeprefix("did:key:z"):
        number = number * 58 + alphabet.index(character)
    raw = number.to_bytes(34, "big")
    assert raw[:2] == b"\xed\x01"
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw[2:])
    assert key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == ALICE.public_key.spki
