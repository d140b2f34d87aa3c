"""Authentication: who sends a request, proved by a signed token or by the secret of an API key.

Owns which tokens and secrets are accepted and what they allow. Signatures are PyJWT's; the reading of claims is
ours, because times are compared with the `now_ms` that is passed in (simulated time works, and one clock decides), and
because each failure has a reason of its own. Must not know HTTP routes or sockets; it reads API keys, and never writes
them.

Invariants: A1 a key accepts only its own algorithm, whatever a token's header says. A2 a token is accepted in exactly
one spelling (no padding, no other characters), so that no byte of it can be altered. A3 no claim is looked at before
the signature was checked. A4 nothing of a token or secret stands in an error's text. A5 there is no anonymous access.
A6 a token that comes again is known by its digest, under the keys that verified it, and its times are judged anew.
"""

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from syncd.core.ids import BadName, user_space
from syncd.engine.grants import GRANTS_MAX, Grant, Role, parsed_grant
from syncd.engine.quotas import KEY_PREFIX
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import API_KEYS

ALGORITHMS: Final = ("HS256", "EdDSA", "ES256", "RS256")
TOKEN_BYTES_MAX = 16384  # 64 grants of usual length and all claims; what HTTP shells take as a header in any case
USER_CHARACTERS_MAX = 128
USER_SYNTAX = (
    f"1-{USER_CHARACTERS_MAX} characters of Unicode without control characters, and does not begin with {KEY_PREFIX!r},"
    " the mark of API keys"
)
TOKEN_ID_CHARACTERS_MAX = 255
# Of the tokens whose verification is remembered, together: some 15,000 usual ones, so that a process full of devices
# comes back without a signature being checked twice. What a token grants takes a few times its own length in memory.
REMEMBERED_BYTES_MAX = 4_194_304
SHARED_SECRET_BYTES_MIN = 32  # RFC 7518, 3.2: a key of at least the size of the hash
RSA_BITS_MIN = 2048  # RFC 7518, 3.3
SECRET_PREFIX = "sk_"  # tells an API key from a token at a glance, and lets secret scanners find leaked ones
SECRET_ENTROPY_BYTES = 32
SCOPES_MAX = 64
EVENTS_WRITE, CHANGES_WRITE, DOCUMENTS_READ, ADMIN = "events:write", "changes:write", "documents:read", "admin"
SIGNALS_WRITE = "signals:write"  # values for who listens now, and nothing else: a feed of prices may read nothing
MEMBERS_WRITE = "members:write"  # and all that it takes: the role owner
# What an operator's backend may do about notifications: read how they are defined, decided and received; define them;
# and export or erase what is kept of a person.
NOTIFICATIONS_READ, WORKFLOWS_WRITE, USERS_ERASE = "notifications:read", "workflows:write", "users:erase"
PLAIN_SCOPES: Final = (EVENTS_WRITE, NOTIFICATIONS_READ, WORKFLOWS_WRITE, USERS_ERASE, ADMIN)
REALM = "syncd"

REASONS: Final = frozenset({
    "malformed", "bad_signature", "unknown_key", "expired", "not_yet_valid", "wrong_issuer", "wrong_audience",
    "missing_claim", "bad_grants",
})  # fmt: skip

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SECRET = re.compile(r"sk_[A-Za-z0-9_-]{43}")
_NO_USER = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_JWS = jwt.PyJWS(algorithms=list(ALGORITHMS), options={"verify_signature": True, "enforce_minimum_key_length": True})


class Unauthenticated(Exception):
    """The credentials are not accepted. `reason` is one of `REASONS`, `detail` a sentence that the caller may read."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        assert reason in REASONS
        self.reason, self.detail = reason, detail


class BadKey(ValueError):
    """Key material is not what its algorithm needs; the message says what was expected."""


# -- who it is --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, by a token. `expires_ms`: when the token ends, leeway included; None if it never does."""

    user: str
    grants: tuple[Grant, ...]
    expires_ms: int | None
    token_id: str | None


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was accepted once: all of it but whether it is time. `begins`: its claims that say from when on it
    holds, and when that is; `size`: its length."""

    principal: Principal
    begins: tuple[tuple[str, int], ...]
    size: int


@dataclass(frozen=True, slots=True)
class KeyPrincipal:
    """A backend, by an API key, which acts as a device of its own. `grants` are what its scopes give on spaces."""

    name: str
    scopes: tuple[str, ...]
    device: bytes
    grants: tuple[Grant, ...]

    def may_signal(self, space: str) -> bool:
        told = (_split(scope) for scope in self.scopes)
        patterns = [pattern for name, pattern in told if name == SIGNALS_WRITE and pattern is not None]
        return any(Grant(pattern, Role.NONE).matches(space) for pattern in patterns)

    def has_scope(self, scope: str) -> bool:
        return scope in self.scopes or ADMIN in self.scopes


# -- keys of tokens ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key that verifies tokens, and signs them if its secret part is known (`signing` is None otherwise). What is
    secret stays out of the repr, and so out of logs."""

    kid: str
    algorithm: str
    verifying: Any = field(repr=False)
    signing: Any = field(repr=False)


def token_key(kid: str, algorithm: str, material: bytes) -> TokenKey:
    """Make a key from its configuration: the secret itself for HS256, PEM of a public or private key for the others.
    Raises `BadKey`."""
    if not kid or len(kid) > 128:
        raise BadKey("a key has a 'kid' of 1-128 characters")
    if algorithm == "HS256":
        if len(material) < SHARED_SECRET_BYTES_MIN:
            least = SHARED_SECRET_BYTES_MIN
            raise BadKey(f"key {kid!r}: an HS256 secret has at least {least} bytes, not {len(material)}")
        if material.lstrip().startswith(b"-----BEGIN"):
            raise BadKey(f"key {kid!r}: an HS256 secret is no PEM file: a public key would let anyone sign")
        return TokenKey(kid, algorithm, material, material)
    if algorithm not in ALGORITHMS:
        raise BadKey(f"key {kid!r}: the algorithm is one of {', '.join(ALGORITHMS)}, not {algorithm!r}")
    verifying, signing = _loaded_pem(kid, material)
    expected = _KEY_TYPES[algorithm]
    if not isinstance(verifying, expected[0]):
        raise BadKey(f"key {kid!r}: {algorithm} needs {expected[1]}")
    if isinstance(verifying, rsa.RSAPublicKey) and verifying.key_size < RSA_BITS_MIN:
        raise BadKey(f"key {kid!r}: an RSA key has at least {RSA_BITS_MIN} bits, not {verifying.key_size}")
    if isinstance(verifying, ec.EllipticCurvePublicKey) and not isinstance(verifying.curve, ec.SECP256R1):
        raise BadKey(f"key {kid!r}: ES256 needs a key on the curve P-256, not {verifying.curve.name}")
    return TokenKey(kid, algorithm, verifying, signing)


_KEY_TYPES: dict[str, tuple[type, str]] = {
    "EdDSA": (ed25519.Ed25519PublicKey, "an Ed25519 key"),
    "ES256": (ec.EllipticCurvePublicKey, "an elliptic-curve key on P-256"),
    "RS256": (rsa.RSAPublicKey, "an RSA key"),
}


def _loaded_pem(kid: str, material: bytes) -> tuple[Any, Any]:
    """(public key, private key or None)"""
    try:
        if b"PRIVATE KEY-----" in material:
            private = load_pem_private_key(material, password=None)
            return private.public_key(), private
        return load_pem_public_key(material), None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKey(f"key {kid!r}: expected one unencrypted public or private key in PEM") from None


# -- tokens -----------------------------------------------------------------------------------------------------------


def sign_token(
    key: TokenKey,
    user: str,
    grants: Sequence[Grant],
    ttl_s: float,
    now_ms: int,
    *,
    issuer: str | None = None,
    audience: str | None = None,
    token_id: str | None = None,
) -> str:
    """A token for `user`. With no grants it gets one: `owner` of the user's own space. Raises `BadKey`, `BadName`."""
    if key.signing is None:
        raise BadKey(f"key {key.kid!r} is a public key: it cannot sign")
    if not _is_user(user):
        raise BadName(f"a user is {USER_SYNTAX}")
    if not ttl_s > 0:
        raise BadName("a token's lifetime is greater than 0 seconds")
    given = grants or (Grant(user_space(user), Role.OWNER),)
    if len(given) > GRANTS_MAX:
        raise BadName(f"a token has at most {GRANTS_MAX} grants, not {len(given)}")
    claims: dict[str, Any] = {"sub": user, "iat": now_ms / 1000, "exp": (now_ms + round(ttl_s * 1000)) / 1000}
    optional = {"iss": issuer, "aud": audience, "jti": token_id}
    claims |= {name: value for name, value in optional.items() if value is not None}
    claims["grants"] = {grant.pattern: grant.role.name.lower() for grant in given}
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return _JWS.encode(payload, key.signing, key.algorithm, {"kid": key.kid})


def _is_user(value: object) -> bool:
    """Also no lone surrogate, which JSON can bring and no store can keep."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= USER_CHARACTERS_MAX
        and not _NO_USER.search(value)
        and not value.startswith(KEY_PREFIX)
    )


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    value = claims.get(name)
    if value is None:
        raise Unauthenticated("missing_claim", f"the token has no '{name}'")
    return value


def _time_ms(claims: Mapping[str, Any], name: str) -> int | None:
    """A NumericDate (RFC 7519, 2) in milliseconds, or None if the token has none."""
    value = claims.get(name)
    if value is None:
        return None
    if type(value) is not int and type(value) is not float:
        raise Unauthenticated("malformed", f"'{name}' is a number of seconds since 1970")
    if not -1e12 < value < 1e12:  # far beyond any date; also refuses what is not finite
        raise Unauthenticated("malformed", f"'{name}' is a number of seconds since 1970, within +-10^12")
    return round(value * 1000)


def _parsed_grants(value: object) -> tuple[Grant, ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise Unauthenticated("bad_grants", "'grants' is a map from space pattern to role")
    if len(value) > GRANTS_MAX:
        raise Unauthenticated("bad_grants", f"'grants' has at most {GRANTS_MAX} patterns, not {len(value)}")
    try:
        return tuple(parsed_grant(pattern, _text(role)) for pattern, role in value.items())
    except BadName as error:
        raise Unauthenticated("bad_grants", str(error)) from None


def _text(role: object) -> str:
    if not isinstance(role, str):
        raise BadName("a role is reader, writer or owner, as text")
    return role


def digest(credentials: str) -> bytes:
    """What tells whether credentials are the same, and is kept in their place: they cannot be had from it."""
    return hashlib.sha256(credentials[: TOKEN_BYTES_MAX + 1].encode(errors="replace")).digest()


class Authenticator:
    """Verifies tokens against configured keys, and secrets against the stored API keys."""

    def __init__(
        self,
        token_keys: Sequence[TokenKey],
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_ms: int = 0,
        expiry_required: bool = True,
    ) -> None:
        self._keys = {key.kid: key for key in token_keys}
        assert len(self._keys) == len(token_keys), "every key has a kid of its own"
        self._issuer, self._audience = issuer, audience
        self._leeway_ms, self._expiry_required = leeway_ms, expiry_required
        # By digest, as secrets are: what is kept cannot be presented. Other keys are another `Authenticator`.
        self._remembered: OrderedDict[bytes, _Verified] = OrderedDict()
        self._remembered_bytes = 0

    def token(self, token: str, now_ms: int, token_digest: bytes = b"") -> Principal:
        """The user that a signed token names; who has its `digest` already gives it. Raises `Unauthenticated`."""
        token_digest = token_digest or digest(token)
        known = self._remembered.get(token_digest)
        if known is None:
            known = self._first_seen(token, now_ms)
            self._remember(token_digest, known)
        else:
            self._remembered.move_to_end(token_digest)
            _check_times(known.principal.expires_ms, known.begins, now_ms)
        return known.principal

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        """Beyond the limit, those that were used longest ago are forgotten."""
        self._remembered[digest] = verified
        self._remembered_bytes += verified.size
        while self._remembered_bytes > REMEMBERED_BYTES_MAX:
            self._remembered_bytes -= self._remembered.popitem(last=False)[1].size

    def _first_seen(self, token: str, now_ms: int) -> _Verified:
        """A token that was not seen before."""
        claims = self._verified(token)
        user = _claim(claims, "sub")
        if not _is_user(user):
            raise Unauthenticated("malformed", f"'sub' is {USER_SYNTAX}")
        expires_ms, begins = self._checked_times(claims, now_ms)
        self._check_issuer(claims)
        self._check_audience(claims)
        token_id = claims.get("jti")
        if token_id is not None and not (isinstance(token_id, str) and 0 < len(token_id) <= TOKEN_ID_CHARACTERS_MAX):
            raise Unauthenticated("malformed", f"'jti' is text of 1-{TOKEN_ID_CHARACTERS_MAX} characters")
        principal = Principal(user, _parsed_grants(claims.get("grants")), expires_ms, token_id)
        return _Verified(principal, begins, len(token))

    def api_key(self, tx: Reader, secret: str) -> KeyPrincipal:
        """The backend whose secret this is. Raises `Unauthenticated`."""
        if not _SECRET.fullmatch(secret):
            raise Unauthenticated("malformed", f"an API key is {SECRET_PREFIX} and 43 characters of base64url")
        # Looked up by hash: no comparison of secrets takes place, so none can leak how much of a guess was right.
        row = API_KEYS.get(tx, keys.api_key(secret_hash(secret)))
        if row is None:
            raise Unauthenticated("unknown_key", "no such API key")
        if row.revoked_ms is not None:  # whatever time it is: a wall clock that steps back gives no key back
            raise Unauthenticated("unknown_key", "the API key was revoked")
        scopes = tuple(row.scopes)
        return KeyPrincipal(row.name, scopes, row.device, scope_grants(scopes))

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a token whose signature is right."""
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated("malformed", f"a token has at most {TOKEN_BYTES_MAX} bytes")
        if not _COMPACT.fullmatch(token):
            raise Unauthenticated("malformed", "a token is three parts of base64url joined by '.'")
        for key in self._candidates(_unverified_header(token)):
            try:
                payload = _JWS.decode(token, key.verifying, algorithms=[key.algorithm])
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                raise Unauthenticated("malformed", "the token's header is not one that is understood here") from None
            return _parsed_claims(payload)
        raise Unauthenticated("bad_signature", "the signature of the token is wrong")

    def _candidates(self, header: Mapping[str, Any]) -> Iterable[TokenKey]:
        """The keys that may have signed: the one that the header names, else all of its algorithm."""
        algorithm, kid = header.get("alg"), header.get("kid")
        if kid is None:
            found = [key for key in self._keys.values() if key.algorithm == algorithm]
        else:
            found = [self._keys[kid]] if kid in self._keys else []
        if not found:
            raise Unauthenticated("unknown_key", "the token is signed by a key that is not configured here")
        if found[0].algorithm != algorithm:
            raise Unauthenticated("bad_signature", "the token's algorithm is not that of its key")
        return found

    def _checked_times(self, claims: Mapping[str, Any], now_ms: int) -> tuple[int | None, tuple[tuple[str, int], ...]]:
        """When the token ends, and from when on it holds by which claim, leeway included."""
        expires_ms, leeway_ms = _time_ms(claims, "exp"), self._leeway_ms
        if expires_ms is None and self._expiry_required:
            raise Unauthenticated("missing_claim", "the token has no 'exp'")
        if expires_ms is not None:
            expires_ms += leeway_ms
        _check_times(expires_ms, (), now_ms)
        begins = []
        for name in ("nbf", "iat"):
            if (at_ms := _time_ms(claims, name)) is not None:
                begins.append((name, at_ms - leeway_ms))
                _check_times(None, begins, now_ms)
        return expires_ms, tuple(begins)

    def _check_issuer(self, claims: Mapping[str, Any]) -> None:
        if self._issuer is not None and _claim(claims, "iss") != self._issuer:
            raise Unauthenticated("wrong_issuer", "the token was issued by someone who is not trusted here")

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        if self._audience is None and claims.get("aud") is None:
            return
        given = _claim(claims, "aud")
        # RFC 7519, 4.1.3: whoever is not in a token's audience refuses it, also if no audience is configured here.
        if self._audience is None or self._audience not in (given if isinstance(given, list) else [given]):
            raise Unauthenticated("wrong_audience", "the token is meant for someone else")


def _check_times(expires_ms: int | None, begins: Iterable[tuple[str, int]], now_ms: int) -> None:
    if expires_ms is not None and now_ms >= expires_ms:  # RFC 7519, 4.1.4: not accepted "on or after" it
        raise Unauthenticated("expired", "the token has expired")
    for name, at_ms in begins:
        if now_ms < at_ms:
            raise Unauthenticated("not_yet_valid", f"the token is not valid yet ('{name}' lies in the future)")


def _unverified_header(token: str) -> dict[str, Any]:
    """What the token says of its key. Only for finding that key: PyJWT reads the header again, and strictly; its own
    function for this would decode the whole token a second time, which costs as much as the signature."""
    coded = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("kid", ""), str):
        raise Unauthenticated("malformed", "the header of the token is no JSON object, or its 'kid' no text")
    return header


def _parsed_claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise Unauthenticated("malformed", "the payload of the token is no JSON object")
    return claims


# -- API keys ---------------------------------------------------------------------------------------------------------


def make_key(entropy: bytes) -> str:
    """The secret of a new API key from 32 random bytes. Only `secret_hash` of it is ever stored."""
    assert len(entropy) == SECRET_ENTROPY_BYTES
    return SECRET_PREFIX + base64.urlsafe_b64encode(entropy).rstrip(b"=").decode()


def secret_hash(secret: str) -> bytes:
    """What is stored of a secret. A slow hash (bcrypt, argon2) protects secrets that can be guessed; this one has 256
    random bits, so a fast hash gives away nothing, and a lookup costs a microsecond instead of a tenth of a second."""
    return hashlib.sha256(secret.encode()).digest()[: keys.HASH_BYTES]


def is_api_key(credentials: str) -> bool:
    return credentials.startswith(SECRET_PREFIX)


def check_scope(scope: str) -> str:
    """Return a valid scope, else raise `BadName`."""
    if scope in PLAIN_SCOPES:
        return scope
    name, pattern = _split(scope)
    if name in (CHANGES_WRITE, DOCUMENTS_READ, MEMBERS_WRITE, SIGNALS_WRITE) and pattern is not None:
        parsed_grant(pattern, "reader")
        return scope
    raise BadName(
        f"a scope is {', '.join(PLAIN_SCOPES)}, {CHANGES_WRITE}:PATTERN, {DOCUMENTS_READ}:PATTERN,"
        f" {SIGNALS_WRITE}:PATTERN or {MEMBERS_WRITE}:PATTERN, not {scope[:80]!r}"
    )


def _split(scope: str) -> tuple[str, str | None]:
    """`changes:write:shop/**` -> (`changes:write`, `shop/**`)."""
    parts = scope.split(":", 2)
    return ":".join(parts[:2]), parts[2] if len(parts) > 2 else None


def scope_grants(scopes: Iterable[str]) -> tuple[Grant, ...]:
    """What scopes give on spaces: to write includes to read, to write members all else; `admin` owns every space."""
    grants = []
    for scope in scopes:
        name, pattern = _split(scope)
        if scope == ADMIN:
            grants.append(Grant("**", Role.OWNER))
        elif name == CHANGES_WRITE and pattern is not None:
            grants.append(Grant(pattern, Role.WRITER))
        elif name == MEMBERS_WRITE and pattern is not None:
            grants.append(Grant(pattern, Role.OWNER))
        elif name == DOCUMENTS_READ and pattern is not None:
            grants.append(Grant(pattern, Role.READER))
    return tuple(grants)


# -- HTTP -------------------------------------------------------------------------------------------------------------


def bearer(authorization: str | None) -> str | None:
    """The credentials of an `Authorization` header, or None if there are none. Raises `Unauthenticated`."""
    if authorization is None:
        return None
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        raise Unauthenticated("malformed", "expected 'Authorization: Bearer' and a token or an API key")
    return credentials.strip()


def challenge(error: str | None = None, detail: str | None = None, scope: str | None = None) -> tuple[str, str]:
    """The `WWW-Authenticate` header (RFC 6750, 3). `error`: None if no credentials came, else `invalid_token` or
    `insufficient_scope`. `detail` is one of our own sentences."""
    items = {"realm": REALM, "error": error, "error_description": detail, "scope": scope}
    quoted = [f'{name}="{_quotable(text)}"' for name, text in items.items() if text is not None]
    return "WWW-Authenticate", "Bearer " + ", ".join(quoted)


def _quotable(text: str) -> str:
    """RFC 6750, 3 allows printable ASCII without quotation mark and backslash."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
