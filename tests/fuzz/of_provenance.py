"""Patch files, diffs, statements, and what is brought in from elsewhere."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from provenance.build_environment import BuildEnvironment
from provenance.component_listing import LISTING_PREFIX, ComponentSummary, encode_listing, read_listing_untrusted
from provenance.components import read_components_untrusted
from provenance.diff import MODE_EXECUTABLE, MODE_LINK, MODE_REGULAR, Allowance, FileState, parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_lint import lint_diff
from provenance.diff_make import make_diff
from provenance.diff_model import print_diff
from provenance.errors import InvalidMetadataError
from provenance.identity import CreatorIdentity
from provenance.import_series import split_mailbox_untrusted
from provenance.imports import read_foreign_patch_untrusted, rebase
from provenance.intoto import decode_statement_untrusted
from provenance.layout import BODY_END, split_patch_file_untrusted
from provenance.limits import COMPONENTS_SUMMARISED_MIN
from provenance.metadata import PatchMetadata
from provenance.schema import extract
from provenance.statement import (
    AUTHOR_SUBJECTS,
    decode_attestation_statement_untrusted,
    decode_author_form_untrusted,
    decode_author_statement_untrusted,
    encode_author_statement,
)
from provenance.test_suite import ValidationTests
from provenance.verify import check_signature_untrusted, verify_patch_untrusted
from tests.fuzz.target import Target
from tests.testkit import patches
from tests.testkit.differential import ONE_OF_EACH, NoTreeError, compare
from tests.testkit.diffs import CHANGES
from wire import canonical_json
from wire.envelope import encode_envelope, sign_envelope
from wire.errors import RejectedError
from wire.hashing import sha256

VECTORS = Path(__file__).parent.parent / "vectors"
DIFF_BYTES_MAX = 32 * 1024
"""Long enough for a hunk or a name to be repeated some thousand times."""
WORDS = (
    b"diff --git a/",
    b"--- /dev/null\n",
    b"+++ b/",
    b"@@ -1,3 +1,4 @@\n",
    b"new file mode 100755\n",
    b"deleted file mode 100644\n",
    b"old mode 100644\nnew mode 100755\n",
    b"similarity index 100%\n",
    b"rename from ",
    b"rename to ",
    b"index ",
    b"\\ No newline at end of file\n",
    b"\r\n",
    b"\0",
    b"-- \n",
    b"GIT binary patch\n",
    b"copy from ",
    b"copy to ",
)


EVERYTHING = frozenset(Allowance)


def take_diff(data: bytes) -> bool:
    """An accepted diff is printed as it was; applied to a file, it changes what it names and nothing else."""
    diff = parse_diff_untrusted(data, EVERYTHING)
    assert print_diff(diff) == data, "parsed and printed, the diff is another one"
    lint_diff(diff)
    for state in (None, FileState(MODE_REGULAR, patches.FRAME_BEFORE), FileState(MODE_EXECUTABLE, b"")):
        try:
            changed = apply_diff(diff, dict.fromkeys(diff.reads, state))
        except RejectedError:
            continue
        assert set(changed) <= set(diff.paths)
    return True


@cache
def diff_seeds() -> list[bytes]:
    seeds = [change.make() for change in CHANGES.values()]
    seeds += [path.read_bytes() for path in sorted((VECTORS / "patches" / "hostile").glob("*.diff"))]
    link = FileState(MODE_LINK, b"x")
    seeds.append(
        make_diff(
            {"b": FileState(MODE_REGULAR, b"\0old")},
            {"b": FileState(MODE_REGULAR, b"\0new"), "l": link},
            {},
            EVERYTHING,
        )
    )
    return [seed for seed in seeds if len(seed) <= DIFF_BYTES_MAX]


def take_diff_with_tools(data: bytes) -> bool:
    """What we accept and apply, with every allowance, git, GNU patch and busybox apply to the same tree."""
    try:
        comparison = compare(data, tools=ONE_OF_EACH, allowed=EVERYTHING)
    except NoTreeError:
        return False
    if comparison is None:
        raise RejectedError("fuzz.refused", "refused, or it does not apply to the tree made for it")
    for tool, outcome in comparison.disagreements.items():
        raise AssertionError(f"{tool.name} leaves {outcome.tree}, we leave {comparison.post}: {outcome.output[:500]}")
    return True


@cache
def accepted_seeds() -> list[bytes]:
    folders = (VECTORS / "patches" / name for name in ("accepted", "allowed"))
    paths = (path for folder in folders for path in sorted(folder.glob("*.diff"))[::3])
    return [path.read_bytes() for path in paths]


def take_patch_file(data: bytes) -> bool:
    """A file that verifies is put together again from its parts, and its document reads back."""
    try:
        check_signature_untrusted(data)
    except RejectedError:
        signed = False
    else:
        signed = True
    patch = verify_patch_untrusted(data)
    assert signed, "verified without a signature"
    file = patch.file
    assert file.body + b"".join(line + b"\n" for line in file.trailer) == data
    extract(patch)
    return True


@cache
def patch_file_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((VECTORS / "patchfile").glob("*.patch"))]


@cache
def _patch() -> tuple[bytes, dict[str, Any]]:
    """Return a good body and the author's statement about it; its metadata tell of the diff as it should be."""
    patch = patches.make_patch()
    return split_patch_file_untrusted(patch).body, patches.author_payload(patch)


def _signed(body: bytes, payload: bytes) -> bytes:
    return body + encode_envelope(sign_envelope(payload, patches.ALICE)) + b"\n"


def take_signed_body(data: bytes) -> bool:
    """Any body, honestly signed: what lies behind the signature is reached."""
    statement = copy.deepcopy(_patch()[1])
    diff = data[data.find(b"diff --git ") : data.rfind(BODY_END)]
    for subject, subject_of in zip(statement["subject"], (data, diff), strict=True):
        subject["digest"]["sha256"] = sha256(subject_of).hex()
    statement["predicate"]["patch_diff"] |= {"sha256": sha256(diff).hex(), "size_bytes": len(diff)}
    verify_patch_untrusted(_signed(data, canonical_json.encode(statement)))
    return True


def signed_body_seeds() -> list[bytes]:
    return [_patch()[0]]


def take_signed_statement(data: bytes) -> bool:
    """Any payload, honestly signed under a good body."""
    patch = verify_patch_untrusted(_signed(_patch()[0], data))
    assert encode_author_statement(decode_author_statement_untrusted(data)) == data
    extract(patch)
    return True


def take_statement(data: bytes) -> bool:
    taken = False
    for door in (
        decode_author_form_untrusted,
        decode_author_statement_untrusted,
        decode_attestation_statement_untrusted,
        lambda payload: decode_statement_untrusted(payload, AUTHOR_SUBJECTS),
    ):
        try:
            door(data)
            taken = True
        except RejectedError:
            continue
    return taken


@cache
def statement_seeds() -> list[bytes]:
    seeds = []
    for name in ("released", "every-kind", "x509", "p256"):
        patch = verify_patch_untrusted((VECTORS / "patchfile" / f"{name}.patch").read_bytes())
        seeds += [patch.author_envelope.payload, *(one.statement_json for one in patch.attestations)]
    return seeds


def take_metadata(data: bytes) -> bool:
    """Readers of JSON values: what they accept, they write again as it was."""
    value = canonical_json.decode_untrusted(data, canonical=False)
    taken = False
    for reader in (
        PatchMetadata.from_json_untrusted,
        CreatorIdentity.from_json_untrusted,
        BuildEnvironment.from_json_untrusted,
        ValidationTests.from_json_untrusted,
    ):
        try:
            assert reader(value).to_json() == value
            taken = True
        except RejectedError:
            continue
    try:
        read_components_untrusted(value, "components")
    except RejectedError:
        return taken
    return True


@cache
def metadata_seeds() -> list[bytes]:
    seeds = []
    for payload in statement_seeds():
        predicate = json.loads(payload)["predicate"]
        seeds.append(canonical_json.encode(predicate))
        seeds += [
            canonical_json.encode(predicate[name])
            for name in ("creator_identity", "build_environment", "validation_tests", "affected_components")
            if name in predicate
        ]
    return list(dict.fromkeys(seeds))


def take_listing(data: bytes) -> bool:
    """The signed summary of a wide patch, a line feed, and its list; digest and number of lines are made those of the list."""
    head, _, listing = data.partition(b"\n")
    signed = ComponentSummary.from_json_untrusted(canonical_json.decode_untrusted(head, canonical=False), "summary")
    bare = (b"\n" + listing).replace(b"\n" + LISTING_PREFIX, b"\n")[1:]
    fitting = replace(signed, sha256=sha256(bare).hex(), files=listing.count(b"\n"))
    try:
        components = read_listing_untrusted(listing, fitting)
    except InvalidMetadataError as error:
        if error.code != "provenance.metadata.listing_components":
            raise
        return True  # Every line was read.
    assert ComponentSummary.of(components).shares == signed.shares
    return True


@cache
def listing_seeds() -> list[bytes]:
    predicate = json.loads(statement_seeds()[0])["predicate"]
    components = read_components_untrusted(predicate["affected_components"], "components")
    summary = ComponentSummary.of(components).to_json()
    summary["files"] = COMPONENTS_SUMMARISED_MIN
    shares: Any = summary["components"]
    shares[0]["files"] += COMPONENTS_SUMMARISED_MIN - len(components)
    head = canonical_json.encode(summary)
    return [head + b"\n" + encode_listing(components), head + b"\n"]


_BASE = {name: FileState(MODE_REGULAR, patches.FRAME_BEFORE) for name in ("src/frame.c", "a", "a.txt")}


def take_foreign(data: bytes) -> bool:
    """Somebody else's patch, and its place in a base."""
    patch = read_foreign_patch_untrusted(data, file_name="CVE-2026-0001.patch")
    try:
        rebase(patch, _BASE.get)
    except RejectedError:
        return True
    return True


@cache
def foreign_seeds() -> list[bytes]:
    header = (
        b"Description: a bound is checked\n Found by fuzzing.\nAuthor: Alice <alice@acme.example>\nBug-Debian: #123\n"
        b"Origin: upstream, https://example.org\nLast-Update: 2026-11-22\n---\n"
    )
    mail = (
        b"From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\nFrom: =?UTF-8?q?J=C3=BCrgen?= <j@e.org>\n"
        b"Date: Sun, 22 Nov 2026 06:50:00 +0000\nSubject: [PATCH 1/2] CVE-2026-0001:\n a fix\n\nText\n\nFixes: abc\n---\n"
        b" 1 file changed\n\n"
    )
    plain = b"Index: a.txt\n=====\n--- a.txt.orig\t2026-01-01 00:00:00\n+++ a.txt\t2026-01-02 00:00:00\n@@ -1 +1 @@\n-one\n+two\n"
    diff = make_diff(patches.BEFORE, patches.AFTER)
    return [header + diff, mail + diff + b"-- \n2.39.2\n\n", plain, plain.replace(b"\n", b"\r\n"), diff]


def take_mailbox(data: bytes) -> bool:
    """A mailbox comes apart into its own bytes, and each mail is read like any foreign patch."""
    mails = split_mailbox_untrusted(data)
    assert b"".join(mails) == data, "bytes are lost between two mails"
    for mail in mails:
        try:
            read_foreign_patch_untrusted(mail)
        except RejectedError:
            continue
    return len(mails) > 1


def mailbox_seeds() -> list[bytes]:
    mail = foreign_seeds()[1]
    return [mail + mail, mail + b"\n" + mail.replace(b"1/2", b"2/2"), foreign_seeds()[0]]


def targets() -> list[Target]:
    body_words = (
        *WORDS,
        BODY_END,
        b"# ",
        b"Subject: ",
        b"Content-Transfer-Encoding: base64\n",
        b"From ",
        b"\xe2\x80\xae",
        b"{}\n",
    )
    members = tuple(
        f'"{name}":'.encode()
        for name in (
            "_type",
            "subject",
            "predicate",
            "predicateType",
            "digest",
            "sha256",
            "creation_timestamp",
            "pre",
            "post",
            "not_after",
        )
    )
    return [
        Target("diff", take_diff, diff_seeds, words=WORDS, input_bytes_max=DIFF_BYTES_MAX, share=3, short_inputs=400),
        Target("diff-tools", take_diff_with_tools, accepted_seeds, words=WORDS, share=3, short_inputs=20),
        Target(
            "patch-file",
            take_patch_file,
            patch_file_seeds,
            words=body_words,
            input_bytes_max=DIFF_BYTES_MAX,
            share=2,
            short_inputs=200,
        ),
        Target(
            "signed-body",
            take_signed_body,
            signed_body_seeds,
            words=body_words,
            input_bytes_max=DIFF_BYTES_MAX,
            share=2,
            short_inputs=200,
        ),
        Target("signed-statement", take_signed_statement, statement_seeds, words=members, share=2, short_inputs=200),
        Target("statement", take_statement, statement_seeds, words=members),
        Target("metadata", take_metadata, metadata_seeds, words=members),
        Target("listing", take_listing, listing_seeds, input_bytes_max=DIFF_BYTES_MAX),
        Target(
            "mailbox",
            take_mailbox,
            mailbox_seeds,
            words=(*WORDS, b"\nFrom ", b"quoted-printable\n"),
            short_inputs=100,
        ),
        Target(
            "foreign-patch",
            take_foreign,
            foreign_seeds,
            words=(*WORDS, b"=?utf-8?q?", b"?=", b"Index: ", b"Origin: "),
            input_bytes_max=DIFF_BYTES_MAX,
            share=2,
            short_inputs=200,
        ),
    ]
