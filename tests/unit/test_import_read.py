"""Foreign patches: what the loose reader sees in them, and what it refuses with which code."""

from __future__ import annotations

import pytest

from provenance import imports
from provenance.errors import ImportRefusedError
from provenance.imports import ForeignFile, ForeignHunk, read_foreign_patch_untrusted

HUNK = b"@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"
PLAIN = b"--- src/a.c\n+++ src/a.c\n" + HUNK


def only(data: bytes) -> ForeignFile:
    (file,) = read_foreign_patch_untrusted(data).files
    return file


def test_a_plain_diff_is_read_with_its_text_around() -> None:
    file = only(b"Some words.\nOnly in x: y\n" + PLAIN + b"-- \n2.39\n")
    assert (file.old_name, file.new_name, file.is_git, file.line) == ("src/a.c", "src/a.c", False, 3)
    assert file.hunks == (ForeignHunk(1, (b"one\n", b"two\n", b"three\n"), (b"one\n", b"TWO\n", b"three\n"), 1, 1, 5),)


def test_the_header_becomes_metadata() -> None:
    patch = read_foreign_patch_untrusted(
        b"Description: fix\nAuthor: A <a@b.c>\n\n" + PLAIN, file_name="CVE-2026-1234.patch"
    )
    assert (patch.metadata.title, patch.metadata.author_name) == ("fix", "A")
    assert patch.metadata.references == ("CVE-2026-1234",)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"a/x.c", "a/x.c"),
        (b"a/x.c\t2026-11-22 06:50:00.000000000 +0000", "a/x.c"),
        (b"a/x.c 2026-11-22 06:50:00", "a/x.c"),
        (b"a/x.c\tSun Nov 22 06:50:00 2026", "a/x.c"),
        (b"a/x.c\tSun Nov 22 06:50:00 UTC 2026", "a/x.c"),
        (b"a/x.c\t(revision 7)", "a/x.c"),
        (b"a/my file.c\t", "a/my file.c"),
        (b"a/my file.c", "a/my file.c"),
        (b'"a/\\303\\251\\t\\"\\\\.c"', 'a/é\t"\\.c'),
        (b"/dev/null", None),
        (b"a/x.c\t1970-01-01 00:00:00.000000000 +0000", None),
        (b"a/x.c\t1970-01-01 02:00:00 +0200", None),
        (b"a/x.c\t1969-12-31 19:00:00.000000000 -0500", None),
        (b"a/x.c\t1970-01-01 01:00:00 +0000", "a/x.c"),
        (b"a/x.c\t1970-01-01 00:00:00", "a/x.c"),
        (b"a/x.c\t1970-01-01 00:00:01 +0000", "a/x.c"),
    ],
)
def test_a_name_is_what_stands_before_the_date(line: bytes, name: str | None) -> None:
    assert only(b"--- " + line + b"\n+++ b/x.c\n" + HUNK).old_name == name


def test_git_headers_are_read() -> None:
    data = (
        b"diff --git a/x b/y\nold mode 100644\nnew mode 100755\nsimilarity index 90%\nrename from x\nrename to y\n"
        b"index 1..2\n--- a/x\n+++ b/y\n"
        + HUNK
        + b"diff --git a/c b/d\nsimilarity index 100%\ncopy from c\ncopy to d\n"
        + b"diff --git a/m b/m\nold mode 100755\nnew mode 100644\n"
        + b"diff --git a/n b/n\nnew file mode 100664\nindex 0000000..e69de29\n"
        + b'diff --git "a/q\\t" "b/q\\t"\ndeleted file mode 100644\nindex e69de29..0000000\n'
    )
    rename, copy, mode, new, gone = read_foreign_patch_untrusted(data).files
    assert (rename.rename_from, rename.rename_to, rename.is_copy, rename.old_mode, rename.new_mode) == (
        "x",
        "y",
        False,
        0o100644,
        0o100755,
    )
    assert (copy.rename_from, copy.rename_to, copy.is_copy) == ("c", "d", True)
    assert (mode.old_name, mode.new_name, mode.old_mode, mode.new_mode) == ("b/m", "b/m", 0o100755, 0o100644)
    assert (new.old_name, new.new_name, new.new_mode) == (None, "b/n", 0o100644)
    assert (gone.old_name, gone.new_name, gone.old_mode) == ('"a/q\\t"'[1:4] + "\t", None, 0o100644)


def test_names_without_prefix_are_read_from_the_git_line() -> None:
    assert only(b"diff --git x/y x/y\nold mode 100644\nnew mode 100755\n").new_name == "x/y"


def test_carriage_returns_are_told_and_can_be_taken_off() -> None:
    file = only(PLAIN.replace(b"\n", b"\r\n"))
    assert file.has_carriage_returns
    assert file.new_name == "src/a.c"
    assert file.hunks[0].old_lines == (b"one\r\n", b"two\r\n", b"three\r\n")
    assert file.hunks[0].without_carriage_returns().new_lines == (b"one\n", b"TWO\n", b"three\n")
    assert not only(PLAIN.replace(b" one\n", b" one\r\n")).has_carriage_returns


def test_a_line_without_newline_is_kept_so() -> None:
    data = PLAIN.replace(b" three\n", b" three\n\\ No newline at end of file\n")
    assert only(data).hunks[0].old_lines[-1] == b"three"
    returns = only(data.replace(b"\n", b"\r\n")).hunks[0]
    assert returns.without_carriage_returns().old_lines[-1] == b"three"


def test_trimmed_blank_lines_are_put_back() -> None:
    data = b"--- a/x\n+++ b/x\n@@ -1,6 +1,6 @@\n\n\n one\n-two\n+TWO\n\n"
    assert only(data).hunks[0].old_lines == (b"\n", b"\n", b"one\n", b"two\n", b"\n", b"\n")


def test_a_last_line_without_end_is_read() -> None:
    assert only(PLAIN[:-1]).hunks[0].old_lines[-1] == b"three\n"


def test_names_without_a_hunk_are_text() -> None:
    assert only(b"--- words\n+++ words\n" + PLAIN).line == 3


MAIL = b"From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nSubject: x\n\n---\n"


@pytest.mark.parametrize(
    ("data", "rule", "line"),
    [
        pytest.param(b"", "no_diff", None, id="empty"),
        pytest.param(b"words\n", "no_diff", None, id="words only"),
        pytest.param(b"1c1\n< a\n---\n> b\n", "no_diff", None, id="normal diff"),
        pytest.param(b"*** a\n--- b\n***************\n*** 1 ****\n", "not_unified", 1, id="context diff"),
        pytest.param(PLAIN + b"*** a\n--- b\n***************\n", "not_unified", 8, id="context diff later"),
        pytest.param(
            PLAIN + b"diff --git a/x b/x\nindex 1..2\nGIT binary patch\nliteral 0\n",
            "binary",
            12,
            id="damaged binary patch",
        ),
        pytest.param(b"diff --git a/x b/x\nBinary files a/x and b/x differ\n", "binary", 2, id="binary files"),
        pytest.param(MAIL + PLAIN + MAIL + PLAIN, "several_patches", 12, id="two mails"),
        pytest.param(b"Content-Transfer-Encoding: BASE64\n\n" + b"A", "encoded_mail", None, id="broken base64 mail"),
        pytest.param(
            b"content-transfer-encoding:quoted-printable\nContent-Type: multipart/mixed\n\n" + PLAIN,
            "encoded_mail",
            None,
            id="mail of several parts",
        ),
        pytest.param(HUNK, "no_names", 1, id="hunk without names"),
        pytest.param(PLAIN.replace(b"src/a.c", b"/dev/null"), "no_names", 1, id="two times nothing"),
        pytest.param(
            b"diff --git a/x b/y\nold mode 100644\nnew mode 100755\n", "no_names", 1, id="two names without hunk"
        ),
        pytest.param(
            b'diff --git "a/x" "b/y"\nold mode 100644\nnew mode 100755\n', "no_names", 1, id="two quoted names"
        ),
        pytest.param(b'diff --git "a/x\nold mode 100644\nnew mode 100755\n', "no_names", 1, id="quote without end"),
        pytest.param(b"diff --git a/x b/y\nrename from x\n", "no_names", 3, id="half a rename"),
        pytest.param(b'--- "a/x\n+++ b/x\n' + HUNK, "name", 1, id="quoted name without end"),
        pytest.param(b"--- a/\xff\n+++ b/x\n" + HUNK, "name", 1, id="name that is no UTF-8"),
        pytest.param(b"--- a/x\n+++ b/\xff\n" + HUNK, "name", 2, id="new name that is no UTF-8"),
        pytest.param(b"--- a/x" + b" " * 8200 + b"\n+++ b/x\n" + HUNK, "name", 1, id="name line without end"),
        pytest.param(b"diff --git a/x b/x\nnew file mode 160000\n", "mode", 2, id="submodule"),
        pytest.param(
            b"diff --git a/x b/x\nindex 1..2\nGIT binary patch\n", "binary", 3, id="binary patch without content"
        ),
        pytest.param(b"diff --git a/x b/x\nnew file mode rwxr-xr-x\n", "mode", 2, id="no mode"),
        pytest.param(PLAIN.replace(b"-1,3", b"-1,2"), "hunk_count", 7, id="count too small"),
        pytest.param(PLAIN.replace(b"-1,3 +1,3", b"-1,7 +1,7"), "hunk_count", 3, id="count too large at the end"),
        pytest.param(PLAIN.replace(b"-1,3 +1,3", b"-1,4 +1,4") + b"words\n", "hunk_line", 8, id="count too large"),
        pytest.param(PLAIN.replace(b"-two\n+TWO\n", b" two\n"), "no_change", 3, id="context only"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused(data: bytes, rule: str, line: int | None) -> None:
    with pytest.raises(ImportRefusedError) as caught:
        read_foreign_patch_untrusted(data)
    assert caught.value.code == f"provenance.import.{rule}"
    assert caught.value.details.get("line") == line


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        (b"160000", "line 2: a submodule is another repository's commit and no file: only links and regular files "
         "with mode 100644 or 100755 are accepted: got 160000"),
        (b"100600", "line 2: only links and regular files with mode 100644 or 100755 are accepted: got 100600"),
        (b"rwx\xff", "line 2: a mode is 100644 or 100755: got rwx\\xff"),
    ],
)  # fmt: skip
def test_a_refused_mode_is_shown_as_it_is_written(mode: bytes, sentence: str) -> None:
    with pytest.raises(ImportRefusedError) as caught:
        read_foreign_patch_untrusted(b"diff --git a/x b/x\nnew file mode " + mode + b"\n")
    assert caught.value.message == sentence


@pytest.mark.parametrize(
    ("limit", "value"), [("PATCH_FILE_BYTES_MAX", 2 * len(PLAIN)), ("FOREIGN_LINES_MAX", 14), ("FOREIGN_FILES_MAX", 2)]
)
def test_a_patch_beyond_a_limit_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(imports, limit, value)
    assert len(read_foreign_patch_untrusted(PLAIN * 2).files) == 2
    with pytest.raises(ImportRefusedError) as caught:
        read_foreign_patch_untrusted(PLAIN * 3)
    assert caught.value.code == "provenance.import.size"
