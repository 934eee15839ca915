"""Play seeds of the whole-cluster simulator.

::

    python -m tests.sim --seed 17             one seed; a failure is shrunk and shown
    python -m tests.sim --seeds 1-2000        many
    python -m tests.sim --minutes 5           the fixed ones, then fresh ones until the time is over
    python -m tests.sim --seed 17 --only 2,5 --clients 1 --trace
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.sim.plan import NARROWINGS, Narrowing, draw_plan, narrow
from tests.sim.seeds import FIXED
from tests.sim.shrink import Shrinker
from tests.sim.world import Outcome, run_plan

STORY_LINES_MAX = 120
DETAIL_LINES = 40
FRESH_RANGE = 10**9


def main(arguments: list[str]) -> int:
    """Return 0 when every seed held, 1 when one did not."""
    options = _parse(arguments)
    if options.seed is not None:
        return _play_one(options)
    failed: list[int] = []
    totals: Counter[str] = Counter()
    began = time.monotonic()
    for count, seed in enumerate(_seeds(options, began), 1):
        outcome = run_plan(draw_plan(seed))
        totals.update(outcome.counts)
        totals["events"] += outcome.trace.events
        if outcome.violation is not None:
            failed.append(seed)
            print(f"seed {seed} FAILED: {outcome.violation}", flush=True)
            if options.shrink:
                _show_failure(seed, outcome)
        elif options.verbose or count % 100 == 0:
            print(f"seed {seed} holds ({count} seeds, {time.monotonic() - began:.0f} s)", flush=True)
        totals["seeds"] += 1
    figures = ", ".join(f"{value:,} {name}" for name, value in sorted(totals.items()))
    print(f"{figures}; {time.monotonic() - began:.0f} s; {f'failed: {failed}' if failed else 'everything held'}")
    return 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="the whole-cluster simulator")
    parser.add_argument("--seed", type=int, help="play one seed")
    parser.add_argument("--seeds", metavar="FIRST-LAST", help="play a range of seeds")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="without seeds: the fixed ones, then fresh ones for so long"
    )
    parser.add_argument("--only", metavar="NUMBERS", help="only these faults of the plan, or `none`")
    parser.add_argument("--without", metavar="NAMES", default="", help=f"leave out some of {', '.join(NARROWINGS)}")
    parser.add_argument("--clients", type=int, help="at most so many clients")
    parser.add_argument("--until", type=float, help="end the faults after so many seconds")
    parser.add_argument("--trace", action="store_true", help="show every event")
    parser.add_argument(
        "--no-shrink", dest="shrink", action="store_false", help="do not look for a smaller failing plan"
    )
    parser.add_argument("--verbose", action="store_true", help="name every seed that holds")
    return parser.parse_args(arguments)


def _narrowing(options: argparse.Namespace) -> Narrowing:
    faults = None
    if options.only is not None:
        faults = () if options.only == "none" else tuple(int(number) for number in options.only.split(","))
    without = tuple(name for name in options.without.split(",") if name)
    for name in without:
        if name not in NARROWINGS:
            raise SystemExit(f"--without knows {', '.join(NARROWINGS)}, not {name}")
    return Narrowing(faults, without, options.clients, options.until)


def _play_one(options: argparse.Namespace) -> int:
    narrowing = _narrowing(options)
    plan = narrow(draw_plan(options.seed), narrowing)
    outcome = run_plan(plan, is_verbose=options.trace, echo=print if options.trace else None)
    if outcome.violation is None:
        if not options.trace:
            print("\n".join(outcome.trace.story))
        counts = ", ".join(f"{value} {name}" for name, value in sorted(outcome.counts.items()))
        print(f"seed {options.seed} holds: {counts}; {outcome.trace.events} events, trace {outcome.trace.digest[:16]}")
        return 0
    print(f"seed {options.seed} FAILED: {outcome.violation}")
    if options.shrink and narrowing == Narrowing():
        _show_failure(options.seed, outcome)
    elif not options.trace:
        _show_story(outcome)
    return 1


def _show_failure(seed: int, outcome: Outcome) -> None:
    assert outcome.violation is not None
    print("shrinking …", flush=True)
    shrinker = Shrinker(outcome.plan, outcome.violation.code, run_plan)
    smallest = shrinker.shrink()
    small = run_plan(narrow(outcome.plan, smallest))
    _show_story(small)
    print(f"replay: python -m tests.sim --seed {seed}")
    print(
        f"shrunk: python -m tests.sim --seed {seed} {smallest.options}   (add --trace to see every event)", flush=True
    )


def _show_story(outcome: Outcome) -> None:
    story = outcome.trace.story
    if len(story) > STORY_LINES_MAX:
        print(f"({len(story) - STORY_LINES_MAX} lines before)")
    print("\n".join(story[-STORY_LINES_MAX:]))
    print("-- the last events, small ones too")
    print("\n".join(list(outcome.trace.details)[-DETAIL_LINES:]))
    print(f"=> {outcome.violation}")


def _seeds(options: argparse.Namespace, began: float) -> Iterator[int]:
    if options.seeds is not None:
        first, _, last = options.seeds.partition("-")
        yield from range(int(first), int(last or first) + 1)
        return
    yield from FIXED
    first = secrets.randbelow(FRESH_RANGE)
    print(f"fresh seeds from {first} on", flush=True)
    seed = first
    while time.monotonic() - began < options.minutes * 60:
        yield seed
        seed += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
