"""Inputs of 64 KiB made to cost as much as they can: many small values, deep nesting, lines without end."""

from __future__ import annotations

import pytest

from tests.fuzz.target import Tally, try_input
from tests.fuzz.targets import all_targets
from wire.codec import encode

TARGETS = all_targets()
BYTES = 64 * 1024
HUNK = b"@@ -%d,6 +%d,7 @@\n a\n a\n a\n+\n b\n b\n b\n"
SMALL = b"--- a\n+++ a\n@@ -1 +1 @@\n-x\n+y\n"
NAMES = b"diff --git a/a b/a\n--- a/a\n+++ b/a\n"


def times(piece: bytes) -> bytes:
    """Return the piece so often that it has about `BYTES`."""
    return piece * (BYTES // len(piece))


EMPTY_LISTS = b"[" + times(b"[],") + b"[]]"
WORST = {
    "empty lists": ("json", EMPTY_LISTS),
    "many members": ("json", b"{" + b",".join(b'"%d":0' % number for number in range(BYTES // 9)) + b"}"),
    "deep lists": ("json", times(b"[")),
    "envelope of lists": ("envelope", EMPTY_LISTS),
    "metadata of lists": ("metadata", EMPTY_LISTS),
    "receipt of lists": ("receipt", EMPTY_LISTS),
    "founding document of lists": ("genesis", EMPTY_LISTS),
    "empty tuples": ("codec", encode(tuple(() for _ in range(BYTES)))),
    "small integers": ("codec", encode(tuple(1 for _ in range(BYTES)))),
    "empty arrays": ("cbor", b"\x99\xff\xff" + b"\x80" * 0xFFFF),
    "deep arrays": ("cbor", times(b"\x81")),
    "many files": (
        "diff",
        b"".join(b"diff --git a/%d b/%d\nold mode 100644\nnew mode 100755\n" % (n, n) for n in range(BYTES // 56)),
    ),
    "many lines": ("diff", NAMES + b"@@ -1 +1,%d @@\n-x\n" % (BYTES // 2) + times(b"+\n")),
    "many hunks": ("diff", NAMES + b"".join(HUNK % (n * 10 + 1, n * 11 + 1) for n in range(BYTES // 40))),
    "sections of nothing": ("diff", times(b"diff --git a/a b/a\n")),
    "foreign sections": ("foreign-patch", times(SMALL)),
    "begun words": ("foreign-patch", b"Subject: " + times(b"=?utf-8?q?") + b"\n\n" + SMALL),
    "encoded words": ("foreign-patch", b"Subject: " + times(b"=?utf-8?q?a?= ") + b"\n\n" + SMALL),
    "blank lines": ("foreign-patch", times(b"\n") + SMALL),
    "one long line": ("foreign-patch", times(b" ")),
    "mails": ("mailbox", times(b"From a Mon Sep 17 00:00:00 2001\n\n")),
    "mails of nothing": ("mailbox", times(b"\nFrom ")),
    "ends of a body": ("patch-file", times(b"-- \npatchwarden 1\n\n")),
    "lines of a checkpoint": ("checkpoint", times(b"\n")),
    "digits of a key": ("keys", b"did:key:z" + times(b"2")),
    "empty frames": ("frames", b"\x00" + times(bytes(4))),
    "pings": ("rpc", b"\xff" + times(b"\x00\x00\x00\x05\x04\x00\x00\x00\x01")),
    "requests of nothing": ("local-frames", times(b"\x00\x00\x00\x02{}")),
    "window updates": ("yamux", b"\xff" + times(bytes.fromhex("000100010000000100000001"))),
    "cases of a policy": (
        "agent",
        b"[" + b",".join(b'{"name":"%d","expect":"deny"}' % number for number in range(900)) + b"]",
    ),
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_inputs_that_we_know_stay_within_the_limits(name: str) -> None:
    target, data = WORST[name]
    finding = try_input(TARGETS[target][1], data, Tally(), with_memory=True)
    assert finding is None, finding.what
