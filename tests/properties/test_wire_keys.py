"""Keys from any seed have one form; doors for untrusted keys raise refusals only."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from wire.base58 import ALPHABET, base58_decode_untrusted, base58_encode
from wire.errors import RejectedError
from wire.keys import (
    Algorithm,
    PublicKey,
    private_key_from_pem_untrusted,
    private_key_from_seed,
    public_key_from_did_untrusted,
    public_key_from_raw_untrusted,
    public_key_from_spki_untrusted,
)

algorithms = st.sampled_from(list(Algorithm))
seeds = st.binary(min_size=32, max_size=32)


@given(algorithms, seeds, st.binary(max_size=200))
def test_key_of_any_seed_signs_and_has_one_form(algorithm: Algorithm, seed: bytes, message: bytes) -> None:
    key = private_key_from_seed(algorithm, seed)
    public = key.public_key
    public.verify(message, key.sign(message))
    assert not public.is_valid(message + b"!", key.sign(message))
    assert public_key_from_did_untrusted(public.did) == public
    assert public_key_from_spki_untrusted(public.spki) == public
    assert public_key_from_raw_untrusted(algorithm, public.raw) == public
    assert private_key_from_pem_untrusted(key.to_pem(None), None).public_key == public


def assert_one_form_or_refused(
    door: Callable[[], PublicKey], form: Callable[[PublicKey], object], given_form: object
) -> None:
    try:
        key = door()
    except RejectedError as error:
        code = error.code
    else:
        assert form(key) == given_form
        return
    assert code.startswith("wire.key.")


@given(
    st.binary(min_size=32, max_size=32) | st.integers(0, 2**256 - 1).map(lambda number: number.to_bytes(32, "little"))
)
def test_any_32_bytes_are_refused_or_a_key_of_that_form(raw: bytes) -> None:
    assert_one_form_or_refused(lambda: public_key_from_raw_untrusted(Algorithm.ED25519, raw), lambda key: key.raw, raw)


@given(st.sampled_from([0, 2, 3, 4, 5, 255]), st.binary(min_size=32, max_size=32))
def test_any_33_bytes_are_refused_or_a_key_of_that_form(first: int, rest: bytes) -> None:
    raw = bytes([first]) + rest
    assert_one_form_or_refused(lambda: public_key_from_raw_untrusted(Algorithm.P256, raw), lambda key: key.raw, raw)


@given(algorithms, seeds, st.data())
def test_changed_public_key_is_refused_or_a_key_of_that_form(
    algorithm: Algorithm, seed: bytes, data: st.DataObject
) -> None:
    public = private_key_from_seed(algorithm, seed).public_key
    der = bytearray(public.spki)
    place = data.draw(st.integers(0, len(der) - 1))
    der[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert_one_form_or_refused(lambda: public_key_from_spki_untrusted(bytes(der)), lambda key: key.spki, bytes(der))
    did = list(public.did)
    place = data.draw(st.integers(0, len(did) - 1))
    did[place] = data.draw(st.sampled_from([*ALPHABET, "0", "", " ", "é", "11"]))
    text = "".join(did)
    assert_one_form_or_refused(lambda: public_key_from_did_untrusted(text), lambda key: key.did, text)


@given(st.binary(max_size=90))
def test_base58_is_one_to_one(data: bytes) -> None:
    assert base58_decode_untrusted(base58_encode(data)) == data


@given(st.text(ALPHABET, max_size=128))
def test_base58_text_comes_back(text: str) -> None:
    assert base58_encode(base58_decode_untrusted(text)) == text
