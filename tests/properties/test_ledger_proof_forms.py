"""Whatever stands in a proof that a stranger sends: it is read, or refused with a code; nothing else ever comes out."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger import bodies
from ledger.checkpoint import SplitView, build_checkpoint, checkpoint_from_text_untrusted, trust_checkpoint
from ledger.configuration_history import build_configuration_proof
from ledger.consistency import ConsistencyProof, build_consistency
from ledger.cose_receipt import (
    build_cose_receipts,
    decode_cose_receipts_untrusted,
    sign_log_root,
    verify_cose_receipts,
)
from ledger.proofs import Receipt, build_receipt, verify_receipt
from ledger.state_proof import CertifiedStateProof, build_certified_state_proof, verify_certified_state_proof
from ledger.transaction import decode_transaction_untrusted
from tests.testkit.ledger import Chain
from wire.errors import RejectedError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@cache
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(3):
        chain.submit(bodies.HostReport("drift", "site", b"x"), "web1@acme")
    return chain


def receipt() -> Receipt:
    raw = chain().blocks[2].transactions[0]
    return build_receipt(chain().store, decode_transaction_untrusted(raw).tx_id, 3)


@cache
def documents() -> list[dict[str, Any]]:
    """Return one good document of each form."""
    store = chain().store
    checkpoint = build_checkpoint(store)
    return [
        receipt().to_json(),
        build_certified_state_proof(store, "identity", "web1@acme").to_json(),
        build_certified_state_proof(store, "identity", "nobody@acme").to_json(),
        build_consistency(store, 1, 3).to_json(),
        SplitView(checkpoint, checkpoint).to_json(),
    ]


@cache
def binary_forms() -> list[bytes]:
    header = receipt().header
    signatures = {
        key.public_key.key_id: sign_log_root(key, chain().genesis.chain_id, header.log_root)
        for key in chain().node_keys
    }
    configuration = build_configuration_proof(chain().store, header.height).configuration
    return [
        build_checkpoint(chain().store).to_text(),
        build_cose_receipts(receipt(), configuration, signatures).encode(),
    ]


def read_and_verify(value: object) -> None:
    """Try every reader of JSON on the value, and verify what could be read."""
    with suppress(RejectedError):
        verify_receipt(Receipt.from_json_untrusted(value), chain().genesis)
    with suppress(RejectedError):
        verify_certified_state_proof(CertifiedStateProof.from_json_untrusted(value), chain().genesis)
    with suppress(RejectedError):
        ConsistencyProof.from_json_untrusted(value)
    with suppress(RejectedError):
        SplitView.from_json_untrusted(value)


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    read_and_verify(value)


@given(st.integers(0, 4), st.data())
def test_a_changed_member_is_read_or_refused(which: int, data: st.DataObject) -> None:
    document = json.loads(json.dumps(documents()[which]))
    name = data.draw(st.sampled_from(sorted(document)))
    text = document[name]
    if isinstance(text, str) and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.text(max_size=3)) + text[place + data.draw(st.integers(0, 3)) :]
        document[name] = text
    else:
        document[name] = data.draw(JSON)
    read_and_verify(document)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(RejectedError):
        trust_checkpoint(checkpoint_from_text_untrusted(data))
    with suppress(RejectedError):
        decode_cose_receipts_untrusted(data)


@given(st.integers(0, 1), st.data())
def test_a_changed_byte_never_holds(which: int, data: st.DataObject) -> None:
    """Both forms have one encoding, and every byte of it counts."""
    changed = bytearray(binary_forms()[which])
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    held = False
    with suppress(RejectedError):
        if which == 0:
            trust_checkpoint(checkpoint_from_text_untrusted(bytes(changed)))
        else:
            verify_cose_receipts(decode_cose_receipts_untrusted(bytes(changed)), chain().genesis)
        held = True
    assert not held
