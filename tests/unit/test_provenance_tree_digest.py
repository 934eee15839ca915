"""Tree digests: the ids that git itself computes with SHA-256, and a refusal for every tree that git could not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from provenance.errors import InvalidMetadataError
from provenance.limits import TREE_DEPTH_MAX
from provenance.tree_digest import (
    MODE_DIRECTORY,
    MODE_LINK,
    TreeEntry,
    blob_digest,
    blob_header,
    directory_digest,
    tree_digest,
)
from tests.testkit.git_tool import write_tree_id
from wire.hashing import Digest, sha256

# Names around the slash sort differently as files and as directories: git compares `foo` the directory as `foo/`.
CONTENTS = {
    b"foo/bar": (0o100644, b"1"),
    b"foo.c": (0o100755, b"2"),
    b"foo-x": (0o100644, b""),
    b"foo0": (0o100644, b"4\n"),
    b"a/b/c/d": (0o100644, b"deep"),
    b"a/b.txt": (0o100644, bytes(range(256))),
    b"link": (MODE_LINK, b"foo/bar"),
    "ünïcode/é".encode(): (0o100644, b"x"),
    b"name with space": (0o100644, b"y"),
}
EMPTY_TREE = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"


def files() -> dict[bytes, tuple[int, Digest]]:
    return {path: (mode, blob_digest(content)) for path, (mode, content) in CONTENTS.items()}


def refusal_code(tree: dict[bytes, tuple[int, Digest]]) -> str:
    with pytest.raises(InvalidMetadataError) as caught:
        tree_digest(tree)
    return caught.value.code


def test_git_gives_the_same_id(tmp_path: Path) -> None:
    for path, (mode, content) in CONTENTS.items():
        target = tmp_path / path.decode()
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == MODE_LINK:
            target.symlink_to(content.decode())
        else:
            target.write_bytes(content)
            target.chmod(mode & 0o777)
    (tmp_path / "empty").mkdir()
    assert tree_digest(files()).hex() == write_tree_id(tmp_path)


def test_the_empty_tree_has_gits_well_known_id(tmp_path: Path) -> None:
    assert tree_digest({}).hex() == EMPTY_TREE == write_tree_id(tmp_path)


def test_a_directorys_id_is_its_entry_in_the_one_above() -> None:
    inner = directory_digest([TreeEntry(b"bar", 0o100644, blob_digest(b"1"))])
    outer = directory_digest([TreeEntry(b"foo", MODE_DIRECTORY, inner)])
    assert outer == tree_digest({b"foo/bar": (0o100644, blob_digest(b"1"))})


def test_a_content_can_be_hashed_in_pieces() -> None:
    assert blob_digest(b"content") == sha256(blob_header(7) + b"content")


def test_the_order_of_files_does_not_matter() -> None:
    assert tree_digest(dict(reversed(files().items()))) == tree_digest(files())


def test_every_difference_changes_the_id() -> None:
    first, tree = tree_digest(files()), files()
    for change in (
        {b"foo.c": (0o100644, blob_digest(b"2"))},
        {b"foo.c": (0o100755, blob_digest(b"3"))},
        {b"foo.d": (0o100644, blob_digest(b"2"))},
    ):
        assert tree_digest({**tree, **change}) != first


@pytest.mark.parametrize("path", [b"", b"/a", b"a/", b"a//b", b".", b"a/..", b"a\0"])
def test_a_path_that_is_not_plain_is_refused(path: bytes) -> None:
    assert refusal_code({path: (0o100644, blob_digest(b""))}) == "provenance.tree.name"


@pytest.mark.parametrize("mode", [0o160000, 0o100664, 0o104755, 0, MODE_DIRECTORY])
def test_another_mode_is_refused(mode: int) -> None:
    assert refusal_code({b"a": (mode, blob_digest(b""))}) == "provenance.tree.mode"


def test_a_path_is_not_a_file_and_a_directory() -> None:
    leaf = (0o100644, blob_digest(b""))
    assert refusal_code({b"a": leaf, b"a/b": leaf}) == "provenance.tree.duplicate"
    assert refusal_code({b"a/b": leaf, b"a": leaf}) == "provenance.tree.duplicate"
    with pytest.raises(InvalidMetadataError) as caught:
        directory_digest([TreeEntry(b"a", *leaf), TreeEntry(b"a", *leaf)])
    assert caught.value.code == "provenance.tree.duplicate"


def test_other_refusals_have_their_codes() -> None:
    assert refusal_code({b"a": (0o100644, Digest(b"short"))}) == "provenance.tree.digest"
    deep = b"d/" * (TREE_DEPTH_MAX + 1) + b"f"
    assert refusal_code({deep: (0o100644, blob_digest(b""))}) == "provenance.tree.depth"
    assert len(tree_digest({deep[2:]: (0o100644, blob_digest(b""))})) == 32
