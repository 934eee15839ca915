"""A directory into which somebody puts patch files for this host: each enters the same pipeline as any other, and moves on.

::

    INBOX/NAME.patch                 waits
    INBOX/done/NAME.patch            applied, or there already, at every target that it is for
    INBOX/refused/NAME.patch         refused at one at least, or for none
    INBOX/…/NAME.patch.json          how it ended

Whoever may put a file there operates this host, so nobody else may write the directory. A file is taken once it has stood unchanged for two
looks, and best renamed into place. What only says that now is not the time (a stale replica, a ledger that cannot be reached) leaves it
where it is. The result is durable before the file moves: a crash between the two asks once more, and hears that the patch is there.

Source: docs/spec/agent.md 3.5.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Protocol

import trio

from agent.blocking import run_blocking
from agent.errors import InboxError
from agent.facts import Requester
from agent.limits import (
    FILE_NAME_BYTES_MAX,
    INBOX_FILES_MAX,
    INBOX_INTERVAL_SECONDS,
    INBOX_NAMES_MAX,
    INBOX_RESULTS_KEPT_MAX,
    INBOX_RETRY_SECONDS,
    INBOX_RETRY_SECONDS_MAX,
)
from agent.results import Outcome, ResultCode
from agent.retries import Retries
from provenance.layout import split_patch_file_untrusted
from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError
from wire.limits import PATCH_FILE_BYTES_MAX

CHANNEL: Final = "inbox"
"""How a patch is asked for that lay in the inbox."""
ROLES: Final = ("operator",)
"""Of whoever may put a file there."""
SUFFIX: Final = ".patch"
RESULT_SUFFIX: Final = ".json"
"""Added to a file's name for how it ended."""
DONE: Final = "done"
REFUSED: Final = "refused"
ALREADY: Final = "agent.metadata.already_applied"
_UNFIT: Final = "agent.inbox.directory"
_RETRIED: Final = (ResultCode.STALE_REPLICA, ResultCode.LEDGER_UNAVAILABLE)
_DIRECTORY_MODE: Final = 0o750
_RESULT_MODE: Final = 0o640
Mark = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of a file's bytes, nanoseconds."""
_NO_MARK: Final[Mark] = (0, 0, 0, 0)
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Host(Protocol):
    """What the inbox needs of the agent."""

    def targets_for(self, patch_id: bytes) -> tuple[str, ...] | None:
        """Return the targets that carry a component of a published patch, or None when the ledger does not know it."""
        ...

    def roots(self) -> tuple[str, ...]:
        """Return the roots of all targets."""
        ...

    async def explain(self, data: bytes, target: str, requester: Requester) -> Outcome:
        """Return how an application would end now."""
        ...

    async def apply(self, data: bytes, target: str, requester: Requester) -> Outcome:
        """Return how the application ended."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the inbox, as it was seen."""

    name: str
    uid: int
    """Who owns it."""
    size: int
    """Bytes."""
    mark: Mark
    """Another file, or one still written, has another one."""
    problem: InboxError | None = None
    """Why it cannot be taken, or None."""


class InboxFolder:
    """The directory itself; every method may block.

    Args:
        path: Its absolute path.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def look(self, roots: tuple[str, ...] = ()) -> list[Found]:
        """Return the patch files in it by name; links, and names that begin with a dot, are none.

        Args:
            roots: Directories in which it must not lie.

        Raises:
            InboxError: ``agent.inbox.directory``: it is not there, cannot be looked into, others may write it, or it holds more
                than `INBOX_NAMES_MAX` names.
        """
        if any(os.path.commonpath((root, self.path)) == root for root in roots):
            raise _unfit(self.path, "it lies in a target")
        found = []
        with self._opened() as directory:
            names, length_max = self._names(directory)
            for name in sorted(names):
                if not name.endswith(SUFFIX) or name.startswith(".") or not name.isprintable():
                    continue
                each = self._look_at(name, directory)
                if each is not None:
                    is_long = len(os.fsencode(name)) > length_max
                    found.append(replace(each, problem=_too_long(name, length_max)) if is_long else each)
        return found

    def _names(self, directory: int) -> tuple[list[str], int]:
        """Return all names in it, and how many bytes one may have whose result has a name, too. Raises InboxError."""
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in islice(entries, INBOX_NAMES_MAX + 1)]
            said = os.fpathconf(directory, "PC_NAME_MAX")
        except OSError as error:
            raise _unfit(self.path, str(error.strerror)) from error
        if len(names) > INBOX_NAMES_MAX:
            raise _unfit(self.path, f"more than {INBOX_NAMES_MAX} names are in it")
        return names, min(said if said > 0 else FILE_NAME_BYTES_MAX, FILE_NAME_BYTES_MAX) - len(RESULT_SUFFIX)

    def _look_at(self, name: str, directory: int) -> Found | None:
        """Return a file, or None when it is not there any more, or none. Raises InboxError."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            # No file can forbid that, only the directory: to enter it.
            raise _unfit(self.path, str(error.strerror)) from error
        except OSError as error:
            return Found(name, 0, 0, _NO_MARK, _unreadable(name, error))
        return Found(name, status.st_uid, status.st_size, _mark_of(status)) if stat.S_ISREG(status.st_mode) else None

    def read(self, found: Found) -> bytes | None:
        """Return the file's bytes, at most one more than a patch file may have, or None when it is not that file any more.

        Raises:
            InboxError: ``agent.inbox.unreadable``, ``agent.inbox.name``, ``agent.inbox.directory``.
        """
        if found.problem is not None:
            raise found.problem
        with self._opened() as directory:
            try:
                descriptor = os.open(found.name, _OPEN_FILE, dir_fd=directory)
                with open(descriptor, "rb") as file:
                    status = os.fstat(descriptor)
                    if _mark_of(status) != found.mark:
                        return None
                    return file.read(PATCH_FILE_BYTES_MAX + 1)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise _unreadable(found.name, error) from error

    def settle(self, found: Found, folder: str, document: Mapping[str, Any]) -> bool:
        """Return whether the file was moved, after how it ended was written down, durably, and the file put beside it.

        Another file that has taken its place meanwhile stays where it is: nothing was decided about that one. The oldest results beyond
        `INBOX_RESULTS_KEPT_MAX` go.

        Raises:
            InboxError: ``agent.inbox.directory``, ``agent.inbox.write``: the file stays where it is.
        """
        try:
            with self._opened() as directory:
                with suppress(FileExistsError):
                    os.mkdir(folder, _DIRECTORY_MODE, dir_fd=directory)
                kept = os.open(folder, _OPEN_DIRECTORY, dir_fd=directory)
                try:
                    _write(
                        kept,
                        f"{found.name}{RESULT_SUFFIX}",
                        json.dumps(document, indent=1, sort_keys=True).encode() + b"\n",
                    )
                    is_moved = _move(found, directory, kept)
                    os.fsync(kept)
                    os.fsync(directory)
                    _drop_oldest(kept)
                finally:
                    os.close(kept)
                return is_moved
        except OSError as error:
            raise InboxError(
                "agent.inbox.write",
                f"how {found.name} ended cannot be written down: {error.strerror}",
                hint=f"is there room, and may the agent's user write {self.path} and {folder}/ in it?",
            ) from error

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            descriptor = os.open(self.path, _OPEN_DIRECTORY)
        except OSError as error:
            raise _unfit(self.path, str(error.strerror)) from error
        try:
            try:
                status = os.fstat(descriptor)
            except OSError as error:
                raise _unfit(self.path, str(error.strerror)) from error
            if status.st_mode & stat.S_IWOTH or status.st_uid not in (0, os.geteuid()):
                raise _unfit(self.path, "others may put files there")
            yield descriptor
        finally:
            os.close(descriptor)


class Inbox:
    """The inbox of one host.

    Args:
        host: Its agent.
        folder: The directory.
        now_ms: The host's clock.
        uptime_ms: Milliseconds on a clock that nobody sets, and by which files wait.
        note: Told what became of each file.
        asked: Told each outcome.
    """

    def __init__(
        self,
        host: Host,
        folder: InboxFolder,
        *,
        now_ms: Callable[[], int],
        uptime_ms: Callable[[], int],
        note: Callable[[str, Mapping[str, object]], None],
        asked: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._host = host
        self._folder = folder
        self._now_ms = now_ms
        self._note = note
        self._asked = asked
        self._seen: dict[str, Mark] = {}
        self._retries: Retries[str] = Retries(INBOX_RETRY_SECONDS, INBOX_RETRY_SECONDS_MAX, uptime_ms)
        self._ended: dict[str, dict[str, dict[str, Any]]] = {}
        self._failed: dict[str, UnavailableError] = {}
        self._problem: UnavailableError | None = None
        self.waiting = 0
        """Files that waited at the last look."""

    @property
    def problem(self) -> str:
        """Why it cannot be looked into, or why the first of the files that cannot be taken or moved cannot; or ""."""
        return "" if self._problem is None else self._problem.message

    def to_json(self) -> dict[str, Any]:
        """Return how it stands."""
        problem = self._problem
        return {
            "directory": self._folder.path,
            "waiting": self.waiting,
            "problem": self.problem,
            "problem_code": "" if problem is None else problem.code,
            "problem_hint": "" if problem is None else problem.hint,
        }

    async def run(self, pause: Callable[[float], Awaitable[None]] = trio.sleep) -> None:
        """Look again and again until cancelled; what goes wrong is noted once and tried again.

        Raises:
            CorruptionError: The agent's state or the replica is damaged.
        """
        while True:
            try:
                await self.look()
            except UnavailableError as error:
                if self.problem != error.message:
                    self._note("agent.inbox.failed", {"code": error.code, "message": error.message})
                self._problem = error
            else:
                self._problem = None
            await pause(INBOX_INTERVAL_SECONDS)

    async def look(self) -> None:
        """Look once: take what stood unchanged since the last look, one file after the other.

        Raises:
            UnavailableError: ``agent.inbox.*``: it cannot be looked into, or there is a file that cannot be read or moved.
            CorruptionError: The agent's state or the replica is damaged.
        """
        found = await run_blocking(self._folder.look, self._host.roots())
        ready = [each for each in found if self._seen.get(each.name) == each.mark]
        changed = {each.name for each in found} - {each.name for each in ready}
        self._seen = {each.name: each.mark for each in found}
        unchanged = self._seen.keys() - changed
        self._retries.keep_only(unchanged.__contains__)
        self._ended = {name: ended for name, ended in self._ended.items() if name in unchanged}
        self._failed = {name: error for name, error in self._failed.items() if name in unchanged}
        self.waiting = len(found)
        due = [each for each in ready if self._retries.is_due(each.name)]
        # What was never tried comes first: however many there are that can never be taken, they hide no other.
        due.sort(key=lambda each: each.name in self._retries)
        for each in due[:INBOX_FILES_MAX]:
            self._failed.pop(each.name, None)
            try:
                await self._take(each)
            except UnavailableError as error:
                if error.code == _UNFIT:
                    raise
                # One file that cannot be read or moved stops no other.
                self._failed[each.name] = error
                self._retries.put_off(each.name)
        if self._failed:
            raise self._failed[min(self._failed)]

    async def _take(self, found: Found) -> None:
        data = await run_blocking(self._folder.read, found)
        if data is None:
            return
        requester = Requester(_login(found.uid), ROLES, CHANNEL)
        refusal: dict[str, Any] | None = None
        patch_id = ""
        targets: tuple[str, ...] = ()
        try:
            patch_id = split_patch_file_untrusted(data).patch_id
            targets = self._targets(patch_id)
        except RejectedError as error:
            refusal = _told(error)
        ended = self._ended.setdefault(found.name, {})
        is_retry = found.name in self._retries
        for target in targets:
            if target not in ended:
                told = await self._ask(data, target, requester, is_retry=is_retry)
                if told is None:
                    self._retries.put_off(found.name)
                else:
                    ended[target] = told
        if any(target not in ended for target in targets):
            return
        is_done = refusal is None and all(each["reason"] in ("", ALREADY) for each in ended.values())
        document = {
            "file": found.name,
            "patch_id": patch_id,
            "requester": requester.name,
            "ended_ms": self._now_ms(),
            "refusal": refusal,
            "targets": ended,
        }
        is_moved = await run_blocking(self._folder.settle, found, DONE if is_done else REFUSED, document)
        self._retries.forget(found.name)
        for memory in (self._seen, self._ended):
            memory.pop(found.name, None)
        self.waiting -= is_moved
        reasons = sorted({each["reason"] for each in ended.values()} - {""}) if refusal is None else [refusal["reason"]]
        facts = {"file": found.name, "patch": patch_id, "done": is_done, "moved": is_moved, "reasons": reasons}
        self._note("agent.inbox", facts)

    def _targets(self, patch_id: str) -> tuple[str, ...]:
        targets = self._host.targets_for(bytes.fromhex(patch_id))
        if targets is None:
            raise RejectedError(
                "agent.metadata.not_published", "the patch is not published", actual=patch_id, hint="publish it first"
            )
        if not targets:
            raise RejectedError(
                "agent.inbox.no_target", "no target of this host carries a component of the patch", actual=patch_id
            )
        return targets

    async def _ask(self, data: bytes, target: str, requester: Requester, *, is_retry: bool) -> dict[str, Any] | None:
        """Return how it ended at one target, or None when now is not the time; what is asked again is not recorded again."""
        try:
            if is_retry and (await self._host.explain(data, target, requester)).code in _RETRIED:
                return None
            outcome = await self._host.apply(data, target, requester)
        except CorruptionError:
            raise
        except RejectedError as error:
            return _told(error)
        except PatchwardenError:
            return None
        self._asked(outcome)
        if outcome.code in _RETRIED:
            return None
        return {"code": outcome.code.value, "reason": outcome.reason, "message": outcome.message}


def _told(error: PatchwardenError) -> dict[str, Any]:
    return {"code": "", "reason": error.code, "message": str(error)}


def _login(uid: int) -> str:
    """Return who that is on this machine: a login, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _write(directory: int, name: str, data: bytes) -> None:
    """Make a file hold exactly `data`, durably, or leave the one before. Raises OSError."""
    # One name for all, however long theirs are: nobody else writes here, and no two at once.
    new = ".result.new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)
    descriptor = os.open(
        new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _RESULT_MODE, dir_fd=directory
    )
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)


def _mark_of(status: os.stat_result) -> Mark:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _mark_at(directory: int, name: str) -> Mark | None:
    """Return the mark of what has a name now, or None when nothing has. Raises OSError."""
    try:
        return _mark_of(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _move(found: Found, directory: int, kept: int) -> bool:
    """Move the file that was taken, and no other, into `kept`; return whether it was still there. Raises OSError."""
    name = found.name
    if _mark_at(directory, name) == found.mark:
        os.rename(name, name, src_dir_fd=directory, dst_dir_fd=kept)
        if _mark_at(kept, name) == found.mark:
            return True
        # Exchanged in between: back it goes, unless somebody was faster again and has exchanged that one, too.
        if _mark_at(directory, name) is None:
            os.rename(name, name, src_dir_fd=kept, dst_dir_fd=directory)
    # How it ended must not stand beside other bytes: those of an earlier file of this name.
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=kept)
    return False


def _drop_oldest(directory: int) -> None:
    """Keep the newest results only."""
    names = [name for name in os.listdir(directory) if name.endswith(f"{SUFFIX}{RESULT_SUFFIX}")]
    if len(names) <= INBOX_RESULTS_KEPT_MAX:
        return
    names.sort(key=lambda name: os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns)
    for name in names[:-INBOX_RESULTS_KEPT_MAX]:
        for each in (name.removesuffix(RESULT_SUFFIX), name):
            with suppress(FileNotFoundError):
                os.unlink(each, dir_fd=directory)


def _unreadable(name: str, error: OSError) -> InboxError:
    return InboxError("agent.inbox.unreadable", f"{name} cannot be read: {error.strerror}", hint="see who owns it")


def _too_long(name: str, length_max: int) -> InboxError:
    return InboxError(
        "agent.inbox.name",
        "the name of a file is too long for that of its result",
        expected=f"at most {length_max} bytes",
        actual=name,
        hint="rename it",
    )


def _unfit(path: str, why: str) -> InboxError:
    hint = "it must be a directory of the agent's user or of root that not everybody may write, outside every target"
    return InboxError(_UNFIT, f"the inbox {path} cannot be used: {why}", hint=hint)
