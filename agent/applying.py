"""The changing half of the pipeline: stage, prove, journal, switch; and what is true after it, or after a crash anywhere in it.

::

    nothing ─▶ staging ─▶ staged and proven ─▶ journal ─▶ EXCHANGE ─▶ state ─▶ (outcome in the outbox) ─▶ journal gone ─▶ staging gone
    └──────────────── the tree is the old one ───────────┘└──────────────────────── the tree is the new one ─────────────────────────┘

Where the operator has configured hooks, the journal is written before the first of them, and the new tree is on trial from the switch until
the last has passed: whoever finds a tree on trial without knowing that it passed takes the switch back, by the same exchange.

`settle` runs after the switch in the same way as after a crash: it asks the disk which tree stands at the root. `finish` runs only when
the outcome is in the outbox.

Source: docs/spec/agent.md 6.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from agent.errors import ApplyFailedError, ApplyRefusedError, StateWriteError
from agent.facts import ACTION_APPLY, ACTION_ROLLBACK
from agent.file_flags import is_unchangeable
from agent.files import Files, is_private, is_there, opened_directory, opened_private
from agent.hooks import HookRunner, hold_hook_lock
from agent.host_checks import check_mounts, explain, immutable, mount_points
from agent.in_place import ForeignWriteError, Operations, Place, Workshop, plan_operations
from agent.inventory import Entry, Inventory, entry_of, open_root, scan_tree, take_inventory
from agent.limits import MANIFEST_WHOLE_MAX
from agent.manifest import append_manifest, write_manifest
from agent.new_files import read_attributes
from agent.part import cut_part, find_part, open_part
from agent.plan import Plan, check_pre_images
from agent.progress import PATHS, STEP_APPLY, Tracker
from agent.stage import stage_tree
from agent.standby import (
    StandbyUnfitError,
    changed_files,
    drop_standby,
    file_system_of,
    has_standby,
    is_standby_possible,
    is_wide,
    made_inventory,
    opened_standby,
    standby_tree,
)
from agent.switch import (
    Journal,
    Phase,
    Side,
    find_side,
    is_old_tree_kept,
    not_durable,
    prepare_staging,
    read_journal,
    remove_journal,
    remove_put_aside,
    remove_staging,
    staged_path,
    switch_trees,
    write_journal,
)
from agent.target import JOURNAL_FILE, MANIFEST_FILE, Installed, Mode, TargetConfig, TargetState, TargetStore
from provenance.tree_digest import directory_digest
from wire.errors import PatchwardenError
from wire.hashing import Digest

_OVERLAY: Final = 0x794C7630
"""OVERLAYFS_SUPER_MAGIC."""


@dataclass(frozen=True, slots=True)
class Application:
    """One allowed patch, planned and announced: to be applied, or to be undone."""

    data: bytes
    """The patch file, kept as provenance."""
    plan: Plan
    inventory: Inventory
    """The tree that the plan was made for."""
    installed: Installed
    """What the target's state will say of it."""
    intent: int
    """Outbox sequence of its intent."""
    state: TargetState
    """The target's state before."""
    tree_after: Digest
    """What the tree digest becomes by the plan, 32 bytes."""
    action: str = ACTION_APPLY
    """`ACTION_APPLY` or `ACTION_ROLLBACK`."""
    restores: Digest | None = None
    """The tree digest that a rollback must give, where it is known."""
    tracker: Tracker = field(default_factory=Tracker, compare=False)
    """Told how far it is."""
    unacknowledged: int = 0
    """How many changes without the ledger's acknowledgement this makes, itself included; 0 when the ledger has its intent."""

    def state_after(self, tree_digest: Digest) -> TargetState:
        """Return what the target's state becomes when the tree has this digest."""
        if self.action == ACTION_ROLLBACK:
            return self.state.without_patch(self.installed.patch_id, tree_digest)
        return self.state.with_patch(self.installed, tree_digest)

    def check_result(self, tree_digest: Digest) -> None:
        """Return when the new tree is the one that the plan, and a rollback, promise.

        Raises:
            ApplyRefusedError: ``agent.apply.staged``.
        """
        if tree_digest != self.tree_after:
            raise ApplyRefusedError(
                "agent.apply.staged",
                "the staged tree is not what it must be: its digest is another one than the plan's",
                expected=self.tree_after,
                actual=tree_digest,
            )
        if self.restores is not None and tree_digest != self.restores:
            raise ApplyRefusedError(
                "agent.apply.staged",
                "the staged tree is not what it must be: it is not the one of before the patch",
                expected=self.restores,
                actual=tree_digest,
            )


@dataclass(frozen=True, slots=True)
class Settled:
    """What the disk says about an application."""

    journal: Journal | None
    """The journal of the open application, or None when it did not come as far."""
    side: Side
    """Which tree stands at the root; `OLD` without a journal."""
    tree_digest: Digest | None
    """Digest of the tree at the root now, 32 bytes; None when it cannot be read."""
    failed_trial: bool = False
    """Whether the new tree was on trial and did not pass, or nobody knows that it did."""

    @property
    def is_done(self) -> bool:
        """Whether the new tree stands, and stays."""
        return self.journal is not None and self.side is Side.NEW and not self.failed_trial


@dataclass(frozen=True, slots=True)
class Made:
    """A new tree that stands, known without another look at it."""

    inventory: Inventory
    """Its tree digest is still that of the tree before."""
    changed: Mapping[bytes, tuple[int, Digest] | None]
    """Git mode and digest of every touched path now, None of removed ones."""
    linked: bool
    """Whether files that did not change were given names meanwhile, or lost some, which moves their ctimes."""


def apply_patch(
    files: Files, store: TargetStore, config: TargetConfig, application: Application, hooks: HookRunner
) -> Made | None:
    """Return when the new tree stands at the target's root, durably, and the journal says so; on trial when hooks are to judge it.

    Returns:
        What the new tree is, where that is known without looking.

    Raises:
        ApplyFailedError: ``agent.hook.before_failed``, ``agent.hook.busy``, ``agent.hook.guard``; the old tree stands.
        ApplyRefusedError: ``agent.apply.*``; the old tree stands.
        ApplyFailedError: ``agent.apply.io``, ``agent.apply.tree_changed``, ``agent.target.*``; the old tree stands.
        TargetRefusedError: ``agent.target.*``; the old tree stands.
        StateCorruptError: ``agent.state.sync``: which tree a power cut would leave is not known; the journal finds out.
    """
    if config.mode is Mode.IN_PLACE:
        apply_in_place(files, store, config, application, hooks)
        return None
    inventory, plan, tracker = application.inventory, application.plan, application.tracker
    part = find_part(plan, inventory)
    part_plan, part_inventory = cut_part(plan, inventory, part)
    if is_wide(part_inventory.entries):
        made = apply_by_standby(files, store, config, application, hooks)
        if made is not None:
            return made
        part, part_plan, part_inventory = b"", plan, inventory
    root_fd = open_root(config.root)
    try:
        check_mounts(config.root)
        part_fd = open_part(root_fd, part)
        try:
            tracker.begin(STEP_APPLY, "looking at the target again")
            root, before = entry_of(os.fstat(part_fd)), scan_tree(part_fd)
            _check_unchanged(before, part_inventory)
            prepare_staging(files, config)
            if application.action == ACTION_APPLY:
                store.keep_patch(application.installed.patch_id, application.data)
            staged = stage_tree(files, part_fd, part_inventory, part_plan, staged_path(config), tracker=tracker)
            # The stage of a part is proven to be what the plan makes of it; the digest of the whole follows from the plan.
            tree_after = application.tree_after if part else staged.tree_digest
            application.check_result(tree_after)
            # Right before the switch: whoever wrote to the tree meanwhile must not lose what was written.
            tracker.begin(STEP_APPLY, "looking at the target again")
            now = scan_tree(part_fd, before)
            _check_unchanged(now, part_inventory)
            _check_directories(part_fd, staged.path, root, before, now)
            check_pre_images(plan, root_fd, inventory)
            journal = replace(
                _begin_journal(config, application, part_fd, tree_after),
                new_inode=staged.inode,
                part=part.decode(),
                part_before=part_inventory.tree_digest if part else None,
            )
            write_journal(files, store.path(JOURNAL_FILE), journal)
            if config.hooks.before is not None:
                hooks.before()
                now = scan_tree(part_fd, before)
                _check_unchanged(now, part_inventory)
                _check_directories(part_fd, staged.path, root, before, now)
                check_pre_images(plan, root_fd, inventory)
            _check_place(root_fd, part, journal)
            tracker.begin(STEP_APPLY, "switching the trees")
            switch_trees(files, config, journal)
        finally:
            os.close(part_fd)
    except OSError as error:
        raise explain(error, "the application failed") from error
    finally:
        os.close(root_fd)
    return None


def apply_by_standby(
    files: Files, store: TargetStore, config: TargetConfig, application: Application, hooks: HookRunner
) -> Made | None:
    """Return what stands at the root after the standby tree, with the changes, has taken its place; None when no standby tree can be had.

    Raises as `apply_patch`.
    """
    inventory, plan, tracker = application.inventory, application.plan, application.tracker
    root_fd = open_root(config.root)
    try:
        check_mounts(config.root)
        if not is_standby_possible(config, root_fd, inventory.entries):
            return None
        root = entry_of(os.fstat(root_fd))
        # From here on until `finish`, this directory tells that the standby tree may be another than the live one.
        prepare_staging(files, config)
        with contextlib.ExitStack() as stack:
            tracker.begin(STEP_APPLY, "bringing the standby tree up to the live one")
            try:
                standby = stack.enter_context(opened_standby(files, config, root_fd, inventory))
                linked = standby.make_equal()
            except (OSError, StandbyUnfitError):
                _check_unchanged(scan_tree(root_fd, inventory.entries), inventory)
                stack.close()
                drop_standby(files, config)
                return None
            if application.action == ACTION_APPLY:
                store.keep_patch(application.installed.patch_id, application.data)
            with opened_private(config.staging) as work_fd:
                tracker.begin(STEP_APPLY, "staging the new tree", len(plan.changes), PATHS)
                standby.change(plan, work_fd, tracker.advance)
                tracker.begin(STEP_APPLY, "making the new tree durable")
                files.sync_filesystem(work_fd, config.staging)
            tracker.begin(STEP_APPLY, "proving the new tree")
            proven = standby.prove(plan)
            application.check_result(application.tree_after)
            # Right before the switch: whoever wrote to the tree meanwhile must not lose what was written.
            tracker.begin(STEP_APPLY, "looking at the target again")
            now = scan_tree(root_fd, inventory.entries)
            _check_unchanged(now, inventory)
            _check_directories(root_fd, standby_tree(config), root, inventory.entries, now)
            check_pre_images(plan, root_fd, inventory)
            journal = replace(
                _begin_journal(config, application, root_fd, application.tree_after),
                new_inode=standby.inode,
                standby=True,
            )
            write_journal(files, store.path(JOURNAL_FILE), journal)
            if config.hooks.before is not None:
                hooks.before()
                now = scan_tree(root_fd, inventory.entries)
                _check_unchanged(now, inventory)
                _check_directories(root_fd, standby_tree(config), root, inventory.entries, now)
                check_pre_images(plan, root_fd, inventory)
                proven = standby.prove(plan)
            tracker.begin(STEP_APPLY, "switching the trees")
            _check_place(root_fd, b"", journal)
            switch_trees(files, config, journal)
    except StandbyUnfitError as error:
        raise ApplyRefusedError("agent.apply.staged", f"the standby tree is not what it must be: {error}") from error
    except OSError as error:
        raise explain(error, "the application failed") from error
    finally:
        os.close(root_fd)
    return Made(made_inventory(now, inventory, plan, proven), changed_files(plan), linked)


def _check_place(root_fd: int, part: bytes, journal: Journal) -> None:
    """Return when the directory that is exchanged still has its name: what somebody has put there instead is not ours to move."""
    descriptor = open_part(root_fd, part)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (status.st_dev, status.st_ino) != (journal.device, journal.old_inode):
        raise _tree_changed(os.fsdecode(part) or ".")


def try_out(files: Files, store: TargetStore, hooks: HookRunner) -> str:
    """Return "" when the target is at work again and healthy on its new tree, which then stays.

    Of a rollback, return what is not as it should be. It is asked for because the patched tree is not wanted, so it is never taken back:
    what its hooks say is only recorded.

    Raises:
        ApplyFailedError: ``agent.hook.after_failed``, ``agent.hook.health_failed``, ``agent.hook.busy``, ``agent.hook.guard``: the new tree
            stands and is to be taken back, which `settle` does.
        OSError: The journal could not be written; the same.
        StateCorruptError: ``agent.state.damaged``.
    """
    path = store.path(JOURNAL_FILE)
    journal = read_journal(path)
    assert journal is not None, "what was switched has a journal"
    try:
        hooks.judge()
    except ApplyFailedError as error:
        if journal.phase is Phase.FINAL:
            return error.message
        with suppress(OSError):  # It only serves a crash that comes before the record.
            write_journal(files, path, replace(journal, failure=(error.code, error.message)))
        raise
    if journal.phase is Phase.TRIAL:
        write_journal(files, path, replace(journal, phase=Phase.KEPT))
    return ""


def apply_in_place(
    files: Files, store: TargetStore, config: TargetConfig, application: Application, hooks: HookRunner
) -> None:
    """Return when every changed file stands in the target's tree, durably, and the journal says so.

    From the journal on, an error leaves a mixture, and `settle` makes one of the two trees of it.

    Raises:
        ApplyRefusedError: ``agent.apply.*``.
        ApplyFailedError: ``agent.apply.*``, ``agent.target.*``.
        TargetRefusedError: ``agent.target.*``.
        StateCorruptError: ``agent.state.sync``: which files a power cut would leave is not known; the journal finds out.
    """
    inventory, plan = application.inventory, application.plan
    root_fd = open_root(config.root)
    try:
        check_mounts(config.root)
        application.check_result(application.tree_after)
        operations = plan_operations(plan, inventory)
        prepare_staging(files, config)
        if application.action == ACTION_APPLY:
            store.keep_patch(application.installed.patch_id, application.data)
        with opened_private(config.staging) as work_fd:
            workshop = Workshop(files, root_fd, work_fd, operations, application.tracker)
            workshop.prepare(plan, inventory)
            check_pre_images(plan, root_fd, inventory)
            workshop.check_backups()
            journal = replace(
                _begin_journal(config, application, root_fd, application.tree_after), operations=operations
            )
            write_journal(files, store.path(JOURNAL_FILE), journal)
            if config.hooks.before is not None:
                hooks.before()
                check_pre_images(plan, root_fd, inventory)
                workshop.check_backups()
            workshop.go_forward()
            sync_workshop(workshop, config)
    except ForeignWriteError as error:
        raise _tree_changed(error.path) from error
    except OSError as error:
        raise explain(error, "the application failed") from error
    finally:
        os.close(root_fd)


def settle_in_place(
    files: Files, config: TargetConfig, operations: Operations, *, back: bool, is_recorded: bool = False
) -> Side:
    """Return which tree stands at the root, after every mixture has become one of the two. May be repeated.

    Forward where every file that is old can still become new, and else back. What somebody else has written stays; then it is neither.

    Args:
        files: The door to the file system.
        config: The target.
        operations: What was being done.
        back: Whether the new tree must not stay: it did not pass its trial.
        is_recorded: Whether the target's state names the new tree already: then there is no way back, and a disk that fails is waited for.

    Raises:
        OSError: Neither could be done, or the root cannot be opened now; try again.
        StateCorruptError: ``agent.state.sync``.
    """
    try:
        root_fd = open_root(config.root)
    except ApplyFailedError as error:
        # A disk that fails has not said that another tree stands there.
        raise OSError(errno.EIO, error.message, config.root) from error
    except PatchwardenError:
        return Side.OTHER
    try:
        if not (is_there(config.staging) and is_private(os.lstat(config.staging))):
            # Somebody has removed or exchanged the work directory: nothing can be moved any more, but what stands can still be told.
            return _side(Workshop(files, root_fd, root_fd, operations))
        with opened_private(config.staging) as work_fd:
            workshop = Workshop(files, root_fd, work_fd, operations)
            try:
                if not back and workshop.can_go_forward():
                    workshop.go_forward()
                    sync_workshop(workshop, config)
                    return Side.NEW
            except ForeignWriteError:
                pass
            except (OSError, ApplyRefusedError):
                if is_recorded:
                    raise
                # It cannot become the new tree, so it becomes the old one; a disk that fails there, too, is told.
            if workshop.can_go_back():
                workshop.go_back()
                sync_workshop(workshop, config)
            return _side(workshop)
    finally:
        os.close(root_fd)


def _begin_journal(config: TargetConfig, application: Application, directory_fd: int, tree_after: Digest) -> Journal:
    """Return the journal of an application to the directory, as far as it is the same in every mode: the directory stays the one it is."""
    status = os.fstat(directory_fd)
    return Journal(
        patch_id=application.installed.patch_id,
        intent=application.intent,
        device=status.st_dev,
        old_inode=status.st_ino,
        new_inode=status.st_ino,
        tree_before=application.inventory.tree_digest,
        tree_after=tree_after,
        state_after=application.state_after(tree_after),
        action=application.action,
        phase=_phase(config, application),
        hooked=bool(config.hooks.all),
        unacknowledged=application.unacknowledged,
    )


def _phase(config: TargetConfig, application: Application) -> Phase:
    """Return how an application begins: on trial when hooks are to judge it; a rollback never is."""
    return Phase.TRIAL if config.hooks.judge and application.action == ACTION_APPLY else Phase.FINAL


def _side(workshop: Workshop) -> Side:
    places = set(workshop.places())
    return Side.OLD if places <= {Place.OLD} else Side.NEW if places <= {Place.NEW} else Side.OTHER


def sync_workshop(workshop: Workshop, config: TargetConfig) -> None:
    """Make what was renamed durable. Raises StateCorruptError (``agent.state.sync``)."""
    try:
        workshop.sync()
    except OSError as error:
        raise not_durable(config, error) from error


def settle(
    files: Files,
    store: TargetStore,
    config: TargetConfig,
    intent: int | None,
    look: Callable[[Journal | None], Inventory | None] | None = None,
    *,
    is_durable: bool = False,
    changed: Collection[str] = (),
) -> Settled:
    """Return what became of the application that the journal tells of, with the target's state brought up to it. May be repeated.

    Args:
        files: The door to the file system.
        store: The target's files.
        config: The target.
        intent: Outbox sequence of the target's open intent; a journal of another application was settled before and is only rest.
        look: Returns the tree as it is now, or None when it cannot be read; by default every file is read.
        is_durable: Whether `apply_patch` has just returned: then every file in place is known to be new, and on the disk.
        changed: The paths that the application changes, where that is known.

    Raises:
        OSError: The state could not be written; try again.
        StateWriteError: ``agent.state.take_back``: the switch could not be taken back; try again.
        ApplyFailedError: ``agent.hook.busy``: a hook does not end; try again.
        StateCorruptError: ``agent.state.damaged``, ``agent.state.sync``.
    """
    journal = read_journal(store.path(JOURNAL_FILE))
    if journal is not None and journal.intent != intent:
        journal = None
    failed_trial = journal is not None and journal.phase is Phase.TRIAL
    if journal is not None and journal.hooked:
        # A hook of an agent that is gone is ended before anything is done about what it was working on.
        os.close(hold_hook_lock(store.directory))
    if journal is not None and journal.operations is not None:
        is_new = is_durable and not failed_trial
        is_recorded = store.read_target_state() == journal.state_after
        side = (
            Side.NEW
            if is_new
            else settle_in_place(files, config, journal.operations, back=failed_trial, is_recorded=is_recorded)
        )
    else:
        side = Side.OLD if journal is None else find_side(config, journal)
    inventory = _read_tree(config.root, config.own_name) if look is None else look(journal)
    if journal is not None and journal.operations is None and side is Side.OTHER and inventory is not None:
        # A host that was copied or restored has other inodes; the content still tells which tree it is.
        side = {journal.tree_after: Side.NEW, journal.tree_before: Side.OLD}.get(inventory.tree_digest, Side.OTHER)
    exchanged = journal is not None and journal.operations is None
    if journal is not None and failed_trial and exchanged and side is Side.NEW and _is_old_tree_there(config, journal):
        _take_back(files, config, journal)
        side, inventory = Side.OLD, _read_tree(config.root)
    if journal is not None and side is Side.NEW and not failed_trial:
        if store.read_target_state() != journal.state_after:
            store.write_target_state(journal.state_after)
        if inventory is not None and inventory.tree_digest == journal.tree_after:
            _keep_manifest(files, store, journal, inventory, changed)
    return Settled(journal, side, None if inventory is None else inventory.tree_digest, failed_trial)


def finish(
    files: Files,
    store: TargetStore,
    config: TargetConfig,
    inventory: Inventory | None = None,
    within: Collection[bytes] | None = None,
) -> None:
    """Return when the standby tree is as the live one, and journal and staging directory are gone. May be repeated.

    Only after the outcome stands in the outbox.

    Args:
        files: The door to the file system.
        store: The target's files.
        config: The target.
        inventory: The live tree, if it is known; otherwise it is scanned.
        within: The only paths that can differ in the standby tree, with their directories; None for all.

    Raises:
        TargetRefusedError: ``agent.target.own_directory``: something that is not the agent's stands there by now, and stays.
        OSError: Something could not be removed; try again.
    """
    if has_standby(config):
        refresh_standby(files, config, inventory, within)
    remove_journal(files, store.path(JOURNAL_FILE))
    remove_staging(files, config)
    remove_put_aside(files, config)


def refresh_standby(
    files: Files, config: TargetConfig, inventory: Inventory | None = None, within: Collection[bytes] | None = None
) -> bool:
    """Return whether names had to be made or removed until the standby tree is as the live one; it is made where it pays and can be kept.

    Where it cannot, it is removed: what is no longer in the live tree must not stay beside it either.

    Args:
        files: The door to the file system.
        config: The target, in exchange mode.
        inventory: The live tree, if it is known; otherwise it is scanned.
        within: The only paths that can differ, with their directories; None for all.

    Raises:
        OSError: It could not be removed.
    """
    try:
        root_fd = open_root(config.root)
        try:
            check_mounts(config.root)
            if inventory is None:
                inventory = Inventory(scan_tree(root_fd), {}, directory_digest(()), 0)
            if is_standby_possible(config, root_fd, inventory.entries):
                with opened_standby(files, config, root_fd, inventory) as standby:
                    return standby.make_equal(within)
        finally:
            os.close(root_fd)
    except (OSError, StandbyUnfitError, PatchwardenError):
        pass  # Then the target does without it.
    was_there = has_standby(config)
    drop_standby(files, config)
    return was_there


def check_staging(files: Files, config: TargetConfig) -> None:
    """Return when this target can be changed in its mode; nothing of the trial is left behind.

    Raises:
        TargetRefusedError: ``agent.target.own_directory``.
        ApplyFailedError: ``agent.target.no_exchange``, ``agent.target.no_in_place``.
    """
    if config.mode is Mode.IN_PLACE:
        _check_in_place(files, config)
        return
    try:
        prepare_staging(files, config)
        try:
            one, other = os.path.join(config.staging, "one"), os.path.join(config.staging, "other")
            files.make_directory(one)
            files.make_directory(other)
            files.exchange(one, other)
            if os.lstat(config.staging).st_dev != os.lstat(config.root).st_dev or config.root in mount_points():
                raise ApplyFailedError(
                    "agent.target.no_exchange",
                    f"{config.root} is a file system of its own, so it cannot be exchanged as a whole",
                    hint="add it with --mode in-place, or guard a directory below the mount point",
                )
            if not _is_movable(files, config, one):
                raise ApplyFailedError(
                    "agent.target.no_exchange",
                    f"{config.root} lies in a lower layer of an overlay file system, from which no directory can be moved",
                    hint="add it with --mode in-place, or guard a directory on a volume",
                )
        finally:
            remove_staging(files, config)
    except OSError as error:
        raise ApplyFailedError(
            "agent.target.no_exchange",
            f"directories beside {config.root} cannot be exchanged ({error.strerror})",
            hint="add it with --mode in-place; exchanging needs a writable directory above the target, and RENAME_EXCHANGE",
        ) from error


def _is_movable(files: Files, config: TargetConfig, other: str) -> bool:
    """Return whether the root can be given another name, as far as its file system is known to refuse what it allows for new directories.

    An overlay moves what was made in its upper layer, and nothing of the lower ones. It is asked by a rename that cannot be: onto a
    directory that is not empty.

    Args:
        files: The door to the file system.
        config: The target, in exchange mode.
        other: A directory of the agent's own beside the root, made for this.

    Raises:
        OSError: It could not be asked.
    """
    with opened_directory(config.root) as root_fd:
        if file_system_of(root_fd) != _OVERLAY:
            return True
    files.make_directory(os.path.join(other, "full"))
    try:
        files.rename(config.root, other)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return True
        if error.errno == errno.EXDEV:
            return False
        raise
    files.rename(other, config.root)
    raise OSError(errno.ENOTSUP, "the file system replaces directories that are not empty", config.root)


def _check_in_place(files: Files, config: TargetConfig) -> None:
    """Return when files can be made, linked and renamed in the target."""
    try:
        prepare_staging(files, config)
        try:
            with opened_private(config.staging) as work_fd:
                os.close(files.create(b"one", dir_fd=work_fd))
                files.link_as(b"one", b"other", source_fd=work_fd, destination_fd=work_fd)
                files.move(b"other", b"third", source_fd=work_fd, destination_fd=work_fd)
                files.sync(work_fd, config.staging)
        finally:
            remove_staging(files, config)
    except OSError as error:
        raise ApplyFailedError(
            "agent.target.no_in_place",
            f"files in {config.root} cannot be replaced ({error.strerror})",
            hint="the agent needs to write to the target, on a file system with hard links",
        ) from error


def _keep_manifest(
    files: Files, store: TargetStore, journal: Journal, inventory: Inventory, changed: Collection[str]
) -> None:
    """Record the files of the new tree: of a large one, where all would cost most of the time, what changed if that is known."""
    path = store.path(MANIFEST_FILE)
    if journal.operations is not None:
        changed = [each.path for each in journal.operations.files]
    elif len(inventory.entries) < MANIFEST_WHOLE_MAX:
        changed = ()
    if changed:
        append_manifest(files, path, inventory, changed)
    else:
        write_manifest(files, path, inventory)


def _check_unchanged(entries: Mapping[bytes, Entry], inventory: Inventory) -> None:
    for path, now in entries.items():
        before = inventory.entries.get(path)
        if before is not now and (before is None or not now.is_same_state(before)):
            raise _tree_changed(os.fsdecode(path))
    if len(entries) != len(inventory.entries):
        raise _tree_changed(os.fsdecode(min(inventory.entries.keys() - entries.keys())))


def _check_directories(
    live_fd: int, made: str, root: Entry, before: Mapping[bytes, Entry], now: Mapping[bytes, Entry]
) -> None:
    """Return when what was done to the live directories meanwhile is not lost with them: others stand in their place from now on.

    Names, owners and modes in the tree are compared already; here those of the root are, and attributes and flags where a ctime has moved.

    Args:
        live_fd: The directory that is exchanged, open.
        made: The path of the one that takes its place.
        root: Its status before the other one was made like it.
        before: What was below it then.
        now: What is below it now.

    Raises:
        ApplyFailedError: ``agent.apply.tree_changed``, ``agent.apply.immutable``.
        OSError: Something cannot be read.
    """
    root_now = entry_of(os.fstat(live_fd))
    if not root_now.is_same_state(root):
        raise _tree_changed(".")
    moved = [path for path, entry in now.items() if entry is not before.get(path) and entry.is_directory]
    if root_now != root:
        moved.append(b"")
    if not moved:
        return
    with opened_directory(made) as made_fd:
        for path in moved:
            _check_directory(live_fd, made_fd, path)


def _check_directory(live_fd: int, made_fd: int, path: bytes) -> None:
    try:
        other = open_part(made_fd, path)
    except FileNotFoundError:
        return  # The patch has emptied and removed it.
    try:
        live = open_part(live_fd, path)
        try:
            if read_attributes(live) != read_attributes(other):
                raise _tree_changed(os.fsdecode(path) or ".")
            if is_unchangeable(live, b"."):
                raise immutable("a directory that was made anew", path or b".")
        finally:
            os.close(live)
    finally:
        os.close(other)


def _tree_changed(path: str) -> ApplyFailedError:
    return ApplyFailedError(
        "agent.apply.tree_changed",
        "somebody writes to the target",
        actual=path,
        hint="stop what writes to the target and try again",
    )


def _take_back(files: Files, config: TargetConfig, journal: Journal) -> None:
    """Put the old tree at the root again, in one step, durably.

    Raises:
        StateWriteError: ``agent.state.take_back``: the new tree stands; the journal still says that it must not stay.
        StateCorruptError: ``agent.state.sync``.
    """
    try:
        switch_trees(files, config, journal, before=Side.NEW)
    except ApplyFailedError as error:
        raise StateWriteError(
            "agent.state.take_back",
            f"the change of {config.name} did not pass its trial and could not be taken back: {error.message}",
            hint="repair the disk; it is taken back before anything else is done with the target",
        ) from error


def _is_old_tree_there(config: TargetConfig, journal: Journal) -> bool:
    """Return whether the switch can be taken back: the old tree is kept, by its inode, or on a copied host by its content."""
    if is_old_tree_kept(config, journal):
        return True
    kept = _read_tree(staged_path(config, journal))
    before = journal.tree_before if journal.part_before is None else journal.part_before
    return kept is not None and kept.tree_digest == before


def _read_tree(root: str, omit: bytes | None = None) -> Inventory | None:
    try:
        root_fd = open_root(root)
        try:
            return take_inventory(root_fd, omit=omit)
        finally:
            os.close(root_fd)
    except PatchwardenError:
        return None
