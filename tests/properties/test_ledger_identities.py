"""A machine that registers, changes, suspends, rotates and revokes at random, beside a plain model of what must be true."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger import bodies
from ledger.keyspace import identity_key
from ledger.state_tree import prove, read_root, verify_state_proof
from tests.testkit.ledger import Chain, key_of, make_genesis
from wire.keys import PrivateKey

PEOPLE = ("ada@acme", "p1@acme", "p2@acme", "p3@acme")
ROLES = (("developer",), ("host",), ("administrator",), ("administrator", "developer"))


@dataclass
class Person:
    """What the model knows about one person."""

    roles: tuple[str, ...]
    status: str = "active"
    keys: list[PrivateKey] = field(default_factory=list)
    added: dict[PrivateKey, int] = field(default_factory=dict)
    ended: dict[PrivateKey, int] = field(default_factory=dict)
    retired: set[PrivateKey] = field(default_factory=set)

    def counts(self, key: PrivateKey, height: int) -> bool:
        return self.added[key] <= height <= self.ended.get(key, height)

    def can_act(self, height: int) -> bool:
        return self.status == "active" and any(self.counts(key, height) for key in self.keys)


class Identities(RuleBasedStateMachine):
    """One organisation; whoever is an administrator with a valid key signs; the model says what must come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(make_genesis(validators=1, organisations=["acme"]))
        self.model: dict[str, Person] = {}
        self.fresh = 0

    @initialize()
    def founded(self) -> None:
        key = key_of("ada@acme")
        self.model["ada@acme"] = Person(("administrator",), keys=[key], added={key: 0})

    def administrators(self, height: int) -> list[str]:
        return sorted(
            name for name, person in self.model.items() if "administrator" in person.roles and person.can_act(height)
        )

    def attempt(self, body: bodies.Body) -> str | None:
        """Let the first administrator who can act say it; return None or the code of the refusal."""
        height = self.chain.height + 1
        by = self.administrators(height)[0]
        person = self.model[by]
        key = next(key for key in person.keys if person.counts(key, height))
        transaction = self.chain.sign(body, by, key=key)
        built = self.chain.build(transaction)
        if built.refused:
            return built.refused[0][1].code
        self.chain.apply(built.block)
        return None

    def leaves_nobody(self, name: str, **changes: object) -> bool:
        """Return whether nobody could act after the person changed like this; nothing is changed."""
        person = self.model[name]
        before = {key: getattr(person, key) for key in changes}
        for key, value in changes.items():
            setattr(person, key, value)
        empty = not self.administrators(self.chain.height + 2)
        for key, value in before.items():
            setattr(person, key, value)
        return empty

    @rule(name=st.sampled_from(PEOPLE), roles=st.sampled_from(ROLES))
    def register(self, name: str, roles: tuple[str, ...]) -> None:
        self.fresh += 1
        key = key_of(f"fresh {self.fresh}")
        code = self.attempt(bodies.IdentityRegister(name, name, roles, key.public_key.spki))
        if name in self.model:
            assert code == "ledger.identity.exists"
        else:
            assert code is None
            self.model[name] = Person(roles, keys=[key], added={key: self.chain.height})

    @rule(name=st.sampled_from(PEOPLE), roles=st.sampled_from(ROLES))
    def update_roles(self, name: str, roles: tuple[str, ...]) -> None:
        person = self.model.get(name)
        last = person is not None and self.leaves_nobody(name, roles=roles)
        code = self.attempt(bodies.IdentityUpdateRoles(name, roles))
        if person is None:
            assert code == "ledger.identity.not_found"
        elif person.status == "revoked":
            assert code == "ledger.identity.revoked"
        elif last:
            assert code == "ledger.identity.last_administrator"
        else:
            assert code is None
            person.roles = roles

    @rule(name=st.sampled_from(PEOPLE))
    def suspend(self, name: str) -> None:
        person = self.model.get(name)
        last = person is not None and self.leaves_nobody(name, status="suspended")
        code = self.attempt(bodies.IdentitySuspend(name, "why"))
        if person is None:
            assert code == "ledger.identity.not_found"
        elif person.status == "revoked":
            assert code == "ledger.identity.revoked"
        elif person.status == "suspended":
            assert code == "ledger.identity.not_active"
        elif last:
            assert code == "ledger.identity.last_administrator"
        else:
            assert code is None
            person.status = "suspended"

    @rule(name=st.sampled_from(PEOPLE))
    def resume(self, name: str) -> None:
        person = self.model.get(name)
        code = self.attempt(bodies.IdentityResume(name))
        if person is None:
            assert code == "ledger.identity.not_found"
        elif person.status == "revoked":
            assert code == "ledger.identity.revoked"
        elif person.status == "active":
            assert code == "ledger.identity.not_suspended"
        else:
            assert code is None
            person.status = "active"

    @rule(name=st.sampled_from(PEOPLE), which=st.integers(0, 3))
    def rotate(self, name: str, which: int) -> None:
        person = self.model.get(name)
        if person is None:
            return
        old = person.keys[which % len(person.keys)]
        self.fresh += 1
        new = key_of(f"fresh {self.fresh}")
        code = self.attempt(bodies.IdentityRotateKey(name, old.public_key.key_id, new.public_key.spki))
        if person.status == "revoked":
            assert code == "ledger.identity.revoked"
        elif old in person.retired:
            assert code == "ledger.identity.key_retired"
        else:
            assert code is None
            height = self.chain.height
            person.ended[old] = min(person.ended.get(old, height), height)
            person.retired.add(old)
            person.keys.append(new)
            person.added[new] = height

    @rule(name=st.sampled_from(PEOPLE), which=st.integers(0, 3), back=st.integers(0, 4))
    def revoke_key(self, name: str, which: int, back: int) -> None:
        person = self.model.get(name)
        if person is None:
            return
        key = person.keys[which % len(person.keys)]
        last_valid = max(0, self.chain.height + 1 - back)
        record = self.chain.view.key(key.public_key.key_id)
        assert record is not None
        before = record.last_valid_height
        ended = {**person.ended, key: min(person.ended.get(key, last_valid), last_valid)}
        last = self.leaves_nobody(name, ended=ended)
        code = self.attempt(bodies.IdentityRevoke(name, key.public_key.key_id, last_valid, "why"))
        if before is not None and before <= last_valid:
            assert code == "ledger.identity.already_revoked"
        elif last:
            assert code == "ledger.identity.last_administrator"
        else:
            assert code is None
            person.ended = ended

    @rule(name=st.sampled_from(PEOPLE[1:]))
    def revoke_identity(self, name: str) -> None:
        person = self.model.get(name)
        if person is None or person.status == "revoked":
            return
        height = self.chain.height + 1
        last = self.leaves_nobody(name, status="revoked")
        code = self.attempt(bodies.IdentityRevoke(name, None, height, "why"))
        if last:
            assert code == "ledger.identity.last_administrator"
        else:
            assert code is None
            person.status = "revoked"
            person.ended = {key: min(person.ended.get(key, height), height) for key in person.keys}

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        view = self.chain.view
        for name, person in self.model.items():
            record = view.identity(name)
            assert record is not None
            assert (record.roles, record.status) == (person.roles, person.status)
            assert list(record.key_ids) == [key.public_key.key_id for key in person.keys]
            for key in person.keys:
                on_ledger = view.key(key.public_key.key_id)
                assert on_ledger is not None
                assert on_ledger.identity_id == name
                for height in range(self.chain.height + 3):
                    assert on_ledger.is_valid_at(height) == person.counts(key, height)

    @invariant()
    def somebody_can_always_act(self) -> None:
        if self.model:
            assert self.administrators(self.chain.height + 1)

    @invariant()
    def only_those_who_may_get_anything_in(self) -> None:
        """Everybody tries with every key: what happens is what the model says about that key now."""
        height = self.chain.height + 1
        for name, person in self.model.items():
            for key in person.keys:
                transaction = self.chain.sign(bodies.HostReport("inventory", "t", b""), name, key=key)
                built = self.chain.build(transaction)
                code = built.refused[0][1].code if built.refused else None
                if not person.counts(key, height):
                    assert code == "ledger.tx.key_not_valid"
                elif person.status != "active":
                    assert code == f"ledger.tx.signer_{person.status}"
                elif "host" not in person.roles:
                    assert code == "ledger.tx.not_authorised"
                else:
                    assert code is None

    @invariant()
    def the_root_proves_it(self) -> None:
        header = self.chain.view.header
        assert read_root(self.chain.store) == header.state_root
        for name in PEOPLE:
            proof = prove(self.chain.store, identity_key(name))
            assert (proof.value is not None) == (name in self.model or name == "ada@acme")
            verify_state_proof(proof, header.state_root)


Identities.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestIdentities = Identities.TestCase
