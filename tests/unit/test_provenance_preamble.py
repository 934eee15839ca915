"""The preamble is what the metadata looks like: byte for byte, or the file is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provenance.errors import InvalidMetadataError
from provenance.identity import CreatorIdentity
from provenance.layout import split_patch_file_untrusted
from provenance.metadata import PatchMetadata
from provenance.preamble import PREAMBLE_END, render_preamble
from provenance.verify import check_signature_untrusted, extract_metadata, verify_patch_untrusted
from tests.testkit.certificates import make_chain
from tests.testkit.patches import (
    ALICE,
    EVERY_KIND_AFTER,
    EVERY_KIND_BEFORE,
    EVERY_KIND_RENAMES,
    make_metadata,
    make_patch,
    resign_body,
)

METADATA, _ = make_metadata()


def with_description(text: str) -> PatchMetadata:
    return replace(METADATA, reason_for_patch=replace(METADATA.reason_for_patch, description=text))


def test_the_preamble_shows_every_field() -> None:
    metadata, _ = make_metadata(
        EVERY_KIND_BEFORE,
        EVERY_KIND_AFTER,
        EVERY_KIND_RENAMES,
        supersedes=("a" * 64, "b" * 64),
        prerequisites=("c" * 64,),
        not_after="2027-01-01T00:00:00Z",
    )
    assert render_preamble(metadata).decode() == (
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        "From: Alice Example <alice@acme.example>\n"
        "Date: Sun, 22 Nov 2026 06:50:00 +0000\n"
        "Subject: [PATCH] CVE-2026-0001: bounds check in the frame parser\n"
        "X-Patchwarden-Version: 1\n"
        "\n"
        "# Reason: The loop read one element past the end of the frame.\n"
        "#\n"
        "#   Found by fuzzing.\n"
        "# Category: security-update\n"
        "# References: CVE-2026-0001\n"
        "#   https://bugs.example.org/123\n"
        "# Components: pkg:deb/debian/foo@1.2 (data/latin1.txt)\n"
        "#   pkg:deb/debian/foo@1.2 (docs/new file.txt)\n"
        "#   pkg:deb/debian/foo@1.2 (lib/a.c => lib/b.c)\n"
        "#   pkg:deb/debian/foo@1.2 (lätin/é.txt)\n"
        "#   pkg:deb/debian/foo@1.2 (old/gone.txt)\n"
        "#   pkg:deb/debian/foo@1.2 (scripts/run)\n"
        "#   pkg:deb/debian/foo@1.2 (src/frame.c)\n"
        f"# Creator: {ALICE.public_key.did}   Created: 2026-11-22T06:50:00Z\n"
        f"# Build-Environment: sha256:{metadata.build_environment.sha256}\n"
        f"# Validation-Tests: sha256:{metadata.validation_tests.sha256} (patchwarden-tree-sha256/1, files: 1)\n"
        "# Release-Counter: 1\n"
        f"# Supersedes: {'a' * 64}\n"
        f"#   {'b' * 64}\n"
        f"# Prerequisites: {'c' * 64}\n"
        "# Not-After: 2027-01-01T00:00:00Z\n"
        "---\n"
        "\n"
    )


def test_fields_without_a_value_have_no_line() -> None:
    text = render_preamble(
        replace(METADATA, reason_for_patch=replace(METADATA.reason_for_patch, references=()))
    ).decode()
    for label in ("References", "Supersedes", "Prerequisites", "Not-After"):
        assert label not in text


def test_a_certificate_is_shown_by_its_digest() -> None:
    creator = CreatorIdentity.from_certificates(make_chain(ALICE), "Alice", "alice@acme.example")
    assert f"# Creator: {creator.label()}   Created: ".encode() in render_preamble(
        replace(METADATA, creator_identity=creator)
    )


HOSTILE_LINES = (
    "diff --git a/src/frame.c b/src/frame.c",
    "--- a/src/frame.c",
    "+++ b/src/frame.c",
    "@@ -1 +1 @@",
    "---",
    "-- ",
    "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001",
    "Prereq: 1.2",
    "Content-Transfer-Encoding: base64",
    "Content-Type: text/plain; charset=utf-16",
    "Index: src/frame.c",
    "*** src/frame.c",
    "1d",
    "Creator: did:key:zForged   Created: 2020-01-01T00:00:00Z",
    "# Release-Counter: 99",
    "patchwarden 1",
    '{"payload":""}',
)


@pytest.mark.parametrize("line", [line for line in HOSTILE_LINES if line == line.strip()])
def test_free_text_never_stands_at_the_beginning_of_a_line_nor_behind_a_label_of_ours(line: str) -> None:
    shown = render_preamble(with_description(f"{line}\n{line}\n\n{line}")).decode()
    comment = shown.partition("\n\n")[2].removesuffix(PREAMBLE_END.decode()).split("\n")
    assert comment[:4] == [f"# Reason: {line}", f"#   {line}", "#", f"#   {line}"]
    assert all(other == "#" or other.startswith("# ") for other in comment[:-1])
    assert sum(other.startswith("# Creator: ") for other in comment) == 1


def changed_preamble(old: bytes, new: bytes) -> bytes:
    """A file whose author honestly signed a preamble that the metadata does not render."""
    data = make_patch()
    file = split_patch_file_untrusted(data)
    assert file.preamble.count(old) == 1
    return resign_body(data, file.preamble.replace(old, new) + file.body[len(file.preamble) :])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (b"Alice Example <", b"Bob Example <", 2),
        (b"06:50:00 +0000", b"06:51:00 +0000", 3),
        (b"bounds check", b"harmless typo", 4),
        (b"one element past", b"nothing past", 7),
        (b"# Category: security-update\n", b"# Category: feature\n", 10),
        (b"(src/frame.c)", b"(README)", 13),
        (b"# Release-Counter: 1\n", b"", 17),
        (b"# Release-Counter: 1\n", b"# Release-Counter: 1\n# Approved-By: everybody\n", 18),
        (b"# Release-Counter: 1\n", b"# Release-Counter: 1\n#\n", 18),
    ],
)
def test_a_preamble_that_shows_something_else_is_refused_even_when_its_author_signed_it(
    old: bytes, new: bytes, line: int
) -> None:
    signed = check_signature_untrusted(changed_preamble(old, new))
    with pytest.raises(InvalidMetadataError) as caught:
        extract_metadata(signed)
    assert caught.value.code == "provenance.preamble.not_equal"
    assert caught.value.details["line"] == line


def test_an_equal_preamble_signed_again_is_accepted() -> None:
    data = make_patch()
    file = split_patch_file_untrusted(data)
    assert verify_patch_untrusted(resign_body(data, file.body)).metadata == METADATA
