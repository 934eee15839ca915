"""The author's metadata: the predicate of the author statement, field by field.

Every record prints itself with `to_json` and is read back by `from_json_untrusted`; both directions meet in `check_metadata_form`, so that
what our own tools build passes exactly the checks that a stranger's file passes. All members but the last are always present, in one form.

==========================  ====================================================================
`creation_timestamp`        RFC 3339, UTC, seconds, `Z`
`creator_identity`          provenance/identity.py
`reason_for_patch`          category, title, description, references
`affected_components`       provenance/components.py
`patch_diff`                format, digest and size of the diff that stands in the file
`build_environment`         provenance/build_environment.py
`validation_tests`          provenance/test_suite.py
`release_counter`           of the component, growing; against rollback
`supersedes`                patch ids, sorted
`prerequisites`             patch ids, sorted
`not_after`                 timestamp or null
`allowances`                only where there are any: what the diff does besides changing text, sorted
==========================  ====================================================================

Source: docs/spec/patch-file.md 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final
from unicodedata import normalize

from provenance.build_environment import BuildEnvironment
from provenance.component_listing import ComponentSummary, encode_listing, read_listing_untrusted
from provenance.components import AffectedComponent, FileImage, read_components_untrusted
from provenance.diff_model import MODE_LINK, Allowance, ChangeKind, Diff
from provenance.errors import InvalidMetadataError
from provenance.identity import CreatorIdentity, CreatorKind
from provenance.limits import DESCRIPTION_BYTES_MAX, PATCH_IDS_MAX, REFERENCE_BYTES_MAX, REFERENCES_MAX, TITLE_BYTES_MAX
from provenance.members import (
    read_choice,
    read_hex_digest,
    read_integer,
    read_line,
    read_list,
    read_object,
    read_optional,
    read_paragraphs,
    read_timestamp,
    refuse_field,
)
from provenance.test_suite import ValidationTests
from wire.canonical_json import JsonValue
from wire.hashing import sha256
from wire.limits import JSON_INTEGER_MAX

__all__ = [
    "DIFF_FORMAT",
    "AffectedComponent",
    "Allowance",
    "BuildEnvironment",
    "Category",
    "ChangeKind",
    "CreatorIdentity",
    "CreatorKind",
    "DiffSummary",
    "FileImage",
    "PatchMetadata",
    "Reason",
    "ValidationTests",
    "check_metadata_form",
    "normalise_text",
    "read_patch_ids",
]

DIFF_FORMAT: Final = "unified"
_TAB_COLUMNS: Final = 8

_REFERENCE: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}|https?://[!-~]+", re.ASCII)
"""What a reference is: a CVE id, or a URL in ASCII. Longer CVE numbers than 19 digits are not issued (CVE record format 5)."""
_ENCODED_WORD: Final = "=?"
"""Begins an encoded word (RFC 2047 2): a mail reader would show, and `git am` record, another title than the one signed."""

_REASON_MEMBERS: Final = frozenset({"category", "title", "description", "references"})
_DIFF_MEMBERS: Final = frozenset({"format", "sha256", "size_bytes", "files", "lines_added", "lines_removed"})
_METADATA_MEMBERS: Final = frozenset(
    {
        "creation_timestamp",
        "creator_identity",
        "reason_for_patch",
        "affected_components",
        "patch_diff",
        "build_environment",
        "validation_tests",
        "release_counter",
        "supersedes",
        "prerequisites",
        "not_after",
    }
)
_ALLOWANCES: Final = "allowances"
"""The only member that is left out where it would be empty: files without it are what they were before there was one."""


class Category(StrEnum):
    """Why a patch exists, in the specification's three words."""

    BUG_FIX = "bug-fix"
    SECURITY_UPDATE = "security-update"
    FEATURE = "feature"


@dataclass(frozen=True, slots=True)
class Reason:
    """The field `reason_for_patch`: for a person, except the category, which policy reads."""

    category: Category
    """One of the three."""
    title: str
    """One line, at most `TITLE_BYTES_MAX` bytes; the mail's subject."""
    description: str
    """Lines of text, 1 to `DESCRIPTION_BYTES_MAX` bytes."""
    references: tuple[str, ...]
    """CVE ids and URLs in the author's order, none twice, at most `REFERENCES_MAX`."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {
            "category": self.category.value,
            "title": self.title,
            "description": self.description,
            "references": list(self.references),
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> Reason:
        """Return the checked record.

        Raises:
            InvalidMetadataError: ``provenance.field.*``.
        """
        name = "reason_for_patch"
        members = read_object(value, name, _REASON_MEMBERS)
        title = read_line(members["title"], f"{name}.title", TITLE_BYTES_MAX)
        if _ENCODED_WORD in title:
            raise refuse_field(
                "encoded_word", f"{name}.title", "could be decoded by a mail reader", "a title without =?", title
            )
        references = read_list(members["references"], f"{name}.references", REFERENCES_MAX)
        return cls(
            category=Category(read_choice(members["category"], f"{name}.category", tuple(Category))),
            title=title,
            description=read_paragraphs(members["description"], f"{name}.description", DESCRIPTION_BYTES_MAX, 1),
            references=_unique(
                tuple(_read_reference(item, f"{name}.references[{i}]") for i, item in enumerate(references)),
                f"{name}.references",
            ),
        )


@dataclass(frozen=True, slots=True)
class DiffSummary:
    """The field `patch_diff` of the predicate: what the diff of the file must be. Its text is the file's own."""

    sha256: str
    """Of the diff's bytes, 64 hexadecimal digits."""
    size_bytes: int
    """Of the diff."""
    files: int
    """Sections of the diff."""
    lines_added: int
    """Lines that begin with `+` in hunks."""
    lines_removed: int
    """Lines that begin with `-` in hunks."""

    @classmethod
    def of(cls, diff: Diff) -> DiffSummary:
        """Return the summary of a parsed diff."""
        return cls(sha256(diff.text).hex(), len(diff.text), len(diff.files), diff.lines_added, diff.lines_removed)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {
            "format": DIFF_FORMAT,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "files": self.files,
            "lines_added": self.lines_added,
            "lines_removed": self.lines_removed,
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> DiffSummary:
        """Return the checked record.

        Raises:
            InvalidMetadataError: ``provenance.field.*``.
        """
        name = "patch_diff"
        members = read_object(value, name, _DIFF_MEMBERS)
        read_choice(members["format"], f"{name}.format", (DIFF_FORMAT,))
        size_bytes, files, lines_added, lines_removed = (
            read_integer(members[member], f"{name}.{member}")
            for member in ("size_bytes", "files", "lines_added", "lines_removed")
        )
        return cls(read_hex_digest(members["sha256"], f"{name}.sha256"), size_bytes, files, lines_added, lines_removed)


@dataclass(frozen=True, slots=True)
class PatchMetadata:
    """Everything the author signs besides the bytes of preamble and diff."""

    creation_timestamp: str
    """When the author says the patch was made; the ledger's order, not this, decides what came first."""
    creator_identity: CreatorIdentity
    """Who signs."""
    reason_for_patch: Reason
    """Why."""
    affected_components: tuple[AffectedComponent, ...]
    """One for each changed file, sorted by the UTF-8 bytes of the path; of a wide patch empty until its file was read."""
    patch_diff: DiffSummary
    """Which diff."""
    build_environment: BuildEnvironment
    """Built and tested where."""
    validation_tests: ValidationTests
    """Tested with what."""
    release_counter: int
    """1 or more; a host refuses a patch of a component whose counter is not above the highest it has seen."""
    supersedes: tuple[str, ...] = ()
    """Patch ids that this one replaces, sorted, none twice."""
    prerequisites: tuple[str, ...] = ()
    """Patch ids that must be installed before, sorted, none twice, none of `supersedes`."""
    not_after: str | None = None
    """No host applies the patch later than this; None for no end. Later than `creation_timestamp`."""
    allowances: tuple[Allowance, ...] = ()
    """What the patch does that a host must allow by itself, sorted; exactly what the diff needs, and `REMOVE_DIRECTORY` if it is to."""
    component_summary: ComponentSummary | None = None
    """Of a wide patch, what its statement says instead of `affected_components`; None where it lists them."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """Return the names of the affected components, sorted, none twice; known without the file, also of a wide patch."""
        if self.component_summary is not None:
            return tuple(share.name for share in self.component_summary.shares)
        return tuple(sorted({component.name for component in self.affected_components}))

    def to_json(self) -> dict[str, JsonValue]:
        """Return the predicate of the author statement."""
        allowances: list[JsonValue] = [each.value for each in self.allowances]
        return {
            **({_ALLOWANCES: allowances} if allowances else {}),
            "creation_timestamp": self.creation_timestamp,
            "creator_identity": self.creator_identity.to_json(),
            "reason_for_patch": self.reason_for_patch.to_json(),
            "affected_components": (
                [component.to_json() for component in self.affected_components]
                if self.component_summary is None
                else self.component_summary.to_json()
            ),
            "patch_diff": self.patch_diff.to_json(),
            "build_environment": self.build_environment.to_json(),
            "validation_tests": self.validation_tests.to_json(),
            "release_counter": self.release_counter,
            "supersedes": list(self.supersedes),
            "prerequisites": list(self.prerequisites),
            "not_after": self.not_after,
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> PatchMetadata:
        """Return the checked record; agreement with a diff is `provenance.verify`'s business.

        Raises:
            InvalidMetadataError: ``provenance.field.*``, ``provenance.diff.path_*``, ``provenance.metadata.build_environment_digest``,
                ``provenance.metadata.not_after`` (it ends before it begins), ``provenance.metadata.prerequisite_superseded``,
                ``provenance.metadata.allowance_missing`` (a link without `symlink`).
        """
        allows = isinstance(value, dict) and _ALLOWANCES in value
        members = read_object(value, "predicate", _METADATA_MEMBERS | {_ALLOWANCES} if allows else _METADATA_MEMBERS)
        components = members["affected_components"]
        is_wide = isinstance(components, dict)
        metadata = cls(
            creation_timestamp=read_timestamp(members["creation_timestamp"], "creation_timestamp"),
            creator_identity=CreatorIdentity.from_json_untrusted(members["creator_identity"]),
            reason_for_patch=Reason.from_json_untrusted(members["reason_for_patch"]),
            affected_components=() if is_wide else read_components_untrusted(components, "affected_components"),
            patch_diff=DiffSummary.from_json_untrusted(members["patch_diff"]),
            build_environment=BuildEnvironment.from_json_untrusted(members["build_environment"]),
            validation_tests=ValidationTests.from_json_untrusted(members["validation_tests"]),
            release_counter=read_integer(members["release_counter"], "release_counter", 1, JSON_INTEGER_MAX),
            supersedes=read_patch_ids(members["supersedes"], "supersedes"),
            prerequisites=read_patch_ids(members["prerequisites"], "prerequisites"),
            not_after=read_optional(members["not_after"], "not_after", read_timestamp),
            allowances=_read_allowances(members[_ALLOWANCES]) if allows else (),
            component_summary=(
                ComponentSummary.from_json_untrusted(components, "affected_components") if is_wide else None
            ),
        )
        _check_links(metadata)
        # Timestamps have one form of fixed length, so the order of their texts is the order of time.
        if metadata.not_after is not None and metadata.not_after <= metadata.creation_timestamp:
            raise InvalidMetadataError(
                "provenance.metadata.not_after",
                "the patch expires before it is created",
                expected=f"after {metadata.creation_timestamp}",
                actual=metadata.not_after,
            )
        if both := set(metadata.supersedes).intersection(metadata.prerequisites):
            raise InvalidMetadataError(
                "provenance.metadata.prerequisite_superseded",
                "a patch is both a prerequisite and superseded",
                actual=min(both),
            )
        return metadata


def check_metadata_form(metadata: PatchMetadata) -> None:
    """Return when `metadata`, built by our own tools, is what a stranger would read back from its JSON form.

    Raises:
        InvalidMetadataError: As `PatchMetadata.from_json_untrusted`.
    """
    read_back = PatchMetadata.from_json_untrusted(metadata.to_json())
    if metadata.component_summary is not None:
        read_back = read_wide(read_back, encode_listing(metadata.affected_components))
    assert read_back == metadata, "a record has a value that its JSON form does not carry"


def read_wide(metadata: PatchMetadata, listing: bytes) -> PatchMetadata:
    """Return the metadata with the components of a wide patch, from the lines of its preamble; any other metadata as it is.

    Args:
        metadata: As the author's statement has it.
        listing: The lines between `---` and the diff; empty where there are none.

    Raises:
        InvalidMetadataError: As `read_listing_untrusted`; ``provenance.metadata.allowance_missing``.
    """
    if metadata.component_summary is None:
        return metadata
    wide = replace(metadata, affected_components=read_listing_untrusted(listing, metadata.component_summary))
    _check_links(wide)
    return wide


def read_patch_ids(value: object, name: str) -> tuple[str, ...]:
    """Return `value`, a list of at most `PATCH_IDS_MAX` patch ids, sorted, none twice.

    Raises:
        InvalidMetadataError: ``provenance.field.*``, among them ``provenance.field.order``.
    """
    items = read_list(value, name, PATCH_IDS_MAX)
    ids = tuple(read_hex_digest(item, f"{name}[{i}]") for i, item in enumerate(items))
    for patch_id, following in pairwise(ids):
        if patch_id >= following:
            raise refuse_field("order", name, "is not sorted, or names one patch twice", None, following)
    return ids


def _read_allowances(value: object) -> tuple[Allowance, ...]:
    items = read_list(value, _ALLOWANCES, len(Allowance), 1)
    found = [Allowance(read_choice(item, f"{_ALLOWANCES}[{i}]", tuple(Allowance))) for i, item in enumerate(items)]
    for one, following in pairwise(found):
        if one >= following:
            raise refuse_field("order", _ALLOWANCES, "is not sorted, or names one thing twice", None, following)
    return tuple(found)


def _check_links(metadata: PatchMetadata) -> None:
    """Refuse images of links in a patch that may have none."""
    if Allowance.SYMLINK in metadata.allowances:
        return
    for component in metadata.affected_components:
        for image in (component.pre, component.post):
            if image is not None and image.mode == MODE_LINK:
                raise InvalidMetadataError(
                    "provenance.metadata.allowance_missing",
                    f"{component.path!a}: a link is described, which the patch does not allow itself",
                    expected=Allowance.SYMLINK.value,
                )


def normalise_text(text: str, *, multiline: bool = False) -> str:
    """Return what a person meant by `text` in the one form that metadata accepts; forbidden characters stay and are refused later.

    Normal form C, line feeds only, tabs expanded, no white space at the end of a line or of the whole; for one line, every run of white
    space becomes one space.
    """
    composed = normalize("NFC", text)
    if not multiline:
        return " ".join(composed.split())
    lines = composed.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.expandtabs(_TAB_COLUMNS).rstrip() for line in lines).strip()


def _read_reference(value: object, name: str) -> str:
    text = read_line(value, name, REFERENCE_BYTES_MAX)
    if _REFERENCE.fullmatch(text) is None:
        raise refuse_field("reference", name, "is neither a CVE id nor a URL", "CVE-YYYY-NNNN or http(s)://…", text)
    return text


def _unique(items: tuple[str, ...], name: str) -> tuple[str, ...]:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise refuse_field("duplicate", name, "names one thing twice", None, item)
        seen.add(item)
    return items
