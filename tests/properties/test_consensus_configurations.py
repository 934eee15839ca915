"""Which configuration rules at which height, against a twin that looks through the whole chain each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.membership import Configuration, ConfigurationAt, Configurations
from tests.testkit.raft_bench import rules

FOUNDERS = rules("012")


def steps_from(before: Configuration) -> list[Configuration]:
    """Return some configurations that a block may make of `before`."""
    keys = {digit: rules(digit).voters[0] for digit in "012345678"}
    learner = keys["8"] if before.learners == () else None
    learners = () if learner is None else (learner,)
    if before.incoming is not None:
        return [Configuration(before.incoming), Configuration(before.voters, before.incoming, learners)]
    joint = [
        Configuration(before.voters, tuple(keys[digit] for digit in after), ()) for after in ("012", "0123", "345", "1")
    ]
    return [Configuration(before.voters, None, learners), *joint]


class Twin:
    """The chain itself: for each block the configuration it makes, or None. Beside it what it is compared with."""

    def __init__(self) -> None:
        self.durable: list[Configuration | None] = []
        self.proposed: list[Configuration | None] = []
        self.commit_height = 0
        self.known = Configurations([(0, FOUNDERS)])

    def at(self, height: int) -> Configuration:
        for made in reversed([*self.durable, *self.proposed][:height]):
            if made is not None:
                return made
        return FOUNDERS

    @property
    def last_height(self) -> int:
        return len(self.durable) + len(self.proposed)

    def add(self, blocks: list[int], *, to: list[Configuration | None]) -> list[ConfigurationAt]:
        """Put blocks upon the last one, each with one of the possible changes or, if its number is negative, with none."""
        changes = []
        for block in blocks:
            options = steps_from(self.at(self.last_height))
            made = options[block % len(options)] if block >= 0 else None
            to.append(made)
            if made is not None:
                changes.append((self.last_height, made))
        return changes

    def write(self, blocks: list[int], truncate_from: int | None = None) -> None:
        """As a follower: what was proposed and not stored is gone by then."""
        self.withdraw()
        if truncate_from is not None:
            del self.durable[truncate_from - 1 :]
        self.known.note_written(truncate_from, self.add(blocks, to=self.durable), self.commit_height)

    def replace(self, blocks: list[int], number: int) -> None:
        """Replace blocks from somewhere above the commit height on."""
        if self.commit_height < len(self.durable):
            self.write(blocks, self.commit_height + 1 + number % (len(self.durable) - self.commit_height))

    def propose(self, blocks: list[int]) -> None:
        """As a leader."""
        for height, made in self.add(blocks, to=self.proposed):
            self.known.propose(height, made)

    def store(self, count: int) -> None:
        """The first proposed blocks are on disk now."""
        changes = []
        for made in self.proposed[:count]:
            self.durable.append(made)
            if made is not None:
                changes.append((len(self.durable), made))
        del self.proposed[:count]
        self.known.note_written(None, changes, self.commit_height)

    def withdraw(self) -> None:
        """Lead no more."""
        self.proposed.clear()
        self.known.withdraw()

    def commit(self, height: int) -> None:
        self.commit_height = max(self.commit_height, min(height, len(self.durable)))
        self.known.forget_below(self.commit_height)

    def compare(self) -> None:
        for height in range(self.commit_height, self.last_height + 1):
            assert self.known.at(height) == self.at(height)
        assert self.known.latest == self.at(self.last_height)
        for key in rules("012345678").voters:
            since = self.known.excluded_since(key.key_id)
            assert (since is None) is self.known.latest.is_member(key.key_id)
            if since is not None:
                assert not any(self.at(h).is_member(key.key_id) for h in range(since, self.last_height + 1))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "replace", "propose", "store", "withdraw", "commit"]),
        st.integers(0, 20),
        st.lists(st.integers(-3, 4), min_size=1, max_size=4),
    ),
    max_size=40,
)


@given(operations=OPERATIONS)
def test_a_configuration_rules_exactly_where_the_chain_says_so(operations: list[tuple[str, int, list[int]]]) -> None:
    twin = Twin()
    for name, number, blocks in operations:
        match name:
            case "write":
                twin.write(blocks)
            case "replace":
                twin.replace(blocks, number)
            case "propose":
                twin.propose(blocks)
            case "store":
                twin.store(len(blocks))
            case "withdraw":
                twin.withdraw()
            case _:
                twin.commit(number)
        twin.compare()
