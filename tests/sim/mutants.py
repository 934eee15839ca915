"""Bugs that the simulator must find: each is a part of a node with one thing wrong, as bugs in Raft implementations have been.

``python -m tests.sim.mutants`` plays seeds against each of them and prints how soon it is found, and by what.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import consensus.leader
import ledger.membership
import node.replica
import node.snapshots
import node.storage.rebuild
from consensus.acknowledgements import AcknowledgementBook
from consensus.common import Common
from consensus.effects import HardState, Persist
from consensus.follower import Following
from consensus.membership import Configuration
from consensus.messages import Acknowledgement, Append, Entry, NodeId, RequestVote
from consensus.progress import Progress
from consensus.quorum import VoteResult, is_joint_majority, joint_vote_result
from ledger.configuration import Configuration as LedgerConfiguration
from ledger.configuration import Validator as LedgerValidator
from ledger.configuration import ValidatorSet
from ledger.keyspace import Reader, Table
from ledger.transition import Executed
from node.chain import Chain
from node.replica import LedgerReplica
from node.submission import Submitted, Submitter
from node.validator import Validator
from tests.sim.disk import SimStore
from tests.sim.errors import ViolationError
from tests.sim.node import Parts, Process, SimBlockStore, SimCore
from tests.sim.plan import Plan, draw_plan
from tests.sim.world import run_plan
from wire.certificate import CommitCertificate, acknowledgement_message
from wire.hashing import Digest


@dataclass(frozen=True)
class Mutant:
    """One planted bug."""

    name: str
    what: str
    codes: tuple[str, ...]
    """How it may be found; the beginnings of violations' codes."""
    parts: Parts = field(default_factory=Parts)
    patches: tuple[tuple[Any, str, Any], ...] = ()
    """(class or module, attribute, what stands there instead)."""
    plan: Callable[[Plan], Plan] = field(default=lambda plan: plan)
    """What is made of each plan: where a bug shows once in a thousand seeds, so that a test need not play a thousand."""
    first_seed: int = 1
    """One that finds it soon."""
    seeds_max: int = 60

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Have the patches in force for a while."""
        with ExitStack() as undo:
            for owner, name, value in self.patches:
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            yield

    def hunt(self, first: int = 1) -> tuple[int, ViolationError | BaseException] | None:
        """Return the first seed that finds the bug, and how; None when none of `seeds_max` does."""
        with self.planted():
            for seed in range(first, first + self.seeds_max):
                try:
                    violation = run_plan(self.plan(draw_plan(seed)), self.parts).violation
                except AssertionError as error:
                    return seed, error
                if violation is not None:
                    return seed, violation
        return None


class ForgetsVotes(SimBlockStore):
    """Writes the term and not the vote."""

    def write(
        self, persists: Sequence[Persist], commits: Sequence[tuple[Sequence[Executed], CommitCertificate | None]]
    ) -> None:
        forgetful = [replace(each, hard_state=each.hard_state and HardState(each.hard_state.term)) for each in persists]
        super().write(forgetful, commits)


class NeverSyncs(SimStore):
    """Hands its batches to the operating system and hopes."""

    def sync(self) -> None:
        pass


class AnswersTooEarly(Validator):
    """Reports a write as durable before it has begun."""

    async def _prepare(self, work: Any) -> Any:
        prepared = await super()._prepare(work)
        self._report_persisted(prepared)
        return prepared


class VotesTwice(SimCore):
    """Votes for whoever asks last."""

    __slots__ = ()

    def _receive_request_vote(self, message: RequestVote) -> None:
        common = self._common
        if message.term == common.term and common.leader is None:
            common.hard_state = HardState(common.term, None)
        super()._receive_request_vote(message)


class ForgetsTheTail(LedgerReplica):
    """Does not execute again what was stored and not committed when it ended."""

    def execute_stored_tail(self) -> list[Executed]:
        return []


class ExecutesAsItLikes(LedgerReplica):
    """Loses a row of what a block changes, on some nodes."""

    async def execute_untrusted(self, raw: bytes, *, block_hash: Digest | None, now_ms: int | None) -> Executed:
        executed = await super().execute_untrusted(raw, block_hash=block_hash, now_ms=now_ms)
        for table, key in list(executed.writes):
            if table is Table.HISTORY and block_hash is not None:
                del executed.writes[table, key]
        return executed


class _Blind:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def get(self, table: Table, key: bytes) -> bytes | None:
        return None if table is Table.TX_INDEX else self._reader.get(table, key)


class BlindChain(Chain):
    """Cannot see which transactions were executed before."""

    def tip(self) -> Any:
        return _Blind(super().tip())


class AnswersOnAdmission(Submitter):
    """Tells a client *committed* when a transaction waits for its block."""

    def _admit_checked(self, pending: Any, results: list[Submitted | None]) -> None:
        super()._admit_checked(pending, results)
        for index, transaction in pending:
            results[index] = Submitted(transaction.tx_id, "committed", height=self._replica.height + 1)


class RefusesByOldState(Submitter):
    """Refuses by a replica that may be behind."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **(keywords | {"wait_current": self._at_once}))

    async def _at_once(self) -> None:
        pass


async def _read_at_once(process: Process) -> None:
    """Stand in for `Process.wait_linearizable`: reads what this replica has."""
    del process


def _find_new_from_the_start(self: Following, message: Append) -> tuple[int, tuple[Entry, ...]] | None:
    """Cut the log at the first entry of every append, whether it contradicts it or not."""
    low = max(message.prev_height, self._common.commit_height)
    return low, tuple(entry for entry in message.entries if entry.height > low)


def _sign_any_term(self: Following, height: int) -> tuple[Acknowledgement, ...]:
    """Sign whatever is durable, of whichever term."""
    common = self._common
    signed = []
    for each in filter(common.may_sign, range(common.commit_height + 1, height + 1)):
        _, block_hash = common.log.term_and_hash(each)
        signed.append(Acknowledgement(each, block_hash, common.sign_acknowledgement(each, block_hash)))
    return tuple(signed)


def _sign_in_the_term_of_the_block(self: Common, height: int, block_hash: Digest) -> bytes:
    term, _ = self.log.term_and_hash(height)
    return self.config.key.sign(acknowledgement_message(self.config.chain_id, term, height, block_hash))


class CountsOldTerms(AcknowledgementBook):
    """Counts acknowledgements of blocks of earlier terms (Raft, figure 8)."""

    __slots__ = ()

    def add(self, signer: NodeId, acknowledgements: Iterable[Acknowledgement]) -> list[int]:
        common = self._common
        heights = []
        for each in acknowledgements:
            if common.commit_height < each.height <= common.log.last_height:
                if common.log.term_and_hash(each.height)[1] == each.block_hash:
                    self._by_height.setdefault(each.height, {})[signer] = each.signature
                    heights.append(each.height)
        return heights

    def _certify(self, height: int) -> CommitCertificate | None:
        common = self._common
        me = common.config.node_id
        term, block_hash = common.log.term_and_hash(height)
        signed = {**self._by_height.get(height, {}), me: common.sign_acknowledgement(height, block_hash)}
        configuration = common.configurations.at(height)
        if configuration is None or not configuration.is_quorum(signed):
            return None
        return CommitCertificate(term, height, block_hash, tuple(sorted(signed.items())))


class CountsBeforeItsDisk(AcknowledgementBook):
    """Lets a leader's own block count before it is durable."""

    __slots__ = ()

    def find_certificate(self, heights: Iterable[int]) -> CommitCertificate | None:
        for height in sorted(heights, reverse=True):
            if self._common.commit_height < height and (found := self._certify(height)) is not None:
                return found
        return None


def _never_probe(self: Progress, next_height: int) -> None:
    """Go on sending after a refusal as if there had been none."""
    del next_height
    self.paused = True


def _is_quorum_of_the_incoming(self: Configuration, present: Collection[NodeId]) -> bool:
    return is_joint_majority(self.groups[-1:], present)


def _vote_result_of_the_incoming(self: Configuration, answers: Mapping[NodeId, bool]) -> VoteResult:
    return joint_vote_result(self.groups[-1:], answers)


def _forget_the_vote(stored: HardState, term: int) -> HardState:
    """Stand in for `hard_state_after_snapshot`: whatever is made anew has voted for nobody."""
    return HardState(max(stored.term, term))


def _change_in_one_step(
    configuration: LedgerConfiguration, incoming: ValidatorSet, learner: LedgerValidator
) -> LedgerConfiguration:
    return replace(configuration, voters=incoming, learners=configuration.learners.without(learner))


def _with_slow_disks(plan: Plan) -> Plan:
    """Let some machine's disk always be the slowest, most often the leader's by chance, and many clients meet on few registers."""
    return replace(plan, faults=(), changes=(), clients=5, rates=replace(plan.rates, disk_ms=(1.0, 120.0)))


MUTANTS = (
    Mutant(
        "vote-not-persisted",
        "a vote leaves, and the disk has the term alone",
        ("promise.vote", "promise.candidacy"),
        Parts(blocks=ForgetsVotes),
    ),
    Mutant(
        "votes-twice",
        "a second candidate gets a vote in the same term",
        ("two_votes", "disk.vote"),
        Parts(core=VotesTwice),
        first_seed=5,
    ),
    Mutant(
        "votes-twice, by its consequences",
        "the same, the disk's word aside",
        ("disk.vote", "election_safety", "log_matching", "alarm"),
        Parts(core=VotesTwice, are_promises_checked=False),
        first_seed=5,
    ),
    Mutant("never-syncs", "batches stay in the page cache", ("process.failed", "memory."), Parts(store=NeverSyncs)),
    Mutant(
        "answers-before-sync",
        "a follower acknowledges before its write",
        ("promise.", "step.", "commit.", "AssertionError", "process.failed"),
        Parts(validator=AnswersTooEarly),
    ),
    Mutant(
        "answers-before-sync, by its consequences",
        "the same, seen only when something is lost",
        (
            "certificate.",
            "memory.",
            "leader_completeness",
            "commit.",
            "acknowledged",
            "AssertionError",
            "process.failed",
        ),
        Parts(validator=AnswersTooEarly, are_promises_checked=False),
    ),
    Mutant(
        "truncates-acknowledged",
        "an old append cuts off what is above it, also what was acknowledged",
        (
            "memory.",
            "disk.",
            "promise.",
            "forgotten_acknowledgement",
            "liveness",
            "AssertionError",
            "process.failed",
            "step.",
        ),
        patches=((Following, "_find_new", _find_new_from_the_start),),
    ),
    Mutant(
        "counts-old-terms",
        "a leader commits a block of an earlier term by counting (Raft, figure 8)",
        ("promise.acknowledgement",),
        patches=(
            (Following, "_sign_upto", _sign_any_term),
            (Common, "sign_acknowledgement", _sign_in_the_term_of_the_block),
            (consensus.leader, "AcknowledgementBook", CountsOldTerms),
        ),
        first_seed=2,
    ),
    Mutant(
        "counts-before-its-disk",
        "a leader certifies a block that is not on its own disk yet",
        ("AssertionError", "step.", "commit.", "process.failed"),
        patches=((consensus.leader, "AcknowledgementBook", CountsBeforeItsDisk),),
        first_seed=2,
    ),
    Mutant(
        "forgets-the-tail",
        "a node that comes back does not execute the uncommitted blocks of its log again",
        ("process.failed", "AssertionError", "liveness"),
        Parts(replica=ForgetsTheTail),
    ),
    Mutant(
        "executes-as-it-likes",
        "followers write other rows than the leader",
        ("equal_states", "equal_stores"),
        Parts(replica=ExecutesAsItLikes),
    ),
    Mutant(
        "executes-twice",
        "the ledger does not see that a transaction was executed before",
        ("executed_twice",),
        patches=((node.replica, "Chain", BlindChain),),
        first_seed=3,
    ),
    Mutant(
        "answers-on-admission",
        "a client hears *committed* before there is a block",
        ("acknowledged.",),
        Parts(submitter=AnswersOnAdmission),
    ),
    Mutant(
        "refuses-by-old-state",
        "a leader refuses by a replica that is behind; the simulator found this one in the product (seed 17)",
        ("linearizability",),
        Parts(submitter=RefusesByOldState),
        plan=_with_slow_disks,
    ),
    Mutant(
        "reads-what-it-has",
        "a read that asks for everything committed is answered at once",
        ("linearizability",),
        patches=((Process, "wait_linearizable", _read_at_once),),
    ),
    Mutant(
        "changes-in-one-step",
        "a learner becomes a voter without a joint configuration",
        ("configuration.step", "AssertionError", "process.failed"),
        patches=((ledger.membership, "_enter_joint", _change_in_one_step),),
        first_seed=2,
    ),
    Mutant(
        "decides-by-one-half",
        "while a change is under way, the voters before it are not asked",
        ("certificate.quorum", "election_safety", "certificate.holders", "AssertionError", "process.failed"),
        patches=(
            (Configuration, "is_quorum", _is_quorum_of_the_incoming),
            (Configuration, "vote_result", _vote_result_of_the_incoming),
        ),
        first_seed=2,
    ),
    Mutant(
        "learners-sign",
        "who has no vote acknowledges blocks",
        ("configuration.acknowledgement",),
        patches=((Common, "may_sign", lambda _common, _height: True),),
        first_seed=2,
    ),
    Mutant(
        "strangers-stand",
        "learners and those who left want to lead",
        ("configuration.candidate",),
        patches=((Common, "is_voter", True),),
        first_seed=4,
    ),
    Mutant(
        "leaves-in-silence",
        "who is no member any more does not say so",
        ("configuration.removed",),
        patches=((Common, "_is_committed_member", lambda _common: True),),
        first_seed=2,
    ),
    Mutant(
        "votes-again-after-a-snapshot",
        "with its old log a node forgets its vote",
        ("snapshot.hard_state", "memory.", "disk.vote", "two_votes"),
        patches=((node.snapshots, "hard_state_after_snapshot", _forget_the_vote),),
        first_seed=3,
    ),
    Mutant(
        "votes-again-after-a-repair",
        "a store that is made anew has no vote in it",
        ("memory.", "disk.vote", "two_votes"),
        patches=((node.storage.rebuild, "hard_state_after_snapshot", _forget_the_vote),),
        first_seed=78,
    ),
    Mutant(
        "never-probes",
        "a leader does not go back after a refused append",
        ("liveness",),
        patches=((Progress, "probe_from", _never_probe),),
    ),
)


def main(names: Sequence[str]) -> int:
    """Hunt every mutant, or those whose names begin so; return how many were not found."""
    missed = 0
    for mutant in MUTANTS:
        if names and not mutant.name.startswith(tuple(names)):
            continue
        found = mutant.hunt(mutant.first_seed)
        if found is None:
            missed += 1
            print(f"{mutant.name}: NOT FOUND in {mutant.seeds_max} seeds", flush=True)
        else:
            seed, error = found
            text = str(error).partition("\n")[0][:140]
            print(f"{mutant.name}: seed {seed}, {type(error).__name__}: {text}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
