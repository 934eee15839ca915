"""Real Debian source packages: fetched with the machine's own apt, unpacked into memory, with their quilt patches in order.

Nothing of the system is changed: apt gets its own lists, cache and source list in a folder of the caller. Which archive to ask is
read from apt's configuration when the test runs.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenance.diff import MODE_EXECUTABLE, MODE_REGULAR, FileState

APT_SECONDS_MAX = 300


class SourceUnavailableError(Exception):
    """The sources cannot be had here; the message says why, for `pytest.skip`."""


@dataclass(frozen=True, slots=True)
class QuiltPatch:
    """One patch of a source package."""

    name: str
    """As `debian/patches/series` gives it."""
    strip: int
    """Leading components to strip: 1 unless the series says otherwise."""
    data: bytes


@dataclass(frozen=True, slots=True)
class SourcePackage:
    """One unpacked source package."""

    name: str
    version: str
    base: dict[str, FileState]
    """The upstream tree before any patch: every regular file by its path."""
    patches: tuple[QuiltPatch, ...]
    """In the order of the series."""
    copyright: str
    """`debian/copyright`."""


class SourceArchive:
    """Debian's archive as apt on this machine knows it, asked with lists and caches in a folder of the caller.

    Args:
        folder: An empty folder for apt's files; the caller removes it.

    Raises:
        SourceUnavailableError: No apt, no archive, or no connection.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("apt-get") is None:
            raise SourceUnavailableError("apt-get is not installed")
        self._options = _private_apt(folder)
        _run(("apt-get", *self._options, "update"), folder)
        self._downloads = folder / "downloads"
        self._downloads.mkdir()

    def fetch(self, name: str) -> SourcePackage:
        """Return a source package, fetched and unpacked.

        Raises:
            SourceUnavailableError: The archive does not give it.
        """
        command = ("apt-get", *self._options, "source", "--download-only", "--only-source", name)
        _run(command, self._downloads)
        return read_source_package(name, self._downloads)


def fetch_source_packages(names: Sequence[str], folder: Path) -> Iterator[SourcePackage]:
    """Fetch source packages with apt and yield them unpacked, in the order of `names`.

    Args:
        names: Names of source packages.
        folder: An empty folder for apt's files; the caller removes it.

    Raises:
        SourceUnavailableError: No apt, no archive, or no connection.
    """
    archive = SourceArchive(folder)
    for name in names:
        yield archive.fetch(name)


def read_source_package(name: str, folder: Path) -> SourcePackage:
    """Return the package whose `.dsc`, `.orig.tar.*` and `.debian.tar.*` lie in `folder`."""
    (description,) = folder.glob(f"{name}_*.dsc")
    version = description.name.removeprefix(f"{name}_").removesuffix(".dsc")
    upstream = version.rpartition("-")[0]
    (original,) = (path for path in folder.glob(f"{name}_{upstream}.orig.tar.*") if path.suffix != ".asc")
    (packaging,) = folder.glob(f"{name}_{version}.debian.tar.*")
    base = {path.partition("/")[2]: state for path, state in _read_tar(original)}
    for path in sorted(folder.glob(f"{name}_{upstream}.orig-*.tar.*")):
        # A further upstream tarball stands in a directory of its own name.
        component = path.name.removeprefix(f"{name}_{upstream}.orig-").partition(".tar.")[0]
        if path.suffix != ".asc":
            files = dict(_read_tar(path))
            below = {each.partition("/")[0] for each in files if "/" in each}
            # As dpkg-source unpacks it: one directory around everything does not count.
            strip = len(below) == 1 and all("/" in each for each in files)
            base |= {f"{component}/{each.partition('/')[2] if strip else each}": state for each, state in files.items()}
    debian = dict(_read_tar(packaging))
    series = debian["debian/patches/series"].content.decode()
    return SourcePackage(
        name=name,
        version=version,
        base=base,
        patches=tuple(_read_series(series, debian)),
        copyright=debian["debian/copyright"].content.decode("utf-8", "replace"),
    )


def _read_series(series: str, debian: dict[str, FileState]) -> Iterator[QuiltPatch]:
    for line in series.splitlines():
        words = line.partition("#")[0].split()
        if words:
            strips = [int(word[2:]) for word in words[1:] if word.startswith("-p")]
            yield QuiltPatch(words[0], strips[0] if strips else 1, debian[f"debian/patches/{words[0]}"].content)


def _read_tar(path: Path) -> Iterator[tuple[str, FileState]]:
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                mode = MODE_EXECUTABLE if member.mode & 0o100 else MODE_REGULAR
                yield member.name.removeprefix("./"), FileState(mode, content.read())


def _private_apt(folder: Path) -> list[str]:
    """Return the options with which apt keeps to `folder`, and write its list of source archives there."""
    targets = _run(
        (
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
            "Created-By: Packages",
            "Origin: Debian",
        ),
        folder,
    )
    archives = sorted({tuple(line.split("|")) for line in targets.splitlines()})
    if not archives:
        raise SourceUnavailableError("apt knows no Debian archive, or its lists are empty")
    source_list = folder / "sources.list"
    source_list.write_text("".join(f"deb-src {uri} {release} {component}\n" for uri, release, component in archives))
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": source_list,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": folder / "state",
        "Dir::State::Status": "/var/lib/dpkg/status",
        "Dir::Cache": folder / "cache",
        # The folder is a test's own, which apt's unprivileged user may not enter.
        "APT::Sandbox::User": "root",
        "Acquire::Retries": 2,
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _run(command: Sequence[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=APT_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise SourceUnavailableError(f"{command[0]} did not finish in {APT_SECONDS_MAX} s") from None
    # `apt-get update` answers 0 even when it reached nothing, and says so in a warning.
    if done.returncode != 0 or "Failed to fetch" in done.stderr:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise SourceUnavailableError(f"{command[0]} failed: {reason[0] if reason else done.returncode}")
    return done.stdout
