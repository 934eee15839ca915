"""A new file that stands for an old one: its content by the patch, everything else by the file before.

Owner, group, permission bits and extended attributes (with POSIX access lists and capabilities among them) are taken over; what cannot be
refuses the patch. Attributes that vouch for the content they were made for (IMA, EVM) can be carried on by nobody. Modification times are
those of the change, and holes of a sparse file may be filled.

Source: docs/spec/agent.md 6.2.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Final

from agent.errors import ApplyRefusedError
from agent.files import DIRECTORY_FLAGS, Files
from agent.inventory import Entry, changing, entry_of
from agent.part import open_lowest, open_part
from agent.plan import PlannedChange
from agent.set_id import SET_ID_BITS, SET_ID_HINT
from provenance.diff_model import MODE_EXECUTABLE, MODE_LINK, FileState

_EXECUTE_BITS: Final = 0o111
_NEW_FILE_MODE: Final = 0o644
_NEW_EXECUTABLE_MODE: Final = 0o755
CONTENT_ATTRIBUTES: Final = frozenset({"security.ima", "security.evm"})
"""Extended attributes that are signatures over the content."""
_ACCESS_LIST: Final = "system.posix_acl_access"
_DEFAULT_LIST: Final = "system.posix_acl_default"
"""Extended attributes as which Linux shows the POSIX access list of a file or directory, and the one that what is made in it inherits."""
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def make_file(
    files: Files,
    name: bytes,
    change: PlannedChange,
    *,
    directory_fd: int,
    root_fd: int,
    source: Entry | None,
    parent: Entry,
    sync: bool,
) -> None:
    """Make the file that `change` demands, with owner, permissions and attributes, and read everything back.

    Args:
        files: The door to the file system.
        name: Relative to `directory_fd`; nothing is there.
        change: What the file is after the patch.
        directory_fd: Where it is made.
        root_fd: The live tree's root.
        source: The status of the file that it inherits from (`change.inherits`), or None.
        parent: The status of its directory, which owns it when it inherits from nothing.
        sync: Whether to make it durable at once.

    Raises:
        ApplyRefusedError: ``agent.apply.ownership``, ``agent.apply.attributes``, ``agent.apply.staged``.
        ApplyFailedError: ``agent.target.changing``.
        OSError: It could not be written; what was made so far is there.
    """
    assert change.post is not None, "only files that are there after the patch are made"
    owner = parent if source is None else source
    if change.post.mode == MODE_LINK:
        files.make_link(change.post.content, name, dir_fd=directory_fd)
        own_name(files, name, owner, directory_fd=directory_fd)
        return
    descriptor = files.create(name, dir_fd=directory_fd)
    try:
        files.write(descriptor, change.post.content, name)
        own_open(files, descriptor, owner, change.path)
        if change.inherits is not None:
            assert source is not None, "what inherits has the status of what it inherits from"
            copy_attributes(files, root_fd, change.inherits, source, descriptor)
        else:
            _inherit_access_list(files, root_fd, change.path, descriptor)
        permissions = permissions_of(source, change.post)
        files.set_mode(descriptor, permissions, name)
        if sync:
            files.sync(descriptor, name)
        _prove(descriptor, permissions, owner, change.path)
    finally:
        os.close(descriptor)


def permissions_of(source: Entry | None, post: FileState) -> int:
    """Return the permission bits: those of the file before, with execution added where it may be read, or taken away."""
    executable = post.mode == MODE_EXECUTABLE
    if source is None:
        return _NEW_EXECUTABLE_MODE if executable else _NEW_FILE_MODE
    bits = stat.S_IMODE(source.mode)
    if executable == bool(bits & stat.S_IXUSR):
        return bits
    return bits | ((bits & 0o444) >> 2) | stat.S_IXUSR if executable else bits & ~_EXECUTE_BITS


def copy_attributes(files: Files, root_fd: int, source: bytes, entry: Entry, descriptor: int) -> None:
    """Give an open file or directory exactly the extended attributes of `source` in the live tree, which still is the one that was scanned.

    Raises:
        ApplyRefusedError: ``agent.apply.attributes``.
        ApplyFailedError: ``agent.target.changing``.
        OSError: A directory on the way has become something else.
    """
    source_fd = _open_source(root_fd, source, entry)
    try:
        try:
            wanted = read_attributes(source_fd)
        finally:
            os.close(source_fd)
        bound = CONTENT_ATTRIBUTES & wanted.keys()
        if bound and stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ApplyRefusedError(
                "agent.apply.attributes",
                f"a file has {', '.join(sorted(bound))}, which vouches for its present content only",
                actual=os.fsdecode(source),
            )
        give_attributes(files, descriptor, wanted, read_attributes(descriptor))
        if read_attributes(descriptor) != wanted:
            raise ApplyRefusedError(
                "agent.apply.attributes",
                "the extended attributes of a file are not what they were",
                expected=", ".join(sorted(wanted)),
                actual=os.fsdecode(source),
            )
    except OSError as error:
        raise _not_kept(source, error) from error


def copy_access_lists(files: Files, source_fd: int, descriptor: int, path: bytes) -> None:
    """Give an open new directory exactly the POSIX access lists of another open one: its own, and the one that new files in it inherit.

    Without the first, what its mode says of the mask would be the group's permissions. What the directory inherited where it was made goes.

    Raises:
        ApplyRefusedError: ``agent.apply.attributes``.
    """
    try:
        wanted = _access_lists(source_fd)
        give_attributes(files, descriptor, wanted, _access_lists(descriptor))
        if _access_lists(descriptor) != wanted:
            raise ApplyRefusedError(
                "agent.apply.attributes",
                "a new directory does not have the access lists of the one above it",
                expected=", ".join(sorted(wanted)),
                actual=os.fsdecode(path),
            )
    except OSError as error:
        raise _not_kept(path, error) from error


def _inherit_access_list(files: Files, root_fd: int, path: bytes, descriptor: int) -> None:
    """Give an open new file the access list that its directory has for new files, or none; its permission bits bound it afterwards.

    Raises:
        ApplyRefusedError: ``agent.apply.attributes``.
        OSError: A directory on the way has become something else.
    """
    above_fd = open_lowest(root_fd, os.path.dirname(path))
    try:
        default = _access_lists(above_fd).get(_DEFAULT_LIST)
        give_attributes(
            files, descriptor, {} if default is None else {_ACCESS_LIST: default}, _access_lists(descriptor)
        )
    except OSError as error:
        raise _not_kept(path, error) from error
    finally:
        os.close(above_fd)


def _access_lists(descriptor: int) -> dict[str, bytes]:
    return {name: value for name, value in read_attributes(descriptor).items() if name in (_ACCESS_LIST, _DEFAULT_LIST)}


def give_attributes(files: Files, descriptor: int, wanted: Mapping[str, bytes], present: Mapping[str, bytes]) -> None:
    """Make the extended attributes of an open file, which are `present`, those that are wanted. Raises OSError."""
    for name in present.keys() - wanted.keys():
        files.remove_attribute(descriptor, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            files.set_attribute(descriptor, name, value)


def _not_kept(source: bytes, error: OSError) -> ApplyRefusedError:
    return ApplyRefusedError(
        "agent.apply.attributes",
        f"the extended attributes of a file cannot be kept ({error.strerror})",
        actual=os.fsdecode(source),
    )


def _open_source(root_fd: int, source: bytes, entry: Entry) -> int:
    """Return a descriptor of the very file or directory that was scanned at a path, reached through no link.

    Raises:
        ApplyRefusedError: ``agent.apply.attributes``.
        ApplyFailedError: ``agent.target.changing``.
        OSError: A directory on the way has become something else.
    """
    above, name = os.path.split(source)
    try:
        above_fd = open_part(root_fd, above)
        try:
            descriptor = os.open(name, _READ_FLAGS, dir_fd=above_fd)
        finally:
            os.close(above_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise changing(source) if error.errno == errno.ENOENT else _not_kept(source, error) from error
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != (entry.device, entry.inode):
        os.close(descriptor)
        raise changing(source)
    return descriptor


def read_attributes(descriptor: int) -> dict[str, bytes]:
    """Return the extended attributes of an open file; empty where the file system has none. Raises OSError."""
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(descriptor, name) for name in names}


def own_name(files: Files, path: bytes, owner: Entry, *, directory_fd: int) -> None:
    """Give a link, where only the agent may enter, to its owner. Raises ApplyRefusedError (``agent.apply.ownership``), OSError."""
    status = os.lstat(path, dir_fd=directory_fd)
    if (status.st_uid, status.st_gid) == (owner.owner, owner.group):
        return
    try:
        files.change_owner(path, owner.owner, owner.group, dir_fd=directory_fd)
    except PermissionError as error:
        raise ownership_refused(path, owner) from error


def ownership_refused(path: bytes, owner: Entry) -> ApplyRefusedError:
    """Return the error that a file cannot be given to its owner."""
    return ApplyRefusedError(
        "agent.apply.ownership",
        f"the agent may not give a file to its owner {owner.owner}:{owner.group}",
        actual=os.fsdecode(path),
        hint="run the agent as root, or as the owner of the target",
    )


def make_directory(
    files: Files, name: bytes, like: Entry, mode: int, path: bytes, *, directory_fd: int, like_fd: int
) -> None:
    """Make an empty directory with owner and access lists of another one, where nobody else can put something in its place.

    Args:
        files: The door to the file system.
        name: Relative to `directory_fd`; nothing is there.
        like: Whose owner and group it gets.
        mode: Its permission bits.
        path: Where in the tree it will stand, for refusals.
        directory_fd: A directory that only the agent may enter. In one where others may write, a name can be something else at every look.
        like_fd: The other one, open.

    Raises:
        ApplyRefusedError: ``agent.apply.ownership``, ``agent.apply.attributes``.
        OSError: It could not be made; what was made so far is there.
    """
    files.make_directory(name, dir_fd=directory_fd)
    descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=directory_fd)
    try:
        own_open(files, descriptor, like, path)
        copy_access_lists(files, like_fd, descriptor, path)
        own_mode(files, descriptor, mode, path)
    finally:
        os.close(descriptor)


def own_mode(files: Files, descriptor: int, mode: int, path: bytes) -> None:
    """Give an open new directory its permission bits, and look whether it has them.

    A kernel takes the set-group-id bit away without a word where the agent is not in the directory's group, and a service manager may
    forbid to set it at all.

    Raises:
        ApplyRefusedError: ``agent.apply.attributes``.
        OSError: They could not be set.
    """
    sentence = "the permissions of a directory cannot be kept"
    try:
        files.set_mode(descriptor, mode, path)
    except PermissionError as error:
        if not mode & SET_ID_BITS:
            raise
        raise _mode_refused(f"{sentence} ({error.strerror})", path, mode) from error
    found = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if found != mode:
        raise _mode_refused(sentence, path, mode, found)


def _mode_refused(sentence: str, path: bytes, mode: int, found: int | None = None) -> ApplyRefusedError:
    return ApplyRefusedError(
        "agent.apply.attributes",
        sentence,
        expected=f"{mode:04o}",
        actual=os.fsdecode(path) if found is None else f"{os.fsdecode(path)}: {found:04o}",
        hint=SET_ID_HINT if mode & SET_ID_BITS else "",
    )


def own_open(files: Files, descriptor: int, owner: Entry, path: bytes) -> None:
    """Give an open file or directory to its owner. Raises ApplyRefusedError (``agent.apply.ownership``), OSError."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) == (owner.owner, owner.group):
        return
    try:
        files.set_owner(descriptor, owner.owner, owner.group, path)
    except PermissionError as error:
        raise ownership_refused(path, owner) from error


def _prove(descriptor: int, permissions: int, owner: Entry, path: bytes) -> None:
    """Refuse a file whose status is not what it was given: some file systems pretend."""
    status = entry_of(os.fstat(descriptor))
    if (status.owner, status.group) != (owner.owner, owner.group):
        raise ownership_refused(path, owner)
    if stat.S_IMODE(status.mode) != permissions:
        raise ApplyRefusedError(
            "agent.apply.attributes",
            "the permissions of a file cannot be kept",
            expected=f"{permissions:04o}",
            actual=f"{os.fsdecode(path)}: {stat.S_IMODE(status.mode):04o}",
        )
