"""Pairs of trees whose difference is worth a test, and generators of more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import strategies as st

from provenance.diff import MODE_EXECUTABLE, MODE_LINK, MODE_REGULAR, Allowance, FileState
from provenance.diff_make import make_diff

Tree = Mapping[str, FileState | None]


def regular(content: bytes) -> FileState:
    return FileState(MODE_REGULAR, content)


def executable(content: bytes) -> FileState:
    return FileState(MODE_EXECUTABLE, content)


def numbered(count: int, word: str = "line") -> bytes:
    """Return `count` different lines."""
    return b"".join(b"%s %d\n" % (word.encode(), number) for number in range(1, count + 1))


def insert(content: bytes, after: int, text: bytes) -> bytes:
    """Return the content with `text` behind its first `after` lines."""
    lines = content.split(b"\n")
    return b"\n".join(lines[:after]) + (b"\n" if after else b"") + text + b"\n".join(lines[after:])


@dataclass(frozen=True, slots=True)
class Change:
    """Two states of a tree, and what of it is a rename or a copy."""

    pre: Tree
    post: Tree
    renames: Mapping[str, str] = field(default_factory=dict)
    busybox: bool = True
    """busybox patch 1.35 gives the same result."""
    copies: Mapping[str, str] = field(default_factory=dict)

    def make(self, allowed: frozenset[Allowance] = frozenset()) -> bytes:
        """Return the change's diff."""
        return make_diff(self.pre, self.post, self.renames, allowed, copies=self.copies)

    @property
    def tree(self) -> dict[str, FileState]:
        """The whole tree afterwards."""
        merged = {**self.pre, **self.post}
        return {path: state for path, state in merged.items() if state is not None}


BASE = numbered(20)
_A: Tree = {"a": regular(BASE)}
KEEP = regular(b"")
"""A file that keeps the directory of a deleted one."""

CHANGES: Mapping[str, Change] = {
    "modify": Change({"a": regular(BASE)}, {"a": regular(insert(BASE, 10, b"new\n"))}),
    "insert at the top": Change({"a": regular(BASE)}, {"a": regular(insert(BASE, 0, b"new\n"))}),
    "insert after line 1": Change({"a": regular(BASE)}, {"a": regular(insert(BASE, 1, b"new\n"))}),
    "insert after line 3": Change({"a": regular(BASE)}, {"a": regular(insert(BASE, 3, b"new\n"))}),
    "insert before the last lines": Change({"a": regular(BASE)}, {"a": regular(insert(BASE, 18, b"new\n"))}),
    "insert at the end": Change({"a": regular(BASE)}, {"a": regular(BASE + b"new\n")}),
    "one line only": Change({"a": regular(b"x\n")}, {"a": regular(b"y\n")}),
    "small file grows": Change({"a": regular(b"x\ny\n")}, {"a": regular(b"x\ny\nz\n")}),
    "several hunks": Change(
        {"a": regular(numbered(60))},
        {
            "a": regular(
                numbered(60).replace(b"line 5\n", b"").replace(b"line 40\n", b"x\ny\n").replace(b"line 58\n", b"")
            )
        },
    ),
    "several files": Change(
        {"a": regular(BASE), "b/c": regular(BASE)},
        {"a": regular(insert(BASE, 10, b"new\n")), "b/c": regular(insert(BASE, 4, b"new\n")), "n": regular(b"1\n")},
    ),
    "lines that look like a diff": Change(
        {"a": regular(numbered(9) + b"-- \n-- a\n" + numbered(9, "more"))},
        {"a": regular(numbered(9) + b"++ b\n" + numbered(9, "more"))},
    ),
    "lines that look like a mail": Change(
        {"a": regular(BASE)},
        {
            "a": regular(
                insert(
                    BASE, 10, b"From abc Mon Sep 17 00:00:00 2001\ndiff --git a/x b/x\n--- a/q\n+++ b/q\n@@ -1 +1 @@\n"
                )
            )
        },
    ),
    "other encodings": Change({"a": regular(BASE)}, {"a": regular(insert(BASE, 10, b"\xe9\xff\xc3\n"))}),
    "odd control characters": Change({"a": regular(BASE)}, {"a": regular(insert(BASE, 10, b"\x0c\x0b\x1b\x85a\rb\n"))}),
    "carriage returns": Change(
        {"a": regular(BASE.replace(b"\n", b"\r\n"))}, {"a": regular(insert(BASE, 10, b"new\n").replace(b"\n", b"\r\n"))}
    ),
    "emptied": Change({"a": regular(b"x\n")}, {"a": regular(b"")}),
    "filled": Change({"a": regular(b"")}, {"a": regular(b"x\n")}, busybox=False),
    "newline at the end goes": Change({"a": regular(BASE)}, {"a": regular(BASE[:-1])}, busybox=False),
    "newline at the end comes": Change({"a": regular(BASE[:-1])}, {"a": regular(BASE)}, busybox=False),
    "no newline at the end as context": Change(
        {"a": regular(BASE[:-1])}, {"a": regular(insert(BASE, 18, b"new\n")[:-1])}, busybox=False
    ),
    "add": Change({}, {"d/e/a": regular(b"x\ny\n")}),
    "add executable": Change({}, {"a": executable(b"x\n")}, busybox=False),
    "add empty": Change({}, {"a": regular(b"")}, busybox=False),
    "add without newline": Change({}, {"a": regular(b"x")}, busybox=False),
    "delete": Change({"a": regular(BASE), "k": KEEP}, {"a": None, "k": KEEP}, busybox=False),
    "delete executable": Change({"a": executable(BASE), "k": KEEP}, {"a": None, "k": KEEP}, busybox=False),
    "delete empty": Change({"a": regular(b""), "k": KEEP}, {"a": None, "k": KEEP}, busybox=False),
    "delete without newline": Change({"a": regular(b"x"), "k": KEEP}, {"a": None, "k": KEEP}, busybox=False),
    "mode": Change({"a": regular(BASE)}, {"a": executable(BASE)}, busybox=False),
    "mode back": Change({"a": executable(BASE)}, {"a": regular(BASE)}, busybox=False),
    "mode and content": Change({"a": regular(BASE)}, {"a": executable(insert(BASE, 10, b"new\n"))}, busybox=False),
    "modify executable": Change({"a": executable(BASE)}, {"a": executable(insert(BASE, 10, b"new\n"))}),
    "rename": Change({"q/a": regular(BASE)}, {"q/a": None, "r/s/b": regular(BASE)}, {"r/s/b": "q/a"}, busybox=False),
    "rename and content": Change(
        {"a": regular(BASE)}, {"a": None, "b": regular(insert(BASE, 10, b"new\n"))}, {"b": "a"}, busybox=False
    ),
    "rename and mode": Change({"a": regular(BASE)}, {"a": None, "b": executable(BASE)}, {"b": "a"}, busybox=False),
    "rename, mode and content": Change(
        {"a": regular(BASE)}, {"a": None, "b": executable(insert(BASE, 10, b"new\n"))}, {"b": "a"}, busybox=False
    ),
    "copy": Change(_A, {**_A, "r/s/b": _A["a"]}, busybox=False, copies={"r/s/b": "a"}),
    "copy and content": Change(_A, {**_A, "b": regular(insert(BASE, 10, b"new\n"))}, busybox=False, copies={"b": "a"}),
    "copy and mode": Change(_A, {**_A, "b": executable(BASE)}, busybox=False, copies={"b": "a"}),
    "copy, mode and content": Change(
        _A, {**_A, "b": executable(insert(BASE, 10, b"new\n"))}, busybox=False, copies={"b": "a"}
    ),
    "copy of an executable": Change(
        {"a": executable(BASE)},
        {"a": executable(BASE), "b": executable(BASE), "c": executable(insert(BASE, 3, b"new\n"))},
        busybox=False,
        copies={"b": "a", "c": "a"},
    ),
    "copies of a file that changes": Change(
        _A,
        {"a": regular(insert(BASE, 10, b"new\n")), "A": regular(insert(BASE, 5, b"other\n")), "b": regular(BASE)},
        busybox=False,
        copies={"A": "a", "b": "a"},
    ),
    "copy of a file whose mode changes": Change(
        _A, {"a": executable(BASE), "b": regular(BASE)}, busybox=False, copies={"b": "a"}
    ),
    "copies and a rename": Change(
        _A,
        {"a": None, "b": regular(BASE), "c": regular(insert(BASE, 10, b"new\n")), "d": regular(BASE)},
        {"d": "a"},
        busybox=False,
        copies={"b": "a", "c": "a"},
    ),
    "copy of a file that goes": Change(
        {**_A, "k": KEEP}, {"a": None, "A": regular(BASE), "k": KEEP}, busybox=False, copies={"A": "a"}
    ),
    "copy of an empty file": Change(
        {"a": regular(b"")}, {"a": regular(b""), "b": regular(b"")}, busybox=False, copies={"b": "a"}
    ),
    "copy of binary content": Change(
        {"a": regular(b"\0\1")}, {"a": regular(b"\0\1"), "b": regular(b"\0\1")}, busybox=False, copies={"b": "a"}
    ),
    "repeated lines": Change(
        {"a": regular(b"x\n" * 40)}, {"a": regular(b"x\n" * 20 + b"y\n" + b"x\n" * 20)}, busybox=False
    ),
    **{
        f"name {name}": Change({name: regular(BASE)}, {name: regular(insert(BASE, 10, b"new\n"))})
        for name in (
            "sp ace",
            "two  sp",
            "d d/f",
            "ü",
            "日本",
            "a b\u00e9",
            "-x",
            "a&b;c",
            "it's",
            "x.orig",
            "~a",
            "#a",
            "a=>b",
            "a",
            "b",
            "dev/null",
            "a b/a b",
        )
    },
    "name with a space added": Change({}, {"sp ace": regular(BASE)}),
    "name with a space copied": Change(
        _A, {**_A, "sp ace": regular(insert(BASE, 10, b"new\n"))}, busybox=False, copies={"sp ace": "a"}
    ),
    "name with a space renamed": Change(
        {"a": regular(BASE)}, {"a": None, "sp ace": regular(insert(BASE, 10, b"new\n"))}, {"sp ace": "a"}, busybox=False
    ),
}
"""Changes that a patch may carry; every one must mean the same to git, GNU patch and us."""


_LINES = st.sampled_from(
    [b"\n", b"a\n", b"b\n", b"c\n", b"}\n", b"-- \n", b"+++ b/x\n", b"@@ -1 +1 @@\n", b"\xff\r\n", b" \n", b"From x\n"]
)


@st.composite
def contents(draw: st.DrawFn, lines_max: int = 30) -> bytes:
    """Draw a text file: few different lines, so that places are easily confused; now and then without its last newline."""
    content = b"".join(draw(st.lists(_LINES, max_size=lines_max)))
    return content[:-1] if content and draw(st.integers(0, 5)) == 0 else content


@st.composite
def edited(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw an edited version of a file."""
    lines = (
        content.splitlines(keepends=True) if b"\r" not in content else [line + b"\n" for line in content.split(b"\n")]
    )
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(lines)))
        lines[begin : begin + draw(st.integers(0, 3))] = draw(st.lists(_LINES, max_size=3))
    return b"".join(lines)


_PATHS = ("a", "b c", "dir/a", "dir/sub/é", "z.sh")
_COPIES = ("A", "dir/copy", "zz")


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Draw two states of a small tree with at least one difference."""
    modes = st.sampled_from([MODE_REGULAR, MODE_REGULAR, MODE_EXECUTABLE])
    pre: dict[str, FileState | None] = {}
    post: dict[str, FileState | None] = {}
    for path in draw(st.lists(st.sampled_from(_PATHS), min_size=1, unique=True)):
        before = FileState(draw(modes), draw(contents())) if draw(st.booleans()) else None
        if before is None:
            after = FileState(draw(modes), draw(contents()))
        else:
            after = FileState(draw(modes), draw(edited(before.content))) if draw(st.integers(0, 4)) else None
        pre[path], post[path] = before, after
    if all(pre[path] == post[path] for path in pre):
        post["a"] = FileState(MODE_REGULAR, b"something else\n")
        pre.setdefault("a", None)
    copies: dict[str, str] = {}
    sources = [path for path, state in pre.items() if state is not None]
    for target in draw(st.lists(st.sampled_from(_COPIES), unique=True)) if sources else ():
        source = draw(st.sampled_from(sources))
        before = pre[source]
        if before is None or (post[source] is None and target.encode() > source.encode()):
            continue
        post[target] = FileState(draw(modes), draw(edited(before.content)))
        copies[target] = source
    return Change(pre, post, copies=copies)


_WIDE_PATHS = ("a", "b c", "d/a", "d/e/é", "d/e/z.sh", "d/f/one", "l", "x/y/only")
_WIDE_TARGETS = (b"a", b"d", b"../a", b"d/e", b"nowhere", b"b c", "é".encode(), b"-x", b"x/y/only", b"..")
_BAD_TARGETS = (b"/etc/passwd", b"../../../up", b"\xff", b"a\tb", b"CR\r", b" ", b"--- a/x", b"a//b/")
_MOVED = ("A", "d/copy", "q/r/moved", "zz")


@st.composite
def binary_contents(draw: st.DrawFn) -> bytes:
    """Draw content with a NUL byte somewhere: short, long and dull, long and not to be compressed, behind a long text."""
    match draw(st.integers(0, 4)):
        case 0:
            return draw(st.binary(max_size=60)) + b"\0" + draw(st.binary(max_size=60))
        case 1:
            return bytes(draw(st.integers(1, 3000)))
        case 2:
            return draw(st.randoms(use_true_random=False)).randbytes(draw(st.integers(50, 3000))) + b"\0"
        case 3:
            return draw(contents()) + b"\0" + draw(contents())
        case _:  # git looks for it in the first 8,000 bytes only
            return numbered(1200) + b"\0" + draw(contents())


@st.composite
def _wide_states(draw: st.DrawFn, *, is_old: bool) -> FileState:
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return FileState(MODE_LINK, draw(st.sampled_from(_WIDE_TARGETS + (_BAD_TARGETS if is_old else ()))))
    content = draw(binary_contents()) if kind < 3 else draw(contents())
    return FileState(draw(st.sampled_from([MODE_REGULAR, MODE_EXECUTABLE])), content)


@st.composite
def _changed(draw: st.DrawFn, before: FileState) -> FileState:
    """Draw what a file becomes: the same kind of thing, with another mode, content, or both."""
    if before.mode == MODE_LINK:
        return FileState(MODE_LINK, draw(st.sampled_from(_WIDE_TARGETS)))
    mode = draw(st.sampled_from([before.mode, before.mode, MODE_REGULAR, MODE_EXECUTABLE]))
    match draw(st.integers(0, 4)):
        case 0:
            return FileState(mode, before.content)
        case 1:
            return FileState(mode, draw(binary_contents()))
        case 2 if b"\0" in before.content:
            at = draw(st.integers(0, len(before.content)))
            return FileState(mode, before.content[:at] + draw(st.binary(max_size=20)) + before.content[at:])
        case _:
            return FileState(mode, draw(edited(before.content)))


@st.composite
def wide_changes(draw: st.DrawFn) -> Change:
    """Draw two states of a tree that differ in binary content, links, removed directories, moves and copies, too."""
    pre: dict[str, FileState | None] = {}
    post: dict[str, FileState | None] = {}
    for path in draw(st.lists(st.sampled_from(_WIDE_PATHS), min_size=1, unique=True)):
        before = draw(_wide_states(is_old=True)) if draw(st.integers(0, 3)) else None
        pre[path] = before
        if before is None:
            post[path] = draw(_wide_states(is_old=False))
        else:
            fate = draw(st.integers(0, 5))
            post[path] = None if fate < 2 else before if fate == 2 else draw(_changed(before))
    renames: dict[str, str] = {}
    copies: dict[str, str] = {}
    files = [path for path, state in pre.items() if state is not None and state.mode != MODE_LINK]
    for target in draw(st.lists(st.sampled_from(_MOVED), unique=True)) if files else ():
        source = draw(st.sampled_from(files))
        before = pre[source]
        assert before is not None
        after = before if draw(st.booleans()) else draw(_changed(before))
        if draw(st.booleans()) and post[source] is None and source not in renames.values():
            if not any(copied == source and copy.encode() > target.encode() for copy, copied in copies.items()):
                renames[target] = source
                post[target] = after
        elif post[source] is not None or target.encode() < source.encode():
            copies[target] = source
            post[target] = after
    return Change(pre, post, renames, copies=copies)
