"""The real tools that apply patches, behind one function, so that tests can compare them with ours.

A tool runs in a fresh directory with settings of its own: no system or user configuration, no repository around it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from provenance.diff import MODE_EXECUTABLE, MODE_LINK, MODE_REGULAR, FileState

MAIL_HEADER = (
    b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
    b"From: Test <test@example.org>\nDate: Sun, 22 Nov 2026 06:50:00 +0000\nSubject: [PATCH] change\n\n---\n\n"
)
MAIL_FOOTER = b"-- \n1\n\n"
TOOL_SECONDS_MAX = 60


class Tool(Enum):
    """A way to apply a patch that people use."""

    GIT_APPLY = ("git", "apply", "--whitespace=nowarn")
    GIT_APPLY_INDEX = ("git", "apply", "--index", "--whitespace=nowarn")
    GIT_AM = ("git", "am", "--quiet", "--keep-cr")
    PATCH = ("patch", "-p1", "--force", "--no-backup-if-mismatch")
    PATCH_BATCH = ("patch", "-p1", "--batch", "--no-backup-if-mismatch")
    PATCH_EXACT = ("patch", "-p1", "--force", "--fuzz=0", "--no-backup-if-mismatch")
    BUSYBOX = ("busybox", "patch", "-p1")

    @property
    def is_installed(self) -> bool:
        """Whether the program is on this machine."""
        return shutil.which(self.value[0]) is not None

    @property
    def needs_repository(self) -> bool:
        return self in (Tool.GIT_APPLY_INDEX, Tool.GIT_AM)


INSTALLED = tuple(tool for tool in Tool if tool.is_installed)
GIT_TOOLS = tuple(tool for tool in INSTALLED if tool.value[0] == "git")
GNU_TOOLS = tuple(tool for tool in INSTALLED if tool.value[0] == "patch")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool did to a tree."""

    accepted: bool
    """Exit status 0."""
    tree: dict[str, FileState]
    """Every regular file and symbolic link afterwards, whatever the exit status."""
    output: str
    directories: frozenset[str] = frozenset()
    """Every directory below the root afterwards."""


def git_diff(pre: Mapping[str, FileState | None], post: Mapping[str, FileState | None]) -> bytes:
    """Return what git prints for the difference of two trees, without renames and without its heuristics about indentation."""
    return git_print(pre, post, "--full-index", "--no-renames", "--no-indent-heuristic", "--no-color", "-U3", "--text")


def git_print(pre: Mapping[str, FileState | None], post: Mapping[str, FileState | None], *options: str) -> bytes:
    """Return what `git diff` prints with these options for the difference of two trees."""
    with tempfile.TemporaryDirectory(prefix="patchwarden-git-") as name:
        root = Path(name, "tree")
        environment = _environment(name)
        write_tree(root, pre)
        for command in (("init", "-q"), ("add", "-A", "-f"), ("commit", "-q", "--allow-empty", "-m", "base")):
            subprocess.run(("git", *command), cwd=root, env=environment, check=True, capture_output=True)
        for path in post:
            (root / path).unlink(missing_ok=True)
        write_tree(root, post)
        subprocess.run(("git", "add", "-A", "-f"), cwd=root, env=environment, check=True, capture_output=True)
        command = ("git", "-c", "core.quotePath=false", "diff", "--cached", *options)
        return subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True).stdout


def run_tool(
    tool: Tool, tree: Mapping[str, FileState | None], patch: bytes, *, object_format: str | None = None
) -> Outcome:
    """Apply `patch` (for `git am`: a diff, the mail around it is added) to a copy of `tree` and return what became of it.

    With an `object_format`, git works in a repository of that kind even where it needs none.
    """
    with tempfile.TemporaryDirectory(prefix="patchwarden-applier-") as name:
        root = Path(name, "tree")
        write_tree(root, tree)
        environment = _environment(name)
        if tool.needs_repository or object_format is not None:
            kind = f"--object-format={object_format or 'sha1'}"
            for command in (("init", "-q", kind), ("add", "-A", "-f"), ("commit", "-q", "--allow-empty", "-m", "base")):
                subprocess.run(("git", *command), cwd=root, env=environment, check=True, capture_output=True)
        mail = MAIL_HEADER + patch + MAIL_FOOTER if tool is Tool.GIT_AM else patch
        done = subprocess.run(
            tool.value,
            cwd=root,
            env=environment,
            input=mail,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TOOL_SECONDS_MAX,
            check=False,
        )
        return outcome_in(root, done.returncode == 0, done.stdout)


def _environment(home: str) -> dict[str, str]:
    """Return neutral settings; PATH stays, so that a tool from elsewhere can be put in front."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": home,
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }


def write_tree(root: Path, tree: Mapping[str, FileState | None]) -> None:
    """Write every present file of `tree` beneath `root`, which is made."""
    root.mkdir(parents=True, exist_ok=True)
    for path, state in tree.items():
        if state is None:
            continue
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if state.mode == MODE_LINK:
            os.symlink(state.content, bytes(target))
            continue
        target.write_bytes(state.content)
        target.chmod(state.mode & 0o777)


def outcome_in(root: Path, accepted: bool, output: bytes) -> Outcome:
    """Return what a tool left beneath `root`."""
    tree, directories = read_tree(root, links=True), read_directories(root)
    return Outcome(accepted, tree, output.decode("utf-8", "replace"), directories)


def read_tree(root: Path, *, links: bool = False) -> dict[str, FileState]:
    """Return every regular file beneath `root` except git's own; with `links`, every symbolic link too."""
    found: dict[str, FileState] = {}
    for folder, folders, names in os.walk(root):
        if ".git" in folders and folder == str(root):
            folders.remove(".git")
        for file_name in (*names, *folders):
            path = Path(folder, file_name)
            name = str(path.relative_to(root))
            if path.is_symlink():
                if links:
                    found[name] = FileState(MODE_LINK, os.readlink(bytes(path)))
            elif file_name in names:
                mode = MODE_EXECUTABLE if path.stat().st_mode & 0o100 else MODE_REGULAR
                found[name] = FileState(mode, path.read_bytes())
    return found


def read_directories(root: Path) -> frozenset[str]:
    """Return every directory beneath `root` except git's own; no link to one."""
    found: set[str] = set()
    for folder, folders, _ in os.walk(root):
        if ".git" in folders and folder == str(root):
            folders.remove(".git")
        paths = (Path(folder, name) for name in folders)
        found.update(str(path.relative_to(root)) for path in paths if not path.is_symlink())
    return frozenset(found)
