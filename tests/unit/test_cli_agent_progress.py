"""A command that waits for an agent shows how far it is, answers as before, and goes on waiting while the agent works."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from node.cli import agent_progress, output, patch_transfer
from node.cli.client import SocketClient
from node.gateway.limits import GatewayLimits
from node.local import client as local_client
from node.local.client import LocalClient
from node.local.protocol import encode_blob
from node.local.server import LocalServer
from tests.testkit.cli import Answer, refused, run
from wire.errors import RejectedError, UnavailableError

OUTCOME = {
    "code": "SUCCESS",
    "message": "every requirement holds",
    "hint": "",
    "decision": None,
    "steps": [],
    "hooks": [],
    "tree_before": "aa",
    "tree_after": "bb",
    "intent_tx": "cc",
    "outcome_tx": "dd",
    "recorded_height": 7,
}
PATCH_ID = "ab" * 32
WORDS = ("agent", "apply", PATCH_ID, "--target", "app")


def work(doing: str, done: int = 0, total: int = 0, unit: str = "") -> dict[str, Any]:
    return {"doing": doing, "done": done, "total": total, "unit": unit, "step": "apply", "elapsed_ms": 1}


class Core:
    """A node whose agent answers when it was asked for its progress often enough."""

    def __init__(self, stages: list[dict[str, Any] | None], *, is_old: bool = False) -> None:
        self.stages = stages
        self.is_old = is_old
        self.polls = 0
        self.enough = trio.Event()
        if not stages:
            self.enough.set()

    async def apply(self, params: Mapping[str, Any]) -> Any:
        await self.enough.wait()
        return OUTCOME | {"patch_id": params["patch_id"]}

    async def progress(self, params: Mapping[str, Any]) -> Any:
        self.polls += 1
        if self.polls >= len(self.stages):
            self.enough.set()
        if self.is_old:
            raise RejectedError("node.local.unknown_method", "the core has no such method", actual="agent.progress")
        return {"target": params["target"], "work": self.stages[min(self.polls, len(self.stages)) - 1]}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_progress, "FIRST_POLL_S", 0.0)
    monkeypatch.setattr(agent_progress, "POLL_INTERVAL_S", 0.001)
    monkeypatch.setattr(output, "NOTE_INTERVAL_S", 0.0)


@pytest.fixture
def ask(tmp_path: Path, nursery: trio.Nursery) -> Callable[..., Any]:
    async def asked(core: Core, *words: str) -> Answer:
        methods = {"agent.apply": core.apply, "agent.progress": core.progress}
        await nursery.start(LocalServer(tmp_path / "core.sock", methods).run)
        found: Answer = await trio.to_thread.run_sync(lambda: run(*WORDS, "--home", tmp_path, *words))
        return found

    return asked


@pytest.mark.usefixtures("quick")
async def test_each_stage_is_a_line_and_the_answer_stays_alone(ask: Callable[..., Any]) -> None:
    stages = [work("staging", 10, 40, "paths"), work("staging", 30, 40, "paths"), work("waiting"), None]
    answer = await ask(Core(stages))
    assert answer.code == 0, answer.err
    assert answer.err.splitlines()[:3] == ["staging: 10 of 40 paths", "staging: 30 of 40 paths", "waiting"]
    assert "staging" not in answer.out
    assert "SUCCESS" in answer.out


@pytest.mark.usefixtures("quick")
async def test_a_program_gets_one_document_and_nothing_else(ask: Callable[..., Any]) -> None:
    core = Core([work("staging", 10, 40, "paths")] * 3)
    answer = await ask(core, "-o", "json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.document["code"] == "SUCCESS"
    assert core.polls >= 3, "it is asked all the same: whoever hears of work goes on waiting"


async def test_an_answer_that_comes_at_once_is_all_that_is_asked_for(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_progress, "FIRST_POLL_S", 3600.0)
    opened: list[str] = []
    connect = SocketClient.__init__

    def counted(self: SocketClient, *arguments: Any) -> None:
        opened.append("socket")
        connect(self, *arguments)

    monkeypatch.setattr(SocketClient, "__init__", counted)
    core = Core([])
    answer = await ask(core)
    assert (answer.code, answer.err, core.polls, opened) == (0, "", 0, ["socket"])


@pytest.mark.usefixtures("quick")
async def test_a_node_that_does_not_know_the_question_is_asked_once(ask: Callable[..., Any]) -> None:
    core = Core([None], is_old=True)
    answer = await ask(core)
    assert (answer.code, answer.err) == (0, "")
    assert core.polls == 1


@pytest.mark.usefixtures("quick")
async def test_text_of_a_node_cannot_steer_a_terminal(ask: Callable[..., Any]) -> None:
    answer = await ask(Core([work("\x1b[2Jhook"), None]))
    assert answer.err.splitlines()[0] == r"\x1b[2Jhook"


@pytest.mark.usefixtures("quick")
async def test_it_is_waited_for_while_the_agent_works_and_no_longer(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(LocalClient):
        def __init__(self, path: Path, *, timeout_s: float) -> None:
            super().__init__(path, timeout_s=0.01 if timeout_s > agent_progress.POLL_TIMEOUT_S else timeout_s)

    class Slow(Core):
        async def progress(self, params: Mapping[str, Any]) -> Any:
            self.stages.append(work("running the health hook"))  # one more, until the connection's time was over
            if asked:
                self.enough.set()
            return await super().progress(params)

    def patient(self: Any) -> bool:
        asked.append(True)
        return True

    asked: list[bool] = []
    monkeypatch.setattr(local_client, "LocalClient", Impatient)
    monkeypatch.setattr(agent_progress._Watch, "is_going_on", patient)
    answer = await ask(Slow([work("running the health hook")] * 2))
    assert answer.code == 0, answer.err
    assert asked


def test_patience_ends_when_nobody_hears_of_work(tmp_path: Path) -> None:
    watch: Any = agent_progress._Watch.__new__(agent_progress._Watch)
    watch._news_at = None
    assert not watch.is_going_on()
    watch._news_at = agent_progress.time.monotonic()
    assert watch.is_going_on()
    watch._news_at -= agent_progress.NEWS_AGE_S_MAX + 1
    assert not watch.is_going_on()


async def test_a_connection_without_patience_breaks_as_before(tmp_path: Path, nursery: trio.Nursery) -> None:
    core = Core([None])
    path = tmp_path / "core.sock"
    await nursery.start(LocalServer(path, {"agent.apply": core.apply}).run)
    answers = [True, True, False]

    def blocking(patience: Callable[[], bool] | None) -> str:
        with LocalClient(path, timeout_s=0.01) as client:
            client.patience = patience
            with pytest.raises(UnavailableError) as caught:
                client.call("agent.apply", patch_id="x")
        return caught.value.code

    assert await trio.to_thread.run_sync(blocking, None) == "node.local.unreachable"
    assert await trio.to_thread.run_sync(blocking, lambda: answers.pop(0)) == "node.local.unreachable"
    assert answers == [], "it was asked each time"


def test_a_request_that_http_cuts_says_where_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(method: str, **params: Any) -> Any:
        raise UnavailableError("node.http.timeout", "the request took too long")

    session: Any = type(
        "S",
        (),
        {"output": output.Output(as_json=True), "client": lambda self: type("C", (), {"call": staticmethod(cut)})()},
    )()
    monkeypatch.setattr(agent_progress, "FIRST_POLL_S", 3600.0)
    with pytest.raises(UnavailableError) as caught:
        agent_progress.call_watched(session, "agent.apply", "app", {})
    assert (caught.value.code, caught.value.hint) == (
        "node.http.timeout",
        "what has begun goes on: `agent history --target app` tells how it ended",
    )
    with pytest.raises(UnavailableError) as caught:
        agent_progress.call_watched(session, "agent.explain", "app", {})
    assert caught.value.hint == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_one_bar_and_nothing_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with output.Output(as_json=False).stages() as stages:
        stages.show("staging [the] tree", 3, 10, "paths")
        stages.show("waiting for the ledger")
        stages._bar.refresh()
        stages.show("staging [the] tree", 10, 10, "paths")
        stages._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "waiting for the ledger" in shown
    assert re.search(r"staging \[the\] tree .*10 of 10 paths", shown)
    length = len(terminal.getvalue())
    stages.show("too late")
    assert len(terminal.getvalue()) == length


def test_lines_come_now_and_then_and_never_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with output.Stages(shown=True) as stages:
        stages.show("too early")
        now[0] += output.NOTE_INTERVAL_S
        stages.show("waiting")
        stages.show("too soon", 1, 2)
        now[0] += output.NOTE_INTERVAL_S
        stages.show("waiting")
        stages.show("read", 5, 0, "files")
    with output.Stages(shown=False) as stages:
        now[0] += 100.0
        stages.show("for a person only")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "waiting\nread: 5 files\n")


def test_a_file_that_no_request_over_http_has_room_for_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "large.patch"
    with file.open("wb") as stream:
        stream.truncate(patch_transfer.HTTP_BLOB_BYTES_MAX + 1)
    words = ("agent", "apply", file, "--target", "app", "--rpc", "http://127.0.0.1:1")
    assert refused(*words) == "cli.agent.file_too_large", "nobody answers there, and nobody was asked"
    assert GatewayLimits().body_bytes_max > patch_transfer.HTTP_BLOB_BYTES_MAX * 4 // 3 + 65_536


@pytest.mark.parametrize("fits", [True, False])
async def test_a_place_that_the_node_cannot_read_goes_as_bytes_where_they_fit(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    asked: list[Mapping[str, Any]] = []

    async def apply(params: Mapping[str, Any]) -> Any:
        asked.append(params)
        if "path" in params:
            raise RejectedError("node.param.path", "the node cannot read the file", hint="publish it")
        return OUTCOME | {"patch_id": PATCH_ID}

    await nursery.start(LocalServer(tmp_path / "core.sock", {"agent.apply": apply}).run)
    file = tmp_path / "fix.patch"
    file.write_bytes(b"a patch")
    monkeypatch.setattr(patch_transfer, "PART_BYTES_MAX", 6)
    monkeypatch.setattr(patch_transfer, "BLOB_BYTES_MAX", 7 if fits else 6)
    words = ("agent", "apply", file, "--target", "app", "--home", tmp_path, "-o", "json")
    answer = await trio.to_thread.run_sync(lambda: run(*words))
    assert asked[0] == {"target": "app", "path": str(file)}
    if fits:
        assert (answer.code, len(asked), asked[1]["file"]) == (0, 2, encode_blob(b"a patch"))
    else:
        assert (answer.code, len(asked), answer.error["code"]) == (1, 1, "node.param.path")
