"""Where the patch was built and tested: the field `build_environment`, and the canonical document that its hash is of.

The document is shaped like SLSA provenance's `internalParameters` and `resolvedDependencies`, has no time, no path and no host name, and is
hashed in canonical JSON: two builders with the same tools get the same hash. Collecting the facts is I/O and happens elsewhere.

Source: docs/spec/patch-file.md 4.6; SLSA provenance v1, `resolvedDependencies`; RFC 8785.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from provenance.errors import InvalidMetadataError, refuse_as
from provenance.limits import BUILD_DOCUMENT_BYTES_MAX, BUILD_ITEMS_MAX
from provenance.members import read_hex_digest, read_line, read_list, read_object, refuse_field
from wire import canonical_json
from wire.canonical_json import JsonValue
from wire.errors import RejectedError
from wire.hashing import sha256
from wire.limits import NAME_BYTES_MAX

DOCUMENT_FORMAT: Final = "patchwarden-build-environment/1"
_FACT_BYTES_MAX: Final = 4 * NAME_BYTES_MAX
"""One version line of a compiler, or one package URL."""
_MEMBERS: Final = frozenset({"sha256", "document"})


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that takes part in building: compiler, linker, interpreter."""

    name: str
    """As it is called, such as ``gcc``."""
    version: str
    """The first line of what it says about its version."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A library or package that was installed."""

    uri: str
    """A package URL, such as ``pkg:deb/debian/libc6@2.36-9?arch=amd64``."""
    sha256: str | None = None
    """Of its content, 64 hexadecimal digits; None where the package manager keeps none."""


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """Everything the document tells."""

    os_name: str
    """Such as ``debian``."""
    os_version: str
    """Such as ``12``."""
    kernel: str
    """Its release, such as ``6.1.0-18-amd64``."""
    machine: str
    """Such as ``x86_64``."""
    tools: Sequence[Tool]
    """In any order; no two with the same name and version."""
    dependencies: Sequence[Dependency]
    """In any order; no URI twice."""
    container_sha256: str | None = None
    """The image's digest when built in a container; otherwise None."""


@dataclass(frozen=True, slots=True)
class BuildEnvironment:
    """The field as the metadata holds it."""

    sha256: str
    """Of the canonical document, 64 hexadecimal digits."""
    document: bytes | None
    """The canonical JSON document, at most `BUILD_DOCUMENT_BYTES_MAX` bytes; None where only the hash is disclosed."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form, the document in it as an object."""
        return {"sha256": self.sha256, "document": None if self.document is None else _decode(self.document)}

    @classmethod
    def from_json_untrusted(cls, value: object) -> BuildEnvironment:
        """Return the checked record: where the document is disclosed, the hash is its hash.

        Raises:
            InvalidMetadataError: ``provenance.field.*``, ``provenance.metadata.build_environment_digest``.
        """
        name = "build_environment"
        members = read_object(value, name, _MEMBERS)
        digest = read_hex_digest(members["sha256"], f"{name}.sha256")
        document = members["document"]
        if document is None:
            return cls(digest, None)
        if not isinstance(document, dict):
            raise refuse_field(
                "object", f"{name}.document", "is not an object", "an object or null", type(document).__name__
            )
        encoded = canonical_json.encode(document)
        _check_size(len(encoded))
        if (actual := sha256(encoded).hex()) != digest:
            raise InvalidMetadataError(
                "provenance.metadata.build_environment_digest",
                "build_environment.sha256 is not the document's digest",
                expected=actual,
                actual=digest,
            )
        return cls(digest, encoded)


def build_environment(document: bytes, *, document_disclosed: bool = True) -> BuildEnvironment:
    """Return the field for a canonical document.

    Args:
        document: What `encode_build_document` returned, or another canonical JSON object.
        document_disclosed: False to keep only the hash in the metadata.

    Raises:
        InvalidMetadataError: The code of `wire.canonical_json`, or ``provenance.field.length``, ``provenance.field.object``.
    """
    _check_size(len(document))
    if not isinstance(_decode(document), dict):
        raise refuse_field("object", "build_environment.document", "is not an object", "an object", "another value")
    return BuildEnvironment(sha256(document).hex(), document if document_disclosed else None)


def encode_build_document(facts: BuildFacts) -> bytes:
    """Return the canonical document of some facts: the same bytes in whatever order tools and dependencies came.

    Raises:
        InvalidMetadataError: ``provenance.field.*`` for a fact that is no single clean line, or that stands there twice.
    """
    read_list(facts.tools, "tools", BUILD_ITEMS_MAX)
    read_list(facts.dependencies, "dependencies", BUILD_ITEMS_MAX)
    tools = sorted((_line(tool.name, "tool.name"), _line(tool.version, "tool.version")) for tool in facts.tools)
    _check_unique(tools, "tools")
    dependencies = sorted(facts.dependencies, key=lambda dependency: dependency.uri)
    _check_unique([dependency.uri for dependency in dependencies], "dependencies")
    container: JsonValue = None
    if facts.container_sha256 is not None:
        container = {"sha256": read_hex_digest(facts.container_sha256, "container_sha256")}
    encoded = canonical_json.encode(
        {
            "format": DOCUMENT_FORMAT,
            "internalParameters": {
                "os": {"name": _line(facts.os_name, "os_name"), "version": _line(facts.os_version, "os_version")},
                "kernel": _line(facts.kernel, "kernel"),
                "machine": _line(facts.machine, "machine"),
                "container": container,
                "tools": [{"name": name, "version": version} for name, version in tools],
            },
            "resolvedDependencies": [_describe(dependency) for dependency in dependencies],
        }
    )
    _check_size(len(encoded))
    return encoded


def _describe(dependency: Dependency) -> dict[str, JsonValue]:
    uri = _line(dependency.uri, "dependency.uri")
    if dependency.sha256 is None:
        return {"uri": uri}
    return {"uri": uri, "digest": {"sha256": read_hex_digest(dependency.sha256, "dependency.sha256")}}


def _line(value: str, name: str) -> str:
    return read_line(value, name, _FACT_BYTES_MAX)


def _check_unique(items: Sequence[object], name: str) -> None:
    for item, following in pairwise(items):
        if item == following:
            raise refuse_field("duplicate", name, "names one thing twice", None, item)


def _check_size(size: int) -> None:
    if size > BUILD_DOCUMENT_BYTES_MAX:
        raise refuse_field(
            "length", "build_environment.document", "is too long", f"at most {BUILD_DOCUMENT_BYTES_MAX} bytes", size
        )


def _decode(document: bytes) -> JsonValue:
    try:
        return canonical_json.decode_untrusted(document, bytes_max=BUILD_DOCUMENT_BYTES_MAX)
    except RejectedError as error:
        raise refuse_as(InvalidMetadataError, error, "build_environment.document") from error
