"""Real faults on real processes: a cluster in network namespaces is hurt under load, and what it did is judged.

python -m tests.faults [--minutes N] [--seed N] [--only KIND,…] [--keep DIRECTORY]     mixed faults
python -m tests.faults --failover 15                                                    kill -9 of the leader, 15 times
python -m tests.faults --calm 10                                                        full load for 10 minutes, elections counted
python -m tests.faults --rolling 2                                                      restart every validator in turn, twice
python -m tests.faults --grow 9                                                         grow to 9 validators and shrink to 1
python -m tests.faults --pressure                                                       a stopped follower, then one with a slow disk
python -m tests.faults --flood 20                                                       far more submissions than it can take
python -m tests.faults --judge DIRECTORY                                                judge a kept history again
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults import machine
from tests.faults.checks import check_registers, count_actions
from tests.faults.ending import Result
from tests.faults.flood import measure_flood
from tests.faults.growth import measure_growth
from tests.faults.history import read_history
from tests.faults.kinds import KINDS
from tests.faults.measures import measure_calm, measure_failover
from tests.faults.mixed import MixedRun
from tests.faults.pressure import measure_pressure
from tests.faults.rolling import measure_rolling

EXIT_VIOLATED = 1
EXIT_SKIPPED = 77
"""What automake and others take for "not run here"."""


def main() -> int:
    arguments = _parse()
    if arguments.judge is not None:
        operations = read_history(arguments.judge / "history.jsonl")
        violations = list(check_registers(operations))
        print(f"{len(operations)} calls: {count_actions(operations)}")
        return _conclude(Result(violations), None)
    if (obstacle := machine.find_obstacle()) is not None:
        print(f"skipped: {obstacle}")
        return EXIT_SKIPPED
    for left in machine.sweep():
        print(f"removed what a killed run left: {left}")
    # The end of the harness is the end of everything it made, whoever asks for it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A shell's job in the background begins with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix=f"{machine.PREFIX}-"))
    kept = arguments.keep
    try:
        if arguments.failover:
            result = measure_failover(directory, arguments.failover, arguments.seed)
        elif arguments.rolling:
            result = measure_rolling(directory, arguments.rolling, arguments.seed)
        elif arguments.grow:
            result = measure_growth(directory, arguments.grow, arguments.seed)
        elif arguments.flood:
            result = measure_flood(directory, arguments.flood)
        elif arguments.pressure:
            result = measure_pressure(directory, arguments.seed)
        elif arguments.calm:
            result = measure_calm(directory, arguments.calm, arguments.seed)
        else:
            result = MixedRun(directory, seed=arguments.seed, minutes=arguments.minutes, only=arguments.only).run()
        if result.violations and kept is None:
            kept = Path(tempfile.mkdtemp(prefix=f"{machine.PREFIX}-kept-")) / "run"
        return _conclude(result, kept)
    except KeyboardInterrupt:
        print("interrupted; nothing is left running")
        return 130
    finally:
        if kept is not None:
            shutil.move(directory, kept)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _conclude(result: Result, kept: Path | None) -> int:
    for violation in result.violations:
        print(f"VIOLATION: {violation}")
    if kept is not None:
        print(f"history, logs and stores: {kept}")
    print("violated" if result.violations else "nothing was violated")
    return EXIT_VIOLATED if result.violations else 0


def _kinds(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(KINDS))
    if unknown:
        raise argparse.ArgumentTypeError(
            f"not a kind of fault: {', '.join(unknown)}; there are {', '.join(sorted(KINDS))}"
        )
    return names


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3, help="how long faults happen (default 3)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="of the schedule (default: by chance)"
    )
    parser.add_argument("--only", type=_kinds, help=f"only these faults, of {', '.join(sorted(KINDS))}")
    parser.add_argument(
        "--keep", type=Path, help="where history, logs and stores go; without it only those of a violated run stay"
    )
    parser.add_argument("--failover", type=int, metavar="TIMES", help="measure failover instead")
    parser.add_argument("--calm", type=float, metavar="MINUTES", help="count elections without need instead")
    parser.add_argument(
        "--rolling", type=int, metavar="ROUNDS", help="restart every validator in turn under load instead"
    )
    parser.add_argument("--grow", type=int, metavar="VALIDATORS", help="grow from 1 to so many and shrink back instead")
    parser.add_argument(
        "--pressure", action="store_true", help="stop a follower and slow its disk under full load instead"
    )
    parser.add_argument(
        "--flood", type=float, metavar="SECONDS", help="flood the network from eight signers, then from one, instead"
    )
    parser.add_argument("--judge", type=Path, metavar="DIRECTORY", help="judge the history of a kept run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
