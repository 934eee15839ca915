"""What a diff holds only where it is allowed to: binary content and symbolic links, the same for git and for us, and every refusal."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from provenance.components import check_components, describe_components
from provenance.diff import MODE_LINK, Allowance, Diff, FileState, parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_binary import BINARY_FILE_BYTES_MAX, apply_delta, blob_name, make_part
from provenance.diff_lint import LintRule, lint_diff
from provenance.diff_make import make_diff
from provenance.errors import (
    ApplyRefusedError,
    DiffRefusedError,
    ImportRefusedError,
    InvalidMetadataError,
    MakeRefusedError,
)
from provenance.import_series import Imported, Refused, Source, import_series
from provenance.metadata import PatchMetadata
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches

BINARY = frozenset({Allowance.BINARY})
LINKS = frozenset({Allowance.SYMLINK})
BOTH = BINARY | LINKS
Tree = Mapping[str, FileState | None]

NOISE = random.Random(7).randbytes(5000)
BEFORE: Tree = {
    "a.png": FileState(0o100644, b"\x89PNG\0" + NOISE),
    "old.bin": FileState(0o100644, b"\0old"),
    "text": FileState(0o100644, b"text\n"),
    "moved.bin": FileState(0o100644, b"\0moved"),
    "lib/libx.so": FileState(MODE_LINK, b"libx.so.1"),
    "gone": FileState(MODE_LINK, b"/etc/passwd"),
}
AFTER: Tree = {
    "a.png": FileState(0o100644, b"\x89PNG\0" + NOISE[:4000] + b"changed" + NOISE[4000:]),
    "new.bin": FileState(0o100755, bytes(range(256)) * 3),
    "text": FileState(0o100644, b"now\0binary"),
    "moved/to.bin": FileState(0o100644, b"\0moved, changed"),
    "lib/libx.so": FileState(MODE_LINK, b"libx.so.2"),
    "bin/tool": FileState(MODE_LINK, b"../lib/tool.sh"),
}
RENAMES = {"moved/to.bin": "moved.bin"}


def wide() -> Diff:
    return parse_diff_untrusted(make_diff(BEFORE, AFTER, RENAMES, BOTH), BOTH)


def write(root: Path, tree: Tree) -> None:
    for name, state in tree.items():
        if state is not None:
            place = root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if state.mode == MODE_LINK:
                place.symlink_to(os.fsdecode(state.content))
            else:
                place.write_bytes(state.content)
                place.chmod(state.mode & 0o777)


def read(root: Path) -> dict[str, FileState]:
    found = {}
    for place in root.rglob("*"):
        if ".git" in place.parts:
            continue
        name = str(place.relative_to(root))
        if place.is_symlink():
            found[name] = FileState(MODE_LINK, os.fsencode(place.readlink()))
        elif place.is_file():
            found[name] = FileState(0o100755 if place.stat().st_mode & 0o100 else 0o100644, place.read_bytes())
    return found


def git(root: Path, *words: str, stdin: bytes = b"") -> bytes:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(root.parent),
    }
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", *identity, *words], cwd=root, input=stdin, env=environment, check=True, capture_output=True
    ).stdout


def test_git_makes_the_same_tree_of_it(tmp_path: Path) -> None:
    diff = wide()
    post = apply_diff(diff, {path: BEFORE.get(path) for path in diff.paths})
    assert {path: state for path, state in post.items() if state is not None} == dict(AFTER)
    write(tmp_path, BEFORE)
    git(tmp_path, "init", "-q")
    git(tmp_path, "apply", "--whitespace=nowarn", stdin=diff.raw)
    assert read(tmp_path) == dict(AFTER)
    # Both contents stand in it, so git takes it back as well.
    git(tmp_path, "apply", "-R", "--whitespace=nowarn", stdin=diff.raw)
    assert read(tmp_path) == dict(BEFORE)


def test_git_am_takes_the_signed_file(tmp_path: Path) -> None:
    allowances = tuple(sorted(BOTH))
    data = patches.make_patch(BEFORE, AFTER, RENAMES, allowances=allowances)
    patch = verify_patch_untrusted(data)
    assert patch.metadata.allowances == allowances
    assert b"# Allowances: binary, symlink\n" in patch.file.preamble
    write(tmp_path, BEFORE)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "base")
    git(tmp_path, "am", "--quiet", "--keep-cr", stdin=data)
    assert read(tmp_path) == dict(AFTER)


@pytest.mark.parametrize("options", [("--binary",), ("--binary", "-M")])
def test_what_git_prints_is_imported(tmp_path: Path, options: tuple[str, ...]) -> None:
    write(tmp_path, BEFORE)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "base")
    shutil.rmtree(tmp_path / "lib")
    for name in BEFORE:
        (tmp_path / name).unlink(missing_ok=True)
    write(tmp_path, AFTER)
    git(tmp_path, "add", "-A")
    foreign = git(tmp_path, "diff", "--cached", "--full-index", *options)
    assert b"\ndelta " in foreign
    (imported,) = import_series([Source("x", foreign, 1)], BEFORE.get, BOTH)
    assert isinstance(imported, Imported), imported
    assert {path: state for path, state in imported.rebased.post.items() if state is not None} == dict(AFTER)
    for allowed, code in ((LINKS, "provenance.make.binary"), (BINARY, "provenance.make.mode")):
        (refused,) = import_series([Source("x", foreign, 1)], BEFORE.get, allowed)
        assert isinstance(refused, Refused)
        assert refused.error.code == code
    other = {**BEFORE, "a.png": FileState(0o100644, b"\0other")}
    (refused,) = import_series([Source("x", foreign, 1)], other.get, BOTH)
    assert isinstance(refused, Refused)
    assert refused.error.code == "provenance.import.mismatch"


def test_a_binary_change_that_gives_something_else_is_not_imported() -> None:
    text = make_diff({"x": None}, {"x": FileState(0o100644, b"\0x")}, {}, BINARY)
    lie = text.replace(text.split(b"..")[1][:40], b"1" * 40)
    (refused,) = import_series([Source("x", lie, 1)], {}.get, BINARY)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, ImportRefusedError)
    assert refused.error.code == "provenance.import.binary"


def test_needs_and_lines_of_a_wide_diff() -> None:
    diff = wide()
    assert diff.needs == BOTH
    assert make_diff(dict(reversed(BEFORE.items())), dict(reversed(AFTER.items())), RENAMES, BOTH) == diff.raw
    findings = [(each.rule, each.path) for each in lint_diff(diff)]
    assert (LintRule.GNU_PATCH, "a.png") in findings
    assert (LintRule.BUSYBOX, "bin/tool") in findings
    lines = diff.raw.split(b"\n")
    for each in lint_diff(diff):
        if each.rule is LintRule.GNU_PATCH:
            assert lines[each.line - 1].startswith(b"diff --git")


def refused(text: bytes, allowed: frozenset[Allowance] = BOTH) -> str:
    with pytest.raises(DiffRefusedError) as caught:
        parse_diff_untrusted(text, allowed)
    return caught.value.code.removeprefix("provenance.diff.")


def binary(old: bytes = b"\0old", new: bytes = b"\0new") -> bytes:
    return make_diff({"x": FileState(0o100644, old)}, {"x": FileState(0o100644, new)}, {}, BINARY)


def link(target: bytes, path: str = "d/x") -> bytes:
    return b"diff --git a/%s b/%s\nnew file mode 120000\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1 @@\n+%s\n\\ No newline at end of file\n" % (
        path.encode(), path.encode(), path.encode(), target,
    )  # fmt: skip


def test_nothing_is_read_that_is_not_allowed() -> None:
    assert refused(binary(), LINKS) == "binary"
    assert refused(link(b"y"), BINARY) == "file_type"
    assert refused(binary(), frozenset()) == "binary"
    assert refused(b"diff --git a/x b/x\nindex 1234..5678\nBinary files a/x and b/x differ\n") == "binary"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"literal 4\n", b"literal 5\n", "binary_form"),
        (b"literal 4\n", b"literal 3\n", "binary_form"),
        (b"literal 4\n", b"literal 04\n", "binary_form"),
        (b"literal 4\n", b"delta 4\n", "binary_form"),
        (b"literal 4\n", b"literal %d\n" % (BINARY_FILE_BYTES_MAX + 1), "size"),
        (b"literal 4\n", b"literal 4\n\n", "binary_form"),
        (b"\n\n", b"\n", "binary_form"),
        (b"\nindex ", b"\nindex 0", "index_line"),
        (b"..", b"..0", "index_line"),
    ],
)
def test_a_binary_change_in_another_form_is_refused(old: bytes, new: bytes, code: str) -> None:
    assert refused(binary().replace(old, new, 1)) == code


def test_a_binary_change_has_one_form() -> None:
    text = binary()
    assert refused(text[:-1]) == "truncated"
    assert refused(text + b"\n") == "unexpected_line"
    assert refused(text + b"literal 0\nHcmV?d00001\n\n") == "unexpected_line"
    at = text.index(b"literal 4\n") + len(b"literal 4\n")
    end = text.index(b"\n", at)
    line = text[at:end]
    # Another letter, a byte that does not count, a character that base85 has not, a line too much.
    for wrong in (b"A" + line[1:], line[:-1] + b"~", line[:-1] + b'"', line + b"\n" + line, b"\xff" + line[1:]):
        assert refused(text[:at] + wrong + text[end:]) in ("binary_form", "not_canonical")
    names = text.split(b"\n")[1]
    assert refused(text.replace(names, b"index 1234567..89abcde 100644")) == "index_line"
    assert refused(text.replace(names + b"\n", b"")) == "index_line"


def test_both_contents_are_named_in_one_way() -> None:
    """Git, which knows names of its repository's kind only, refuses anything else: found by an edited diff."""
    gone = make_diff({"x": FileState(0o100644, b"\0old")}, {"x": None}, {}, BINARY)
    for zeros in (b"0" * 4, b"0" * 39, b"0" * 41, b"0" * 64):
        assert refused(gone.replace(b".." + b"0" * 40, b".." + zeros)) == "index_line"
    mixed = binary().replace(blob_name(b"\0new", 40).encode(), blob_name(b"\0new", 64).encode())
    assert refused(mixed) == "index_line"
    whole = mixed.replace(blob_name(b"\0old", 40).encode(), blob_name(b"\0old", 64).encode())
    assert parse_diff_untrusted(whole, BINARY).raw == whole


def test_text_does_not_hide_as_binary() -> None:
    part = make_part(b"text\n")
    head = b"diff --git a/x b/x\nnew file mode 100644\nindex %s..%s\nGIT binary patch\n"
    text = head % (b"0" * 40, blob_name(b"text\n", 40).encode())
    text += b"literal 5\n%s\nliteral 0\nHcmV?d00001\n\n" % part.encoded
    assert refused(text) == "binary_form"


def test_a_small_text_does_not_unfold_without_end() -> None:
    part = make_part(bytes(BINARY_FILE_BYTES_MAX))
    sections = b""
    name = blob_name(part.content, 40).encode()
    for number in range(5):
        head = b"diff --git a/%d b/%d\nnew file mode 100644\nindex %s..%s\nGIT binary patch\n" % (
            number,
            number,
            b"0" * 40,
            name,
        )
        sections += head + b"literal %d\n%s\nliteral 0\nHcmV?d00001\n\n" % (len(part.content), part.encoded)
    assert len(sections) < 1 << 20
    assert refused(sections) == "size"


@pytest.mark.parametrize(
    "delta",
    [b"", b"\x04", b"\x05\x04\x04abcd", b"\x04\x04", b"\x04\x04\x00", b"\x04\x04\x05abcde", b"\x04\x04\x91", b"\x04\x04\x91\x02\x04",
     b"\xff\xff\xff\xff\xff\xff\xff\x01", b"\x04\xff\xff\xff\xff\x7f"],
)  # fmt: skip
def test_a_delta_that_is_none_gives_nothing(delta: bytes) -> None:
    assert apply_delta(b"base", delta) is None


@pytest.mark.parametrize("target", [b"y", b"../y", b"y/z", b"..", b"../d/y", "é".encode()])
def test_a_link_may_lead_to_places_below_the_root(target: bytes) -> None:
    (change,) = parse_diff_untrusted(link(target), LINKS).files
    assert change.new_mode == MODE_LINK


@pytest.mark.parametrize(
    "target", [b"/etc/passwd", b"../../y", b"y/../../../z", b"a/../b", b"", b".", b"y/", b"a//b", b".git/x", b"../.GIT/x", b"\xff", b"a\tb"]
)  # fmt: skip
def test_a_link_leads_nowhere_else(target: bytes) -> None:
    assert refused(link(target)) in (("link_target",) if target else ("no_newline",))


def test_a_link_has_one_form() -> None:
    ending = b"\\ No newline at end of file\n"
    assert refused(link(b"y").removesuffix(ending)) == "link_form"
    assert refused(link(b"y").partition(b"---")[0] + b"index 0000000..e69de29\n") == "link_form"
    two = link(b"y").replace(b"+1 @@\n", b"+1,2 @@\n+x\n")
    assert refused(two) == "link_form"
    assert refused(b"diff --git a/x b/x\nold mode 100644\nnew mode 120000\n") == "file_type"
    whole = link(b"y", "a") + link(b"z", "a/b")
    assert refused(whole) == "path_nesting"


def test_a_link_is_changed_only_where_the_diff_says_that_it_is_one() -> None:
    text = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-y\n\\ No newline at end of file\n+/etc\n\\ No newline at end of file\n"
    diff = parse_diff_untrusted(text, LINKS)
    with pytest.raises(ApplyRefusedError) as caught:
        apply_diff(diff, {"x": FileState(MODE_LINK, b"y")})
    assert caught.value.code == "provenance.apply.mode"


def test_other_content_is_not_taken_for_the_one_before() -> None:
    with pytest.raises(ApplyRefusedError) as caught:
        apply_diff(parse_diff_untrusted(binary(), BINARY), {"x": FileState(0o100644, b"\0other")})
    assert caught.value.code == "provenance.apply.mismatch"


@pytest.mark.parametrize(
    ("pre", "post", "renames", "code"),
    [
        ({"x": FileState(0o100644, b"a\n")}, {"x": FileState(MODE_LINK, b"y")}, {}, "mode"),
        ({"x": FileState(MODE_LINK, b"y")}, {"z": FileState(MODE_LINK, b"y")}, {"z": "x"}, "mode"),
        ({}, {"x": FileState(0o120777, b"y")}, {}, "mode"),
    ],
)
def test_what_has_no_wide_form_either_is_not_made(pre: Tree, post: Tree, renames: dict[str, str], code: str) -> None:
    with pytest.raises(MakeRefusedError) as caught:
        make_diff(pre, post, renames, BOTH)
    assert caught.value.code == f"provenance.make.{code}"


def test_a_link_out_of_the_tree_is_not_made() -> None:
    with pytest.raises(DiffRefusedError) as caught:
        make_diff({}, {"x": FileState(MODE_LINK, b"/etc/passwd")}, {}, BOTH)
    assert caught.value.code == "provenance.diff.link_target"


# Metadata


def test_metadata_must_be_of_these_contents() -> None:
    diff = wide()
    pre = {path: BEFORE.get(path) for path in diff.paths}
    components = describe_components(diff, pre, apply_diff(diff, pre), {}, "x")
    check_components(components, diff)
    other = describe_components(diff, {**pre, "a.png": FileState(0o100644, b"other")}, apply_diff(diff, pre), {}, "x")
    with pytest.raises(InvalidMetadataError) as caught:
        check_components(other, diff)
    assert caught.value.code == "provenance.metadata.component_digest"


def metadata_refusal(**changes: object) -> str:
    metadata, _ = patches.make_metadata(BEFORE, AFTER, RENAMES, allowances=tuple(sorted(BOTH)))
    document = {**metadata.to_json(), **changes}
    with pytest.raises(InvalidMetadataError) as caught:
        PatchMetadata.from_json_untrusted(document)
    return caught.value.code


def test_allowances_have_one_form() -> None:
    assert metadata_refusal(allowances=["symlink", "binary"]) == "provenance.field.order"
    assert metadata_refusal(allowances=["symlink", "symlink"]) == "provenance.field.order"
    assert metadata_refusal(allowances=[]) == "provenance.field.length"
    assert metadata_refusal(allowances=["root"]) == "provenance.field.choice"
    assert metadata_refusal(allowances="binary") == "provenance.field.list"
    assert metadata_refusal(allowances=["binary"]) == "provenance.metadata.allowance_missing"


@pytest.mark.parametrize("unused", [Allowance.BINARY, Allowance.SYMLINK, Allowance.REMOVE_DIRECTORY])
def test_an_author_allows_nothing_in_advance(unused: Allowance) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        patches.make_patch(allowances=(unused,))
    assert caught.value.code == "provenance.metadata.allowance_unused"


def test_a_patch_without_allowances_says_nothing_of_them() -> None:
    assert b"llowances" not in patches.make_patch()
