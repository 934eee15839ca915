"""Who sees everything, and what must hold after every event.

==========================  ====================================================================================================
what                        where it is asked
==========================  ====================================================================================================
election safety             at each election: one leader a term, elected by a sound certificate
leader completeness         at each election: the new leader has everything that was ever certified in an earlier term
log matching                at each write: one block for a term and height; what is linked has the same ancestors
state-machine safety        at each commit: one block a height, once a node, in order; the same changes of the same rows
commit certificates         at each certificate: signatures hold, and a majority had the block on disk
durability before promises  at each message: votes, terms, candidacies and acknowledgements are on the sender's disk
memory across restarts      at each start: term, vote, acknowledged blocks and committed height are still there
changes of members          at each block: from one configuration to the next in two steps; at each election and certificate: decided
                            under the configuration of the very block, joint ones by both majorities, by nobody else's signatures;
                            who is no voter neither signs nor stands; who leaves says so
nothing lost or doubled     at each commit and at the end: every acknowledged transaction once, at its place, on every node
==========================  ====================================================================================================

Source: Raft, figure 3; docs/spec/consensus.md 6 to 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.config import Role, Status
from consensus.effects import Effects, Event, HardState, InstalledSnapshot, Persist
from consensus.messages import Append, AppendReply, Message, NodeId, PreVote, RequestVote, Vote
from ledger.block import decode_block_untrusted
from ledger.configuration import Configuration
from ledger.keyspace import CONFIGURATION_KEY, HISTORY_KEY, IDENTITY, VALIDATORS_KEY, Table, read_height
from ledger.records import IdentityRecord
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import Executed
from node.storage.block_store import BlockStore, read_first_height
from node.storage.verify import StoreFinding, verify_store
from tests.sim.disk import SimStore
from tests.sim.errors import ViolationError
from tests.testkit.ledger import node_key
from tests.testkit.ledger_twins import naive_state_root
from wire.certificate import (
    CommitCertificate,
    ElectionCertificate,
    acknowledgement_message,
    decode_commit_certificate_untrusted,
    vote_message,
)
from wire.codec import encode
from wire.hashing import Digest, sha256
from wire.keys import PublicKey

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

NO_HARD_STATE = HardState()

EXPECTED_ALARMS = frozenset({"consensus.block_refused", "consensus.divergence", "consensus.leader_refused"})
"""Clocks that are wrong make a follower refuse a block for a while that others accept."""


def demand(holds: bool, code: str, message: str) -> None:
    """Raise `ViolationError` unless `holds`."""
    if not holds:
        raise ViolationError(code, message)


@dataclass(slots=True)
class Shadow:
    """What one node's disk is known to hold, and what the node has promised because of it."""

    hard_state: HardState = NO_HARD_STATE
    log: list[tuple[int, Digest]] = field(default_factory=list)
    """Term and hash of each block from height 1 on."""
    commit_height: int = 0
    acknowledged: dict[int, tuple[int, Digest]] = field(default_factory=dict)
    """Height to term and hash of what it signed that no later write replaced."""
    acknowledged_position: tuple[int, int] = (0, 0)
    votes: dict[int, tuple[NodeId, int, int, Digest]] = field(default_factory=dict)
    """For each term what it voted for: candidate, and term, height and hash of the candidate's last block."""
    written_votes: dict[int, tuple[NodeId, int, int, Digest]] = field(default_factory=dict)
    """For each term whom the disk named, and where the log on disk ended at that moment."""

    @property
    def position(self) -> tuple[int, int]:
        return (self.log[-1][0], len(self.log)) if self.log else (0, 0)


@dataclass(frozen=True, slots=True)
class Canonical:
    """What is known of one committed height."""

    block_hash: Digest
    changes: Digest | None
    """Digest of every row that the block changes; None where no process lived to tell."""
    tx_ids: tuple[bytes, ...]


class Oracle:
    """Watches one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chain_id = world.genesis.chain_id
        self._genesis_hash = world.genesis_hash
        self._keys: dict[NodeId, PublicKey] = {
            key.key_id: key for key in (node_key(index + 1).public_key for index in range(world.plan.machines))
        }
        self._configurations: dict[Digest, Configuration] = {
            world.genesis_hash: Configuration(world.genesis.validators)
        }
        """For each block that was ever executed, the configuration after it."""
        self._valid: dict[tuple[NodeId, bytes, bytes], bool] = {}
        self.retired: set[NodeId] = set()
        """Who was a member once and is none by what is committed."""
        self._shadows: dict[NodeId, Shadow] = {}
        self._leaders: dict[int, NodeId] = {}
        self._candidacies: dict[tuple[NodeId, int], tuple[int, int, Digest]] = {}
        self._blocks: dict[tuple[int, int], Digest] = {}
        self._parents: dict[Digest, Digest] = {}
        self._terms: dict[Digest, int] = {world.genesis_hash: 0}
        self._durable_ever: set[tuple[NodeId, Digest]] = set()
        self._certified: dict[int, Digest] = {}
        self._certified_in: dict[int, int] = {}
        """The earliest term in which a certificate for the height was made: every leader of a later one has the block."""
        self._sound: set[bytes] = set()
        self.canonical: list[Canonical] = []
        """The committed chain from height 1 on."""
        self.locations: dict[bytes, tuple[int, int]] = {}
        """Height and index of every committed transaction."""
        self.registers: dict[str, list[tuple[int, str]]] = {}
        """The values that each identity has had, with the heights from which on."""
        self.counts: Counter[str] = Counter()

    def _is_valid(self, signer: NodeId, message: bytes, signature: bytes) -> bool:
        signed = (signer, message, signature)
        known = self._valid.get(signed)
        if known is None:
            known = self._valid[signed] = self._keys[signer].is_valid(message, signature)
        return known

    # Members

    @property
    def configuration(self) -> Configuration:
        """The configuration after the last committed block."""
        return self.configuration_after(self.canonical[-1].block_hash if self.canonical else self._genesis_hash)

    def configuration_after(self, block_hash: Digest) -> Configuration:
        """Return the configuration that the block led to."""
        known = self._configurations.get(block_hash)
        demand(known is not None, "configuration.unknown", f"nobody has executed block {block_hash.hex()[:16]}")
        assert known is not None
        return known

    def note_executed(self, node: SimNode, executed: Executed) -> None:
        """A block was executed: what it makes of the members follows from what its parent made of them."""
        before = self.configuration_after(executed.block.header.previous_hash)
        raw = executed.writes.get((Table.STATE, VALIDATORS_KEY))
        after = before if raw is None else Configuration.decode(raw)
        known = self._configurations.setdefault(executed.block_hash, after)
        demand(
            known == after,
            "configuration.differs",
            f"{node.name} makes other members of block {executed.height} than others",
        )
        if after.is_joint:
            is_step = after.voters == before.voters and (not before.is_joint or after.incoming == before.incoming)
        else:
            is_step = after.voters == (before.incoming or before.voters)
        demand(is_step, "configuration.step", f"block {executed.height} changes the voters in one step")

    def _demand_decision(self, signers: Iterable[NodeId], block_hash: Digest, code: str, what: str) -> None:
        """Demand that these are a majority of each group that decides after the block."""
        present = set(signers)
        for group in self.configuration_after(block_hash).quorums:
            held = len(present & group.keys())
            demand(2 * held > len(group), code, f"{what}, by {held} of {len(group)}")

    def _is_voter(self, node: SimNode, block_hash: Digest) -> bool:
        return any(node.id in group for group in self.configuration_after(block_hash).quorums)

    def note_left(self, node: SimNode) -> None:
        """A process has ended its consensus because it is no member any more."""
        shadow = self.shadow(node)
        tip = shadow.log[shadow.commit_height - 1][1] if shadow.commit_height else self._genesis_hash
        demand(
            self.configuration_after(tip).nodes.find(node.id) is None,
            "configuration.left",
            f"{node.name} ends its consensus and is a member",
        )
        self._world.trace.tell(node.name, f"is no member any more, says so at height {shadow.commit_height}")
        self.counts["left"] += 1

    # Disks

    def shadow(self, node: SimNode) -> Shadow:
        return self._shadows.setdefault(node.id, Shadow())

    def note_opened(self, node: SimNode, blocks: BlockStore) -> None:
        """A process has opened its disk: nothing that was promised may be missing."""
        self.counts["starts"] += 1
        shadow = self.shadow(node)
        stored = blocks.load()
        hard_state, log = stored.hard_state, self._read_log(blocks)
        before = shadow.hard_state
        demand(hard_state.term >= before.term, "memory.term", f"{node.name} forgot term {before.term}")
        if hard_state.term == before.term and before.voted_for is not None:
            demand(
                hard_state.voted_for == before.voted_for,
                "memory.vote",
                f"{node.name} forgot a vote of term {before.term}",
            )
        demand(
            blocks.committed_height >= shadow.commit_height,
            "memory.commit",
            f"{node.name} forgot that it had committed height {shadow.commit_height}",
        )
        shadow.hard_state, shadow.log = hard_state, log
        self._note_written_vote(shadow)
        # A write may have been durable before the machine ended, and before it could tell.
        parent = self._genesis_hash
        for height, (term, block_hash) in enumerate(log, 1):
            self._note_durable(node, term, height, block_hash, parent)
            parent = block_hash
        demand(
            shadow.position >= shadow.acknowledged_position,
            "memory.acknowledged",
            f"{node.name} signed {shadow.acknowledged_position} and comes back with {shadow.position}",
        )
        for height, promised in shadow.acknowledged.items():
            held = log[height - 1] if height <= len(log) else None
            demand(
                held == promised or (held is not None and held[0] > promised[0]),
                "memory.acknowledged",
                f"{node.name} signed a block at height {height} and comes back without it",
            )
        for height in range(shadow.commit_height + 1, blocks.committed_height + 1):
            self._check_certified(node, height, log[height - 1][1])
            if height > len(self.canonical):
                self._learn_from_disk(blocks, height)
        shadow.commit_height = blocks.committed_height

    def _read_log(self, blocks: BlockStore) -> list[tuple[int, Digest]]:
        """Return term and hash of each block of the log; what was pruned is what was committed."""
        kept_from = max(1, blocks.first_height - 1)
        pruned = [(self._terms[each.block_hash], each.block_hash) for each in self.canonical[: kept_from - 1]]
        demand(
            len(pruned) == kept_from - 1, "pruned.uncommitted", f"a store begins at {kept_from}, above what is known"
        )
        return pruned + [blocks.term_and_hash(height) for height in range(kept_from, blocks.last_height + 1)]

    def note_installed(self, node: SimNode, blocks: BlockStore) -> None:
        """A snapshot has taken the place of a node's log, durably."""
        self.counts["snapshots installed"] += 1
        shadow = self.shadow(node)
        height = blocks.committed_height
        self._world.trace.tell(node.name, f"begins anew at height {height}, from a snapshot")
        hard_state, log = blocks.load().hard_state, self._read_log(blocks)
        demand(len(log) == height, "snapshot.log", f"{node.name}: the log goes on to {len(log)} above the snapshot")
        self._check_certified(node, height, log[-1][1])
        demand(height > shadow.commit_height, "snapshot.commit", f"{node.name} goes back from {shadow.commit_height}")
        position = (log[-1][0], height)
        demand(
            node.follows or position >= shadow.position,
            "disk.position_falls",
            f"{node.name}: the log ended at {shadow.position} and now ends at {position}",
        )
        before = shadow.hard_state
        demand(
            hard_state == before or (hard_state.term > before.term and hard_state.voted_for is None),
            "snapshot.hard_state",
            f"{node.name}: {before} becomes {hard_state}",
        )
        for each, promised in list(shadow.acknowledged.items()):
            if each > height or log[each - 1] != promised:
                del shadow.acknowledged[each]
        shadow.hard_state, shadow.log, shadow.commit_height = hard_state, log, height

    def _learn_from_disk(self, blocks: BlockStore, height: int) -> None:
        """Take a committed block over that no process lived to tell about."""
        block = decode_block_untrusted(blocks.entry(height).data)
        tx_ids = tuple(decode_transaction_untrusted(raw).tx_id for raw in block.transactions)
        written = [
            IdentityRecord.decode(value)
            for key, value in blocks.iterate(Table.IDENTITY_VERSION)
            if read_height(key[-8:]) == height
        ]
        self._add_canonical(Canonical(block.block_hash, None, tx_ids), written)

    def note_persisted(self, node: SimNode, persist: Persist) -> None:
        """A write of the log is durable."""
        shadow = self.shadow(node)
        before = shadow.position
        if persist.hard_state is not None:
            new, old = persist.hard_state, shadow.hard_state
            demand(new.term >= old.term, "disk.term", f"{node.name} writes term {new.term} after {old.term}")
            if new.term == old.term and old.voted_for is not None:
                demand(new.voted_for == old.voted_for, "disk.vote", f"{node.name} changes its vote in term {new.term}")
            shadow.hard_state = new
            self._note_written_vote(shadow)
        if persist.truncate_from is not None:
            demand(
                persist.truncate_from > shadow.commit_height,
                "disk.truncated_committed",
                f"{node.name} cuts its log at {persist.truncate_from} and has committed {shadow.commit_height}",
            )
            for height in range(persist.truncate_from, len(shadow.log) + 1):
                self._check_may_cut(node, height)
                shadow.acknowledged.pop(height, None)
            del shadow.log[persist.truncate_from - 1 :]
        for entry in persist.entries:
            demand(
                entry.height == len(shadow.log) + 1,
                "disk.gap",
                f"{node.name} writes block {entry.height} after {len(shadow.log)}",
            )
            parent = shadow.log[-1][1] if shadow.log else self._genesis_hash
            self._note_durable(node, entry.term, entry.height, entry.block_hash, parent)
            shadow.log.append((entry.term, entry.block_hash))
        demand(
            shadow.position >= before,
            "disk.position_falls",
            f"{node.name}: the log ended at {before} and now ends at {shadow.position}",
        )

    def _note_written_vote(self, shadow: Shadow) -> None:
        term, candidate = shadow.hard_state.term, shadow.hard_state.voted_for
        if candidate is not None:
            last_term, last_hash = shadow.log[-1] if shadow.log else (0, self._genesis_hash)
            shadow.written_votes.setdefault(term, (candidate, last_term, len(shadow.log), last_hash))

    def _check_may_cut(self, node: SimNode, height: int) -> None:
        certified = self._certified.get(height)
        demand(
            certified is None or self.shadow(node).log[height - 1][1] != certified,
            "disk.truncated_certified",
            f"{node.name} cuts block {height}, which is certified",
        )

    def _note_durable(self, node: SimNode, term: int, height: int, block_hash: Digest, parent: Digest) -> None:
        known = self._blocks.setdefault((term, height), block_hash)
        demand(
            known == block_hash,
            "log_matching",
            f"{node.name} writes another block of term {term} at height {height} than is known",
        )
        self._terms[block_hash] = term
        known = self._parents.setdefault(block_hash, parent)
        demand(known == parent, "log_matching", f"{node.name} writes block {height} after another one than it names")
        self._durable_ever.add((node.id, block_hash))

    def note_committed(self, node: SimNode, blocks: Sequence[Executed], certificate: CommitCertificate | None) -> None:
        """Blocks are durably the ledger's state on this node."""
        shadow = self.shadow(node)
        for executed in blocks:
            height = executed.height
            demand(
                height == shadow.commit_height + 1,
                "commit.order",
                f"{node.name} commits height {height} after {shadow.commit_height}",
            )
            if height == len(shadow.log) + 1 and node.follows:
                header = executed.block.header
                self._note_durable(node, header.term, height, executed.block_hash, header.previous_hash)
                shadow.log.append((header.term, executed.block_hash))
            demand(
                height <= len(shadow.log) and shadow.log[height - 1][1] == executed.block_hash,
                "commit.not_in_log",
                f"{node.name} commits a block at height {height} that is not in its log",
            )
            self._check_certified(node, height, executed.block_hash)
            shadow.commit_height = height
            self._world.trace.note(node.name, f"commits {height} {executed.block_hash.hex()[:16]}")
            self._check_canonical(node, executed)
        if certificate is not None:
            self.check_certificate(node.name, certificate)

    def _check_certified(self, node: SimNode, height: int, block_hash: Digest) -> None:
        demand(
            self._certified.get(height) == block_hash,
            "commit.uncertified",
            f"{node.name} commits a block at height {height} that no certificate has named",
        )

    def _check_canonical(self, node: SimNode, executed: Executed) -> None:
        height = executed.height
        seen = Canonical(executed.block_hash, _digest_rows(executed), executed.tx_ids)
        if height <= len(self.canonical):
            known = self.canonical[height - 1]
            demand(
                known.block_hash == seen.block_hash,
                "state_machine_safety",
                f"{node.name} commits another block at height {height} than others",
            )
            if known.changes is None:
                self.canonical[height - 1] = seen
            else:
                demand(
                    known.changes == seen.changes, "equal_states", f"{node.name} executed block {height} to other rows"
                )
            return
        demand(
            height == len(self.canonical) + 1,
            "commit.order",
            f"{node.name} is the first to commit {height}, out of order",
        )
        records = [
            IdentityRecord.decode(value)
            for (table, key), value in executed.writes.items()
            if table is Table.STATE and key[:1] == IDENTITY and value is not None
        ]
        self._add_canonical(seen, records)

    def _add_canonical(self, canonical: Canonical, records: Sequence[IdentityRecord]) -> None:
        before, after = self.configuration, self.configuration_after(canonical.block_hash)
        if before != after:
            self.retired |= {each.key_id for each in before.nodes if after.nodes.find(each.key_id) is None}
            self._world.trace.tell("world", f"members: {show_configuration(after)}")
            self.counts["configurations"] += 1
        self.canonical.append(canonical)
        height = len(self.canonical)
        self.counts["blocks"] += 1
        for index, tx_id in enumerate(canonical.tx_ids):
            self.counts["transactions"] += 1
            demand(
                tx_id not in self.locations,
                "executed_twice",
                f"transaction {tx_id.hex()[:16]} stands at {self.locations.get(tx_id)} and at {(height, index)}",
            )
            self.locations[tx_id] = (height, index)
        for record in records:
            self.registers.setdefault(record.identity_id, []).append((height, record.roles[0]))

    # Messages

    def note_sent(self, node: SimNode, to: NodeId, message: Message) -> None:
        """A message leaves: what it promises must be on disk."""
        self.counts["messages"] += 1
        if not self._world.parts.are_promises_checked:
            return
        shadow = self.shadow(node)
        match message:
            case Vote(term=term, granted=True, signature=signature):
                # It may leave late: what was written since does not matter, as long as this was.
                demand(
                    shadow.written_votes.get(term, (None,))[0] == to,
                    "promise.vote",
                    f"{node.name} sends a vote of term {term} that it has not written down",
                )
                basis = self._candidacies[to, term]
                self._note_vote(node, term, (to, *basis))
                demand(
                    signature is not None
                    and self._is_valid(node.id, vote_message(self._chain_id, term, to, *basis), signature),
                    "promise.vote_signature",
                    f"{node.name} signs something else than the request it votes for",
                )
            case PreVote():
                demand(
                    self._is_voter(node, message.last_hash),
                    "configuration.candidate",
                    f"{node.name} wants to lead and is no voter",
                )
            case RequestVote():
                demand(
                    self._is_voter(node, message.last_hash),
                    "configuration.candidate",
                    f"{node.name} stands in term {message.term} and is no voter",
                )
                basis = (message.last_term, message.last_height, message.last_hash)
                written = shadow.written_votes.get(message.term)
                demand(
                    written is not None and written[0] == node.id,
                    "promise.candidacy",
                    f"{node.name} stands in term {message.term} and has not written it down",
                )
                demand(
                    written == (node.id, *basis),
                    "promise.candidacy",
                    f"{node.name} claims a last block of term {basis[0]} at {basis[1]}, the disk has {written}",
                )
                known = self._candidacies.setdefault((node.id, message.term), basis)
                demand(known == basis, "promise.candidacy", f"{node.name} stands twice in term {message.term}")
                self._note_vote(node, message.term, (node.id, *basis))
            case AppendReply():
                self._note_reply(node, shadow, message)
            case Append():
                demand(
                    self._leaders.get(message.term) == node.id,
                    "promise.leader",
                    f"{node.name} sends appends in term {message.term}, which it does not lead",
                )
                if message.commit_certificate is not None and message.commit_certificate not in self._sound:
                    self._sound.add(message.commit_certificate)
                    self.check_certificate(node.name, decode_commit_certificate_untrusted(message.commit_certificate))
            case _:
                pass

    def _note_vote(self, node: SimNode, term: int, vote: tuple[NodeId, int, int, Digest]) -> None:
        shadow = self.shadow(node)
        known = shadow.votes.setdefault(term, vote)
        demand(known == vote, "two_votes", f"{node.name} votes twice in term {term}")
        demand(
            (vote[1], vote[2]) >= shadow.acknowledged_position,
            "forgotten_acknowledgement",
            f"{node.name} votes for a log that ends at {(vote[1], vote[2])} and has signed {shadow.acknowledged_position}",
        )

    def _note_reply(self, node: SimNode, shadow: Shadow, message: AppendReply) -> None:
        demand(
            shadow.hard_state.term >= message.term,
            "promise.term",
            f"{node.name} answers in term {message.term} and has {shadow.hard_state.term} on disk",
        )
        demand(
            message.match_height <= len(shadow.log),
            "promise.match",
            f"{node.name} claims {message.match_height} blocks and has {len(shadow.log)} on disk",
        )
        for acknowledgement in message.acknowledgements:
            height, block_hash = acknowledgement.height, acknowledgement.block_hash
            held = shadow.log[height - 1] if height <= len(shadow.log) else None
            demand(
                held == (message.term, block_hash),
                "promise.acknowledgement",
                f"{node.name} signs block {height} of term {message.term}, which is not on its disk",
            )
            demand(
                self._is_voter(node, block_hash),
                "configuration.acknowledgement",
                f"{node.name} signs block {height} and is no voter there",
            )
            signed = acknowledgement_message(self._chain_id, message.term, height, block_hash)
            demand(
                self._is_valid(node.id, signed, acknowledgement.signature),
                "promise.signature",
                f"{node.name} signs block {height} wrongly",
            )
            shadow.acknowledged[height] = (message.term, block_hash)
            shadow.acknowledged_position = max(shadow.acknowledged_position, (message.term, height))

    # Steps

    def note_step(self, node: SimNode, event: Event, effects: Effects, before: Status, after: Status) -> None:
        """The consensus core took one event."""
        self.counts["steps"] += 1
        demand(
            after.term >= before.term, "step.term", f"{node.name}: the term falls from {before.term} to {after.term}"
        )
        demand(
            before.commit_height <= after.commit_height <= after.durable_height <= after.last_height,
            "step.heights",
            f"{node.name} after {type(event).__name__}: commit {before.commit_height} to {after.commit_height}, "
            f"durable {after.durable_height}, last {after.last_height}",
        )
        heights = [entry.height for entry in effects.apply]
        is_installed = isinstance(event, InstalledSnapshot)
        demand(
            is_installed or heights == list(range(before.commit_height + 1, after.commit_height + 1)),
            "step.apply",
            f"{node.name} hands out {heights} and goes from {before.commit_height} to {after.commit_height}",
        )
        if after.role is not before.role:
            self._world.trace.tell(node.name, f"{after.role} in term {after.term}")
        for alarm in effects.alarms:
            self._world.trace.tell(node.name, f"alarm {alarm}")
            self.counts["alarms"] += 1
            is_expected = alarm.startswith("consensus.stranger:") and bool(self._world.plan.changes)
            demand(is_expected or alarm.partition(":")[0] in EXPECTED_ALARMS, "alarm", f"{node.name}: {alarm}")
        if effects.certificate is not None:
            self._note_certified(node, effects)
        if effects.elected is not None:
            self._check_election(effects.elected)
            self._note_elected(node, effects.elected.term)
        applied = [event.block_hash] if isinstance(event, InstalledSnapshot) else [e.block_hash for e in effects.apply]
        self._check_removed(node, applied, before, says_so=effects.removed)
        if after.role is Role.LEADER:
            demand(
                self._leaders.get(after.term) == node.id,
                "election_safety",
                f"{node.name} leads term {after.term} unelected",
            )

    def _check_election(self, elected: ElectionCertificate) -> None:
        basis = (elected.last_term, elected.last_height, elected.last_hash)
        message = vote_message(self._chain_id, elected.term, elected.candidate, *basis)
        good = [key_id for key_id, signature in elected.signatures if self._is_valid(key_id, message, signature)]
        self._demand_decision(
            good, elected.last_hash, "election_safety", f"the leader of term {elected.term} is elected"
        )

    def _check_removed(self, node: SimNode, applied: Sequence[Digest], before: Status, *, says_so: bool) -> None:
        log = self.shadow(node).log
        was = log[before.commit_height - 1][1] if before.commit_height else self._genesis_hash
        member = [self.configuration_after(each).nodes.find(node.id) is not None for each in (was, *applied)]
        demand(
            says_so == (member[0] and not member[-1]),
            "configuration.removed",
            f"{node.name} goes from member {member[0]} to member {member[-1]} and says {says_so}",
        )

    def _note_certified(self, node: SimNode, effects: Effects) -> None:
        assert effects.certificate is not None
        self.check_certificate(node.name, effects.certificate)
        term = effects.certificate.term
        for entry in effects.apply:
            self._certified_in[entry.height] = min(term, self._certified_in.get(entry.height, term))
            known = self._certified.setdefault(entry.height, entry.block_hash)
            demand(
                known == entry.block_hash,
                "state_machine_safety",
                f"{node.name} commits another block at height {entry.height} than is certified",
            )
            held = self.shadow(node).log
            demand(
                entry.height <= len(held) and held[entry.height - 1][1] == entry.block_hash,
                "commit.not_durable",
                f"{node.name} commits block {entry.height}, which is not on its disk",
            )

    def _note_elected(self, node: SimNode, term: int) -> None:
        self.counts["elections"] += 1
        known = self._leaders.setdefault(term, node.id)
        demand(known == node.id, "election_safety", f"{node.name} is a second leader of term {term}")
        log = self.shadow(node).log
        for height, block_hash in self._certified.items():
            # Who was elected long ago and hears of it only now, has nothing of what was decided since.
            if self._certified_in[height] >= term:
                continue
            demand(
                height <= len(log) and log[height - 1][1] == block_hash,
                "leader_completeness",
                f"{node.name} leads term {term} without certified block {height}",
            )

    def check_certificate(self, name: str, certificate: CommitCertificate) -> None:
        """Demand that a certificate proves what it says, and that what it says is true."""
        message = acknowledgement_message(self._chain_id, certificate.term, certificate.height, certificate.block_hash)
        good = [key_id for key_id, signature in certificate.signatures if self._is_valid(key_id, message, signature)]
        self._demand_decision(
            good, certificate.block_hash, "certificate.quorum", f"{name}: height {certificate.height} is certified"
        )
        known = self._blocks.get((certificate.term, certificate.height))
        demand(
            known == certificate.block_hash,
            "certificate.block",
            f"{name}: a certificate of height {certificate.height} names a block that nobody has",
        )
        holders = [node_id for node_id in self._keys if (node_id, certificate.block_hash) in self._durable_ever]
        self._demand_decision(
            holders,
            certificate.block_hash,
            "certificate.holders",
            f"{name}: height {certificate.height} is certified, and written down",
        )

    # Reading

    def value_at(self, identity_id: str, height: int) -> str | None:
        """Return the value of a register as the committed chain has it after a height."""
        value = None
        for since, each in self.registers.get(identity_id, ()):
            if since > height:
                break
            value = each
        return value

    def tip_of(self, node: SimNode) -> tuple[int, Digest] | None:
        """Return how far a node's disk reaches when all of it is committed, otherwise None."""
        shadow = self.shadow(node)
        if node.process is None or shadow.commit_height != len(shadow.log) or not shadow.log:
            return None
        return len(shadow.log), shadow.log[-1][1]

    # The end

    def check_end(self) -> None:
        """Demand that all disks hold the same ledger, row by row, and that the state is what its root says."""
        whole: dict[tuple[int, bytes], bytes] | None = None
        states: list[tuple[SimNode, dict[tuple[int, bytes], bytes]]] = []
        members = self._world.members
        for node in self._world.nodes:
            if not node.disk.tables:
                continue  # Nobody has set it up.
            store = SimStore(node.disk, lambda what: None)
            damaged = set(node.disk.damaged)
            findings = [each for each in verify_store(store) if isinstance(each, StoreFinding)]  # type: ignore[arg-type]
            demand(
                bool(findings) == bool(damaged),
                "verify_store",
                f"{node.name}: {len(damaged)} damaged rows, found: {[each.message for each in findings]}",
            )
            if node.is_broken or damaged or node not in members:
                continue
            rows = _ledger_rows(store)
            states.append((node, rows))
            self._check_ledger(store)
            if read_first_height(store) == 1:
                whole = whole or rows
                demand(rows == whole, "equal_stores", f"{node.name} holds other rows of the ledger than the others")
        for node, rows in states:
            _check_part(node.name, rows, states[0][1] if whole is None else whole)

    def _check_ledger(self, store: SimStore) -> None:
        view = StateView(store)  # type: ignore[arg-type]
        entries = dict(store.iterate(Table.STATE))
        demand(
            naive_state_root(entries) == view.header.state_root,
            "state_root",
            "the state is another one than its root says",
        )
        demand(view.height == len(self.canonical), "height", f"stores end at {view.height}, not {len(self.canonical)}")
        first = read_first_height(store)
        for tx_id, place in self.locations.items():
            location = view.location(tx_id)
            is_forgotten = place[0] < first and location is None
            demand(
                is_forgotten or (location is not None and (location.height, location.index) == place),
                "lost",
                f"transaction {tx_id.hex()[:16]} is not at {place} any more",
            )
        for height, canonical in enumerate(self.canonical, 1):
            if height < first:
                continue
            raw = store.get(Table.BLOCK, height.to_bytes(8, "big"))
            demand(
                raw is not None and decode_block_untrusted(raw).block_hash == canonical.block_hash,
                "lost",
                f"block {height} is not the one that was committed",
            )


_COMPARED = frozenset(Table) - {Table.CERTIFICATE}
"""Which majority signed a block may differ from node to node."""
_SNAPSHOT_KEYED = frozenset({Table.IDENTITY_VERSION, Table.CONFIGURATION})
"""Begin with a row at the height of the snapshot that a store began from."""
_OWN_META = frozenset({HISTORY_KEY, CONFIGURATION_KEY})
"""What follows from where a store began."""


def _depends_on_beginning(place: tuple[int, bytes]) -> bool:
    return place[0] in _SNAPSHOT_KEYED or (place[0] == Table.META and place[1] in _OWN_META)


def _check_part(name: str, rows: Mapping[tuple[int, bytes], bytes], whole: Mapping[tuple[int, bytes], bytes]) -> None:
    """Demand that a pruned store has all of the state, and of the rest nothing else than the others."""
    for place in rows.keys() | {place for place in whole if place[0] in (Table.STATE, Table.STATE_NODE)}:
        if _depends_on_beginning(place) or place not in whole:
            continue
        demand(
            rows.get(place) == whole[place],
            "equal_stores",
            f"{name} holds another row {place[1].hex()[:32]} of table {place[0]} than the others",
        )


def show_configuration(configuration: Configuration) -> str:
    """Return who is a member, in one line."""
    groups = (
        ("", configuration.voters),
        (" becoming ", configuration.incoming or ()),
        ("; learning ", configuration.learners),
        ("; leaving ", configuration.leaving),
    )
    return "".join(f"{title}{' '.join(each.name for each in group)}" for title, group in groups if group)


def _ledger_rows(store: SimStore) -> dict[tuple[int, bytes], bytes]:
    return {(table, key): value for table in _COMPARED for key, value in store.iterate(table)}


def _digest_rows(executed: Executed) -> Digest:
    changed = {place: value for place, value in executed.writes.items() if not _depends_on_beginning(place)}
    rows = sorted((int(table), key, value) for (table, key), value in changed.items() if value is not None)
    gone = sorted((int(table), key) for (table, key), value in changed.items() if value is None)
    return sha256(encode((tuple(rows), tuple(gone))))
