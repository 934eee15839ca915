"""One target: what the operator says about it, what the records say it holds, and the files in which both stand.

::

    <home>/agent/targets/<target>/
                          target.json      what the operator configured: root, components, windows, frozen
                          state.json       tree digest, installed patches, highest release counters, reported drift
                          manifest         path, mode and digest of every file of that tree: names the paths of a drift
                          tree-cache       the last reading of the tree: what need not be read again
                          journal.json     only while an application is between its intent and its outcome
                          history.log      how every application and refusal ended
                          patches/ID       the patch file of everything installed, and of what is being applied: the provenance
                          lock             held while the target is changed

Source: docs/spec/agent.md 3 and 5.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from agent.errors import TargetRefusedError
from agent.files import Files
from agent.hooks import NO_HOOKS, Hooks
from agent.limits import PATTERNS_MAX, WINDOWS_MAX
from agent.maintenance import Window, parse_window_untrusted
from agent.state_file import damaged, read_state, write_state
from provenance.diff_model import Allowance
from provenance.limits import COMPONENT_NAME_BYTES_MAX
from wire.errors import RejectedError
from wire.fields import as_bool, as_identifier, as_int, as_text
from wire.hashing import DIGEST_BYTES, Digest
from wire.limits import PATCH_FILE_BYTES_MAX

TARGET_FILE: Final = "target.json"
STATE_FILE: Final = "state.json"
JOURNAL_FILE: Final = "journal.json"
MANIFEST_FILE: Final = "manifest"
TREE_CACHE_FILE: Final = "tree-cache"
HISTORY_FILE: Final = "history.log"
LOCK_FILE: Final = "lock"
PATCHES_DIRECTORY: Final = "patches"
_PATH_BYTES_MAX: Final = 1024
"""So that a report can name it, whatever it is made of."""


class Mode(StrEnum):
    """How a patch gets into a target's tree."""

    EXCHANGE = "exchange"
    """A whole new tree is made and changes places with the old one: readers see the old tree or the new one."""
    IN_PLACE = "in-place"
    """Each changed file is replaced by itself: for mount points and file systems that cannot exchange; readers may see some files new and
    others old for a moment."""


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What an operator says about a target."""

    name: str
    """Identifier, unique on the host."""
    root: str
    """Absolute path of its directory, free of links."""
    components: tuple[str, ...]
    """Component names that the target carries; a trailing `*` stands for any rest."""
    windows: tuple[Window, ...] = ()
    """When it may be changed; none means always."""
    frozen: bool = False
    """Whether the operator has stopped all changes."""
    allowed: tuple[Allowance, ...] = ()
    """What patches may do here besides changing text, sorted; a patch must allow it to itself as well."""
    hooks: Hooks = NO_HOOKS
    """What the operator lets run around a change."""
    mode: Mode = Mode.EXCHANGE
    """How a patch gets into the tree."""
    keeps_standby: bool = True
    """Whether a large tree may have a standby tree; only in exchange mode."""

    def carries(self, component: str) -> bool:
        """Return whether the target is configured to carry `component`."""
        return any(
            component.startswith(pattern[:-1]) if pattern.endswith("*") else component == pattern
            for pattern in self.components
        )

    @property
    def staging(self) -> str:
        """Absolute path of the directory in which new files are made; on the target's file system, there only while a patch is applied.

        In exchange mode it stands beside the root. In place it stands in the root, since nothing beside it need be on its file system.
        """
        if self.mode is Mode.IN_PLACE:
            return os.path.join(self.root, self._work_name)
        parent, name = os.path.split(self.root)
        return os.path.join(parent, f".{name}.patchwarden-{self.name}")

    @property
    def standby(self) -> str:
        """Absolute path of the directory, beside the root, that holds the second tree of a large target in exchange mode."""
        parent, name = os.path.split(self.root)
        return os.path.join(parent, f".{name}.patchwarden-{self.name}.standby")

    @property
    def own_name(self) -> bytes | None:
        """The name in the root that is the agent's own and no content, or None."""
        return os.fsencode(self._work_name) if self.mode is Mode.IN_PLACE else None

    @property
    def _work_name(self) -> str:
        return f".patchwarden-{self.name}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "version": 1,
            "name": self.name,
            "root": self.root,
            "components": list(self.components),
            "windows": [window.text for window in self.windows],
            "frozen": self.frozen,
            "allowed": [each.value for each in self.allowed],
            "hooks": self.hooks.to_json(),
            "mode": self.mode.value,
            "keeps_standby": self.keeps_standby,
        }

    @classmethod
    def from_json_untrusted(cls, document: Mapping[str, Any]) -> TargetConfig:
        """Return the checked record.

        Raises:
            RejectedError: ``wire.field.*``, ``agent.target.*``.
        """
        as_int(document.get("version"), "version", 1, 1)
        components, windows = document.get("components"), document.get("windows")
        if not isinstance(components, list | tuple) or not 1 <= len(components) <= PATTERNS_MAX:
            raise TargetRefusedError("agent.target.components", f"a target names 1 to {PATTERNS_MAX} components")
        if not isinstance(windows, list | tuple) or len(windows) > WINDOWS_MAX:
            raise TargetRefusedError("agent.target.window", f"a target has at most {WINDOWS_MAX} maintenance windows")
        return cls(
            name=as_identifier(document.get("name"), "name"),
            root=_as_root(document.get("root")),
            components=tuple(as_text(each, "components", COMPONENT_NAME_BYTES_MAX, 1) for each in components),
            windows=tuple(parse_window_untrusted(as_text(each, "windows", 64)) for each in windows),
            frozen=as_bool(document.get("frozen"), "frozen"),
            # A target of before there were allowances has none.
            allowed=_as_allowances(document.get("allowed", [])),
            hooks=Hooks.from_json_untrusted(document.get("hooks", {})),
            # A target of before there were modes is exchanged.
            mode=_as_mode(document.get("mode", Mode.EXCHANGE.value)),
            # A target of before there were standby trees, or before one could do without, has one.
            keeps_standby=as_bool(document.get("keeps_standby", True), "keeps_standby"),
        )


@dataclass(frozen=True, slots=True)
class Installed:
    """One patch on a target."""

    patch_id: str
    """64 hexadecimal digits."""
    release_counter: int
    components: tuple[str, ...]
    """Component names it touched."""
    height: int
    """Height at which its intent was committed."""
    intent_tx: str
    """tx_id of its intent, 64 hexadecimal digits."""
    applied_ms: int
    """When, by the host's clock, milliseconds since the epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "patch_id": self.patch_id,
            "release_counter": self.release_counter,
            "components": list(self.components),
            "height": self.height,
            "intent_tx": self.intent_tx,
            "applied_ms": self.applied_ms,
        }


@dataclass(frozen=True, slots=True)
class TargetState:
    """What the records say a target holds."""

    tree_digest: Digest
    """Tree digest after the last application or adoption, 32 bytes."""
    installed: tuple[Installed, ...] = ()
    """Patches in the order of application."""
    counters: Mapping[str, int] | None = None
    """Highest release counter ever applied to each component; it outlives adoption, so an old patch cannot come back."""
    drift_reported: Digest | None = None
    """The drifted tree digest that was last reported to the ledger, so that one drift is reported once."""
    untold: bool = False
    """Whether the ledger may not know yet that this tree was adopted; written with it, and taken back when the report is in the outbox."""

    def counter(self, component: str) -> int:
        """Return the highest release counter applied to `component`, -1 when none was."""
        return (self.counters or {}).get(component, -1)

    def with_patch(self, patch: Installed, tree_digest: Digest) -> TargetState:
        """Return the state after `patch` was applied and gave `tree_digest`; unchanged when it is installed already."""
        if any(each.patch_id == patch.patch_id for each in self.installed):
            return self
        counters = dict(self.counters or {})
        for component in patch.components:
            counters[component] = max(patch.release_counter, counters.get(component, -1))
        return replace(
            self,
            tree_digest=tree_digest,
            installed=(*self.installed, patch),
            counters=counters,
            drift_reported=None,
        )

    def without_patch(self, patch_id: str, tree_digest: Digest) -> TargetState:
        """Return the state after a patch was undone, which gave `tree_digest`. Release counters stay: what was undone is not new again."""
        if all(each.patch_id != patch_id for each in self.installed):
            return self
        left = tuple(each for each in self.installed if each.patch_id != patch_id)
        return replace(self, tree_digest=tree_digest, installed=left, drift_reported=None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "version": 1,
            "tree_digest": self.tree_digest.hex(),
            "installed": [each.to_json() for each in self.installed],
            "counters": dict(self.counters or {}),
            "drift_reported": None if self.drift_reported is None else self.drift_reported.hex(),
            "untold": self.untold,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TargetState:
        """Return the record that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        if document["version"] != 1:
            raise ValueError("its version is not known")
        # A state of before adoptions were marked was told.
        reported, untold = document["drift_reported"], document.get("untold", False)
        if type(untold) is not bool:
            raise TypeError("whether it is untold is neither true nor false")
        return cls(
            tree_digest=_digest(document["tree_digest"]),
            installed=tuple(
                Installed(
                    patch_id=str(each["patch_id"]),
                    release_counter=int(each["release_counter"]),
                    components=tuple(map(str, each["components"])),
                    height=int(each["height"]),
                    intent_tx=str(each["intent_tx"]),
                    applied_ms=int(each["applied_ms"]),
                )
                for each in document["installed"]
            ),
            counters={str(name): int(counter) for name, counter in document["counters"].items()},
            drift_reported=None if reported is None else _digest(reported),
            untold=untold,
        )


class TargetStore:
    """The files of one target below the agent's directory.

    Args:
        files: The door to the file system.
        directory: ``<home>/agent/targets/<target>``.
    """

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self.directory = directory

    def path(self, name: str) -> str:
        """Return the path of one of the target's files."""
        return os.path.join(self.directory, name)

    def patch_path(self, patch_id: str) -> str:
        """Return where the patch file of an installed patch stands."""
        return os.path.join(self.directory, PATCHES_DIRECTORY, patch_id)

    def read_config(self) -> TargetConfig | None:
        """Return the configuration, or None when the target does not exist. Raises StateCorruptError."""
        path = self.path(TARGET_FILE)
        document = read_state(path)
        if document is None:
            return None
        try:
            return TargetConfig.from_json_untrusted(document)
        except RejectedError as error:
            raise damaged(path, error.message) from error

    def write_config(self, config: TargetConfig) -> None:
        """Make `config` durable. Raises OSError."""
        self._files.make_directories(os.path.join(self.directory, PATCHES_DIRECTORY))
        write_state(self._files, self.path(TARGET_FILE), config.to_json())

    def read_target_state(self) -> TargetState | None:
        """Return the state, or None before adoption. Raises StateCorruptError."""
        path = self.path(STATE_FILE)
        document = read_state(path)
        if document is None:
            return None
        try:
            return TargetState.from_json(document)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, f"does not have its form: {error}") from error

    def write_target_state(self, state: TargetState) -> None:
        """Make `state` durable. Raises OSError."""
        write_state(self._files, self.path(STATE_FILE), state.to_json())

    def keep_patch(self, patch_id: str, data: bytes) -> None:
        """Make the patch file durable under its id. Raises OSError."""
        self._files.replace(self.patch_path(patch_id), data)

    def forget_patches(self, kept: Collection[str]) -> None:
        """Remove the kept files of all patches but these. May be repeated. Raises OSError."""
        directory = os.path.join(self.directory, PATCHES_DIRECTORY)
        for name in os.listdir(directory):
            if name not in kept:
                self._files.unlink(os.path.join(directory, name))

    def read_patch(self, patch_id: str) -> bytes | None:
        """Return the kept file of a patch, or None when it is lost, which only keeps the patch from being undone without a peer."""
        try:
            with open(self.patch_path(patch_id), "rb") as file:
                return file.read(PATCH_FILE_BYTES_MAX + 1)
        except OSError:
            return None


def _as_allowances(value: object) -> tuple[Allowance, ...]:
    known = {each.value: each for each in Allowance}
    if not isinstance(value, list | tuple) or any(not isinstance(each, str) or each not in known for each in value):
        raise TargetRefusedError(
            "agent.target.allowance",
            "a target allows a list of the known allowances",
            expected=", ".join(known),
            actual=value,
        )
    return tuple(sorted({known[each] for each in value}))


def _as_mode(value: object) -> Mode:
    if not isinstance(value, str) or value not in {each.value for each in Mode}:
        raise TargetRefusedError(
            "agent.target.mode", "a target has one of the known modes", expected=", ".join(Mode), actual=value
        )
    return Mode(value)


def _as_root(value: object) -> str:
    root = as_text(value, "root", _PATH_BYTES_MAX, 1)
    if not os.path.isabs(root) or os.path.normpath(root) != root or root == "/":
        raise TargetRefusedError(
            "agent.target.root", "a target's root is an absolute path in its shortest form, and not /", actual=root
        )
    return root


def _digest(text: str) -> Digest:
    raw = bytes.fromhex(text)
    if len(raw) != DIGEST_BYTES:
        raise ValueError("a digest has the wrong length")
    return Digest(raw)
