"""What a start does before the node: repairing a store in which damage was found, or beginning a new one from a snapshot.

The node itself needs a sound store. So this is a short life of its own before it: the store is opened, a small network asks peers for
blocks or for a snapshot, the store is made, everything is closed, and then the node starts as ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from consensus.effects import HardState
from ledger.genesis import Genesis, decode_genesis_untrusted, genesis_block
from ledger.keyspace import Table
from ledger.state import StateView
from node.config import Home, NodeConfig
from node.errors import SnapshotUnavailableError, StorageError, find_leaves
from node.keystore import load_key
from node.machine import REAL_MACHINE, Machine
from node.net.address import key_id_of, parse_address_untrusted, with_peer_id_untrusted
from node.net.network import Network
from node.snapshots import Demand, SnapshotClient, at_least, install_offline
from node.storage.block_store import read_first_height
from node.storage.leveldb import Store, needs_repair
from node.storage.rebuild import Fetch, Rebuild, read_promises
from node.storage.tables import ONLY_KEY, TABLE_LOG_ENTRY, TABLE_LOG_TIP
from node.storage.verify import StoreFinding, verify_store
from node.sync import PeerLedger
from wire.errors import CorruptionError, RejectedError, UnavailableError
from wire.keys import KeyId, PrivateKey

if TYPE_CHECKING:
    from node.sync import CertifiedBlock

GENESIS_BYTES_MAX: Final = 8 * 1024 * 1024
"""A founding document with its policies."""
ROUNDS: Final = 5
"""How often all peers are asked for a block before the start gives up."""
ROUND_PAUSE_S: Final = 2.0
FINDINGS_LOGGED_MAX: Final = 100

REPAIRABLE: Final = frozenset(
    {"node.storage.checksum", "node.storage.damaged", "node.storage.missing_row", "node.storage.unreadable"}
)
"""Codes of errors about single rows."""

_log = structlog.get_logger("node.prepare")


async def prepare(home: Home, config: NodeConfig) -> None:
    """Bring the store at `home` into a state in which the node can use it; most often there is nothing to do.

    A store in which damage was found is made anew. A new one begins from a peer's snapshot if the settings say so, unless this is a
    founding validator: it was there from the first block on.

    Raises:
        StorageError: Damage that cannot be repaired; the message names the row that is lost.
        StorageFailedError: ``node.storage.write_failed``.
        RejectedError: Key, founding document or directory are refused.
        UnavailableError: ``node.snapshot.*``: a new node is to begin from a snapshot, and no peer gives one.
    """
    if not needs_repair(home.data) and config.bootstrap == "replay":
        return
    key = load_key(home.node_key)
    genesis = decode_genesis_untrusted(read_genesis(home))
    store = open_store(home, config, key, genesis)
    try:
        if store.needs_repair:
            await _repair(store, config, key, genesis)
        if config.bootstrap == "snapshot" and _is_new(store) and genesis.validators.find(key.public_key.key_id) is None:
            await _begin_from_snapshot(store, config, key, genesis)
    finally:
        store.close()


def _is_new(store: Store) -> bool:
    """Return whether the node has not a single block yet, not even the founding one."""
    return store.get(TABLE_LOG_TIP, ONLY_KEY) is None


async def _begin_from_snapshot(store: Store, config: NodeConfig, key: PrivateKey, genesis: Genesis) -> None:
    _log.info("a snapshot is fetched to begin from", path=str(store.path))
    async with peers_beside(_known_addresses(store, config, genesis, key.public_key.key_id), key) as peers:
        filled = await SnapshotClient(store, genesis, lambda: peers).fetch(at_least(1))
    # The snapshot may name this node: then it starts as a voter, whose log must not be ahead of its term.
    await trio.to_thread.run_sync(install_offline, store, filled, HardState() if config.role == "validator" else None)
    _log.info("begins from a snapshot", height=filled.height, block_hash=filled.block_hash.hex())


def read_genesis(home: Home) -> bytes:
    """Return the founding document as it lies in `home`.

    Raises:
        RejectedError: ``node.genesis.unreadable``, ``node.genesis.too_large``.
    """
    try:
        with home.genesis.open("rb") as file:
            data = file.read(GENESIS_BYTES_MAX + 1)
    except OSError as error:
        raise RejectedError(
            "node.genesis.unreadable", f"the founding document {home.genesis} cannot be read: {error.strerror}"
        ) from error
    if len(data) > GENESIS_BYTES_MAX:
        raise RejectedError("node.genesis.too_large", "the founding document is too large", expected=GENESIS_BYTES_MAX)
    return data


def open_store(home: Home, config: NodeConfig, key: PrivateKey, genesis: Genesis) -> Store:
    """Return the store of the node at `home`, open.

    Raises:
        CorruptionError: ``node.storage.*``.
        StorageRefusedError: ``node.storage.*``.
    """
    return Store.open(
        home.data,
        chain_id=genesis.chain_id,
        node_key_id=key.public_key.key_id,
        # A validator that lost its log must not vote as if it remembered; a host only reads it all again.
        incarnation_file=home.incarnation if config.role == "validator" else None,
    )


async def _repair(store: Store, config: NodeConfig, key: PrivateKey, genesis: Genesis) -> None:
    _log.warning("the store is read before the start, because damage was found in it", path=str(store.path))
    findings = await trio.to_thread.run_sync(_read_all, store)
    for finding in findings[:FINDINGS_LOGGED_MAX]:
        _log.error("damaged row", code=finding.code, message=finding.message)
    async with peers_beside(_known_addresses(store, config, genesis, key.public_key.key_id), key) as peers:
        try:
            height = await make_anew(store, genesis, peers, votes=config.role == "validator")
        except StorageError as error:
            if findings:
                raise
            # Every row holds; what LevelDB met lies between them. The node can run, and the next start tries again.
            _log.warning("the store could not be made anew yet", code=error.code, reason=error.message)
        else:
            _log.warning("the store was made anew", findings=len(findings), height=height)
            await trio.to_thread.run_sync(store.repair_done)


async def make_anew(
    store: Store,
    genesis: Genesis,
    peers: Sequence[PeerLedger],
    *,
    votes: bool,
    client: SnapshotClient | None = None,
    fetch: Fetch | None = None,
    machine: Machine = REAL_MACHINE,
) -> int:
    """Make the store anew from blocks, or from a snapshot where blocks are not kept any more; return its height.

    Args:
        store: The damaged store, open and used by nobody.
        genesis: The founding document.
        peers: Whom to ask.
        votes: Whether this node's votes and acknowledgements count, so that it must not forget any.
        client: Fetches a snapshot for `store`; by default from `peers`.
        fetch: How a thread gets blocks; by default from `peers`.
        machine: Time and threads.
    """
    lost: StorageError | None = None
    if not _is_pruned(store):
        rebuild = Rebuild(store, genesis, votes=votes, fetch=fetch or _Fetcher(peers).fetch, report=_report)
        try:
            return await machine.in_thread(rebuild.run)
        except StorageError as error:
            if error.details.get("table") not in (Table.BLOCK, TABLE_LOG_ENTRY):
                raise
            lost = error
    promises = read_promises(store, genesis_block(genesis)[0].block_hash, votes=votes)
    height_min = max(1, promises.last_height)
    # What this node has acknowledged in a later term may count: it must not come back with less (docs/spec/consensus.md 6.3).
    term_min = promises.last_term if votes else 0
    demand = Demand(lambda: height_min, lambda manifest: manifest.header.term >= term_min)
    try:
        filled = await (client or SnapshotClient(store, genesis, lambda: peers, machine)).fetch(demand)
    except SnapshotUnavailableError as error:
        raise lost or StorageError(
            "node.storage.damaged",
            f"the store is damaged, it does not hold the whole history, and no snapshot can be had: {error.message}",
            hint="start the node again when its peers have a later snapshot",
            expected=f"a snapshot at height {height_min} or above, of term {term_min} or later",
        ) from error
    await machine.in_thread(install_offline, store, filled, promises.hard_state)
    return filled.height


def _is_pruned(store: Store) -> bool:
    try:
        return read_first_height(store) > 1
    except StorageError:
        return False


def _read_all(store: Store) -> list[StoreFinding]:
    return [found for found in verify_store(store) if isinstance(found, StoreFinding)]


def _report(height: int, end: int) -> None:
    _log.info("making the store anew", height=height, of=end)


@asynccontextmanager
async def peers_beside(addresses: dict[KeyId, str], key: PrivateKey) -> AsyncIterator[list[PeerLedger]]:
    """Give ways to ask the nodes at `addresses`, over a network that serves nobody, beside the body."""
    network = Network(
        seed=key.seed,
        listen="/ip4/127.0.0.1/tcp/0",
        is_member=lambda raw_key: _key_id(raw_key) in addresses,
        on_consensus=lambda _peer, _payloads: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield [PeerLedger(network, key_id, address) for key_id, address in addresses.items()]
        nursery.cancel_scope.cancel()


def _key_id(raw_key: bytes) -> KeyId | None:
    try:
        return key_id_of(raw_key)
    except RejectedError:
        return None


def _known_addresses(store: Store, config: NodeConfig, genesis: Genesis, own: KeyId) -> dict[KeyId, str]:
    """Return whom to ask: the configured peers, the validators as far as this store still knows them, the founding ones."""
    addresses: dict[KeyId, str] = {}
    for text in config.peers:
        raw_key = parse_address_untrusted(text).raw_key
        if raw_key is not None:
            addresses[key_id_of(raw_key)] = text
    validators = list(genesis.validators)
    try:
        validators = [*StateView(store).configuration().nodes, *validators]
    except CorruptionError:
        _log.info("the validators cannot be read here; the founding ones are asked")
    for validator in validators:
        addresses.setdefault(validator.key_id, with_peer_id_untrusted(validator.address, validator.public_key.raw))
    addresses.pop(own, None)
    return addresses


class _Fetcher:
    """Lets a thread ask peers, one after the other and again."""

    def __init__(self, peers: Sequence[PeerLedger]) -> None:
        self._peers = peers
        self._token = trio.lowlevel.current_trio_token()

    def fetch(self, height: int) -> Iterator[list[CertifiedBlock]]:
        """Yield what each peer has from `height` on, up to a certified block; peers that do not answer are asked again later."""
        for number in range(ROUNDS):
            if number:
                trio.from_thread.run(trio.sleep, ROUND_PAUSE_S, trio_token=self._token)
            for peer in self._peers:
                answer = trio.from_thread.run(self._ask, peer, height, trio_token=self._token)
                if answer:
                    yield answer

    @staticmethod
    async def _ask(peer: PeerLedger, height: int) -> list[CertifiedBlock]:
        try:
            return await peer.blocks(height, bytes_max=1, wait_ms=0)
        except (UnavailableError, RejectedError) as error:
            _log.info("peer could not help to repair", peer=peer.name, code=error.code)
            return []


def note_damage(store: Store, error: BaseException) -> None:
    """Let the next start repair the store if `error`, or what it groups, is about a row of it."""
    rows = [
        leaf.message
        for leaf in find_leaves(error)
        if isinstance(leaf, StorageError) and leaf.code in REPAIRABLE and "table" in leaf.details
    ]
    if rows:
        store.ask_for_repair(rows)
