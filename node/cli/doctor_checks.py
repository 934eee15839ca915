"""What `patchwarden agent doctor` judges, one function for each part of a host. Nothing is changed by looking.

A check fails when the host applies nothing, or not safely, until somebody has done something; it warns of what will stop it one day.

Source: docs/operations/agent.md, "Is this host well?".
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from agent.hooks import Hooks, check_programs
from agent.limits import OUTBOX_REFUSALS_MAX, SPACE_RESERVE_BYTES
from agent.path_owners import find_weakness
from node.config import Home, NodeConfig
from node.keystore import load_key
from node.storage.leveldb import SPACE_RESERVE_BYTES as HOME_RESERVE_BYTES
from wire.errors import PatchwardenError, RejectedError
from wire.limits import MEBIBYTE

Document = Mapping[str, Any]

HOST_ROLE: Final = "host"
ROOM_FACTOR: Final = 4
"""Warned below so many times the room under which work stops."""
ROLE_WARN_MS: Final = 30 * 24 * 3600 * 1000
"""How long before the end of the host's role a warning comes."""
CLOCK_WARN_MS: Final = 2_000
"""How far the newest block may be ahead of this host's clock without a word."""
ONE_FILE_CODES: Final = frozenset({"agent.inbox.unreadable", "agent.inbox.name"})
"""What keeps one file of the inbox from being taken, and no other."""
SOURCES_WANTED: Final = 2
"""Peers from which a host should take blocks."""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    """Stable name of the check."""
    level: Level
    message: str
    hint: str = ""
    """What to do, or ""."""
    target: str | None = None
    """The target that it is about; None for the host."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "check": self.check,
            "target": self.target,
            "level": self.level.value,
            "message": self.message,
            "hint": self.hint,
        }


def check_home(home: Home, uid: int) -> Iterator[Finding]:
    """Yield what is wrong with the home's owner, modes, key and room; `uid` is who looks."""
    try:
        status = home.path.stat()
    except OSError as error:
        yield Finding(
            "home", Level.FAIL, f"{home.path}: {error.strerror}", "name it with --home, or `patchwarden node init`"
        )
        return
    if status.st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        yield Finding("home", Level.WARN, f"others may look into {home.path} (mode {mode})", f"chmod 700 {home.path}")
    else:
        yield Finding("home", Level.OK, f"{home.path} is its owner's alone")
    if status.st_uid != uid:
        owner = user_name(status.st_uid)
        yield Finding(
            "user",
            Level.WARN,
            f"asked by {user_name(uid)}, but the home is {owner}'s: what the agent may write is not judged",
            f"ask as {owner}",
        )
    try:
        load_key(home.node_key)
        yield Finding("key", Level.OK, "node.key can be read by its owner alone")
    except PatchwardenError as error:
        yield Finding("key", Level.FAIL, f"{error.message} [{error.code}]", error.hint)
    yield from _check_token(home)
    yield from _check_room("room", home.path, HOME_RESERVE_BYTES, None)


def _check_token(home: Home) -> Iterator[Finding]:
    """Yield whether somebody else may read what operates this host over HTTP; a node makes it at its first start."""
    try:
        status = home.token.stat()
    except OSError:
        return
    if status.st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        said = f"others may read {home.token} (mode {mode}): whoever has it operates this host"
        hint = f"stop the node, remove {home.token}, and start it: it makes a new one"
        yield Finding("token", Level.FAIL, said, hint)
    else:
        yield Finding("token", Level.OK, "rpc.token can be read by its owner alone")


def check_settings(config: NodeConfig) -> Iterator[Finding]:
    """Yield whether the settings are a host's."""
    if config.role != HOST_ROLE:
        yield Finding("settings", Level.FAIL, f"this node is a {config.role}: it has no agent", "run this on a host")
    elif config.identity is None:
        yield Finding("settings", Level.FAIL, "no identity is set", 'set identity = "web1@acme" in config.toml')
    else:
        yield Finding("settings", Level.OK, f"host {config.identity}, group {config.host_group or 'none'}")


def check_replica(agent: Document, node: Document, now_ms: int) -> Iterator[Finding]:
    """Yield whether the node's view of the ledger is good enough to decide by."""
    age, age_max = agent["replica_age_ms"], agent["replica_age_ms_max"]
    said = f"height {agent['replica_height']}, {age / 1000:.1f} s old; decides up to {age_max / 1000:g} s"
    if age > age_max:
        yield Finding(
            "replica", Level.FAIL, said, "see `patchwarden node status` and `node peers`: nobody sends blocks"
        )
    else:
        yield Finding("replica", Level.OK, said)
    mark = agent["high_water"]
    if mark is not None and mark > agent["replica_height"]:
        yield Finding(
            "high-water",
            Level.FAIL,
            f"this host has acted on height {mark}, the replica is older",
            "wait until it has caught up",
        )
    else:
        yield Finding("high-water", Level.OK, "nothing done yet" if mark is None else f"has acted on height {mark}")
    ahead = node["time_ms"] - now_ms
    if agent["clock_jumped"]:
        yield Finding(
            "clock",
            Level.FAIL,
            f"the clock has jumped by {agent['clock_step_ms']} ms",
            "set it; a new block confirms it",
        )
    elif ahead > age_max:
        yield Finding(
            "clock", Level.FAIL, f"the newest block is {ahead} ms ahead of this host's clock", "set the clock"
        )
    elif ahead > CLOCK_WARN_MS:
        yield Finding(
            "clock", Level.WARN, f"the newest block is {ahead} ms ahead of this host's clock", "set the clock"
        )
    else:
        yield Finding("clock", Level.OK, "did not jump, and is not behind the newest block")
    open_views = agent["split_views_open"]
    if open_views:
        heights = ", ".join(map(str, open_views))
        yield Finding(
            "split-view",
            Level.FAIL,
            f"two certified histories at height {heights}",
            "`patchwarden agent split-view list`",
        )
    else:
        yield Finding("split-view", Level.OK, "one history only")


def check_peers(node: Document) -> Iterator[Finding]:
    """Yield whether blocks come from enough peers, and whether one of them lied."""
    sync = node["sync"] or {"sources": [], "dropped": []}
    count = len(sync["sources"])
    if not count:
        yield Finding("peers", Level.FAIL, "takes blocks from nobody", "are `peers` in config.toml up and reachable?")
    elif count < SOURCES_WANTED:
        yield Finding("peers", Level.WARN, f"takes blocks from {count} peer only", "name two or three in `peers`")
    else:
        yield Finding("peers", Level.OK, f"takes blocks from {count} peers")
    for each in sync["dropped"]:
        yield Finding(
            "peers", Level.WARN, f"{each['key_id'][:16]} sent what does not hold [{each['code']}]", "whose key is it?"
        )


def check_identity(identity: Document, node_key_id: str, now_ms: int) -> Iterator[Finding]:
    """Yield whether the ledger lets this host sign records with this key."""
    name, hint = identity["identity"], "ask an administrator of the host's organisation"
    key = next((each for each in identity["keys"] if each["key_id"] == node_key_id), None)
    ends = [term["until_ms"] for term in identity["role_terms"] if term["role"] == HOST_ROLE and term["until_ms"]]
    if identity["status"] != "active":
        yield Finding("identity", Level.FAIL, f"{name} is {identity['status']}", hint)
    elif HOST_ROLE not in identity["roles"]:
        yield Finding("identity", Level.FAIL, f"{name} does not hold the role host", hint)
    elif key is None:
        yield Finding("identity", Level.FAIL, f"the node's key is none of {name}'s", "register node.key's public key")
    elif key["last_valid_height"] is not None or key["retired_height"] is not None:
        yield Finding(
            "identity", Level.FAIL, f"the node's key no longer counts for {name}", "`patchwarden identity rotate-key`"
        )
    elif ends and max(ends) <= now_ms:
        yield Finding("identity", Level.FAIL, f"{name}'s role host has ended", hint)
    elif ends and max(ends) <= now_ms + ROLE_WARN_MS:
        yield Finding("identity", Level.WARN, f"{name}'s role host ends within 30 days", hint)
    else:
        yield Finding("identity", Level.OK, f"{name} is active, holds the role host, and the node's key counts")


def check_certificates(node: Document) -> Iterator[Finding]:
    """Yield whether certificates on the ledger end soon."""
    summary = node.get("certificates")
    if summary is None or not summary["expiring"]:
        yield Finding("certificates", Level.OK, "none on the ledger ends within 90 days")
    else:
        said = f"{summary['expiring']} on the ledger end within 90 days, or have ended"
        yield Finding("certificates", Level.WARN, said, "`patchwarden governance certificates`")


def check_policy(policy: Document) -> Iterator[Finding]:
    """Yield whether there are policies: an empty set denies everything."""
    count = len(policy["policies"])
    if count:
        yield Finding("policy", Level.OK, f"version {policy['version']}, {count} policies")
    else:
        yield Finding(
            "policy", Level.FAIL, "the network has no policies: everything is denied", "`patchwarden policy propose`"
        )


def check_outbox(agent: Document) -> Iterator[Finding]:
    """Yield whether the ledger hears of what this host does."""
    waiting, problem = agent["records_waiting"], agent["delivery_problem"]
    said = f"{waiting} records wait" + (f": {problem}" if problem else "")
    if waiting >= OUTBOX_REFUSALS_MAX:
        yield Finding("outbox", Level.FAIL, said, "restore the connection, or `patchwarden agent export-outbox`")
    elif problem:
        yield Finding("outbox", Level.WARN, said, "it is tried again by itself; `patchwarden agent outbox`")
    else:
        yield Finding("outbox", Level.OK, said)
    if agent["records_refused"]:
        yield Finding(
            "outbox",
            Level.WARN,
            f"the ledger refused {agent['records_refused']} records for good",
            "see the node's log",
        )
    if agent["intents_open"]:
        yield Finding(
            "outbox",
            Level.WARN,
            f"{agent['intents_open']} applications have no outcome yet",
            "they end, or are recovered",
        )


def check_inbox(agent: Document) -> Iterator[Finding]:
    """Yield whether files can be taken from the inbox, where there is one; a file that never can is its own affair, and stops no other."""
    inbox = agent.get("inbox")
    if inbox is None:
        return
    if not inbox["problem"]:
        yield Finding("inbox", Level.OK, f"{inbox['waiting']} files wait in {inbox['directory']}")
        return
    level = Level.WARN if inbox["problem_code"] in ONE_FILE_CODES else Level.FAIL
    yield Finding("inbox", level, f"{inbox['problem']} [{inbox['problem_code']}]", inbox["problem_hint"])


def check_target(target: Document, *, judge_writing: bool, uid: int | None = None) -> Iterator[Finding]:
    """Yield whether one target is as recorded, and can be changed by the agent and by nobody else.

    Args:
        target: As `agent.status` tells it.
        judge_writing: Whether who asks is who would write.
        uid: The agent's user; None for the one who asks.
    """
    uid = os.geteuid() if uid is None else uid
    name, root = target["name"], Path(target["root"])

    def found(check: str, level: Level, message: str, hint: str = "") -> Finding:
        return Finding(check, level, message, hint, name)

    if target["problem"]:
        said = f"{target['problem']} [{target['problem_code']}]"
        hint = "put the directory right, then `patchwarden agent drift`"
        if target["recorded_tree_digest"] is None:
            hint = f"`patchwarden agent target adopt {name}`, or `patchwarden agent target remove {name}`"
        yield found("tree", Level.FAIL, said, hint)
        return
    if target["busy"]:
        yield found("tree", Level.OK, "is being changed now")
    elif target["drifted"]:
        yield found(
            "tree",
            Level.FAIL,
            f"{target['drifted_count']} paths differ from the record",
            f"repair them, or `patchwarden agent target adopt {name}`",
        )
    else:
        yield found("tree", Level.OK, f"as recorded, {len(target['installed'])} patches installed")
    if target["frozen"]:
        yield found("frozen", Level.WARN, "no change is allowed", f"`patchwarden agent target thaw {name}`")
    place = root if target["mode"] == "in-place" else root.parent
    try:
        yield from _check_place(name, root, place, judge_writing=judge_writing)
    except OSError as error:
        yield found("staging", Level.FAIL, f"{error.filename}: {error.strerror}", "put the directory right")
        return
    if target.get("standby"):
        yield found("standby", Level.OK, f"a second tree of the same files, as hard links, is kept in {place}")
    yield from _check_room("room", root, SPACE_RESERVE_BYTES, name)
    weakness = find_weakness(str(root.parent), uid)
    if weakness is not None:
        said = f"{weakness.by} may put another directory in the place of {root}, at {weakness.path}"
        level = Level.FAIL if weakness.anybody else Level.WARN
        yield found("above", level, said, "give it to root or the agent's user, and let nobody else write there")
    try:
        if judge_writing:
            check_programs(Hooks.from_json_untrusted(target["hooks"]), (target["root"],), uid)
    except RejectedError as error:
        yield found("hook", Level.FAIL, f"{error.message} [{error.code}]", error.hint or "put it there, mode 0755")


def _check_place(name: str, root: Path, place: Path, *, judge_writing: bool) -> Iterator[Finding]:
    """Yield whether new files can be made in `place` and get from there into the target. Raises OSError."""
    if place.stat().st_dev != root.stat().st_dev:
        hint = f"`patchwarden agent target mode {name} in-place`"
        yield Finding("staging", Level.FAIL, f"{root} is a file system of its own", hint, name)
    elif judge_writing and not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        said = f"new files are made in {place}, which the agent may not write"
        yield Finding("staging", Level.FAIL, said, "give its user that directory", name)
    elif judge_writing:
        yield Finding("staging", Level.OK, f"new files are made in {place}, on the target's file system", "", name)
    if judge_writing and not os.access(root, os.W_OK | os.X_OK, effective_ids=True):
        yield Finding("writable", Level.FAIL, f"the agent may not write {root}", "give its user the tree", name)


def _check_room(check: str, path: Path, reserve: int, target: str | None) -> Iterator[Finding]:
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    said = f"{free // MEBIBYTE} MiB are free at {path}, at least {reserve // MEBIBYTE} are needed"
    if status.f_flag & os.ST_RDONLY:
        yield Finding(check, Level.FAIL, f"the file system of {path} is read-only", "mount it for writing", target)
    elif free < reserve:
        yield Finding(check, Level.FAIL, said, "make room", target)
    elif free < ROOM_FACTOR * reserve:
        yield Finding(check, Level.WARN, said, "make room", target)
    else:
        yield Finding(check, Level.OK, said, "", target)


def user_name(uid: int) -> str:
    """Return a user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
