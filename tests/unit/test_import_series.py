"""Mailboxes, series and what is said about everything that is not taken over."""

from __future__ import annotations

import base64
import quopri
import tracemalloc

import pytest

from provenance.diff_model import FileState
from provenance.errors import ImportRefusedError
from provenance.import_metadata import read_metadata
from provenance.import_model import CREDITS_BYTES_MAX, ForeignMetadata
from provenance.import_series import (
    SERIES_PATCHES_MAX,
    Imported,
    Refused,
    Source,
    Step,
    import_series,
    order_mails,
    split_mailbox_untrusted,
)
from provenance.imports import read_foreign_patch_untrusted
from provenance.limits import DESCRIPTION_BYTES_MAX

COMMIT = b"0123456789012345678901234567890123456789"
BASE = {"a.c": FileState(0o100644, b"one\ntwo\nthree\n")}


def section(old: bytes, new: bytes) -> bytes:
    return b"diff --git a/a.c b/a.c\n--- a/a.c\n+++ b/a.c\n@@ -1,3 +1,3 @@\n one\n-%s\n+%s\n three\n" % (old, new)


def mail(number: int, of: int, diff: bytes) -> bytes:
    head = b"From %s Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nSubject: [PATCH %d/%d] step %d\n\nWords.\n---\n"
    return head % (COMMIT, number, of, number) + diff + b"-- \n2.39.5\n\n"


def steps() -> list[bytes]:
    return [mail(1, 2, section(b"two", b"TWO")), mail(2, 2, section(b"TWO", b"2"))]


def test_a_mailbox_is_cut_at_its_mails() -> None:
    assert split_mailbox_untrusted(b"".join(steps())) == tuple(steps())
    assert split_mailbox_untrusted(steps()[0]) == (steps()[0],)
    assert split_mailbox_untrusted(b"no mail at all") == (b"no mail at all",)
    assert split_mailbox_untrusted(b"") == (b"",)


def test_a_line_that_only_looks_like_a_mail_cuts_nothing() -> None:
    for line in (b"From here on\n", b"\nFrom me\n", b"text\nFrom a@b Mon Sep 17 00:00:00 2001\n"):
        data = mail(1, 1, b"") + line
        assert split_mailbox_untrusted(data) == (data,)


def test_other_mail_programs_write_other_dates() -> None:
    first = b"From alice@example.org Sun Nov  1 06:50:00 2026 +0000\nSubject: x\n\ntext\n\n"
    assert split_mailbox_untrusted(first + first) == (first, first)


def test_a_mailbox_of_too_many_mails_is_refused() -> None:
    one = b"From a@b.c Mon Sep 17 00:00:00 2001\n\n"
    assert len(split_mailbox_untrusted(one * SERIES_PATCHES_MAX)) == SERIES_PATCHES_MAX
    with pytest.raises(ImportRefusedError) as caught:
        split_mailbox_untrusted(one * (SERIES_PATCHES_MAX + 1))
    assert caught.value.code == "provenance.import.series_length"


def test_a_long_patch_is_held_as_one_thing_at_a_time() -> None:
    lines = [[b"%099d\n" % number for number in range(begin, begin + 10_000)] for begin in (0, 20_000)]
    hunk = b"".join((*(b"-" + line for line in lines[0]), *(b"+" + line for line in lines[1])))
    base = {"a.c": FileState(0o100644, b"".join(lines[0]))}
    tracemalloc.start()
    try:
        sources = [Source("long", b"--- a/a.c\n+++ b/a.c\n@@ -1,10000 +1,10000 @@\n" + hunk, 1)]
        size = len(sources[0].data)
        held: dict[Step, float] = {}

        def note(_: str, step: Step) -> None:
            held[step] = tracemalloc.get_traced_memory()[0] / size

        (only,) = import_series((sources.pop() for _ in range(1)), base.get, on_step=note)
    finally:
        tracemalloc.stop()
    assert isinstance(only, Imported)
    # The text, then its sections (a line has its own overhead), then what the file becomes.
    assert (held[Step.READ] < 1.2, held[Step.PLACE] < 2, held[Step.MAKE] < 1) == (True, True, True), held


def test_a_series_of_too_many_patches_is_refused() -> None:
    with pytest.raises(ImportRefusedError) as caught:
        list(import_series([Source("x", b"")] * (SERIES_PATCHES_MAX + 1), BASE.get))
    assert caught.value.code == "provenance.import.series_length"


@pytest.mark.parametrize(
    ("numbers", "order"),
    [
        ([(2, 2), (1, 2)], [1, 0]),
        ([(1, 2), (2, 2)], [0, 1]),
        ([(2, 2), (1, 3)], [0, 1]),
        ([(2, 2), None], [0, 1]),
        ([(1, 2), (1, 2)], [0, 1]),
    ],
)
def test_mails_are_ordered_by_their_numbers(numbers: list[tuple[int, int] | None], order: list[int]) -> None:
    found = [
        read_metadata(b"Subject: x\n" if each is None else b"Subject: [PATCH v2 %02d/%d] x\n" % each)
        for each in numbers
    ]
    assert [each.number for each in found] == numbers
    assert order_mails(found) == order


def test_each_patch_of_a_series_is_made_for_what_those_before_left() -> None:
    results = list(import_series([Source(f"{n}", data) for n, data in enumerate(steps())], BASE.get))
    assert [each.foreign.metadata.title for each in results if isinstance(each, Imported)] == ["step 1", "step 2"]
    assert isinstance(results[1], Imported)
    assert results[1].rebased.post["a.c"] == FileState(0o100644, b"one\n2\nthree\n")


def test_a_refused_patch_leaves_the_tree_to_those_behind_it() -> None:
    sources = [
        Source("bad", section(b"nothing", b"x")),
        Source("good", section(b"two", b"2")),
        Source("none", b"words\n"),
    ]
    bad, good, none = import_series(sources, BASE.get)
    assert isinstance(bad, Refused)
    assert bad.error.code == "provenance.import.mismatch"
    assert isinstance(good, Imported)
    assert isinstance(none, Refused)
    assert none.error.code == "provenance.import.no_diff"


def test_metadata_from_elsewhere_counts_more_than_the_text() -> None:
    said = read_metadata(b"Subject: from the commit\n")
    (only,) = import_series([Source("c", b"Subject: from the text\n\n" + section(b"two", b"2"), 1, said)], BASE.get)
    assert isinstance(only, Imported)
    assert only.foreign.metadata.title == "from the commit"


# Encoded mails


@pytest.mark.parametrize(
    ("name", "encode"), [(b"base64", base64.encodebytes), (b"Quoted-Printable", quopri.encodestring)]
)
def test_an_encoded_mail_is_decoded(name: bytes, encode: object) -> None:
    text = b"Words.\n---\n" + section(b"two", "zwölf=2".encode())
    assert callable(encode)
    data = b"Subject: x\nContent-Transfer-Encoding: %s\n\n%s" % (name, encode(text))
    (only,) = import_series([Source("m", data)], BASE.get)
    assert isinstance(only, Imported), only
    assert only.rebased.post["a.c"] == FileState(0o100644, "one\nzwölf=2\nthree\n".encode())
    assert "encoded" in only.foreign.notes[0].text


def test_the_word_in_a_message_decodes_nothing() -> None:
    data = b"Subject: x\n\nContent-Transfer-Encoding: base64\n---\n" + section(b"two", b"a=3D")
    assert read_foreign_patch_untrusted(data).files[0].hunks[0].new_lines[1] == b"a=3D\n"


# What is said


def test_what_is_not_taken_over_is_said_line_by_line() -> None:
    header = (
        b"# a comment\nFrom: A <a@b.c>\nSubject: x\nMessage-Id: <1@b.c>\nUnheard-Of: 1\nBug: see https://b\xc3\xbcg.example/1\n\n"
        b"Words.\n---\nfor reviewers\n a.c | 2 +-\n 1 file changed, 1 insertion(+)\n\n"
    )
    patch = read_foreign_patch_untrusted(header + section(b"two", b"2") + b"more words\n" + b"-- \n2.39.5\n")
    assert [note.line for note in patch.metadata.notes] == [1, 4, 5, 6, 10]
    assert "Message-Id" in patch.metadata.notes[1].text
    assert [(note.line, note.text.rpartition(": ")[2]) for note in patch.notes] == [(22, "more words")]


def test_what_is_put_right_is_said() -> None:
    data = b"diff --git a/a.c b/a.c\nold mode 100755\nnew mode 100664\n--- a/a.c\n+++ b/a.c\n@@ -1,4 +1,4 @@\n one\n\n-two\n+2\n three"
    assert [note.line for note in read_foreign_patch_untrusted(data).notes] == [3, 8, 11]
    cut = b"--- a.c\n+++ a.c\n@@ -1,3 +1,3 @@\n-one\n+1\n two\n"
    assert [note.text for note in read_foreign_patch_untrusted(cut).notes] == [
        "a blank line cut off at the end is put back"
    ]


def test_notes_have_an_end() -> None:
    words = section(b"two", b"2") + b"words\n" * 1000
    notes = read_foreign_patch_untrusted(words).notes
    assert len(notes) == 201
    assert notes[-1].text == "more such lines follow"


def notes_of(diff: bytes, base: dict[str, FileState]) -> list[str]:
    (only,) = import_series([Source("x", diff, 1)], base.get)
    assert isinstance(only, Imported), only
    return [note.text for note in only.rebased.notes]


def test_what_the_exact_diff_says_otherwise_is_said() -> None:
    joined = section(b"two", b"2") + section(b"2", b"zwei")
    assert notes_of(joined, BASE) == ["it joins the section of line 1 for the same file: 'a.c'"]
    returns = section(b"two", b"2").replace(b"\n", b"\r\n")
    assert notes_of(returns, BASE) == ["carriage returns are taken off its lines: 'a.c'"]
    other = {**BASE, "b.c": FileState(0o100644, b"x\n")}
    undone = section(b"two", b"2") + section(b"2", b"two") + b"--- a/b.c\n+++ b/b.c\n@@ -1 +1 @@\n-x\n+y\n"
    assert "nothing of it is left, the file ends as it was: 'a.c'" in notes_of(undone, other)
    moved = b"diff --git a/a.c b/my a.c\nsimilarity index 100%\nrename from a.c\nrename to my a.c\n"
    assert notes_of(moved, BASE) == ["a rename becomes a deletion and an addition: 'my a.c'"]


# Trailers


def test_sign_offs_and_commits_that_are_fixed_stay() -> None:
    header = (
        b"From %s Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nSubject: x\n\nWords.\n\n"
        b'Fixes: 0123456789ab ("frame: read")\nFixes: https://bugs.example/7\nBug: #12\nReported-by: D\n'
        b"Signed-off-by: =?UTF-8?q?J=C3=BCrgen?= <j@b.c>\nCo-developed-by: C <c@b.c>\n---\n"
    ) % COMMIT
    metadata = read_metadata(header)
    assert metadata.trailers == (
        "Date: Mon, 1 Jan 2024 00:00:00 +0000",
        'Fixes: 0123456789ab ("frame: read")',
        "Bug: #12",
        "Reported-by: D",
        "Signed-off-by: Jürgen <j@b.c>",
        "Co-developed-by: C <c@b.c>",
    )
    assert metadata.references == ("https://bugs.example/7",)
    assert metadata.notes == ()
    assert metadata.reason.split("\n")[:4] == ["Words.", "", "Author: A <a@b.c>", f"Origin: commit {COMMIT.decode()}"]


def test_a_title_never_holds_an_encoded_word() -> None:
    assert read_metadata(b"Subject: =?x-unknown?q?a?= b\n").title == "= ?x-unknown?q?a?= b"


def test_the_reason_fits_however_long_it_is() -> None:
    def of(description: str, trailers: tuple[str, ...]) -> str:
        return ForeignMetadata("t", description, "A", "a@b.c", (), "", "bug-fix", trailers).reason

    long = of("ä" * (DESCRIPTION_BYTES_MAX // 2), tuple(f"Signed-off-by: {number:0500}" for number in range(100)))
    assert len(long.encode()) <= DESCRIPTION_BYTES_MAX
    assert long.count("Signed-off-by") * 500 <= CREDITS_BYTES_MAX
    assert "…\n\nAuthor: A <a@b.c>\n" in long
    assert of("", ()) == "Author: A <a@b.c>"
