"""`patchwarden agent`: the attestation agent of a target host."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import click

from node.cli.agent_progress import call_watched
from node.cli.block import when
from node.cli.command import Command, Session, group
from node.cli.errors import EXIT_NO, EXIT_UNAVAILABLE, CommandError
from node.cli.lazy import Place
from node.cli.output import fields, short, table
from node.cli.params import ALLOWANCES, DIGEST, EXISTING_DIRECTORY, TARGET_MODES
from wire.errors import RejectedError

_TRY_LATER: Final = frozenset({"ERROR_STALE_REPLICA", "ERROR_LEDGER_UNAVAILABLE"})
"""Endings that the same command may not have in a minute."""

agent = group(
    "Decide on, apply, undo and list patches on a target host.\n\nThe agent lives in the host's node: name its home with --home. Whoever "
    "can open the node's socket, or read its rpc.token, operates the host.",
    {
        "target": Place("node.cli.agent:target", "Add, list, show, adopt and remove the trees that it guards."),
        "explain": Place("node.cli.agent:explain", "Show the decision on a patch, with its reasons; change nothing."),
        "apply": Place("node.cli.agent:apply", "Decide on a patch, apply it if everything holds, record how it ended."),
        "rollback": Place("node.cli.agent:rollback", "Undo an installed patch, and record how it ended."),
        "status": Place("node.cli.agent:status", "Show how the agent and its targets stand."),
        "doctor": Place("node.cli.agent_doctor:doctor", "Look at everything that this host needs; change nothing."),
        "drift": Place("node.cli.agent:drift", "Compare the targets with their records now."),
        "history": Place("node.cli.agent:history", "Show how applications and refusals on a target ended."),
        "outbox": Place("node.cli.bundle:outbox", "List what this host has still to tell the ledger."),
        "import-bundle": Place(
            "node.cli.bundle:import_bundle", "Take over blocks and patch files that were carried by hand."
        ),
        "export-outbox": Place(
            "node.cli.bundle:export_outbox", "Write what waits for the ledger to be carried by hand."
        ),
        "split-view": Place(
            "node.cli.agent:split_view", "List and settle two certified histories, which stop this host."
        ),
    },
)

target = group(
    "Add, list, show, adopt and remove the directory trees that this host's agent guards.",
    {
        "add": Place("node.cli.agent:target_add", "Take a directory tree under guard."),
        "list": Place("node.cli.agent:target_list", "List targets."),
        "show": Place("node.cli.agent:target_show", "Compare a target with its record."),
        "adopt": Place("node.cli.agent:target_adopt", "Accept a target's tree as it is."),
        "freeze": Place("node.cli.agent:target_freeze", "Stop all changes of a target."),
        "thaw": Place("node.cli.agent:target_thaw", "Allow changes of a frozen target again."),
        "allow": Place("node.cli.agent:target_allow", "Say what patches may do at a target besides changing text."),
        "mode": Place("node.cli.agent:target_mode", "Say how patches get into a target: exchange or in-place."),
        "standby": Place("node.cli.agent:target_standby", "Keep a second tree beside a large target, or none."),
        "hook": Place("node.cli.agent:target_hook", "Say what runs before and after a change, and checks its health."),
        "remove": Place("node.cli.agent:target_remove", "Forget a target; its tree stays."),
    },
)

split_view = group(
    "List and settle what stops this host: proof that the validators have certified two histories.\n\nOne of them may have revoked a key, "
    "or withdrawn a patch, that the other one vouches for, so nothing is applied until somebody who answers for this host settles it.",
    {
        "list": Place("node.cli.agent:split_view_list", "List split views; exit code 1 while one is open."),
        "settle": Place("node.cli.agent:split_view_settle", "Go on with the history that this host has."),
    },
)

_NAME = click.argument("name", metavar="TARGET")
_PATCH = click.argument("patch", metavar="FILE|ID")
_TARGET = click.option("--target", "name", required=True, metavar="TARGET", help="The target's name.")


@click.command(
    "add",
    cls=Command,
    home=True,
    examples=("patchwarden agent target add app /srv/app --component frames --component 'pkg:deb/debian/frames@*'",),
)
@_NAME
@click.argument("root", type=EXISTING_DIRECTORY, metavar="DIR")
@click.option(
    "--component",
    "components",
    multiple=True,
    required=True,
    metavar="NAME",
    help="A component that the tree carries; a trailing * stands for any rest; several times.",
)
@click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="WHEN",
    help="A maintenance window in UTC, such as 'mon-fri 22:00-04:00'; several times. Default: always.",
)
@click.option("--frozen", is_flag=True, help="Allow no changes for now.")
@click.option(
    "--allow",
    "allowed",
    type=click.Choice(ALLOWANCES),
    multiple=True,
    help="What patches may do here besides changing text; several times. Default: nothing.",
)
@click.option(
    "--mode",
    type=click.Choice(TARGET_MODES),
    default=TARGET_MODES[0],
    show_default=True,
    help="exchange: readers see the old tree or the new one. in-place: file by file, for mount points, file systems that cannot "
    "exchange, and very large trees.",
)
@click.pass_obj
def target_add(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    name: str,
    root: Path,
    components: tuple[str, ...],
    windows: tuple[str, ...],
    frozen: bool,
    allowed: tuple[str, ...],
    mode: str,
) -> None:
    """Take the tree DIR under guard as TARGET. As it is, it becomes the baseline, and the ledger is told."""
    document = session.client().call(
        "agent.target.add",
        name=name,
        root=str(root.absolute()),
        components=list(components),
        windows=list(windows),
        frozen=frozen,
        allowed=list(allowed),
        mode=mode,
    )
    session.output.emit(document, _target_lines(document))


@click.command("list", cls=Command, home=True, examples=("patchwarden agent target list",))
@click.pass_obj
def target_list(session: Session) -> None:
    """List the targets of this host."""
    found = session.client().call("agent.status")["targets"]
    rows = [
        (each["name"], _state(each), len(each["installed"]), each["root"], ", ".join(each["components"]))
        for each in found
    ]
    session.output.emit(found, table(rows, ("target", "state", "patches", "directory", "components")))


@click.command("show", cls=Command, home=True, examples=("patchwarden agent target show app",))
@_NAME
@click.pass_obj
def target_show(session: Session, name: str) -> None:
    """Compare TARGET, as it is now, with its record. Exit code 1 when it has drifted."""
    document = session.client().call("agent.target.show", target=name)
    session.output.emit(document, _target_lines(document))
    if document["drifted"]:
        click.get_current_context().exit(EXIT_NO)


@click.command("adopt", cls=Command, home=True, examples=("patchwarden agent target adopt app",))
@_NAME
@click.pass_obj
def target_adopt(session: Session, name: str) -> None:
    """Accept the tree of TARGET as it is: it becomes the recorded one, and the ledger is told."""
    document = session.client().call("agent.target.adopt", target=name)
    session.output.emit(document, _target_lines(document))


@click.command(
    "allow",
    cls=Command,
    home=True,
    examples=("patchwarden agent target allow app symlink remove-directory", "patchwarden agent target allow app"),
)
@_NAME
@click.argument("allowed", type=click.Choice(ALLOWANCES), nargs=-1)
@click.pass_obj
def target_allow(session: Session, name: str, allowed: tuple[str, ...]) -> None:
    """Say what patches may do at TARGET besides changing text: exactly the ALLOWED, or nothing.

    A patch that needs more is refused; and each must also be allowed by the patch's own author, who signs it.
    """
    document = session.client().call("agent.target.allow", target=name, allowed=list(allowed))
    session.output.emit(document, [f"target {name} allows: {', '.join(document['allowed']) or 'nothing but text'}"])


@click.command("mode", cls=Command, home=True, examples=("patchwarden agent target mode app in-place",))
@_NAME
@click.argument("mode", type=click.Choice(TARGET_MODES))
@click.pass_obj
def target_mode(session: Session, name: str, mode: str) -> None:
    """Let patches get into TARGET in another way from now on, after it was tried as for a new target.

    exchange: readers see the old tree or the new one. in-place: file by file. Refused while a patch is being applied.
    """
    document = session.client().call("agent.target.mode", target=name, mode=mode)
    session.output.emit(document, [f"target {name} is changed in this mode: {document['mode']}"])


@click.command(
    "standby",
    cls=Command,
    home=True,
    examples=("patchwarden agent target standby app off", "patchwarden agent target standby app on"),
)
@_NAME
@click.argument("kept", type=click.Choice(("on", "off")))
@click.pass_obj
def target_standby(session: Session, name: str, kept: str) -> None:
    """Let TARGET have a second tree of the same files beside its root, when it is a large one, or none from now on.

    With it, a patch in a large tree takes a fraction of the time, and every file has one more name. Refused while a patch is being applied.
    """
    document = session.client().call("agent.target.standby", target=name, kept=kept == "on")
    session.output.emit(document, _target_lines(document))


@click.command(
    "hook",
    cls=Command,
    home=True,
    examples=(
        "patchwarden agent target hook app after -- /usr/bin/systemctl restart app",
        "patchwarden agent target hook app health --retries 5 --interval 2 --soak 30 -- /usr/bin/curl -fsS http://127.0.0.1:8080/health",
        "patchwarden agent target hook app health --remove",
    ),
)
@_NAME
@click.argument("kind", type=click.Choice(("before", "after", "health")), metavar="before|after|health")
@click.argument("argv", nargs=-1, metavar="[PROGRAM [WORD]...]")
@click.option(
    "--timeout", "timeout_s", type=click.IntRange(1, 3600), metavar="SECONDS", help="For one run. Default: 60."
)
@click.option("--retries", type=click.IntRange(0, 1000), help="Health: how often it may fail before its first success.")
@click.option(
    "--interval", "interval_s", type=click.IntRange(0, 3600), metavar="SECONDS", help="Health: pause between runs."
)
@click.option(
    "--soak",
    "soak_s",
    type=click.IntRange(0, 3600),
    metavar="SECONDS",
    help="Health: how long it must go on succeeding.",
)
@click.option("--remove", is_flag=True, help="Run nothing there any more.")
@click.pass_obj
def target_hook(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    name: str,
    kind: str,
    argv: tuple[str, ...],
    timeout_s: int | None,
    retries: int | None,
    interval_s: int | None,
    soak_s: int | None,
    remove: bool,
) -> None:
    """Run PROGRAM around every change of TARGET: before it, after it, or to see whether the target is healthy.

    No shell is involved; PROGRAM is an absolute path, and no word may name anything inside a target. It is told PATCHWARDEN_TARGET, _ROOT,
    _PATCH, _HOOK and _ACTION, and nothing else of this machine's environment. Exit code 0 is success. A patch after which the after hook or
    the health check fails is taken back.
    """
    if remove == bool(argv):
        raise click.UsageError("give either a program or --remove")
    hook = (
        {}
        if remove
        else {
            "argv": list(argv),
            "timeout_s": timeout_s,
            "retries": retries,
            "interval_s": interval_s,
            "soak_s": soak_s,
        }
    )
    document = session.client().call("agent.target.hook", target=name, hook=kind, **hook)
    session.output.emit(document, _target_lines(document))


@click.command("freeze", cls=Command, home=True, examples=("patchwarden agent target freeze app",))
@_NAME
@click.pass_obj
def target_freeze(session: Session, name: str) -> None:
    """Stop all changes of TARGET."""
    document = session.client().call("agent.target.freeze", target=name, frozen=True)
    session.output.emit(document, [f"target {name} is frozen"])


@click.command("thaw", cls=Command, home=True, examples=("patchwarden agent target thaw app",))
@_NAME
@click.pass_obj
def target_thaw(session: Session, name: str) -> None:
    """Allow changes of TARGET again."""
    document = session.client().call("agent.target.freeze", target=name, frozen=False)
    session.output.emit(document, [f"target {name} may be changed again"])


@click.command("remove", cls=Command, home=True, examples=("patchwarden agent target remove app",))
@_NAME
@click.pass_obj
def target_remove(session: Session, name: str) -> None:
    """Forget TARGET, and tell the ledger that it is not guarded any more. Its tree, its history and its release counters stay."""
    document = session.client().call("agent.target.remove", target=name)
    session.output.emit(document, [f"target {name} is no longer guarded"])


@click.command(
    "explain",
    cls=Command,
    node=True,
    examples=(
        "patchwarden agent explain fix.patch --target app",
        "patchwarden agent explain 3f2a… --target app -o json",
    ),
)
@_PATCH
@_TARGET
@click.pass_obj
def explain(session: Session, patch: str, name: str) -> None:
    """Show how an application of the patch FILE, or of the published patch ID, would end. Exit code 1 when it would be refused."""
    _decide(session, "agent.explain", patch, name)


@click.command(
    "apply",
    cls=Command,
    node=True,
    examples=("patchwarden agent apply fix.patch --target app", "patchwarden agent apply 3f2a… --target app"),
)
@_PATCH
@_TARGET
@click.pass_obj
def apply(session: Session, patch: str, name: str) -> None:
    """Decide on the patch FILE, or the published patch ID, apply it if everything holds, and record how it ended.

    Exit code 0 is SUCCESS and nothing else; 1 a refusal; 3 that it may succeed later.
    """
    _decide(session, "agent.apply", patch, name)


@click.command(
    "rollback",
    cls=Command,
    node=True,
    examples=(
        "patchwarden agent rollback 3f2a… --target app",
        "patchwarden agent rollback 3f2a… --target app --with-dependants --explain",
    ),
)
@click.argument("patch_id", type=DIGEST, metavar="ID")
@_TARGET
@click.option("--with-dependants", is_flag=True, help="Undo before it, the newest first, what stands on it.")
@click.option("--explain", is_flag=True, help="Show how it would end; change nothing.")
@click.pass_obj
def rollback(session: Session, patch_id: str, name: str, with_dependants: bool, explain: bool) -> None:
    """Undo the installed patch ID exactly, if everything holds, and record how it ended.

    Policy decides it as the action rollback_patch. Only the newest patch of a file can be undone. Its release counter stays used up.
    Exit code 0 is ROLLED_BACK and nothing else; 1 a refusal; 3 that it may succeed later.
    """
    document = call_watched(
        session,
        "agent.rollback",
        name,
        {"patch_id": patch_id, "with_dependants": with_dependants, "explain": explain},
    )
    lines: list[str] = []
    for outcome in document["outcomes"]:
        lines += [f"patch {outcome['patch_id']}", *outcome_lines(outcome)]
    session.output.emit(document, lines)
    _exit_as(document["outcomes"][-1]["code"], "ROLLED_BACK")


@click.command("status", cls=Command, node=True, examples=("patchwarden agent status",))
@click.pass_obj
def status(session: Session) -> None:
    """Show how the agent and each of its targets stand."""
    document = session.client().call("agent.status")
    lines = list(
        fields(
            (
                ("host", document["identity"]),
                ("replica", f"height {document['replica_height']}, {document['replica_age_ms'] / 1000:.1f} s old"),
                ("has acted on", high_water_text(document)),
                ("decides on replicas up to", f"{document['replica_age_ms_max'] / 1000:g} s old"),
                ("records waiting", document["records_waiting"]),
                ("records delivered", document["records_delivered"]),
                ("records refused", document["records_refused"]),
                ("open applications", document["intents_open"]),
                (
                    "without acknowledgement",
                    f"{document['unacknowledged_intents']} of at most {document['unacknowledged_intents_max']}"
                    if document["unacknowledged_intents_max"] or document["unacknowledged_intents"]
                    else None,
                ),
                (
                    "clock",
                    f"JUMPED by {document['clock_step_ms'] / 1000:+.1f} s: nothing is applied until a new block confirms it"
                    if document["clock_jumped"]
                    else None,
                ),
                ("why records wait", document["delivery_problem"] or None),
                ("inbox", _inbox(document["inbox"])),
                ("open split views", _heights(document["split_views_open"])),
            )
        )
    )
    for each in document["targets"]:
        lines += ["", *_target_lines(each)]
    session.output.emit(document, lines)


@click.command(
    "drift",
    cls=Command,
    node=True,
    examples=("patchwarden agent drift", "patchwarden agent drift --target app --full"),
)
@click.option("--target", "name", metavar="TARGET", help="Only this one. Default: all.")
@click.option("--full", is_flag=True, help="Read every file, also those whose status has not changed.")
@click.pass_obj
def drift(session: Session, name: str | None, full: bool) -> None:
    """Compare the targets with their records now, and tell the ledger of every drift and of every one that was repaired.

    Exit code 1 while a target has drifted: policy then lets nothing be changed there until it is repaired or adopted.
    """
    found = session.client().call("agent.drift", target=name, full=full)
    lines: list[str] = []
    for each in found:
        lines += [
            f"target {each['name']} has drifted"
            if not each["problem"]
            else f"target {each['name']} cannot be read: {problem_text(each)}"
        ]
        lines += [f"  {path}" for path in each["drifted_paths"]]
        if each["drifted_count"] > len(each["drifted_paths"]):
            lines.append(f"  and {each['drifted_count'] - len(each['drifted_paths'])} more")
        if not each["problem"]:
            lines.append(f"  recorded {each['recorded_tree_digest']}, found {each['tree_digest']}")
    session.output.emit(found, lines or ["no target has drifted"])
    if found:
        click.get_current_context().exit(EXIT_NO)


@click.command("history", cls=Command, node=True, examples=("patchwarden agent history --target app --limit 5",))
@_TARGET
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.pass_obj
def history(session: Session, name: str, limit: int) -> None:
    """Show how applications and refusals on a target ended, the newest first."""
    found = session.client().call("agent.history", target=name, limit=limit)
    rows = [
        (when(each["time_ms"]), each["code"], short(each["patch_id"]), short(each["outcome_tx"]), each["reason"] or "-")
        for each in found
    ]
    session.output.emit(found, table(rows, ("time", "result", "patch", "record", "reason")))


@click.command("list", cls=Command, home=True, examples=("patchwarden agent split-view list",))
@click.pass_obj
def split_view_list(session: Session) -> None:
    """List the split views that this host knows of. Exit code 1 while one of them is open."""
    found = session.client().call("agent.split.list")
    rows = [
        (
            each["height"],
            " and ".join(
                name for name, there in (("here", each["found_here"]), ("ledger", each["on_ledger"])) if there
            ),
            "open"
            if each["settled"] is None
            else f"settled {when(each['settled']['time_ms'])} by {each['settled']['by']}",
            "" if each["settled"] is None else each["settled"]["reason"],
        )
        for each in found
    ]
    session.output.emit(found, table(rows, ("height", "evidence", "state", "reason")))
    if any(each["settled"] is None for each in found):
        click.get_current_context().exit(EXIT_NO)


@click.command(
    "settle",
    cls=Command,
    home=True,
    examples=("patchwarden agent split-view settle 812 --reason 'v3 and v4 were replaced'",),
)
@click.argument("height", type=click.IntRange(0), metavar="HEIGHT")
@click.option("--reason", required=True, metavar="TEXT", help="Why this host goes on with the history that it has.")
@click.pass_obj
def split_view_settle(session: Session, height: int, reason: str) -> None:
    """Settle the split view at HEIGHT: this host goes on with the history that it has, and keeps who said so, when and why."""
    document = session.client().call("agent.split.settle", height=height, reason=reason)
    session.output.emit(document, [f"the split view at height {document['height']} is settled on this host"])


def outcome_lines(document: dict[str, Any]) -> list[str]:
    """Return how an application ended, step by step, for a person; what the decision says is said once."""
    decision = document["decision"]
    is_denied = decision is not None and decision["verdict"] != "allow"
    lines = []
    for step in document["steps"]:
        # The policy step's own sentence is the whole decision, which stands below.
        message = "denied" if is_denied and step["step"] == "policy" else step["message"]
        code = f" [{step['code']}]" if step["code"] else ""
        lines.append(f"{'ok  ' if step['passed'] else 'FAIL'}  {step['step']}: {message}{code}")
    if decision is not None:
        policy = f"policy {decision['policy_version']} ({short(decision['policy_hash'])})"
        lines.append(f"decision: {decision['verdict']} at height {decision['height']} under {policy}")
        lines += [f"  allowed by {rule}" for rule in decision["allowed_by"]]
        lines += [f"  forbidden by {rule}: {reason}" for rule, reason in decision["forbidden_by"]]
        lines += [f"  missing: {sentence}" for sentence in decision["missing"]]
        lines += [f"  does not count: {sentence}" for sentence in decision["set_aside"]]
    lines += fields(
        (
            *((f"{run['hook']} hook", _hook_run(run)) for run in document["hooks"]),
            ("result", document["code"] if is_denied else f"{document['code']}: {document['message']}"),
            ("next", document["hint"] if not is_denied and document["hint"] else None),
            ("tree before", document["tree_before"]),
            ("tree after", document["tree_after"]),
            ("intent", document["intent_tx"]),
            ("outcome", document["outcome_tx"]),
            ("recorded at height", document["recorded_height"]),
        )
    )
    return lines


def _hook_run(run: dict[str, Any]) -> str:
    if run["passed"]:
        how = "passed"
    elif run["timed_out"]:
        how = "did not end in time"
    elif run["exit"] is not None:
        how = f"ended with exit code {run['exit']}"
    else:
        how = "was given up" if run["signal"] is None else f"was ended by signal {run['signal']}"
    runs = f" in run {run['runs']}" if run["runs"] > 1 else ""
    last = run["output"].rpartition("\n")[2]
    what = "" if run["action"] != "restore" else " (after the change was taken back)"
    return f"{how}{runs} after {run['ms'] / 1000:.1f} s{what}" + (f": {last}" if last else "")


def _decide(session: Session, method: str, patch: str, name: str) -> None:
    document = _ask_about(session, method, patch, name)
    session.output.emit(document, outcome_lines(document))
    _exit_as(document["code"], "SUCCESS")


def _exit_as(code: str, done: str) -> None:
    if code != done:
        click.get_current_context().exit(EXIT_UNAVAILABLE if code in _TRY_LATER else EXIT_NO)


def _ask_about(session: Session, method: str, patch: str, name: str) -> dict[str, Any]:
    """Return what the agent says about a patch: by the file's bytes or place, or by the id of a published one."""
    path = Path(patch)
    if not path.exists():
        try:
            params = {"patch_id": DIGEST.convert(patch, None, None)}
        except click.BadParameter:
            raise click.UsageError(f"{patch} is neither a file nor the id of a patch") from None
        return dict(call_watched(session, method, name, params))
    from node.cli.files import read_file
    from node.cli.patch_transfer import NO_PATH, may_go_as_bytes, patch_place
    from node.local.protocol import encode_blob
    from wire.limits import PATCH_FILE_BYTES_MAX

    place = patch_place(session.client(), path)
    try:
        if place is not None:
            return dict(call_watched(session, method, name, place))
    except RejectedError as error:
        # The node may run as a user who cannot read what this one can.
        if error.code != NO_PATH or not may_go_as_bytes(session.client(), path):
            raise
    if path.is_file() and not may_go_as_bytes(session.client(), path):
        raise CommandError(
            "cli.agent.file_too_large",
            "a request over HTTP has no room for this patch file",
            actual=f"{path.stat().st_size} bytes",
            hint="publish it and name its id, or give --home alone on the host",
        )
    return dict(call_watched(session, method, name, {"file": encode_blob(read_file(path, PATCH_FILE_BYTES_MAX))}))


def high_water_text(document: dict[str, Any]) -> str | None:
    """Return up to which height this host has acted, and whether its replica is older than that; None before the first time."""
    mark = document["high_water"]
    if mark is None:
        return None
    is_behind = mark > document["replica_height"]
    return f"height {mark}" + (": THE REPLICA IS OLDER, nothing is applied until it has caught up" if is_behind else "")


def _inbox(document: dict[str, Any] | None) -> str | None:
    if document is None:
        return None
    return f"{document['directory']}, " + (
        problem_text(document) if document["problem"] else f"{document['waiting']} files wait"
    )


def _heights(heights: list[int]) -> str | None:
    return ", ".join(map(str, heights)) or None


def problem_text(document: dict[str, Any]) -> str:
    """Return why a target, its tree in a report, or the inbox is none that can be used, with its code."""
    code = document.get("problem_code")
    return f"{document['problem']} [{code}]" if code else str(document["problem"])


def _state(document: dict[str, Any]) -> str:
    if document["busy"]:
        return "being changed"
    if document["problem"]:
        return f"unreadable [{document['problem_code']}]"
    if document["drifted"]:
        return "drifted"
    return "frozen" if document["frozen"] else "as recorded"


def _hook(hook: dict[str, Any]) -> str:
    limits = [f"at most {hook['timeout_s']} s"]
    if hook["retries"]:
        limits.append(f"{hook['retries']} retries")
    if hook["interval_s"]:
        limits.append(f"every {hook['interval_s']} s")
    if hook["soak_s"]:
        limits.append(f"for {hook['soak_s']} s")
    return f"{shlex.join(hook['argv'])} ({', '.join(limits)})"


def _standby(document: dict[str, Any]) -> str | None:
    if document.get("standby"):
        return "kept"
    return None if document.get("keeps_standby", True) else "switched off"


def _target_lines(document: dict[str, Any]) -> list[str]:
    paths = ", ".join(document["drifted_paths"]) or None
    lines = list(
        fields(
            (
                ("target", document["name"]),
                ("directory", document["root"]),
                ("state", _state(document)),
                ("problem", problem_text(document) if document["problem"] else None),
                ("changed", "file by file, in place" if document["mode"] == "in-place" else None),
                ("components", ", ".join(document["components"])),
                ("windows", ", ".join(document["windows"]) or "always"),
                ("allows", ", ".join(document["allowed"]) or None),
                *((f"{kind} hook", _hook(hook)) for kind, hook in document["hooks"].items()),
                ("tree", document["tree_digest"]),
                ("recorded tree", document["recorded_tree_digest"] if document["drifted"] else None),
                ("standby tree", _standby(document)),
                ("read in full", None if document["full_scan_ms"] is None else when(document["full_scan_ms"])),
                ("differs", f"{document['drifted_count']} paths: {paths}" if paths else None),
            )
        )
    )
    lines.append(f"installed: {len(document['installed'])}")
    lines += [
        f"  {each['patch_id']} (release counter {each['release_counter']}, "
        + (f"height {each['height']})" if each["height"] else "not yet on the ledger)")
        for each in document["installed"]
    ]
    return lines
