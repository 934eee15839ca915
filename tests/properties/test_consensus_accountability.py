"""Who follows the rules signs nothing that convicts it, whatever liars send (docs/spec/consensus.md 8)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.config import Role
from consensus.effects import EntriesRefused
from consensus.messages import AppendReply, Entry, NodeId, PreVoteReply, RequestVote, Vote
from tests.testkit.raft_bench import Bench, Seen, end_of
from tests.testkit.raft_sim import GENESIS, make_entry, prev_hash_of
from wire.hashing import Digest


class Notary:
    """Keeps everything the validator ever signed, and looks for the three offences."""

    def __init__(self, bench: Bench, blocks: dict[Digest, Entry]) -> None:
        self.bench = bench
        self.blocks = blocks
        self.requests: dict[tuple[NodeId, int], list[RequestVote]] = {}
        self.votes: dict[int, set[tuple[NodeId, int, int, Digest]]] = {}
        self.acknowledged: dict[int, set[Digest]] = {}

    def take(self, seen: Seen) -> None:
        for receiver, message in seen.messages:
            match message:
                case Vote(term, True, _, _):
                    # The request that was answered: the liar may have sent several in one term.
                    requests = self.requests[self.bench.ids[receiver], term]
                    signed = [request for request in requests if self.bench.is_signed(message, request)]
                    assert signed
                    for request in signed:
                        self._vote(term, request)
                case RequestVote():
                    self._vote(message.term, message)
                case AppendReply():
                    for acknowledgement in message.acknowledgements:
                        assert self.bench.disk.log[acknowledgement.height - 1].block_hash == acknowledgement.block_hash
                        self.acknowledged.setdefault(message.term, set()).add(acknowledgement.block_hash)
                case _:
                    pass

    def _vote(self, term: int, request: RequestVote) -> None:
        vote = (request.candidate, request.last_term, request.last_height, request.last_hash)
        self.votes.setdefault(term, set()).add(vote)

    def check(self) -> None:
        for votes in self.votes.values():
            assert len(votes) == 1, "double vote"
        for term, acknowledged in self.acknowledged.items():
            positions = [(term, self.blocks[block_hash].height) for block_hash in acknowledged]
            for later, votes in self.votes.items():
                for _, last_term, last_height, _ in votes:
                    if later > term:
                        assert (last_term, last_height) >= max(positions), "forgotten acknowledgement"
            highest = max((self.blocks[block_hash] for block_hash in acknowledged), key=lambda entry: entry.height)
            assert acknowledged <= self._ancestry(highest), "acknowledged against itself in one term"

    def _ancestry(self, entry: Entry | None) -> set[Digest]:
        found = set()
        while entry is not None:
            found.add(entry.block_hash)
            entry = self.blocks.get(prev_hash_of(entry))
        return found


ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 2), st.sampled_from([0, 0, 0, 1]), st.integers(0, 4), st.booleans()),
    st.tuples(st.just("append"), st.integers(1, 2), st.sampled_from([0, 0, 0, 1]), st.integers(0, 4), st.just(True)),
    st.tuples(st.just("request"), st.integers(1, 2), st.integers(0, 1), st.integers(0, 4)),
    st.tuples(st.sampled_from(["write", "refuse", "timeout", "support", "crash"])),
)


@st.composite
def forests(draw: st.DrawFn) -> list[list[Entry]]:
    """Draw a few chains that fork from each other anywhere, as only liars could make them."""
    chains: list[list[Entry]] = [[]]
    for salt in range(4):
        base = chains[draw(st.integers(0, len(chains) - 1))]
        chain = base[: draw(st.integers(0, len(base)))]
        term, height, parent = end_of(chain)
        for rise in draw(st.lists(st.integers(0, 2), min_size=1, max_size=2)):
            term, height = max(term + rise, 1), height + 1
            chain = [*chain, make_entry(term, height, parent, b"%d" % salt)]
            parent = chain[-1].block_hash
        chains.append(chain)
    return chains


@settings(max_examples=500)
@given(chains=forests(), actions=st.lists(ACTIONS, min_size=3, max_size=20))
def test_no_lie_makes_an_honest_validator_sign_evidence_against_itself(
    chains: list[list[Entry]], actions: list[tuple[object, ...]]
) -> None:
    bench = Bench(3)
    notary = Notary(bench, {entry.block_hash: entry for chain in chains for entry in chain})
    for action in actions:
        match action:
            case ("append", int(index), int(ahead), int(which), bool(write)):
                chain = chains[which]
                message = bench.append(index, max(bench.term, end_of(chain)[0]) + ahead or 1, chain, 0)
                notary.take(bench.receive(message, write=write))
            case ("request", int(index), int(ahead), int(which)):
                request = bench.request_vote(index, bench.term + ahead or 1, chains[which], transfer=True)
                notary.requests.setdefault((request.candidate, request.term), []).append(request)
                notary.take(bench.receive(request, write=False))
            case ("write",):
                notary.take(bench.write(1))
            case ("refuse",) if bench.pending and bench.pending[0][0].entries:
                persist, _ = bench.pending[0]
                # The writer's rule 4, for a first block that is refused: the hard states are written, no blocks are.
                hard_states = [persist.hard_state for persist, _ in bench.pending]
                bench.pending.clear()
                bench.disk.hard_state = next((h for h in reversed(hard_states) if h is not None), bench.disk.hard_state)
                notary.take(bench.step(bench.persisted(), write=False))
                entry = persist.entries[0]
                notary.take(bench.step(EntriesRefused(entry.height, entry.block_hash, "refused"), write=False))
            case ("timeout",):
                notary.take(bench.tick(10, write=False))
            case ("support",) if bench.role is Role.PRECANDIDATE:
                notary.take(bench.receive(PreVoteReply(bench.term + 1, True, bench.ids[1]), write=False))
            case ("crash",):
                bench.restart()
            case _:
                pass
        notary.check()
    notary.take(bench.write())
    notary.check()
    assert bench.disk.log == [] or prev_hash_of(bench.disk.log[0]) == GENESIS
