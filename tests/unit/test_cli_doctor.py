"""`agent doctor`: every fault of a host is found, named, and nothing is changed by looking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.cli import doctor_checks as checks
from node.cli.command import Session
from node.cli.node_home import NodeSettings, make_node_home
from node.config import Home
from tests.testkit.cli import run, run_json
from wire.errors import RejectedError, UnavailableError

NOW_MS = 1_795_379_000_000
KEY_ID = "ab" * 32

AGENT: dict[str, Any] = {
    "replica_height": 43,
    "replica_age_ms": 1400,
    "replica_age_ms_max": 60_000,
    "high_water": 41,
    "clock_jumped": False,
    "clock_step_ms": 0,
    "split_views_open": [],
    "records_waiting": 0,
    "records_refused": 0,
    "intents_open": 0,
    "delivery_problem": "",
    "targets": [],
}
NODE: dict[str, Any] = {
    "name": "web1",
    "version": "0.1.0",
    "time_ms": NOW_MS - 1400,
    "node_key_id": KEY_ID,
    "sync": {"sources": [{}, {}], "dropped": []},
    "certificates": {"expiring": 0, "days_left": None},
}
IDENTITY: dict[str, Any] = {
    "identity": "web1@acme",
    "status": "active",
    "roles": ["host"],
    "role_terms": [],
    "keys": [{"key_id": KEY_ID, "retired_height": None, "last_valid_height": None}],
}
POLICY: dict[str, Any] = {"version": 0, "policies": [{}]}


def faults(found: Iterator[checks.Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.level.value) for each in found if each.level is not checks.Level.OK]


def replica(agent: dict[str, Any] | None = None, node: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    return faults(checks.check_replica(AGENT | (agent or {}), NODE | (node or {}), NOW_MS))


def test_a_replica_that_nothing_may_be_decided_by_fails() -> None:
    assert replica() == []
    assert replica({"high_water": None}) == []
    assert replica({"replica_age_ms": 60_001}) == [("replica", "fail")]
    assert replica({"high_water": 44}) == [("high-water", "fail")]
    assert replica({"clock_jumped": True}) == [("clock", "fail")]
    assert replica({"split_views_open": [7]}) == [("split-view", "fail")]
    assert replica(node={"time_ms": NOW_MS + 60_001}) == [("clock", "fail")]
    assert replica(node={"time_ms": NOW_MS + 2_001}) == [("clock", "warn")]


def test_one_source_warns_none_fails_and_liars_are_named() -> None:
    dropped = [{"key_id": KEY_ID, "code": "ledger.block.malformed", "for_s": 9}]
    assert faults(checks.check_peers(NODE)) == []
    assert faults(checks.check_peers(NODE | {"sync": None})) == [("peers", "fail")]
    one = checks.check_peers(NODE | {"sync": {"sources": [{}], "dropped": dropped}})
    assert faults(one) == [("peers", "warn"), ("peers", "warn")]


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, None),
        ({"status": "suspended"}, "fail"),
        ({"roles": ["developer"]}, "fail"),
        ({"keys": []}, "fail"),
        ({"keys": [{"key_id": KEY_ID, "retired_height": None, "last_valid_height": 9}]}, "fail"),
        ({"keys": [{"key_id": KEY_ID, "retired_height": 9, "last_valid_height": None}]}, "fail"),
        ({"role_terms": [{"role": "host", "from_ms": 0, "until_ms": NOW_MS}]}, "fail"),
        ({"role_terms": [{"role": "host", "from_ms": 0, "until_ms": NOW_MS + 1000}]}, "warn"),
        ({"role_terms": [{"role": "host", "from_ms": 0, "until_ms": NOW_MS + 90 * 86_400_000}]}, None),
    ],
)
def test_an_identity_that_may_not_sign_records_fails(changes: dict[str, Any], level: str | None) -> None:
    expected = [] if level is None else [("identity", level)]
    assert faults(checks.check_identity(IDENTITY | changes, KEY_ID, NOW_MS)) == expected


def test_policies_certificates_and_the_outbox() -> None:
    assert faults(checks.check_policy(POLICY)) == []
    assert faults(checks.check_policy({"version": 0, "policies": []})) == [("policy", "fail")]
    assert faults(checks.check_certificates(NODE)) == []
    assert faults(checks.check_certificates(NODE | {"certificates": None})) == []
    assert faults(checks.check_certificates(NODE | {"certificates": {"expiring": 2}})) == [("certificates", "warn")]
    assert faults(checks.check_outbox(AGENT)) == []
    assert faults(checks.check_outbox(AGENT | {"delivery_problem": "nobody"})) == [("outbox", "warn")]
    assert faults(checks.check_outbox(AGENT | {"records_waiting": 5000})) == [("outbox", "fail")]
    assert faults(checks.check_outbox(AGENT | {"records_refused": 1, "intents_open": 1})) == [("outbox", "warn")] * 2


def inbox(problem: str = "", code: str = "", hint: str = "") -> list[checks.Finding]:
    stands = {"directory": "/srv/in", "waiting": 2, "problem": problem, "problem_code": code, "problem_hint": hint}
    return list(checks.check_inbox(AGENT | {"inbox": stands}))


def test_an_inbox_that_cannot_be_used_fails_and_one_file_of_it_warns() -> None:
    assert list(checks.check_inbox(AGENT)) == list(checks.check_inbox(AGENT | {"inbox": None})) == []
    assert [each.to_json() for each in inbox()] == [
        {"check": "inbox", "target": None, "level": "ok", "message": "2 files wait in /srv/in", "hint": ""}
    ]
    (found,) = inbox("it cannot be used", "agent.inbox.directory", "mend it")
    assert (found.level, found.message, found.hint) == (
        checks.Level.FAIL,
        "it cannot be used [agent.inbox.directory]",
        "mend it",
    )
    for code in ("agent.inbox.write", "agent.state.write"):
        assert faults(iter(inbox("no", code))) == [("inbox", "fail")]
    for code in ("agent.inbox.unreadable", "agent.inbox.name"):
        assert faults(iter(inbox("no", code))) == [("inbox", "warn")]


def target(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "app",
        "root": str(root),
        "mode": "exchange",
        "problem": "",
        "problem_code": "",
        "recorded_tree_digest": "ab" * 32,
        "busy": False,
        "drifted": False,
        "drifted_count": 0,
        "frozen": False,
        "installed": [],
        "hooks": {},
    } | changes


def test_a_target_that_cannot_be_changed_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "app"
    root.mkdir()

    def found(judge_writing: bool = True, **changes: Any) -> list[tuple[str, str]]:
        return [
            each
            for each in faults(checks.check_target(target(root, **changes), judge_writing=judge_writing))
            # What stands above the tests' own directory is not theirs to say.
            if each[0] not in ("room", "above")
        ]

    assert found() == []
    assert found(busy=True, mode="in-place") == []
    told = [
        each for each in checks.check_target(target(root, standby=True), judge_writing=True) if each.check == "standby"
    ]
    assert [(each.level.value, str(tmp_path) in each.message) for each in told] == [("ok", True)]
    assert found(problem="gone") == [("tree", "fail")]
    no_record = {"problem": "no baseline", "problem_code": "agent.target.not_adopted", "recorded_tree_digest": None}
    assert found(**no_record) == [("tree", "fail")]
    (first, *_) = checks.check_target(target(root, **no_record), judge_writing=True)
    assert "[agent.target.not_adopted]" in first.message
    assert "agent target remove app" in first.hint
    assert found(drifted=True, drifted_count=2, frozen=True) == [("tree", "fail"), ("frozen", "warn")]
    assert faults(checks.check_target(target(tmp_path / "gone"), judge_writing=True)) == [("staging", "fail")]
    program = tmp_path / "hook"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert found(hooks={"after": {"argv": [str(program)]}}) == []
    program.chmod(0o757)
    assert found(hooks={"after": {"argv": [str(program)]}}) == [("hook", "fail")]
    hook = {"argv": [str(tmp_path / "gone")]}
    assert found(hooks={"after": hook}) == [("hook", "fail")]
    assert found(hooks={"after": hook}, judge_writing=False) == []
    # Root may write everywhere: what a user may not is planted.
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    assert found() == [("staging", "fail"), ("writable", "fail")]
    assert found(judge_writing=False) == []


def test_a_target_that_somebody_else_may_take_away_is_found(tmp_path: Path) -> None:
    root = tmp_path / "srv" / "app"
    root.mkdir(parents=True)

    def found(mode: int, uid: int | None = None) -> list[tuple[str, str]]:
        root.parent.chmod(mode)
        return [
            each
            for each in faults(checks.check_target(target(root), judge_writing=False, uid=uid))
            if each[0] == "above"
        ]

    is_clean = found(0o755) == []
    assert found(0o777) == [("above", "fail")]
    if is_clean:
        assert found(0o775) == [("above", "warn")]
        assert found(0o1777) == []
        expected = [] if os.geteuid() == 0 else [("above", "warn")]
        assert found(0o755, os.geteuid() + 1) == expected


def test_a_mount_point_that_is_to_be_exchanged_fails() -> None:
    found = faults(checks.check_target(target(Path("/proc")), judge_writing=False))
    assert ("staging", "fail") in found


def test_too_little_room_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize, f_flag = 1, 4096, 0

    class ReadOnly(Full):
        f_flag = os.ST_RDONLY

    class Little(Full):
        f_bavail = 2 * checks.HOME_RESERVE_BYTES // 4096

    home = make_home(tmp_path)
    for kind, level in ((Full, "fail"), (ReadOnly, "fail"), (Little, "warn")):
        monkeypatch.setattr(os, "statvfs", lambda _path, kind=kind: kind)
        assert faults(checks.check_home(home, os.geteuid())) == [("room", level)]


def make_home(tmp_path: Path, role: str = "host") -> Home:
    settings = NodeSettings(
        "web1", role, "web1@acme" if role == "host" else None, "/ip4/127.0.0.1/tcp/0", "127.0.0.1:0", ()
    )
    make_node_home(tmp_path / "home", settings)
    return Home(tmp_path / "home")


def test_a_home_that_others_may_read_is_found(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.path.chmod(0o755)
    home.node_key.chmod(0o640)
    home.token.write_text("token")
    home.token.chmod(0o644)
    found = [each for each in faults(checks.check_home(home, os.geteuid() + 1)) if each[0] != "room"]
    assert found == [("home", "warn"), ("user", "warn"), ("key", "fail"), ("token", "fail")]
    home.token.chmod(0o600)
    assert ("token", "fail") not in faults(checks.check_home(home, os.geteuid()))


class FakeClient:
    """A node that answers from documents; one that is not there is away."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def call(self, method: str, **_params: Any) -> Any:
        self.asked.append(method)
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Nothing is open."""


def node(**changes: Any) -> FakeClient:
    answers = {"status": NODE, "agent.status": AGENT, "policy.get": POLICY, "identities.get": IDENTITY}
    return FakeClient(**(answers | changes))


def test_the_command_asks_reads_only_and_ends_with_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path)
    client = node()
    monkeypatch.setattr(Session, "client", lambda _self: client)
    monkeypatch.setattr(
        checks,
        "_check_room",
        lambda check, _path, _reserve, name: iter([checks.Finding(check, checks.Level.OK, "", "", name)]),
    )
    document = run_json("agent", "doctor", "--home", home.path)
    assert document["healthy"]
    assert (document["warn"], document["fail"]) == (1, 0)
    assert [each["check"] for each in document["checks"] if each["level"] == "warn"] == ["targets"]
    assert set(client.asked) == {"status", "agent.status", "policy.get", "identities.get"}

    root = tmp_path / "app"
    root.mkdir()
    stands = {"directory": "/srv/in", "waiting": 0, "problem": "gone", "problem_code": "a.b", "problem_hint": "do"}
    agent = AGENT | {"targets": [target(root, drifted=True, drifted_count=1)], "inbox": stands}
    client = node(**{"agent.status": agent})
    answer = run("agent", "doctor", "--home", home.path)
    assert answer.code == 1
    assert "FAIL  inbox: gone [a.b]; do" in answer.out
    assert (
        "FAIL  app tree: 1 paths differ from the record; repair them, or `patchwarden agent target adopt app`"
        in answer.out
    )
    assert answer.out.splitlines()[-1].endswith(" 0 warnings, 2 failures")


def test_what_keeps_the_doctor_from_looking_is_itself_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(home: Path) -> list[str]:
        document = run_json("agent", "doctor", "--home", home, code=1)
        assert not document["healthy"]
        return [each["check"] for each in document["checks"] if each["level"] == "fail" and each["check"] != "room"]

    assert failing(tmp_path / "gone") == ["home"]
    home = make_home(tmp_path)
    assert failing(home.path) == ["node"]
    unknown = RejectedError("node.not_found.identity", "there is none")
    monkeypatch.setattr(Session, "client", lambda _self: node(**{"identities.get": unknown}))
    assert failing(home.path) == ["identity"]
    away = UnavailableError("node.local.unreachable", "nobody")
    monkeypatch.setattr(Session, "client", lambda _self: node(**{"agent.status": away}))
    assert failing(home.path) == ["node"]
    home.config.write_text("nonsense = 1\n")
    assert failing(home.path) == ["settings"]
    home.config.write_text('name = "web1"\nrole = "host"\n')
    assert failing(home.path) == ["settings"]
    validator = make_home(tmp_path / "v", "validator")
    assert failing(validator.path) == ["settings"]
