"""Random histories of the validators beside a plain model; whatever happened, a stranger can follow it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ledger import actions, bodies
from ledger.audit import AuditLevel, Auditor
from ledger.configuration import Configuration, decode_configuration_untrusted
from ledger.configuration_history import build_configuration_proof
from ledger.keyspace import MemoryStore
from ledger.proofs import build_receipt, verify_receipt
from ledger.snapshot import SnapshotBuilder
from ledger.snapshot_install import SnapshotInstaller
from ledger.transition import execute_block
from tests.testkit.ledger import Chain, make_genesis, node_key, validator
from wire.certificate import majority

NODES = tuple(range(1, 8))
"""Names to play with; a name that comes back has a new key."""
nodes = st.sampled_from(NODES)


@dataclass
class Model:
    """Names of nodes by what they are."""

    voters: set[str]
    incoming: set[str] | None = None
    learners: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)

    def refusal(self, action: actions.ValidatorAction) -> str | None:
        """Return the end of the code with which the action is refused, or None."""
        if self.incoming is not None:
            return "configuration_busy"
        match action:
            case actions.AddLearner(learner):
                return "validator_name_exists" if learner.name in self.voters | self.learners else None
            case actions.PromoteLearner(name):
                return None if name in self.learners else "learner_not_found"
            case actions.RemoveValidator(name):
                if name in self.learners:
                    return None
                if name not in self.voters:
                    return "validator_not_found"
                return "last_validator" if len(self.voters) == 1 else None
            case actions.ReplaceValidator(name, learner):
                if name not in self.voters:
                    return "validator_not_found"
                return None if learner in self.learners else "learner_not_found"

    def apply(self, action: actions.ValidatorAction) -> None:
        match action:
            case actions.AddLearner(learner):
                self.learners.add(learner.name)
            case actions.PromoteLearner(name):
                self.incoming = self.voters | {name}
                self.learners.remove(name)
            case actions.RemoveValidator(name):
                if name in self.learners:
                    self.learners.remove(name)
                else:
                    self.incoming = self.voters - {name}
            case actions.ReplaceValidator(name, learner):
                self.incoming = self.voters - {name} | {learner}
                self.learners.remove(learner)

    def settle(self) -> None:
        assert self.incoming is not None
        self.leaving = self.voters - self.incoming
        self.voters, self.incoming = self.incoming, None


def decides(configuration: Configuration, names: set[str]) -> bool:
    """Return whether these nodes together decide, straight from the definition."""
    groups = [configuration.voters] + ([] if configuration.incoming is None else [configuration.incoming])
    return all(2 * len(names & {each.name for each in group}) > len(group) for group in groups)


class Membership(RuleBasedStateMachine):
    """Governance acts at random; leaders change; changes end at once, or much later, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(make_genesis(validators=3))
        self.chain.register("web1@acme", "host")
        self.model = Model({"v1", "v2", "v3"})
        self.incarnation = 0
        self.seen = [self.chain.view.configuration()]

    def attempt(self, action: actions.ValidatorAction) -> None:
        expected = self.model.refusal(action)
        creation = self.chain.sign(bodies.ProposalCreate(action, ""), "ada@acme")
        built = self.chain.build(creation)
        if expected is not None:
            ((_, error),) = built.refused
            assert error.code == f"ledger.proposal.{expected}"
            return
        self.chain.apply(built.block)
        self.chain.submit(bodies.ProposalVote(creation.tx_id, True), "ada@acme")
        self.chain.submit(bodies.ProposalVote(creation.tx_id, True), "ben@beta")
        self.model.apply(action)
        self.seen.append(self.chain.view.configuration())

    @rule(index=nodes)
    def add(self, index: int) -> None:
        self.incarnation += 1
        fresh = 1000 * self.incarnation + index
        learner = validator(fresh)
        # The name may be one of before; key and address are new.
        named = type(learner)(f"v{index}", learner.organisation, learner.spki, learner.address)
        self.chain.node_keys.append(node_key(fresh))
        self.attempt(actions.AddLearner(named))

    @rule(index=nodes)
    def promote(self, index: int) -> None:
        self.attempt(actions.PromoteLearner(f"v{index}"))

    @rule(index=nodes)
    def remove(self, index: int) -> None:
        self.attempt(actions.RemoveValidator(f"v{index}"))

    @rule(old=nodes, new=nodes)
    def replace(self, old: int, new: int) -> None:
        self.attempt(actions.ReplaceValidator(f"v{old}", f"v{new}"))

    @precondition(lambda self: self.model.incoming is not None)
    @rule()
    def settle(self) -> None:
        members = self.chain.view.configuration().members
        key = next(each for each in self.chain.node_keys if each.public_key.key_id in members)
        self.chain.commit(self.chain.sign_settlement(key))
        self.model.settle()
        self.seen.append(self.chain.view.configuration())

    @rule(choice=st.integers(0, 10**6))
    def elect(self, choice: int) -> None:
        proposers = self.chain.view.configuration().proposers
        able = [i for i, key in enumerate(self.chain.node_keys) if key.public_key.key_id in proposers]
        self.chain.elect(able[choice % len(able)])
        self.chain.submit(bodies.HostReport("drift", "site", b""), "web1@acme")

    @invariant()
    def the_leader_may_go_on(self) -> None:
        """Whoever leads is never a stranger, unless two changes ended since; then somebody else is elected."""
        leader = self.chain.node_keys[self.chain.leader].public_key.key_id
        if leader not in self.chain.view.configuration().proposers:
            self.elect(0)

    @invariant()
    def the_configuration_is_the_model_s(self) -> None:
        configuration = self.chain.view.configuration()
        parts = (configuration.voters, configuration.incoming, configuration.learners, configuration.leaving)
        names = [None if part is None else {each.name for each in part} for part in parts]
        model = self.model
        assert names == [model.voters, model.incoming, model.learners, model.leaving]
        assert self.chain.blocks[-1].header.validators_hash == configuration.hash
        assert decode_configuration_untrusted(configuration.encode()) == configuration
        signers = self.chain.signers(configuration)
        assert all(
            sum(key.public_key.key_id in group for key in signers) >= majority(len(group))
            for group in configuration.quorums
        )

    @invariant()
    def no_retired_key_is_a_member(self) -> None:
        configuration = self.chain.view.configuration()
        for retired in self.chain.view.retired_validators():
            assert all(each.spki != retired.spki for each in configuration.nodes)

    def teardown(self) -> None:
        """What a stranger sees of the whole history: receipts of every era, and audits at every level."""
        self.neighbours_share_a_validator()
        for block in self.chain.blocks[1:]:
            if block.transactions:
                row = build_configuration_proof(self.chain.store, block.header.height)
                assert row.configuration.hash == block.header.validators_hash
        for tx_id in self.chain.store.dump():
            if tx_id[0] == 4:  # TX_INDEX
                verify_receipt(build_receipt(self.chain.store, tx_id[1]), self.chain.genesis)
        for level in AuditLevel:
            auditor = Auditor(self.chain.genesis, level=level)
            for block in self.chain.blocks[1:]:
                auditor.feed(block.raw, self.chain.view.certificate(block.header.height))
            assert auditor.finish().findings == ()
        self.another_node_begins_here()

    def another_node_begins_here(self) -> None:
        """A snapshot of whatever came about leads another node to the same tip, and on from there."""
        builder = SnapshotBuilder(self.chain.store)
        chunks = list(builder.chunks())
        store = MemoryStore()
        installer = SnapshotInstaller(builder.manifest(), self.chain.genesis, store)
        for chunk in chunks:
            store.apply(installer.feed_untrusted(chunk))
        store.apply(installer.finish())
        block = self.chain.build(self.chain.sign(bodies.HostReport("drift", "site", b""), "web1@acme")).block
        assert execute_block(store, block, now_ms=None).block_hash == block.block_hash

    def neighbours_share_a_validator(self) -> None:
        """No two groups that may decide under configurations next to each other, or one apart where one was plain, are disjoint."""
        pairs = [*zip(self.seen, self.seen[1:], strict=False)]
        pairs += [
            (first, third)
            for first, second, third in zip(self.seen, self.seen[1:], self.seen[2:], strict=False)
            if first.is_joint and not second.is_joint and third.voters == second.voters
        ]
        for first, second in pairs:
            everybody = {each.name for each in (*first.nodes, *second.nodes)}
            by_key = {each.name: each.spki for each in first.nodes}
            # A name may belong to another key later: only pairs without such a name are compared by name.
            if any(by_key.get(each.name, each.spki) != each.spki for each in second.nodes):
                continue
            for size in range(len(everybody) + 1):
                for chosen in combinations(sorted(everybody), size):
                    group = set(chosen)
                    assert not (decides(first, group) and decides(second, everybody - group))


Membership.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestMembership = Membership.TestCase
