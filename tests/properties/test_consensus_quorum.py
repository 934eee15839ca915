"""Majorities against brute force: every subset, and the definition instead of the formula."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.membership import build_configuration
from consensus.messages import NodeId
from consensus.quorum import (
    VoteResult,
    is_joint_majority,
    is_majority,
    joint_value_reached,
    joint_vote_result,
    value_reached,
    vote_result,
)
from tests.testkit.raft_sim import sim_keys
from wire.hashing import sha256

NODES = [NodeId(sha256(b"%d" % index)) for index in range(12)]
STRANGERS = NODES[9:]


def subsets(members: list[NodeId]) -> list[set[NodeId]]:
    return [set(chosen) for count in range(len(members) + 1) for chosen in combinations(members, count)]


def smallest_majorities(members: list[NodeId]) -> list[set[NodeId]]:
    """Return the majorities of which every other one is a part."""
    return [set(chosen) for chosen in combinations(members, len(members) // 2 + 1)]


@pytest.mark.parametrize("size", range(1, 10))
def test_a_set_is_a_majority_exactly_when_it_is_larger_than_what_it_leaves(size: int) -> None:
    members = NODES[:size]
    for chosen in subsets(members):
        expected = len(chosen) > size - len(chosen)
        assert is_majority(members, chosen) is expected
        assert is_majority(members, chosen | set(STRANGERS)) is expected


@pytest.mark.parametrize("size", range(1, 10))
def test_any_two_majorities_share_a_member_and_no_smaller_number_would_do(size: int) -> None:
    members = NODES[:size]
    majorities = [chosen for chosen in subsets(members) if is_majority(members, chosen)]
    assert all(one & other for one in majorities for other in majorities)
    smallest = min(len(chosen) for chosen in majorities)
    smaller = [set(chosen) for chosen in combinations(members, smallest - 1)]
    assert not smaller[0] or any(not (one & other) for one in smaller for other in smaller) or size == 1


def test_nobody_is_no_majority_of_nobody() -> None:
    assert not is_majority([], NODES)
    assert value_reached([], {NODES[0]: 5}) == 0


ANSWERS = st.dictionaries(st.sampled_from(NODES), st.booleans())


@given(size=st.integers(1, 9), answers=ANSWERS)
def test_an_election_is_decided_exactly_when_no_further_answer_can_change_it(
    size: int, answers: dict[NodeId, bool]
) -> None:
    members = NODES[:size]
    open_members = [member for member in members if member not in answers]
    ends = set()
    for granted_by in subsets(open_members):
        final = {member: answers.get(member, member in granted_by) for member in members}
        ends.add(2 * sum(final.values()) > size)
    expected = {frozenset([True]): VoteResult.WON, frozenset([False]): VoteResult.LOST}.get(
        frozenset(ends), VoteResult.PENDING
    )
    assert vote_result(members, answers) is expected


@given(size=st.integers(1, 9), values=st.dictionaries(st.sampled_from(NODES), st.integers(0, 6)))
def test_the_value_reached_is_the_greatest_that_a_majority_has(size: int, values: dict[NodeId, int]) -> None:
    members = NODES[:size]
    reached = [
        value
        for value in range(7)
        if is_majority(members, [member for member in members if values.get(member, 0) >= value])
    ]
    assert value_reached(members, values) == max(reached)


# Joint configurations

GROUPS = st.lists(st.sampled_from(NODES[:9]), min_size=1, max_size=9, unique=True)


@pytest.mark.parametrize("before_size", range(1, 10))
@pytest.mark.parametrize("after_size", range(1, 10))
def test_joint_majorities_of_every_size_and_overlap_by_counting(before_size: int, after_size: int) -> None:
    # Who they are means nothing, so it is enough how many of each kind there are: all of them are tried.
    for shared in range(min(before_size, after_size) + 1):
        start = before_size - shared
        if start + after_size > len(NODES):
            continue  # more different nodes than two groups of a network ever have here
        before, after = NODES[:before_size], NODES[start : start + after_size]
        kinds = [before[:start], before[start:], after[shared:]]
        for counts in product(*(range(len(kind) + 1) for kind in kinds)):
            chosen = {node for kind, count in zip(kinds, counts, strict=True) for node in kind[:count]}
            leaving, staying, coming = counts
            expected = 2 * (leaving + staying) > before_size and 2 * (staying + coming) > after_size
            assert is_joint_majority([before, after], chosen) is expected
            answers = {node: node in chosen for node in {*before, *after}}
            result = VoteResult.WON if expected else VoteResult.LOST
            assert joint_vote_result([before, after], answers) is result
            values = {node: 5 if node in chosen else 3 for node in {*before, *after}}
            assert joint_value_reached([before, after], values) == (5 if expected else 3)


@given(before=GROUPS, after=GROUPS, chosen=st.sets(st.sampled_from(NODES)))
def test_a_joint_majority_is_a_majority_of_each_group_and_so_shares_a_member_with_any_of_either(
    before: list[NodeId], after: list[NodeId], chosen: set[NodeId]
) -> None:
    joint = is_joint_majority([before, after], chosen)
    assert joint is all(2 * len(chosen & set(group)) > len(group) for group in (before, after))
    assert is_joint_majority([before], chosen) is is_majority(before, chosen)
    if joint:
        for group in (before, after):
            assert all(chosen & other for other in smallest_majorities(group))


@given(before=GROUPS, after=GROUPS, answers=ANSWERS)
def test_a_joint_election_is_decided_exactly_when_no_further_answer_can_change_it(
    before: list[NodeId], after: list[NodeId], answers: dict[NodeId, bool]
) -> None:
    members = sorted({*before, *after})
    open_members = [member for member in members if member not in answers]
    ends = set()
    for granted_by in subsets(open_members):
        granted = {member for member in members if answers.get(member, member in granted_by)}
        ends.add(all(2 * len(granted & set(group)) > len(group) for group in (before, after)))
    expected = {frozenset([True]): VoteResult.WON, frozenset([False]): VoteResult.LOST}.get(
        frozenset(ends), VoteResult.PENDING
    )
    # A grant helps in both groups, so winning each is winning both.
    assert joint_vote_result([before, after], answers) is expected


@given(before=GROUPS, after=GROUPS, values=st.dictionaries(st.sampled_from(NODES), st.integers(0, 6)))
def test_the_value_reached_jointly_is_the_greatest_that_a_majority_of_each_group_has(
    before: list[NodeId], after: list[NodeId], values: dict[NodeId, int]
) -> None:
    reached = [
        value
        for value in range(7)
        if is_joint_majority([before, after], [node for node in NODES if values.get(node, 0) >= value])
    ]
    assert joint_value_reached([before, after], values) == max(reached)


@pytest.mark.parametrize("size", range(1, 5))
def test_even_groups_that_share_nobody_are_bridged_by_the_joint_step(size: int) -> None:
    before, after = NODES[:size], NODES[size : 2 * size]
    joint = [chosen for chosen in subsets([*before, *after]) if is_joint_majority([before, after], chosen)]
    assert joint
    for group in (before, after):
        majorities = [chosen for chosen in subsets(group) if is_majority(group, chosen)]
        assert all(one & other for one in joint for other in majorities)


def test_a_configuration_is_the_same_whatever_the_order_of_its_validators() -> None:
    keys = [key.public_key for key in sim_keys(5)]
    one, other = build_configuration(keys), build_configuration(keys[::-1])
    assert one == other
    assert one.voter_ids == other.voter_ids == tuple(sorted(one.voter_ids))
    assert one.other_voters(one.voter_ids[2]) == one.voter_ids[:2] + one.voter_ids[3:]
    assert one.is_voter(one.voter_ids[0])
    assert not one.is_voter(NODES[0])
    assert one.is_quorum(one.voter_ids[:3])
    assert not one.is_quorum(one.voter_ids[:2])
