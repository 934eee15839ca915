"""The file's three ranges, and every form that is none: refused before anything is decoded."""

from __future__ import annotations

import pytest

from provenance.diff_model import FileState
from provenance.errors import MalformedPatchError
from provenance.layout import BODY_END, split_patch_file_untrusted
from provenance.limits import ENVELOPE_LINE_BYTES_MAX, PREAMBLE_BYTES_MAX, TRAILER_BYTES_MAX
from provenance.preamble import MBOX_LINE
from tests.testkit.patches import add_test_result, make_patch, make_released_patch
from wire.limits import PATCH_FILE_BYTES_MAX, TRAILER_LINES_MAX

PATCH = make_patch()
FILE = split_patch_file_untrusted(PATCH)
HEADER, _, COMMENT = FILE.preamble.partition(b"\n\n")
AUTHOR = FILE.trailer[0] + b"\n"


def refusal(data: bytes) -> MalformedPatchError:
    with pytest.raises(MalformedPatchError) as caught:
        split_patch_file_untrusted(data)
    return caught.value


def with_preamble(preamble: bytes) -> bytes:
    return preamble + FILE.diff + BODY_END + AUTHOR


def test_every_byte_is_in_exactly_one_range() -> None:
    for data in (PATCH, make_released_patch()):
        file = split_patch_file_untrusted(data)
        assert file.raw == data
        assert file.body == file.preamble + file.diff + BODY_END
        assert data == file.body + b"".join(line + b"\n" for line in file.trailer)
        assert file.diff.startswith(b"diff --git ")


def test_the_patch_id_stays_when_attestations_are_added() -> None:
    assert split_patch_file_untrusted(add_test_result(PATCH)).patch_id == FILE.patch_id
    assert len(FILE.patch_id) == 64


def test_a_removed_line_that_reads_like_the_end_mark_is_part_of_the_diff() -> None:
    before = {"notes": FileState(0o100644, b"a\n- \npatchwarden 1\n\nz\n")}
    after = {"notes": FileState(0o100644, b"a\npatchwarden 1\n\nz\n")}
    data = make_patch(before, after)
    file = split_patch_file_untrusted(data)
    assert b"\n-- \n patchwarden 1\n \n" in file.diff
    assert file.body.endswith(BODY_END)


def test_an_empty_file_and_foreign_files_are_no_patch_files() -> None:
    for data in (
        b"",
        b"\n" + PATCH,
        b"From " + b"1" * 40 + MBOX_LINE[45:],
        PATCH[1:],
        PATCH.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + PATCH,
    ):
        assert refusal(data).code == "provenance.file.start"


@pytest.mark.parametrize(
    "data",
    [
        FILE.preamble + FILE.diff,
        FILE.preamble + FILE.diff + b"--\npatchwarden 1\n\n" + AUTHOR,
        FILE.preamble + FILE.diff + b"-- \npatchwarden 2\n\n" + AUTHOR,
        FILE.preamble + FILE.diff + b"-- \npatchwarden 1\n" + AUTHOR,
        FILE.preamble + FILE.diff + b"-- \npatchwarden 1 \n\n" + AUTHOR,
        MBOX_LINE,
    ],
    ids=["cut", "no-space", "version-2", "no-empty-line", "trailing-space", "first-line-only"],
)
def test_without_the_end_mark_there_is_no_body(data: bytes) -> None:
    assert refusal(data).code == "provenance.file.no_end"


@pytest.mark.parametrize("diff", [b"", b"--- a/x\n+++ b/x\n", b" diff --git a/x b/x\n", b"Diff --git a/x b/x\n"])
def test_without_a_git_diff_there_is_no_diff(diff: bytes) -> None:
    assert refusal(FILE.preamble + diff + BODY_END + AUTHOR).code == "provenance.file.no_diff"


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Transfer-Encoding: quoted-printable",
        b"Content-Type: text/plain; charset=utf-16",
        b"content-transfer-encoding: base64",
        b"MIME-Version: 1.0",
        b"Prereq: 1.2",
        b"Index: src/frame.c",
        b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001",
        b"From: Mallory <m@example.org>",
        b"X-Patchwarden-Version: 2",
        b" folded continuation",
        b"--- a/src/frame.c",
        b"no colon",
    ],
)
def test_no_other_line_stands_in_the_header(line: bytes) -> None:
    lines = HEADER.split(b"\n")
    for position in range(1, len(lines) + 1):
        header = b"\n".join([*lines[:position], line, *lines[position:]])
        assert refusal(with_preamble(header + b"\n\n" + COMMENT)).code == "provenance.file.preamble_header"


def test_header_lines_are_neither_dropped_nor_permuted() -> None:
    lines = HEADER.split(b"\n")
    for header in (
        lines[:2] + lines[3:],
        [lines[0], *reversed(lines[1:])],
        lines[:-1],
        [lines[0]],
        [lines[0], lines[1]],
    ):
        assert refusal(with_preamble(b"\n".join(header) + b"\n\n" + COMMENT)).code == "provenance.file.preamble_header"


def test_a_header_without_an_end_is_refused() -> None:
    assert refusal(with_preamble(HEADER + b"\n")).code == "provenance.file.preamble_header"


@pytest.mark.parametrize(
    "line",
    [
        b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001",
        b"From: Mallory <m@example.org>",
        b"Prereq: 1.2",
        b"Content-Type: text/plain",
        b"plain text",
        b"--- a/src/frame.c",
        b"+++ b/src/frame.c",
        b"@@ -1 +1 @@",
        b" # indented",
        b"#no space",
        b"*** a/src/frame.c",
        b"1d",
        b"---",
        b"",
    ],
)
def test_every_line_of_text_begins_with_a_hash(line: bytes) -> None:
    assert refusal(with_preamble(HEADER + b"\n\n" + line + b"\n" + COMMENT)).code == "provenance.file.preamble_line"


@pytest.mark.parametrize("end", [b"", b"---\n", b"--\n\n", b"---\n\n\n", b"---\n \n", b"--- \n\n"])
def test_the_preamble_ends_with_three_dashes_and_an_empty_line(end: bytes) -> None:
    comment = COMMENT.removesuffix(b"---\n\n") + end
    assert refusal(with_preamble(HEADER + b"\n\n" + comment)).code == "provenance.file.preamble_end"


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "\x07",
        "\x1b[2J",
        "\r",
        "\t",
        "\x7f",
        "\x85",
        "\x9b",
        "\u00ad",
        "\u061c",
        "\u200b",
        "\u200e",
        "\u200f",
        "\u2028",
        "\u2029",
        "\u202a",
        "\u202e",
        "\u2066",
        "\u2069",
        "\ufeff",
        "\U000e0041",
        "e\u0301",
    ],
    ids=ascii,
)
def test_control_bidirectional_and_invisible_characters_are_refused_in_the_preamble(text: str) -> None:
    comment = COMMENT.replace(b"one element", b"one " + text.encode() + b" element")
    assert comment != COMMENT
    assert refusal(with_preamble(HEADER + b"\n\n" + comment)).code == "provenance.file.preamble_text"


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe9"])
def test_a_preamble_is_utf8(text: bytes) -> None:
    comment = COMMENT.replace(b"one element", text)
    assert refusal(with_preamble(HEADER + b"\n\n" + comment)).code == "provenance.file.preamble_text"


def test_a_preamble_has_a_longest_length() -> None:
    filler = b"# " + b"x" * PREAMBLE_BYTES_MAX + b"\n"
    assert refusal(with_preamble(HEADER + b"\n\n" + filler + COMMENT)).code == "provenance.file.preamble_length"


def test_a_file_without_an_authors_line_is_refused() -> None:
    assert refusal(FILE.body).code == "provenance.file.no_author"


def test_the_trailer_ends_with_a_line_feed() -> None:
    assert refusal(PATCH[:-1]).code == "provenance.file.trailer_end"


@pytest.mark.parametrize("byte", [b"\x00", b"\t", b"\r", b"\x1f", b"\x7f", b"\x80", b"\xc3\xa9", b"\xff"])
def test_trailer_bytes_are_printable_ascii(byte: bytes) -> None:
    for data in (
        FILE.body + AUTHOR[:40] + byte + AUTHOR[40:],
        FILE.body + AUTHOR[:-1] + byte + b"\n",
        FILE.body + AUTHOR + byte + AUTHOR,
    ):
        assert refusal(data).code == "provenance.file.trailer_byte"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"diff --git a/x b/x",
        b"--- a/src/frame.c",
        b"+++ b/src/frame.c",
        b"@@ -1 +1 @@",
        b"+hidden",
        b"[]",
        b" {}",
        b"{} ",
        b'{"payload":',
        b"-- ",
        b"patchwarden 1",
    ],
)
def test_every_trailer_line_is_an_object_at_column_0(line: bytes) -> None:
    for data in (
        FILE.body + line + b"\n" + AUTHOR,
        FILE.body + AUTHOR + line + b"\n",
        FILE.body + AUTHOR + line + b"\n" + AUTHOR,
    ):
        assert refusal(data).code == "provenance.file.trailer_line"


def test_a_trailer_has_a_longest_line_and_a_largest_number_of_lines() -> None:
    line = b"{" + b" " * (ENVELOPE_LINE_BYTES_MAX - 2) + b"}\n"
    assert len(split_patch_file_untrusted(FILE.body + AUTHOR + line).trailer) == 2
    assert refusal(FILE.body + AUTHOR + b"{ " + line[1:]).code == "provenance.file.trailer_line_length"
    assert len(split_patch_file_untrusted(FILE.body + AUTHOR * TRAILER_LINES_MAX).trailer) == TRAILER_LINES_MAX
    assert refusal(FILE.body + AUTHOR * (TRAILER_LINES_MAX + 1)).code == "provenance.file.trailer_lines"
    assert refusal(FILE.body + b"{}\n" * 1_000_000).code == "provenance.file.trailer_lines"


def test_a_trailer_has_a_largest_size() -> None:
    line = b"{" + b" " * (ENVELOPE_LINE_BYTES_MAX - 2) + b"}\n"
    lines = AUTHOR + line * (TRAILER_BYTES_MAX // len(line))
    filler = b"{" + b" " * (TRAILER_BYTES_MAX - len(lines) - 3) + b"}\n"
    assert len(split_patch_file_untrusted(FILE.body + lines + filler).trailer) == 2 + TRAILER_BYTES_MAX // len(line)
    assert refusal(FILE.body + lines + b"{ " + filler[1:]).code == "provenance.file.trailer_length"


def test_a_file_has_a_largest_size() -> None:
    assert refusal(PATCH + bytes(PATCH_FILE_BYTES_MAX - len(PATCH) + 1)).code == "provenance.file.too_large"
    assert refusal(PATCH + bytes(PATCH_FILE_BYTES_MAX - len(PATCH))).code == "provenance.file.trailer_length"


def test_a_hunk_behind_the_end_mark_is_no_trailer() -> None:
    hidden = b"diff --git a/evil b/evil\nnew file mode 100644\n--- /dev/null\n+++ b/evil\n@@ -0,0 +1 @@\n+evil\n"
    assert refusal(FILE.body + hidden + AUTHOR).code == "provenance.file.trailer_line"
    assert refusal(PATCH + hidden).code == "provenance.file.trailer_line"
