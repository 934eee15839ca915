"""Hooks: bounded programs of the operator around a change, and a change that does not pass its trial is taken back and recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent import hooks as hooks_module
from agent.errors import ApplyFailedError, TargetRefusedError
from agent.hooks import Hook, HookKind, HookRunner, Hooks, check_programs, hold_hook_lock
from agent.limits import HOOK_OUTPUT_BYTES_MAX, HOOK_SECONDS_MAX
from agent.path_owners import Weakness, find_weakness
from agent.redaction import REDACTED, redact
from agent.results import Outcome, ResultCode, StepName
from ledger.limits import DETAIL_BYTES_MAX
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, World, read_tree

REPOSITORY = Path(__file__).resolve().parents[2]
TRUE, FALSE = os.path.realpath("/usr/bin/true"), os.path.realpath("/usr/bin/false")


def script(directory: Path, name: str, text: str) -> str:
    """Return the path of a new program outside of every target."""
    place = directory / "hooks"
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    path = place / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def run(directory: Path, text: str, **limits: Any) -> hooks_module.HookRun:
    """Return how a hook with this text ends."""
    runner = HookRunner(Hooks(after=Hook((script(directory, "after", text),), **limits)), str(directory), {}, "apply")
    runner.restore()
    (one,) = runner.runs
    return one


def wait_gone(pid: int) -> None:
    """Return when there is no such process any more, or it only waits for its parent."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")


# One hook


def test_exit_code_decides_and_output_is_kept(tmp_path: Path) -> None:
    one = run(tmp_path, "echo out; echo err >&2; exit 3")
    assert (one.passed, one.exit_code, one.signal, one.timed_out) == (False, 3, None, False)
    assert sorted(one.output.split("\n")) == ["err", "out"]
    assert one.output_bytes == 8
    assert one.sentence() == "the after hook ended with exit code 3"
    assert run(tmp_path, "exit 0").passed
    ended = run(tmp_path, "kill -KILL $$")
    assert (ended.passed, ended.exit_code, ended.signal) == (False, None, int(signal.SIGKILL))


def test_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHWARDEN_PASSPHRASE", "secret of the agent")
    text = "env; pwd; umask; ls /proc/self/fd | wc -l; read line && echo input"
    told = {"PATCHWARDEN_TARGET": "app"}
    runner = HookRunner(Hooks(before=Hook((script(tmp_path, "b", text),))), str(tmp_path), told, "rollback")
    with pytest.raises(ApplyFailedError):
        runner.before()  # read finds no input
    lines = runner.runs[0].output.split("\n")
    named = {line.partition("=")[0] for line in lines if "=" in line} - {"PWD", "_", "SHLVL", "OLDPWD"}
    assert named == {"PATH", "LANG", "HOME", "PATCHWARDEN_TARGET", "PATCHWARDEN_HOOK", "PATCHWARDEN_ACTION"}
    assert "PATCHWARDEN_ACTION=rollback" in lines
    assert "secret of the agent" not in runner.runs[0].output
    # ls itself has its three, the directory, and nothing that was inherited.
    assert lines[-3:] == ["/", "0022", "4"]


def test_words_reach_the_program_as_they_are(tmp_path: Path) -> None:
    program = script(tmp_path, "words", 'for word in "$@"; do echo "<$word>"; done')
    words = ("a b", "$(id)", "*", "; true", "-x")
    runner = HookRunner(Hooks(after=Hook((program, *words))), str(tmp_path), {}, "apply")
    runner.judge()
    assert runner.runs[0].output.split("\n") == [f"<{word}>" for word in words]


def test_output_without_end_is_cut_and_does_not_block(tmp_path: Path) -> None:
    one = run(tmp_path, "yes line | head -c 3000000; echo the end")
    assert one.passed
    assert one.output_bytes == 3_000_008
    assert len(one.output.encode()) <= HOOK_OUTPUT_BYTES_MAX
    assert one.output.endswith("the end")


def test_missing_interpreter_fails_the_hook(tmp_path: Path) -> None:
    path = Path(script(tmp_path, "after", ""))
    path.write_text("#!/nonexistent/interpreter\n")
    runner = HookRunner(Hooks(after=Hook((str(path),))), str(tmp_path), {}, "apply")
    with pytest.raises(ApplyFailedError) as failed:
        runner.judge()
    assert failed.value.code == "agent.hook.after_failed"
    assert "cannot be started" in runner.runs[0].output


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_time_limit_ends_everything_that_the_hook_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    daemon = f"import os, time; os.setsid(); open('{pids}', 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    text = f"""trap '' TERM
{sys.executable} -I -S -c "{daemon}" &
sleep 600 & echo $! >> {pids}
(sleep 600 & echo $! >> {pids}) &
while [ $(wc -l < {pids}) -lt 3 ]; do sleep 0.01; done
echo $$ >> {pids}
sleep 600"""
    pids.touch()
    # The limit is the shortest that there is; a slow machine may need longer to start all of them, so not all need to be there.
    one = run(tmp_path, text, timeout_s=2)
    assert (one.passed, one.timed_out, one.exit_code) == (False, True, None)
    for pid in map(int, pids.read_text().split()):
        wait_gone(pid)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_what_a_hook_leaves_in_its_group_is_ended_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    one = run(tmp_path, f"sleep 600 & echo $! > {pids}")
    assert one.passed
    wait_gone(int(pids.read_text()))


def test_agent_that_ends_gives_a_hook_up_at_once(tmp_path: Path) -> None:
    stopping = threading.Event()
    program = script(tmp_path, "health", f"echo started > {tmp_path}/started; sleep 600")
    runner = HookRunner(Hooks(health=Hook((program,), 600)), str(tmp_path), {}, "apply", stopping)
    errors: list[ApplyFailedError] = []

    def judge() -> None:
        try:
            runner.judge()
        except ApplyFailedError as error:
            errors.append(error)

    thread = threading.Thread(target=judge)
    thread.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    stopping.set()
    thread.join(30)
    assert not thread.is_alive()
    assert [error.code for error in errors] == ["agent.hook.health_failed"]
    assert runner.runs[0].sentence() == "the health hook was given up"


def test_one_hook_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks_module, "HOOK_LOCK_SECONDS", 0.1)
    held = hold_hook_lock(str(tmp_path))
    try:
        with pytest.raises(ApplyFailedError) as busy:
            run(tmp_path, "exit 0")
        assert busy.value.code == "agent.hook.busy"
    finally:
        os.close(held)
    assert run(tmp_path, "exit 0").passed


def test_guard_does_without_a_descriptor_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some sandboxes forbid pidfd_open."""
    guard = tmp_path / "guard.py"
    text = Path(hooks_module._GUARD).read_text()
    guard.write_text(text.replace("os.pidfd_open(pid)", "os.open('/nonexistent/pidfd', 0)"))
    assert guard.read_text() != text
    monkeypatch.setattr(hooks_module, "_GUARD", str(guard))
    assert run(tmp_path, "sleep 0.2; echo done; exit 4").exit_code == 4
    assert run(tmp_path, "sleep 600", timeout_s=1).timed_out


# Health


def health(tmp_path: Path, text: str, **limits: Any) -> HookRunner:
    return HookRunner(Hooks(health=Hook((script(tmp_path, "health", text),), **limits)), str(tmp_path), {}, "apply")


def test_health_check_may_fail_until_its_first_success(tmp_path: Path) -> None:
    text = f"echo x >> {tmp_path}/count; [ $(wc -l < {tmp_path}/count) -ge 3 ]"
    runner = health(tmp_path, text, retries=2)
    runner.judge()
    assert [(one.passed, one.runs) for one in runner.runs] == [(True, 3)]
    (tmp_path / "count").unlink()
    runner = health(tmp_path, text, retries=1)
    with pytest.raises(ApplyFailedError) as failed:
        runner.judge()
    assert failed.value.code == "agent.hook.health_failed"
    assert "in run 2" in failed.value.message


def test_failure_after_the_first_success_fails_the_soak(tmp_path: Path) -> None:
    text = f"echo x >> {tmp_path}/count; [ $(wc -l < {tmp_path}/count) -lt 2 ]"
    runner = health(tmp_path, text, retries=9, soak_s=600, interval_s=1)
    with pytest.raises(ApplyFailedError):
        runner.judge()
    assert [(one.passed, one.runs) for one in runner.runs] == [(False, 2)]


def test_soak_ends_with_a_success(tmp_path: Path) -> None:
    runner = health(tmp_path, f"echo x >> {tmp_path}/count", soak_s=1)
    runner.judge()
    (one,) = runner.runs
    assert one.passed
    assert one.runs >= 2


# Configuration


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"later": {"argv": [TRUE]}},
        {"before": [TRUE]},
        {"before": {"argv": []}},
        {"before": {"argv": TRUE}},
        {"before": {"argv": ["true"]}},
        {"before": {"argv": ["/usr/bin/../bin/true"]}},
        {"before": {"argv": [TRUE, 1]}},
        {"before": {"argv": [TRUE, "a\0b"]}},
        {"before": {"argv": [TRUE, "x" * 5000]}},
        {"before": {"argv": [TRUE] * 65}},
        {"before": {"argv": [TRUE], "shell": True}},
        {"before": {"argv": [TRUE], "timeout_s": 0}},
        {"before": {"argv": [TRUE], "timeout_s": True}},
        {"before": {"argv": [TRUE], "timeout_s": HOOK_SECONDS_MAX + 1}},
        {"before": {"argv": [TRUE], "retries": 1}},
        {"after": {"argv": [TRUE], "soak_s": 1}},
        {"health": {"argv": [TRUE], "retries": 1001}},
        {"health": {"argv": [TRUE], "retries": 100, "interval_s": 60}},
    ],
)
def test_wrong_hooks_are_refused(document: object) -> None:
    with pytest.raises(TargetRefusedError) as refused:
        Hooks.from_json_untrusted(document)
    assert refused.value.code == "agent.target.hook"


def test_hooks_read_back(tmp_path: Path) -> None:
    hooks = Hooks(Hook((TRUE, "a")), None, Hook((FALSE,), 5, 1, 2, 3))
    assert Hooks.from_json_untrusted(json.loads(json.dumps(hooks.to_json()))) == hooks
    assert hooks.with_hook(HookKind.BEFORE, None).all == ((HookKind.HEALTH, Hook((FALSE,), 5, 1, 2, 3)),)


async def test_hooks_of_a_target_are_kept_shown_and_taken_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target()
    await world.agent.set_hook(TARGET, HookKind.HEALTH, {"argv": [TRUE], "retries": 3})
    world.reopen()
    shown = (await world.agent.show_target(TARGET)).to_json()
    assert shown["hooks"]["health"]["retries"] == 3
    await world.agent.set_hook(TARGET, HookKind.HEALTH, None)
    assert (await world.agent.show_target(TARGET)).to_json()["hooks"] == {}


def test_no_word_names_anything_inside_a_target(tmp_path: Path) -> None:
    root = tmp_path / "srv"
    root.mkdir()
    inside = root / "check"
    inside.write_text("#!/bin/sh\n")
    inside.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(inside)
    roots = (os.path.realpath(root),)
    for argv in (
        (str(inside),),
        (str(link),),
        ("/bin/sh", str(inside)),
        ("/bin/sh", str(root)),
        (TRUE, f"--chdir={root}"),
        (TRUE, f"--file={inside}=x"),
        (TRUE, f"PATH=/usr/bin:{root}/bin"),
        (TRUE, f"a,{link}"),
    ):
        with pytest.raises(TargetRefusedError) as refused:
            check_programs(Hooks(after=Hook(argv)), roots)
        assert refused.value.code == "agent.hook.inside_target"
    check_programs(
        Hooks(after=Hook((TRUE, "srv/check", "/etc", "--chdir=/etc", "http://127.0.0.1:8080/health"))), roots
    )


def test_program_must_be_one_that_only_its_owner_changes(tmp_path: Path) -> None:
    program = Path(script(tmp_path, "after", "exit 0"))
    check_programs(Hooks(after=Hook((str(program),))), ())
    program.chmod(0o757)
    wrong = [str(program), str(tmp_path), str(tmp_path / "missing"), "/etc/passwd"]
    for path in wrong:
        with pytest.raises(TargetRefusedError) as refused:
            check_programs(Hooks(after=Hook((path,))), ())
        assert refused.value.code == "agent.hook.program"


@pytest.mark.parametrize("through_link", [False, True])
def test_nobody_else_may_put_another_program_in_its_place(tmp_path: Path, through_link: bool) -> None:
    program = Path(script(tmp_path, "after", "exit 0"))
    place, named = program.parent, program
    if through_link:
        place = tmp_path / "links"
        place.mkdir()
        named = place / "after"
        named.symlink_to(program)
    hooks = Hooks(after=Hook((str(named),)))
    for mode, is_refused in ((0o755, False), (0o775, True), (0o777, True), (0o1777, False), (0o700, False)):
        place.chmod(mode)
        if not is_refused:
            check_programs(hooks, ())
            continue
        with pytest.raises(TargetRefusedError) as refused:
            check_programs(hooks, ())
        assert refused.value.code == "agent.hook.program"
        assert f"replaced at {place}" in refused.value.message
    program.chmod(0o775)
    with pytest.raises(TargetRefusedError, match="its group"):
        check_programs(hooks, ())


def test_what_belongs_to_another_user_is_no_hook_of_the_agent(tmp_path: Path) -> None:
    program = Path(script(tmp_path, "after", "exit 0"))
    check_programs(Hooks(after=Hook((str(program),))), (), os.geteuid())
    weakness = find_weakness(str(program), os.geteuid() + 1)
    # What root owns is nobody else's, whoever the agent is.
    assert (weakness is None) == (os.geteuid() == 0)
    if os.geteuid() == 0:
        os.chown(program, 65_534, -1)
        with pytest.raises(TargetRefusedError, match="to whom it belongs"):
            check_programs(Hooks(after=Hook((str(program),))), ())
        # In a directory with the sticky bit, an own file can be replaced by its owner.
        program.parent.chmod(0o1777)
        assert find_weakness(str(program), 0) == Weakness(str(program), "the user 65534, to whom it belongs,")


def test_links_that_lead_nowhere_end(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "up").symlink_to("../" + tmp_path.name)
    assert find_weakness(str(tmp_path / "up"), os.geteuid()) == find_weakness(str(tmp_path), os.geteuid())
    with pytest.raises(OSError, match="symbolic links"):
        find_weakness(str(tmp_path / "one"), os.geteuid())


# Redaction

SECRETS = [
    "password=hunter2",
    "DB_PASSWORD: 'hunter2'",
    '"api_key": "hunter2"',
    "--token hunter2",
    "Authorization: Basic hunter2hunter2",
    "curl -H 'Authorization: Bearer hunter2'",
    "bearer hunter2",
    "https://bob:hunter2@host/path",
    "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nhunter2",
    "hunter2\nAAAA\n-----END PRIVATE KEY-----",
    "AWS_SECRET_ACCESS_KEY=hunter2",
    "client_secret = hunter2",
    "the password is hunter2",
    "Password is: hunter2",
    "your token was 'hunter2'",
    "password => hunter2",
    "curl -u admin:hunter2 https://host",
    "curl --user 'admin:hunter2' https://host",
    "curl -x proxy --proxy-user=admin:hunter2 https://host",
    "sshpass -phunter2 ssh host",
    "sshpass -p 'hunter2' ssh host",
    "sshpass -v -p hunter2 ssh host",
    "mysql -h db -u root -phunter2 app",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_hidden(text: str) -> None:
    shown = redact(text.encode(), 2048)
    assert "hunter2" not in shown
    assert REDACTED in shown


def test_text_that_is_no_secret_stays_and_is_printable() -> None:
    assert redact(b"started in 3.2 s\nlistening on port 80\n", 100) == "started in 3.2 s\nlistening on port 80"
    shown = redact(b"a\x1b[31mred\x00\xff\t\r\n" + "é\u202e".encode(), 100)
    assert shown == "a\\x1b[31mred\\x00\\xff \\x0d\né\\u202e"
    cut = redact("é".encode() * 100, 21)
    assert len(cut.encode()) <= 21
    assert cut.startswith("…")
    for words in ("apt-get -u upgrade now", "mkdir -p /srv/app", "ssh -p 22 host", "sort -u a b", "task-1 of skills"):
        assert redact(words.encode(), 100) == words


TOKENS = (
    "ghp_" + "a" * 36,
    "github_" + "pat_" + "a" * 30,
    "glpat" + "-" + "a1-" * 8,
    "AKIA" + "A" * 16,
    "ASIA" + "A" * 16,
    "xoxb-" + "1" * 12,
    "sk_" + "live_" + "a1" * 12,
    "rk_" + "test_" + "a1" * 12,
    "sk-" + "a1_-" * 8,
    "npm_" + "a" * 36,
    "AGE-SECRET-" + "KEY-1" + "Q" * 58,
)


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_of_known_forms_are_hidden(token: str) -> None:
    assert redact(f"found {token} there".encode(), 200) == f"found {REDACTED} there"


def test_looking_for_secrets_takes_no_more_time_than_text_has() -> None:
    """No text makes a rule try every way to read it: this would take minutes."""
    for part in ("password is ", "sshpass -a ", "mysql -", "-u a:", "sk-", "token ", "AGE-SECRET-KEY-", "mysql \t"):
        assert redact((part * (65_536 // len(part))).encode(), 2048)


# Around a change


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.add_target()
    return world


async def hook(world: World, kind: HookKind, text: str, **limits: Any) -> None:
    program = script(
        world.directory, kind.value, f"echo {kind.value} $PATCHWARDEN_ACTION >> {world.directory}/log\n{text}"
    )
    await world.agent.set_hook(TARGET, kind, {"argv": [program], **limits})


def log_of(world: World) -> list[str]:
    path = world.directory / "log"
    return path.read_text().splitlines() if path.exists() else []


async def apply(world: World, data: bytes | None = None) -> Outcome:
    return await world.agent.apply(world.release() if data is None else data, TARGET, OPERATOR)


async def test_healthy_change_stays_and_its_hooks_are_recorded(world: World) -> None:
    await hook(
        world,
        HookKind.BEFORE,
        f'[ "$PATCHWARDEN_ROOT" = {world.root} ] && grep -q "i <= length" {world.root}/src/frame.c',
    )
    await hook(
        world, HookKind.AFTER, f'[ "$PATCHWARDEN_TARGET" = app ] && grep -q "i < length" {world.root}/src/frame.c'
    )
    await hook(world, HookKind.HEALTH, "echo fine")
    outcome = await apply(world)
    assert outcome.is_success, outcome.message
    assert log_of(world) == ["before apply", "after apply", "health apply"]
    told = world.outcomes()[-1]
    runs = json.loads(told.detail)["hooks"]
    assert [(one["hook"], one["passed"], one["output"]) for one in runs] == [
        ("before", True, ""),
        ("after", True, ""),
        ("health", True, "fine"),
    ]
    assert (await world.agent.history(TARGET))[0]["hooks"] == runs
    assert world.leftovers() == []


async def test_failing_before_hook_changes_nothing(world: World) -> None:
    before, inode = world.digest(), world.root.stat().st_ino
    await hook(world, HookKind.BEFORE, "echo the service does not stop; exit 1")
    await hook(world, HookKind.AFTER, "")
    outcome = await apply(world)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.hook.before_failed")
    assert (world.digest(), world.root.stat().st_ino) == (before, inode)
    # What stopped halfway is started again.
    assert log_of(world) == ["before apply", "after restore"]
    told = world.outcomes()[-1]
    assert (told.result, told.tree_after) == ("ERROR_APPLY_FAILED", before)
    assert json.loads(told.detail)["hooks"][0]["output"] == "the service does not stop"
    assert world.leftovers() == []


@pytest.mark.parametrize("kind", [HookKind.AFTER, HookKind.HEALTH])
async def test_change_that_does_not_pass_its_trial_is_taken_back_and_recorded(world: World, kind: HookKind) -> None:
    before, tree, inode = world.digest(), read_tree(world.root), world.root.stat().st_ino
    await hook(world, HookKind.AFTER, "")
    await hook(world, kind, f'grep -q "i <= length" {world.root}/src/frame.c || {{ echo "it is broken"; exit 7; }}')
    data = world.release()
    outcome = await apply(world, data)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, f"agent.hook.{kind.value}_failed")
    assert "ended with exit code 7" in outcome.message
    assert "the old tree stands again" in outcome.message
    assert (world.digest(), read_tree(world.root), world.root.stat().st_ino) == (before, tree, inode)
    assert world.leftovers() == []
    assert log_of(world)[-1] == "after restore"
    intent, told = world.intents()[-1], world.outcomes()[-1]
    assert (told.result, told.tree_before, told.tree_after) == ("ERROR_APPLY_FAILED", before, before)
    assert told.previous == told.intent_tx_id
    assert intent.patch_id == told.patch_id
    detail = json.loads(told.detail)
    assert detail["reason"] == f"agent.hook.{kind.value}_failed"
    failed = next(one for one in detail["hooks"] if not one["passed"])
    assert (failed["exit"], failed["output"]) == (7, "it is broken")
    assert detail["hooks"][-1]["passed"]
    shown = await world.agent.show_target(TARGET)
    assert (shown.is_drifted, shown.state.installed, shown.state.counters) == (False, (), {})
    # Repaired outside, the same patch can be applied: nothing of it was used up.
    await world.agent.set_hook(TARGET, HookKind.AFTER, None)
    await world.agent.set_hook(TARGET, HookKind.HEALTH, None)
    assert (await apply(world, data)).is_success


async def test_broken_hook_refuses_before_anything_is_announced(world: World) -> None:
    await hook(world, HookKind.HEALTH, "")
    os.unlink(world.directory / "hooks" / "health")
    outcome = await apply(world)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.hook.program")
    assert next(step for step in outcome.steps if not step.passed).step is StepName.PLAN
    assert world.intents() == []


async def test_hook_that_writes_to_the_target_before_the_switch_refuses(world: World) -> None:
    await hook(world, HookKind.BEFORE, f"echo more >> {world.root}/README")
    outcome = await apply(world)
    assert outcome.reason == "agent.apply.tree_changed"
    assert (world.root / "README").read_bytes() == b"read me\nmore\n"
    assert (world.root / "src/frame.c").read_bytes() == patches.FRAME_BEFORE


async def test_old_tree_that_is_gone_leaves_the_new_one_and_says_so(world: World) -> None:
    await hook(world, HookKind.HEALTH, f"rm -rf {world.root.parent}/.app.patchwarden-app/tree; exit 1")
    outcome = await apply(world)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.hook.health_failed")
    assert "the old tree is not there any more" in outcome.message
    told = world.outcomes()[-1]
    assert told.tree_after == world.digest() != told.tree_before
    shown = await world.agent.show_target(TARGET)
    assert (shown.is_drifted, shown.state.installed) == (True, ())
    assert world.leftovers() == []


async def test_rollback_stays_whatever_its_hooks_say_and_they_are_recorded(world: World) -> None:
    before = world.digest()
    patch_id = (await apply(world)).patch_id
    await hook(world, HookKind.AFTER, "exit 1")
    await hook(world, HookKind.HEALTH, "exit 1")
    (outcome,) = await world.agent.rollback(patch_id, TARGET, OPERATOR)
    assert outcome.code is ResultCode.ROLLED_BACK
    assert world.digest() == before
    assert log_of(world) == ["after rollback"]
    assert "the after hook ended with exit code 1" in next(s for s in outcome.steps if s.step is StepName.APPLY).message
    assert [one["passed"] for one in json.loads(world.outcomes()[-1].detail)["hooks"]] == [False]


async def test_rollback_whose_before_hook_fails_changes_nothing(world: World) -> None:
    patch_id = (await apply(world)).patch_id
    after = world.digest()
    await hook(world, HookKind.BEFORE, "exit 1")
    (outcome,) = await world.agent.rollback(patch_id, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.hook.before_failed")
    assert world.digest() == after


async def test_the_longest_record_fits_the_ledger(world: World) -> None:
    noise = "head -c 100000 /dev/urandom; exit 1"
    await hook(world, HookKind.BEFORE, "head -c 100000 /dev/urandom")
    await hook(world, HookKind.AFTER, "head -c 100000 /dev/urandom")
    await hook(world, HookKind.HEALTH, noise)
    outcome = await apply(world)
    assert outcome.reason == "agent.hook.health_failed"
    assert len(outcome.hooks) == 4
    assert len(world.outcomes()[-1].detail) < DETAIL_BYTES_MAX


KILLED = """
import os, sys, trio
from pathlib import Path
from tests.testkit.agent import OPERATOR, TARGET
from tests.testkit.agent_crash import DurableLedger
from tests.testkit.agent import World
from agent.hooks import HookKind

async def main(directory, kind):
    world = World(directory)
    ledger = DurableLedger(world.chain)
    ledger.path = directory / "ledger"
    data = world.release()
    world.ledger = ledger
    world.reopen(intent_wait_s=120.0)
    await world.add_target()
    for each in HookKind:
        text = "#!/bin/sh\\necho %s $PATCHWARDEN_ACTION >> %s/log\\n" % (each.value, directory)
        if each.value == kind:
            text += "[ $PATCHWARDEN_ACTION = restore ] && exit 0\\necho $$ > %s/pid; kill -KILL %d; sleep 600\\n" % (directory, os.getpid())
        program = directory / each.value
        program.write_text(text)
        program.chmod(0o755)
        await world.agent.set_hook(TARGET, each, {"argv": [str(program)], "timeout_s": 900})
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    sys.exit(f"nobody killed it: {outcome}")

trio.run(main, Path(sys.argv[1]), sys.argv[2])
"""


def run_until_killed(directory: Path, kind: HookKind) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", KILLED, str(directory), kind.value]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
@pytest.mark.parametrize("kind", [HookKind.BEFORE, HookKind.HEALTH])
async def test_agent_killed_while_a_hook_runs_leaves_the_old_tree_a_record_and_no_process(
    tmp_path: Path, kind: HookKind
) -> None:
    from tests.testkit.agent_crash import DurableLedger

    directory = tmp_path / "host"
    directory.mkdir()
    run_until_killed(directory, kind)
    wait_gone(int((directory / "pid").read_text()))
    world = World(directory)
    data = world.release()
    ledger = DurableLedger(world.chain)
    ledger.path = directory / "ledger"
    ledger.restore()
    world.ledger = ledger
    world.reopen()
    (recovery,) = await world.agent.recover()
    assert not recovery.applied
    assert (world.root / "src/frame.c").read_bytes() == patches.FRAME_BEFORE
    assert world.leftovers() == []
    assert log_of(world)[-1] == "after restore"
    await world.agent._delivery.deliver(5.0)
    (told,) = world.outcomes()
    assert (told.result, told.tree_after) == ("ERROR_APPLY_FAILED", world.digest())
    detail = json.loads(told.detail)
    assert detail["reason"] == "agent.apply.interrupted"
    assert [(one["hook"], one["action"]) for one in detail["hooks"]] == [("after", "restore")]
    assert not (await world.agent.show_target(TARGET)).is_drifted
    del data
