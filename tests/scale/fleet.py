"""A fleet through one rollout: most hosts are fine, some have a bad disk, some are away, one lies; then every record is looked for."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import trio

from agent.config import AgentConfig
from agent.files import Files
from agent.policy_cache import PolicyCache
from agent.runtime import Agent
from agent.turns import find_open_turns
from ledger import bodies
from ledger.rollout_bodies import GroupAssign, RolloutCreate, RolloutDecide
from ledger.rollout_turn import openings
from ledger.rollout_waves import Wave
from node.rollout_documents import rollout_document
from tests.scale.liar import INVENTED, Liar
from tests.scale.sequencer import BLOCK_TRANSACTIONS, HostLedger, Sequencer
from tests.testkit import patches
from tests.testkit.agent import COMPONENT, NOW_MS, agent_genesis, tree_digest_of, write_tree
from tests.testkit.ledger import attest_body, key_of, publish_body
from tests.testkit.rollouts import ADMINISTRATOR, MANAGER
from wire.hashing import sha256

ROLLOUT: Final = "spring@acme"
GROUP: Final = "fleet@acme"
SOAK_MS: Final = 600_000
POLL_MS: Final = 10_000
"""Hosts look every ten seconds of the ledger's time."""
ROUNDS_MAX: Final = 2_000
LIES: Final = {
    "apply before its turn": "ledger.rollout.not_open",
    "outcome SUCCESS without an intent": "ledger.host.intent_required",
    "outcome for another host's intent": "ledger.host.intent_closed",
    "a record that leaves a number out": "ledger.host.counter_gap",
    "a record that names another one before it": "ledger.host.wrong_previous",
    "a report in another host's name": "ledger.tx.bad_signature",
    "halt the rollout": "ledger.tx.not_authorised",
    "put itself into another group": "ledger.tx.not_authorised",
    "withdraw the patch": "ledger.tx.not_authorised",
    "outcome that changes nothing": "ledger.host.unchanged",
    "outcome for another tree than announced": "ledger.host.intent_mismatch",
    "outcome SUCCESS with a tree that it made up": "",
    "the same outcome a second time": "ledger.host.intent_closed",
    "the same transaction a second time": "ledger.tx.duplicate",
    "count the success again by announcing anew": "counted once",
}
"""What becomes of each lie: the code of its refusal, or "" where the ledger must take a host at its word."""


def waves_of(hosts: int) -> tuple[Wave, ...]:
    """Return canaries, a tenth, a half and all; enough of a wave let the next one go after ten minutes."""
    # In small waves chance puts more of those who cannot.
    canaries, others = (8_000, 9_000) if hosts >= 1000 else (6_000, 8_000)
    return (
        Wave("canary", None, max(5, hosts // 200), None, canaries, 0, SOAK_MS),
        Wave("tenth", None, None, 1_000, others, 0, SOAK_MS),
        Wave("half", None, None, 5_000, others, 0, SOAK_MS),
        Wave("all", None, None, 10_000, others, 0, 0),
    )


@dataclass
class Host:
    """One host of the fleet."""

    name: str
    number: int
    is_failing: bool = False
    is_offline: bool = False
    is_liar: bool = False
    outcomes: list[Any] = field(default_factory=list)
    """How its applications ended, as its own agent said."""


def broken_disk(name: str, path: str | bytes) -> None:
    """Fail when the tree is to be switched, as a dying disk does."""
    if name == "exchange":
        raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(path))


class Simulation:
    """The fleet, the ledger, and what is measured."""

    def __init__(
        self,
        directory: Path,
        hosts: int,
        *,
        failing: float = 0.02,
        offline: float = 0.05,
        together: int = 200,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.directory = directory
        self.sequencer = Sequencer(agent_genesis())
        self.policies = PolicyCache()
        self.together = together
        self.tell = tell
        self.nonces = 0
        self.hosts = [Host(f"h{number:06}@acme", number) for number in range(hosts)]
        # Spread by a hash of the name, so that every wave has its share of each.
        spread = sorted(self.hosts, key=lambda host: sha256(host.name.encode()))
        bad, away = round(hosts * failing), round(hosts * offline)
        for host in spread[:bad]:
            host.is_failing = True
        for host in spread[bad : bad + away]:
            host.is_offline = True
        spread[bad + away].is_liar = True
        self.liar_host = spread[bad + away]
        self.budget = 2 * bad + 1
        self.refusals: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.figures: dict[str, Any] = {}
        self.processor_s: dict[str, float] = {}

    async def run(self) -> None:
        """Do everything, and raise AssertionError where something is not as it must be."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sequencer.run)
            await self._timed("registration", self._register)
            await self._timed("targets", self._add_targets)
            before = self._load()
            started_ms = self.sequencer.time_ms
            await self._timed("rollout", self._roll_out)
            self.figures["rollout_load"] = {name: value - before[name] for name, value in self._load().items()}
            self.figures["ledger_minutes"] = (self.sequencer.time_ms - started_ms) / 60_000
            self.status_before_return = self._status()
            await self._timed("those who come back", self._come_back)
            self.status = self._status()
            await self._timed("checks", self._check)
            nursery.cancel_scope.cancel()

    async def _timed(self, name: str, work: Callable[[], Any]) -> None:
        started, worked = perf_counter(), process_time()
        await work()
        self.seconds[name] = perf_counter() - started
        self.processor_s[name] = process_time() - worked
        self.tell(f"{name}: {self.seconds[name]:.0f} s, height {self.sequencer.chain.height}")

    # The network and its people

    async def _register(self) -> None:
        chain = self.sequencer.chain
        chain.register("alice@acme", "developer")
        chain.register("bob@beta", "attestor:security-review")
        chain.register("carol@gamma", "attestor:qa")
        chain.register(MANAGER, "release-manager")
        names = [host.name for host in self.hosts]
        for start in range(0, len(names), BLOCK_TRANSACTIONS):
            part = tuple(names[start : start + BLOCK_TRANSACTIONS])
            registrations = [
                bodies.IdentityRegister(name, name, ("host",), key_of(name).public_key.spki) for name in part
            ]
            chain.commit(*(chain.sign(body, ADMINISTRATOR) for body in registrations))
            chain.submit(GroupAssign(GROUP, part), ADMINISTRATOR)
            await trio.lowlevel.checkpoint()
        data = patches.approve(patches.make_patch())
        data = patches.approve(data, key_of("carol@gamma"), "carol@gamma", "qa")
        body = publish_body(data)
        chain.submit(body, "alice@acme")
        self.sequencer.patches[body.file_digest] = data
        for line in (1, 2):
            chain.submit(attest_body(data, line), "alice@acme")
        self.patch_id = body.patch_id

    # Hosts

    def open(self, host: Host) -> Agent:
        """Return the host's agent, as after a start of its node."""
        return Agent(
            AgentConfig(
                home=self.directory / host.name,
                identity_id=host.name,
                key=key_of(host.name),
                intent_wait_s=3600.0,
                outcome_wait_s=3600.0,
            ),
            HostLedger(self.sequencer),
            now_ms=self._now_ms,
            uptime_ms=self._now_ms,
            nonce=self._nonce,
            files=Files(broken_disk) if host.is_failing else None,
            policies=self.policies,
        )

    async def _each(self, hosts: Sequence[Host], work: Callable[[Host], Any]) -> None:
        """Do something with every host, `together` of them at a time."""
        limiter = trio.CapacityLimiter(self.together)

        async def one(host: Host) -> None:
            async with limiter:
                await work(host)

        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(one, host)

    async def _add_targets(self) -> None:
        async def add(host: Host) -> None:
            root = self.directory / host.name / "app"
            write_tree(root, patches.EVERY_KIND_BEFORE)
            # A target is tried by an exchange when it is added; the disk dies later.
            is_failing, host.is_failing = host.is_failing, False
            agent = self.open(host)
            host.is_failing = is_failing
            try:
                await agent.add_target(
                    {
                        "version": 1,
                        "name": "app",
                        "root": str(root),
                        "components": [COMPONENT],
                        "windows": [],
                        "frozen": False,
                        "allowed": [],
                    }
                )
                await agent._delivery.deliver(3600.0)
            finally:
                agent.close()

        # One first: two would both pay for checking the policy set.
        await self._each(self.hosts, add)
        self.tree_before = tree_digest_of(self.directory / self.hosts[0].name / "app")

    async def _take_turn(self, host: Host) -> None:
        agent = self.open(host)
        try:
            host.outcomes += await agent.take_turns()
            await agent._delivery.deliver(3600.0)
        finally:
            agent.close()

    # The rollout

    async def _roll_out(self) -> None:
        chain = self.sequencer.chain
        waves = waves_of(len(self.hosts))
        chain.submit(RolloutCreate(ROLLOUT, self.patch_id, (GROUP,), waves, self.budget, ""), MANAGER)
        liar_spoke = False
        for _ in range(ROUNDS_MAX):
            view = self.sequencer.view
            ready = [host for host in self.hosts if self._is_at_work(host) and find_open_turns(view, host.name)]
            waiting = [host for host in ready if not host.outcomes]
            if waiting:
                await self._each(waiting, self._take_turn)
            if not self.refusals and any(each.host != self.liar_host.name for each in view.deployments()):
                self._lie_before()
            if not liar_spoke and find_open_turns(self.sequencer.view, self.liar_host.name):
                self._lie_in_turn()
                liar_spoke = True
            rollout = self.sequencer.view.rollout(ROLLOUT)
            assert rollout is not None
            if rollout.is_complete and not waiting:
                return
            # Looks that find nothing change nothing, so a soak is passed in one step; what a look costs is measured at the end.
            now = self.sequencer.time_ms
            opening = [at[1] for at in openings(rollout) if at is not None and at[1] > now]
            self._pass(max(POLL_MS, min(opening, default=now) - now))
            await trio.lowlevel.checkpoint()
        raise AssertionError("the rollout does not end")

    def _is_at_work(self, host: Host) -> bool:
        return not (host.is_offline or host.is_liar or host.outcomes)

    async def _come_back(self) -> None:
        back = [host for host in self.hosts if host.is_offline]
        for host in back:
            host.is_offline = False
        await self._each(back, self._take_turn)

    def _lie_before(self) -> None:
        victim = next(each.host for each in self.sequencer.view.deployments())
        self._liar = Liar(
            self.sequencer,
            name=self.liar_host.name,
            victim=victim,
            patch_id=self.patch_id,
            tree=self.tree_before,
            rollout=ROLLOUT,
        )
        self.refusals |= self._liar.before_its_turn()

    def _lie_in_turn(self) -> None:
        self.refusals |= self._liar.in_its_turn()

    # What must be so

    async def _check(self) -> None:
        view = self.sequencer.view
        lost = []
        for host in self.hosts:
            if host.is_liar:
                continue
            agent = self.open(host)
            try:
                status = agent.status()
                record = view.host(host.name)
                assert (status.records_waiting, status.intents_open, status.records_refused) == (0, 0, 0), host
                assert record is not None, host
                assert record.counter == status.counter == 2, host
            finally:
                agent.close()
            # What its own agent told it about must be on the ledger, in its place.
            lost += [each for each in host.outcomes if view.location(each.outcome_tx) is None]
        assert lost == []
        deployments = list(view.deployments())
        assert all(each.outcome_height is not None for each in deployments)
        honest = [host for host in self.hosts if not host.is_liar]
        expected = Counter("ERROR_APPLY_FAILED" if host.is_failing else "SUCCESS" for host in honest)
        assert Counter(each.result for each in deployments if each.host != self.liar_host.name) == expected
        assert Counter(host.outcomes[0].code.value for host in honest) == expected
        # Who lies about a tree stands alone with it.
        trees = Counter(each.tree_after for each in deployments if each.result == "SUCCESS")
        (common, count), *others = trees.most_common()
        assert common == tree_digest_of(
            self.directory / next(host.name for host in honest if not host.is_failing) / "app"
        )
        assert count == expected["SUCCESS"]
        assert {tree for tree, _ in others} == {INVENTED, self.tree_before}
        self.figures["records"] = 2 * len(honest)
        self.figures["lost"] = 0
        applied = sum(wave["applied"] for wave in self.status["waves"])
        assert applied == expected["SUCCESS"] + 1
        assert self.status["failures"] == expected["ERROR_APPLY_FAILED"]
        self._check_refusals()
        self._check_halt()

    def _check_refusals(self) -> None:
        differing = set(self.refusals.items()) ^ set(LIES.items())
        assert self.refusals == LIES, differing

    def _check_halt(self) -> None:
        chain, view = self.sequencer.chain, self.sequencer.view
        some = self.hosts[:1000]
        asked = process_time()
        for host in some:
            find_open_turns(view, host.name)
        self.figures["look_us"] = 1e6 * (process_time() - asked) / len(some)
        chain.submit(RolloutDecide(ROLLOUT, "halt", "the end"), MANAGER)
        assert not any(find_open_turns(self.sequencer.view, host.name) for host in self.hosts)

    # Small things

    def _pass(self, milliseconds: int) -> None:
        """Let time pass on the ledger, by an empty block as a quiet leader makes them."""
        header = self.sequencer.chain.blocks[-1].header
        chain = self.sequencer.chain
        chain.apply(chain.build(time_ms=header.time_ms + milliseconds).block)

    def _now_ms(self) -> int:
        return NOW_MS + self.sequencer.time_ms - self.sequencer.chain.genesis.time_ms

    def _nonce(self) -> bytes:
        self.nonces += 1
        return sha256(b"scale %d" % self.nonces)[:16]

    def _status(self) -> dict[str, Any]:
        rollout = self.sequencer.view.rollout(ROLLOUT)
        assert rollout is not None
        return rollout_document(rollout, self.sequencer.chain.height, self.sequencer.time_ms)

    def _load(self) -> dict[str, float]:
        blocks = [block for block in self.sequencer.chain.blocks if block.transactions]
        return {
            "transactions": sum(self.sequencer.kinds.values()),
            "transaction_bytes": sum(self.sequencer.kind_bytes.values()),
            "blocks": len(self.sequencer.chain.blocks),
            "full_blocks": len(blocks),
            "block_bytes": sum(len(block.raw) for block in self.sequencer.chain.blocks),
            "execution_s": self.sequencer.execution_s,
        }
