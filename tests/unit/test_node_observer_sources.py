"""Several sources at once: all of them work, liars are dropped and reported, and other observers take the place of validators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ledger import bodies
from node.joining import FULL
from node.net.address import key_id_of, peer_id
from node.observer import (
    FAR_BLOCKS,
    LONG_POLL_S,
    NO_CERTIFICATE,
    SOURCES,
    SOURCES_FAR,
    WITHHELD,
    Observer,
    SourcePeer,
    Surroundings,
)
from node.replica import LedgerReplica
from node.sync import CertifiedBlock
from node.sync_slots import rank
from node.telemetry import Metrics
from tests.testkit.ledger import Chain
from tests.testkit.net import raw_key_of
from tests.testkit.node import open_replica
from tests.testkit.sync import ChainSource, SourceBase, key_id_named
from wire.errors import UnavailableError
from wire.keys import KeyId

BLOCKS = 70
FAR = FAR_BLOCKS + 64
OWN = key_id_named("own")


def chain_of(blocks: int) -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    while chain.height < blocks:
        chain.commit(chain.sign(bodies.HostReport("drift", f"t{chain.height}", b""), "web1@acme"))
    return chain


@pytest.fixture(scope="module")
def chain() -> Chain:
    return chain_of(BLOCKS)


@asynccontextmanager
async def following(
    replica: LedgerReplica,
    peers: Sequence[SourcePeer],
    *,
    relays: Sequence[SourceBase] = (),
    certified: Callable[[], int] = lambda: 0,
) -> AsyncIterator[tuple[Observer, Metrics]]:
    """Give a running observer that finds `relays` when somebody names them."""
    by_key = {relay.key_id: relay for relay in relays}
    metrics = Metrics()
    around = Surroundings(OWN, connect=lambda key_id, _: by_key.get(key_id), certified=certified)  # type: ignore[arg-type,return-value]
    observer = Observer(replica, lambda: peers, metrics, surroundings=around)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observer.run)
        yield observer, metrics
        nursery.cancel_scope.cancel()


async def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.005)


def named(relay: SourceBase) -> str:
    """Give a fake a key that an address can carry, and return the address."""
    raw_key = raw_key_of(relay.name)
    relay.key_id = key_id_of(raw_key)
    relay.address = f"/ip4/127.0.0.1/tcp/7070/p2p/{peer_id(raw_key)}"
    return relay.address


async def test_far_behind_all_sources_work_at_once(tmp_path: Path) -> None:
    chain = chain_of(FAR)
    sources = [ChainSource(f"s{number}", chain) for number in range(SOURCES_FAR + 2)]
    for source in sources:
        source.pause_s = 0.02
    most = 0
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, sources) as (observer, _):

            def here() -> bool:
                nonlocal most
                most = max(most, sum(source.open for source in sources))
                return replica.height == chain.height

            await wait_for(here)
            assert replica.latest_view().tip == chain.view.tip
            ranges = sorted(job for source in sources for job in source.asked if job[1] is not None)
            assert sorted({start for start, _ in ranges}) == list(range(1, FAR + 1, 64))
            assert most >= 3
            await wait_for(lambda: observer.sources == SOURCES)


class Liar(ChainSource):
    """Answers with what `lie` makes of the truth."""

    def __init__(self, name: str, chain: Chain, lie: Callable[[list[CertifiedBlock]], list[CertifiedBlock]]) -> None:
        super().__init__(name, chain)
        self.lie = lie

    def answer(self, start: int, end: int | None) -> list[CertifiedBlock]:
        return self.lie(super().answer(start, end))


def _garbage(_: list[CertifiedBlock]) -> list[CertifiedBlock]:
    return [CertifiedBlock(b"\x93garbage", None)]


def _wrong_order(blocks: list[CertifiedBlock]) -> list[CertifiedBlock]:
    return blocks[::-1]


def _nothing(_: list[CertifiedBlock]) -> list[CertifiedBlock]:
    return []


def _no_certificates(blocks: list[CertifiedBlock]) -> list[CertifiedBlock]:
    return [CertifiedBlock(item.block, None) for item in blocks]


def _certificate_cut(blocks: list[CertifiedBlock]) -> list[CertifiedBlock]:
    return [CertifiedBlock(item.block, (item.certificate or b"")[:-1]) for item in blocks]


def _certificates_swapped(blocks: list[CertifiedBlock]) -> list[CertifiedBlock]:
    return [CertifiedBlock(item.block, blocks[0].certificate) for item in blocks[1:]] or _garbage(blocks)


def _flipped(blocks: list[CertifiedBlock]) -> list[CertifiedBlock]:
    raw = bytearray(blocks[-1].block)
    raw[-1] ^= 1
    return [*blocks[:-1], CertifiedBlock(bytes(raw), blocks[-1].certificate)]


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (_garbage, "ledger.block.malformed"),
        (_wrong_order, "ledger.block.wrong_height"),
        (_nothing, WITHHELD),
        (_no_certificates, NO_CERTIFICATE),
        (_certificate_cut, "wire.codec.malformed"),
        (_certificates_swapped, "ledger.block.wrong_height"),
        (_flipped, None),
    ],
)
async def test_liars_are_dropped_and_reported_and_the_others_carry_on(
    tmp_path: Path, chain: Chain, lie: Callable[[list[CertifiedBlock]], list[CertifiedBlock]], code: str | None
) -> None:
    # Each node has an order of its own: here the liars are asked first.
    first, second, *rest = sorted("abcd", key=lambda name: rank(OWN, key_id_named(name)))
    liars = [Liar(name, chain, lie) for name in (first, second)]
    honest = [ChainSource(name, chain) for name in rest]
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, [*honest, *liars]) as (observer, metrics):
            await wait_for(lambda: replica.height == chain.height)
            assert replica.latest_view().tip == chain.view.tip
            dropped = observer.document()["dropped"]
            assert {entry["key_id"] for entry in dropped} == {liar.key_id.hex() for liar in liars}
            assert all(entry["times"] == 1 and 0 < entry["for_s"] <= 60 for entry in dropped)
            codes = {entry["code"] for entry in dropped}
            assert code is None or codes == {code}
            for found in codes:
                assert f'patchwarden_sync_peers_dropped_total{{code="{found}"}} ' in metrics.text()
            assert all(len(liar.wishes) == 1 for liar in liars), "nobody asks them again"


async def test_a_slow_source_does_not_hold_the_others_up(tmp_path: Path, chain: Chain) -> None:
    stuck, quick = ChainSource("stuck", chain), ChainSource("quick", chain)
    stuck.pause_s = 10**6
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, [stuck, quick]):
            await wait_for(lambda: replica.height == chain.height)


async def test_who_has_no_slot_names_others_and_they_are_followed(tmp_path: Path, chain: Chain) -> None:
    relays = [ChainSource("relay1", chain), ChainSource("relay2", chain)]
    deeper = ChainSource("relay3", chain)
    full = [ChainSource("v1", chain, slots=0), ChainSource("v2", chain, slots=0)]
    full[0].offers = ("nonsense", named(relays[0]))
    relays[0].path = relays[1].path = (full[0].key_id,)
    relays[0].offers = (named(relays[1]), named(deeper))
    deeper.path = (full[0].key_id, relays[0].key_id)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, full, relays=[*relays, deeper]) as (observer, _):
            await wait_for(lambda: replica.height == chain.height)
            assert not any(source.asked for source in full)
            assert relays[0].asked
            assert observer.path[0] == full[0].key_id
            assert {entry["depth"] for entry in observer.document()["sources"]} <= {2, 3}
            assert {peer.key_id for peer in observer.others(8)} >= {relays[0].key_id}
            assert relays[0].wishes[-1].sources <= SOURCES_FAR


async def test_nobody_is_followed_whose_blocks_come_from_here(tmp_path: Path, chain: Chain) -> None:
    loop, straight = ChainSource("loop", chain), ChainSource("straight", chain)
    loop.path = (key_id_named("v1"), OWN, key_id_named("child"))
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, [loop, straight]) as (observer, _):
            await wait_for(lambda: replica.height == chain.height)
            assert not loop.asked
            assert [entry["key_id"] for entry in observer.document()["sources"]] == [straight.key_id.hex()]


async def test_when_a_source_is_gone_another_takes_its_place(tmp_path: Path, chain: Chain) -> None:
    class Mortal(ChainSource):
        gone = trio.Event()

        async def blocks(
            self, start: int, *, bytes_max: int, wait_ms: int, end: int | None = None
        ) -> list[CertifiedBlock]:
            if start > 10:
                raise UnavailableError("node.net.connection_lost", "gone")
            return await super().blocks(start, bytes_max=bytes_max, wait_ms=wait_ms, end=end)

    with open_replica(tmp_path / "data", chain.genesis) as replica:
        peers: list[SourcePeer] = [Mortal("mortal", chain), Mortal("mortal too", chain), ChainSource("immortal", chain)]
        async with following(replica, peers) as (_, metrics):
            await wait_for(lambda: replica.height == chain.height)
            assert 'patchwarden_sync_peers_failed_total{code="node.net.connection_lost"}' in metrics.text()


async def test_who_finds_nobody_says_so_and_is_let_in(tmp_path: Path, chain: Chain, mock_clock: MockClock) -> None:
    """Virtual time: it passes only when nothing happens for a while, so what the disk takes does not count."""
    mock_clock.autojump_threshold = 0.01

    class Merciful(ChainSource):
        async def join(self, wish: object) -> object:  # type: ignore[override]
            joined = await super().join(wish)  # type: ignore[arg-type]
            self.refusal = None if self.wishes[-1].is_stranded else FULL
            return type(joined)(self.refusal, self.head, (), ())

    only = Merciful("only", chain, slots=0)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, [only]):
            while replica.height < chain.height:  # noqa: ASYNC110 - what is waited for has no event
                await trio.sleep(1)
    assert not only.wishes[0].is_stranded


async def test_who_withholds_what_is_known_to_be_certified_is_left(
    tmp_path: Path, chain: Chain, mock_clock: MockClock
) -> None:
    """It says that it is at the height of this node; a checkpoint of somebody else's says that there is more."""
    mock_clock.autojump_threshold = 0.01
    height = chain.height - 3

    class Quiet(ChainSource):
        async def blocks(
            self, start: int, *, bytes_max: int, wait_ms: int, end: int | None = None
        ) -> list[CertifiedBlock]:
            if start > height:
                self.asked.append((start, end))
                await trio.sleep(wait_ms / 1000)
                return []
            return await super().blocks(start, bytes_max=bytes_max, wait_ms=wait_ms, end=end)

        async def join(self, wish: object) -> object:  # type: ignore[override]
            joined = await super().join(wish)  # type: ignore[arg-type]
            return type(joined)(joined.refusal, height, (), ())

    quiet = Quiet("quiet", chain)
    late = ChainSource("late", chain)
    peers: list[SourcePeer] = [quiet]
    known = 0
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, peers, certified=lambda: known) as (observer, metrics):
            while replica.height < height:  # noqa: ASYNC110 - what is waited for has no event
                await trio.sleep(0.1)
            await trio.sleep(3 * LONG_POLL_S)
            assert observer.following == quiet.name, "a quiet chain is nobody's fault"
            known = chain.height
            peers.append(late)
            while replica.height < chain.height:  # noqa: ASYNC110 - what is waited for has no event
                await trio.sleep(1)
            await trio.sleep(2 * LONG_POLL_S)
            assert 'patchwarden_sync_peers_failed_total{code="node.sync.behind"}' in metrics.text()


async def test_keys_of_sources_are_told(tmp_path: Path, chain: Chain) -> None:
    only = ChainSource("only", chain)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica, [only]) as (observer, _):
            assert not observer.is_fed
            assert observer.path == ()
            await wait_for(lambda: replica.height == chain.height)
            await wait_for(lambda: observer.document()["sources"][0]["is_main"])
            assert observer.is_fed
            assert observer.path == (KeyId(only.key_id),)
            assert observer.document()["sources"] == [
                {"key_id": only.key_id.hex(), "address": only.address, "head": BLOCKS, "depth": 1, "is_main": True}
            ]
