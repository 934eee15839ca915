"""Following: taking blocks in, acknowledging what is durable, committing what a certificate proves.

Source: Raft 5.3; docs/spec/consensus.md 5 and 6.
"""

from __future__ import annotations

from consensus.common import Common
from consensus.effects import NeedSnapshot
from consensus.limits import ACKNOWLEDGEMENTS_MAX, RECENT_CERTIFICATES_MAX, REFUSED_BLOCKS_MAX
from consensus.messages import Acknowledgement, Append, AppendReply, Entry, SnapshotOffer
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.errors import RejectedError
from wire.hashing import Digest


class Following:
    """What a replica knows about following the leader of the current term. Made anew for each term."""

    __slots__ = (
        "_acknowledged_height",
        "_acknowledgements",
        "_common",
        "_leader_commit_height",
        "_pending",
        "_refused",
        "_round_id",
        "_verified_height",
    )

    def __init__(self, common: Common, refused: dict[Digest, int]) -> None:
        """Begin knowing nothing about this term's leader.

        Args:
            common: The replica's state.
            refused: Hashes of blocks that the ledger refused, with the tick until which that is believed; shared by all terms.
        """
        self._common = common
        # Up to here the log is known to be the leader's; what is committed always is.
        self._verified_height = common.commit_height
        self._leader_commit_height = 0
        self._round_id = 0
        self._acknowledgements: dict[int, Acknowledgement] = {}
        self._acknowledged_height = 0
        self._pending: dict[int, CommitCertificate] = {}
        self._refused = refused

    def handle_append(self, message: Append) -> None:
        """Take in what agrees with the log, and answer now or when it is durable. The leader and its term are known to be right."""
        common, log = self._common, self._common.log
        self._round_id = max(self._round_id, message.round_id)
        self._leader_commit_height = max(self._leader_commit_height, message.commit_height)
        if not self._agrees(message):
            return
        found = self._find_new(message)
        if found is None:
            return
        agreed_height, new = found
        if new and not log.can_accept(new):
            # A replacement that ends lower waits until everything under way is durable; the leader comes back with it.
            return
        write = None
        if new:
            if common.config.held_bytes_max < log.held_bytes + sum(len(entry.data) for entry in new):
                self._drop_held("consensus.held_bytes", "more blocks are held back than memory is set aside for")
                return
            write = log.accept(new)
            common.out.write = write
        self._verified_height = max(self._verified_height, agreed_height + len(new))
        self._note_certificate(message)
        self._commit()
        # An append that brings something is answered when that is durable. One of which only refused blocks are left is not answered:
        # the leader would send them again at once, and so on; heartbeats set the pace instead.
        if write is None and agreed_height + len(new) == message.prev_height + len(message.entries):
            self._acknowledged_height = 0
            self.reply()

    def handle_offer(self, message: SnapshotOffer) -> None:
        """Say where this node stands, and that it needs a snapshot if so. The leader and its term are known to be right."""
        common = self._common
        self._round_id = max(self._round_id, message.round_id)
        self._leader_commit_height = max(self._leader_commit_height, message.commit_height)
        if common.commit_height < message.first_height - 1:
            common.out.need_snapshot = NeedSnapshot(message.leader, message.first_height - 1)
        self._acknowledged_height = 0
        self.reply()

    def note_durable(self) -> None:
        """Commit and acknowledge what has become durable."""
        self._commit()
        self.reply()

    def note_refused(self, height: int, block_hash: Digest, reason: str) -> None:
        """Forget a block that the ledger refused, with everything upon it, and tell the leader."""
        common = self._common
        common.alarm("consensus.block_refused", f"the ledger refused the leader's block at height {height} ({reason})")
        while len(self._refused) >= REFUSED_BLOCKS_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[block_hash] = common.ticks + common.config.election_ticks
        self._go_back()
        self._reject(height)

    def drop_held(self) -> None:
        """Give up blocks that were held back: whoever sent them leads no more."""
        if self._common.log.is_held:
            self._go_back()

    def reply(self) -> None:
        """Tell the leader what agrees, and sign what is durable, new and not yet certified."""
        common = self._common
        leader = common.leader
        if leader is None:
            return
        match_height = self._durable_height()
        common.send_bound(
            leader,
            AppendReply(
                term=common.term,
                follower=common.config.node_id,
                ok=True,
                match_height=match_height,
                received_height=self._verified_height if common.log.is_held else match_height,
                reject_height=0,
                hint_term=0,
                hint_height=0,
                commit_height=common.commit_height,
                round_id=self._round_id,
                acknowledgements=self._sign_upto(match_height),
                promise_ms=common.config.promise_ms,
            ),
        )

    def _durable_height(self) -> int:
        # Never our own last height: what lies above the verified one may be another leader's (CCF).
        return min(self._verified_height, self._common.log.durable_height)

    def _sign_upto(self, height: int) -> tuple[Acknowledgement, ...]:
        common = self._common
        low = max(common.commit_height, self._leader_commit_height, self._acknowledged_height)
        signed: list[Acknowledgement] = []
        while height > low and len(signed) < ACKNOWLEDGEMENTS_MAX:
            known = self._acknowledgements.get(height)
            if known is None:
                term, block_hash = common.log.term_and_hash(height)
                if term != common.term:
                    break
                if not common.may_sign(height):
                    # Whose word does not count at this height does not give it; a change may lie below, so the search goes on.
                    height -= 1
                    continue
                known = Acknowledgement(height, block_hash, common.sign_acknowledgement(height, block_hash))
                self._acknowledgements[height] = known
            signed.append(known)
            height -= 1
        if signed:
            self._acknowledged_height = signed[0].height
        return tuple(reversed(signed))

    def _agrees(self, message: Append) -> bool:
        common, log = self._common, self._common.log
        if message.prev_height > log.last_height:
            self._reject(message.prev_height, log.last_height, message.prev_term)
            return False
        if message.prev_height < log.first_height - 1:
            # What was pruned here is committed, and every leader has it.
            return True
        term, block_hash = log.term_and_hash(message.prev_height)
        if block_hash == message.prev_hash:
            return True
        if message.prev_height <= common.commit_height:
            self._alarm_fork(message.prev_height, block_hash, message.prev_hash)
            return False
        if term == message.prev_term:
            self._alarm_equivocation(term, message.prev_height, block_hash, message.prev_hash)
        self._reject(message.prev_height, message.prev_height - 1, message.prev_term)
        return False

    def _find_new(self, message: Append) -> tuple[int, tuple[Entry, ...]] | None:
        """Return up to where the log agrees, and the entries after that which it lacks or contradicts; None to drop the append."""
        common, log = self._common, self._common.log
        for index, entry in enumerate(message.entries):
            if entry.height < log.first_height - 1:
                continue
            if entry.height <= log.last_height:
                term, block_hash = log.term_and_hash(entry.height)
                if block_hash == entry.block_hash:
                    continue
                if entry.height <= common.commit_height:
                    self._alarm_fork(entry.height, block_hash, entry.block_hash)
                    return None
                if term == entry.term:
                    self._alarm_equivocation(term, entry.height, block_hash, entry.block_hash)
                if log.last_term == message.term:
                    # A leader never replaces its own blocks. Whoever acknowledged one must not follow it to another.
                    common.alarm(
                        "consensus.equivocation",
                        f"the leader of term {message.term} replaces a block at height {entry.height} below one of its own",
                    )
                    return None
            return entry.height - 1, self._without_refused(message.entries[index:])
        return message.prev_height + len(message.entries), ()

    def _without_refused(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        if self._refused:
            for index, entry in enumerate(entries):
                until = self._refused.get(entry.block_hash)
                if until is not None:
                    if until > self._common.ticks:
                        return entries[:index]
                    # Clocks differ a little and the ledger bounds a block's time, so a verdict is asked for again.
                    del self._refused[entry.block_hash]
        return entries

    def _note_certificate(self, message: Append) -> None:
        if message.commit_certificate is None:
            return
        try:
            certificate = decode_commit_certificate_untrusted(message.commit_certificate)
        except RejectedError as error:
            self._common.alarm("consensus.certificate", f"the leader sent a malformed certificate ({error.code})")
            return
        until = self._refused.get(certificate.block_hash)
        # What a refused block makes of the configuration is not known, so a certificate that does not hold as far as we know is no alarm.
        if until is not None and self._refutation(certificate) is None:
            self._common.alarm(
                "consensus.divergence",
                f"a majority certified the block at height {certificate.height} that this node's ledger refused",
            )
        if certificate.height <= self._common.commit_height:
            self._check_fork(certificate)
        elif certificate.height <= message.commit_height and len(self._pending) < RECENT_CERTIFICATES_MAX:
            self._pending[certificate.height] = certificate

    def _check_fork(self, certificate: CommitCertificate) -> None:
        if certificate.height < self._common.log.first_height - 1:
            return
        _, block_hash = self._common.log.term_and_hash(certificate.height)
        if block_hash != certificate.block_hash and self._is_valid(certificate):
            self._alarm_fork(certificate.height, block_hash, certificate.block_hash)

    def _is_valid(self, certificate: CommitCertificate) -> bool:
        code = self._refutation(certificate)
        if code is not None:
            self._common.alarm(
                "consensus.certificate",
                f"the leader sent a certificate for height {certificate.height} that does not hold ({code})",
            )
        return code is None

    def _refutation(self, certificate: CommitCertificate) -> str | None:
        """Return why the certificate does not hold under the configuration that is known for its height, or None when it does."""
        try:
            self._common.verify_certificate(certificate)
        except RejectedError as error:
            return error.code
        return None

    def _commit(self) -> None:
        """Commit up to the highest certificate whose block is durable here and verified to be the leader's."""
        common = self._common
        if not self._pending:
            return
        reach = self._durable_height()
        for height in sorted((h for h in self._pending if h <= reach), reverse=True):
            certificate = self._pending.pop(height)
            if height <= common.commit_height:
                continue
            term, block_hash = common.log.term_and_hash(height)
            if (certificate.term, certificate.block_hash) != (term, block_hash):
                common.alarm(
                    "consensus.certificate",
                    f"the leader's certificate for height {height} names another block than it sent",
                )
            elif self._is_valid(certificate):
                common.commit(certificate)
                for gone in [h for h in self._acknowledgements if h <= height]:
                    del self._acknowledgements[gone]

    def _reject(self, height: int, hint_height: int | None = None, term_max: int | None = None) -> None:
        """Refuse an append after `height`; the hint skips whole terms that cannot agree (Raft 5.3, end)."""
        common = self._common
        if common.leader is None:
            return
        if hint_height is None or term_max is None:
            hint, hint_term = self._verified_height, common.log.term_and_hash(self._verified_height)[0]
        else:
            hint, hint_term = common.log.find_last_at_or_below_term(hint_height, term_max)
            if hint < common.commit_height:
                hint, hint_term = common.commit_height, common.log.term_and_hash(common.commit_height)[0]
        common.send_bound(
            common.leader,
            AppendReply(
                term=common.term,
                follower=common.config.node_id,
                ok=False,
                match_height=0,
                received_height=0,
                reject_height=height,
                hint_term=hint_term,
                hint_height=hint,
                commit_height=common.commit_height,
                round_id=self._round_id,
                acknowledgements=(),
                promise_ms=common.config.promise_ms,
            ),
        )

    def _drop_held(self, code: str, sentence: str) -> None:
        self._common.alarm(code, sentence)
        self.drop_held()

    def _go_back(self) -> None:
        log = self._common.log
        # What stays both in memory and on disk is what was durable; above it the disk may hold another leader's blocks.
        self._verified_height = min(self._verified_height, log.durable_height)
        log.reload()

    def _alarm_fork(self, height: int, ours: Digest, theirs: Digest) -> None:
        self._common.alarm(
            "consensus.fork",
            f"two blocks at committed height {height}: ours is {ours.hex()}, the leader's {theirs.hex()}",
        )

    def _alarm_equivocation(self, term: int, height: int, one: Digest, other: Digest) -> None:
        self._common.alarm(
            "consensus.equivocation",
            f"two blocks of term {term} at height {height}: {one.hex()} and {other.hex()}",
        )
