"""Tokens: what is accepted, at which moment, and that nothing can be altered or confused."""

import base64
import hashlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.ids import BadName
from syncd.engine.grants import GRANTS_MAX, Grant, Role
from syncd.net import auth
from syncd.net.auth import (
    ALGORITHMS,
    TOKEN_BYTES_MAX,
    Authenticator,
    BadKey,
    TokenKey,
    Unauthenticated,
    sign_token,
    token_key,
)

NOW_MS = 1_795_000_000_000
NOW_S = NOW_MS // 1000


def pem(private: Any) -> tuple[bytes, bytes]:
    """(private, public)"""
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public


SECRET = b"thirty-two bytes or more of secret"
PEMS = {
    "EdDSA": pem(ed25519.Ed25519PrivateKey.generate()),
    "ES256": pem(ec.generate_private_key(ec.SECP256R1())),
    "RS256": pem(rsa.generate_private_key(65537, 2048)),
}
MATERIAL = {"HS256": SECRET} | {algorithm: private for algorithm, (private, _) in PEMS.items()}
KEYS = {algorithm: token_key(algorithm.lower(), algorithm, MATERIAL[algorithm]) for algorithm in ALGORITHMS}
EVERY = Authenticator(list(KEYS.values()))


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "42", "exp": NOW_S + 60, **more}


def token(body: Any, key: TokenKey = KEYS["HS256"], **header: Any) -> str:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return jwt.PyJWS().encode(payload, key.signing, key.algorithm, {"kid": key.kid, **header})


def reason_of(text: str, authenticator: Authenticator = EVERY, now_ms: int = NOW_MS) -> str:
    with pytest.raises(Unauthenticated) as caught:
        authenticator.token(text, now_ms)
    assert text not in str(caught.value)
    return caught.value.reason


# -- signing and verifying --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_signed_is_accepted_as_it_was_meant(algorithm: str) -> None:
    grants = (Grant("user/42", Role.OWNER), Grant("shop/*/**", Role.READER))
    signed = sign_token(KEYS[algorithm], "42", grants, 60, NOW_MS, token_id="t1")
    principal = EVERY.token(signed, NOW_MS)
    assert principal.user == "42" and principal.grants == grants
    assert principal.expires_ms == NOW_MS + 60_000 and principal.token_id == "t1"


def test_a_public_key_verifies_and_cannot_sign() -> None:
    for algorithm, (_, public) in PEMS.items():
        key = token_key(algorithm.lower(), algorithm, public)
        assert Authenticator([key]).token(sign_token(KEYS[algorithm], "42", (), 60, NOW_MS), NOW_MS).user == "42"
        with pytest.raises(BadKey):
            sign_token(key, "42", (), 60, NOW_MS)


def test_without_grants_a_token_owns_the_users_own_space() -> None:
    principal = EVERY.token(sign_token(KEYS["HS256"], "jörg/1", (), 60, NOW_MS), NOW_MS)
    assert principal.grants == (Grant("user/j%C3%B6rg%2F1", Role.OWNER),)


def test_what_cannot_be_a_token_is_not_signed() -> None:
    key = KEYS["HS256"]
    for user, grants, ttl_s in [
        ("", (), 60),
        ("x" * 129, (), 60),
        ("a\nb", (), 60),
        ("ö" * 128, (), 60),
        ("42", (), 0),
        ("42", (), float("nan")),
        ("42", tuple(Grant(f"s/{n}", Role.READER) for n in range(GRANTS_MAX + 1)), 60),
    ]:
        with pytest.raises(BadName):
            sign_token(key, user, grants, ttl_s, NOW_MS)


def test_the_last_token_of_any_size_that_is_signed_is_accepted() -> None:
    grants = tuple(Grant(f"{'s' * 100}/{n}", Role.OWNER) for n in range(GRANTS_MAX))
    signed = sign_token(KEYS["RS256"], "4" * 128, grants, 60, NOW_MS, issuer="i" * 100, audience="a" * 100)
    assert len(signed) <= TOKEN_BYTES_MAX
    assert len(Authenticator([KEYS["RS256"]], issuer="i" * 100, audience="a" * 100).token(signed, NOW_MS).grants) == 64


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_byte_of_a_token_can_be_altered(algorithm: str) -> None:
    signed = sign_token(KEYS[algorithm], "42", (), 60, NOW_MS)
    for index, character in enumerate(signed):
        for other in "Aw_." if algorithm in ("HS256", "EdDSA") else "A":
            if other != character:
                reason_of(signed[:index] + other + signed[index + 1 :])
        reason_of(signed[:index] + signed[index + 1 :])
    for more in ("=", " ", "\n", "A", ".", "é"):
        assert reason_of(signed + more) in ("malformed", "bad_signature")
        assert reason_of(more + signed) in ("malformed", "bad_signature")


@given(st.integers(0, 400), st.characters())
def test_no_character_of_a_token_can_be_replaced(index: int, character: str) -> None:
    signed = sign_token(KEYS["HS256"], "42", (), 60, NOW_MS)
    index %= len(signed)
    if character != signed[index]:
        reason_of(signed[:index] + character + signed[index + 1 :])


@given(st.text())
def test_any_text_is_refused_with_a_reason(text: str) -> None:
    assert reason_of(text + "x") == "malformed"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_any_signed_payload_is_a_principal_or_refused(payload: Any) -> None:
    body = json.dumps(payload).encode()
    with pytest.raises(Unauthenticated):
        EVERY.token(token(body), NOW_MS)


names = st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud", "jti", "grants"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(st.dictionaries(names, scalars | st.lists(scalars) | st.dictionaries(st.text(max_size=5), scalars)))
def test_claims_of_any_type_are_taken_or_refused(more: dict[str, Any]) -> None:
    try:
        principal = EVERY.token(token(claims() | more), NOW_MS)
    except Unauthenticated:
        return
    assert 0 < len(principal.user) <= 128


# -- algorithms -------------------------------------------------------------------------------------------------------


def test_a_key_accepts_only_its_own_algorithm() -> None:
    """Alg confusion: a public key, which everyone knows, used as the secret of an HMAC."""
    for algorithm, (_, public) in PEMS.items():
        for secret in (public, public.strip(), base64.b64encode(public)):
            head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": algorithm.lower()}).encode()).rstrip(
                b"="
            )
            body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
            mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head + b"." + body, secret)
            forged = b".".join((head, body, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode()
            assert reason_of(forged) == "bad_signature"


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS384", "RS512", None, 1, ["HS256"]])
def test_other_algorithms_are_refused(algorithm: Any) -> None:
    for kid in ({}, {"kid": "hs256"}):
        head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, **kid}).encode()).rstrip(b"=").decode()
        body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=").decode()
        assert reason_of(f"{head}.{body}.AAAA") in ("unknown_key", "bad_signature")
        assert reason_of(f"{head}.{body}.") == "malformed"


def test_without_a_kid_the_keys_of_the_algorithm_are_tried() -> None:
    other = token_key("other", "HS256", b"another secret of thirty-two bytes")
    for signer in (KEYS["HS256"], other):
        text = jwt.PyJWS().encode(json.dumps(claims()).encode(), signer.signing, "HS256")
        assert Authenticator([other, *KEYS.values()]).token(text, NOW_MS).user == "42"
    assert reason_of(jwt.PyJWS().encode(b"{}", b"an unknown secret of thirty-two bytes", "HS256")) == "bad_signature"
    assert reason_of(token({}), Authenticator([KEYS["ES256"]])) == "unknown_key"


def test_a_kid_that_is_not_configured_is_unknown() -> None:
    assert reason_of(token(claims(), kid="other")) == "unknown_key"
    assert reason_of(token(claims(), KEYS["HS256"], kid="es256")) == "bad_signature"
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":1}').rstrip(b"=").decode()
    assert reason_of(f"{head}.AAAA.AAAA") == "malformed"


def test_critical_extensions_are_refused() -> None:
    assert reason_of(token(claims(), crit=["exp"], exp=1)) == "malformed"


@pytest.mark.parametrize(
    ("algorithm", "material"),
    [
        ("HS256", b"short"),
        ("HS256", PEMS["RS256"][1]),
        ("HS512", SECRET),
        ("none", SECRET),
        ("RS256", PEMS["ES256"][0]),
        ("ES256", PEMS["EdDSA"][1]),
        ("EdDSA", PEMS["RS256"][0]),
        ("EdDSA", pem(ed448.Ed448PrivateKey.generate())[1]),
        ("ES256", pem(ec.generate_private_key(ec.SECP384R1()))[0]),
        ("RS256", pem(rsa.generate_private_key(65537, 1024))[1]),
        ("RS256", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
        ("ES256", b""),
    ],
)
def test_material_that_does_not_fit_its_algorithm_is_no_key(algorithm: str, material: bytes) -> None:
    with pytest.raises(BadKey, match="'k'"):
        token_key("k", algorithm, material)


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leeway_ms", [0, 1, 30_000])
def test_a_token_ends_exactly_at_its_expiry_and_leeway(leeway_ms: int) -> None:
    authenticator = Authenticator([KEYS["HS256"]], leeway_ms=leeway_ms)
    signed = token(claims(exp=NOW_S))
    principal = authenticator.token(signed, NOW_MS + leeway_ms - 1)
    assert principal.expires_ms == NOW_MS + leeway_ms
    assert reason_of(signed, authenticator, NOW_MS + leeway_ms) == "expired"


@pytest.mark.parametrize("leeway_ms", [0, 1, 30_000])
@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_begins_exactly_at_its_time_less_the_leeway(leeway_ms: int, name: str) -> None:
    authenticator = Authenticator([KEYS["HS256"]], leeway_ms=leeway_ms)
    signed = token(claims(**{name: NOW_S}))
    assert authenticator.token(signed, NOW_MS - leeway_ms).user == "42"
    assert reason_of(signed, authenticator, NOW_MS - leeway_ms - 1) == "not_yet_valid"


def test_a_token_that_comes_again_is_judged_by_the_time_of_each_use() -> None:
    authenticator = Authenticator([KEYS["HS256"]])
    signed = token(claims(nbf=NOW_S, exp=NOW_S + 60))
    first = authenticator.token(signed, NOW_MS)
    assert authenticator.token(signed, NOW_MS + 59_999) == first
    assert reason_of(signed, authenticator, NOW_MS + 60_000) == "expired"
    assert reason_of(signed, authenticator, NOW_MS - 1) == "not_yet_valid"
    assert authenticator.token(signed, NOW_MS) == first


def test_what_was_refused_once_is_looked_at_again() -> None:
    authenticator = Authenticator([KEYS["HS256"]])
    signed = token(claims(nbf=NOW_S))
    assert reason_of(signed, authenticator, NOW_MS - 1) == "not_yet_valid"
    assert authenticator.token(signed, NOW_MS).user == "42"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_byte_of_a_token_that_was_accepted_can_be_altered(algorithm: str) -> None:
    """What is remembered of it is a digest of all of its bytes, and nothing that resembles it is let in by that."""
    authenticator = Authenticator([KEYS[algorithm]])
    signed = sign_token(KEYS[algorithm], "42", (), 60, NOW_MS)
    authenticator.token(signed, NOW_MS)
    for index, character in enumerate(signed):
        reason_of(signed[:index] + ("A" if character != "A" else "B") + signed[index + 1 :], authenticator)
    for more in ("=", " ", "?", "\ud800", "é"):
        reason_of(signed + more, authenticator)
        reason_of(signed[:-1] + more, authenticator)


def test_a_token_is_not_remembered_under_other_keys() -> None:
    """A key that is replaced under the same name is another authenticator, which has verified nothing."""
    signed = token(claims())
    Authenticator([KEYS["HS256"]]).token(signed, NOW_MS)
    replaced = token_key("hs256", "HS256", SECRET[::-1])
    assert reason_of(signed, Authenticator([replaced])) == "bad_signature"


def test_the_memory_of_tokens_is_bounded_and_forgets_what_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = [token(claims(sub=f"{number:04}")) for number in range(40)]
    room = 10
    monkeypatch.setattr(auth, "REMEMBERED_BYTES_MAX", room * len(signed[0]))
    authenticator = Authenticator([KEYS["HS256"]])
    for each in signed:
        authenticator.token(signed[0], NOW_MS)
        assert (
            authenticator.token(each, NOW_MS).user
            == json.loads(jwt.PyJWS().decode(each, SECRET, algorithms=["HS256"]))["sub"]
        )
        assert len(authenticator._remembered) <= room
    kept = {hashlib.sha256(each.encode()).digest() for each in (signed[0], *signed[-room + 1 :])}
    assert set(authenticator._remembered) == kept
    assert authenticator._remembered_bytes == sum(each.size for each in authenticator._remembered.values())


def test_times_may_have_fractions() -> None:
    signed = token(claims(exp=NOW_S + 0.5))
    assert EVERY.token(signed, NOW_MS + 499).expires_ms == NOW_MS + 500
    assert reason_of(signed, now_ms=NOW_MS + 500) == "expired"


def test_an_expiry_is_required_unless_configured_otherwise() -> None:
    endless = token({"sub": "42"})
    assert reason_of(endless) == "missing_claim"
    assert Authenticator([KEYS["HS256"]], expiry_required=False).token(endless, NOW_MS).expires_ms is None
    assert reason_of(token({"sub": "42", "exp": 1}), Authenticator([KEYS["HS256"]], expiry_required=False)) == "expired"


@pytest.mark.parametrize("value", ["1", True, [1], 1e13, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_times_that_are_no_times_are_malformed(name: str, value: Any) -> None:
    assert reason_of(token(claims(**{name: value}))) == "malformed"


# -- other claims -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["", "x" * 129, "a\x00", "\ud800", "key:shop", 42, ["42"], True])
def test_the_user_is_text_of_bounded_length_and_cannot_be_taken_for_an_api_key(user: Any) -> None:
    assert reason_of(token(claims(sub=user))) == "malformed"


def test_the_user_is_required() -> None:
    assert reason_of(token({"exp": NOW_S + 1})) == "missing_claim"
    assert EVERY.token(token(claims(sub="x" * 128)), NOW_MS).user == "x" * 128


def test_the_issuer_must_be_the_configured_one() -> None:
    strict = Authenticator([KEYS["HS256"]], issuer="https://id.example")
    assert strict.token(token(claims(iss="https://id.example")), NOW_MS).user == "42"
    assert reason_of(token(claims(iss="https://id.example/")), strict) == "wrong_issuer"
    assert reason_of(token(claims(iss=["https://id.example"])), strict) == "wrong_issuer"
    assert reason_of(token(claims()), strict) == "missing_claim"
    assert EVERY.token(token(claims(iss="anyone")), NOW_MS).user == "42"


def test_a_token_for_someone_else_is_refused() -> None:
    strict = Authenticator([KEYS["HS256"]], audience="syncd")
    for audience in ("syncd", ["other", "syncd"]):
        assert strict.token(token(claims(aud=audience)), NOW_MS).user == "42"
    wrong: list[Any] = ["other", [], ["other"], 1, {"syncd": 1}]
    for other in wrong:
        assert reason_of(token(claims(aud=other)), strict) == "wrong_audience"
        assert reason_of(token(claims(aud=other))) == "wrong_audience", "nobody is configured, so it is not for us"
    assert reason_of(token(claims()), strict) == "missing_claim"


@pytest.mark.parametrize(
    "grants",
    [
        [], "owner", 1, {"user/42": "king"}, {"user/42": 3}, {"user//42": "owner"}, {"**/x": "owner"}, {"": "owner"},
        {f"s/{n}": "reader" for n in range(GRANTS_MAX + 1)}, {"user/42": "none2"}, {"user/a b": "reader"},
    ],
)  # fmt: skip
def test_wrong_grants_refuse_the_token(grants: Any) -> None:
    assert reason_of(token(claims(grants=grants))) == "bad_grants"


def test_without_grants_a_token_says_only_who_it_is() -> None:
    assert EVERY.token(token(claims()), NOW_MS).grants == ()


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 20_000])
def test_a_payload_that_is_no_object_is_malformed(payload: bytes) -> None:
    assert reason_of(token(payload)) == "malformed"


def test_a_token_beyond_the_limit_is_refused_unread() -> None:
    assert reason_of(token(claims(padding="x" * TOKEN_BYTES_MAX))) == "malformed"


def test_nothing_secret_stands_in_the_text_of_a_key() -> None:
    for algorithm, key in KEYS.items():
        assert repr(key) == f"TokenKey(kid={algorithm.lower()!r}, algorithm={algorithm!r})"
