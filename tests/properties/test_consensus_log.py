"""The log against a slow twin that keeps whole lists of blocks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.effects import Persist
from consensus.log import RaftLog
from consensus.messages import Entry
from tests.testkit.raft_bench import end_of
from tests.testkit.raft_sim import SimDisk, make_chain, make_entry


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, list[int]]]:
    """Draw what leaders do to a follower: (extend | replace | write | reload, a number, rises of terms)."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["extend", "replace", "replace", "write", "write", "reload"]),
                st.integers(0, 30),
                st.lists(st.integers(0, 2), min_size=1, max_size=4),
            ),
            max_size=40,
        )
    )


class Twin:
    """What the log should be: the list in memory, the list that has been handed to the writer, and the one on disk."""

    def __init__(self) -> None:
        self.memory: list[Entry] = []
        self.emitted: list[Entry] = []

    def accept(self, entries: list[Entry]) -> bool:
        self.memory = self.memory[: entries[0].height - 1] + entries
        memory, emitted = end_of(self.memory)[:2], end_of(self.emitted)[:2]
        replaces = self.memory[: len(self.emitted)] != self.emitted
        if replaces and memory <= emitted:
            return False
        self.emitted = list(self.memory)
        return True


@settings(max_examples=300)
@given(history=histories(), recent_bytes_max=st.sampled_from([0, 100, 10_000]))
def test_the_log_is_what_its_twin_is_and_the_position_on_disk_never_falls(
    history: list[tuple[str, int, list[int]]], recent_bytes_max: int
) -> None:
    disk = SimDisk()
    log = RaftLog(disk, recent_bytes_max)
    twin = Twin()
    writes: list[Persist] = []
    salt = 0
    for action, number, rises in history:
        salt += 1
        if action in {"extend", "replace"}:
            keep = len(twin.memory) if action == "extend" else number % (len(twin.memory) + 1)
            term, _, parent = end_of(twin.memory[:keep])
            entries: list[Entry] = []
            for height, rise in enumerate(rises, keep + 1):
                term += rise if height > 1 or rise else 1
                entries.append(make_entry(max(term, 1), height, parent, b"%d" % salt))
                parent = entries[-1].block_hash
            if not log.can_accept(entries):
                assert writes or not log.is_durable
                continue
            write = log.accept(entries)
            assert (write is not None) is twin.accept(entries)
            if write is not None:
                writes.append(Persist(None, write.truncate_from, write.entries))
        elif action == "write" and writes:
            before = disk.position
            disk.write(writes.pop(0))
            assert disk.position >= before
            log.mark_durable(disk.last_height, disk.last_hash)
            if not writes:
                assert disk.log == twin.emitted
        elif action == "reload" and not writes:
            log.reload()
            twin.memory = list(disk.log)
            twin.emitted = list(disk.log)
        # What can be seen of the log is the twin's list.
        last_term, last_height, last_hash = end_of(twin.memory)
        assert (log.last_term, log.last_height, log.last_hash) == (last_term, last_height, last_hash)
        assert log.is_held is (twin.memory != twin.emitted)
        assert log.position == max(end_of(twin.memory)[:2], end_of(twin.emitted)[:2])
        assert log.durable_height <= log.last_height
        assert disk.log[: log.durable_height] == twin.memory[: log.durable_height]
        for height, entry in enumerate(twin.memory, 1):
            assert log.term_and_hash(height) == (entry.term, entry.block_hash)
            assert log.contains(height, entry.block_hash)
        assert log.held_bytes == (
            sum(len(e.data) for i, e in enumerate(twin.memory) if i >= len(twin.emitted) or e != twin.emitted[i])
            if log.is_held
            else 0
        )


@given(terms=st.lists(st.integers(1, 6), max_size=20).map(sorted), height=st.integers(0, 25), term=st.integers(0, 7))
def test_the_search_for_a_term_finds_what_a_walk_finds(terms: list[int], height: int, term: int) -> None:
    disk = SimDisk()
    disk.log = make_chain(terms)
    log = RaftLog(disk, 0)
    walk = min(height, len(terms))
    while walk > 0 and terms[walk - 1] > term:
        walk -= 1
    assert log.find_last_at_or_below_term(height, term) == (walk, terms[walk - 1] if walk else 0)


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    low=st.integers(1, 12),
    count_max=st.integers(1, 5),
    bytes_max=st.integers(1, 200),
    in_memory=st.booleans(),
)
def test_a_batch_is_as_long_as_its_limits_allow_and_never_empty(
    sizes: list[int], low: int, count_max: int, bytes_max: int, in_memory: bool
) -> None:
    entries: list[Entry] = []
    parent = SimDisk().last_hash
    for height, size in enumerate(sizes, 1):
        entries.append(make_entry(1, height, parent, b"x" * size))
        parent = entries[-1].block_hash
    disk = SimDisk()
    if not in_memory:
        disk.log = list(entries)
    log = RaftLog(disk, 10_000)
    if in_memory:
        for entry in entries:
            log.append(entry)
    batch = log.entries(low, count_max, bytes_max)
    rest = entries[low - 1 :]
    assert batch == tuple(rest[: len(batch)])
    assert len(batch) <= count_max
    assert bool(batch) is bool(rest)
    if len(batch) > 1:
        assert sum(len(entry.data) for entry in batch) <= bytes_max
    if len(batch) < min(len(rest), count_max):
        assert sum(len(entry.data) for entry in rest[: len(batch) + 1]) > bytes_max
