"""Signed patch files for tests: a small source tree, a change to it, the people who vouch, and every part replaceable.

Everything is deterministic: keys come from seeds and Ed25519 and RFC 6979 signatures from keys, so two runs make the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from provenance.attestation import build_attestation, build_seal, build_test_result
from provenance.build_environment import BuildFacts, Dependency, Tool, build_environment, encode_build_document
from provenance.components import describe_components
from provenance.diff import parse_diff_untrusted
from provenance.diff_make import make_diff
from provenance.diff_model import FileState
from provenance.layout import BODY_END
from provenance.metadata import Category, CreatorIdentity, DiffSummary, PatchMetadata, Reason
from provenance.patchfile import append_attestation, build_patch_file
from provenance.preamble import render_preamble
from provenance.statement import AuthorStatement, encode_author_statement
from provenance.test_suite import SuiteFile, hash_test_suite
from provenance.verify import VerifiedPatch, verify_patch_untrusted
from wire import canonical_json
from wire.envelope import Envelope, encode_envelope, sign_envelope
from wire.hashing import sha256
from wire.keys import Algorithm, PrivateKey, private_key_from_seed

Tree = Mapping[str, FileState | None]

CREATED = "2026-11-22T06:50:00Z"
LATER = "2026-11-22T09:30:00Z"

ALICE = private_key_from_seed(Algorithm.ED25519, b"alice".ljust(32, b"\0"))
"""The author."""
BOB = private_key_from_seed(Algorithm.P256, b"bob".ljust(32, b"\0"))
"""A security reviewer of another organisation, with a P-256 key."""
CAROL = private_key_from_seed(Algorithm.ED25519, b"carol".ljust(32, b"\0"))
"""A continuous integration system."""
DAVE = private_key_from_seed(Algorithm.ED25519, b"dave".ljust(32, b"\0"))
"""A release manager."""

FRAME_BEFORE = b"""#include "frame.h"

int frame_parse(const unsigned char *data, int length)
{
    int sum = 0;
    for (int i = 0; i <= length; i++) {
        sum += data[i];
    }
    return sum;
}
"""
BEFORE: Tree = {"src/frame.c": FileState(0o100644, FRAME_BEFORE)}
AFTER: Tree = {"src/frame.c": FileState(0o100644, FRAME_BEFORE.replace(b"i <= length", b"i < length"))}

EVERY_KIND_BEFORE: Tree = {
    "src/frame.c": FileState(0o100644, FRAME_BEFORE),
    "docs/new file.txt": None,
    "old/gone.txt": FileState(0o100644, b"one\ntwo\n"),
    "scripts/run": FileState(0o100644, b"#!/bin/sh\nexit 0\n"),
    "lib/a.c": FileState(0o100644, b"".join(b"line %d\n" % i for i in range(30))),
    "lib/b.c": None,
    "lätin/é.txt": FileState(0o100644, b"no newline at the end"),
    "data/latin1.txt": FileState(0o100644, b"caf\xe9\nbar\n"),
}
"""A tree for a change of every kind: modify, add (a name with a space), delete, mode, rename with a change, non-ASCII, non-UTF-8."""
EVERY_KIND_AFTER: Tree = {
    "src/frame.c": AFTER["src/frame.c"],
    "docs/new file.txt": FileState(0o100755, b"hello\n"),
    "old/gone.txt": None,
    "scripts/run": FileState(0o100755, b"#!/bin/sh\nexit 0\n"),
    "lib/a.c": None,
    "lib/b.c": FileState(0o100644, b"".join(b"line %d\n" % i for i in range(30) if i != 15)),
    "lätin/é.txt": FileState(0o100644, b"no newline at the end, still"),
    "data/latin1.txt": FileState(0o100644, b"caf\xe9 au lait\nbar\n"),
}
EVERY_KIND_RENAMES = {"lib/b.c": "lib/a.c"}


def build_document() -> bytes:
    facts = BuildFacts(
        os_name="debian",
        os_version="12",
        kernel="6.1.0-18-amd64",
        machine="x86_64",
        tools=[Tool("gcc", "gcc (Debian 12.2.0-14) 12.2.0"), Tool("ld", "GNU ld 2.40")],
        dependencies=[
            Dependency("pkg:deb/debian/libc6@2.36-9?arch=amd64"),
            Dependency("pkg:pypi/pytest@8.3", sha256(b"pytest").hex()),
        ],
    )
    return encode_build_document(facts)


def make_metadata(
    before: Tree = BEFORE, after: Tree = AFTER, renames: Mapping[str, str] | None = None, **changes: Any
) -> tuple[PatchMetadata, bytes]:
    """Return metadata by Alice and the diff it describes; `copies` is as for `make_diff`, `changes` replaces fields of the metadata."""
    allowed = frozenset(changes.get("allowances", ()))
    diff = make_diff(before, after, renames or {}, allowed, changes.pop("copies", {}))
    parsed = parse_diff_untrusted(diff, allowed)
    metadata = PatchMetadata(
        creation_timestamp=CREATED,
        creator_identity=CreatorIdentity.from_key(ALICE.public_key, "Alice Example", "alice@acme.example"),
        reason_for_patch=Reason(
            Category.SECURITY_UPDATE,
            "CVE-2026-0001: bounds check in the frame parser",
            "The loop read one element past the end of the frame.\n\nFound by fuzzing.",
            ("CVE-2026-0001", "https://bugs.example.org/123"),
        ),
        affected_components=describe_components(parsed, before, after, {}, "pkg:deb/debian/foo@1.2"),
        patch_diff=DiffSummary.of(parsed),
        build_environment=build_environment(build_document()),
        validation_tests=hash_test_suite({b"tests/test_frame.c": SuiteFile(0o100644, sha256(b"assert"))}),
        release_counter=1,
    )
    return replace(metadata, **changes), diff


def make_patch(
    before: Tree = BEFORE,
    after: Tree = AFTER,
    renames: Mapping[str, str] | None = None,
    key: PrivateKey = ALICE,
    **changes: Any,
) -> bytes:
    """Return a signed patch file without attestations."""
    metadata, diff = make_metadata(before, after, renames, **changes)
    return build_patch_file(metadata, diff, key)


def sign_around(diff: bytes, release_counter: int = 1) -> bytes:
    """Return a file around any bytes as a diff, honest in everything else: what a developer gone bad would sign."""
    metadata, _ = make_metadata(release_counter=release_counter)
    body = render_preamble(metadata) + diff + BODY_END
    statement = AuthorStatement(sha256(body).hex(), sha256(diff).hex(), metadata)
    return body + encode_envelope(sign_envelope(encode_author_statement(statement), ALICE)) + b"\n"


def approve(
    data: bytes,
    key: PrivateKey = BOB,
    identity: str = "bob@beta",
    role: str = "security-review",
    verdict: str = "approve",
) -> bytes:
    """Return the file with one more review."""
    patch = verify_patch_untrusted(data)
    envelope = build_attestation(patch, role, verdict, key, identity, "read twice", LATER)
    return append_attestation(data, encode_envelope(envelope))


def add_test_result(data: bytes, result: str = "PASSED") -> bytes:
    """Return the file with Carol's test result."""
    envelope = build_test_result(
        verify_patch_untrusted(data), result, CAROL, "ci@acme", LATER, passed=["frame", "codec"]
    )
    return append_attestation(data, encode_envelope(envelope))


def seal(data: bytes, key: PrivateKey = DAVE) -> bytes:
    """Return the file with Dave's release seal."""
    return append_attestation(data, encode_envelope(build_seal(verify_patch_untrusted(data), key, "dave@acme", LATER)))


def make_released_patch() -> bytes:
    """Return a patch with a test result, a review and a seal."""
    return seal(approve(add_test_result(make_patch())))


def author_payload(data: bytes) -> dict[str, Any]:
    """Return the author's statement as plain JSON, to be changed and signed again."""
    loaded: dict[str, Any] = json.loads(verify_patch_untrusted(data).author_envelope.payload)
    return loaded


def resign(data: bytes, change: Callable[[dict[str, Any]], object], key: PrivateKey = ALICE) -> bytes:
    """Return the file with an honestly signed author statement in which `change` altered something; the body stays."""
    payload = author_payload(data)
    change(payload)
    return with_author_payload(data, canonical_json.encode(payload), key)


def resign_with_preamble(data: bytes, metadata: PatchMetadata, key: PrivateKey = ALICE) -> bytes:
    """Return a file whose metadata is `metadata`, preamble and signature included, however wrong it is about the diff."""
    diff = verify_patch_untrusted(data).file.diff
    body = render_preamble(metadata) + diff + BODY_END
    statement = AuthorStatement(sha256(body).hex(), sha256(diff).hex(), metadata)
    return body + encode_envelope(sign_envelope(encode_author_statement(statement), key)) + b"\n"


def resign_body(data: bytes, body: bytes, key: PrivateKey = ALICE) -> bytes:
    """Return a file with another body and the old metadata, honestly signed over that body."""
    payload = author_payload(data)
    payload["subject"][0]["digest"]["sha256"] = sha256(body).hex()
    return body + encode_envelope(sign_envelope(canonical_json.encode(payload), key)) + b"\n"


def with_author_payload(data: bytes, payload: bytes, key: PrivateKey = ALICE) -> bytes:
    """Return the file with only an author's line, over exactly these payload bytes."""
    body = verify_patch_untrusted(data).file.body
    return body + encode_envelope(sign_envelope(payload, key)) + b"\n"


def with_lines(data: bytes, lines: list[bytes]) -> bytes:
    """Return the file with exactly these trailer lines."""
    return verify_patch_untrusted(data).file.body + b"".join(line + b"\n" for line in lines)


def trailer_lines(data: bytes) -> list[bytes]:
    """Return the file's trailer lines."""
    return list(verify_patch_untrusted(data).file.trailer)


def sign_raw(patch: VerifiedPatch, change: Callable[[dict[str, Any]], object], key: PrivateKey = BOB) -> Envelope:
    """Return Bob's approval with its statement changed by `change` and honestly signed again by `key`."""
    payload = json.loads(build_attestation(patch, "security-review", "approve", BOB, "bob@beta", "", LATER).payload)
    change(payload)
    return sign_envelope(canonical_json.encode(payload), key)
