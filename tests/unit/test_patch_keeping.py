"""Which patch files stay: what is installed always, what is current while there is room, and the rest for a while."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.records import PatchRecord
from ledger.rollout_records import RolloutRecord
from node.distribution.chunks import CHUNK_BYTES, ChunkHasher, ChunkList
from node.distribution.keeping import DAY_S, PARTIAL_KEEP_S, Needs, PatchKeeper, choose_removals, find_needs
from node.patch_store import KeptFile, PatchStore
from node.telemetry import Metrics
from tests.testkit.ledger import Chain, patches, publish_body
from tests.testkit.patch_mesh import MACHINE
from wire.errors import CorruptionError, RejectedError
from wire.hashing import Digest, sha256

NOW_S = 1_000 * DAY_S


def digest_of(name: str) -> Digest:
    return sha256(name.encode())


def file(name: str, *, age_days: float = 0, size: int = 100, is_partial: bool = False) -> KeptFile:
    return KeptFile(digest_of(name), size, NOW_S - age_days * DAY_S, is_partial)


def removed(files: list[KeptFile], *, held: str = "", current: str = "", room: int = 0) -> list[Digest]:
    needs = Needs(frozenset(map(digest_of, held)), frozenset(map(digest_of, current)))
    return [each.digest for each in choose_removals(files, needs, now_s=NOW_S, keep_s=30 * DAY_S, room=room)]


def test_only_what_nobody_needs_grows_old() -> None:
    files = [file("i", age_days=99), file("c", age_days=99), file("o", age_days=31), file("n", age_days=29)]
    assert removed(files, held="i", current="c") == [digest_of("o")]


def test_an_interrupted_fetch_waits_a_day() -> None:
    days = PARTIAL_KEEP_S / DAY_S
    files = [file("a", age_days=days + 0.1, is_partial=True), file("b", age_days=days - 0.1, is_partial=True)]
    assert removed(files, current="ab") == [digest_of("a")]


def test_for_room_the_unneeded_go_first_the_current_next_and_the_installed_never() -> None:
    files = [
        file("i", age_days=9),
        file("c", age_days=8),
        file("d", age_days=3),
        file("n", age_days=1),
        file("m", age_days=2),
    ]
    order = [digest_of(name) for name in "mncd"]
    for count in range(5):
        assert removed(files, held="i", current="icd", room=count * 100) == order[:count]
    assert removed(files, held="i", current="icd", room=10_000) == order


def test_what_was_begun_goes_before_what_is_current() -> None:
    files = [file("c", age_days=9), file("p", age_days=0, is_partial=True)]
    assert removed(files, current="cp", room=1) == [digest_of("p")]


def test_a_clock_that_was_set_back_removes_nothing() -> None:
    assert removed([file("a", age_days=-500), file("b", age_days=-500, is_partial=True)]) == []


@pytest.fixture
def records() -> dict[str, PatchRecord]:
    chain = Chain()
    chain.register("alice@acme", "developer")
    data = patches.make_patch()
    chain.apply(chain.build(chain.sign(publish_body(data), by="alice@acme")).block)
    (record,) = chain.view.patches()

    def other(name: str, **changes: object) -> PatchRecord:
        return replace(record, patch_id=digest_of(f"id {name}"), file_digest=digest_of(name), **changes)  # type: ignore[arg-type]

    return {
        "current": other("current"),
        "superseded": other("superseded", superseded_by=digest_of("id current")),
        "withdrawn": other("withdrawn", withdrawn_height=3),
    }


def test_a_host_needs_what_is_installed_and_what_is_current(records: dict[str, PatchRecord]) -> None:
    needs = find_needs(records.values(), (), frozenset({records["superseded"].patch_id}))
    assert needs == Needs(frozenset({digest_of("superseded")}), frozenset({digest_of("current")}))


@pytest.mark.parametrize(("status", "is_held"), [("running", True), ("halted", True), ("withdrawn", False)])
def test_a_host_keeps_what_an_open_rollout_brings(records: dict[str, PatchRecord], status: str, is_held: bool) -> None:
    rollouts = [
        RolloutRecord(
            rollout_id=f"{name}@acme",
            organisation="acme",
            creator="rita@acme",
            patch_id=record.patch_id,
            components=(),
            groups=(),
            wave_values=(),
            planned=(),
            budget=0,
            description="",
            created_height=1,
            created_ms=1,
            status=status,
            status_height=1,
            status_by="",
            status_reason="",
            failures=0,
            forgiven=0,
            counts=(),
        )
        for name, record in records.items()
    ]
    needs = find_needs(records.values(), rollouts, frozenset())
    assert needs.held == ({digest_of("current")} if is_held else frozenset())


def test_a_validator_keeps_whatever_the_ledger_names(records: dict[str, PatchRecord]) -> None:
    assert find_needs(records.values(), (), None).held == frozenset(map(digest_of, records))


class Place:
    """A store with a keeper."""

    def __init__(self, path: Path, *, bytes_max: int = 1000) -> None:
        self.path = path
        self.store = PatchStore(path, random_suffix=lambda: "x", bytes_max=bytes_max)
        self.held: set[Digest] = set()
        self.fetching: set[Digest] = set()
        self.error: Exception | None = None
        self.metrics = Metrics()
        self.keeper = PatchKeeper(
            self.store,
            needs=self.needs,
            is_fetching=self.fetching.__contains__,
            keep_days=30,
            now_s=lambda: NOW_S,
            metrics=self.metrics,
            machine=MACHINE,
        )

    async def needs(self) -> Needs:
        if self.error is not None:
            raise self.error
        return Needs(frozenset(self.held), frozenset())

    def put(self, name: str, *, age_days: float = 0, size: int = 300) -> Digest:
        data = name.encode() * size
        digest = sha256(data)
        self.store.put(data, digest)
        os.utime(self.path / digest.hex(), (NOW_S - age_days * DAY_S,) * 2)
        return digest

    @property
    def names(self) -> set[str]:
        return set(os.listdir(self.path))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_sweep_removes_by_the_rule(place: Place) -> None:
    old, fetched, held = (place.put(name, age_days=40) for name in "abc")
    place.fetching.add(fetched)
    place.held.add(held)
    gone = await place.keeper.sweep()
    assert [each.digest for each in gone] == [old]
    assert place.names == {fetched.hex(), held.hex()}
    assert place.store.bytes_kept == 600
    assert place.metrics.registry.get_sample_value("patchwarden_patch_files_removed_total") == 1


async def test_room_is_made_by_removing_what_was_unused_for_longest(place: Place) -> None:
    first, second, third = (place.put(name, age_days=age) for name, age in (("a", 1), ("b", 3), ("c", 2)))
    place.store.touch(second)
    os.utime(place.path / second.hex(), (NOW_S, NOW_S))
    await place.keeper.make_room(100)
    assert len(place.names) == 3, "there is room"
    await place.keeper.make_room(400)
    assert place.names == {first.hex(), second.hex()}
    place.held.update({first, second, third})
    with pytest.raises(RejectedError) as caught:
        await place.keeper.make_room(500)
    assert caught.value.code == "node.patch.store_full"
    assert place.names == {first.hex(), second.hex()}


async def test_while_it_is_unknown_what_is_installed_nothing_is_removed(place: Place) -> None:
    place.put("a", age_days=400)
    place.error = CorruptionError("agent.state.damaged", "the state is damaged")
    assert await place.keeper.sweep() == []
    assert len(place.names) == 1


def test_the_store_counts_what_it_finds_and_removes_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    data = bytes(3 * CHUNK_BYTES)
    chunks = list_of(data)
    digest = sha256(data)
    store = PatchStore(tmp_path, random_suffix=lambda: "x")
    partial = store.open_partial(digest, len(data))
    partial.follow(chunks)
    partial.write(1, data[:CHUNK_BYTES])
    partial.close()
    other, third = digest_of("other").hex(), digest_of("third").hex()
    for name in (f"{other}.partial", f"{third}.have", f"{third}.have.part"):
        (tmp_path / name).write_bytes(b"rubbish")
    again = PatchStore(tmp_path, random_suffix=lambda: "x")
    assert set(os.listdir(tmp_path)) == {f"{digest.hex()}.partial", f"{digest.hex()}.have"}
    assert again.bytes_kept == len(data)
    assert [each.is_partial for each in again.files()] == [True]
    again.put(data, digest)
    last = PatchStore(tmp_path, random_suffix=lambda: "x")
    assert os.listdir(tmp_path) == [digest.hex()], "the whole is here now"
    assert last.bytes_kept == len(data)
    assert last.chunk_list(digest) == chunks


def test_a_list_is_remembered_and_made_anew(tmp_path: Path) -> None:
    store = PatchStore(tmp_path, random_suffix=lambda: "x")
    assert store.chunk_list(digest_of("nothing")) is None
    data = b"a file"
    store.put(data, sha256(data))
    assert store.chunk_list(sha256(data)) == list_of(data)
    assert store.chunk_list(sha256(data)) == list_of(data)
    store.remove(store.files()[0])
    assert store.chunk_list(sha256(data)) is None
    assert store.bytes_kept == 0


def list_of(data: bytes) -> ChunkList:
    hasher = ChunkHasher()
    for begin in range(0, len(data), CHUNK_BYTES):
        hasher.add(data[begin : begin + CHUNK_BYTES])
    return hasher.finish()[1]


def test_a_link_in_the_directory_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    store = PatchStore(tmp_path / "patches", random_suffix=lambda: "x")
    digest = digest_of("file")
    (tmp_path / "patches" / f"{digest.hex()}.partial").symlink_to(outside)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the code is compared below
        store.open_partial(digest, 5)
    assert getattr(caught.value, "code", "") == "node.patch.write_failed"
    assert outside.read_bytes() == b"precious"
