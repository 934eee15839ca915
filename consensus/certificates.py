"""Commit certificates near at hand: the recent ones, encoded, and older ones from the disk."""

from __future__ import annotations

from bisect import bisect_right, insort

from consensus.limits import RECENT_CERTIFICATES_MAX
from consensus.log import LogReader
from wire.certificate import CommitCertificate, encode_commit_certificate


class Certificates:
    """The certificates that prove what this replica has committed."""

    __slots__ = ("_encoded", "_heights", "_reader")

    def __init__(self, reader: LogReader, newest: CommitCertificate | None) -> None:
        """Begin with the newest certificate on disk."""
        self._reader = reader
        self._heights: list[int] = []
        self._encoded: dict[int, bytes] = {}
        if newest is not None:
            self.add(newest)

    def add(self, certificate: CommitCertificate) -> None:
        """Remember a verified certificate."""
        if certificate.height not in self._encoded:
            insort(self._heights, certificate.height)
            self._encoded[certificate.height] = encode_commit_certificate(certificate)
            if len(self._heights) > RECENT_CERTIFICATES_MAX:
                del self._encoded[self._heights.pop(0)]

    def reset(self, certificate: CommitCertificate) -> None:
        """Forget all others: the log begins anew above this one's block."""
        self._heights.clear()
        self._encoded.clear()
        self.add(certificate)

    def find(self, height_above: int, height_max: int) -> tuple[int, bytes] | None:
        """Return height and encoding of the highest certificate from `height_above` + 1 to `height_max`, or None."""
        index = bisect_right(self._heights, height_max)
        if index > 0:
            height = self._heights[index - 1]
            return (height, self._encoded[height]) if height > height_above else None
        certificate = self._reader.find_certificate(height_max)
        if certificate is None or certificate.height <= height_above:
            return None
        return certificate.height, encode_commit_certificate(certificate)
