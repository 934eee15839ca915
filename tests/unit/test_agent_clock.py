"""A clock that jumped is noticed, stops the agent, is shown, and is believed again when there is reason to."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clock_watch import ClockWatch
from agent.limits import CLOCK_JUMP_MS_MAX
from agent.policy_text import default_policy_set
from agent.results import ResultCode
from agent.runtime import Agent, AgentConfig
from ledger.bodies import HostReport
from tests.testkit.agent import HOST, OPERATOR, POLICIES, TARGET, World
from tests.testkit.ledger import key_of

HOUR_MS = 3_600_000


class Clocks:
    """The two clocks of a host: one that somebody sets, one that nobody can."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms
        self.uptime = 5_000

    def pass_ms(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.uptime += milliseconds


class Host(World):
    """A world whose agent looks at two clocks."""

    def __init__(self, directory: Path) -> None:
        self.clocks = Clocks(0)
        super().__init__(directory, policies=default_policy_set())
        self.agent.close()
        self.clocks.now = self.chain.view.header.time_ms + 500
        self.start()

    def start(self) -> None:
        self.agent = Agent(
            AgentConfig(self.directory / "home", HOST, key_of(HOST)),
            self.ledger,
            now_ms=lambda: self.clocks.now,
            uptime_ms=lambda: self.clocks.uptime,
            clock=ClockWatch(lambda: self.clocks.now, lambda: self.clocks.uptime),
            nonce=self.nonce,
            policies=POLICIES,
        )

    def restart(self) -> None:
        self.agent.close()
        self.start()

    async def code(self, data: bytes) -> str:
        outcome = await self.agent.explain(data, TARGET, OPERATOR)
        assert outcome.is_success or outcome.code is ResultCode.STALE_REPLICA, outcome.message
        return outcome.reason


@pytest.fixture
async def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    await host.add_target()
    return host


def jumped(host: Host) -> bool:
    document = host.agent.status().to_json()
    assert document["clock_jumped"] == (abs(document["clock_step_ms"]) > CLOCK_JUMP_MS_MAX)
    return bool(document["clock_jumped"])


@pytest.mark.parametrize("step_ms", [-HOUR_MS, -CLOCK_JUMP_MS_MAX - 1, CLOCK_JUMP_MS_MAX + 1, HOUR_MS])
async def test_a_jump_either_way_stops_the_agent_until_the_clock_is_right(host: Host, step_ms: int) -> None:
    data = host.release()
    assert await host.code(data) == ""
    assert not jumped(host)
    host.clocks.now += step_ms
    host.ledger.age_ms = 500
    found = await host.code(data)
    # Far behind the newest block the older rule speaks first: nobody could tell how old the replica is.
    behind = host.clocks.now < host.chain.view.header.time_ms - CLOCK_JUMP_MS_MAX
    assert found == ("agent.replica.clock_behind" if behind else "agent.replica.clock_jumped")
    assert jumped(host)
    assert host.agent.status().clock_step_ms == step_ms
    host.clocks.pass_ms(10_000)
    assert jumped(host), "time alone makes nothing right"
    host.clocks.now -= step_ms
    assert await host.code(data) == ""
    assert not jumped(host)


@pytest.mark.parametrize("step_ms", [-CLOCK_JUMP_MS_MAX // 2, -1, 1, CLOCK_JUMP_MS_MAX])
async def test_a_small_correction_is_none(host: Host, step_ms: int) -> None:
    data = host.release()
    assert await host.code(data) == ""
    host.clocks.now += step_ms
    assert await host.code(data) == ""


async def test_time_that_passes_is_no_jump(host: Host) -> None:
    data = host.release()
    for _ in range(3):
        host.clocks.pass_ms(HOUR_MS)
        assert await host.code(data) == ""


async def test_a_new_block_at_the_clocks_time_makes_it_believed(host: Host) -> None:
    data = host.release()
    assert await host.code(data) == ""
    host.clocks.now += HOUR_MS
    assert await host.code(data) == "agent.replica.clock_jumped"
    # Blocks of another time confirm nothing, however many come.
    host.chain.register("dave@acme", "developer")
    assert await host.code(data) == "agent.replica.clock_jumped"
    built = host.chain.build(
        host.chain.sign(HostReport("inventory", TARGET, b"{}"), HOST), time_ms=host.clocks.now - 900
    )
    host.chain.apply(built.block)
    assert await host.code(data) == ""
    assert not jumped(host)
    # From there on it may not jump again.
    host.clocks.now += HOUR_MS
    assert await host.code(data) == "agent.replica.clock_jumped"


async def test_a_restart_believes_the_clock_that_it_finds(host: Host) -> None:
    data = host.release()
    host.clocks.now += HOUR_MS
    assert await host.code(data) == "agent.replica.clock_jumped"
    host.restart()
    assert await host.code(data) == ""
    host.clocks.now = host.chain.view.header.time_ms - CLOCK_JUMP_MS_MAX - 1
    host.restart()
    assert await host.code(data) == "agent.replica.clock_behind"


async def test_nothing_is_applied_after_a_jump(host: Host) -> None:
    data = host.release()
    tree = host.digest()
    host.clocks.now += HOUR_MS
    outcome = await host.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.STALE_REPLICA, "agent.replica.clock_jumped")
    assert host.digest() == tree
    host.clocks.now -= HOUR_MS
    assert (await host.agent.apply(data, TARGET, OPERATOR)).code is ResultCode.SUCCESS
