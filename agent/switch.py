"""The switch: one exchange of two directory names, and how to tell afterwards on which side of it a crash happened.

The journal is durable before the exchange and names both directories by inode, so the question "old or new?" has one answer that no guess
is part of. The journal stays until the outcome is in the outbox; only then are the other tree and the journal removed.

Source: docs/spec/agent.md 6.3.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from agent.errors import StateCorruptError, TargetRefusedError
from agent.facts import ACTION_APPLY
from agent.files import DIRECTORY_FLAGS, TEMPORARY_SUFFIX, Files, is_there, opened_directory
from agent.host_checks import explain
from agent.in_place import Operations
from agent.limits import TREES_ASIDE_MAX
from agent.own_directory import remove_own_directory
from agent.part import open_part
from agent.standby import standby_tree
from agent.state_file import damaged, read_state, write_state
from agent.target import Mode, TargetConfig, TargetState
from wire.hashing import Digest

STAGED_NAME: Final = "tree"
"""Name of the staged tree, and after the exchange of the old one, inside the staging directory."""


class Phase(StrEnum):
    """What the switch waits for."""

    FINAL = "final"
    """Nothing: whichever tree stands at the root is the one that stays."""
    TRIAL = "trial"
    """That the target is at work again and healthy: until then the new tree is taken back by whoever finds it."""
    KEPT = "kept"
    """Nothing any more: the trial was passed."""


class Side(StrEnum):
    """Which tree stands at the target's root."""

    OLD = "old"
    NEW = "new"
    OTHER = "other"
    """Neither: somebody else has put a directory there."""


@dataclass(frozen=True, slots=True)
class Journal:
    """An application that is about to switch, or has switched."""

    patch_id: str
    """64 hexadecimal digits."""
    intent: int
    """Outbox sequence of its intent."""
    device: int
    old_inode: int
    """Inode before of the directory that is exchanged."""
    new_inode: int
    """Inode of the staged one."""
    tree_before: Digest
    tree_after: Digest
    state_after: TargetState
    """What the target's state becomes when the switch has happened."""
    action: str = ACTION_APPLY
    """`ACTION_APPLY` or `ACTION_ROLLBACK`."""
    phase: Phase = Phase.FINAL
    hooked: bool = False
    """Whether hooks run around the switch: after a crash, the one that puts the target back to work may have to run again."""
    failure: tuple[str, str] | None = None
    """Code and sentence of what failed on trial, or None as long as nothing is known to have failed."""
    part: str = ""
    """The directory that is exchanged, relative to the root, or "" for the root itself."""
    part_before: Digest | None = None
    """Tree digest of that directory before, 32 bytes; None for the root, where it is `tree_before`."""
    standby: bool = False
    """Whether the root changes places with the standby tree and not with one in the staging directory."""
    operations: Operations | None = None
    """What is done to the tree file by file, or None when trees are exchanged; then both inodes are the root's."""
    unacknowledged: int = 0
    """How many changes without the ledger's acknowledgement this makes, itself included; 0 when the ledger has its intent."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; inodes as text, because they may exceed JSON's exact integers."""
        document = {
            "version": 1,
            "patch_id": self.patch_id,
            "intent": self.intent,
            "device": str(self.device),
            "old_inode": str(self.old_inode),
            "new_inode": str(self.new_inode),
            "tree_before": self.tree_before.hex(),
            "tree_after": self.tree_after.hex(),
            "state_after": self.state_after.to_json(),
            "action": self.action,
            "phase": self.phase.value,
            "hooked": self.hooked,
            "failure": None if self.failure is None else list(self.failure),
        }
        if self.part_before is not None:
            document |= {"part": self.part, "part_before": self.part_before.hex()}
        if self.standby:
            document["standby"] = True
        if self.operations is not None:
            document["operations"] = self.operations.to_json()
        if self.unacknowledged:
            document["unacknowledged"] = self.unacknowledged
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Journal:
        """Return the record that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        if document["version"] != 1:
            raise ValueError("its version is not known")
        return cls(
            patch_id=str(document["patch_id"]),
            intent=int(document["intent"]),
            device=int(document["device"]),
            old_inode=int(document["old_inode"]),
            new_inode=int(document["new_inode"]),
            tree_before=Digest(bytes.fromhex(document["tree_before"])),
            tree_after=Digest(bytes.fromhex(document["tree_after"])),
            state_after=TargetState.from_json(document["state_after"]),
            # A journal of before there were rollbacks and hooks is of an application without any.
            action=str(document.get("action", ACTION_APPLY)),
            phase=Phase(document.get("phase", Phase.FINAL)),
            hooked=bool(document.get("hooked", False)),
            failure=None
            if document.get("failure") is None
            else (str(document["failure"][0]), str(document["failure"][1])),
            part=str(document.get("part", "")),
            part_before=Digest(bytes.fromhex(document["part_before"])) if "part_before" in document else None,
            standby=document.get("standby", False) is True,
            operations=Operations.from_json(document["operations"]) if "operations" in document else None,
            unacknowledged=int(document.get("unacknowledged", 0)),
        )


def write_journal(files: Files, path: str, journal: Journal) -> None:
    """Make the journal durable. Raises OSError."""
    write_state(files, path, journal.to_json())


def read_journal(path: str) -> Journal | None:
    """Return the journal, or None when no application is open there. Raises StateCorruptError."""
    document = read_state(path)
    if document is None:
        return None
    try:
        return Journal.from_json(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"does not have its form: {error}") from error


def remove_journal(files: Files, path: str) -> None:
    """Remove the journal, durably; nothing when there is none. Raises OSError."""
    for name in (path, path + TEMPORARY_SUFFIX):
        if is_there(name):
            files.unlink(name)
            files.sync_directory(os.path.dirname(path))


def staged_path(target: TargetConfig, journal: Journal | None = None) -> str:
    """Return where the staged tree of a target stands: in the staging directory, or where the journal says."""
    return (
        standby_tree(target) if journal is not None and journal.standby else os.path.join(target.staging, STAGED_NAME)
    )


def switch_trees(files: Files, target: TargetConfig, journal: Journal, *, before: Side = Side.OLD) -> None:
    """Put the staged tree at the target's root and the one that stands there in its place, in one step, durably.

    Args:
        files: The door to the file system.
        target: The target.
        journal: What is going on, durable.
        before: Which tree stands at the root before: `NEW` when the switch is taken back.

    Raises:
        ApplyFailedError: ``agent.apply.*``: nothing was switched.
        StateCorruptError: ``agent.state.sync``: the switch is visible, but may not survive a power cut. The journal must stay: after a
            restart it tells which tree the disk kept.
    """
    try:
        above_fd, name = _open_above(target, journal)
    except OSError as error:
        raise explain(error, "the trees cannot be switched") from error
    try:
        try:
            files.exchange(name, staged_path(target, journal), one_fd=above_fd)
        except OSError as error:
            if find_side(target, journal) is before:
                raise explain(error, "the trees cannot be switched") from error
            raise
        try:
            files.sync(above_fd, os.path.dirname(_part_path(target, journal)))
            files.sync_directory(os.path.dirname(staged_path(target, journal)))
        except OSError as error:
            raise not_durable(target, error) from error
    finally:
        os.close(above_fd)


def _open_above(target: TargetConfig, journal: Journal) -> tuple[int, str]:
    """Return the directory in which the exchanged one has its name, open, and that name; below the root never through a link."""
    if not journal.part:
        above, name = os.path.split(target.root)
        return os.open(above, DIRECTORY_FLAGS), name
    above, name = os.path.split(journal.part)
    with opened_directory(target.root) as root_fd:
        return open_part(root_fd, above.encode()), name


def _part_path(target: TargetConfig, journal: Journal) -> str:
    return os.path.join(target.root, journal.part) if journal.part else target.root


def not_durable(target: TargetConfig, error: OSError) -> StateCorruptError:
    """Return the error that nobody knows what a power cut would leave of a target."""
    return StateCorruptError(
        "agent.state.sync",
        f"the switch of {target.name} is not known to be durable ({error.strerror})",
        hint="restart the agent when the disk works again; it recovers from what is there",
    )


def is_old_tree_kept(target: TargetConfig, journal: Journal) -> bool:
    """Return whether the old tree, by its inode, stands where a switch has put it."""
    try:
        status = os.lstat(staged_path(target, journal))
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (journal.device, journal.old_inode)


def find_side(target: TargetConfig, journal: Journal) -> Side:
    """Return which of the journal's two trees stands at the target's root, or where it is exchanged below it."""
    try:
        status = os.lstat(_part_path(target, journal))
    except OSError:
        return Side.OTHER
    if status.st_dev != journal.device:
        return Side.OTHER
    if status.st_ino == journal.new_inode:
        return Side.NEW
    return Side.OLD if status.st_ino == journal.old_inode else Side.OTHER


def prepare_staging(files: Files, target: TargetConfig) -> None:
    """Make an empty staging directory beside the root, or in it; what an earlier application left there is removed.

    What cannot be removed is put aside where that is possible: in exchange mode.

    Raises:
        TargetRefusedError: ``agent.target.own_directory``.
        OSError: It cannot be made, or what is left can neither be removed nor put aside.
    """
    try:
        remove_staging(files, target)
    except OSError:
        if target.mode is not Mode.EXCHANGE or not _put_aside(files, target):
            raise
    files.make_directory(target.staging)
    files.sync_directory(os.path.dirname(target.staging))


def remove_staging(files: Files, target: TargetConfig) -> None:
    """Remove the staging directory and what is in it; nothing when it is not there.

    Raises:
        TargetRefusedError: ``agent.target.own_directory``: it is not the agent's.
        OSError: Not all of it can be removed.
    """
    remove_own_directory(files, target.staging)


def remove_put_aside(files: Files, target: TargetConfig) -> None:
    """Remove what was put aside because it could not be removed when it should have been; nothing when there is nothing.

    Raises:
        OSError: Something still cannot be removed; everything else is gone.
    """
    problem: OSError | None = None
    for path in _places_aside(target):
        try:
            remove_own_directory(files, path)
        except TargetRefusedError:
            continue  # It is not the agent's.
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return  # The root's name leaves no room for these: nothing can stand there.
            problem = problem or error
    if problem is not None:
        raise problem


def _put_aside(files: Files, target: TargetConfig) -> bool:
    """Return whether the staging directory has another name now, so that a new one can be made. Raises OSError."""
    for path in _places_aside(target):
        if not is_there(path):
            files.rename(target.staging, path)
            return True
    return False


def _places_aside(target: TargetConfig) -> tuple[str, ...]:
    """Return where old trees may stand: nowhere in place."""
    if target.mode is not Mode.EXCHANGE:
        return ()
    return tuple(f"{target.staging}.old-{number}" for number in range(TREES_ASIDE_MAX))
