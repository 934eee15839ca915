"""The leader's book about one follower, and its store of certificates."""

from __future__ import annotations

import pytest

from consensus.certificates import Certificates
from consensus.limits import RECENT_CERTIFICATES_MAX
from consensus.progress import Progress, ProgressState
from tests.testkit.raft_sim import SimDisk
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.hashing import sha256
from wire.keys import KeyId


def certificate(height: int) -> CommitCertificate:
    return CommitCertificate(1, height, sha256(b"%d" % height), ((KeyId(sha256(b"signer")), bytes(64)),))


def replicating(next_height: int = 5) -> Progress:
    progress = Progress(next_height)
    progress.note_agreement(next_height - 1, next_height - 1)
    assert progress.state is ProgressState.REPLICATE
    return progress


def test_probing_sends_one_append_and_stays_where_it_is() -> None:
    progress = Progress(5)
    assert progress.can_send(8)
    progress.note_sent(7)
    assert not progress.can_send(8)
    assert progress.next_height == 5


def test_replicating_runs_ahead_until_the_window_is_full_and_answers_open_it() -> None:
    progress = replicating()
    for last in (6, 8):
        assert progress.can_send(2)
        progress.note_sent(last)
    assert not progress.can_send(2)
    progress.note_agreement(5, 5)
    assert not progress.can_send(2)
    progress.note_agreement(6, 6)
    assert progress.can_send(2)
    assert progress.next_height == 9


def test_an_answer_that_was_overtaken_still_saves_what_need_not_be_sent_again() -> None:
    progress = replicating()
    progress.note_agreement(10, 10)
    assert (progress.match_height, progress.next_height) == (10, 11)
    progress.note_agreement(3, 3)
    assert (progress.match_height, progress.next_height) == (10, 11)


def test_probing_never_goes_below_what_matches() -> None:
    progress = replicating()
    progress.note_sent(9)
    progress.certificate_sent = 9
    progress.probe_from(2)
    assert (progress.state, progress.next_height) == (ProgressState.PROBE, 5)
    assert not progress.inflight
    assert progress.certificate_sent == 0
    assert progress.can_send(1)


@pytest.mark.parametrize(
    ("reject_height", "probing", "stale"),
    [(3, False, True), (4, False, True), (5, False, False), (9, False, False), (4, True, True), (6, True, True)],
)
def test_a_refusal_is_stale_below_the_match_and_for_another_probe(
    reject_height: int, probing: bool, stale: bool
) -> None:
    progress = replicating()
    if probing:
        progress.probe_from(9)
        assert not progress.is_stale_refusal(8)
    assert progress.is_stale_refusal(reject_height) is stale


def test_the_newest_certificate_within_the_bounds_is_found_in_memory_or_on_disk() -> None:
    disk = SimDisk()
    disk.certificates = {height: certificate(height) for height in (2, 4)}
    certificates = Certificates(disk, certificate(6))
    certificates.add(certificate(9))
    certificates.add(certificate(9))

    def found(above: int, height_max: int) -> int | None:
        answer = certificates.find(above, height_max)
        if answer is None:
            return None
        height, encoded = answer
        assert decode_commit_certificate_untrusted(encoded) == certificate(height)
        return height

    assert found(0, 20) == 9
    assert found(0, 8) == 6
    assert found(0, 5) == 4
    assert found(0, 3) == 2
    assert found(0, 1) is None
    assert found(9, 20) is None
    assert found(6, 8) is None
    assert found(4, 5) is None


def test_certificates_in_memory_are_bounded_and_the_oldest_go_first() -> None:
    disk = SimDisk()
    certificates = Certificates(disk, None)
    for height in range(1, RECENT_CERTIFICATES_MAX + 3):
        certificates.add(certificate(height))
    assert certificates.find(0, 2) is None
    assert certificates.find(0, 3) is not None
