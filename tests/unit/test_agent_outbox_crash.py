"""The outbox is stopped in front of every write, in the middle of every line, and by a full disk; and a host is away for weeks."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import trio

import agent.outbox
from agent.delivery import Delivery
from agent.errors import OutboxError, StateCorruptError
from agent.files import Files
from agent.limits import DELIVERY_PAUSE_SECONDS_MAX
from agent.outbox import Outbox
from ledger.bodies import DeploymentIntent, DeploymentOutcome, HostReport
from ledger.transaction import Transaction, build_transaction, decode_transaction_untrusted
from tests.testkit.agent import HOST, TARGET, FakeLedger, World
from tests.testkit.ledger import CHAIN_ID, Chain, key_of
from wire.hashing import sha256

TREE = sha256(b"tree")
CALLS_MAX = 200


class Killed(BaseException):
    """The process ends here; what was handed to the system stays."""


class DyingFiles(Files):
    """A file system that ends the process, or fails, in front of its call number `stop_at`, counted from 1.

    Args:
        stop_at: Which call; 0 for none.
        mode: ``kill`` before the call; ``torn`` after half of a write; ``full``: the disk takes no more.
    """

    def __init__(self, stop_at: int, mode: str) -> None:
        self.calls = 0
        self.stop_at = stop_at
        self.mode = mode
        super().__init__(self.count)

    def count(self, name: str, path: object) -> None:
        self.calls += 1
        if self.calls != self.stop_at:
            return
        if self.mode == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.mode == "kill" or name != "write":
            raise Killed

    def write(self, descriptor: int, data: bytes, path: object) -> None:
        super().write(descriptor, data[: len(data) // 2] if self._tears() else data, path)  # type: ignore[arg-type]
        if self.mode == "torn" and self.calls == self.stop_at:
            raise Killed

    def _tears(self) -> bool:
        return self.mode == "torn" and self.calls + 1 == self.stop_at


class Host:
    """One host's outbox on its own copy of a ledger."""

    def __init__(self, directory: Path, base: Chain) -> None:
        directory.mkdir(exist_ok=True)
        self.path = directory / "outbox.log"
        chain = Chain(genesis=base.genesis)
        chain.store.apply(base.store.dump())
        chain.blocks = list(base.blocks)
        chain.nonces = base.nonces
        self.chain = chain
        self.ledger = FakeLedger(chain)
        (patch,) = chain.view.patches()
        self.patch_id = patch.patch_id
        self.nonces = 0
        self.not_after = chain.height + 1000
        self.queued: list[str] = []
        """What `queue` has returned from, by its mark."""

    def open(self, files: Files) -> Delivery:
        self.outbox = Outbox(files, str(self.path))
        return Delivery(self.outbox, self.ledger, HOST, self.sign)

    def sign(self, body: object) -> Transaction:
        self.nonces += 1
        nonce = sha256(b"%d" % self.nonces)[:16]
        return build_transaction(CHAIN_ID, body.KIND, body, key_of(HOST), nonce, self.not_after, 0)  # type: ignore[attr-defined]

    @property
    def bytes(self) -> int:
        """Size of the log."""
        return self.path.stat().st_size

    def told(self) -> list[str]:
        """Return the marks of all records on the ledger, in its order."""
        return [mark for mark in map(mark_of, bodies_of(self)) if mark]

    def waiting(self) -> list[str]:
        return [mark_of(entry.body) for entry in self.outbox.pending]


def bodies_of(host: Host) -> list[object]:
    """Return all that is on the ledger, in its order."""
    return [decode_transaction_untrusted(raw).body for block in host.chain.blocks for raw in block.transactions]


def mark_of(body: object) -> str:
    """Return how a record of these tests is told from the others."""
    if isinstance(body, DeploymentIntent):
        return str(json.loads(body.decision)["mark"])
    if isinstance(body, DeploymentOutcome):
        return str(json.loads(body.detail)["mark"])
    return str(json.loads(body.body)["mark"]) if isinstance(body, HostReport) else ""


def marked(mark: str) -> bytes:
    return json.dumps({"mark": mark}, separators=(",", ":")).encode()


async def life(host: Host, files: Files) -> None:
    """Go through everything that writes the log: queueing, delivering, being refused, signing again, making it short."""
    delivery = host.open(files)

    async def queue(body: object, mark: str, closes: int | None = None) -> int:
        entry = await delivery.queue(body, closes=closes)  # type: ignore[arg-type]
        host.queued.append(mark)
        return entry.sequence

    blank = bytes(32)
    await queue(HostReport("adopt", TARGET, marked("adopted")), "adopted")
    first = await queue(DeploymentIntent(0, blank, TARGET, host.patch_id, TREE, marked("intent")), "intent")
    await delivery.deliver(1.0)
    done = DeploymentOutcome(0, blank, TARGET, host.patch_id, None, "SUCCESS", TREE, blank, marked("outcome"))
    await queue(done, "outcome", closes=first)
    refused = DeploymentOutcome(0, blank, TARGET, blank, None, "ERROR_MALFORMED_PATCH", TREE, TREE, marked("refusal 1"))
    host.not_after = host.chain.height + 1
    await queue(refused, "refusal 1")
    # Time passes until what was signed is void: everything is signed again.
    for name in ("dave", "erin"):
        host.chain.register(f"{name}@acme", "developer")
    host.not_after = host.chain.height + 1000
    await queue(replace(refused, detail=marked("refusal 2")), "refusal 2")
    await delivery.deliver(1.0)
    host.outbox.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    world = World(tmp_path_factory.mktemp("base"))
    world.release()
    world.agent.close()
    return world.chain


@pytest.mark.parametrize("mode", ["kill", "torn", "full"])
def test_nothing_is_lost_or_told_twice_wherever_it_stops(
    tmp_path: Path, base: Chain, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.outbox, "OUTBOX_LINES_KEPT", 1)
    whole = ["adopted", "intent", "outcome", "refusal 1", "refusal 2"]
    stops = 0
    for stop_at in range(1, CALLS_MAX):
        host, files = Host(tmp_path / f"{mode}{stop_at}", base), DyingFiles(stop_at, mode)
        error = stopped(host, files)
        if error is None:
            assert host.told() == whole
            break
        stops += 1
        assert isinstance(error, Killed) == (mode != "full")
        assert not isinstance(error, StateCorruptError) or error.code == "agent.state.append"
        if hasattr(host, "outbox"):
            host.outbox.close()
        trio.run(finish, host)
        told = host.told()
        assert len(told) == len(set(told)), f"told twice, stopped at {stop_at}: {told}"
        assert told[: len(host.queued)] == host.queued, f"lost, stopped at {stop_at}"
        # What was being queued may be there or not; nothing else is.
        assert told in (host.queued, whole[: len(host.queued) + 1]), f"stopped at {stop_at}"
    else:
        pytest.fail("the script never comes to its end")
    assert stops >= 20, "each write of the script is a place to stop"


def stopped(host: Host, files: Files) -> BaseException | None:
    """Return what ended the script, or None when nothing did."""
    try:
        trio.run(life, host, files)
    except (Killed, StateCorruptError, OSError) as error:
        return error
    return None


async def finish(host: Host) -> None:
    """Start again, with a disk that works, and bring everything to the ledger."""
    host.not_after = host.chain.height + 1000
    delivery = host.open(Files())
    try:
        await delivery.deliver(1.0)
        assert host.outbox.pending == ()
    finally:
        host.outbox.close()


@pytest.mark.parametrize("lines_kept", [0, 64])
@pytest.mark.parametrize("mode", ["kill", "torn", "full"])
async def test_a_change_that_the_ledger_refuses_is_told_wherever_it_stops(
    tmp_path: Path, base: Chain, mode: str, lines_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome will never be on the ledger; that no record explains the tree is, once, also where the log is made short."""
    monkeypatch.setattr(agent.outbox, "OUTBOX_LINES_KEPT", lines_kept)
    blank, found = bytes(32), []
    done = DeploymentOutcome(0, blank, TARGET, blank, None, "SUCCESS", TREE, blank, b"{}")
    for stop_at in range(1, CALLS_MAX):
        host, files = Host(tmp_path / str(stop_at), base), DyingFiles(0, mode)
        delivery = host.open(files)
        await delivery.queue(done)
        files.calls, files.stop_at = 0, stop_at
        with suppress(Killed, StateCorruptError):
            await delivery.deliver(1.0)
        is_stopped = files.calls >= stop_at
        found.append((host.outbox.refused_count, len(host.outbox.pending)))
        host.outbox.close()
        await finish(host)
        reports = [body for body in bodies_of(host) if isinstance(body, HostReport)]
        assert [json.loads(each.body)["unrecorded"]["result"] for each in reports] == ["SUCCESS"], (
            f"stopped at {stop_at}"
        )
        assert not [body for body in bodies_of(host) if isinstance(body, DeploymentOutcome)]
        if not is_stopped:
            break
    assert not is_stopped
    assert {(0, 1), (1, 1), (1, 0)} == set(found), "before, in between, and after"


async def test_weeks_without_the_ledger_take_a_bounded_place(
    tmp_path: Path, base: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound nothing new is announced; what was begun still ends; and all of it comes to the ledger in order."""
    count = 60
    monkeypatch.setattr(agent.outbox, "OUTBOX_ENTRIES_MAX", count)
    host = Host(tmp_path / "host", base)
    delivery = host.open(Files())
    host.ledger.is_offline = True
    blank = bytes(32)
    opened = await delivery.queue(DeploymentIntent(0, blank, TARGET, host.patch_id, TREE, marked("intent")))
    refused = DeploymentOutcome(0, blank, TARGET, blank, None, "ERROR_MALFORMED_PATCH", TREE, TREE, b"")
    for number in range(1, count):
        await delivery.queue(replace(refused, detail=marked(f"refusal {number}")))
        with pytest.raises(OutboxError) as caught:
            await delivery.deliver(1.0)
        assert caught.value.code == "agent.ledger.unavailable"
    for body in (replace(refused, detail=marked("one more")), HostReport("drift", TARGET, marked("drift"))):
        with pytest.raises(OutboxError) as caught:
            await delivery.queue(body)
        assert caught.value.code == "agent.outbox.full"
    size = host.bytes
    done = DeploymentOutcome(0, blank, TARGET, host.patch_id, None, "SUCCESS", TREE, blank, marked("outcome"))
    await delivery.queue(done, closes=opened.sequence)
    # Weeks: everything was void long ago, and a restart finds it all.
    host.outbox.close()
    host.ledger.is_offline = False
    host.not_after = host.chain.height + 1000
    delivery = host.open(Files())
    assert len(host.outbox.pending) == count + 1
    await delivery.deliver(1.0)
    assert host.told() == ["intent", *(f"refusal {number}" for number in range(1, count)), "outcome"]
    assert host.bytes < size, "what was delivered leaves the log"
    host.outbox.close()


async def test_pauses_grow_to_a_bound(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.ledger.is_offline = True
    await world.add_target()
    asked: list[float] = []
    submit = world.ledger.submit

    async def counted(raw: bytes) -> None:
        asked.append(trio.current_time())
        await submit(raw)

    monkeypatch.setattr(world.ledger, "submit", counted)
    run: Callable[..., Awaitable[None]] = world.agent.run
    async with trio.open_nursery() as nursery:
        # What happens at the start reads files, for which this clock would not wait.
        await nursery.start(run)
        await trio.sleep(600)
        assert world.agent.status().delivery_problem
        gaps = [later - earlier for earlier, later in pairwise(asked)]
        assert gaps[:4] == pytest.approx([1, 2, 4, 8], abs=0.5)
        assert max(gaps) == pytest.approx(DELIVERY_PAUSE_SECONDS_MAX, abs=0.5)
        assert len(asked) < 20
        nursery.cancel_scope.cancel()
    world.agent.close()
