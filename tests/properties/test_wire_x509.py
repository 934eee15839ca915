"""Any bytes in the place of a certificate are refused, and nothing else is raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.testkit.wire_certificates import AT, ca, ed25519_key, leaf, p256_key
from wire.errors import RejectedError
from wire.x509 import anchor_untrusted, certificate_chain_untrusted, verify_chain

ROOT = ca("Root", ed25519_key(1), "Root", ed25519_key(1))
LEAF = leaf(p256_key(3), "Root", ed25519_key(1))

# cryptography warns about some damaged certificates (a negative serial number) before it or we refuse them.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


@given(st.data())
def test_changed_certificate_is_refused(data: st.DataObject) -> None:
    changed = bytearray(LEAF)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    if bytes(changed) != LEAF:
        with pytest.raises(RejectedError):
            verify_chain(certificate_chain_untrusted([bytes(changed)]), [ROOT], AT)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for door in (lambda: certificate_chain_untrusted([data]), lambda: anchor_untrusted(data)):
        with pytest.raises(RejectedError):
            door()
