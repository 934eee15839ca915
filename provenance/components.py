"""What the patch touches: the field `affected_components`, and its agreement with the diff.

The author signs the digest of every file before and after. Those digests are what application checks on the host; here is checked
everything about them that the diff alone can prove.

Source: docs/spec/patch-file.md 4.4 and 7.3.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from provenance.diff_apply import apply_each
from provenance.diff_model import MODE_LINK, MODES, Allowance, BinaryPart, ChangeKind, Diff, FileChange, FileState
from provenance.diff_paths import check_path
from provenance.errors import DiffRefusedError, InvalidMetadataError, refuse_as
from provenance.limits import COMPONENT_NAME_BYTES_MAX, COMPONENTS_MAX
from provenance.members import (
    read_choice,
    read_hex_digest,
    read_line,
    read_list,
    read_object,
    read_optional,
    refuse_field,
)
from wire.canonical_json import JsonValue
from wire.hashing import sha256

_IMAGE_MEMBERS: Final = frozenset({"sha256", "mode"})
_COMPONENT_MEMBERS: Final = frozenset({"name", "path", "previous_path", "change", "pre", "post"})
_MODE_TEXTS: Final = tuple(f"{mode:06o}" for mode in (*MODES, MODE_LINK))
MOVES: Final = (ChangeKind.RENAME, ChangeKind.COPY)
"""The kinds of change that begin with a file at another path."""
_PURL: Final = re.compile(r"pkg:[a-z][a-z0-9.+-]*/[!-~]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileImage:
    """One regular file, or symbolic link, at one moment, by digest."""

    sha256: str
    """Of its content (of a link: its target), 64 hexadecimal digits."""
    mode: int
    """One of `MODES`, or `MODE_LINK`."""

    @classmethod
    def of(cls, state: FileState) -> FileImage:
        """Return the image of a file's state."""
        return cls(sha256(state.content).hex(), state.mode)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form; the mode as git writes it, six octal digits."""
        return {"sha256": self.sha256, "mode": f"{self.mode:06o}"}

    @classmethod
    def from_json_untrusted(cls, value: object, name: str) -> FileImage:
        """Return the checked record.

        Raises:
            InvalidMetadataError: ``provenance.field.*``.
        """
        members = read_object(value, name, _IMAGE_MEMBERS)
        mode = read_choice(members["mode"], f"{name}.mode", _MODE_TEXTS)
        return cls(read_hex_digest(members["sha256"], f"{name}.sha256"), int(mode, 8))


@dataclass(frozen=True, slots=True)
class AffectedComponent:
    """One changed file and the component it belongs to."""

    name: str
    """A package URL such as ``pkg:deb/debian/foo@1.2``, or a free name; one line, at most `COMPONENT_NAME_BYTES_MAX` bytes."""
    path: str
    """The path after the change, or the path that a deletion removes; one that `provenance.diff_paths` accepts."""
    change: ChangeKind
    """What happens to it."""
    pre: FileImage | None
    """The file before; None when added. For a rename or copy: the file at `previous_path`."""
    post: FileImage | None
    """The file after; None when deleted."""
    previous_path: str | None = None
    """The path before a rename, or the source of a copy; None otherwise."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "path": self.path,
            "previous_path": self.previous_path,
            "change": self.change.value,
            "pre": self.pre.to_json() if self.pre else None,
            "post": self.post.to_json() if self.post else None,
        }

    @classmethod
    def from_json_untrusted(cls, value: object, name: str) -> AffectedComponent:
        """Return the checked record: the images and the previous path are there exactly where the kind of change has them.

        Raises:
            InvalidMetadataError: ``provenance.field.*``, ``provenance.diff.path_*``.
        """
        members = read_object(value, name, _COMPONENT_MEMBERS)
        component = cls(
            name=read_component_name(members["name"], f"{name}.name"),
            path=_read_path(members["path"], f"{name}.path"),
            change=ChangeKind(read_choice(members["change"], f"{name}.change", tuple(ChangeKind))),
            pre=read_optional(members["pre"], f"{name}.pre", FileImage.from_json_untrusted),
            post=read_optional(members["post"], f"{name}.post", FileImage.from_json_untrusted),
            previous_path=read_optional(members["previous_path"], f"{name}.previous_path", _read_path),
        )
        found = (component.pre is not None, component.post is not None, component.previous_path is not None)
        change = component.change
        demanded = (change is not ChangeKind.ADD, change is not ChangeKind.DELETE, change in MOVES)
        for member, is_demanded, is_found in zip(("pre", "post", "previous_path"), demanded, found, strict=True):
            if is_demanded != is_found:
                raise refuse_field(
                    "image",
                    f"{name}.{member}",
                    f"does not fit the change {change}",
                    _presence(is_demanded),
                    _presence(is_found),
                )
        return component


def read_components_untrusted(value: object, name: str) -> tuple[AffectedComponent, ...]:
    """Return the checked components: at least one, sorted by the UTF-8 bytes of their paths, no path twice.

    Raises:
        InvalidMetadataError: ``provenance.field.*``, among them ``provenance.field.order``.
    """
    items = read_list(value, name, COMPONENTS_MAX, 1)
    components = tuple(AffectedComponent.from_json_untrusted(item, f"{name}[{i}]") for i, item in enumerate(items))
    check_component_order(components, name)
    return components


def check_component_order(components: tuple[AffectedComponent, ...], name: str) -> None:
    """Return when components are sorted by the UTF-8 bytes of their paths, no path twice.

    Raises:
        InvalidMetadataError: ``provenance.field.order``.
    """
    paths = [component.path.encode() for component in components]
    for index, (path, following) in enumerate(pairwise(paths)):
        if path >= following:
            raise refuse_field(
                "order",
                f"{name}[{index + 1}].path",
                "does not follow the path before it in byte order",
                None,
                following,
            )


def describe_components(
    diff: Diff,
    pre: Mapping[str, FileState | None],
    post: Mapping[str, FileState | None],
    names: Mapping[str, str],
    name_default: str,
) -> tuple[AffectedComponent, ...]:
    """Return the components that `diff` touches, in the order the metadata demands.

    Args:
        diff: The parsed diff.
        pre: Every touched path's state before; None where there is no file.
        post: Every touched path's state after.
        names: The component name of a path, where it is not `name_default`.
        name_default: The component name of every other path.
    """
    components = (_describe(change, pre, post, names.get(change.path, name_default)) for change in diff.files)
    return tuple(sorted(components, key=lambda component: component.path.encode()))


def describe_applied(
    diff: Diff,
    read: Callable[[str], FileState | None],
    names: Mapping[str, str],
    name_default: str,
    progress: Callable[[int], None] | None = None,
) -> tuple[AffectedComponent, ...]:
    """Return what `describe_components` returns for a diff that is applied file by file, of which no content is kept.

    Args:
        diff: The parsed diff.
        read: The state of a path before the diff.
        names: The component name of a path, where it is not `name_default`.
        name_default: The component name of every other path.
        progress: Told how many files are done.

    Raises:
        ApplyRefusedError: ``provenance.apply.*``.
    """
    components = []
    for change, before, after in apply_each(diff, read):
        components.append(_describe(change, before, after, names.get(change.path, name_default)))
        if progress is not None:
            progress(len(components))
    return tuple(sorted(components, key=lambda component: component.path.encode()))


def _describe(
    change: FileChange, pre: Mapping[str, FileState | None], post: Mapping[str, FileState | None], name: str
) -> AffectedComponent:
    before = pre.get(change.old_path) if change.old_path is not None else None
    after = post.get(change.new_path) if change.new_path is not None else None
    return AffectedComponent(
        name=name,
        path=change.path,
        change=change.kind,
        pre=FileImage.of(before) if before else None,
        post=FileImage.of(after) if after else None,
        previous_path=change.old_path if change.kind in MOVES else None,
    )


def check_allowances(allowances: tuple[Allowance, ...], diff: Diff) -> None:
    """Return when the author allows nothing that the diff has no use for; what it needs and does not have, its parser has refused.

    Raises:
        InvalidMetadataError: ``provenance.metadata.allowance_unused``.
    """
    useful = set(diff.needs)
    if any(change.kind in (ChangeKind.DELETE, ChangeKind.RENAME) and "/" in change.paths[0] for change in diff.files):
        useful.add(Allowance.REMOVE_DIRECTORY)
    if unused := sorted(set(allowances) - useful):
        raise InvalidMetadataError(
            "provenance.metadata.allowance_unused",
            "the metadata allow something that the diff does not do",
            actual=unused[0].value,
        )


def check_components(components: tuple[AffectedComponent, ...], diff: Diff) -> None:
    """Return when the components are those of the diff: paths, kinds, modes, and the digests that the diff determines.

    Raises:
        InvalidMetadataError: ``provenance.metadata.component_missing`` (a path of the diff is not described),
            ``.component_extra`` (a described path is not in the diff), ``.component_change``, ``.component_mode``, ``.component_digest``.
    """
    described = {component.path: component for component in components}
    changes = {change.path: change for change in diff.files}
    for path in changes:
        if path not in described:
            raise _disagree(
                "component_missing", path, "the diff changes a path that affected_components does not name", None, None
            )
    for path, component in described.items():
        if path not in changes:
            raise _disagree(
                "component_extra", path, "affected_components names a path that the diff does not change", None, None
            )
        _check_component(component, changes[path])
    _check_sources(components)


def _check_component(component: AffectedComponent, change: FileChange) -> None:
    path = component.path
    previous_path = change.old_path if change.kind in MOVES else None
    if (component.change, component.previous_path) != (change.kind, previous_path):
        found = f"{component.change} from {component.previous_path}" if component.previous_path else component.change
        demanded = f"{change.kind} from {previous_path}" if previous_path else change.kind
        raise _disagree("component_change", path, "the change is not the diff's", demanded, found)
    _check_modes(component, change)
    if change.binary is not None:
        _check_binary(component, change.binary)
    elif component.pre and component.post:
        # Without hunks the content stays; hunks that leave it as it was would say nothing and are refused.
        if (component.pre.sha256 == component.post.sha256) != (not change.changes_content):
            raise _disagree("component_digest", path, "the digests before and after do not fit the hunks", None, None)
    # An added file is all there in the diff, a deleted one too.
    elif component.post and component.post.sha256 != (digest := _content_digest(change, b"+")):
        raise _disagree("component_digest", path, "post is not the added file's digest", digest, component.post.sha256)
    elif component.pre and component.pre.sha256 != (digest := _content_digest(change, b"-")):
        raise _disagree("component_digest", path, "pre is not the deleted file's digest", digest, component.pre.sha256)


def _check_sources(components: tuple[AffectedComponent, ...]) -> None:
    """Refuse two statements about one file before the patch: a copied file may be changed, or copied, elsewhere as well."""
    before: dict[str, FileImage] = {}
    for component in components:
        if component.pre is None:
            continue
        source = component.previous_path or component.path
        known = before.setdefault(source, component.pre)
        if known != component.pre:
            raise _disagree(
                "component_digest", component.path, f"pre is not what another component says of {source!a}", known, None
            )


def _check_binary(component: AffectedComponent, binary: tuple[BinaryPart, BinaryPart]) -> None:
    """Refuse images that are not the two contents that stand in the diff."""
    for image, part, member in zip((component.pre, component.post), binary, ("pre", "post"), strict=True):
        if image and image.sha256 != (digest := sha256(part.content).hex()):
            raise _disagree(
                "component_digest", component.path, f"{member} is not the content's digest", digest, image.sha256
            )


def _check_modes(component: AffectedComponent, change: FileChange) -> None:
    """Refuse images whose modes are not what the diff says, or differ where it says nothing."""
    pre, post = component.pre, component.post
    for image, mode, member in ((pre, change.old_mode, "pre"), (post, change.new_mode, "post")):
        if image and mode is not None and image.mode != mode:
            raise _disagree(
                "component_mode", component.path, f"{member}.mode is not the diff's", f"{mode:06o}", f"{image.mode:06o}"
            )
    if not change.is_link and any(image and image.mode == MODE_LINK for image in (pre, post)):
        raise _disagree(
            "component_mode", component.path, "the diff does not say that it is a link", None, f"{MODE_LINK:06o}"
        )
    if pre and post and change.old_mode == change.new_mode and pre.mode != post.mode:
        raise _disagree(
            "component_mode",
            component.path,
            "the mode changes without the diff saying so",
            f"{pre.mode:06o}",
            f"{post.mode:06o}",
        )


def _content_digest(change: FileChange, marker: bytes) -> str:
    """Return the digest of all lines with a marker: the whole content of an added or deleted file."""
    hasher = hashlib.sha256()
    for hunk in change.hunks:
        for line in hunk.lines:
            if line.startswith(marker):
                hasher.update(memoryview(line)[1:])
    return hasher.hexdigest()


def read_component_name(value: object, name: str) -> str:
    """Return a component's name: one line, and a package URL if it begins like one.

    Raises:
        InvalidMetadataError: ``provenance.field.*``.
    """
    text = read_line(value, name, COMPONENT_NAME_BYTES_MAX)
    if text.startswith("pkg:") and _PURL.fullmatch(text) is None:
        raise refuse_field(
            "purl", name, "begins like a package URL but is none", "pkg:type/name in ASCII without spaces", text
        )
    return text


def _read_path(value: object, name: str) -> str:
    """Return a path that a diff may name: the same rule, so that metadata without its diff is safe to act on too."""
    if not isinstance(value, str):
        raise refuse_field("text", name, "is not a text", "text", type(value).__name__)
    try:
        check_path(value)
    except DiffRefusedError as error:
        raise refuse_as(InvalidMetadataError, error, name) from error
    return value


def _presence(is_present: bool) -> str:
    return "a value" if is_present else "null"


def _disagree(rule: str, path: str, sentence: str, expected: object, actual: object) -> InvalidMetadataError:
    # The path stands in the sentence escaped: a name from a hostile file must not reach a terminal as it is.
    return InvalidMetadataError(
        f"provenance.metadata.{rule}", f"{path!a}: {sentence}", expected=expected, actual=actual, details={"path": path}
    )
