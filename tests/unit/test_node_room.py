"""A leader with a nearly full disk gives leadership away, once in a while and not for ever."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from node.room import AGAIN_S, CHECK_S, lead_only_with_room


class Leader:
    """A node that leads, or does not, on a disk that is full, or is not; it writes down when it handed leadership over."""

    def __init__(self, *, leads: bool = True, has_space: bool = False, takes: bool = True) -> None:
        self.leads = leads
        self.space = has_space
        self.takes = takes
        self.handed_over: list[float] = []

    async def hand_over(self) -> bool:
        self.handed_over.append(round(trio.current_time() - self.began, 3))
        self.leads = not self.takes
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


async def test_who_leads_again_without_room_hands_over_again_only_after_a_while(autojump_clock: MockClock) -> None:
    leader = Leader(takes=False)
    await leader.run_for(2 * AGAIN_S)
    assert leader.handed_over == [CHECK_S, CHECK_S + AGAIN_S + CHECK_S]
