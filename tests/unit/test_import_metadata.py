"""Headers of foreign patches: git mails, DEP-3, dpatch, plain text; always cleaned, never failing."""

from __future__ import annotations

import pytest

from provenance.import_metadata import HEADER_BYTES_MAX, decode_words, read_metadata
from provenance.limits import DESCRIPTION_BYTES_MAX, REFERENCES_MAX, TITLE_BYTES_MAX

GIT_MAIL = """From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: =?UTF-8?q?J=C3=BCrgen?= =?UTF-8?B?IEjDpG7Dnw==?= <juergen@example.org>
Date: Sun, 22 Nov 2026 06:50:00 +0000
Subject: [PATCH v2 3/7] frame: check bounds
 before reading
X-Unknown: 1

The loop read one element past the end.

Bug: https://example.org/bugs/7
Fixes: CVE-2026-12345
---
 src/frame.c | 2 +-
"""

DEP3 = """Description: check bounds before reading
 The loop read one element past the end
 .
 of the frame.
Author: Alice Example <alice@example.org>
Origin: upstream, https://example.org/commit/1
Bug-Debian: https://example.org/debian/9
Bug: https://example.org/bugs/7.
Forwarded: not-needed
Last-Update: 2026-11-22

"""


def test_a_git_mail_gives_author_title_description_and_references() -> None:
    metadata = read_metadata(GIT_MAIL.encode())
    assert metadata.title == "frame: check bounds before reading"
    assert metadata.description == "The loop read one element past the end."
    assert (metadata.author_name, metadata.author_email) == ("Jürgen Hänß", "juergen@example.org")
    assert metadata.references == ("CVE-2026-12345", "https://example.org/bugs/7")
    assert metadata.category == "security-update"


def test_applied_upstream_is_no_origin_and_stays_a_line() -> None:
    metadata = read_metadata(b"Description: fix it\nApplied-Upstream: 1.3, https://example.org/commit/1\n")
    assert metadata.origin == ""
    assert metadata.trailers == ("Applied-Upstream: 1.3, https://example.org/commit/1",)


def test_a_dep3_header_gives_the_same_and_the_origin() -> None:
    metadata = read_metadata(DEP3.encode())
    assert metadata.title == "check bounds before reading"
    assert metadata.description == "The loop read one element past the end\n\nof the frame."
    assert (metadata.author_name, metadata.author_email) == ("Alice Example", "alice@example.org")
    assert metadata.references == ("https://example.org/debian/9", "https://example.org/bugs/7")
    assert metadata.origin == "upstream, https://example.org/commit/1"
    assert metadata.category == "bug-fix"


def test_dep3_fields_may_follow_a_mail_header() -> None:
    header = "From: A <a@example.org>\nSubject: fix it\n\nMore words.\n\nOrigin: backport\nForwarded: no\n---\nOrigin: other\n"
    metadata = read_metadata(header.encode())
    assert (metadata.title, metadata.description, metadata.origin) == ("fix it", "More words.", "backport")


def test_dpatch_comments_are_read() -> None:
    header = b"#! /bin/sh dpatch-run\n## 01_fix.dpatch by Bob <bob@example.org>\n##\n## DP: Fix the build.\n# DP: Really.\n@DPATCH@\n"
    metadata = read_metadata(header)
    assert (metadata.title, metadata.author_name) == ("Fix the build.", "Bob")
    assert metadata.description == "Really.\n@DPATCH@"


def test_free_text_has_its_first_line_as_title() -> None:
    metadata = read_metadata(b"\nAdd support for frames.\n\nMore.\n\nIndex: foo/bar.c\n=======\ndiff -u a b\n")
    assert (metadata.title, metadata.description, metadata.category) == ("Add support for frames.", "More.", "feature")


def test_a_title_may_follow_fields_and_blank_lines() -> None:
    assert read_metadata(b"Origin: vendor\n\n\n\nFix it.\n").title == "Fix it."


@pytest.mark.parametrize(
    "header",
    [b"\n", b" ", b"From: a" + b" " * 1000, b"=?utf-8?q?", b"Subject: [PATCH", b"[PATCH]", b"Bug: http://", b"?= "],
)
def test_a_header_that_repeats_itself_takes_no_time_to_speak_of(header: bytes) -> None:
    for prefix in (b"Origin: x\n\n", b"Author: ", b"Subject: ", b""):
        read_metadata(prefix + header * (HEADER_BYTES_MAX // len(header)))


def test_no_header_is_no_mistake() -> None:
    metadata = read_metadata(b"")
    assert (metadata.title, metadata.description, metadata.author_name, metadata.author_email) == ("", "", "", "")
    assert (metadata.references, metadata.origin, metadata.category) == ((), "", "bug-fix")


def test_a_cve_id_in_the_file_name_counts() -> None:
    metadata = read_metadata(b"Subject: x\n", "cve-2026-0001.patch")
    assert (metadata.references, metadata.category) == (("CVE-2026-0001",), "security-update")


@pytest.mark.parametrize(
    ("value", "name", "email"),
    [
        ("Alice <alice@example.org>", "Alice", "alice@example.org"),
        ('"Example, Alice" <alice@example.org>', "Example, Alice", "alice@example.org"),
        ("<alice@example.org>", "", "alice@example.org"),
        ("alice@example.org", "", "alice@example.org"),
        ("Alice", "Alice", ""),
        ("Alice <a@example.org>, Bob <b@example.org>", "Alice", "a@example.org"),
    ],
)
def test_an_author_is_a_name_and_an_address(value: str, name: str, email: str) -> None:
    metadata = read_metadata(f"Author: {value}\n".encode())
    assert (metadata.author_name, metadata.author_email) == (name, email)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=?iso-8859-1?q?J=FCrgen?=", "Jürgen"),
        ("=?ISO-8859-1*de?Q?a_b?=", "a b"),
        ("=?utf-8?b?w6k=?= =?utf-8?b?w6k=?=", "éé"),
        ("=?utf-8?b?w6k=?= x =?utf-8?q?=C3=A9?=", "é x é"),
        ("=?utf-8?b?abc?=", "=?utf-8?b?abc?="),
        ("=?rot13?q?abc?=", "=?rot13?q?abc?="),
        ("=?unicode_escape?q?abc?=", "=?unicode_escape?q?abc?="),
        ("=?utf-8?q?=FF?=", "\ufffd"),
        ("=?utf-8?q?é?=", "=?utf-8?q?é?="),
        ("plain", "plain"),
    ],
)
def test_encoded_words_are_decoded_if_they_are_mail(text: str, expected: str) -> None:
    assert decode_words(text) == expected


def test_latin_1_is_read_where_utf8_is_not() -> None:
    assert read_metadata(b"Author: J\xfcrgen <j@example.org>\n").author_name == "Jürgen"


def test_what_no_preamble_may_carry_is_taken_out() -> None:
    metadata = read_metadata("Subject: a\u202eb\x1b[1m\u200b e\u0301\n\nx\x00y\tz\n".encode())
    assert metadata.title == "ab[1m é"
    assert metadata.description == "xy z"


def test_long_texts_are_cut_at_a_character() -> None:
    metadata = read_metadata(("Subject: " + "é" * 500 + "\n\n" + "ü\n" * 40_000).encode())
    assert len(metadata.title.encode()) <= TITLE_BYTES_MAX
    assert metadata.title.endswith("é…")
    assert len(metadata.description.encode()) <= DESCRIPTION_BYTES_MAX
    assert metadata.description.endswith("ü…")


def test_references_are_capped_and_each_stands_once() -> None:
    header = (
        "".join(f"Bug: https://example.org/{number % 100}\n" for number in range(200))
        + "Bug: https://example.org/"
        + "x" * 600
    )
    assert read_metadata(header.encode()).references == tuple(
        f"https://example.org/{number}" for number in range(REFERENCES_MAX)
    )


def test_only_the_beginning_of_a_huge_header_is_looked_at() -> None:
    header = b"Subject: x\n\n" + b"y" * HEADER_BYTES_MAX + b"\nOrigin: late\n"
    assert read_metadata(header).origin == ""
