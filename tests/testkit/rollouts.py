"""A fleet on a chain in memory: hosts in groups, a published patch, rollouts, and hosts that say how it went."""

from __future__ import annotations

from collections.abc import Sequence

from ledger import bodies
from ledger.block import ZERO_DIGEST
from ledger.bodies import Body
from ledger.rollout_bodies import GroupAssign, RolloutCreate, RolloutDecide
from ledger.rollout_records import RolloutRecord
from ledger.rollout_turn import find_turn
from ledger.rollout_waves import Wave
from ledger.transaction import Transaction
from tests.testkit import patches
from tests.testkit.ledger import Chain, key_of

BEFORE, AFTER = b"\x01" * 32, b"\x02" * 32
MANAGER = "rita@acme"
ADMINISTRATOR = "ada@acme"
WEB = "web@acme"
SPRING = "spring@acme"
FAILED = "ERROR_APPLY_FAILED"


def wave(name: str, **changes: object) -> Wave:
    """Return a wave of every host that needs nothing and waits for nothing, but for `changes`."""
    values: dict[str, object] = {
        "group": None,
        "hosts": None,
        "share": None,
        "success": 10_000,
        "soak_heights": 0,
        "soak_ms": 0,
    }
    values |= changes
    if values["hosts"] is None and values["share"] is None:
        values["share"] = 10_000
    return Wave(name, **values)  # type: ignore[arg-type]


class Fleet:
    """Hosts ``h0@acme`` and so on in ``web@acme``, and a patch."""

    def __init__(self, hosts: int, group: str = WEB) -> None:
        self.chain = Chain()
        self.chain.register("alice@acme", "developer")
        self.chain.register(MANAGER, "release-manager")
        self.hosts = self.register(range(hosts))
        self.assign(group, self.hosts)
        self.patch_id = self.chain.publish(patches.make_patch())

    def register(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Register hosts in one block and return them, in order of id."""
        names = tuple(sorted(f"h{number}@acme" for number in numbers))
        registrations = [
            self.chain.sign(bodies.IdentityRegister(name, name, ("host",), key_of(name).public_key.spki), ADMINISTRATOR)
            for name in names
        ]
        self.chain.commit(*registrations)
        return names

    def assign(self, group: str | None, hosts: Sequence[str]) -> None:
        """Put hosts into a group, or out of theirs."""
        for start in range(0, len(hosts), 256):
            self.say(GroupAssign(group, tuple(sorted(hosts))[start : start + 256]), ADMINISTRATOR)

    def create(self, *waves: Wave, rollout_id: str = SPRING, budget: int = 0, groups: tuple[str, ...] = (WEB,)) -> None:
        """Make a rollout of the patch."""
        self.say(RolloutCreate(rollout_id, self.patch_id, groups, waves or (wave("all"),), budget, ""), MANAGER)

    def decide(self, decision: str, by: str = MANAGER, rollout_id: str = SPRING) -> None:
        """Halt, resume or withdraw."""
        self.say(RolloutDecide(rollout_id, decision, "why"), by)

    def say(self, body: Body, by: str) -> Transaction:
        return self.chain.submit(body, by)

    # Hosts

    def intent_body(self, host: str, target: str = "site") -> bodies.DeploymentIntent:
        counter, previous = self._head(host)
        return bodies.DeploymentIntent(counter, previous, target, self.patch_id, BEFORE, b"{}")

    def intend(self, host: str, target: str = "site") -> bytes:
        """Announce the patch and return the intent's id."""
        return self.say(self.intent_body(host, target), host).tx_id

    def may_intend(self, host: str) -> str:
        """Return the code with which an intent is refused, by admission, leader and follower alike, or ""."""
        turn = find_turn(self.chain.view, host, self.patch_id)
        assert turn is not None
        # The next block's height and time.
        header = self.chain.blocks[-1].header
        if turn.may_go(header.height + 1, header.time_ms + 1000):
            self.chain.build(self.chain.sign(self.intent_body(host), host))
            return ""
        return self.chain.refused(self.intent_body(host), host)

    def outcome_body(
        self, host: str, opened: bytes | None, result: str = "SUCCESS", target: str = "site"
    ) -> bodies.DeploymentOutcome:
        counter, previous = self._head(host)
        after = {"SUCCESS": AFTER, "ROLLED_BACK": AFTER}.get(result, BEFORE)
        return bodies.DeploymentOutcome(counter, previous, target, self.patch_id, opened, result, BEFORE, after, b"{}")

    def end(self, host: str, opened: bytes | None, result: str = "SUCCESS", target: str = "site") -> None:
        """Tell how it ended."""
        self.say(self.outcome_body(host, opened, result, target), host)

    def apply(self, host: str, result: str = "SUCCESS", target: str = "site") -> None:
        """Announce the patch, and tell how it ended."""
        self.end(host, self.intend(host, target), result, target)

    # Looking

    @property
    def rollout(self) -> RolloutRecord:
        found = self.chain.view.rollout(SPRING)
        assert found is not None
        return found

    def wave_of(self, host: str) -> int:
        turn = find_turn(self.chain.view, host, self.patch_id)
        assert turn is not None
        return turn.host.wave

    def of_wave(self, index: int) -> list[str]:
        """Return the hosts of a wave."""
        return [host for host in self.hosts if self.wave_of(host) == index]

    def _head(self, host: str) -> tuple[int, bytes]:
        record = self.chain.view.host(host)
        return (1, ZERO_DIGEST) if record is None else (record.counter + 1, record.last_tx_id)
