"""A fleet in one process: real agents, real ledger, a sequencer in the place of consensus.

python -m tests.scale --hosts 10000 [--directory DIR] [--together 200]

Says what it put on the ledger, how long the hosts took, that no record was lost, and what became of the lies of one bad host.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import trio

from node.cli.rollout import status_lines
from tests.scale.fleet import Simulation


def main() -> int:
    """Run the simulation and print what it found."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--together", type=int, default=200, help="agents that are at work at the same time")
    parser.add_argument("--directory", type=Path, default=None, help="where the hosts' disks are (default: memory)")
    options = parser.parse_args()
    base = options.directory or (Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir()))
    directory = Path(tempfile.mkdtemp(prefix="patchwarden-scale-", dir=base))
    started = perf_counter()
    try:
        simulation = Simulation(directory, options.hosts, together=options.together, tell=partial(print, flush=True))
        trio.run(simulation.run)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\nbefore those who were away came back\n")
    print("\n".join(status_lines(simulation.status_before_return)))
    print("\nat the end\n")
    print("\n".join(status_lines(simulation.status)))
    print("\nwhat the bad host tried")
    for lie, answer in simulation.refusals.items():
        print(f"  {lie:<46} {answer or 'taken; its tree is no other host’s'}")
    sequencer = simulation.sequencer
    figures = {
        "hosts": options.hosts,
        "seconds": {name: round(value, 1) for name, value in simulation.seconds.items()},
        "processor seconds": {name: round(value, 1) for name, value in simulation.processor_s.items()},
        "rollout": {name: round(value, 1) for name, value in simulation.figures["rollout_load"].items()},
        "ledger minutes of the rollout": round(simulation.figures["ledger_minutes"], 1),
        "transactions by kind": dict(sequencer.kinds),
        "bytes by kind": dict(sequencer.kind_bytes),
        "largest by kind": dict(sequencer.largest),
        "fullest block": sequencer.fullest,
        "state bytes by table": {table.name: size for table, size in sequencer.store.bytes_held.items()},
        "a host's look at its turns, µs": round(simulation.figures["look_us"], 1),
        "processor ms per host in the rollout": round(1000 * simulation.processor_s["rollout"] / options.hosts, 1),
        "records": simulation.figures["records"],
        "records lost": simulation.figures["lost"],
        "total seconds": round(perf_counter() - started, 1),
    }
    print()
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
