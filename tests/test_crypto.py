"""Envelopes and digests: personal values come back under their own key and record only."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from decalog.crypto import KEY_BYTES, NONCE_BYTES, digest, new_key, new_token, seal, unseal
from decalog.errors import LogError

KEY = AESGCM(bytes(32))
SAYS = r"envelope of record r1: a ciphertext that does not authenticate\. Expected an envelope sealed for this record"
values = st.dictionaries(
    st.text(max_size=8),
    st.text(max_size=30) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False),
    min_size=1,
    max_size=5,
)


@given(values, st.text(max_size=20))
def test_what_was_sealed_comes_back(given_values: dict[str, int | float | str | bool], id_: str) -> None:
    envelope = seal(KEY, given_values, bound_to=id_)
    again = unseal(KEY, envelope, bound_to=id_)
    assert again == given_values
    assert {name: type(value) for name, value in again.items()} == {n: type(v) for n, v in given_values.items()}


def test_nothing_personal_is_nothing_sealed() -> None:
    assert seal(KEY, {}, bound_to="r1") == b""
    assert unseal(KEY, b"", bound_to="r1") == {}


def test_two_envelopes_of_the_same_values_differ_and_hide_them() -> None:
    one, other = (seal(KEY, {"name": "Lovelace"}, bound_to="r1") for _ in range(2))
    assert one != other
    assert b"Lovelace" not in one + other


@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    envelope = bytearray(seal(KEY, {"name": "Ada"}, bound_to="r1"))
    bit = data.draw(st.integers(0, len(envelope) * 8 - 1))
    envelope[bit // 8] ^= 1 << bit % 8
    with pytest.raises(LogError, match=SAYS):
        unseal(KEY, bytes(envelope), bound_to="r1")


@pytest.mark.parametrize("length", [1, NONCE_BYTES - 1, NONCE_BYTES, NONCE_BYTES + 3, -1])
def test_an_envelope_cut_short_is_refused(length: int) -> None:
    with pytest.raises(LogError, match=SAYS):
        unseal(KEY, seal(KEY, {"name": "Ada"}, bound_to="r1")[:length], bound_to="r1")


def test_another_record_s_envelope_and_another_key_are_refused() -> None:
    envelope = seal(KEY, {"name": "Ada"}, bound_to="r2")
    with pytest.raises(LogError, match=SAYS):
        unseal(KEY, envelope, bound_to="r1")
    with pytest.raises(LogError, match="envelope of record r2"):
        unseal(AESGCM(new_key()), envelope, bound_to="r2")


def test_keys_and_tokens_are_random_and_in_range() -> None:
    assert {len(new_key()) for _ in range(5)} == {KEY_BYTES}
    tokens = {new_token() for _ in range(1_000)}
    assert len(tokens) == 1_000
    assert min(tokens) >= 1
    assert 2**62 < max(tokens) < 2**63


def test_a_token_is_never_the_one_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", bytes)
    assert new_token() == 1


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_a_digest_tells_every_two_lists_of_parts_apart(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(b"k", *one) == digest(b"k", *other)) == (one == other)


def test_a_digest_depends_on_its_secret_and_has_the_size_asked_for() -> None:
    assert digest(b"k", b"x") != digest(b"l", b"x")
    assert len(digest(b"k", b"x", size=8)) == 8
