"""The targets of one host: found, added, changed, compared with their records.

Blocking, and without the ledger: the agent calls it in a thread and tells the ledger what follows.

Source: docs/spec/agent.md 3.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.applying import Made, check_staging, finish, refresh_standby
from agent.drift import NO_TREE, read_full_scan_ms, write_full_scan_ms
from agent.errors import ApplyFailedError, StateCorruptError, TargetRefusedError
from agent.file_flags import FlagMemory
from agent.files import Files, is_there
from agent.host_checks import check_mounts, check_tree, immutable
from agent.inventory import Inventory, differing_paths, open_root
from agent.limits import DRIFT_PATHS_MAX, HISTORY_LINES_MAX, SCAN_AGE_SECONDS_MAX, TARGETS_MAX
from agent.manifest import read_manifest, write_manifest
from agent.plan import Plan
from agent.progress import FILES, STEP_SCAN, Tracker
from agent.record_log import Record, RecordLog, read_records
from agent.standby import drop_standby, paths_within
from agent.switch import Journal, remove_put_aside
from agent.target import (
    HISTORY_FILE,
    MANIFEST_FILE,
    TARGET_FILE,
    TREE_CACHE_FILE,
    Mode,
    TargetConfig,
    TargetState,
    TargetStore,
)
from agent.tree_cache import TreeCache
from provenance.tree_digest import blob_digest
from wire.errors import MalformedError, PatchwardenError
from wire.fields import as_identifier
from wire.hashing import Digest

NOT_ADOPTED: Final = "agent.target.not_adopted"
"""Code of a target without a record: nothing is done there, and it is told as what it is."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target, as it is configured, as it is recorded and as it is."""

    config: TargetConfig
    state: TargetState
    tree_digest: Digest | None
    """Digest of the tree now, 32 bytes; None when it cannot be read."""
    problem: str
    """Why it cannot be read, or ""."""
    drifted_paths: tuple[str, ...]
    """At most `DRIFT_PATHS_MAX` paths at which the tree differs from its record; empty when it does not, or when the record of
    single files is lost."""
    drifted_count: int
    """Number of all such paths."""
    is_busy: bool = False
    """Whether the target is being changed now: then the tree is told as it was seen last."""
    problem_code: str = ""
    """The stable code of why it cannot be read, or ""."""
    full_scan_ms: int | None = None
    """When every file was read last, milliseconds since the epoch, or None when nobody knows."""

    @property
    def has_baseline(self) -> bool:
        """Whether there is a record to compare the tree with."""
        return self.problem_code != NOT_ADOPTED

    @property
    def is_drifted(self) -> bool:
        """Whether the tree is another than the records explain."""
        return self.tree_digest != self.state.tree_digest

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.config.name,
            "root": self.config.root,
            "components": list(self.config.components),
            "windows": [window.text for window in self.config.windows],
            "allowed": [each.value for each in self.config.allowed],
            "frozen": self.config.frozen,
            "hooks": self.config.hooks.to_json(),
            "mode": self.config.mode.value,
            "standby": self.config.mode is Mode.EXCHANGE and os.path.lexists(self.config.standby),
            "keeps_standby": self.config.keeps_standby,
            "tree_digest": None if self.tree_digest is None else self.tree_digest.hex(),
            "recorded_tree_digest": self.state.tree_digest.hex() if self.has_baseline else None,
            "drifted": self.is_drifted,
            "drifted_paths": list(self.drifted_paths),
            "drifted_count": self.drifted_count,
            "problem": self.problem,
            "problem_code": self.problem_code,
            "busy": self.is_busy,
            "full_scan_ms": self.full_scan_ms,
            "installed": [each.to_json() for each in self.state.installed],
            "counters": dict(self.state.counters or {}),
        }


class Target:
    """One target with its files and what its tree was when it was last read.

    Args:
        files: The door to the file system.
        directory: ``<home>/agent/targets/<name>``.
        config: As it stands there.
    """

    def __init__(self, files: Files, directory: str, config: TargetConfig) -> None:
        self._files = files
        self.store = TargetStore(files, directory)
        self.config = config
        self.tracker = Tracker()
        """How far it is what is being done here."""
        self.flags = FlagMemory()
        """What is known of the flags of its files."""
        self._cache = self._open_cache(config)
        self._exchanged: bytes | None = None
        self._differs: tuple[Inventory, frozenset[bytes]] | None = None
        """The tree as it stands after an application, and where the standby tree cannot be like it yet."""
        self._status: TargetStatus | None = None

    def open_root(self) -> int:
        """Return a descriptor of the root, in which nothing is mounted; the caller closes it.

        Raises:
            TargetRefusedError: ``agent.target.*``.
            ApplyFailedError: ``agent.target.unreadable``.
        """
        check_mounts(self.config.root)
        return open_root(self.config.root)

    def take_inventory(self, root_fd: int, *, full: bool = False) -> Inventory:
        """Return the inventory of the open root, reading only what changed since the last one; with `full`, everything.

        Raises:
            TargetRefusedError: ``agent.target.*``.
            ApplyFailedError: ``agent.target.*``.
        """
        self.tracker.begin(STEP_SCAN, "reading what has changed in the target", unit=FILES)
        return self._cache.scan(root_fd, full=full)

    def last_inventory(self, root_fd: int, recorded: Digest) -> Inventory:
        """Return the tree as a decision begins with it: read now, or in place as the last scan found it.

        That must not have been long ago, and it must have found the recorded tree: a drift may be repaired by now.

        Raises:
            TargetRefusedError: ``agent.target.*``.
            ApplyFailedError: ``agent.target.*``.
        """
        if self.config.mode is Mode.IN_PLACE:
            inventory = self.look_at(root_fd, ())
            if inventory.tree_digest == recorded:
                return inventory
        return self.take_inventory(root_fd)

    def look_at(self, root_fd: int, paths: Iterable[bytes]) -> Inventory:
        """Return the tree with these paths as they are now. Raises TargetRefusedError, ApplyFailedError (``agent.target.*``)."""
        return self._cache.refresh(root_fd, paths, age_s_max=SCAN_AGE_SECONDS_MAX)

    def look_again(self, journal: Journal | None, *, is_done: bool, made: Made | None = None) -> Inventory | None:
        """Return the tree after an application, or after a crash, or None when it cannot be read.

        Args:
            journal: What was going on.
            is_done: Whether this process has just done it, and nothing else.
            made: What the new tree is, where that is known and nobody was at work in it since.
        """
        if made is not None and is_done:
            inventory = self._cache.follow(made.inventory, made.changed, linked=made.linked)
            self._differs = (inventory, paths_within(made.changed))
            return inventory
        try:
            root_fd = self.open_root()
            try:
                if journal is None or journal.standby or (journal.operations is None and not is_done):
                    return self.take_inventory(root_fd)
                if journal.operations is None:
                    self._exchanged = journal.part.encode()
                    inventory = self._cache.carry(root_fd, self._exchanged)
                    below = self._exchanged + b"/" if self._exchanged else b""
                    self._differs = (
                        inventory,
                        paths_within([path for path in inventory.entries if path.startswith(below)]),
                    )
                    return inventory
                return self.look_at(root_fd, (each.raw for each in journal.operations.files))
            finally:
                os.close(root_fd)
        except PatchwardenError:
            return None

    def finish(self) -> None:
        """Remove what an application has left, and bring the standby tree to where the live one is. Raises OSError."""
        differs, self._differs = self._differs, None
        finish(self._files, self.store, self.config, *(differs or ()))
        self.forget_links()

    def forget_links(self) -> None:
        """See the tree as it is after the second names of its files are gone, which the last application had made."""
        if self._exchanged is None:
            return
        part, self._exchanged = self._exchanged, None
        with contextlib.suppress(PatchwardenError):
            root_fd = self.open_root()
            try:
                self._cache.carry(root_fd, part)
            finally:
                os.close(root_fd)

    def digest_after(self, plan: Plan) -> Digest:
        """Return what the last inventory's tree digest becomes by a plan."""
        return self._cache.preview(
            {
                change.path: None if change.post is None else (change.post.mode, blob_digest(change.post.content))
                for change in plan.changes
            }
        )

    def save_cache(self) -> None:
        """Keep what was read for the next start, if the disk lets it: without it everything is read again."""
        with contextlib.suppress(OSError):
            self._cache.save()

    def state(self) -> TargetState:
        """Return the recorded state.

        Raises:
            TargetRefusedError: ``agent.target.not_adopted``: its record is lost.
            StateCorruptError: ``agent.state.damaged``.
        """
        state = self.store.read_target_state()
        if state is None:
            name = self.config.name
            raise TargetRefusedError(
                NOT_ADOPTED,
                f"the target {name} has no baseline",
                hint=f"run agent target adopt {name}, or agent target remove {name}",
            )
        return state

    def status(self, *, full_at_ms: int | None = None) -> TargetStatus:
        """Return the target as it is; one without a record says so as its problem.

        Args:
            full_at_ms: The time now, milliseconds since the epoch, if every file is to be read; otherwise only what changed is.

        Raises:
            StateCorruptError: ``agent.state.damaged``.
            OSError: That everything was read could not be written.
        """
        self._status = self._look(full_at_ms)
        return self._status

    def status_while_busy(self) -> TargetStatus:
        """Return the target as it was seen last, for whoever does not wait for the end of a change. Raises as `status`."""
        try:
            state = self.state()
        except TargetRefusedError as error:
            return replace(self._without_baseline(error), is_busy=True)
        seen = self._status or TargetStatus(self.config, state, state.tree_digest, "", (), 0)
        return replace(seen, config=self.config, state=state, is_busy=True)

    def _without_baseline(self, error: TargetRefusedError) -> TargetStatus:
        seen = TargetStatus(self.config, TargetState(NO_TREE), None, error.message, (), 0)
        return replace(seen, problem_code=error.code)

    def _look(self, full_at_ms: int | None) -> TargetStatus:
        try:
            state = self.state()
        except TargetRefusedError as error:
            return self._without_baseline(error)
        full_ms = read_full_scan_ms(self.store)
        try:
            root_fd = self.open_root()
            try:
                inventory = self.take_inventory(root_fd, full=full_at_ms is not None)
            finally:
                os.close(root_fd)
        except (TargetRefusedError, ApplyFailedError) as error:
            seen = TargetStatus(self.config, state, None, error.message, (), 0, full_scan_ms=full_ms)
            return replace(seen, problem_code=error.code)
        self.save_cache()
        if full_at_ms is not None:
            write_full_scan_ms(self._files, self.store, full_at_ms)
            full_ms = full_at_ms
        differing: tuple[bytes, ...] = ()
        if inventory.tree_digest != state.tree_digest:
            recorded = read_manifest(self.store.path(MANIFEST_FILE), state.tree_digest)
            differing = () if recorded is None else differing_paths(inventory, recorded)
        names = tuple(path.decode(errors="backslashreplace") for path in differing[:DRIFT_PATHS_MAX])
        return TargetStatus(self.config, state, inventory.tree_digest, "", names, len(differing), full_scan_ms=full_ms)

    def adopt(self) -> TargetStatus:
        """Make the tree as it is the recorded one, marked as untold; installed patches and release counters stay.

        A large tree gets its standby tree.

        Raises:
            TargetRefusedError: ``agent.target.*``.
            ApplyFailedError: ``agent.target.*``.
        """
        inventory = self._read_tree(full=True)
        before = self.store.read_target_state()
        if before is None:
            state = TargetState(inventory.tree_digest, untold=True)
        else:
            state = replace(before, tree_digest=inventory.tree_digest, drift_reported=None, untold=True)
        status = self._begin_with(state, inventory)
        self._keep_standby(inventory)
        return status

    def found(self) -> TargetStatus:
        """Make the target, with its tree as it is as the recorded one; what raises leaves what a removed target of this name had left.

        Release counters of that one stay. What it had installed counts only where the tree is the very one that its record explains.

        Raises:
            TargetRefusedError: ``agent.target.*``.
            ApplyFailedError: ``agent.target.*``.
            StateCorruptError: ``agent.state.damaged``.
            OSError: It was not written.
        """
        inventory = self._read_tree(full=True)
        self._check_tree(self.config, inventory)
        before, was_there = self.store.read_target_state(), is_there(self.store.directory)
        state = TargetState(inventory.tree_digest, counters=None if before is None else before.counters, untold=True)
        if before is not None and before.tree_digest == inventory.tree_digest:
            state = replace(before, drift_reported=None, untold=True)
        self._files.make_directories(self.store.directory)
        try:
            status = self._begin_with(state, inventory)
            # Last: without it, whatever else there is, there is no target.
            self.store.write_config(self.config)
        except OSError:
            self._take_back(before, was_there=was_there)
            raise
        self._keep_standby(inventory)
        return status

    def _take_back(self, before: TargetState | None, *, was_there: bool) -> None:
        """Leave what was there before the target, as far as the disk lets it; the configuration goes first."""
        with contextlib.suppress(OSError):
            if is_there(self.store.path(TARGET_FILE)):
                self._files.unlink(self.store.path(TARGET_FILE))
            if not was_there:
                self._files.remove_tree(self.store.directory)
            elif before is not None:
                self.store.write_target_state(before)

    def _read_tree(self, *, full: bool) -> Inventory:
        root_fd = self.open_root()
        try:
            return self.take_inventory(root_fd, full=full)
        finally:
            os.close(root_fd)

    def _check_tree(self, config: TargetConfig, inventory: Inventory) -> None:
        root_fd = self.open_root()
        try:
            check_tree(config, root_fd, inventory, self.flags)
        finally:
            os.close(root_fd)

    def _begin_with(self, state: TargetState, inventory: Inventory) -> TargetStatus:
        self.store.write_target_state(state)
        write_manifest(self._files, self.store.path(MANIFEST_FILE), inventory)
        self.save_cache()
        return TargetStatus(self.config, state, inventory.tree_digest, "", (), 0)

    def _keep_standby(self, inventory: Inventory) -> None:
        """Make or repair the standby tree of a large target, if operator and host let it, or remove it."""
        if self.config.mode is not Mode.EXCHANGE:
            return
        # Without it, or with what is left of it, the next application does what is to do.
        with contextlib.suppress(OSError, PatchwardenError):
            if refresh_standby(self._files, self.config, inventory):
                root_fd = self.open_root()
                try:
                    self._cache.carry(root_fd, b"")
                finally:
                    os.close(root_fd)
                self.save_cache()

    def mark_drift_reported(self, digest: Digest | None) -> None:
        """Remember that this drift was told, or with None that its end was. Raises OSError, StateCorruptError."""
        self.store.write_target_state(replace(self.state(), drift_reported=digest))

    def untold_adoption(self) -> TargetStatus | None:
        """Return the target as it was adopted, if the ledger may not know that yet; a damaged record is told where it is needed."""
        try:
            state = self.store.read_target_state()
        except StateCorruptError:
            return None
        if state is None or not state.untold:
            return None
        return TargetStatus(self.config, state, state.tree_digest, "", (), 0)

    def mark_adoption_told(self) -> None:
        """Remember that the outbox has the report of the adoption. Raises OSError, StateCorruptError."""
        self.store.write_target_state(replace(self.state(), untold=False))

    def change(self, config: TargetConfig) -> None:
        """Make `config` the target's configuration, durably. Raises OSError."""
        self.store.write_config(config)
        self.config = config

    def change_mode(self, mode: object) -> None:
        """Let the target be changed in another mode from now on, durably, after it was tried as for a new target.

        The new configuration is written first: what a crash leaves of the trial then is the agent's own and no content. Only when nothing
        is open, and nobody else is at work here.

        Args:
            mode: The mode's name; untrusted.

        Raises:
            TargetRefusedError: ``agent.target.mode``, ``agent.target.own_directory``, ``agent.target.mount_point``.
            ApplyFailedError: ``agent.target.no_exchange``, ``agent.target.no_in_place``, ``agent.target.unreadable``,
                ``agent.apply.immutable``; the mode is as before.
            OSError: It was not written.
        """
        before = self.config
        config = TargetConfig.from_json_untrusted({**before.to_json(), "mode": mode})
        if config.mode is before.mode:
            return
        check_mounts(config.root)
        if config.mode is Mode.EXCHANGE:
            self._check_tree(config, self._read_tree(full=False))
        if is_there(config.staging):
            raise TargetRefusedError(
                "agent.target.own_directory",
                "something stands where the agent works in this mode",
                actual=config.staging,
                hint="it is not the agent's: move it away",
            )
        self.remove_second_trees()  # in place, their names would be hard links that refuse every patch
        self.store.write_config(config)
        try:
            check_staging(self._files, config)
        except PatchwardenError:
            self.store.write_config(before)
            raise
        self.config = config
        self._cache = self._open_cache(config)

    def remove_second_trees(self) -> None:
        """Remove the standby tree, and old trees that were put aside; nothing when there is none.

        Raises:
            ApplyFailedError: ``agent.apply.immutable``: somebody has made immutable what is in one of them.
            OSError: One could not be removed.
        """
        try:
            drop_standby(self._files, self.config)
            remove_put_aside(self._files, self.config)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            above = os.path.dirname(self.config.root)
            raise immutable(
                "something in a second tree beside the target",
                error.filename or b"",
                f"chattr -R -i -a {above}/.*.patchwarden-{self.config.name}*, and try again; files of the target lose the flags, too",
            ) from error

    def change_standby(self, *, kept: bool) -> None:
        """Let the target have a standby tree when it is a large one, or none from now on; only when nobody else is at work here.

        Raises:
            ApplyFailedError: ``agent.apply.immutable``: as the next.
            OSError: It was not written, or the standby tree not removed; the next application or recovery removes it.
        """
        self.change(replace(self.config, keeps_standby=kept))
        with contextlib.suppress(PatchwardenError):  # Of a tree that cannot be read there can be none.
            self._keep_standby(self._read_tree(full=False))
        if not kept:
            self.remove_second_trees()

    def _open_cache(self, config: TargetConfig) -> TreeCache:
        return TreeCache(self._files, self.store.path(TREE_CACHE_FILE), config.own_name, read=self.tracker.advance)

    def append_history(self, record: Record) -> None:
        """Add an ending to the local history, durably. Raises StateCorruptError."""
        log = RecordLog(self._files, self.store.path(HISTORY_FILE))
        try:
            log.append(record)
            if log.lines > HISTORY_LINES_MAX:
                log.rewrite(log.records[-HISTORY_LINES_MAX // 2 :])
        finally:
            log.close()

    def history(self, limit: int) -> tuple[Record, ...]:
        """Return the last endings, newest first. Raises StateCorruptError."""
        return tuple(reversed(read_records(self.store.path(HISTORY_FILE))[-limit:])) if limit > 0 else ()


class Registry:
    """All targets of one host.

    Args:
        files: The door to the file system.
        directory: ``<home>/agent/targets``; made when it is not there.

    Raises:
        StateCorruptError: ``agent.state.damaged``.
    """

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self._directory = directory
        files.make_directories(directory)
        self._targets: dict[str, Target] = {}
        for name in sorted(os.listdir(directory)):
            config = self._read_config(name)
            if config is not None:
                self._targets[name] = Target(files, self._path(name), config)

    def __iter__(self) -> Iterator[Target]:
        return iter(tuple(self._targets.values()))

    def find(self, name: str) -> Target | None:
        """Return the target, or None."""
        return self._targets.get(name)

    def get(self, name: str) -> Target:
        """Return the target.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
        """
        target = self._targets.get(name)
        if target is None:
            raise TargetRefusedError(
                "agent.target.unknown",
                "this host has no such target",
                expected=", ".join(self._targets) or "a target; there is none yet",
                actual=name,
                hint="run agent target add",
            )
        return target

    def installed_patches(self) -> frozenset[bytes]:
        """Return the ids of the patches that the records say are installed, of all targets, 32 bytes each.

        Raises:
            StateCorruptError: ``agent.state.damaged``.
        """
        states = [target.store.read_target_state() for target in self]
        return frozenset(bytes.fromhex(each.patch_id) for state in states if state for each in state.installed)

    def add(self, document: dict[str, Any]) -> TargetStatus:
        """Return the status of a new target, whose tree as it is becomes the recorded one.

        Args:
            document: Name, root, components, windows, frozen, allowed and mode, as `TargetConfig.to_json` writes them; untrusted.

        Raises:
            RejectedError: ``agent.target.*``, ``wire.field.*``.
            ApplyFailedError: ``agent.target.no_exchange``, ``agent.target.no_in_place``, ``agent.target.unreadable``,
                ``agent.target.changing``.
            StateCorruptError: ``agent.state.damaged``: what a removed target of this name had left.
            OSError: It was not written; there is no such target.
        """
        config = TargetConfig.from_json_untrusted({**document, "version": 1})
        if config.name in self._targets:
            raise TargetRefusedError("agent.target.exists", f"a target named {config.name} exists")
        if len(self._targets) >= TARGETS_MAX:
            raise TargetRefusedError("agent.target.too_many", f"a host has at most {TARGETS_MAX} targets")
        self._check_root(config)
        check_mounts(config.root)
        check_staging(self._files, config)
        target = Target(self._files, self._path(config.name), config)
        status = target.found()
        self._targets[config.name] = target
        return status

    def remove(self, name: str) -> None:
        """Forget a target; its tree stays, and so does its state, so that release counters outlive removing and adding it again.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
            ApplyFailedError: ``agent.apply.immutable``.
            OSError: It could not be removed.
        """
        target = self.get(name)
        target.remove_second_trees()
        self._files.unlink(target.store.path(TARGET_FILE))
        self._files.sync_directory(target.store.directory)
        del self._targets[name]

    def _check_root(self, config: TargetConfig) -> None:
        try:
            status = os.lstat(config.root)
        except OSError as error:
            raise TargetRefusedError(
                "agent.target.missing", f"the target's directory cannot be found ({error.strerror})", actual=config.root
            ) from error
        if stat.S_ISLNK(status.st_mode) or os.path.realpath(config.root) != config.root:
            raise TargetRefusedError(
                "agent.target.link",
                "the path of a target's root goes through a symbolic link",
                expected=os.path.realpath(config.root),
                actual=config.root,
            )
        if not stat.S_ISDIR(status.st_mode):
            raise TargetRefusedError(
                "agent.target.not_a_directory", "a target's root is no directory", actual=config.root
            )
        guarded = [(target.config.name, target.config.root) for target in self]
        for name, root in [*guarded, ("the agent's own directory", os.path.dirname(self._directory))]:
            if os.path.commonpath([root, config.root]) in (root, config.root):
                raise TargetRefusedError(
                    "agent.target.overlap",
                    f"the target and {name} lie inside one another",
                    expected=root,
                    actual=config.root,
                )

    def _read_config(self, name: str) -> TargetConfig | None:
        try:
            as_identifier(name, "name")
        except MalformedError:
            return None
        return TargetStore(self._files, self._path(name)).read_config()

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)
