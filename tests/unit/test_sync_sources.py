"""Whom an observer asks next: the fixed ones first, nobody who has to wait, liars for a long time."""

from __future__ import annotations

from node.sync_slots import rank
from node.sync_sources import (
    FAILED_PAUSE_MAX_S,
    FAILED_PAUSE_S,
    FULL_PAUSE_S,
    LIE_PAUSE_MAX_S,
    LIE_PAUSE_S,
    NAMED_MAX,
    STRANDED_PAUSE_S,
    Directory,
)
from tests.testkit.sync import key_id_named
from wire.keys import KeyId

OWN = key_id_named("own")
A, B, C = (key_id_named(name) for name in "abc")


def chosen(directory: Directory, now: float, *busy: KeyId) -> KeyId | None:
    candidate = directory.choose(set(busy), now)
    return None if candidate is None else candidate.key_id


def of(*fixed: KeyId) -> Directory:
    directory = Directory(OWN)
    directory.set_fixed(dict.fromkeys(fixed, "somewhere"))
    return directory


def test_fixed_ones_come_first_in_an_order_of_this_nodes_own() -> None:
    directory = of(A, B)
    directory.learn(C, "there")
    first, second = sorted((A, B), key=lambda key_id: rank(OWN, key_id))
    assert chosen(directory, 0.0) == first
    assert chosen(directory, 0.0, first) == second
    assert chosen(directory, 0.0, A, B) == C
    assert chosen(directory, 0.0, A, B, C) is None


def test_the_node_itself_is_never_asked() -> None:
    directory = of(OWN)
    directory.learn(OWN, "here")
    assert chosen(directory, 0.0) is None


def test_who_fails_waits_longer_each_time_until_it_helps() -> None:
    directory = of(A)
    directory.note_failed(A, "node.net.unreachable", 0.0)
    assert chosen(directory, FAILED_PAUSE_S / 2) is None
    assert chosen(directory, FAILED_PAUSE_S) == A
    for _ in range(40):
        directory.note_failed(A, "node.net.unreachable", 0.0)
    assert chosen(directory, FAILED_PAUSE_MAX_S - 1) is None
    assert chosen(directory, FAILED_PAUSE_MAX_S) == A
    directory.note_useful(A, 100.0)
    directory.note_failed(A, "node.net.unreachable", 100.0)
    assert chosen(directory, 100.0 + FAILED_PAUSE_S) == A


def test_who_lies_is_dropped_and_said_to_be() -> None:
    directory = of(A, B)
    assert directory.note_lie(A, "ledger.block.malformed", 0.0) == LIE_PAUSE_S
    assert chosen(directory, LIE_PAUSE_S - 1, B) is None
    (dropped,) = directory.dropped(1.0)
    assert (dropped.key_id, dropped.code, dropped.lies) == (A, "ledger.block.malformed", 1)
    directory.note_useful(A, 1.0)
    directory.hurry(1.0)
    assert chosen(directory, LIE_PAUSE_S - 1, B) is None, "what it sent before is no excuse"
    assert chosen(directory, LIE_PAUSE_S, B) == A
    assert directory.dropped(LIE_PAUSE_S) == []
    assert directory.note_lie(A, "ledger.block.malformed", 0.0) == 2 * LIE_PAUSE_S
    for _ in range(40):
        pause_s = directory.note_lie(A, "ledger.block.malformed", 0.0)
    assert pause_s == LIE_PAUSE_MAX_S


def test_what_comes_after_a_lie_does_not_make_it_a_liar_for_ever() -> None:
    directory = of(A)
    directory.note_lie(A, "ledger.block.malformed", 0.0)
    directory.note_failed(A, "node.net.timeout", LIE_PAUSE_S)
    assert directory.dropped(LIE_PAUSE_S) == []


def test_without_any_source_nobody_but_a_liar_waits_long() -> None:
    directory = of(A, B)
    for _ in range(5):
        directory.note_full(A, "node.sync.full", 0.0)
    directory.note_lie(B, "node.sync.withheld", 0.0)
    assert chosen(directory, FULL_PAUSE_S) is None
    directory.hurry(0.0)
    assert chosen(directory, STRANDED_PAUSE_S) == A
    assert chosen(directory, STRANDED_PAUSE_S, A) is None


def test_named_ones_are_bounded_and_liars_among_them_stay_known() -> None:
    directory = of(A)
    names = [key_id_named(f"n{number}") for number in range(NAMED_MAX + 10)]
    directory.learn(names[0], "there")
    directory.note_lie(names[0], "node.sync.withheld", 0.0)
    for name in names:
        directory.learn(name, "there")
    assert len(directory.named(0.0)) == NAMED_MAX - 1
    assert [each.key_id for each in directory.dropped(0.0)] == [names[0]]
    for name in names[-NAMED_MAX + 1 :]:
        directory.note_lie(name, "node.sync.withheld", 0.0)
    directory.learn(key_id_named("one more"), "there")
    assert directory.named(0.0) == []


def test_who_is_named_elsewhere_is_asked_there() -> None:
    directory = of(A)
    directory.learn(B, "there")
    directory.learn(B, "elsewhere")
    directory.learn(A, "elsewhere")
    assert [each.address for each in directory.named(0.0)] == ["elsewhere"]
    assert directory.choose({B}, 0.0).address == "somewhere"  # type: ignore[union-attr]


def test_who_is_no_validator_any_more_counts_as_named() -> None:
    directory = of(A)
    directory.set_fixed({B: "somewhere"})
    assert chosen(directory, 0.0) == B
    assert [each.key_id for each in directory.named(0.0)] == [A]


def test_nothing_is_noted_of_those_whom_nobody_has_named() -> None:
    directory = of(A)
    directory.note_failed(B, "node.net.timeout", 0.0)
    directory.note_useful(B, 0.0)
    assert directory.note_lie(B, "node.sync.withheld", 0.0) == 0.0
    assert directory.dropped(0.0) == []
