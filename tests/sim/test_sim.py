"""The simulator as part of the tests: fixed seeds, seeds that failed once, fresh ones, and that a seed is a run.

Long runs are `make sim`; the figures of the longest stand in docs/testing.md.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.plan import NARROWINGS, Kind, Narrowing, draw_plan, narrow
from tests.sim.seeds import FAILED, QUICK
from tests.sim.shrink import Shrinker
from tests.sim.world import run_plan

REPOSITORY = Path(__file__).resolve().parents[2]
FRESH = 3


@pytest.mark.parametrize("seed", QUICK)
def test_everything_holds_in_a_fixed_run(seed: int) -> None:
    outcome = run_plan(draw_plan(seed))
    assert outcome.violation is None, f"python -m tests.sim --seed {seed}"
    assert outcome.counts["acknowledged"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", FAILED, ids=lambda seed: f"{seed}-{FAILED[seed].partition(':')[0].replace(' ', '_')}")
def test_a_seed_that_failed_once_holds(seed: int) -> None:
    outcome = run_plan(draw_plan(seed))
    assert outcome.violation is None, f"python -m tests.sim --seed {seed}"


@pytest.mark.parametrize("number", range(FRESH))
def test_everything_holds_in_a_fresh_run(number: int) -> None:
    del number
    seed = secrets.randbelow(10**9)
    print(f"replay: python -m tests.sim --seed {seed}")
    outcome = run_plan(draw_plan(seed))
    assert outcome.violation is None, f"python -m tests.sim --seed {seed}"


def test_a_seed_is_a_run_down_to_the_last_event() -> None:
    seed = QUICK[0]
    assert run_plan(draw_plan(seed)).trace.digest == run_plan(draw_plan(seed)).trace.digest


@pytest.mark.slow
def test_no_order_of_a_hash_table_reaches_a_run() -> None:
    """Trap 24: replicas with another PYTHONHASHSEED come to the same blocks, and the simulator to the same trace."""
    lines = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", str(QUICK[1])],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        lines.add(done.stdout.splitlines()[-1])
    (line,) = lines
    assert "trace" in line


def test_plans_of_many_seeds_have_every_kind_of_fault_and_leave_each_out_somewhere() -> None:
    plans = [draw_plan(seed) for seed in range(300)]
    for kind in Kind:
        having = sum(any(fault.kind is kind for fault in plan.faults) for plan in plans)
        assert 10 < having < 290, kind
    assert {plan.size for plan in plans} == {1, 2, 3, 4, 5, 7}


def test_leaving_parts_of_a_plan_out_leaves_the_rest_where_it_is() -> None:
    plan = next(plan for plan in map(draw_plan, range(100)) if len(plan.faults) > 4 and plan.clients > 2)
    numbers = (plan.faults[1].number, plan.faults[3].number)
    small = narrow(plan, Narrowing(numbers, NARROWINGS, clients=1, until_s=1.0))
    assert small.faults == (plan.faults[1], plan.faults[3])
    assert (small.clients, small.fault_s, small.core, small.node) == (1, 1.0, {}, {})
    assert (small.seed, small.size) == (plan.seed, plan.size)
    assert narrow(plan, Narrowing()) == plan


def test_a_failing_run_is_shrunk_to_what_makes_it_fail() -> None:
    """A plan that fails exactly when two of its faults are there: they are left, and nothing else."""
    plan = next(plan for plan in map(draw_plan, range(100)) if len(plan.faults) > 8)
    guilty = (plan.faults[2].number, plan.faults[6].number)

    class Run:
        def __init__(self, violation: object) -> None:
            self.violation = violation

    class Fake:
        code = "planted"

    def run(candidate: object) -> Run:
        present = {fault.number for fault in candidate.faults}  # type: ignore[attr-defined]
        return Run(Fake() if present.issuperset(guilty) else None)

    smallest = Shrinker(plan, "planted", run).shrink()  # type: ignore[arg-type]
    assert smallest.faults == guilty
    assert smallest.clients in (1, None)
    assert set(smallest.without) == set(NARROWINGS)
    assert "--only" in smallest.options
