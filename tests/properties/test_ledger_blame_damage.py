"""Whatever somebody does to the copies of two histories, nobody is accused who did not sign, and nothing but a verdict comes out."""

from __future__ import annotations

from functools import lru_cache

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.archive import ArchivedBlock
from ledger.blame import Blame, History, find_guilty, verify_blame
from ledger.errors import ProofRefusedError
from tests.testkit.forks import Branch, id_of
from tests.testkit.ledger import Chain
from wire.canonical_json import decode_untrusted, encode
from wire.errors import MalformedError


@lru_cache(maxsize=1)
def fork() -> tuple[Chain, Branch, Branch]:
    """Return what is common, and two branches of it of which v2 and v3 are guilty; blocks of later terms stand on both."""
    common = Chain()
    for _ in range(2):
        common.commit()
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    ours.add([1, 2, 3], term=3, leader=1, voters=[1, 2, 3])
    theirs.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    theirs.add([2, 3, 4])
    return common, ours, theirs


GUILTY = {id_of(2), id_of(3)}
CHANGES = st.tuples(
    st.sampled_from(["flip block", "flip certificate", "drop", "repeat", "swap", "no certificate", "other certificate", "other block"]),
    st.integers(0, 3),
    st.integers(0, 2**16),
)  # fmt: skip


def changed(
    items: list[ArchivedBlock], others: list[ArchivedBlock], change: tuple[str, int, int]
) -> list[ArchivedBlock]:
    """Return the copy after one thing was done to it."""
    how, index, number = change
    index %= len(items)
    item = items[index]
    match how:
        case "flip block":
            items[index] = ArchivedBlock(flip(item.block, number), item.certificate)
        case "flip certificate" if item.certificate is not None:
            items[index] = ArchivedBlock(item.block, flip(item.certificate, number))
        case "drop" if len(items) > 1:
            del items[index]
        case "repeat":
            items.insert(index, item)
        case "swap":
            other = number % len(items)
            items[index], items[other] = items[other], items[index]
        case "no certificate":
            items[index] = ArchivedBlock(item.block, None)
        case "other certificate":
            items[index] = ArchivedBlock(item.block, others[number % len(others)].certificate)
        case "other block":
            items[index] = others[number % len(others)]
        case _:
            pass
    return items


def flip(data: bytes, number: int) -> bytes:
    place = number // 8 % len(data)
    return data[:place] + bytes([data[place] ^ (1 << number % 8)]) + data[place + 1 :]


@settings(max_examples=200)
@given(ours=st.lists(CHANGES, max_size=3), theirs=st.lists(CHANGES, max_size=3))
@example(ours=[], theirs=[])
def test_no_damage_and_no_forgery_accuses_anybody_else(
    ours: list[tuple[str, int, int]], theirs: list[tuple[str, int, int]]
) -> None:
    common, one, other = fork()
    mine, his = one.items(), other.items()
    for change in ours:
        mine = changed(mine, other.items(), change)
    for change in theirs:
        his = changed(his, one.items(), change)
    verdict = find_guilty(History("ours", mine), History("theirs", his), common.genesis)
    assert set(verdict.guilty) <= GUILTY
    if not ours and not theirs:
        assert set(verdict.guilty) == GUILTY
    for blame in verdict.blames:
        verify_blame(blame, common.genesis)


@settings(max_examples=200)
@given(st.integers(0, 10**6))
def test_a_proof_with_a_flipped_bit_says_the_same_or_nothing(number: int) -> None:
    common, one, other = fork()
    blame = find_guilty(one.history(), other.history(), common.genesis).blames[0]
    data = flip(encode(blame.to_json()), number)
    try:
        proof = Blame.from_json_untrusted(decode_untrusted(data))
        verify_blame(proof, common.genesis)
    except (ProofRefusedError, MalformedError):
        return
    assert proof == blame
