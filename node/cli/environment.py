"""What this machine builds with, collected for a patch's `build_environment`; and the test suite's files, hashed for `validation_tests`.

Everything here only looks: it runs `dpkg-query` and asks compilers for their versions, without a shell and with a time limit. What the
document looks like and how it is hashed is `provenance.build_environment`'s business.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from unicodedata import normalize

from node.cli.errors import CommandError, FileError
from node.cli.files import read_file
from provenance.build_environment import (
    BuildEnvironment,
    BuildFacts,
    Dependency,
    Tool,
    build_environment,
    encode_build_document,
)
from provenance.limits import BUILD_DOCUMENT_BYTES_MAX, TEST_FILES_MAX
from provenance.test_suite import SuiteFile, ValidationTests, hash_test_suite
from wire.hashing import Digest

TOOL_SECONDS_MAX: Final = 10
"""How long one program may take to say its version."""
TOOLS: Final = ("cc", "gcc", "clang", "ld", "make", "cmake", "rustc", "go", "java", "python3", "git")
"""Programs that are asked for their version where they are installed."""
TOOLS_AT_ONCE: Final = 4
_VERSION_OPTION: Final = {"go": "version"}
SKIPPED_DIRECTORIES: Final = frozenset({".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".mypy_cache"})
"""What tools leave in a test suite's folder without being part of it."""
READ_BYTES: Final = 1 << 20
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]+")
_PURL_UNSAFE: Final = re.compile(r"[^A-Za-z0-9.+~_-]")


def read_environment(source: str, *, digest_only: bool = False) -> BuildEnvironment:
    """Return the field `build_environment`.

    Args:
        source: ``auto`` to look at this machine, or the path of a JSON document that describes another.
        digest_only: Whether the metadata keeps only the document's hash.

    Raises:
        RejectedError: ``cli.file.*``, ``provenance.field.*``, ``wire.json.*``: the document is not acceptable.
    """
    if source == "auto":
        document = encode_build_document(collect_facts())
    else:
        from wire import canonical_json

        raw = read_file(Path(source), BUILD_DOCUMENT_BYTES_MAX)
        document = canonical_json.encode(
            canonical_json.decode_untrusted(raw, bytes_max=BUILD_DOCUMENT_BYTES_MAX, canonical=False)
        )
    return build_environment(document, document_disclosed=not digest_only)


def collect_facts() -> BuildFacts:
    """Return what this machine builds with."""
    release = _os_release()
    return BuildFacts(
        os_name=_line(release.get("ID", platform.system().lower())),
        os_version=_line(release.get("VERSION_ID", release.get("VERSION_CODENAME", "unknown"))),
        kernel=_line(platform.release()),
        machine=_line(platform.machine()),
        tools=_tools(),
        dependencies=_packages(release.get("ID", "debian")),
    )


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _tools() -> list[Tool]:
    installed = [(name, path) for name in TOOLS if (path := shutil.which(name)) is not None]
    # Side by side: some are scripts that start others, and each of those takes longer than all of our own work.
    with ThreadPoolExecutor(TOOLS_AT_ONCE) as pool:
        versions = pool.map(lambda each: _ask(each[1], _VERSION_OPTION.get(each[0], "--version")), installed)
    return [Tool(name, version) for (name, _), version in zip(installed, versions, strict=True) if version]


def _ask(*command: str) -> str:
    """Return the first line that a program says, or "" when it says nothing in time."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TOOL_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
    return _line(lines[0]) if lines and done.returncode == 0 else ""


def _packages(distribution: str) -> list[Dependency]:
    """Return the installed Debian packages as package URLs; none where the machine has no dpkg."""
    query = shutil.which("dpkg-query")
    if query is None:
        return []
    try:
        done = subprocess.run(
            [query, "--show", "--showformat=${db:Status-Status}\\t${Package}\\t${Version}\\t${Architecture}\\n"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TOOL_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    uris = set()
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        status, _, rest = line.partition("\t")
        parts = rest.split("\t")
        if status == "installed" and len(parts) == 3:
            package, version, architecture = (_escape(part) for part in parts)
            uris.add(f"pkg:deb/{_escape(distribution)}/{package}@{version}?arch={architecture}")
    return [Dependency(uri) for uri in sorted(uris)]


def _escape(text: str) -> str:
    """Return a purl component: what is not plain is percent-encoded (a Debian epoch's colon, for one)."""
    return _PURL_UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)


def _line(text: str) -> str:
    return " ".join(normalize("NFC", _UNPRINTABLE.sub(" ", text)).split())[:256] or "unknown"


def read_test_suite(path: Path) -> ValidationTests:
    """Return the field `validation_tests` for a folder of tests, or for one file.

    Folders that tools leave behind (`SKIPPED_DIRECTORIES`) are not part of the suite.

    Raises:
        CommandError: ``cli.tests.*``: it holds something that is not a regular file, or nothing can be read.
        RejectedError: ``provenance.suite.*``.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return hash_test_suite({os.fsencode(path.name): _suite_file(path, status)})
        files: dict[bytes, SuiteFile] = {}
        for folder, directories, names in os.walk(path, onerror=_raise):
            directories[:] = sorted(name for name in directories if name not in SKIPPED_DIRECTORIES)
            links = [name for name in directories if (Path(folder) / name).is_symlink()]
            for name in sorted([*names, *links]):
                place = Path(folder) / name
                files[os.fsencode(place.relative_to(path))] = _suite_file(place, place.lstat())
                if len(files) > TEST_FILES_MAX:
                    raise CommandError("cli.tests.too_many", f"{path} holds too many files", expected=TEST_FILES_MAX)
    except OSError as error:
        raise FileError("cli.tests.unreadable", f"{error.filename or path} cannot be read: {error.strerror}") from error
    return hash_test_suite(files)


def find_test_suite(base: Path) -> Path | None:
    """Return the folder of tests that a source tree most likely has, or None."""
    return next((base / name for name in ("tests", "test", "t", "spec") if (base / name).is_dir()), None)


def _suite_file(path: Path, status: os.stat_result) -> SuiteFile:
    if not stat.S_ISREG(status.st_mode):
        raise CommandError(
            "cli.tests.not_regular",
            f"{path} is not a regular file, so it cannot be part of a hashed test suite",
            hint="name a folder with regular files only",
        )
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
    return SuiteFile(0o100755 if status.st_mode & stat.S_IXUSR else 0o100644, Digest(digest.digest()))


def _raise(error: OSError) -> None:
    raise error
