"""The real git on a mail as it is, and on a tree: what `git am` commits, and which object ids git computes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provenance.diff_model import FileState
from tests.testkit.appliers import Outcome, outcome_in, write_tree

SECONDS_MAX = 60


@dataclass(frozen=True, slots=True)
class Commit:
    """What `git am` made of a mail."""

    author: str
    """Name and address, as in ``Alice <alice@example.org>``."""
    date: str
    """Author date, RFC 3339."""
    subject: str
    body: str


def am_file(tree: Mapping[str, FileState | None], mail: bytes, *options: str) -> tuple[Outcome, Commit]:
    """Run `git am` on exactly these bytes in a fresh repository that holds `tree`."""
    with tempfile.TemporaryDirectory(prefix="patchwarden-git-am-") as name:
        root = Path(name, "tree")
        write_tree(root, tree)
        for command in (("init", "-q"), ("add", "-A", "-f"), ("commit", "-q", "--allow-empty", "-m", "base")):
            _git(root, *command)
        done = _git(root, "am", *options, stdin=mail, check=False)
        shown = _git(root, "log", "-1", "--format=%an <%ae>%x00%aI%x00%s%x00%b").stdout.decode()
        outcome = outcome_in(root, done.returncode == 0, done.stdout + done.stderr)
        return outcome, Commit(*shown.rstrip("\n").split("\0"))


def write_tree_id(root: Path, object_format: str = "sha256") -> str:
    """Return the id that git gives to the tree of all files beneath `root`; its repository stays outside of it."""
    with tempfile.TemporaryDirectory(prefix="patchwarden-git-tree-") as name:
        git_dir = Path(name, "git")
        _git(root, "init", "-q", "--bare", f"--object-format={object_format}", str(git_dir))
        options = (f"--git-dir={git_dir}", f"--work-tree={root}", "-c", "core.bare=false", "-c", "core.autocrlf=false")
        _git(root, *options, "add", "-A", "-f", ".")
        return _git(root, *options, "write-tree").stdout.decode().strip()


def _git(folder: Path, *arguments: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run git with neutral settings."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    return subprocess.run(
        ("git", *arguments),
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=SECONDS_MAX,
        check=check,
    )
