"""Where foreign patches come from: a file or mailbox, a quilt series, a range of commits; and the tree before the first of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from node.cli.errors import CommandError, FileError
from node.cli.files import read_file
from node.cli.source_tree import FILE_BYTES_MAX
from provenance.diff_model import MODE_EXECUTABLE, MODE_LINK, MODE_REGULAR, FileState
from provenance.diff_paths import check_path
from provenance.errors import ImportRefusedError
from provenance.import_metadata import read_metadata
from provenance.import_series import SERIES_PATCHES_MAX, Source, order_mails, split_mailbox_untrusted
from provenance.imports import read_foreign_patch_untrusted
from wire.limits import PATCH_FILE_BYTES_MAX

SERIES_FILE_BYTES_MAX: Final = 1024 * 1024
SERIES_FILE: Final = "series"
GIT_SECONDS_MAX: Final = 120
_RANGE: Final = re.compile(r"(?P<old>[^.\s-](?:\S*?[^.\s])?)\.\.(?P<new>[^.\s-]\S*)")
_STRIP: Final = re.compile(r"-p([0-9]{1,3})")
_STRIPS: Final = (0, 1)
_OPTIONS: Final = (
    *("-c", "core.quotePath=false", "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false"),
    *("-c", "log.showSignature=false", "-c", "diff.renameLimit=1000"),
)


def from_file(path: Path) -> tuple[list[Source], list[str]]:
    """Return the patches of a file, in order, and sentences about what of a mailbox is left out or moved.

    A mailbox, which is also what hosting sites give for a pull request with `.patch`, holds one patch a mail; a mail without one (a cover
    letter) is left out.

    Raises:
        FileError: ``cli.file.*``.
        ImportRefusedError: ``provenance.import.series_length``.
    """
    mails = split_mailbox_untrusted(read_file(path, PATCH_FILE_BYTES_MAX))
    if len(mails) == 1:
        return [Source(path.name, mails[0])], []
    said: list[str] = []
    sources: list[Source] = []
    known = []
    line = 1
    for number, mail in enumerate(mails, 1):
        name = f"{path.name}:{line}"
        line += mail.count(b"\n")
        try:
            known.append(read_foreign_patch_untrusted(mail).metadata)
        except ImportRefusedError as error:
            if error.code == "provenance.import.no_diff":
                title = read_metadata(mail).title
                said.append(f"{name}: mail {number} holds no patch and is left out: {title!a}")
                continue
            known.append(read_metadata(mail.partition(b"\ndiff --git ")[0]))
        sources.append(Source(name, mail))
    order = order_mails(known)
    if order != sorted(order):
        said.append(f"{path.name}: the mails are taken in the order of their numbers [PATCH n/m], not of the mailbox")
    return [sources[index] for index in order], said


def from_series(path: Path) -> list[Source]:
    """Return the patches of a quilt series: `path` is the series file, or the directory that holds one.

    An entry that cannot be taken is a source with its refusal: ``cli.series.entry`` (no file beside the series), ``cli.series.strip``,
    ``cli.series.option`` or ``cli.file.*``.

    Raises:
        FileError: ``cli.file.*``: of the series file.
    """
    series = path / SERIES_FILE if path.is_dir() else path
    sources = []
    try:
        lines = read_file(series, SERIES_FILE_BYTES_MAX).decode().split("\n")
    except UnicodeDecodeError:
        raise FileError("cli.file.not_utf8", f"{series} is not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            sources.append(_from_entry(series, number, words[0], words[1:]))
        except CommandError as error:
            sources.append(Source(words[0], b"", refusal=error))
    return sources


def _from_entry(series: Path, number: int, name: str, options: list[str]) -> Source:
    """Return the patch of one line of a quilt series.

    Raises:
        CommandError: ``cli.series.*``, ``cli.file.*``.
    """
    where = f"{series} line {number}"
    beside = os.path.normpath(series.parent) + os.sep
    place = os.path.normpath(os.path.join(series.parent, name))
    if not place.startswith(beside):
        raise CommandError(
            "cli.series.entry", f"{where}: a patch of the series is a file beside it", actual=name,
            details={"line": number},
        )  # fmt: skip
    strip = 1
    for option in options:
        match = _STRIP.fullmatch(option)
        if match is None:
            raise CommandError(
                "cli.series.option", f"{where}: of quilt's options only -p0 and -p1 are known", actual=option,
                hint="a patch that quilt applies with -R must be turned round first, for example with interdiff FILE /dev/null",
                details={"line": number},
            )  # fmt: skip
        strip = int(match[1])
        if strip not in _STRIPS:
            raise CommandError(
                "cli.series.strip", f"{where}: the names of a patch lose one leading component or none", expected="-p1 or -p0",
                actual=option, hint=f"refresh it in quilt with: quilt refresh -p1 {name}", details={"line": number},
            )  # fmt: skip
    return Source(name, read_file(Path(place), PATCH_FILE_BYTES_MAX), strip)


class GitRange:
    """The commits of `OLD..NEW`, oldest first, and the tree of OLD. Configuration, hooks and filters of the repository do not count.

    Raises:
        CommandError: ``cli.git.missing``, ``cli.git.range``, ``cli.git.failed``, ``cli.git.merge``.
    """

    def __init__(self, repository: Path, text: str, *, links: bool = False) -> None:
        match = _RANGE.fullmatch(text)
        if match is None:
            raise CommandError("cli.git.range", "a range is written OLD..NEW", actual=text)
        self._repository = repository
        self._links = links
        self._old = self._resolve(match["old"])
        new = self._resolve(match["new"])
        listed = (
            self._git("rev-list", "--reverse", "--topo-order", "--parents", f"{self._old}..{new}").decode().split("\n")
        )
        self.commits: list[str] = []
        for line in filter(None, listed):
            commit, *parents = line.split()
            if len(parents) != 1 or parents[0] not in (self._old, *self.commits[-1:]):
                raise CommandError(
                    "cli.git.merge",
                    f"{text} is no straight line of commits: {commit[:12]} has other parents than the commit before it",
                    hint="rebase the branch on OLD, or import `git format-patch` files",
                )
            self.commits.append(commit)
        if not 1 <= len(self.commits) <= SERIES_PATCHES_MAX:
            raise CommandError(
                "cli.git.range",
                "a range holds at least one commit",
                expected=f"1 to {SERIES_PATCHES_MAX} commits",
                actual=len(self.commits),
            )

    def sources(self) -> list[Source]:
        """Return one patch a commit, with its author, message and name."""
        return [self._source(commit) for commit in self.commits]

    def read(self, path: str) -> FileState | None:
        """Return the state of one file in the tree of OLD, or None when it is not there.

        Raises:
            DiffRefusedError: ``provenance.diff.path_*``.
            CommandError: ``cli.base.link``, ``cli.base.not_regular``, ``cli.base.too_large``, ``cli.git.failed``.
        """
        check_path(path)
        listed = self._git("ls-tree", "-z", "-l", "--full-tree", self._old, "--", f":(literal){path}")
        if not listed:
            return None
        mode, kind, name, size = listed.partition(b"\t")[0].decode().split()
        if mode == "120000" and self._links:
            return FileState(MODE_LINK, self._git("cat-file", "blob", name))
        if mode == "120000":
            raise CommandError("cli.base.link", f"{path} is a symbolic link, and links are not patched")
        if kind != "blob":
            raise CommandError("cli.base.not_regular", f"{path} is not a regular file")
        if int(size) > FILE_BYTES_MAX:
            raise CommandError("cli.base.too_large", f"{path} is too long", expected=f"at most {FILE_BYTES_MAX} bytes")
        content = self._git("cat-file", "blob", name)
        return FileState(MODE_EXECUTABLE if mode == "100755" else MODE_REGULAR, content)

    def _source(self, commit: str) -> Source:
        message = self._git(
            "log", "-1", "--format=From: %an <%ae>%nDate: %aD%nSubject: %s%n%n%b", "--encoding=UTF-8", commit
        )
        said = read_metadata(message)
        diff = self._git(
            *(
                "diff-tree",
                "-p",
                "--no-commit-id",
                "--root",
                "--full-index",
                "--binary",
                "-M",
                "--no-ext-diff",
                "--no-textconv",
            ),
            *("--no-color", "--src-prefix=a/", "--dst-prefix=b/", commit),
        )
        return Source(commit[:12], diff, 1, replace(said, origin=said.origin or f"commit {commit}"))

    def _resolve(self, name: str) -> str:
        return self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()

    def _git(self, *arguments: str) -> bytes:
        git = shutil.which("git")
        if git is None:
            raise CommandError(
                "cli.git.missing", "git is not installed", hint="import `git format-patch` files instead"
            )
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C"}
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_TERMINAL_PROMPT": "0"}
        try:
            done = subprocess.run(
                [git, *_OPTIONS, *arguments],
                cwd=self._repository,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=GIT_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CommandError("cli.git.failed", f"git {arguments[0]} did not finish: {error}") from error
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace").strip() or "it knows no such commit"
            raise CommandError("cli.git.failed", f"git {arguments[0]} failed: {words}", actual=" ".join(arguments[-1:]))
        return done.stdout
