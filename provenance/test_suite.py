"""What the patch was validated with: the field `validation_tests`, and the hash of a test suite's tree.

The hash is of a list, one record for each file, so that anybody recomputes it with sha256sum and sort::

    patchwarden-tree-sha256/1 LF
    MODE SP SHA256 SP PATH NUL          100644 or 100755, the content's digest in hexadecimal, the path relative to the suite's root
    …                                   sorted by the bytes of PATH

Source: docs/spec/patch-file.md 4.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from provenance.diff_model import MODES
from provenance.errors import InvalidMetadataError
from provenance.limits import METHOD_BYTES_MAX, PATH_BYTES_MAX, TEST_FILES_MAX
from provenance.members import read_hex_digest, read_integer, read_line, read_object
from wire.canonical_json import JsonValue
from wire.hashing import DIGEST_BYTES, Digest, sha256

METHOD_TREE: Final = "patchwarden-tree-sha256/1"
"""The method of `hash_test_suite`. Another tool may name another one; then the hash is only compared, never recomputed."""
_MEMBERS: Final = frozenset({"sha256", "count", "method"})


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """One file of a test suite."""

    mode: int
    """One of `MODES`."""
    digest: Digest
    """Plain SHA-256 of its content, 32 bytes."""


@dataclass(frozen=True, slots=True)
class ValidationTests:
    """The field as the metadata holds it. Results are not here: they are attestations of whoever ran the tests."""

    sha256: str
    """Hash of the test suite, 64 hexadecimal digits."""
    count: int
    """Files that were hashed."""
    method: str
    """How they were hashed, at most `METHOD_BYTES_MAX` bytes."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {"sha256": self.sha256, "count": self.count, "method": self.method}

    @classmethod
    def from_json_untrusted(cls, value: object) -> ValidationTests:
        """Return the checked record.

        Raises:
            InvalidMetadataError: ``provenance.field.*``.
        """
        name = "validation_tests"
        members = read_object(value, name, _MEMBERS)
        return cls(
            sha256=read_hex_digest(members["sha256"], f"{name}.sha256"),
            count=read_integer(members["count"], f"{name}.count", 0, TEST_FILES_MAX),
            method=read_line(members["method"], f"{name}.method", METHOD_BYTES_MAX),
        )


def hash_test_suite(files: Mapping[bytes, SuiteFile]) -> ValidationTests:
    """Return the field for a test suite.

    Args:
        files: Every regular file by its path relative to the suite's root, `/` between components; 1 to `TEST_FILES_MAX`.

    Raises:
        InvalidMetadataError: ``provenance.suite.empty``, ``.too_many``, ``.path``, ``.mode``, ``.digest``.
    """
    if not files:
        raise InvalidMetadataError(
            "provenance.suite.empty", "the test suite has no files", hint="Name the folder that holds the tests."
        )
    if len(files) > TEST_FILES_MAX:
        raise InvalidMetadataError(
            "provenance.suite.too_many", "the test suite has too many files", expected=TEST_FILES_MAX, actual=len(files)
        )
    lines = [METHOD_TREE.encode() + b"\n"]
    for path in sorted(files):
        file = files[path]
        _check_file(path, file)
        lines.append(b"%06o %s %s\0" % (file.mode, file.digest.hex().encode(), path))
    return ValidationTests(sha256(b"".join(lines)).hex(), len(files), METHOD_TREE)


def _check_file(path: bytes, file: SuiteFile) -> None:
    if len(path) > PATH_BYTES_MAX or b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise InvalidMetadataError(
            "provenance.suite.path", "a path of the test suite is not relative and plain", actual=path
        )
    if file.mode not in MODES:
        raise InvalidMetadataError(
            "provenance.suite.mode",
            "a file of the test suite has another mode",
            expected="100644 or 100755",
            actual=f"{file.mode:o}",
        )
    if len(file.digest) != DIGEST_BYTES:
        raise InvalidMetadataError(
            "provenance.suite.digest",
            "a digest of the test suite has the wrong length",
            expected=DIGEST_BYTES,
            actual=len(file.digest),
        )
