"""A leader with a nearly full disk gives leadership away, once in a while and not for ever."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from node.room import AGAIN_S, CHECK_S, RETRY_S, lead_only_with_room


class Leader:
    """A node that leads, or does not, on a disk that is full, or is not; it writes down when it handed leadership over."""

    def __init__(
        self, *, leads: bool = True, has_space: bool = False, takes: bool = True, comes_back: bool = False
    ) -> None:
        self.leads = leads
        self.space = has_space
        self.takes = takes
        self.comes_back = comes_back
        self.handed_over: list[float] = []

    async def hand_over(self) -> bool:
        self.handed_over.append(round(trio.current_time() - self.began, 3))
        self.leads = self.comes_back or not self.takes
        return self.takes

    async def run_for(self, seconds: float) -> None:
        self.began = trio.current_time()
        with trio.move_on_after(seconds):
            await lead_only_with_room(
                is_leader=lambda: self.leads,
                has_space=lambda: self.space,
                hand_over=self.hand_over,
                sleep=trio.sleep,
            )


async def test_leader_without_room_hands_leadership_over(autojump_clock: MockClock) -> None:
    leader = Leader()
    await leader.run_for(3 * CHECK_S)
    assert leader.handed_over == [CHECK_S]


async def test_leader_with_room_and_follower_without_do_nothing(autojump_clock: MockClock) -> None:
    for node in (Leader(has_space=True), Leader(leads=False)):
        await node.run_for(100)
        assert node.handed_over == []


async def test_where_no_disk_has_room_leadership_does_not_go_round(autojump_clock: MockClock) -> None:
    leader = Leader(comes_back=True)
    await leader.run_for(2 * AGAIN_S)
    assert leader.handed_over == [CHECK_S, CHECK_S + AGAIN_S]


async def test_a_disk_that_had_room_meanwhile_makes_no_leader_wait(autojump_clock: MockClock) -> None:
    """Without this a leader let nobody's transactions in for half a minute (30 minutes of faults, seed 20261122)."""
    leader = Leader(comes_back=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leader.run_for, 10 * CHECK_S)
        await trio.sleep(3.5 * CHECK_S)
        leader.space = True
        await trio.sleep(2 * CHECK_S)
        leader.space = False
    assert leader.handed_over == [CHECK_S, 6 * CHECK_S]


async def test_a_leader_that_nobody_relieves_tries_again_soon(autojump_clock: MockClock) -> None:
    leader = Leader(takes=False)
    await leader.run_for(2 * RETRY_S)
    assert leader.handed_over == [CHECK_S, CHECK_S + RETRY_S]
