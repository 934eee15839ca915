"""The last reading of a tree: cheap to take again, never believed too much, and the same digest as reading everything."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.files import Files
from agent.inventory import Inventory, open_root
from agent.tree_cache import TreeCache, TreeDigests, encode_cache, read_cache
from provenance.tree_digest import blob_digest, tree_digest
from tests.testkit.agent import TREE, tree_digest_of, write_tree

AGE = 600.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    write_tree(root, TREE)
    (root / "deep" / "er" / "est").mkdir(parents=True)
    (root / "deep" / "er" / "est" / "file").write_bytes(b"deep\n")
    (root / "link").symlink_to("README")
    return root


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    descriptor = open_root(str(root))
    yield descriptor
    os.close(descriptor)


class Reads:
    """Counts which files are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import agent.tree_cache as module

        self.paths: list[bytes] = []
        original = module.read_digest

        def counted(root_fd: int, path: bytes, entry: object) -> object:
            self.paths.append(path)
            return original(root_fd, path, entry)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "read_digest", counted)

    def take(self) -> list[bytes]:
        taken, self.paths = sorted(self.paths), []
        return taken


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


class Clock:
    """The kernel's clock, moved on at will."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def now_ns(self) -> int:
        return time.time_ns() + self.ahead_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> TreeCache:
    return TreeCache(Files(), str(tmp_path / "tree-cache"), now_ns=clock.now_ns)


@pytest.fixture
def settled(root_fd: int, cache: TreeCache, clock: Clock, reads: Reads) -> Inventory:
    """Return a reading of the whole tree that was made a minute after the last change."""
    clock.ahead_ns = 60 * 10**9
    inventory = cache.scan(root_fd)
    reads.take()
    return inventory


def test_unchanged_tree_is_not_read_again(
    root: Path, root_fd: int, cache: TreeCache, clock: Clock, reads: Reads
) -> None:
    clock.ahead_ns = 60 * 10**9
    first = cache.scan(root_fd)
    assert first.tree_digest == tree_digest_of(root)
    assert len(reads.take()) == len(first.digests)
    again = cache.scan(root_fd)
    assert reads.take() == []
    assert (again.tree_digest, again.entries, again.digests) == (first.tree_digest, first.entries, first.digests)
    assert again.taken_ns > first.taken_ns


@pytest.mark.usefixtures("settled")
def test_full_scan_reads_everything(root_fd: int, cache: TreeCache, reads: Reads) -> None:
    assert len(cache.scan(root_fd, full=True).digests) == len(reads.take())


@pytest.mark.usefixtures("settled")
def test_changed_content_with_old_times_is_read(root: Path, root_fd: int, cache: TreeCache, reads: Reads) -> None:
    status = os.stat(root / "README")
    (root / "README").write_bytes(b"READ ME\n")
    os.utime(root / "README", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.scan(root_fd).tree_digest == tree_digest_of(root), (
        "size and mtime are as before, the kernel's ctime is not"
    )
    assert reads.take() == [b"README"]


def test_change_within_the_clocks_grain_is_seen(root: Path, root_fd: int, cache: TreeCache) -> None:
    for number in range(50):
        (root / "README").write_bytes(b"%08d" % number)
        cache.scan(root_fd)
        (root / "README").write_bytes(b"%08d" % (number + 1000))
        assert cache.scan(root_fd).tree_digest == tree_digest_of(root)


def test_young_files_are_read_until_they_settle(root_fd: int, cache: TreeCache, clock: Clock, reads: Reads) -> None:
    clock.ahead_ns = -(10**9)
    count = len(cache.scan(root_fd).digests)
    clock.ahead_ns = 10**9
    reads.take()
    cache.scan(root_fd)
    assert len(reads.take()) == count, "they may have changed within the tick in which they were read"
    cache.scan(root_fd)
    assert reads.take() == []


@pytest.mark.usefixtures("settled")
def test_every_kind_of_change_gives_the_digest_of_a_fresh_reading(root: Path, root_fd: int, cache: TreeCache) -> None:
    def to_directory() -> None:
        (root / "README.txt").unlink()
        (root / "README.txt").mkdir()
        (root / "README.txt" / "inside").write_bytes(b"in\n")

    def to_file() -> None:
        (root / "README.txt" / "inside").unlink()
        (root / "README.txt").rmdir()
        (root / "README.txt").write_bytes(b"file again\n")

    for change in (
        lambda: (root / "README").write_bytes(b"other"),
        lambda: (root / "README").chmod(0o755),
        lambda: (root / "README").rename(root / "README.txt"),
        lambda: (root / "a" / "b").mkdir(parents=True),
        lambda: (root / "a" / "b" / "c").symlink_to("README.txt"),
        to_directory,
        to_file,
        (root / "a" / "b" / "c").unlink,
        (root / "deep" / "er" / "est" / "file").unlink,
        lambda: (root / "bin").rename(root / "lib" / "bin"),
        (root / "link").unlink,
    ):
        change()
        assert cache.scan(root_fd).tree_digest == tree_digest_of(root)


def test_own_directory_is_not_looked_at(root: Path, tmp_path: Path, root_fd: int) -> None:
    before = tree_digest_of(root)
    (root / ".own").mkdir()
    (root / ".own" / "x").write_bytes(b"")
    (root / "src" / ".own").write_bytes(b"")
    inventory = TreeCache(Files(), str(tmp_path / "cache"), b".own").scan(root_fd)
    assert b".own" not in inventory.entries
    assert b"src/.own" in inventory.entries, "only in the root"
    (root / "src" / ".own").unlink()
    assert TreeCache(Files(), str(tmp_path / "cache"), b".own").scan(root_fd).tree_digest == before


# Refreshing


@pytest.mark.usefixtures("settled")
def test_refresh_looks_at_the_named_paths_only(root: Path, root_fd: int, cache: TreeCache, reads: Reads) -> None:
    (root / "README").write_bytes(b"new\n")
    (root / "bin" / "tool").write_bytes(b"unseen\n")
    seen = cache.refresh(root_fd, [b"README", b"src/frame.c", b"src/not there"], age_s_max=AGE)
    assert reads.take() == [b"README"]
    assert seen.digests[b"README"] == blob_digest(b"new\n")
    expected = {path: (seen.entries[path].git_mode, digest) for path, digest in seen.digests.items()}
    assert seen.tree_digest == tree_digest(expected)
    assert seen.tree_digest != tree_digest_of(root)
    assert cache.scan(root_fd).tree_digest == tree_digest_of(root), "the next scan sees everything"


@pytest.mark.usefixtures("settled")
def test_refresh_sees_what_came_and_what_went(root: Path, root_fd: int, cache: TreeCache, reads: Reads) -> None:
    (root / "src" / "added").write_bytes(b"added\n")
    (root / "link").unlink()
    (root / "bin" / "tool").chmod(0o644)
    seen = cache.refresh(root_fd, [b"src/added", b"link", b"bin/tool"], age_s_max=AGE)
    assert reads.take() == [b"bin/tool", b"src/added"]
    assert seen.tree_digest == tree_digest_of(root)
    assert b"link" not in seen.digests


@pytest.mark.parametrize(
    "kind", ["no scan", "old", "from the future", "directory made", "directory swapped", "file to directory"]
)
def test_refresh_scans_where_looking_at_paths_is_not_enough(
    root: Path, root_fd: int, cache: TreeCache, clock: Clock, kind: str
) -> None:
    clock.ahead_ns = 60 * 10**9
    if kind != "no scan":
        cache.scan(root_fd)
    path = b"new/file"
    if kind == "old":
        clock.ahead_ns += int(2 * AGE * 1e9)
    elif kind == "from the future":
        clock.ahead_ns -= 10**9
    elif kind == "directory made":
        (root / "new").mkdir()
        (root / "new" / "file").write_bytes(b"")
    elif kind == "directory swapped":
        path = b"src/frame.c"
        (root / "src").rename(root / "elsewhere")
        (root / "src").symlink_to("elsewhere")
    elif kind == "file to directory":
        path = b"README"
        (root / "README").unlink()
        (root / "README").mkdir()
    (root / "bin" / "tool").write_bytes(b"seen by a scan only\n")
    assert cache.refresh(root_fd, [path], age_s_max=AGE).tree_digest == tree_digest_of(root)


def test_preview_changes_nothing(root: Path, root_fd: int, cache: TreeCache) -> None:
    before = cache.scan(root_fd).tree_digest
    preview = cache.preview({b"README": None, b"deep/er/est/file": None, b"x/y": (0o100755, blob_digest(b"y"))})
    (root / "README").unlink()
    (root / "deep" / "er" / "est" / "file").unlink()
    (root / "x").mkdir()
    (root / "x" / "y").write_bytes(b"y")
    (root / "x" / "y").chmod(0o755)
    assert preview == tree_digest_of(root) != before
    assert cache.preview({}) == before


def test_directory_digests_survive_a_path_changing_its_kind() -> None:
    file = (0o100644, blob_digest(b"1"))
    digests = TreeDigests({b"a/b": file, b"c": file})
    assert digests.root == tree_digest({b"a/b": file, b"c": file})
    assert digests.change({b"a/b": None, b"a": file}) == tree_digest({b"a": file, b"c": file})
    assert digests.change({b"a": None, b"a/x/y": file}) == tree_digest({b"a/x/y": file, b"c": file})
    assert digests.change({b"a/x/y": None, b"c": None}) == tree_digest({})


# On the disk


def test_saved_reading_is_taken_over_by_the_next_process(
    root_fd: int, cache: TreeCache, settled: Inventory, tmp_path: Path, reads: Reads
) -> None:
    cache.save()
    other = TreeCache(Files(), str(tmp_path / "tree-cache"))
    again = other.scan(root_fd)
    assert reads.take() == []
    assert (again.tree_digest, again.digests, again.entries) == (settled.tree_digest, settled.digests, settled.entries)


def test_saving_twice_writes_once(root: Path, root_fd: int, tmp_path: Path, clock: Clock) -> None:
    calls: list[str] = []
    files = Files(lambda name, path: calls.append(name))
    cache = TreeCache(files, str(tmp_path / "tree-cache"), now_ns=clock.now_ns)
    cache.save()
    assert calls == [], "nothing was read"
    clock.ahead_ns = 60 * 10**9
    cache.scan(root_fd)
    cache.save()
    assert calls
    calls.clear()
    cache.scan(root_fd)
    cache.save()
    assert calls == []
    (root / "README").write_bytes(b"other")
    cache.scan(root_fd)
    cache.save()
    assert calls


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "header", "missing"])
def test_damaged_cache_is_no_cache(root_fd: int, cache: TreeCache, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "tree-cache"
    inventory = cache.scan(root_fd)
    cache.save()
    data = path.read_bytes()
    assert data == encode_cache(inventory)
    assert read_cache(str(path)) == inventory
    if damage == "flip":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif damage == "cut":
        path.write_bytes(data[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "header":
        path.write_bytes(b"patchwarden-tree-cache-2\n" + data[25:])
    else:
        path.unlink()
    assert read_cache(str(path)) is None
    assert TreeCache(Files(), str(path)).scan(root_fd).tree_digest == inventory.tree_digest


@pytest.mark.usefixtures("settled")
def test_forgotten_reading_is_made_anew(root_fd: int, cache: TreeCache, reads: Reads) -> None:
    cache.save()
    cache.forget()
    assert len(cache.scan(root_fd).digests) == len(reads.take())
