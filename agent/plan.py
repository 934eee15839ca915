"""What a patch would make of a target: every pre-image read and proven, every post-image computed in memory and proven.

Engine-independent safety: digests and modes before and after are those the author signed, so a mistake in applying can only refuse. Paths
are walked beneath the root one component at a time, and a link on the way refuses. Nothing is written here.

Source: docs/spec/agent.md 6.1; docs/spec/diff.md 5.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from agent.errors import ApplyFailedError, ApplyRefusedError
from agent.files import is_missing
from agent.inventory import Entry, Inventory, read_file
from provenance.components import FileImage
from provenance.diff_apply import apply_each
from provenance.diff_model import MODE_LINK, Allowance, ChangeKind, FileState
from provenance.diff_reverse import undo_each
from provenance.verify import VerifiedPatch

_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What becomes of one path."""

    path: bytes
    """Relative to the root, `/` between components."""
    post: FileState | None
    """The file after the patch, or None when it is removed."""
    inherits: bytes | None
    """The path whose owner, permissions and attributes the new file takes over: itself, the old path of a rename, the source of a copy, or
    None if added."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one patch changes on one target, proven against the tree as it is."""

    changes: tuple[PlannedChange, ...]
    """One for each touched path, sorted by path."""
    pre_images: Mapping[bytes, FileImage | None]
    """Digest and mode of every touched path and copied file before; None where nothing may be."""
    removes_directories: bool = False
    """Whether directories that the patch empties are removed; otherwise they stay, empty."""
    is_reverse: bool = False
    """Whether it undoes a patch: what stands there before is what the patch had made."""


OwnNames = Callable[[bytes, Entry], int]
"""Returns how many names of a file of the target are the agent's own."""


def no_own_names(path: bytes, entry: Entry) -> int:
    """Return 0: the agent keeps no second names of files."""
    return 0


def make_plan(
    patch: VerifiedPatch,
    root_fd: int,
    inventory: Inventory,
    allowed: tuple[Allowance, ...] = (),
    progress: Callable[[int], None] | None = None,
    *,
    own_names: OwnNames = no_own_names,
) -> Plan:
    """Return the plan of a verified patch for the tree that `inventory` describes.

    Args:
        patch: What its author signed.
        root_fd: The target's root, open.
        inventory: The target as it is.
        allowed: What the target's operator lets patches do besides changing text.
        progress: Told how many files of the diff are done.
        own_names: Counts the names of a file that are the agent's own, and keep nothing alive.

    Raises:
        ApplyRefusedError: ``agent.apply.not_allowed``, ``agent.apply.pre_image``, ``agent.apply.post_image``, ``agent.apply.link``,
            ``agent.apply.not_a_file``, ``agent.apply.hard_link``, ``agent.apply.special_mode``.
        provenance.errors.ApplyRefusedError: ``provenance.apply.*``.
        ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
    """
    _check_allowed(patch.metadata.allowances, allowed)
    sources = {each.path: each.previous_path or each.path for each in patch.metadata.affected_components}
    return _make_plan(patch, root_fd, inventory, sources, progress, own_names=own_names, reverse=False)


def make_reverse_plan(
    patch: VerifiedPatch,
    root_fd: int,
    inventory: Inventory,
    progress: Callable[[int], None] | None = None,
    *,
    own_names: OwnNames = no_own_names,
) -> Plan:
    """Return the plan that undoes an installed patch: every touched path becomes what the author signed as its pre-image.

    No allowance is asked for: what the patch was allowed to do may be undone. Directories that only held what the patch added go with it.

    Raises:
        ApplyRefusedError: As `make_plan`; ``agent.apply.pre_image`` where a path is no longer what the patch made of it.
        provenance.errors.ApplyRefusedError: ``provenance.apply.*``.
        ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
    """
    renamed = (each for each in patch.metadata.affected_components if each.change is ChangeKind.RENAME)
    sources = {each.previous_path: each.path for each in renamed if each.previous_path is not None}
    return _make_plan(patch, root_fd, inventory, sources, progress, own_names=own_names, reverse=True)


def _make_plan(
    patch: VerifiedPatch,
    root_fd: int,
    inventory: Inventory,
    sources: Mapping[str, str],
    progress: Callable[[int], None] | None,
    *,
    own_names: OwnNames,
    reverse: bool,
) -> Plan:
    """Return the plan of a patch or of its opposite.

    Args:
        patch: What its author signed.
        root_fd: The target's root, open.
        inventory: The target as it is.
        sources: From where a path takes owner, permissions and attributes, where that is not the path itself.
        progress: Told how many files of the diff are done.
        own_names: Counts the names of a file that are the agent's own.
        reverse: Whether to undo it.
    """
    links = Allowance.SYMLINK in patch.metadata.allowances
    expected, promised = _images(patch, before=not reverse), _images(patch, before=reverse)
    present: set[str] = set()

    def read(path: str) -> FileState | None:
        state = _read_state(root_fd, inventory, path, links=links)
        _check_image("pre_image", path, state, expected[path], reverse=reverse)
        if state is not None:
            present.add(path)
        return state

    post: dict[str, FileState | None] = {}
    if reverse:
        results = (result for _, result in undo_each(patch.diff, read))
    else:
        results = (result for _, _, result in apply_each(patch.diff, read))
    for count, result in enumerate(results, 1):  # what was there before is not kept
        post.update(result)
        if progress is not None:
            progress(count)
    for path, state in post.items():
        _check_image("post_image", path, state, promised[path], reverse=reverse)
    changes = tuple(
        PlannedChange(path.encode(), post[path], _inherits(path, sources, present))
        for path in sorted(post, key=str.encode)
    )
    copies = {each.path.encode() for each in patch.metadata.affected_components if each.change is ChangeKind.COPY}
    for change in changes:
        _check_preservable(change, inventory, own_names, is_copy=change.path in copies)
    images = {path.encode(): image for path, image in expected.items()}
    return Plan(changes, images, reverse or Allowance.REMOVE_DIRECTORY in patch.metadata.allowances, reverse)


def check_pre_images(plan: Plan, root_fd: int, inventory: Inventory) -> None:
    """Return when every touched path still is what the author signed as its pre-image; files are read again.

    Raises:
        ApplyRefusedError: As `make_plan`.
        ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
    """
    for path, image in plan.pre_images.items():
        links = image is not None and image.mode == MODE_LINK
        state = _read_state(root_fd, inventory, path.decode(), links=links)
        _check_image("pre_image", path.decode(), state, image, reverse=plan.is_reverse)


def emptied_directories(plan: Plan, inventory: Inventory) -> tuple[bytes, ...]:
    """Return the directories that only held removed files, each before the one that it is in; those that were empty before stay.

    None when the plan does not remove directories.
    """
    removed = [change.path for change in plan.changes if change.post is None and change.path in inventory.entries]
    if not plan.removes_directories or not removed:
        return ()
    candidates = {parent for path in removed for parent in _parents(path)}
    changed = {change.path for change in plan.changes}
    left = dict.fromkeys(candidates, 0)
    for path, entry in inventory.entries.items():
        parent = os.path.dirname(path)
        if parent in left and (entry.is_directory or path not in changed):
            left[parent] += 1
    for change in plan.changes:
        for parent in _parents(change.path) if change.post is not None else ():
            if parent in left:
                left[parent] += 1
    found: list[bytes] = []
    for directory in sorted(candidates, key=lambda path: path.count(b"/"), reverse=True):
        if left[directory] == 0:
            found.append(directory)
            above = os.path.dirname(directory)
            if above in left:
                left[above] -= 1
    return tuple(found)


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


def _images(patch: VerifiedPatch, *, before: bool) -> dict[str, FileImage | None]:
    """Return the signed image of every touched path, before also of copied files; verification has proven that these are the diff's."""
    images: dict[str, FileImage | None] = {}
    for component in patch.metadata.affected_components:
        if before:
            images.setdefault(component.path, None)
            images[component.previous_path or component.path] = component.pre
        else:
            if component.change is ChangeKind.RENAME and component.previous_path is not None:
                images.setdefault(component.previous_path, None)
            images[component.path] = component.post
    return images


def _check_allowed(wanted: tuple[Allowance, ...], allowed: tuple[Allowance, ...]) -> None:
    for each in wanted:
        if each not in allowed:
            raise ApplyRefusedError(
                "agent.apply.not_allowed",
                f"the patch needs an allowance that this target does not give: {each.value}",
                expected=", ".join(allowed) or "none",
                actual=each.value,
                hint="the target's operator decides: agent target allow",
            )


def _read_state(root_fd: int, inventory: Inventory, path: str, *, links: bool) -> FileState | None:
    """Return the file at `path`, or None when nothing is there; a link only where the patch may be about one."""
    raw = path.encode()
    _check_directories(root_fd, raw)
    try:
        status = os.lstat(raw, dir_fd=root_fd)
    except OSError as error:
        if is_missing(error):
            return None
        raise ApplyFailedError("agent.target.unreadable", f"{path} cannot be read ({error.strerror})") from error
    entry = inventory.entries.get(raw)
    if stat.S_ISLNK(status.st_mode):
        if not links:
            raise _refuse("link", "the patch names a path that is a symbolic link here", path)
        if entry is None or entry.inode != status.st_ino:
            raise ApplyFailedError(
                "agent.target.changing", "a link of the target changes while it is read", actual=path
            )
        return FileState(MODE_LINK, os.readlink(raw, dir_fd=root_fd))
    if not stat.S_ISREG(status.st_mode):
        raise _refuse("not_a_file", "the patch names a path that is no regular file here", path)
    if entry is None or entry.inode != status.st_ino:
        raise ApplyFailedError("agent.target.changing", "a file of the target changes while it is read", actual=path)
    return FileState(entry.git_mode, read_file(root_fd, raw, entry))


def _check_directories(root_fd: int, path: bytes) -> None:
    """Return when every directory on the way to `path` is one itself, or is missing; a link could lead out of the root."""
    components = path.split(b"/")[:-1]
    for count in range(1, len(components) + 1):
        directory = b"/".join(components[:count])
        try:
            status = os.lstat(directory, dir_fd=root_fd)
        except OSError as error:
            if is_missing(error):
                return
            raise ApplyFailedError(
                "agent.target.unreadable", f"{os.fsdecode(directory)} cannot be read ({error.strerror})"
            ) from error
        if stat.S_ISLNK(status.st_mode):
            raise _refuse("link", "the patch goes through a symbolic link here", os.fsdecode(directory))
        if not stat.S_ISDIR(status.st_mode):
            raise _refuse(
                "not_a_file", "the patch goes through something that is no directory here", os.fsdecode(directory)
            )


def _check_image(rule: str, path: str, state: FileState | None, image: FileImage | None, *, reverse: bool) -> None:
    found = None if state is None else FileImage.of(state)
    if found == image:
        return
    is_now = rule == "pre_image"
    hint = (
        "put back what the patch had made there" if reverse else "the patch was made for another state of this target"
    )
    raise ApplyRefusedError(
        f"agent.apply.{rule}",
        f"{path} {'after' if is_now == reverse else 'before'} the patch is not what its author signed",
        expected=_show(image),
        actual=_show(found),
        hint=hint if is_now else "",
        details={"path": path},
    )


def _show(image: FileImage | None) -> str:
    return "no file" if image is None else f"mode {image.mode:06o} sha256 {image.sha256}"


def _inherits(path: str, sources: Mapping[str, str], present: Set[str]) -> bytes | None:
    source = sources.get(path, path)
    return source.encode() if source in present else None


def _check_preservable(change: PlannedChange, inventory: Inventory, own_names: OwnNames, *, is_copy: bool) -> None:
    """Refuse where a new file could not stand for the old one: other names of it elsewhere, or set-user-id and the like."""
    if change.post is None or change.inherits is None:
        return
    entry = inventory.entries[change.inherits]
    path = change.inherits.decode()
    names = entry.links
    if names != 1 and not is_copy:  # the source of a copy stays what it is, under all its names
        names -= own_names(change.inherits, entry)
    if names != 1 and not is_copy:
        raise _refuse("hard_link", f"the file has {names} names, and the others would keep the old content", path)
    if entry.mode & _SPECIAL_BITS:
        raise _refuse(
            "special_mode", "the file is set-user-id, set-group-id or sticky, which no patch may carry on", path
        )


def _refuse(rule: str, sentence: str, path: str) -> ApplyRefusedError:
    return ApplyRefusedError(f"agent.apply.{rule}", sentence, actual=path, details={"path": path})
