"""Which lines of two files differ: Myers' shortest edit script while that is cheap, anchored on unique lines where it is not.

Myers' greedy search (E. W. Myers, "An O(ND) difference algorithm and its variations", 1986) gives a shortest script and costs D squared
steps for D changed lines, so D is capped. Beyond the cap the region is cut at lines that occur once on both sides (the "patience"
method), each part is searched again, and a part without such lines counts as wholly replaced. The result is always right and usually
shortest; it depends on the two files alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

EDIT_DISTANCE_MAX: Final = 512
"""Changed lines up to which Myers' search runs: a quarter of a million steps, well under a second."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines `old_begin` to `old_end` (not included, 0-based) become lines `new_begin` to `new_end`; one side may be empty."""

    old_begin: int
    old_end: int
    new_begin: int
    new_end: int


def find_edits(old: Sequence[bytes], new: Sequence[bytes], *, distance_max: int = EDIT_DISTANCE_MAX) -> list[Edit]:
    """Return the edits that turn `old` into `new`, in order, with at least one equal line between neighbours.

    An insertion or a deletion that could stand at several places stands at the last one, as in git's diffs.

    Args:
        old: Lines before.
        new: Lines after.
        distance_max: Changed lines of one region up to which a shortest script is looked for.
    """
    edits: list[Edit] = []
    old_next = new_next = 0
    for old_at, new_at, length in [*_match(_number(old, new), distance_max), (len(old), len(new), 0)]:
        if old_next < old_at or new_next < new_at:
            edits.append(Edit(old_next, old_at, new_next, new_at))
        old_next, new_next = old_at + length, new_at + length
    return _settle(edits, old, new)


def find_lines(lines: Sequence[bytes], pattern: Sequence[bytes], begin: int) -> list[int]:
    """Return every index from `begin` on at which all lines of `pattern` (at least one) stand; linear in both lengths.

    Source: D. E. Knuth, J. H. Morris, V. R. Pratt, "Fast pattern matching in strings", 1977.
    """
    fallback = [0] * len(pattern)
    matched = 0
    for index in range(1, len(pattern)):
        while matched and pattern[index] != pattern[matched]:
            matched = fallback[matched - 1]
        matched += pattern[index] == pattern[matched]
        fallback[index] = matched
    found: list[int] = []
    matched = 0
    for index in range(begin, len(lines)):
        while matched and lines[index] != pattern[matched]:
            matched = fallback[matched - 1]
        matched += lines[index] == pattern[matched]
        if matched == len(pattern):
            found.append(index + 1 - len(pattern))
            matched = fallback[matched - 1]
    return found


_Region: TypeAlias = tuple[int, int, int, int]
"""Old begin and end, new begin and end."""
_Block: TypeAlias = tuple[int, int, int]
"""Old begin, new begin, length of equal lines."""


def _number(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Return both files with each distinct line replaced by a number, so that lines compare in one step."""
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(line, len(numbers)) for line in old], [
        numbers.setdefault(line, len(numbers)) for line in new
    ]


def _match(files: tuple[list[int], list[int]], distance_max: int) -> list[_Block]:
    """Return the blocks of equal lines, in order."""
    old, new = files
    blocks: list[_Block] = []
    # Regions still to do, the first one on top; an explicit stack, because files may nest deeper than the interpreter's.
    regions: list[_Region] = [(0, len(old), 0, len(new))]
    while regions:
        old_begin, old_end, new_begin, new_end = regions.pop()
        head = 0
        while (
            old_begin + head < old_end and new_begin + head < new_end and old[old_begin + head] == new[new_begin + head]
        ):
            head += 1
        _append(blocks, (old_begin, new_begin, head))
        old_begin, new_begin = old_begin + head, new_begin + head
        tail = 0
        while (
            old_begin < old_end - tail
            and new_begin < new_end - tail
            and old[old_end - tail - 1] == new[new_end - tail - 1]
        ):
            tail += 1
        old_end, new_end = old_end - tail, new_end - tail
        if tail:
            regions.append((old_end, old_end + tail, new_end, new_end + tail))
        if old_begin == old_end or new_begin == new_end:
            continue
        found = _search(old[old_begin:old_end], new[new_begin:new_end], distance_max)
        if found is not None:
            for at_old, at_new, length in found:
                _append(blocks, (old_begin + at_old, new_begin + at_new, length))
            continue
        cuts = _unique_pairs(old[old_begin:old_end], new[new_begin:new_end])
        if cuts:
            starts = [(0, 0), *cuts]
            ends = [*cuts, (old_end - old_begin, new_end - new_begin)]
            parts = zip(starts, ends, strict=True)
            regions += reversed(
                [(old_begin + a, old_begin + c, new_begin + b, new_begin + d) for (a, b), (c, d) in parts]
            )
    return blocks


def _append(blocks: list[_Block], block: _Block) -> None:
    """Append a block, joined with the last one where they touch."""
    if not block[2]:
        return
    if blocks:
        old_at, new_at, length = blocks[-1]
        if old_at + length == block[0] and new_at + length == block[1]:
            blocks[-1] = (old_at, new_at, length + block[2])
            return
    blocks.append(block)


def _search(old: list[int], new: list[int], distance_max: int) -> list[_Block] | None:
    """Return the equal blocks of a shortest edit script, or None if it is longer than `distance_max`.

    `reach[k]` is the furthest old line that a path on diagonal k (old minus new index) has come to with the edits so far.
    """
    old_size, new_size = len(old), len(new)
    if abs(old_size - new_size) > distance_max:
        return None
    reach: dict[int, int] = {1: 0}
    history: list[dict[int, int]] = []
    for distance in range(min(distance_max, old_size + new_size) + 1):
        history.append(dict(reach))
        for diagonal in range(-distance, distance + 1, 2):
            if diagonal == -distance or (diagonal != distance and reach[diagonal - 1] < reach[diagonal + 1]):
                at_old = reach[diagonal + 1]
            else:
                at_old = reach[diagonal - 1] + 1
            at_new = at_old - diagonal
            while at_old < old_size and at_new < new_size and old[at_old] == new[at_new]:
                at_old += 1
                at_new += 1
            reach[diagonal] = at_old
            if at_old >= old_size and at_new >= new_size:
                return _trace(history, old_size, new_size)
    return None


def _trace(history: list[dict[int, int]], at_old: int, at_new: int) -> list[_Block]:
    """Walk back along the path that `_search` found and return its equal blocks, in order."""
    blocks: list[_Block] = []
    for distance in range(len(history) - 1, -1, -1):
        reach = history[distance]
        diagonal = at_old - at_new
        if diagonal == -distance or (diagonal != distance and reach[diagonal - 1] < reach[diagonal + 1]):
            came_from = diagonal + 1
        else:
            came_from = diagonal - 1
        from_old = reach[came_from] if distance else 0
        from_new = from_old - came_from if distance else 0
        # One step down or right, then equal lines: their number is what both sides have advanced by.
        length = min(at_old - from_old, at_new - from_new)
        if length:
            blocks.append((at_old - length, at_new - length, length))
        at_old, at_new = from_old, from_new
    blocks.reverse()
    return blocks


def _unique_pairs(old: list[int], new: list[int]) -> list[tuple[int, int]]:
    """Return positions of lines that occur once on both sides: as many as stand in the same order on both."""
    old_counts, new_counts = Counter(old), Counter(new)
    place = {line: index for index, line in enumerate(new)}
    pairs = [(index, place[line]) for index, line in enumerate(old) if old_counts[line] == 1 and new_counts[line] == 1]
    # Longest increasing run of new positions, by patience sorting with links back.
    tops: list[int] = []
    top_indexes: list[int] = []
    links: list[int] = []
    for index, (_, position) in enumerate(pairs):
        pile = bisect_left(tops, position)
        links.append(top_indexes[pile - 1] if pile else -1)
        tops[pile : pile + 1] = [position]
        top_indexes[pile : pile + 1] = [index]
    chosen: list[tuple[int, int]] = []
    at = top_indexes[-1] if top_indexes else -1
    while at >= 0:
        chosen.append(pairs[at])
        at = links[at]
    chosen.reverse()
    return chosen


def _settle(edits: list[Edit], old: Sequence[bytes], new: Sequence[bytes]) -> list[Edit]:
    """Return the edits with every pure insertion or deletion moved down as far as it goes, joined where they then touch."""
    settled: list[Edit] = []
    # From the last one up, so that an edit that moves down meets those below in their final places.
    for edit in reversed(edits):
        below = settled[-1] if settled else Edit(len(old), len(old), len(new), len(new))
        a, b, c, d = edit.old_begin, edit.old_end, edit.new_begin, edit.new_end
        if a == b:
            while d < below.new_begin and new[c] == new[d]:
                a, b, c, d = a + 1, b + 1, c + 1, d + 1
        elif c == d:
            while b < below.old_begin and old[a] == old[b]:
                a, b, c, d = a + 1, b + 1, c + 1, d + 1
        if settled and b == below.old_begin and d == below.new_begin:
            settled[-1] = Edit(a, below.old_end, c, below.new_end)
        else:
            settled.append(Edit(a, b, c, d))
    settled.reverse()
    return settled
