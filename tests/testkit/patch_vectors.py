"""The golden patch files of tests/vectors/patchfile: what they are, and how they are written anew.

`python -m tests.testkit.patch_vectors` writes them. They only change when the format does, and then its version changes too: a test
compares the committed bytes with what this module makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provenance.attestation import build_attestation
from provenance.identity import CreatorIdentity
from provenance.layout import split_patch_file_untrusted
from provenance.patchfile import build_patch_file
from provenance.schema import extract
from provenance.verify import verify_patch_untrusted
from tests.testkit.certificates import make_chain
from tests.testkit.patches import (
    ALICE,
    BOB,
    CAROL,
    EVERY_KIND_AFTER,
    EVERY_KIND_BEFORE,
    EVERY_KIND_RENAMES,
    LATER,
    approve,
    make_metadata,
    make_patch,
    make_released_patch,
    resign,
    resign_body,
    resign_with_preamble,
    seal,
    sign_raw,
    trailer_lines,
    with_author_payload,
    with_lines,
)
from wire.envelope import encode_envelope, sign_envelope
from wire.errors import RejectedError

FOLDER = Path(__file__).resolve().parent.parent / "vectors" / "patchfile"
INDEX = "index.json"
HIDDEN_FILE = b"diff --git a/evil.c b/evil.c\nnew file mode 100644\n--- /dev/null\n+++ b/evil.c\n@@ -0,0 +1 @@\n+evil\n"


@dataclass(frozen=True, slots=True)
class Vector:
    """One patch file and what a verifier must make of it."""

    name: str
    data: bytes
    says: str
    """What is special about it, in a sentence."""


def valid_vectors() -> Iterator[Vector]:
    """Yield files that verify, every line of them."""
    yield Vector("author-only", make_patch(), "The author's line and nothing else.")
    yield Vector("released", make_released_patch(), "A test result, a review with a P-256 key, and a release seal.")
    every_kind = make_patch(
        EVERY_KIND_BEFORE,
        EVERY_KIND_AFTER,
        EVERY_KIND_RENAMES,
        supersedes=("a" * 64, "b" * 64),
        prerequisites=("c" * 64,),
        not_after="2027-11-22T00:00:00Z",
        release_counter=7,
    )
    yield Vector(
        "every-kind",
        approve(every_kind, verdict="reject"),
        "Every kind of change, every optional field, bytes that are not UTF-8, and a rejection.",
    )
    certificate = CreatorIdentity.from_certificates(make_chain(ALICE), "Alice Example", "alice@acme.example")
    yield Vector("x509", make_patch(creator_identity=certificate), "The creator is a certificate chain.")
    metadata, diff = make_metadata(creator_identity=CreatorIdentity.from_key(BOB.public_key, "Bob", "bob@beta.example"))
    yield Vector(
        "p256",
        build_patch_file(
            replace(metadata, build_environment=replace(metadata.build_environment, document=None)), diff, BOB
        ),
        "An ECDSA P-256 author who discloses only the hash of the build environment.",
    )


def hostile_vectors() -> Iterator[Vector]:
    """Yield files that are refused, or of which a line is set aside."""
    patch, released, approved = make_patch(), make_released_patch(), approve(make_patch())
    file = split_patch_file_untrusted(patch)
    verified = verify_patch_untrusted(patch)
    author, lines = file.trailer[0] + b"\n", trailer_lines(released)
    payload = verified.author_envelope.payload

    def preamble(name: str, old: bytes, new: bytes, says: str) -> Vector:
        """A preamble that its author signed with everything else."""
        assert file.preamble.count(old) == 1, old
        return Vector(name, resign_body(patch, file.preamble.replace(old, new) + file.body[len(file.preamble) :]), says)

    def statement(name: str, old: bytes, new: bytes, says: str) -> Vector:
        """A payload that its author signed."""
        assert payload.count(old) >= 1, old
        return Vector(name, with_author_payload(patch, payload.replace(old, new)), says)

    def review(name: str, change: Any, says: str) -> Vector:
        return Vector(name, patch + encode_envelope(sign_raw(verified, change)) + b"\n", says)

    yield Vector("body-bit-flipped", patch.replace(b"i < length", b"i = length"), "One bit of the diff is another.")
    yield Vector("crlf", patch.replace(b"\n", b"\r\n"), "A mailer made CRLF of every line end.")
    yield preamble(
        "reason-unprefixed-diff",
        b"# Reason: ",
        HIDDEN_FILE + b"# Reason: ",
        "A diff in the reason, at the beginning of lines: every tool applies it.",
    )
    yield preamble(
        "reason-indented-diff",
        b"# Reason: ",
        b"    " + HIDDEN_FILE.replace(b"\n", b"\n    ").strip() + b"\n# Reason: ",
        "The same, indented: GNU patch applies it.",
    )
    yield preamble(
        "header-content-transfer-encoding",
        b"X-Patch",
        b"Content-Transfer-Encoding: quoted-printable\nX-Patch",
        "git am would decode the diff.",
    )
    yield preamble("header-prereq", b"X-Patch", b"Prereq: 1.2\nX-Patch", "patch -t would stop.")
    yield preamble(
        "preamble-from-line",
        b"# Category",
        b"From " + b"0" * 40 + b" Mon Sep 17 00:00:00 2001\n# Category",
        "A second mail for git am.",
    )
    yield preamble(
        "preamble-bidi", b"bounds check", "bounds \u202echeck".encode(), "A right-to-left override in the title."
    )
    yield preamble(
        "preamble-other-title",
        b"bounds check",
        b"harmless typo",
        "The preamble shows another title than the metadata holds.",
    )
    yield preamble(
        "preamble-added-line",
        b"# Release-Counter: 1\n",
        b"# Release-Counter: 1\n# Approved-By: everybody\n",
        "The preamble shows more than the metadata holds.",
    )
    yield Vector(
        "hunk-behind-end", file.body + HIDDEN_FILE + author, "A diff between body and trailer: every tool applies it."
    )
    yield Vector("hunk-behind-trailer", patch + HIDDEN_FILE, "A diff behind the trailer.")
    yield Vector(
        "nul-in-trailer",
        file.body + author[:-2] + b"\0\n" + HIDDEN_FILE.replace(b"\n", b"\0") + b"}\n",
        "A NUL: busybox takes it for a line end.",
    )
    yield Vector("no-author", file.body, "No trailer at all.")
    yield Vector("attestation-first", with_lines(released, [lines[1], lines[0]]), "The author's line is not the first.")
    yield statement(
        "json-duplicate-member",
        b'"release_counter":1',
        b'"release_counter":1,"release_counter":9',
        "Readers disagree which of two members counts.",
    )
    yield statement("json-float", b'"release_counter":1', b'"release_counter":1.0', "A float.")
    yield statement(
        "json-large-integer",
        b'"release_counter":1',
        b'"release_counter":9007199254740993',
        "An integer that some readers round.",
    )
    yield statement("json-lone-surrogate", b"Alice", b"\\udc00", "Half a character.")
    yield statement("json-not-nfc", b"Alice", b"Zoe\xcc\x88", "Two texts that look the same.")
    yield statement(
        "json-not-canonical", b'"not_after":null', b'"not_after": null', "A space that RFC 8785 does not have."
    )
    yield Vector(
        "unknown-member",
        resign(patch, lambda value: value["predicate"].update(crit=["x"])),
        "A member that this version does not know.",
    )
    other_path = tuple(replace(one, path="README") for one in verified.metadata.affected_components)
    yield Vector(
        "component-of-another-path",
        resign_with_preamble(patch, replace(verified.metadata, affected_components=other_path)),
        "The diff changes another path than metadata and preamble say.",
    )
    yield Vector(
        "lines-added-differ",
        resign(patch, lambda value: value["predicate"]["patch_diff"].update(lines_added=0)),
        "The metadata counts other lines than the diff has.",
    )
    yield Vector(
        "other-key",
        file.body + encode_envelope(sign_envelope(payload, CAROL)) + b"\n",
        "Signed with a key that the metadata does not name.",
    )
    renamed = sign_envelope(payload, CAROL)
    renamed = replace(renamed, signatures=(replace(renamed.signatures[0], keyid=ALICE.public_key.key_id_hex),))
    yield Vector(
        "other-key-same-keyid", file.body + encode_envelope(renamed) + b"\n", "The same, under the author's key id."
    )
    small_order = "did:key:z6MkeTG3bFFSLYVU7VqhgZxqr6YzpaGrQtFMh1uvqGy1vDnP"
    yield Vector(
        "small-order-key",
        resign(patch, lambda value: value["predicate"]["creator_identity"].update(did=small_order)),
        "A key under which one signature verifies for every message.",
    )

    yield Vector(
        "seal-line-removed", with_lines(released, [lines[0], lines[2], lines[3]]), "A sealed attestation was removed."
    )
    yield Vector(
        "seal-lines-permuted",
        with_lines(released, [lines[0], lines[2], lines[1], lines[3]]),
        "Sealed attestations were permuted.",
    )
    yield Vector(
        "seal-line-added",
        with_lines(released, [*lines[:3], trailer_lines(approve(patch, CAROL, "carol@gamma"))[1], lines[3]]),
        "An attestation was put before the seal.",
    )
    yield Vector(
        "seal-line-follows",
        released + trailer_lines(approve(patch, CAROL, "carol@gamma"))[1] + b"\n",
        "An attestation follows the seal.",
    )
    yield Vector(
        "seal-moved",
        patch + trailer_lines(seal(make_patch(release_counter=2)))[1] + b"\n",
        "The seal of another patch.",
    )

    yield Vector(
        "approval-moved",
        make_patch(release_counter=2) + trailer_lines(approved)[1] + b"\n",
        "Bob's approval of another patch.",
    )
    yield Vector("approval-twice", approved + trailer_lines(approved)[1] + b"\n", "Bob's approval twice.")
    again = build_attestation(verified, "security-review", "approve", BOB, "bob@beta", "again", LATER)
    yield Vector("approval-again", approved + encode_envelope(again) + b"\n", "Bob approves again in other words.")
    stranger = sign_envelope(sign_raw(verified, lambda value: None).payload, CAROL)
    yield Vector("approval-by-another-key", patch + encode_envelope(stranger) + b"\n", "Carol signs in Bob's name.")

    def by_alice(value: dict[str, Any]) -> None:
        value["predicate"]["attestor"]["did"] = ALICE.public_key.did

    yield Vector(
        "approval-by-the-author",
        patch + encode_envelope(sign_raw(verified, by_alice, ALICE)) + b"\n",
        "The author's key approves.",
    )
    yield review(
        "approval-unbound",
        lambda value: value["subject"].pop(),
        "An approval of the body that is not bound to the author's statement.",
    )
    yield review(
        "approval-wrong-case",
        lambda value: value["predicate"].update(Verdict=value["predicate"].pop("verdict")),
        "A member that only readers without case find.",
    )
    yield review(
        "approval-unknown-member",
        lambda value: value["predicate"].update(crit=True),
        "A member that this version does not know.",
    )


def describe(vector: Vector) -> dict[str, Any]:
    """Return what our verifier makes of a vector, as the index holds it."""
    entry: dict[str, Any] = {"file": f"{vector.name}.patch", "says": vector.says}
    try:
        patch = verify_patch_untrusted(vector.data)
    except RejectedError as error:
        return {**entry, "outcome": "refused", "class": type(error).__name__, "code": error.code}
    if patch.attestations_refused:
        aside = [{"line": refused.index + 1, "code": refused.code} for refused in patch.attestations_refused]
        return {**entry, "outcome": "verified", "patch_id": patch.patch_id, "set_aside": aside}
    return {**entry, "outcome": "verified", "patch_id": patch.patch_id}


def expected_files() -> dict[str, bytes]:
    """Return every file of the folder by name."""
    files: dict[str, bytes] = {}
    index = []
    for vector in (*valid_vectors(), *hostile_vectors()):
        files[f"{vector.name}.patch"] = vector.data
        index.append(describe(vector))
    for vector in valid_vectors():
        files[f"{vector.name}.json"] = _json(extract(verify_patch_untrusted(vector.data)))
    files[INDEX] = _json(index)
    return files


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def main() -> None:
    """Write the folder's files; those that no vector has any more are removed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    files = expected_files()
    for path in FOLDER.iterdir():
        if path.name not in files and path.suffix in {".patch", ".json"}:
            path.unlink()
    for name, content in files.items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
