"""Ranges from several sources: every height is asked for, handed on once and in order, whoever fails."""

from __future__ import annotations

import random

from node.sync import CertifiedBlock
from node.sync_ranges import HEDGE_S, RANGE_BLOCKS, WINDOW_BLOCKS, WINDOW_BYTES, Job, RangePlan
from tests.testkit.sync import key_id_named
from wire.keys import KeyId

A, B, C = (key_id_named(name) for name in "abc")


def blocks(count: int, size: int = 10) -> list[CertifiedBlock]:
    return [CertifiedBlock(bytes(size), None)] * count


def ask(plan: RangePlan, source: KeyId, head: int, *, head_max: int | None = None, **more: float) -> Job | None:
    return plan.next_job(
        source,
        head=head,
        head_max=head if head_max is None else head_max,
        certified=int(more.get("certified", 0)),
        now=more.get("now", 0.0),
        may_wait=bool(more.get("may_wait", True)),
    )


def test_sources_get_ranges_beside_each_other() -> None:
    plan = RangePlan(0)
    assert ask(plan, A, 200) == Job(1, RANGE_BLOCKS)
    assert ask(plan, B, 200) == Job(RANGE_BLOCKS + 1, 2 * RANGE_BLOCKS)
    assert ask(plan, C, 150) == Job(2 * RANGE_BLOCKS + 1, 150)
    plan.deliver(B, blocks(RANGE_BLOCKS))
    assert plan.take() is None, "what comes before it is not here"
    plan.deliver(A, blocks(RANGE_BLOCKS))
    first, second = plan.take(), plan.take()
    assert first is not None
    assert second is not None
    assert (first.start, first.source, second.start, second.source) == (1, A, RANGE_BLOCKS + 1, B)
    assert plan.next_height == 2 * RANGE_BLOCKS + 1


def test_what_a_source_has_left_undone_is_asked_of_another() -> None:
    plan = RangePlan(10)
    assert ask(plan, A, 100) == Job(11, 74)
    plan.release(A)
    assert ask(plan, B, 100) == Job(11, 74)
    plan.deliver(B, blocks(4))
    assert ask(plan, A, 100) == Job(15, 78), "the answer was cut short"
    plan.deliver(A, [])
    assert ask(plan, A, 100) == Job(15, 78)


def test_a_gap_between_what_is_here_is_asked_for_and_nothing_of_the_rest() -> None:
    plan = RangePlan(0)
    ask(plan, A, 1000)
    assert ask(plan, B, 1000) == Job(65, 128)
    plan.deliver(B, blocks(64))
    plan.deliver(A, blocks(60))
    assert ask(plan, C, 1000) == Job(61, 64)


def test_above_all_heads_one_source_waits_for_what_comes() -> None:
    plan = RangePlan(5)
    assert ask(plan, A, 5) == Job(6, None)
    assert plan.tail_source == A
    assert ask(plan, B, 5) is None
    plan.deliver(A, blocks(2))
    assert plan.tail_source is None
    assert ask(plan, B, 5) == Job(8, None), "while the first two are executed"


def test_nobody_waits_who_may_not_or_while_another_has_more() -> None:
    plan = RangePlan(5)
    assert ask(plan, A, 5, may_wait=False) is None
    assert ask(plan, A, 5, head_max=7) is None
    assert ask(plan, B, 7) == Job(6, 7)


def test_when_the_tail_takes_long_who_has_more_is_asked() -> None:
    plan = RangePlan(5)
    assert ask(plan, A, 5) == Job(6, None)
    assert ask(plan, B, 9, now=HEDGE_S / 2) is None
    assert ask(plan, B, 9, now=HEDGE_S) == Job(6, 9)


def test_when_the_tail_takes_long_and_more_is_certified_a_second_one_is_asked() -> None:
    plan = RangePlan(5)
    assert ask(plan, A, 5) == Job(6, None)
    assert ask(plan, B, 5, now=HEDGE_S, certified=5) is None
    assert ask(plan, B, 5, now=HEDGE_S, certified=6) == Job(6, None)
    assert ask(plan, C, 5, now=HEDGE_S, certified=6) is None, "the second one gets as much time"
    plan.deliver(B, blocks(1))
    plan.deliver(A, blocks(1))
    assert plan.take() is not None
    assert plan.take() is None, "the same block twice is one block"


def test_what_everything_waits_for_is_asked_of_a_second_source() -> None:
    plan = RangePlan(0)
    assert ask(plan, A, 64) == Job(1, 64)
    assert ask(plan, B, 64, now=HEDGE_S / 2) is None
    assert ask(plan, B, 0, head_max=64, now=HEDGE_S) is None, "it has nothing of it"
    assert ask(plan, B, 63, now=HEDGE_S) == Job(1, 63)
    assert ask(plan, C, 63, now=1.5 * HEDGE_S) is None
    assert ask(plan, C, 63, now=2 * HEDGE_S) == Job(1, 63), "both take long"


def test_a_range_that_is_here_is_not_asked_for_again() -> None:
    plan = RangePlan(0)
    ask(plan, A, 64)
    plan.deliver(A, blocks(64))
    assert ask(plan, B, 64, now=10 * HEDGE_S) == Job(65, None)


def test_the_window_bounds_blocks_and_bytes() -> None:
    plan = RangePlan(0)
    sources = [key_id_named(f"s{number}") for number in range(100)]
    asked = [job for source in sources if (job := ask(plan, source, 10**9)) is not None]
    assert asked[-1].end == WINDOW_BLOCKS
    assert len(asked) == WINDOW_BLOCKS // RANGE_BLOCKS
    plan = RangePlan(0)
    assert ask(plan, A, 10**9) == Job(1, 64)
    assert ask(plan, B, 10**9) == Job(65, 128)
    plan.deliver(B, blocks(64, size=WINDOW_BYTES // 64 + 1))
    assert ask(plan, B, 10**9) is None
    plan.release(A)
    assert ask(plan, B, 10**9) == Job(1, 64), "what is wanted next is always asked for"


def test_what_did_not_hold_is_wanted_again_and_nothing_of_a_liar_is_used() -> None:
    plan = RangePlan(0)
    for source in (A, B, C):
        ask(plan, source, 1000)
    for source in (A, B, C):
        plan.deliver(source, blocks(64))
    assert ask(plan, A, 1000) == Job(193, 256)
    taken = plan.take()
    assert taken is not None
    assert taken.source == A
    plan.go_back(10)
    plan.forget(A)
    assert plan.take() is None
    assert ask(plan, B, 1000) == Job(11, 64)
    assert ask(plan, C, 1000) == Job(193, 256), "what the others sent stays"
    plan.deliver(A, blocks(64))
    assert plan.take() is None, "an answer that nobody counts on any more"


def test_whatever_happens_each_height_is_handed_on_once_and_in_order() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        plan, height, goal = RangePlan(0), 0, 700
        sources = [key_id_named(f"s{number}") for number in range(4)]
        open_jobs: dict[KeyId, Job] = {}
        now = 0.0
        for _ in range(3000):
            now += chance.random()
            source = chance.choice(sources)
            if source not in open_jobs:
                head = chance.choice((goal, goal - 100, height))
                job = plan.next_job(source, head=head, head_max=goal, certified=goal, now=now)
                if job is not None:
                    assert job.end is None or job.end > height
                    open_jobs[source] = job
            elif chance.random() < 0.2:
                plan.release(source)
                del open_jobs[source]
            else:
                job = open_jobs.pop(source)
                end = goal if job.end is None else job.end
                plan.deliver(source, blocks(chance.randint(0, max(0, end - job.start + 1))))
            while (batch := plan.take()) is not None:
                assert batch.start <= height + 1 <= batch.end
                if chance.random() < 0.1:
                    plan.go_back(height)
                    plan.forget(batch.source)
                    open_jobs.pop(batch.source, None)
                else:
                    height = batch.end
            if height >= goal:
                break
        assert height == goal, f"seed {seed}"
