"""One node, put together: store, ledger, network, consensus or observer, agent, local socket, gateway. And its orderly end.

::

    run_node ─┬─ network          libp2p; the only door to peers
              ├─ validator        or observer: what the next block is
              ├─ agent            on a host
              ├─ local server     the Unix socket
              ├─ gateway          a child process with HTTP
              └─ signals          SIGTERM and SIGINT begin the stop

The first of them that fails ends the node; the others are cancelled, the network and the store are closed in this order, and what the
node says of itself (`run.json`, the socket) is gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from consensus.config import Role
from ledger.checkpoint import SplitView
from ledger.configuration import Validator as LedgerValidator
from ledger.configuration_history import build_configuration_proof, newest_configuration_height
from ledger.genesis import Genesis, decode_genesis_untrusted, genesis_block
from ledger.mempool import Mempool
from ledger.records import REMOVED
from ledger.state import StateView
from ledger.trust import TrustedHead
from node import clock, documents
from node.checkpoint_watch import CheckpointWatch
from node.config import Home, NodeConfig
from node.cose_receipts import CoseReceiptMaker
from node.distribution.files import PatchFiles
from node.errors import StorageError
from node.evidence import put_on_record
from node.keystore import load_key, write_secret
from node.local.server import LocalServer
from node.machine import spare_collector
from node.membership import known_nodes
from node.net.address import key_id_of, parse_address_untrusted, with_peer_id_untrusted
from node.net.network import LinkChange, Network
from node.observer import Observer
from node.patch_store import PatchStore
from node.prepare import note_damage, open_store, prepare, read_genesis
from node.relaying import Relaying
from node.replica import LedgerReplica
from node.services import Services
from node.snapshots import SnapshotClient
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store, needs_repair
from node.submission import Submitted, Submitter
from node.supervisor import Gateway, bind_http, rpc_url
from node.sync import PeerLedger, SyncServer
from node.telemetry import Metrics
from node.upkeep import Upkeep
from node.validator import Validator
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest
from wire.keys import KeyId, PrivateKey

DRAIN_TIMEOUT_S: Final = 2.0
"""How long a stop waits for what was submitted to be answered."""
ANSWER_S: Final = 0.05
"""How long the last answers may take to leave."""
READY_AGE_MAX_MS: Final = 60_000
"""A node whose last block is older than this is not ready, leader or not."""
LINEARIZABLE_TIMEOUT_S: Final = 3.0
"""How long a linearizable read waits for a leader's confirmation."""
TOKEN_BYTES: Final = 32
CONNECTING_ROLES: Final = frozenset({"host", "auditor"})
"""Identities with one of these roles may connect with their key, besides the validators."""

VERSION: Final = "0.1.0"

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from node.agent_service import AgentService

_log = structlog.get_logger("node.app")


class Node:
    """A running node. Made by `open_node`, run by `run_node`."""

    def __init__(
        self,
        *,
        home: Home,
        config: NodeConfig,
        key: PrivateKey,
        genesis: Genesis,
        genesis_raw: bytes,
        store: Store,
        blocks: BlockStore,
        listener: socket.socket | None,
    ) -> None:
        self.home = home
        self.config = config
        self.genesis = genesis
        self.genesis_raw = genesis_raw
        self.metrics = Metrics()
        self.replica = LedgerReplica(blocks, clock.now_ms)
        self.mempool = Mempool(transactions_max=config.mempool_transactions_max, bytes_max=config.mempool_bytes_max)
        self.patch_store = PatchStore(
            home.patches,
            random_suffix=lambda: clock.random_bytes(8).hex(),
            bytes_max=config.patch_store_bytes_max,
        )
        self.started_ms = clock.now_ms()
        self.multiaddr = ""
        self.gateway = None if listener is None else Gateway(home, listener)
        self._listener = listener
        self._store = store
        self._key = key
        self._stop = trio.Event()
        self.validator: Validator | None = None
        self.observer: Observer | None = None
        self.network = Network(
            seed=key.seed,
            listen=config.listen,
            is_member=self._is_member,
            on_consensus=self._on_consensus,
            on_link=self._on_link,
        )
        self.relaying = Relaying(self)
        sync = SyncServer(self, self.relaying.server)
        sync.register(self.network)
        self.patches = PatchFiles(self)
        self.snapshots = SnapshotClient(store, genesis, self.relaying.peers)
        if config.role == "host" or (config.peers and self._is_new()):
            self.observer = Observer(
                self.replica,
                self.peer_ledgers,
                self.metrics,
                self.snapshots,
                votes=config.role == "validator",
                surroundings=self.relaying.surroundings(key.public_key.key_id),
            )
        else:
            self.validator = self._make_validator()
        self.submitter = Submitter(
            self.replica,
            self.mempool,
            is_leader=self._leads,
            forward=self._forward,
            mempool_grew=lambda: None if self.validator is None else self.validator.mempool_grew(),
            awaited_elsewhere=lambda: None if self.validator is None else self.validator.note_awaited_elsewhere(),
            why_waiting=lambda tx_id: None if self.validator is None else self.validator.why_waiting(tx_id),
            wait_current=self.wait_linearizable,
        )
        self.agent = _open_agent(self, key) if config.role == "host" else None
        self.genesis_block_raw = genesis_block(genesis)[0].raw
        self.upkeep = Upkeep(self, sync)
        self._recoveries: tuple[int | None, list[int]] = (None, [])
        self.receipts = CoseReceiptMaker(self, key)
        self.receipts.register()
        self.checkpoints = CheckpointWatch(
            self.replica,
            TrustedHead.founding(genesis),
            home.checkpoints,
            peers=self.relaying.peers_to_compare,
            report=self._report_split_view,
            is_lost=self._hears_no_leader,
            on_ahead=self._checkpoint_ahead,
        )

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until a signal, `request_stop`, or the first part that fails."""
        # Before anybody can ask the agent for anything: what was found before this start still holds.
        await trio.to_thread.run_sync(self.checkpoints.load)
        async with trio.open_nursery() as nursery:
            self.multiaddr = await nursery.start(self.network.run)
            if self.validator is not None:
                self._link_validators()
                await nursery.start(self.validator.run)
            elif self.config.role == "validator":
                nursery.start_soon(self._join, nursery)
            elif self.observer is not None:
                nursery.start_soon(self.observer.run)
            nursery.start_soon(self.submitter.run)
            if self.validator is None:
                nursery.start_soon(self._watch_proposer)
            await nursery.start(LocalServer(self.home.socket, Services(self).methods()).run)
            if self.gateway is not None:
                nursery.start_soon(self.gateway.run)
            if self.agent is not None:
                nursery.start_soon(self.agent.run)
            nursery.start_soon(self.upkeep.run)
            nursery.start_soon(self.patches.keeper.run)
            nursery.start_soon(self.checkpoints.run)
            self._write_run_file()
            _log.info("node started", name=self.config.name, role=self.config.role, address=self.multiaddr)
            task_status.started()
            await self._stop.wait()
            _log.info("node stopping", name=self.config.name)
            await self._drain()
            nursery.cancel_scope.cancel()

    def _make_validator(self) -> Validator:
        return Validator(
            replica=self.replica,
            config=self.config,
            key=self._key,
            mempool=self.mempool,
            send=self.network.send,
            entropy=clock.entropy,
            metrics=self.metrics,
            on_configuration=self._link_validators,
            snapshots=self.snapshots,
            on_leader=self._on_leader,
        )

    def _is_new(self) -> bool:
        """Whether this node's replica does not say yet that it takes part in consensus."""
        return self._key.public_key.key_id not in self._nodes()

    async def _join(self, nursery: trio.Nursery) -> None:
        """Follow certified blocks from the configured peers until they say that this node takes part; then take part.

        The founding document may name nobody who is still there: the peers of a new node come from its operator.
        """
        assert self.observer is not None
        _log.info("follows until the ledger names this node", name=self.config.name)
        async with trio.open_nursery() as watching:
            watching.start_soon(self.observer.run)
            while self._is_new():
                await self.replica.wait_above(self.replica.height)
            watching.cancel_scope.cancel()
        self.observer = None
        self.validator = self._make_validator()
        self._link_validators()
        await nursery.start(self.validator.run)
        _log.info("takes part in consensus", name=self.config.name, height=self.replica.height)

    def request_stop(self) -> None:
        """Begin a graceful stop."""
        self._stop.set()

    async def _drain(self) -> None:
        """Take no more, let another node lead, and give what is under way a moment to be answered."""
        self.submitter.open = False
        # A successor that is asked takes over within a round trip; one that has to miss us first needs an election time-out.
        if self.validator is not None and not await self.validator.transfer_leadership():
            _log.info("nobody took the leadership", name=self.config.name)
        with trio.move_on_after(DRAIN_TIMEOUT_S):
            await self.submitter.hand_on()
            while len(self.mempool) and self._leads():
                await self.replica.wait_above(self.replica.height)
            await self.submitter.drain()
            await trio.sleep(ANSWER_S)

    async def _watch_proposer(self) -> None:
        """Tell the submitter when another node leads, for as long as this one learns of it from its blocks only."""
        while self.validator is None:
            proposer = self.replica.latest_view().header.proposer
            await self.replica.wait_above(self.replica.height)
            if self.replica.latest_view().header.proposer != proposer:
                self.submitter.leader_changed()

    def _leads(self) -> bool:
        return self.validator is not None and self.validator.is_leader

    def close(self) -> None:
        """Remove what says that this node runs, and close agent and store."""
        if self.agent is not None:
            self.agent.close()
        self.home.run.unlink(missing_ok=True)
        if self._listener is not None:
            self._listener.close()
        self._store.close()

    def note_damage(self, error: BaseException) -> None:
        """Let the next start repair the store, if `error` is about a row of it."""
        note_damage(self._store, error)

    def _write_run_file(self) -> None:
        document = {
            "name": self.config.name,
            "role": self.config.role,
            "pid": os.getpid(),
            "rpc": None if self._listener is None else rpc_url(self._listener),
            "multiaddr": self.multiaddr,
            "started_ms": self.started_ms,
        }
        part = self.home.run.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        part.replace(self.home.run)

    # -- peers -----------------------------------------------------------------------------------------------------

    def _is_member(self, raw_key: bytes) -> bool:
        """Whether the ledger names this Ed25519 key: a validator's, or a valid one of an active host or auditor."""
        try:
            key_id = key_id_of(raw_key)
        except RejectedError:
            return False
        if key_id in self._linked_nodes():
            return True
        view = self.replica.latest_view()
        key = view.key(key_id)
        if key is None or not key.is_valid_at(view.height):
            return False
        identity = view.identity(key.identity_id)
        if identity is None or not identity.is_active or view.organisation_status(identity.organisation) == REMOVED:
            return False
        return not CONNECTING_ROLES.isdisjoint(identity.roles_at(view.header.time_ms))

    def _on_consensus(self, peer: KeyId, payloads: list[bytes]) -> None:
        if self.validator is not None:
            self.validator.receive(peer, payloads)

    def _on_link(self, peer: KeyId, change: LinkChange) -> None:
        if self.validator is not None:
            self.validator.link_changed(peer, is_up=change is LinkChange.UP, is_closed=change is LinkChange.CLOSED)

    def _on_leader(self) -> None:
        self.submitter.leader_changed()

    def _nodes(self) -> dict[KeyId, LedgerValidator]:
        """Return every validator and learner that the committed ledger, or a block above it, names."""
        return known_nodes(
            self.replica.latest_view().configuration(), StateView(self.replica.chain.tip()).configuration()
        )

    def _linked_nodes(self) -> dict[KeyId, LedgerValidator]:
        """Return those with whom this node talks about consensus: also whom the ledger does not name yet, but a higher certified header."""
        ahead = self.checkpoints.configuration_ahead
        return self._nodes() if ahead is None else known_nodes(ahead) | self._nodes()

    def _hears_no_leader(self) -> bool:
        return self.validator is not None and self.validator.status.leader is None

    def _checkpoint_ahead(self) -> None:
        if self.validator is not None:
            self._link_validators()

    def _link_validators(self) -> None:
        """Keep consensus links to exactly the nodes that take part now."""
        own = self._key.public_key.key_id
        # A node that is new does not stand in its own replica yet: it learns of itself from those whom it knows.
        retired = self.replica.latest_view().retired_validator(own) is not None
        nodes = {} if retired and own not in self._nodes() else self._linked_nodes()
        self.network.set_links(
            {node.key_id: (node.public_key.raw, node.address) for node in nodes.values() if node.key_id != own}
        )

    def peer_addresses(self) -> dict[KeyId, str]:
        """Return where this node may ask for blocks and files: its configured peers, then the ledger's validators."""
        own = self._key.public_key.key_id
        addresses: dict[KeyId, str] = {}
        for text in self.config.peers:
            raw_key = parse_address_untrusted(text).raw_key
            if raw_key is not None:
                addresses[key_id_of(raw_key)] = text
        for validator in self.replica.latest_view().validators().validators:
            addresses.setdefault(validator.key_id, with_peer_id_untrusted(validator.address, validator.public_key.raw))
        addresses.pop(own, None)
        return addresses

    def peer_ledgers(self) -> list[PeerLedger]:
        """Return ways to ask every node of `peer_addresses`."""
        return [PeerLedger(self.network, key_id, address) for key_id, address in self.peer_addresses().items()]

    async def _forward(self, raws: Sequence[bytes], timeout_s: float) -> list[Submitted]:
        """Pass transactions on to the leader; a node that does not know the leader asks the validators in turn."""
        candidates = self.peer_addresses()
        if self.validator is not None:
            leader = self.validator.status.leader
            if leader is None or leader not in candidates:
                raise UnavailableError("node.no_leader", "no leader is known", hint="retry in a moment")
            candidates = {leader: candidates[leader]}
        last: UnavailableError | None = None
        for key_id, address in candidates.items():
            try:
                return await PeerLedger(self.network, key_id, address).submit(
                    raws, relay=self.validator is None, timeout_s=timeout_s
                )
            except UnavailableError as error:
                last = error
        raise last or UnavailableError("node.no_peer", "no peer is configured")

    async def _report_split_view(self, split: SplitView) -> bool:
        return await put_on_record(self, self._key, split)

    async def transfer_leadership(self, to: str | None) -> dict[str, Any]:
        """Hand leadership to the validator named `to`, or to whoever is furthest.

        Raises:
            RejectedError: This node does not lead (`node.transfer.not_leader`), or knows no such validator (`node.transfer.unknown`).
            UnavailableError: Nobody took it in time (`node.transfer.failed`); this node leads on.
        """
        if self.validator is None or not self.validator.is_leader:
            raise RejectedError("node.transfer.not_leader", "this node does not lead", hint="ask the leader")
        key_id = None
        if to is not None:
            validators = self.replica.latest_view().validators().validators
            key_id = next((each.key_id for each in validators if each.name == to), None)
            if key_id is None or key_id == self._key.public_key.key_id:
                raise RejectedError("node.transfer.unknown", "there is no such other validator", actual=to)
        begin_ms = clock.monotonic_ms()
        if not await self.validator.transfer_leadership(key_id):
            raise UnavailableError(
                "node.transfer.failed", "nobody took the leadership in time", hint="retry in a moment"
            )
        return {"transferred": True, "took_ms": clock.monotonic_ms() - begin_ms}

    async def wait_linearizable(self) -> None:
        """Return when this replica holds everything that was committed anywhere before the call.

        Raises:
            UnavailableError: No leader confirmed it in time (`node.read.unconfirmed`, `node.read.timeout`).
            RejectedError: This node is no validator (`node.read.not_a_validator`).
        """
        if self.validator is None:
            raise RejectedError(
                "node.read.not_a_validator",
                "only validators answer linearizable reads",
                hint="ask a validator, or ask this node for consistency=local",
            )
        with trio.move_on_after(LINEARIZABLE_TIMEOUT_S):
            height = await self.validator.read_index()
            await self.replica.wait_above(height - 1)
            return
        raise UnavailableError("node.read.timeout", "no leader confirmed that this replica is current in time")

    # -- documents -------------------------------------------------------------------------------------------------

    def status_document(self) -> dict[str, Any]:
        """Return what this node is and where it stands."""
        view = self.replica.latest_view()
        tip = view.tip
        header = tip.header
        role, term, leader = "observer", header.term, header.proposer
        last_height = header.height
        if self.validator is not None:
            status = self.validator.status
            role, term, last_height = self._role(), status.term, status.last_height
            leader = status.leader or KeyId(Digest(b""))
        return {
            "name": self.config.name,
            "chain_id": self.replica.chain_id,
            "role": role,
            "removed": view.retired_validator(self._key.public_key.key_id) is not None,
            "term": term,
            "leader": self._validator_name(view, leader),
            "height": header.height,
            "block_hash": tip.block_hash.hex(),
            "state_root": header.state_root.hex(),
            "log_size": header.log_size,
            "last_height": last_height,
            "time_ms": header.time_ms,
            "replica_age_ms": self.replica.replica_age_ms(),
            "policy_hash": header.policy_hash.hex(),
            "node_key_id": self._key.public_key.key_id.hex(),
            "identity": self.config.identity,
            "multiaddr": self.multiaddr,
            "mempool": len(self.mempool),
            "peers_connected": sum(1 for peer in self.network.peers() if peer.connected),
            "following": None if self.observer is None else self.observer.following,
            **self.relaying.document(),
            "patches": self.patches.document(),
            "storage": self.upkeep.document(),
            "certificates": self.upkeep.expiry.document(),
            "checkpoint_height": None if self.checkpoints.highest is None else self.checkpoints.highest.height,
            "split_views": len(self.checkpoints.splits),
            "recovered_at": self._recovered_at(),
            "gateway_restarts": 0 if self.gateway is None else self.gateway.restarts,
            "pid": os.getpid(),
            "version": VERSION,
        }

    def _recovered_at(self) -> list[int]:
        """Return the heights at which the organisations went on without a majority of the validators."""
        store = self.replica.store
        changed = newest_configuration_height(store)
        if changed != self._recoveries[0]:
            proof = build_configuration_proof(store, self.replica.height)
            self._recoveries = (changed, [each.since for each in proof.recoveries])
        return self._recoveries[1]

    def _role(self) -> str:
        """Return what a validator's node is now, in the words of the interface."""
        assert self.validator is not None
        status = self.validator.status
        own = self._key.public_key.key_id
        if self.validator.removed.is_set():
            return "observer"
        if own in status.configuration.learner_ids:
            return "learner"
        return "candidate" if status.role is Role.PRECANDIDATE else str(status.role)

    def member_documents(self) -> list[dict[str, Any]]:
        """Return everybody whom the configuration names, and as its leader how far each is."""
        configuration = self.replica.latest_view().configuration()
        progress = {} if self.validator is None else self.validator.status.progress
        answer = []
        for key_id, node in sorted(known_nodes(configuration).items(), key=lambda item: item[1].name):
            if configuration.incoming is not None and configuration.incoming.find(key_id) is not None:
                membership = "voter" if configuration.voters.find(key_id) is not None else "incoming"
            elif configuration.voters.find(key_id) is not None:
                membership = "voter" if configuration.incoming is None else "outgoing"
            else:
                membership = "learner" if configuration.learners.find(key_id) is not None else "leaving"
            peer = progress.get(key_id)
            answer.append(
                {
                    **documents.validator_document(node),
                    "membership": membership,
                    "match_height": None if peer is None else peer.match_height,
                }
            )
        return answer

    @staticmethod
    def _validator_name(view: StateView, key_id: KeyId) -> str | None:
        return next((v.name for v in view.validators().validators if v.key_id == key_id), None)

    def peer_documents(self) -> list[dict[str, Any]]:
        """Return the peers this node knows."""
        view = self.replica.latest_view()
        answer = []
        for peer in self.network.peers():
            key = view.key(peer.key_id)
            name = self._validator_name(view, peer.key_id) or (None if key is None else key.identity_id)
            answer.append(
                {
                    "name": name,
                    "key_id": peer.key_id.hex(),
                    "address": peer.address,
                    "connected": peer.connected,
                    "rtt_ms": None if peer.rtt_ms is None else round(peer.rtt_ms, 3),
                }
            )
        return answer

    def readiness_document(self) -> dict[str, Any]:
        """Return that this node can serve.

        Raises:
            UnavailableError: It knows no leader, or its last block is old (`node.not_ready`).
        """
        age_ms = self.replica.replica_age_ms()
        if self.validator is not None and self.validator.status.leader is None:
            raise UnavailableError("node.not_ready", "this validator knows no leader")
        if age_ms > READY_AGE_MAX_MS:
            raise UnavailableError("node.not_ready", "the last block is old", actual=f"{age_ms} ms")
        return {"ready": True, "height": self.replica.height, "replica_age_ms": age_ms}

    def metrics_text(self) -> str:
        """Return the metrics in Prometheus' text form."""
        self.metrics.split_views.set(len(self.checkpoints.splits))
        self.metrics.checkpoints_compared.set(self.checkpoints.compared)
        self.metrics.strangers_refused.set(self.network.strangers_refused)
        self.upkeep.observe()
        self.relaying.observe()
        self.patches.observe()
        self.metrics.observe_node(
            height=self.replica.height,
            replica_age_ms=self.replica.replica_age_ms(),
            mempool=len(self.mempool),
            peers_connected=sum(1 for peer in self.network.peers() if peer.connected),
            is_leader=self.validator is not None and self.validator.is_leader,
            term=self.replica.latest_view().header.term if self.validator is None else self.validator.status.term,
        )
        return self.metrics.text()

    def agent_methods(self) -> dict[str, Any]:
        """Return the agent's methods; on a validator there is no agent to ask."""
        return {} if self.agent is None else self.agent.methods()


def _open_agent(node: Node, key: PrivateKey) -> AgentService:
    from node.agent_service import AgentService  # A validator needs neither the policy engine nor its 20 MB.

    return AgentService.open(node, key)


def open_node(home: Home, config: NodeConfig) -> Node:
    """Return the node at `home`, with its store open and nothing running.

    Raises:
        RejectedError: The key, the founding document or an address is refused.
        UnavailableError: The HTTP port is taken.
        CorruptionError: The store is damaged.
    """
    key = load_key(home.node_key)
    genesis_raw = read_genesis(home)
    genesis = decode_genesis_untrusted(genesis_raw)
    block, writes = genesis_block(genesis)
    listener = bind_http(config.rpc_listen) if config.gateway else None
    try:
        store = open_store(home, config, key, genesis)
        try:
            _ensure_token(home.token)
            return Node(
                home=home,
                config=config,
                key=key,
                genesis=genesis,
                genesis_raw=genesis_raw,
                store=store,
                blocks=BlockStore.bootstrap(store, block.block_hash, writes),
                listener=listener,
            )
        except BaseException as error:
            note_damage(store, error)
            store.close()
            raise
    except BaseException:
        if listener is not None:
            listener.close()
        raise


@asynccontextmanager
async def running_node(home: Home, config: NodeConfig) -> AsyncIterator[Node]:
    """Run a node beside the body; it is stopped in order when the body ends."""
    node = await _open_prepared(home, config)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            try:
                yield node
            finally:
                node.request_stop()
    finally:
        node.close()


async def run_node(home: Home, config: NodeConfig) -> None:
    """Run the node at `home` until SIGTERM or SIGINT; a store in which damage was found is repaired before."""
    node = await _open_prepared(home, config)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, node)
            async with trio.open_nursery() as running:
                await running.start(node.run)
                spare_collector()
            nursery.cancel_scope.cancel()
    except BaseException as error:
        node.note_damage(error)
        raise
    finally:
        node.close()


async def _open_prepared(home: Home, config: NodeConfig) -> Node:
    await prepare(home, config)
    try:
        return open_node(home, config)
    except StorageError:
        if not needs_repair(home.data):
            raise
        await prepare(home, config)
        return open_node(home, config)


async def _stop_on_signal(node: Node) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            node.request_stop()


def _ensure_token(path: Path) -> None:
    """Make the bearer token for local operations over HTTP once; only the node's own user can read it."""
    if not path.exists():
        write_secret(path, (clock.random_bytes(TOKEN_BYTES).hex() + "\n").encode("ascii"))
