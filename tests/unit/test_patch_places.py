"""Who may take a patch file from a node, and who is named to the rest."""

from __future__ import annotations

from node.distribution.places import (
    ALL_FILES_FACTOR,
    HOLDERS_MAX,
    OFFERS_MAX,
    PLACE_LIVE_S,
    SPARE_HOUR_FACTOR,
    TAKEN_S,
    Places,
    allowance,
    copies_max,
    spare_interval_s,
    spare_max,
)
from tests.testkit.sync import key_id_named
from wire.hashing import sha256

FILE = sha256(b"file")
CHUNKS = 4


def ask(places: Places, name: str, now: float = 0.0, *, address: str | None = "", is_stranded: bool = False) -> bool:
    where = f"/dns4/{name}/tcp/1" if address == "" else address
    return places.ask(FILE, key_id_named(name), where, chunks=CHUNKS, is_stranded=is_stranded, now=now)


def done(places: Places, name: str, now: float = 0.0, *, has_file: bool = True) -> None:
    places.done(FILE, key_id_named(name), chunks=CHUNKS, has_file=has_file, now=now)


def named(places: Places, asker: str, now: float = 0.0) -> set[str]:
    return {address.split("/")[2] for address in places.others(FILE, key_id_named(asker), now)}


def test_a_validator_gives_a_file_to_so_many_and_names_them_to_the_rest() -> None:
    places = Places(2, is_rationed=True)
    assert ask(places, "a")
    assert ask(places, "b")
    assert not ask(places, "c")
    assert named(places, "c") == {"a", "b"}
    done(places, "a")
    done(places, "b")
    assert places.used(0) == 0
    assert not ask(places, "c"), "who has taken the file counts"
    assert named(places, "a") == {"b"}
    assert ask(places, "c", TAKEN_S + 1), "not for ever"
    assert places.redirected == 2


def test_a_host_counts_only_who_takes_now() -> None:
    places = Places(1, is_rationed=False)
    assert ask(places, "a")
    assert not ask(places, "b")
    done(places, "a")
    assert ask(places, "b")
    assert named(places, "b") == {"a"}


def test_whom_nobody_can_find_does_not_stand_for_others() -> None:
    places = Places(1, is_rationed=True)
    assert ask(places, "a", address=None)
    assert not ask(places, "b"), "one at a time all the same"
    done(places, "a")
    assert ask(places, "b")
    assert named(places, "c") == {"b"}


def test_a_place_is_kept_by_asking_and_lost_by_silence() -> None:
    places = Places(1, is_rationed=False)
    assert ask(places, "a")
    assert places.renew(FILE, key_id_named("a"), PLACE_LIVE_S)
    assert not ask(places, "b", PLACE_LIVE_S + 1)
    assert not places.renew(FILE, key_id_named("a"), 3 * PLACE_LIVE_S)
    assert not places.renew(FILE, key_id_named("b"), 0)
    assert not places.renew(sha256(b"other"), key_id_named("a"), 0)
    assert ask(places, "b", 3 * PLACE_LIVE_S)


def test_who_asks_again_keeps_its_place() -> None:
    places = Places(1, is_rationed=True)
    assert ask(places, "a")
    assert ask(places, "a", 5)
    assert places.used(5) == 1


def test_who_gives_up_leaves_no_trace() -> None:
    places = Places(1, is_rationed=True)
    assert ask(places, "a")
    done(places, "a", has_file=False)
    done(places, "stranger")
    assert named(places, "b") == set()
    assert ask(places, "b")


def test_the_stranded_get_places_beyond_the_limit_and_no_more_than_as_many_again() -> None:
    places = Places(2, is_rationed=False)
    assert [ask(places, name) for name in "abcd"] == [True, True, False, False]
    assert [ask(places, name, is_stranded=True) for name in "cdef"] == [True, True, False, False]
    for name in "abcd":
        done(places, name)
    assert ask(places, "e", is_stranded=True), "those who have taken it did not help"


def take(places: Places, name: str, now: float) -> int:
    """Let somebody take as many chunks as it gets; return how many."""
    return sum(places.spend(FILE, key_id_named(name), now) for _ in range(10 * CHUNKS))


def test_spare_copies_of_a_validator_come_back_with_time_alone() -> None:
    places = Places(2, is_rationed=True)
    now, given = 0.0, 0
    interval_s = spare_interval_s(CHUNKS)
    while now < TAKEN_S - 1:
        name = f"p{now}"
        if ask(places, name, now, is_stranded=True):
            given += take(places, name, now)
            done(places, name, now)
        now += 1
        assert given <= copies_max(2, CHUNKS, now) * allowance(CHUNKS), "whoever asks, and however often"
    assert given == (2 + 2 * SPARE_HOUR_FACTOR) * allowance(CHUNKS)
    assert places.spare_given == 2 * SPARE_HOUR_FACTOR
    assert not ask(places, "late", now, is_stranded=True)
    assert ask(places, "late", now + interval_s + 60, is_stranded=True), "the oldest are more than an hour ago"


def test_the_last_spare_copy_is_for_who_has_had_none() -> None:
    places = Places(1, is_rationed=True)
    assert ask(places, "greedy")
    assert take(places, "greedy", 0) == allowance(CHUNKS)
    assert not ask(places, "greedy"), "a copy has an end"
    assert ask(places, "greedy", is_stranded=True), "answers get lost, so it may begin again"
    assert take(places, "greedy", 0) == allowance(CHUNKS)
    assert not ask(places, "greedy", 1, is_stranded=True)
    assert ask(places, "new", 1, is_stranded=True)
    done(places, "new", 2)
    assert not ask(places, "greedy", 1 + spare_interval_s(CHUNKS), is_stranded=True)
    assert ask(places, "greedy", 2 + 2 * spare_interval_s(CHUNKS), is_stranded=True)


def test_who_is_slow_goes_on_with_its_copy() -> None:
    places = Places(1, is_rationed=True)
    later = PLACE_LIVE_S + 1
    assert ask(places, "a")
    assert places.spend(FILE, key_id_named("a"), 0)
    assert not places.spend(FILE, key_id_named("a"), later)
    assert ask(places, "a", later)
    assert take(places, "a", later) == allowance(CHUNKS) - 1
    assert places.spare_given == 0


def test_giving_up_gives_back_a_copy_of_which_nothing_was_taken_and_no_other() -> None:
    places = Places(1, is_rationed=True)
    assert ask(places, "a")
    assert places.spend(FILE, key_id_named("a"), 0)
    done(places, "a", has_file=False)
    assert not ask(places, "b")
    assert named(places, "b") == set(), "it does not have the file"
    assert ask(places, "b", is_stranded=True)
    done(places, "b", has_file=False)
    assert [ask(places, name, is_stranded=True) for name in "cd"] == [True, True]
    assert ask(places, "a") is False, "two take it now"
    done(places, "c")
    assert ask(places, "a", is_stranded=True)
    assert take(places, "a", 0) == allowance(CHUNKS) - 1


def test_copies_for_whom_nobody_can_find_are_spare_ones() -> None:
    places = Places(2, is_rationed=True)
    given = 0
    for number in range(10):
        given += ask(places, f"p{number}", address=None)
        done(places, f"p{number}")
    assert given == spare_max(2)
    assert ask(places, "found"), "the usual ones are for those who take work off the validator"


def test_nobody_is_served_where_the_limit_is_zero() -> None:
    places = Places(0, is_rationed=False)
    assert not ask(places, "a", is_stranded=True)


def test_all_files_together_have_a_limit() -> None:
    places = Places(1, is_rationed=False)
    asked = [
        places.ask(sha256(bytes([number])), key_id_named(f"p{number}"), None, chunks=1, is_stranded=False, now=0)
        for number in range(ALL_FILES_FACTOR + 2)
    ]
    assert asked == [True] * ALL_FILES_FACTOR + [False] * 2


def test_what_is_remembered_and_named_is_bounded() -> None:
    places = Places(1, is_rationed=False)
    for number in range(HOLDERS_MAX * 2):
        assert ask(places, f"p{number}")
        done(places, f"p{number}")
    assert len(places.others(FILE, key_id_named("asker"), 0)) == OFFERS_MAX
    assert "p0" not in named(places, "p0")


def test_who_has_the_file_is_named_before_who_is_taking_it() -> None:
    places = Places(3, is_rationed=False)
    for name in ("a", "b", "c"):
        assert ask(places, name)
    done(places, "c")
    assert places.others(FILE, key_id_named("asker"), 0)[0] == "/dns4/c/tcp/1"
