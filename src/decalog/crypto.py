"""Envelopes and digests.

Personal values lie in the log only as AES-256-GCM ciphertext under a key per subject; destroying the key erases them
while the hash chain still holds.

Sources: AES-GCM NIST SP 800-38D (96-bit random nonce); keyed BLAKE2b RFC 7693.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decalog.errors import LogError

KEY_BYTES = 32
NONCE_BYTES = 12

_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack = msgspec.msgpack.Decoder(dict[str, int | float | str | bool]).decode


def new_key() -> bytes:
    """Returns 32 random bytes for a subject's key."""
    return os.urandom(KEY_BYTES)


def new_token(entropy: Callable[[int], bytes] | None = None) -> int:
    """Returns a random entity token, 1 ≤ token < 2⁶³; 0 is the constant entity `all`.

    Args:
        entropy: gives random bytes; the system's if not given.
    """
    return (int.from_bytes((entropy or os.urandom)(8), "big") >> 1) or 1


def seal(cipher: AESGCM, values: dict[str, Any], *, bound_to: str) -> bytes:
    """Returns personal values as nonce + ciphertext, bound to the id of the record they belong to.

    Args:
        cipher: of the subject's key.
        values: name → value; empty gives empty bytes.
        bound_to: the record's id, authenticated with them, so an envelope cannot be moved to another record.
    """
    if not values:
        return b""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, _pack(values), bound_to.encode())


def unseal(cipher: AESGCM, envelope: bytes, *, bound_to: str) -> dict[str, int | float | str | bool]:
    """Returns the personal values of an envelope.

    Raises:
        LogError: the envelope was damaged, moved, or sealed under another key.
    """
    if not envelope:
        return {}
    try:
        plain = cipher.decrypt(envelope[:NONCE_BYTES], envelope[NONCE_BYTES:], bound_to.encode())
    except (InvalidTag, ValueError):
        # ValueError: a nonce cut short is damage as well.
        raise LogError(
            where=f"envelope of record {bound_to}",
            given="a ciphertext that does not authenticate",
            expected="an envelope sealed for this record under its subject's key",
            fix="Run `decalog verify`; restore from a backup if the chain is broken.",
        ) from None
    return _unpack(plain)


def opened(cipher: AESGCM | None, envelope: bytes, *, bound_to: str) -> dict[str, int | float | str | bool]:
    """Returns the personal values of an envelope, none where its key is gone: erased, or replaced by retention."""
    with suppress(LogError):
        return {} if cipher is None else unseal(cipher, envelope, bound_to=bound_to)
    return {}


def digest(secret: bytes, *parts: bytes, size: int = 16) -> bytes:
    """Returns a keyed digest of length-prefixed parts; without the secret it cannot be guessed back."""
    state = hashlib.blake2b(key=secret, digest_size=size)
    for part in parts:
        state.update(len(part).to_bytes(4, "big"))
        state.update(part)
    return state.digest()
