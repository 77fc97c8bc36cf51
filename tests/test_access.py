from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.access import STALE_S, Access, Scope, TokenStore, check_binding, is_loopback, require
from decalog.clock import DAY, ManualClock
from decalog.errors import AccessError, ConfigError, LogUnavailableError, UnknownRecordError


class Seconds:
    """A monotonic clock set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "control.sqlite"


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[TokenStore]:
    tokens = TokenStore(path, clock)
    yield tokens
    tokens.close()


def bearer(text: str) -> bytes:
    return f"Bearer {text}".encode()


def refusal(verify: Callable[[], object]) -> str:
    with pytest.raises(AccessError) as caught:
        verify()
    return str(caught.value)


def test_a_created_token_is_let_in(store: TokenStore) -> None:
    token, text = store.create(["outcomes", "decide"], systems=["fraud"], note="checkout", lifetime_us=DAY)
    assert Access(store).verify(bearer(text)) == token
    assert (token.scopes, token.systems, token.note) == (("decide", "outcomes"), ("fraud",), "checkout")
    assert (token.created_us, token.expires_us, token.revoked_us) == (1_000_000, 1_000_000 + DAY, None)


def test_the_scheme_is_read_in_any_case(store: TokenStore) -> None:
    token, text = store.create(["decide"])
    assert Access(store).verify(f"bEARER  {text}".encode()) == token


def test_tokens_are_listed_oldest_first_without_their_secrets(store: TokenStore, clock: ManualClock) -> None:
    first, text = store.create(["admin"])
    clock.advance(1)
    second, _ = store.create(["decide"])
    assert store.tokens() == [first, second]
    assert text.rpartition("_")[2] not in repr(store.tokens())


def test_only_a_hash_of_the_secret_is_on_disk(store: TokenStore, path: Path) -> None:
    _, text = store.create(["decide"])
    secret = text.rpartition("_")[2]
    on_disk = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in on_disk
    assert bytes.fromhex(secret) not in on_disk
    assert hashlib.sha256(secret.encode()).digest() in on_disk


def test_the_file_is_readable_by_its_owner_alone(store: TokenStore, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_tokens_differ_in_id_and_secret(store: TokenStore) -> None:
    one, other = store.create(["decide"])[1], store.create(["decide"])[1]
    assert not set(one.split("_")[1:]) & set(other.split("_")[1:])


def test_tokens_outlive_the_process(store: TokenStore, path: Path, clock: ManualClock) -> None:
    token, text = store.create(["decide"])
    store.close()
    again = TokenStore(path, clock)
    assert Access(again).verify(bearer(text)) == token
    again.close()


@pytest.mark.parametrize(
    ("header", "given_words"),
    [
        (None, "no token"),
        (b"", "a header that holds no token"),
        (b"Bearer", "a header that holds no token"),
        (b"Basic dXNlcjpwYXNz", "a header that holds no token"),
        (b"Bearer dlg_0123456789ab_" + b"0" * 64, "a token that is not known"),
    ],
)
def test_a_missing_or_unknown_token_is_refused(store: TokenStore, header: bytes | None, given_words: str) -> None:
    store.create(["decide"])
    assert f"request, Authorization: {given_words}" in refusal(lambda: Access(store).verify(header))


def test_a_right_id_with_another_secret_is_refused(store: TokenStore) -> None:
    _, one = store.create(["decide"])
    _, other = store.create(["decide"])
    mixed = f"{one.rpartition('_')[0]}_{other.rpartition('_')[2]}"
    assert "a token that is not known" in refusal(lambda: Access(store).verify(bearer(mixed)))


def test_a_token_revoked_by_this_process_is_refused_within_the_stated_time(
    store: TokenStore, clock: ManualClock
) -> None:
    token, text = store.create(["decide"])
    seconds = Seconds()
    access = Access(store, seconds)
    access.verify(bearer(text))
    clock.advance(5)
    assert store.revoke(token.id).revoked_us == 1_000_005
    seconds.now = STALE_S
    assert "a token that was revoked" in refusal(lambda: access.verify(bearer(text)))


def test_a_token_revoked_by_another_process_is_refused_within_the_stated_time(
    store: TokenStore, path: Path, clock: ManualClock
) -> None:
    token, text = store.create(["decide"])
    seconds = Seconds()
    access = Access(store, seconds)
    other = TokenStore(path, clock)
    other.revoke(token.id)
    other.close()
    seconds.now = STALE_S
    assert "a token that was revoked" in refusal(lambda: access.verify(bearer(text)))


def test_a_token_made_by_another_process_is_known_at_once(store: TokenStore, path: Path, clock: ManualClock) -> None:
    access = Access(store, Seconds())
    other = TokenStore(path, clock)
    token, text = other.create(["decide"])
    other.close()
    assert access.verify(bearer(text)) == token


def test_revoking_twice_keeps_the_first_time(store: TokenStore, clock: ManualClock) -> None:
    token, _ = store.create(["decide"])
    store.revoke(token.id)
    clock.advance(7)
    assert store.revoke(token.id).revoked_us == 1_000_000


def test_a_token_expires_at_its_time_and_not_before(store: TokenStore, clock: ManualClock) -> None:
    token, text = store.create(["decide"], lifetime_us=10)
    access = Access(store)
    clock.advance(9)
    assert access.verify(bearer(text)) == token
    clock.advance(1)
    assert "a token that has expired" in refusal(lambda: access.verify(bearer(text)))


def test_revoking_an_unknown_id_says_where_ids_are(store: TokenStore) -> None:
    with pytest.raises(UnknownRecordError, match=r"an id that no token has.*`decalog tokens list`"):
        store.revoke("0123456789ab")


@pytest.mark.parametrize(
    ("scopes", "message"),
    [((), "token, scopes: none. Expected one of: admin, decide, outcomes"), (("decid",), "unknown: decid.*'decide'")],
)
def test_a_token_needs_known_scopes(store: TokenStore, scopes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        store.create(scopes)


def test_a_lifetime_is_above_zero(store: TokenStore) -> None:
    with pytest.raises(ConfigError, match=r"token, lifetime: 0 µs. Expected a time above 0"):
        store.create(["decide"], lifetime_us=0)


@pytest.mark.parametrize("scope", ["decide", "outcomes", "admin"])
def test_no_scope_includes_another(store: TokenStore, scope: Scope) -> None:
    for held in ("decide", "outcomes", "admin"):
        token, _ = store.create([held])
        if held == scope:
            require(token, scope, system="fraud")
        else:
            words = refusal(lambda token=token: require(token, scope))  # type: ignore[misc]
            assert f"scope {held}. Expected scope {scope}" in words


def test_a_restricted_token_serves_its_systems_only(store: TokenStore) -> None:
    token, _ = store.create(["decide"], systems=["fraud", "ads"])
    require(token, "decide", system="ads")
    assert "a token for fraud, ads. Expected a token for eta" in refusal(lambda: require(token, "decide", system="eta"))


def test_a_list_of_tokens_that_cannot_be_read_lets_nobody_in(store: TokenStore, path: Path) -> None:
    _, text = store.create(["decide"])
    seconds = Seconds()
    access = Access(store, seconds)
    breaker = sqlite3.connect(path)
    breaker.execute("DROP TABLE tokens")
    breaker.close()
    seconds.now = STALE_S
    with pytest.raises(LogUnavailableError, match=r"control.sqlite, tokens: SQLite says: no such table"):
        access.verify(bearer(text))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.3", "::1", "localhost"])
def test_authentication_may_be_off_on_loopback(host: str) -> None:
    check_binding(host, authenticated=False)
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""])  # noqa: S104 - refused
def test_authentication_may_not_be_off_elsewhere(host: str) -> None:
    check_binding(host, authenticated=True)
    with pytest.raises(ConfigError, match=r"authentication off while listening on .*Leave authentication on"):
        check_binding(host, authenticated=False)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Access, str]]:
    store = TokenStore(tmp_path_factory.mktemp("fuzz") / "control.sqlite", ManualClock(0))
    yield Access(store), store.create(["decide", "outcomes", "admin"])[1]
    store.close()


@given(header=st.binary(max_size=200))
def test_random_bytes_are_never_let_in(fuzzed: tuple[Access, str], header: bytes) -> None:
    refusal(lambda: fuzzed[0].verify(header))


@given(data=st.data())
def test_a_near_miss_is_never_let_in(fuzzed: tuple[Access, str], data: st.DataObject) -> None:
    access, text = fuzzed
    right = bearer(text)
    place = data.draw(st.integers(len(b"Bearer "), len(right) - 1))
    change = data.draw(st.sampled_from(["replace", "drop", "double", "swapcase", "extend"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    wrong = {
        "replace": right[:place] + byte + right[place + 1 :],
        "drop": right[:place] + right[place + 1 :],
        "double": right[:place] + right[place : place + 1] + right[place:],
        "swapcase": right[:place] + right[place:].swapcase(),
        "extend": right + byte,
    }[change]
    if wrong != right:
        refusal(lambda: access.verify(wrong))
    assert access.verify(right).scopes == ("decide", "outcomes", "admin")
