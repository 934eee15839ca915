"""A machine that governs at random: whatever was decided, some proposal can still pass, and the ledger's state is the model's."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger import actions, bodies
from ledger.actions import THRESHOLDS, Administrator
from ledger.quorum import find_acting_administrator, votes_needed
from ledger.records import EXECUTED, OPEN
from ledger.transaction import Transaction
from tests.testkit.ledger import Chain, key_of, make_genesis, validator
from wire.keys import KeyId, PrivateKey

ORGANISATIONS = ("acme", "beta", "gamma", "delta")
NAMES = st.sampled_from(ORGANISATIONS)
NUMBERS = st.integers(0, 7)


class Governance(RuleBasedStateMachine):
    """Organisations whose administrators come, go, lose keys and vote; validators that come and go with them."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(make_genesis(validators=2, organisations=["acme", "beta", "gamma"]))
        self.private: dict[KeyId, PrivateKey] = {}
        self.fresh = 0
        self.open: list[bytes] = []

    @initialize()
    def founded(self) -> None:
        for name in ("ada@acme", "ben@beta", "gil@gamma"):
            self.private[key_of(name).public_key.key_id] = key_of(name)

    # Who can speak

    def speaker(self, organisation: str) -> tuple[str, PrivateKey] | None:
        """Return an administrator of the organisation with a key that counts in the next block."""
        view, height = self.chain.view, self.chain.height + 1
        if view.organisation_status(organisation) != "active" or view.organisation(organisation) is None:
            return None
        identity_id = find_acting_administrator(view, organisation, height, {})
        if identity_id is None:
            return None
        identity = view.identity(identity_id)
        assert identity is not None
        for key_id in identity.key_ids:
            key = view.key(key_id)
            assert key is not None
            if key.is_valid_at(height):
                return identity_id, self.private[key_id]
        raise AssertionError("an acting administrator has a key")

    def sign(self, body: bodies.Body, organisation: str) -> Transaction | None:
        speaker = self.speaker(organisation)
        return None if speaker is None else self.chain.sign(body, speaker[0], key=speaker[1])

    def attempt(self, body: bodies.Body, organisation: str) -> Transaction | None:
        """Let the organisation say it where it can; return the transaction if it was executed."""
        transaction = self.sign(body, organisation)
        if transaction is None:
            return None
        built = self.chain.build(transaction)
        self.chain.apply(built.block)
        return None if built.refused else transaction

    def new_key(self) -> PrivateKey:
        self.fresh += 1
        key = key_of(f"governed {self.fresh}")
        self.private[key.public_key.key_id] = key
        return key

    def administrator(self, organisation: str) -> Administrator:
        key = self.new_key()
        return Administrator(f"a{self.fresh}@{organisation}", "A", key.public_key.spki)

    def some_key(self, organisation: str, which: int) -> KeyId | None:
        found = [
            key_id
            for identity in self.chain.view.identities()
            if identity.organisation == organisation
            for key_id in identity.key_ids
        ]
        return found[which % len(found)] if found else None

    # What they say

    def propose(self, action: actions.Action | None, by: str) -> None:
        if action is None:
            return
        made = self.attempt(bodies.ProposalCreate(action, ""), by)
        if made is not None:
            self.open.append(made.tx_id)

    @rule(by=NAMES, about=NAMES, which=NUMBERS, back=st.integers(0, 9))
    def propose_revocation(self, by: str, about: str, which: int, back: int) -> None:
        key_id = self.some_key(about, which)
        if key_id is not None:
            self.propose(actions.RevokeKey(key_id, max(0, self.chain.height + 1 - back), "why"), by)

    @rule(by=NAMES, threshold=st.sampled_from(THRESHOLDS))
    def propose_threshold(self, by: str, threshold: str) -> None:
        self.propose(actions.SetThreshold(threshold), by)

    @rule(by=NAMES, about=NAMES, kind=st.sampled_from(["suspend", "resume", "remove", "add", "administrator"]))
    def propose_about_an_organisation(self, by: str, about: str, kind: str) -> None:
        action: actions.Action
        match kind:
            case "suspend":
                action = actions.SuspendOrganisation(about, "why")
            case "resume":
                action = actions.ResumeOrganisation(about)
            case "remove":
                action = actions.RemoveOrganisation(about, "why")
            case "add":
                action = actions.AddOrganisation(about, "O", (self.administrator(about),), ())
            case _:
                action = actions.AddAdministrator(about, self.administrator(about))
        self.propose(action, by)

    @rule(by=NAMES, index=st.integers(1, 4), kind=st.sampled_from(["learn", "promote", "remove", "replace"]))
    def propose_about_a_validator(self, by: str, index: int, kind: str) -> None:
        action: actions.Action
        match kind:
            case "learn":
                action = actions.AddLearner(validator(index, ORGANISATIONS[index % 4]))
            case "promote":
                action = actions.PromoteLearner(f"v{index}")
            case "remove":
                action = actions.RemoveValidator(f"v{index}")
            case _:
                action = actions.ReplaceValidator(f"v{index}", f"v{index % 4 + 1}")
        self.propose(action, by)

    @rule(by=NAMES, limits=st.sampled_from([(4096, 65536, 8), (1 << 20, 4 << 20, 1000)]))
    def propose_limits(self, by: str, limits: tuple[int, int, int]) -> None:
        self.propose(actions.SetLimits(*limits), by)

    @rule(which=NUMBERS, approve=st.booleans())
    def vote(self, which: int, approve: bool) -> None:
        """Every organisation that can casts the same vote on one of the open proposals, as far as that goes."""
        if not self.open:
            return
        proposal_id = self.open[which % len(self.open)]
        for organisation in ORGANISATIONS:
            self.attempt(bodies.ProposalVote(proposal_id, approve), organisation)
        self.open = [each for each in self.open if (record := self.chain.view.proposal(each)) and record.status == OPEN]

    @rule(by=NAMES, which=NUMBERS)
    def vote_alone(self, by: str, which: int) -> None:
        if self.open:
            self.attempt(bodies.ProposalVote(self.open[which % len(self.open)], True), by)

    @rule(
        by=NAMES,
        which=NUMBERS,
        kind=st.sampled_from(["register", "suspend", "rotate", "revoke key", "revoke", "demote"]),
    )
    def change_an_identity(self, by: str, which: int, kind: str) -> None:
        """What an organisation does to its own people; it keeps itself an administrator by `ledger.identity.last_administrator`."""
        people = [each for each in self.chain.view.identities() if each.organisation == by]
        key_id = self.some_key(by, which)
        if not people or key_id is None:
            return
        person = people[which % len(people)].identity_id
        body: bodies.Body
        match kind:
            case "register":
                new = self.administrator(by)
                body = bodies.IdentityRegister(new.identity_id, "A", ("administrator",), new.spki)
            case "suspend":
                body = bodies.IdentitySuspend(person, "why")
            case "rotate":
                body = bodies.IdentityRotateKey(people[0].identity_id, key_id, self.new_key().public_key.spki)
            case "revoke key":
                body = bodies.IdentityRevoke(people[0].identity_id, key_id, self.chain.height, "why")
            case "revoke":
                body = bodies.IdentityRevoke(person, None, self.chain.height, "why")
            case _:
                body = bodies.IdentityUpdateRoles(person, ("auditor",))
        self.attempt(body, by)

    @rule()
    def settle(self) -> None:
        if self.chain.view.configuration().is_joint:
            settlement = self.chain.sign_settlement()
            self.chain.commit(settlement)

    # What must hold

    @invariant()
    def a_proposal_can_pass(self) -> None:
        """It is made and voted for in one block that is built and thrown away; whoever can vote does."""
        view = self.chain.view
        governance = view.governance()
        able = [name for name in governance.organisations if self.speaker(name) is not None]
        needed = votes_needed(governance.threshold, len(governance.organisations))
        assert 1 <= needed <= len(able)
        version = view.policy_version().version
        proposed = self.sign(bodies.ProposalCreate(actions.SetPolicy(f"{version}", ()), ""), able[0])
        assert proposed is not None
        votes = [self.sign(bodies.ProposalVote(proposed.tx_id, True), name) for name in able[:needed]]
        built = self.chain.build(proposed, *(each for each in votes if each is not None))
        assert not built.refused
        assert not built.left
        assert built.executed.block.header.policy_hash != view.header.policy_hash

    @invariant()
    def only_members_vote(self) -> None:
        view = self.chain.view
        active = {each.name for each in view.organisations() if view.organisation_status(each.name) == "active"}
        assert set(view.governance().organisations) == active
        removed = {each.name for each in view.organisations() if view.organisation_status(each.name) == "removed"}
        assert not removed & {each.organisation for each in view.configuration().nodes}
        assert all(record.status != EXECUTED or record.closed_height for record in view.proposals())


Governance.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestGovernance = Governance.TestCase
