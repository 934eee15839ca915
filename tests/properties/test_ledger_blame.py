"""Networks in which some validators lie, from seeds: honest ones accept nothing invalid, and every fork convicts liars and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from consensus.common import Common
from ledger import execution, transition
from ledger.blame_history import FollowedHistory
from tests.testkit.byzantine import Actor, Outcome, World, judge, play

SEEDS = 30
"""Of the thousands that are played by hand (docs/testing.md)."""


def test_every_fork_convicts_liars_and_nobody_else() -> None:
    total = Outcome()
    for seed in range(SEEDS):
        total.add(play(seed))
    # The play itself asserts what must not happen; here is shown that it was about something.
    assert total.forks == total.blamed > 0
    assert total.forged > SEEDS
    assert total.commits > SEEDS
    assert total.honest_forks > 0
    assert total.snapshots > 0
    assert total.changed_twice > 0
    assert len(total.kinds) >= 5


@pytest.mark.parametrize("seed", range(5))
def test_without_liars_there_are_no_forks_and_no_proofs(seed: int) -> None:
    world = World(seed, liars=0)
    world.run()
    outcome = judge(world)
    assert (outcome.forks, outcome.honest_forks, outcome.kinds, outcome.forged) == (0, 0, {}, 0)


@pytest.mark.parametrize("seed", range(3))
def test_when_all_lie_somebody_is_convicted(seed: int) -> None:
    world = World(seed, liars=5)
    assert not any(actor.is_honest for actor in world.actors)
    world.run()
    outcome = judge(world)
    assert outcome.forks == outcome.blamed


# The play is not blind: what honest validators or the judge do wrong, it finds.


def every_position_will_do(_self: Common, _position: tuple[int, int]) -> bool:
    return True


def nothing_is_wrong(*_: object) -> Iterator[object]:
    return iter(())


def forgets_its_last_block(crash: Callable[[Actor], None]) -> Callable[[Actor], None]:
    def crash_and_forget(self: Actor) -> None:
        crash(self)
        if self.is_honest and self.disk.last_height > self.disk.commit_height:
            self.disk.log.pop()

    return crash_and_forget


def keeps_nothing(_self: FollowedHistory, _block: object) -> None:
    return None


@pytest.mark.parametrize(
    ("owner", "name", "fault", "seed", "found"),
    [
        (Common, "is_up_to_date", every_position_will_do, 23, "convict the innocent"),
        (transition, "derived_refusals", nothing_is_wrong, 1, "an honest validator accepts a forged block"),
        (Actor, "crash", forgets_its_last_block(Actor.crash), 23, "convict the innocent"),
        (FollowedHistory, "_keep_votes", keeps_nothing, 13, "a fork convicts nobody"),
        (FollowedHistory, "_keep_acknowledgements", keeps_nothing, 21, "a fork convicts nobody"),
        (execution, "check_one_change", nothing_is_wrong, 17, "an honest validator accepts a forged block"),
    ],
    ids=[
        "votes for less",
        "does not compare roots",
        "forgets what it acknowledged",
        "a judge without votes",
        "without certificates",
        "changes who votes twice",
    ],
)
def test_a_planted_fault_is_found(  # noqa: PLR0917 - what is planted, where, and what tells
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, fault: object, seed: int, found: str
) -> None:
    monkeypatch.setattr(owner, name, fault)
    with pytest.raises(AssertionError, match=found):
        play(seed)
