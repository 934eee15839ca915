"""The seeds that every run of the tests plays: a small fixed set, and every seed that ever failed."""

from __future__ import annotations

from typing import Final

QUICK: Final = (1, 2, 4, 5, 7, 9)
"""A few seconds of everything, on every run of the tests."""

FAILED: Final[dict[int, str]] = {
    17: "stale refusal: a leader whose disk was the slowest refused what others had acknowledged the ground for",
    31: "two validators, one clock: the leader's block lay an hour ahead",
    412: "useless snapshot: a node repaired its store from the same too old snapshot again and again, and never came back",
    1379: "the harness: an operator's peers had all left the network",
    1861: "the harness: a batch was seen whose sync had failed",
    1897: "joining: a node that ended between following and voting had no term beside its log, and never came back",
    2241: "the oracle: a leader of an old term, elected while it was paused, need not have what was decided since",
    1649: "the harness: a damaged ledger ended the node that asked it, not the one that has it",
    319: "a broken disk and a wrong clock: two faults among four were one too many, the plan says so now",
}
"""Seeds that failed once, with what they found. Plans have changed since, so a seed may no longer be the run that it was."""

FIXED: Final = (*range(1, 41), *(seed for seed in FAILED if seed > 40))
"""What `make sim` begins with."""
