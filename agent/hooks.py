"""What an operator lets run around a change of a target: before it, after it, and to see whether the target is healthy.

Hooks are the operator's, never a patch's: argument lists without a shell, run with a clean environment, a time limit and a session of their
own by `agent.hook_guard`, which ends everything they started when the time is over or the agent is gone. No word of a hook may name
anything inside a target. What they print is kept, cut and redacted, with the record of the change.

Source: docs/spec/agent.md 6.8.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from agent.errors import ApplyFailedError, TargetRefusedError
from agent.limits import (
    HOOK_GRACE_SECONDS,
    HOOK_LOCK_SECONDS,
    HOOK_OUTPUT_BYTES_MAX,
    HOOK_RAW_OUTPUT_BYTES_MAX,
    HOOK_RETRIES_MAX,
    HOOK_SECONDS_DEFAULT,
    HOOK_SECONDS_MAX,
    HOOK_WORD_BYTES_MAX,
    HOOK_WORDS_MAX,
)
from agent.path_owners import find_weakness
from agent.progress import STEP_APPLY, Tracker
from agent.redaction import redact
from wire.errors import MalformedError
from wire.fields import as_int

HOOK_LOCK_FILE: Final = "hook.lock"
_GUARD: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook_guard.py")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POLL_SECONDS: Final = 0.05
_PATHS_IN_WORD: Final = re.compile(r"(?:^|(?<=[=:,]))/[^=:,]*")
"""An absolute path within a word: `--directory=/srv/app`, or one of a list."""


class HookKind(StrEnum):
    """When a hook runs."""

    BEFORE = "before"
    AFTER = "after"
    HEALTH = "health"


_FAILED: Final = {
    HookKind.BEFORE: "agent.hook.before_failed",
    HookKind.AFTER: "agent.hook.after_failed",
    HookKind.HEALTH: "agent.hook.health_failed",
}


@dataclass(frozen=True, slots=True)
class Hook:
    """One program with its words, and how long it may take."""

    argv: tuple[str, ...]
    """Program (absolute path) and words; no shell reads them."""
    timeout_s: int = HOOK_SECONDS_DEFAULT
    """Of one run, seconds."""
    retries: int = 0
    """Health check only: how often it may fail before its first success."""
    interval_s: int = 0
    """Health check only: pause between two runs, seconds."""
    soak_s: int = 0
    """Health check only: for how long it must go on succeeding, seconds."""

    @property
    def longest_s(self) -> int:
        """Return the longest time that its runs around one change may take together, seconds."""
        once = self.timeout_s + self.interval_s
        return (self.retries + 2) * once + self.soak_s if self.retries or self.soak_s else once

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "argv": list(self.argv),
            "timeout_s": self.timeout_s,
            "retries": self.retries,
            "interval_s": self.interval_s,
            "soak_s": self.soak_s,
        }


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one target."""

    before: Hook | None = None
    after: Hook | None = None
    health: Hook | None = None

    @property
    def all(self) -> tuple[tuple[HookKind, Hook], ...]:
        """Return every hook that there is, in the order in which they run."""
        named = ((HookKind.BEFORE, self.before), (HookKind.AFTER, self.after), (HookKind.HEALTH, self.health))
        return tuple((kind, hook) for kind, hook in named if hook is not None)

    @property
    def judge(self) -> bool:
        """Return whether something is asked after the switch."""
        return self.after is not None or self.health is not None

    def with_hook(self, kind: HookKind, hook: Hook | None) -> Hooks:
        """Return the hooks with one set, or taken away."""
        changed: dict[str, Hook | None] = {kind.value: hook}
        return replace(self, **changed)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {kind.value: hook.to_json() for kind, hook in self.all}

    @classmethod
    def from_json_untrusted(cls, document: object) -> Hooks:
        """Return the checked record.

        Raises:
            TargetRefusedError: ``agent.target.hook``.
        """
        known = {kind.value for kind in HookKind}
        if not isinstance(document, dict) or not document.keys() <= known:
            raise _refuse(f"the hooks of a target are {', '.join(sorted(known))}")
        hooks = cls(**{name: _as_hook(name, value) for name, value in document.items()})
        # What puts the target back to work runs twice when a change is taken back.
        longest = sum(hook.longest_s * (2 if kind is HookKind.AFTER else 1) for kind, hook in hooks.all)
        if longest > HOOK_SECONDS_MAX:
            raise _refuse(
                "the hooks of a target may take too long in all", f"at most {HOOK_SECONDS_MAX} s", f"{longest} s"
            )
        return hooks


NO_HOOKS: Final = Hooks()
"""What a target has at first."""


@dataclass(frozen=True, slots=True)
class HookRun:
    """How a hook ended; of a health check, its last run."""

    kind: HookKind
    action: str
    """What the hook was told: `apply`, `rollback`, or `restore` after a change was taken back."""
    program: str
    """Absolute path."""
    passed: bool
    """Whether it ended with exit code 0 in time."""
    exit_code: int | None
    """None when a signal ended it, when the time was over, or when nobody knows."""
    signal: int | None
    timed_out: bool
    runs: int
    """How often it was run; 1 but for a health check."""
    milliseconds: int
    """Of the last run."""
    output: str
    """The last of what it printed, redacted, at most `HOOK_OUTPUT_BYTES_MAX` bytes."""
    output_bytes: int
    """Of everything that the last run printed."""

    def sentence(self) -> str:
        """Return how it ended, for a person."""
        if self.passed:
            how = "passed"
        elif self.timed_out:
            how = "did not end in time"
        elif self.exit_code is not None:
            how = f"ended with exit code {self.exit_code}"
        elif self.signal is not None:
            how = f"was ended by signal {self.signal}"
        else:
            how = "was given up"
        times = f" in run {self.runs}" if self.runs > 1 else ""
        return f"the {self.kind.value} hook {how}{times}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "hook": self.kind.value,
            "action": self.action,
            "program": self.program,
            "passed": self.passed,
            "exit": self.exit_code,
            "signal": self.signal,
            "timed_out": self.timed_out,
            "runs": self.runs,
            "ms": self.milliseconds,
            "output": self.output,
            "output_bytes": self.output_bytes,
        }


class HookRunner:
    """The hooks of one change of one target, and how they ended. Blocking.

    Args:
        hooks: Which ones.
        directory: The target's directory below the agent's; holds the lock under which hooks run.
        environment: What they are told besides: target, root, patch.
        action: `apply` or `rollback`.
        stopping: Set when the agent ends: a hook that may take long is given up then.
        tracker: Told which one runs.
    """

    def __init__(
        self,
        hooks: Hooks,
        directory: str,
        environment: Mapping[str, str],
        action: str,
        stopping: threading.Event | None = None,
        *,
        tracker: Tracker | None = None,
    ) -> None:
        self._tracker = Tracker() if tracker is None else tracker
        self._hooks = hooks
        self._lock_path = os.path.join(directory, HOOK_LOCK_FILE)
        self._environment = dict(environment)
        self._action = action
        self._stopping = threading.Event() if stopping is None else stopping
        self.runs: list[HookRun] = []
        """How every hook ended, in order."""

    def before(self) -> None:
        """Return when the target is ready to be changed.

        Raises:
            ApplyFailedError: ``agent.hook.before_failed``, ``agent.hook.busy``.
        """
        if self._hooks.before is not None:
            self._demand(self._run(HookKind.BEFORE, self._hooks.before, self._action))

    def judge(self) -> None:
        """Return when the target is at work again and healthy.

        Raises:
            ApplyFailedError: ``agent.hook.after_failed``, ``agent.hook.health_failed``, ``agent.hook.busy``.
        """
        if self._hooks.after is not None:
            self._demand(self._run(HookKind.AFTER, self._hooks.after, self._action))
        if self._hooks.health is not None:
            self._demand(self._run_health(self._hooks.health))

    def restore(self) -> None:
        """Run the hook that puts the target back to work, on the tree that now stands; how it ends changes nothing."""
        if self._hooks.after is not None:
            self._run(HookKind.AFTER, self._hooks.after, "restore")

    def _demand(self, run: HookRun) -> None:
        if not run.passed:
            raise ApplyFailedError(
                _FAILED[run.kind],
                run.sentence(),
                hint="what it printed stands in the record: agent history --target NAME -o json",
                details={"program": run.program, "exit": -1 if run.exit_code is None else run.exit_code},
            )

    def _run(self, kind: HookKind, hook: Hook, action: str) -> HookRun:
        run = self._once(kind, hook, action, 1)
        self.runs.append(run)
        return run

    def _run_health(self, hook: Hook) -> HookRun:
        """Return the run that decides: the last of those that failed too often, or the last of the soak."""
        count, failures, soak_end = 0, 0, None
        while True:
            count += 1
            run = self._once(HookKind.HEALTH, hook, self._action, count)
            now = time.monotonic()
            if not run.passed:
                failures += 1
                if soak_end is not None or failures > hook.retries:
                    break
            elif soak_end is None:
                soak_end = now + hook.soak_s
            if soak_end is not None and now >= soak_end:
                break
            # With a soak and no interval, a run follows a run without a pause; a second between them is busy enough.
            pause = float(hook.interval_s or (1 if soak_end is not None else 0))
            if soak_end is not None:
                pause = min(pause, max(0.0, soak_end - now))
            if self._stopping.wait(pause):
                run = replace(run, passed=False, exit_code=None, signal=None, timed_out=False)
                break
        self.runs.append(run)
        return run

    def _once(self, kind: HookKind, hook: Hook, action: str, count: int) -> HookRun:
        environment = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": "/",
            **self._environment,
            "PATCHWARDEN_HOOK": kind.value,
            "PATCHWARDEN_ACTION": action,
        }
        stopping = None if action == "restore" else self._stopping
        again = f", run {count}" if count > 1 else ""
        self._tracker.begin(STEP_APPLY, f"running the {kind.value} hook{again}")
        answer = _run_guarded(hook, environment, self._lock_path, stopping)
        output = base64.b64decode(answer.get("output", ""))
        return HookRun(
            kind=kind,
            action=action,
            program=hook.argv[0],
            passed=answer.get("exit") == 0,
            exit_code=answer.get("exit"),
            signal=answer.get("signal"),
            timed_out=bool(answer.get("timed_out")),
            runs=count,
            milliseconds=int(answer.get("ms", 0)),
            output=redact(output, HOOK_OUTPUT_BYTES_MAX),
            output_bytes=int(answer.get("bytes", 0)),
        )


def hold_hook_lock(directory: str) -> int:
    """Return a descriptor that holds the lock under which a target's hooks run: none of them runs any more, also none of a dead agent's.

    Raises:
        ApplyFailedError: ``agent.hook.busy``.
    """
    return _hold_lock(os.path.join(directory, HOOK_LOCK_FILE))


def check_programs(hooks: Hooks, roots: Iterable[str], uid: int | None = None) -> None:
    """Return when every hook's program can be run, only root and the agent can change it, and no word names anything inside a target.

    Args:
        hooks: What an operator configured.
        roots: Roots of targets.
        uid: The agent's user; None for the one who asks.

    Raises:
        TargetRefusedError: ``agent.hook.program``, ``agent.hook.inside_target``.
    """
    for kind, hook in hooks.all:
        for word in hook.argv:
            _check_outside(kind, word, roots)
        _check_program(kind, hook.argv[0], os.geteuid() if uid is None else uid)


def _check_outside(kind: HookKind, word: str, roots: Iterable[str]) -> None:
    places = {
        os.path.realpath(path)
        for path in (word, word.partition("=")[2], *_PATHS_IN_WORD.findall(word))
        if path.startswith("/")
    }
    for root in roots:
        if any(os.path.commonpath([root, place]) == root for place in places):
            raise TargetRefusedError(
                "agent.hook.inside_target",
                f"a word of the {kind.value} hook names something inside a target, where a patch could change it",
                actual=word,
                hint="keep hooks outside of what patches touch; PATCHWARDEN_ROOT tells a hook where the target is",
            )


def _check_program(kind: HookKind, program: str, uid: int) -> None:
    try:
        status = os.stat(program)
        weakness = find_weakness(program, uid)
    except OSError as error:
        raise _no_program(kind, program, f"cannot be found ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode) or not os.access(program, os.X_OK):
        raise _no_program(kind, program, "is no program that this agent may run")
    if weakness is not None:
        what = "may be changed" if weakness.path == program else f"may be replaced at {weakness.path}"
        hint = "it, and every directory on its way, belong to root or the agent's user, and nobody else may write there"
        raise _no_program(kind, program, f"{what}: {weakness.by} may write there", hint)


def _no_program(kind: HookKind, program: str, sentence: str, hint: str = "") -> TargetRefusedError:
    return TargetRefusedError(
        "agent.hook.program", f"the program of the {kind.value} hook {sentence}", actual=program, hint=hint
    )


def _run_guarded(
    hook: Hook, environment: Mapping[str, str], lock_path: str, stopping: threading.Event | None
) -> dict[str, Any]:
    """Return what the guard says, or nothing when it was given up or lost."""
    command = [
        sys.executable,
        "-I",
        "-S",
        _GUARD,
        str(hook.timeout_s * 1000),
        str(HOOK_RAW_OUTPUT_BYTES_MAX),
        *hook.argv,
    ]
    lock_fd = _hold_lock(lock_path)
    lifeline, held_end = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            stdin=lifeline,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            cwd="/",
            pass_fds=(lock_fd,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(held_end)
        raise ApplyFailedError("agent.hook.guard", f"no process can be started ({error.strerror})") from error
    finally:
        os.close(lock_fd)
        os.close(lifeline)
    try:
        answer = _read_answer(process, time.monotonic() + hook.timeout_s + HOOK_GRACE_SECONDS, stopping)
    finally:
        # Whatever the reason to stop listening: the guard ends everything when this closes.
        os.close(held_end)
        assert process.stdout is not None, "it was asked for"
        process.stdout.close()
        process.wait()
    try:
        document = json.loads(answer)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _read_answer(process: subprocess.Popen[bytes], deadline: float, stopping: threading.Event | None) -> bytes:
    assert process.stdout is not None, "it was asked for"
    answer = b""
    while time.monotonic() < deadline and not (stopping is not None and stopping.is_set()):
        if not select.select([process.stdout], [], [], _POLL_SECONDS)[0]:
            continue
        chunk = os.read(process.stdout.fileno(), 65_536)
        if not chunk:
            return answer
        answer += chunk
    return b""


def _hold_lock(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + HOOK_LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            os.close(descriptor)
            raise ApplyFailedError(
                "agent.hook.busy", "a hook of this target is still running", hint="end it, or wait until it ends"
            ) from error
        return descriptor


def _as_hook(name: str, value: object) -> Hook:
    members = {"argv", "timeout_s", "retries", "interval_s", "soak_s"}
    if not isinstance(value, dict) or not value.keys() <= members:
        raise _refuse(f"a hook has the members {', '.join(sorted(members))}")
    argv = value.get("argv")
    if not isinstance(argv, list | tuple) or not 1 <= len(argv) <= HOOK_WORDS_MAX:
        raise _refuse(f"the {name} hook is a list of a program and its words", f"1 to {HOOK_WORDS_MAX} words")
    for word in argv:
        if not isinstance(word, str) or "\0" in word or not word.isprintable() or len(word) > HOOK_WORD_BYTES_MAX:
            raise _refuse(f"a word of the {name} hook is printable text of at most {HOOK_WORD_BYTES_MAX} characters")
    if not argv[0].startswith("/") or os.path.normpath(argv[0]) != argv[0]:
        raise _refuse(f"the program of the {name} hook is an absolute path in its shortest form", actual=argv[0])
    try:
        hook = Hook(
            tuple(argv),
            as_int(value.get("timeout_s", HOOK_SECONDS_DEFAULT), "timeout_s", 1, HOOK_SECONDS_MAX),
            as_int(value.get("retries", 0), "retries", 0, HOOK_RETRIES_MAX),
            as_int(value.get("interval_s", 0), "interval_s", 0, HOOK_SECONDS_MAX),
            as_int(value.get("soak_s", 0), "soak_s", 0, HOOK_SECONDS_MAX),
        )
    except MalformedError as error:
        raise _refuse(f"the {name} hook: {error.message}") from error
    if name != HookKind.HEALTH and (hook.retries or hook.interval_s or hook.soak_s):
        raise _refuse(f"only a health check has retries, an interval and a soak time, not the {name} hook")
    return hook


def _refuse(sentence: str, expected: object = None, actual: object = None) -> TargetRefusedError:
    return TargetRefusedError("agent.target.hook", sentence, expected=expected, actual=actual)
