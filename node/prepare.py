"""What a start does before the node: repairing a store in which damage was found.

The node itself needs a sound store. So the repair is a short life of its own before it: the store is opened, a small network asks peers for
blocks, the store is made anew, everything is closed, and then the node starts as ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from ledger.genesis import Genesis, decode_genesis_untrusted
from ledger.state import StateView
from node.config import Home, NodeConfig
from node.errors import StorageError, find_leaves
from node.keystore import load_key
from node.net.address import key_id_of, parse_address_untrusted, with_peer_id_untrusted
from node.net.network import Network
from node.storage.leveldb import Store, needs_repair
from node.storage.rebuild import Rebuild
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

    Raises:
        CorruptionError: As for `repair_if_asked`.
        RejectedError: Key, founding document or directory are refused.
    """
    if needs_repair(home.data):
        await repair_if_asked(home, config, load_key(home.node_key), decode_genesis_untrusted(read_genesis(home)))


async def repair_if_asked(home: Home, config: NodeConfig, key: PrivateKey, genesis: Genesis) -> None:
    """Make the store at `home` anew if damage was found in it; otherwise do nothing.

    Raises:
        StorageError: It cannot be repaired; the message names the row that is lost.
        StorageFailedError: ``node.storage.write_failed``.
        StorageRefusedError: ``node.storage.*``: the directory is not ours to open.
    """
    if not needs_repair(home.data):
        return
    store = open_store(home, config, key, genesis)
    try:
        await _repair(store, config, key, genesis)
    finally:
        store.close()


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
    if findings:
        async with peers_beside(_known_addresses(store, config, genesis, key.public_key.key_id), key) as peers:
            rebuild = Rebuild(
                store, genesis, votes=config.role == "validator", fetch=_Fetcher(peers).fetch, report=_report
            )
            height = await trio.to_thread.run_sync(rebuild.run)
        _log.warning("the store was made anew", findings=len(findings), height=height)
    await trio.to_thread.run_sync(store.repair_done)


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
        _log.warning("the validators are damaged too; the founding ones are asked")
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
