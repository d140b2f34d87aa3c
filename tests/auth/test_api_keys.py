"""API keys: secrets, scopes, headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.ids import BadName
from syncd.engine.grants import Grant, Role
from syncd.net.auth import (
    Authenticator,
    KeyPrincipal,
    Unauthenticated,
    bearer,
    challenge,
    check_scope,
    is_api_key,
    make_key,
    scope_grants,
    secret_hash,
)
from syncd.store import keys
from syncd.store.memory import MemoryStore
from syncd.store.tables import API_KEYS, KeyRow

NOW_MS = 1_795_000_000_000
AUTHENTICATOR = Authenticator([])


def stored(secret: str, *scopes: str, revoked_ms: int | None = None) -> MemoryStore:
    store = MemoryStore()
    with store.write() as tx:
        row = KeyRow("shop", list(scopes), b"d" * 16, NOW_MS, revoked_ms)
        API_KEYS.put(tx, keys.api_key(secret_hash(secret)), row)
    return store


def principal(store: MemoryStore, secret: str) -> KeyPrincipal:
    with store.read() as tx:
        return AUTHENTICATOR.api_key(tx, secret)


@given(st.binary(min_size=32, max_size=32))
def test_a_secret_is_told_by_its_prefix_and_stored_by_its_hash_only(entropy: bytes) -> None:
    secret = make_key(entropy)
    assert secret.startswith("sk_") and len(secret) == 46 and is_api_key(secret)
    assert len(secret_hash(secret)) == 16 and entropy not in secret_hash(secret)


def test_a_known_secret_is_its_backend_with_its_scopes() -> None:
    secret = make_key(b"1" * 32)
    known = principal(stored(secret, "events:write", "changes:write:shop/**"), secret)
    assert known == KeyPrincipal(
        "shop", ("events:write", "changes:write:shop/**"), b"d" * 16, (Grant("shop/**", Role.WRITER),)
    )
    assert known.has_scope("events:write") and not known.has_scope("admin")


def test_no_character_of_a_secret_can_be_altered() -> None:
    secret = make_key(bytes(range(32)))
    store = stored(secret)
    for index in range(len(secret)):
        for other in "Aa_0":
            if other != secret[index]:
                with pytest.raises(Unauthenticated):
                    principal(store, secret[:index] + other + secret[index + 1 :])
    for wrong in (secret[:-1], secret + "A", secret + "\n", secret.upper(), ""):
        with pytest.raises(Unauthenticated):
            principal(store, wrong)


def test_a_revoked_key_stays_refused_whatever_a_clock_that_was_set_says() -> None:
    secret = make_key(b"1" * 32)
    store = stored(secret, revoked_ms=2**53 - 1)
    with pytest.raises(Unauthenticated) as caught:
        principal(store, secret)
    assert caught.value.reason == "unknown_key"


@pytest.mark.parametrize(
    "scope",
    [
        "events:write",
        "admin",
        "changes:write:shop/**",
        "documents:read:*/x",
        "documents:read:a%3A",
        "members:write:a/*",
    ],
)
def test_scopes(scope: str) -> None:
    assert check_scope(scope) == scope


@pytest.mark.parametrize(
    "scope",
    ["", "events", "events:write:x", "events:read", "changes:write", "changes:write:", "changes:read:x", "admin:",
     "documents:read:**/x", "documents:read:a b", "Admin", "changes:write:a:b", "members:read:a"],
)  # fmt: skip
def test_what_is_no_scope(scope: str) -> None:
    with pytest.raises(BadName):
        check_scope(scope)


def test_admin_is_the_owner_of_every_space() -> None:
    (grant,) = scope_grants(["admin"])
    assert grant.role == Role.OWNER and grant.matches("a") and grant.matches("a/b/c")
    assert KeyPrincipal("ops", ("admin",), b"d" * 16, (grant,)).has_scope("events:write")


# -- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "  BEARER   abc  "])
def test_the_credentials_of_a_header(header: str) -> None:
    assert bearer(header) == "abc"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearerabc"])
def test_other_schemes_are_malformed(header: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        bearer(header)
    assert caught.value.reason == "malformed"


def test_no_header_is_no_credentials() -> None:
    assert bearer(None) is None


@given(st.text(), st.text())
def test_a_challenge_is_a_well_formed_header(detail: str, scope: str) -> None:
    name, value = challenge("invalid_token", detail, scope)
    assert name == "WWW-Authenticate" and value.startswith('Bearer realm="syncd", error="invalid_token"')
    assert value.isascii() and value.isprintable() and value.count('"') == 8
