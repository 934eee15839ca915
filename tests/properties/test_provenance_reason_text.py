"""Whatever a person writes as reason, title, name or comment: it never changes what a tool does to a tree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.limits import DESCRIPTION_BYTES_MAX, TITLE_BYTES_MAX
from provenance.metadata import PatchMetadata, Reason, check_metadata_form, normalise_text
from provenance.patchfile import build_patch_file
from provenance.preamble import MBOX_LINE, PREAMBLE_END, render_preamble
from provenance.verify import verify_patch_untrusted
from tests.testkit.appliers import INSTALLED, Tool, run_tool
from tests.testkit.git_tool import am_file
from tests.testkit.patches import AFTER, ALICE, BEFORE, make_metadata
from wire.errors import MalformedError
from wire.fields import as_text

METADATA, DIFF = make_metadata()
EVIL = "/* evil */"
HIDDEN_DIFF = DIFF.decode().replace("+    for (int i = 0; i < length; i++) {", f"+    {EVIL}")
assert EVIL in HIDDEN_DIFF

HIDDEN_FILE = "diff --git a/evil.c b/evil.c\nnew file mode 100644\n--- /dev/null\n+++ b/evil.c\n@@ -0,0 +1 @@\n+evil"

FRAGMENTS = (
    HIDDEN_FILE,
    HIDDEN_DIFF,
    HIDDEN_DIFF.replace("\n", "\n    "),
    HIDDEN_DIFF.replace("\n", "\n# "),
    "\n".join(f"X{line}" for line in HIDDEN_DIFF.split("\n")),
    "diff --git a/src/frame.c b/src/frame.c",
    "--- a/src/frame.c\n+++ b/src/frame.c\n@@ -1 +1 @@\n-a\n+b",
    "*** src/frame.c\n--- src/frame.c\n***************\n*** 1 ****\n! a\n--- 1 ----\n! b",
    "1d\n.\nw",
    "1,2c3,4",
    "Index: src/frame.c",
    "Prereq: 1.2",
    "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001",
    "From: Mallory <m@example.org>",
    "Content-Transfer-Encoding: base64",
    "Content-Type: multipart/mixed; boundary=x",
    "Subject: other",
    "---",
    "-- ",
    "-- >8 --",
    "patchwarden 1",
    '{"payload":"","payloadType":"","signatures":[]}',
    "GIT binary patch\nliteral 1\nIcmZPo",
    "rename from src/frame.c\nrename to evil.c",
    "new file mode 120000",
    "deleted file mode 100644",
    "\\ No newline at end of file",
    "# Creator: did:key:zForged",
    "=?utf-8?q?x?=",
    "[PATCH] x",
    "Re: x",
)

TEXTS = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=80), st.sampled_from(["", " ", "\n", "\n\n"])), max_size=6
).map("\n".join)
STDIN_TOOLS = tuple(tool for tool in INSTALLED if tool not in {Tool.GIT_AM, Tool.GIT_APPLY_INDEX})


def is_allowed(character: str) -> bool:
    try:
        as_text(character, "character", 4)
    except MalformedError as error:
        return error.code != "wire.field.characters"
    return True


def signable(text: str, bytes_max: int, *, multiline: bool) -> str:
    """The nearest text that an author can sign: what metadata refuses is left out, everything else stays."""
    kept = "".join(character for character in text if character == "\n" or is_allowed(character))
    short = normalise_text(kept, multiline=multiline).replace("=?", "=").encode()[:bytes_max].decode("utf-8", "ignore")
    return normalise_text(short, multiline=multiline) or "x"


def with_texts(title: str, description: str) -> PatchMetadata:
    """Metadata with these texts, as an author could sign them."""
    reason = Reason(
        METADATA.reason_for_patch.category,
        signable(title, TITLE_BYTES_MAX, multiline=False),
        signable(description, DESCRIPTION_BYTES_MAX, multiline=True),
        (),
    )
    metadata = replace(METADATA, reason_for_patch=reason)
    check_metadata_form(metadata)
    return metadata


@given(TEXTS, TEXTS)
def test_free_text_stands_only_behind_the_subject_and_behind_hashes(title: str, description: str) -> None:
    preamble = render_preamble(with_texts(title, description))
    assert preamble.startswith(MBOX_LINE)
    assert preamble.endswith(b"\n" + PREAMBLE_END)
    header, _, comment = preamble.partition(b"\n\n")
    assert [line.partition(b":")[0] for line in header.split(b"\n")[1:]] == [
        b"From",
        b"Date",
        b"Subject",
        b"X-Patchwarden-Version",
    ]
    for line in comment.removesuffix(PREAMBLE_END).split(b"\n")[:-1]:
        assert line == b"#" or line.startswith(b"# ")


@given(TEXTS, TEXTS)
def test_two_reasons_never_look_the_same(first: str, second: str) -> None:
    one, other = with_texts("title", first), with_texts("title", second)
    assert (render_preamble(one) == render_preamble(other)) == (one == other)


@given(TEXTS, TEXTS)
def test_the_file_verifies_with_the_same_diff(title: str, description: str) -> None:
    metadata = with_texts(title, description)
    patch = verify_patch_untrusted(build_patch_file(metadata, DIFF, ALICE))
    assert (patch.metadata, patch.diff.raw) == (metadata, DIFF)


@pytest.mark.slow
@pytest.mark.parametrize("tool", STDIN_TOOLS, ids=lambda tool: tool.name)
@settings(max_examples=60)
@given(title=TEXTS, description=TEXTS)
def test_no_tool_does_anything_else_because_of_a_text(tool: Tool, title: str, description: str) -> None:
    data = build_patch_file(with_texts(title, description), DIFF, ALICE)
    outcome = run_tool(tool, BEFORE, data)
    assert outcome.accepted, outcome.output
    assert outcome.tree == AFTER


@pytest.mark.slow
@settings(max_examples=40)
@given(title=TEXTS, description=TEXTS)
def test_git_am_does_nothing_else_because_of_a_text(title: str, description: str) -> None:
    data = build_patch_file(with_texts(title, description), DIFF, ALICE)
    outcome, commit = am_file(BEFORE, data)
    assert outcome.accepted, outcome.output
    assert outcome.tree == AFTER
    assert commit.author == "Alice Example <alice@acme.example>"


@pytest.mark.parametrize("tool", STDIN_TOOLS, ids=lambda tool: tool.name)
def test_the_prefix_is_what_protects(tool: Tool) -> None:
    # The attack is real: without `# ` the same text is a diff to every tool, and creates its file.
    data = build_patch_file(with_texts("title", HIDDEN_FILE), DIFF, ALICE)
    assert run_tool(tool, BEFORE, data).tree == AFTER
    unprotected = b"\n".join(line.removeprefix(b"#   ").removeprefix(b"# Reason: ") for line in data.split(b"\n"))
    outcome = run_tool(tool, BEFORE, unprotected)
    assert outcome.accepted, outcome.output
    assert "evil.c" in outcome.tree
