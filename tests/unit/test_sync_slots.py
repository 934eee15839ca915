"""Who is fed, who is sent on, and to whom; nobody is sent into nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.sync_slots import EXTRA_FACTOR, OFFER_LAG_BLOCKS, OFFERS_MAX, SLOT_LIVE_S, Slots, Wish, is_loop, rank
from tests.testkit.sync import key_id_named

PLAIN = Wish(None, 100, 8, 0, is_stranded=False)


def wish(name: str, *, height: int = 100, room: int = 8, sources: int = 0, is_stranded: bool = False) -> Wish:
    return Wish(f"/dns4/{name}/tcp/1", height, room, sources, is_stranded)


def joined(slots: Slots, name: str, now: float = 0.0, **said: int) -> bool:
    return slots.join(key_id_named(name), wish(name, **said), now)


def test_the_limit_holds_while_there_is_somebody_to_name() -> None:
    slots = Slots(2)
    assert joined(slots, "a")
    assert joined(slots, "b")
    assert slots.room(0.0) == 0
    assert not joined(slots, "c")
    assert set(slots.offers(key_id_named("c"), 100, 0.0)) == {"/dns4/a/tcp/1", "/dns4/b/tcp/1"}
    assert slots.redirected == 1
    assert slots.used(0.0) == 2


def test_who_holds_a_slot_keeps_it_by_asking() -> None:
    slots = Slots(1)
    assert joined(slots, "a", now=0.0)
    assert joined(slots, "a", now=SLOT_LIVE_S)
    assert not joined(slots, "b", now=SLOT_LIVE_S + 1)
    assert slots.note_question(key_id_named("a"), 107, 2 * SLOT_LIVE_S)
    assert slots.followers(2 * SLOT_LIVE_S)[0].wish.height == 107
    assert not joined(slots, "b", now=3 * SLOT_LIVE_S)
    assert joined(slots, "b", now=3 * SLOT_LIVE_S + 1)
    assert [each.key_id for each in slots.followers(3 * SLOT_LIVE_S + 1)] == [key_id_named("b")]


def test_while_there_is_nobody_to_name_everybody_is_admitted() -> None:
    slots = Slots(1)
    assert slots.join(key_id_named("a"), PLAIN, 0.0), "nobody can follow it"
    assert slots.join(key_id_named("b"), PLAIN, 0.0)
    assert slots.followers(0.0)[1].is_extra
    assert slots.redirected == 0


def test_no_room_at_all_still_admits_whom_nobody_else_could_feed() -> None:
    slots = Slots(0)
    assert joined(slots, "a")
    assert not joined(slots, "b")


def test_who_has_found_nobody_is_admitted_up_to_a_bound() -> None:
    slots = Slots(2)
    for name in ("a", "b"):
        assert joined(slots, name)
    for name in ("c", "d"):
        assert slots.join(key_id_named(name), wish(name, is_stranded=True), 0.0)
    assert slots.used(0.0) == EXTRA_FACTOR * 2
    assert not slots.join(key_id_named("e"), wish("e", is_stranded=True), 0.0)


def test_who_came_beyond_the_limit_goes_when_it_has_another_source() -> None:
    slots = Slots(1)
    assert joined(slots, "a")
    assert slots.join(key_id_named("b"), wish("b", is_stranded=True), 0.0)
    assert slots.join(key_id_named("b"), wish("b", sources=1), 1.0), "this node is its only source"
    assert not slots.join(key_id_named("b"), wish("b", sources=2), 2.0)
    assert slots.used(2.0) == 1


def test_who_came_beyond_the_limit_stays_when_others_have_left() -> None:
    slots = Slots(1)
    assert joined(slots, "a")
    assert slots.join(key_id_named("b"), wish("b", is_stranded=True), SLOT_LIVE_S)
    later = SLOT_LIVE_S + 1
    assert slots.join(key_id_named("b"), wish("b", sources=2), later)
    assert not slots.followers(later)[0].is_extra


def test_a_question_without_a_slot_takes_a_free_one_only() -> None:
    slots = Slots(1)
    assert slots.note_question(key_id_named("a"), 5, 0.0)
    assert slots.used(0.0) == 1
    slots = Slots(1)
    assert joined(slots, "a")
    assert not slots.note_question(key_id_named("b"), 5, 0.0)


def test_leaving_frees_the_slot() -> None:
    slots = Slots(1)
    assert joined(slots, "a")
    slots.leave(key_id_named("a"))
    slots.leave(key_id_named("stranger"))
    assert slots.room(0.0) == 1


def test_nobody_is_named_who_is_far_behind_or_cannot_be_followed() -> None:
    slots = Slots(8)
    asker = key_id_named("asker")
    assert joined(slots, "near", height=1000 - OFFER_LAG_BLOCKS)
    assert joined(slots, "far", height=999 - OFFER_LAG_BLOCKS)
    assert slots.join(key_id_named("mute"), replace(PLAIN, height=1000), 0.0)
    assert slots.join(asker, wish("asker", height=1000), 0.0)
    assert slots.offers(asker, 1000, 0.0) == ("/dns4/near/tcp/1",)


def test_who_has_room_is_named_first_and_each_asker_has_its_own_order() -> None:
    slots = Slots(64)
    names = [f"n{number}" for number in range(OFFERS_MAX + 8)]
    for name in names:
        assert joined(slots, name, room=0 if name in ("n3", "n7") else 1)
    orders = {slots.offers(key_id_named(f"asker{number}"), 100, 0.0) for number in range(4)}
    assert len(orders) == 4
    assert all(len(order) == OFFERS_MAX for order in orders)
    assert not any(f"/dns4/{full}/tcp/1" in order for order in orders for full in ("n3", "n7"))


def test_ranks_are_the_same_each_time_and_differ_by_asker() -> None:
    a, b, c = (key_id_named(name) for name in "abc")
    assert rank(a, b) == rank(a, b)
    assert rank(a, b) != rank(c, b)


@pytest.mark.parametrize(("path", "loop"), [((), False), (("b", "c"), False), (("b", "a", "c"), True)])
def test_a_path_through_the_node_itself_is_a_loop(path: tuple[str, ...], loop: bool) -> None:
    assert is_loop(key_id_named("a"), [key_id_named(name) for name in path]) is loop
