"""The components of a wide patch: their list stands in the preamble, and the author's statement names its digest, counts and names.

A statement must fit one transaction, and some thousand digests do not. So the statement of a wide patch says, in the place of the list, how
many files each component has and the SHA-256 of the list; the list is a part of the body, one line a file, between `---` and the diff,
where no tool that applies patches reads anything. Whoever has the file has both; the ledger has the names, which is what it counts by.

Source: docs/spec/patch-file.md 3.1 and 4.4.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from provenance.components import AffectedComponent, check_component_order, read_component_name
from provenance.diff_model import ChangeKind
from provenance.errors import InvalidMetadataError, refuse_as
from provenance.limits import (
    COMPONENT_NAMES_MAX,
    COMPONENTS_SUMMARISED_MAX,
    COMPONENTS_SUMMARISED_MIN,
)
from provenance.members import read_choice, read_hex_digest, read_integer, read_list, read_object, refuse_field
from wire import canonical_json
from wire.canonical_json import JsonValue
from wire.errors import MalformedError
from wire.hashing import sha256

LISTING_PREFIX: Final = b"# "
"""In front of each line, as in front of all free text of a preamble."""
_BATCH_LINES: Final = 512
"""Lines decoded at once: few enough for the limits of one JSON document."""
_SUMMARY_MEMBERS: Final = frozenset({"components", "files", "sha256"})
_SHARE_MEMBERS: Final = frozenset({"changes", "files", "name", "paths"})
_PATHS_MEMBERS: Final = frozenset({"count", "sha256"})


@dataclass(frozen=True, slots=True)
class ComponentShare:
    """What a summary says about all files of one component."""

    name: str
    files: int
    """How many of the files have this name."""
    changes: tuple[str, ...]
    """Kinds of change to them, sorted: values of `ChangeKind`."""
    paths: int
    """How many paths are touched or copied: more than files where there are renames and copies."""
    paths_sha256: str
    """As `digest_paths` has it, 64 hexadecimal digits."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {
            "changes": list(self.changes),
            "files": self.files,
            "name": self.name,
            "paths": {"count": self.paths, "sha256": self.paths_sha256},
        }

    @classmethod
    def from_json_untrusted(cls, value: object, name: str) -> ComponentShare:
        """Return the checked record.

        Raises:
            InvalidMetadataError: ``provenance.field.*``.
        """
        members = read_object(value, name, _SHARE_MEMBERS)
        items = read_list(members["changes"], f"{name}.changes", len(ChangeKind), 1)
        changes = tuple(read_choice(item, f"{name}.changes[{i}]", tuple(ChangeKind)) for i, item in enumerate(items))
        if any(one >= following for one, following in pairwise(changes)):
            raise refuse_field("order", f"{name}.changes", "is not sorted, or names one kind twice", None, changes[-1])
        paths = read_object(members["paths"], f"{name}.paths", _PATHS_MEMBERS)
        return cls(
            name=read_component_name(members["name"], f"{name}.name"),
            files=read_integer(members["files"], f"{name}.files", 1, COMPONENTS_SUMMARISED_MAX),
            changes=changes,
            paths=read_integer(paths["count"], f"{name}.paths.count", 1, 2 * COMPONENTS_SUMMARISED_MAX),
            paths_sha256=read_hex_digest(paths["sha256"], f"{name}.paths.sha256"),
        )


@dataclass(frozen=True, slots=True)
class ComponentSummary:
    """What the statement of a wide patch says in place of its components."""

    sha256: str
    """Of the list: each component's canonical JSON and a line feed; 64 hexadecimal digits."""
    files: int
    """How many components the list has, `COMPONENTS_SUMMARISED_MIN` to `COMPONENTS_SUMMARISED_MAX`."""
    shares: tuple[ComponentShare, ...]
    """What each component has of them, sorted by the name's UTF-8 bytes."""

    @classmethod
    def of(cls, components: tuple[AffectedComponent, ...]) -> ComponentSummary:
        """Return the summary of a list of components."""
        return cls(_digest(encode_listing(components)), len(components), _share(components))

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {
            "components": [share.to_json() for share in self.shares],
            "files": self.files,
            "sha256": self.sha256,
        }

    @classmethod
    def from_json_untrusted(cls, value: object, name: str) -> ComponentSummary:
        """Return the checked record; whether there is such a list, the file knows.

        Raises:
            InvalidMetadataError: ``provenance.field.*``, among them ``provenance.field.order``; ``provenance.metadata.listing_files``
                when the files of the components are not as many as there are.
        """
        members = read_object(value, name, _SUMMARY_MEMBERS)
        files = read_integer(members["files"], f"{name}.files", COMPONENTS_SUMMARISED_MIN, COMPONENTS_SUMMARISED_MAX)
        items = read_list(members["components"], f"{name}.components", COMPONENT_NAMES_MAX, 1)
        shares = tuple(
            ComponentShare.from_json_untrusted(item, f"{name}.components[{index}]") for index, item in enumerate(items)
        )
        for one, following in pairwise(shares):
            if one.name.encode() >= following.name.encode():
                raise refuse_field(
                    "order", f"{name}.components", "is not sorted, or names one component twice", None, following.name
                )
        if (total := sum(share.files for share in shares)) != files:
            raise _disagree(
                "listing_files", "the components have another number of files than all together", files, total
            )
        return cls(read_hex_digest(members["sha256"], f"{name}.sha256"), files, shares)


def encode_listing(components: tuple[AffectedComponent, ...]) -> bytes:
    """Return the list as it stands in the preamble, one line a component, each behind `LISTING_PREFIX`."""
    return b"".join(b"%s%s\n" % (LISTING_PREFIX, canonical_json.encode(each.to_json())) for each in components)


def read_listing_untrusted(listing: bytes, summary: ComponentSummary) -> tuple[AffectedComponent, ...]:
    """Return the components that a list holds, which is the one of the summary.

    Args:
        listing: The lines of the preamble, as `provenance.layout` found them; empty when there are none.
        summary: What the author signed.

    Raises:
        InvalidMetadataError: ``provenance.metadata.listing_digest``, ``.listing_files``, ``.listing_components``; of a line
            ``wire.json.*``, ``provenance.field.*``, ``provenance.diff.path_*``.
    """
    if (digest := _digest(listing)) != summary.sha256:
        raise _disagree(
            "listing_digest", "the list of files is not the one that the author signed", summary.sha256, digest
        )
    lines = listing.split(b"\n")[:-1]
    if len(lines) != summary.files:
        raise _disagree("listing_files", "the list has another number of files", summary.files, len(lines))
    components: list[AffectedComponent] = []
    for begin in range(0, len(lines), _BATCH_LINES):
        components += _read_lines(lines[begin : begin + _BATCH_LINES], begin)
    found = tuple(components)
    check_component_order(found, "listing")
    if _share(found) != summary.shares:
        raise _disagree(
            "listing_components", "the components of the list are not the ones that the author names", None, None
        )
    return found


def component_paths(components: Iterable[AffectedComponent]) -> dict[str, tuple[str, ...]]:
    """Return the paths that components touch or copy, in byte order, none twice, by name; the names in byte order."""
    paths: dict[str, set[str]] = {}
    for component in components:
        touched = paths.setdefault(component.name, set())
        touched.add(component.path)
        if component.previous_path is not None:  # also of a copy: a policy may guard what is copied
            touched.add(component.previous_path)
    return {name: tuple(sorted(paths[name])) for name in sorted(paths)}


def digest_paths(paths: Iterable[str]) -> str:
    """Return the SHA-256 of paths, each in UTF-8 with a line feed; 64 hexadecimal digits."""
    return sha256("".join(f"{path}\n" for path in paths).encode()).hex()


def _share(components: tuple[AffectedComponent, ...]) -> tuple[ComponentShare, ...]:
    files: Counter[str] = Counter()
    changes: dict[str, set[str]] = {}
    for component in components:
        files[component.name] += 1
        changes.setdefault(component.name, set()).add(component.change.value)
    return tuple(
        ComponentShare(name, files[name], tuple(sorted(changes[name])), len(paths), digest_paths(paths))
        for name, paths in component_paths(components).items()
    )


def _digest(listing: bytes) -> str:
    """Return the SHA-256 of a list without the prefixes: what a person gets with `sed 's/^# //' | sha256sum`."""
    return sha256((b"\n" + listing).replace(b"\n" + LISTING_PREFIX, b"\n")[1:]).hex()


def _read_lines(lines: list[bytes], begin: int) -> list[AffectedComponent]:
    """Return the components of some lines. That each line is one in its canonical form shows when the preamble is rendered again."""
    array = b"[%s]" % b",".join(line[len(LISTING_PREFIX) :] for line in lines)
    try:
        values = canonical_json.decode_untrusted(array, bytes_max=len(array), canonical=False)
    except MalformedError as error:
        raise refuse_as(InvalidMetadataError, error, f"listing[{begin}]") from error
    items = read_list(values, "listing", len(lines), len(lines))
    return [AffectedComponent.from_json_untrusted(item, f"listing[{begin + i}]") for i, item in enumerate(items)]


def _disagree(rule: str, sentence: str, expected: object, actual: object) -> InvalidMetadataError:
    return InvalidMetadataError(f"provenance.metadata.{rule}", sentence, expected=expected, actual=actual)
