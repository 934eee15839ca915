"""Real faults on real processes: `python -m tests.faults --help`, docs/testing.md "Real faults"."""
